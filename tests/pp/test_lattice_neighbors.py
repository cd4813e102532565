"""pp.lattice_neighbors."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.mark.parametrize(("lattice", "n_most"), [("hex", 6), ("grid", 8)])
def test_lattice_graph_is_one_that_squidpy_reads(lattice, n_most):
    import squidpy as sq

    adata = sp.datasets.synthetic(
        n_libraries=2, n_genes=12, shape=(8, 8), lattice=lattice, missing_spots=0.3, image=False
    )
    sp.pp.normalize_tpm(adata)
    adata.obs["cluster"] = pd.Categorical(np.where(adata.obsm["programs"][:, 0] > 0.2, "a", "b"))
    sp.pp.lattice_neighbors(adata, library_key="library_id")
    graph = adata.obsp["spatial_connectivities"]
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert graph.sum(axis=1).max() == n_most
    library = adata.obs["library_id"].to_numpy()
    row, col = graph.nonzero()
    assert (library[row] == library[col]).all()
    table = sq.gr.spatial_autocorr(adata, layer="log2tpm", copy=True, show_progress_bar=False, n_jobs=1)
    assert np.isfinite(table["I"]).all()
    sq.gr.nhood_enrichment(adata, cluster_key="cluster", n_perms=5, seed=0, n_jobs=1, show_progress_bar=False)
    pairs = adata.uns["cluster_nhood_enrichment"]["count"]
    of = (adata.obs["cluster"] == "b").to_numpy().astype(int)
    np.testing.assert_array_equal(pairs, [[((of[row] == i) & (of[col] == j)).sum() for j in (0, 1)] for i in (0, 1)])


def test_lattice_distances_count_hops_and_names_follow_the_key():
    adata = sp.datasets.synthetic(n_libraries=1, n_genes=5, shape=(7, 7), missing_spots=0.3, image=False)
    result = sp.pp.lattice_neighbors(adata, n_rings=3, key_added="wide", copy=True)
    assert not adata.obsp
    connected, hops = result.obsp["wide_connectivities"], result.obsp["wide_distances"]
    one = sp.pp.lattice_neighbors(adata, copy=True).obsp["spatial_connectivities"]
    expected = sps.csgraph.shortest_path(one, unweighted=True)
    expected[expected > 3] = 0
    np.testing.assert_array_equal(hops.toarray(), expected)
    np.testing.assert_array_equal(connected.toarray(), expected > 0)
    assert result.uns["wide_neighbors"]["connectivities_key"] == "wide_connectivities"
    assert result.uns["wide_neighbors"]["distances_key"] == "wide_distances"


def test_lattice_falls_back_on_pixels():
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=5, shape=(7, 7), missing_spots=0.3, image=False)
    from_array = sp.pp.lattice_neighbors(adata, library_key="library_id", copy=True)
    del adata.obs["array_row"], adata.obs["array_col"]
    adata.obsm["pixels"] = adata.obsm.pop("spatial")
    sp.pp.lattice_neighbors(adata, library_key="library_id", spatial_key="pixels")
    assert (adata.obsp["spatial_connectivities"] != from_array.obsp["spatial_connectivities"]).nnz == 0
