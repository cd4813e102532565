"""datasets.load."""

from __future__ import annotations

import threading
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers.repositories import LENGTHS, Repositories, play, truth_of
from helpers.server import Server
from spared_sc.datasets._catalogue import entries

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repositories]:
    """All sources of the catalogue on a server, and a cache that the tests of this module share."""
    with pytest.MonkeyPatch.context() as patch, Server() as server:
        patch.setenv("NO_PROXY", "127.0.0.1")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        with sp.settings.override(data_dir=None, cache_dir=tmp_path_factory.mktemp("cache"), verbosity="warning"):
            yield play(server, patch)
        server.shutdown()
        thread.join(timeout=10)


@pytest.mark.parametrize("key", [key for key, entry in entries().items() if entry.technology == "visium"])
def test_every_visium_set_is_fetched_read_split_and_prepared(sources: Repositories, key: str):
    entry = entries()[key]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*(no test split|train split)")
        adata = sp.datasets.load(key)
    assert adata.obs["library_id"].cat.categories.tolist() == list(entry.sections)
    for name, section in entry.sections.items():
        part = adata[adata.obs["library_id"] == name]
        truth = truth_of(name)
        np.testing.assert_array_equal(part.X.toarray(), truth.counts[: truth.n_tissue])
        np.testing.assert_array_equal(
            part.obsm["spatial"][:, 0], truth.positions["pxl_col_in_fullres"][: truth.n_tissue]
        )
        np.testing.assert_array_equal(adata.uns["spatial"][name]["images"]["hires"], truth.image)
        assert adata.uns["spatial"][name]["metadata"]["assay"] == "visium"
        assert set(part.obs["split"]) == {section.split}
        assert set(part.obs["subject"]) == {section.subject}
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    least, most = entry.recipe["spot_counts"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*genes")
        sp.pp.recipe_spared(adata, library_key="library_id", gene_lengths=LENGTHS, **entry.recipe)
    assert adata.var["spared_selected"].sum() == min(int(adata.var["spared_keep"].sum()), entry.recipe["n_genes"]) > 20
    assert adata.n_obs == ((depth > least) & (depth < most)).sum()
