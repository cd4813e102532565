"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Before torch is loaded: spinning threads slow the tests down several times on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, which `SPARED_SC_DATA_DIR` names."""
    value = os.environ.get("SPARED_SC_DATA_DIR")
    if not value:
        pytest.skip("SPARED_SC_DATA_DIR is not set: no real data")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"SPARED_SC_DATA_DIR={value} is not a folder")
    return folder.resolve()


@pytest.fixture
def no_traces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No plot may show itself, write a file or leave a figure of its own behind that the test did not get."""
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("Agg")
    plt.close("all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("plt.show() was called"))
    yield
    assert len(plt.get_fignums()) <= 1
    plt.close("all")
    assert not list(tmp_path.iterdir())


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Networks as small as those of tests lose time to threads."""
    import numba
    import torch

    numba.get_num_threads()  # numba's first launch sets torch's number of threads, so let it be first
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
