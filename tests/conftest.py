"""Fixtures that several test modules share."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# Before numpy or torch is loaded: small arrays lose time to threads, and several test processes still more.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from helpers.server import Server

pytest.register_assert_rewrite("helpers", "properties")
collect_ignore = ["helpers"]  # no examples to run


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, which `SPARED_SC_DATA_DIR` names."""
    value = os.environ.get("SPARED_SC_DATA_DIR")
    if not value:
        pytest.skip("SPARED_SC_DATA_DIR is not set: there are no real sections")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"SPARED_SC_DATA_DIR={value} is not a folder")
    return folder.resolve()


@pytest.fixture
def seeded() -> Iterator[None]:
    """The same random numbers of torch in every run of a test; those of the others stay as they are."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def collection() -> Callable[..., AnnData]:
    """A factory of synthetic collections: each is made once in a session, and every call gets a copy.

    Options are those of `datasets.synthetic`. `recipe` holds options of `pp.recipe_spared`, which follows; `then` is a
    function that does the rest and returns the collection.
    """
    import spared_sc as sp

    finished: dict[str, AnnData] = {}

    def make(*, recipe: dict | None = None, then: Callable[[AnnData], AnnData] | None = None, **options) -> AnnData:
        key = repr((sorted(options.items()), recipe, then))
        if key not in finished:
            adata = sp.datasets.synthetic(**options)
            if recipe is not None:
                sp.pp.recipe_spared(adata, library_key="library_id", **recipe)
            finished[key] = adata if then is None else then(adata)
        return finished[key].copy()

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Networks as small as those of tests lose time to threads."""
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine that can be told to misbehave; downloads from it do not wait between attempts."""
    from helpers.server import Server
    from spared_sc._core import download

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_WAITS", (0.0, 0.0, 0.0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join(timeout=10)


@pytest.fixture
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No plot may show itself, write a file or leave a figure of its own behind that the test did not get."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("plt.show() was called"))
    yield
    assert len(plt.get_fignums()) <= 1
    assert not list(tmp_path.iterdir())
