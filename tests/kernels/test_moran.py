"""_kernels/moran."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sps

from helpers.lattices import collection
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.moran import lattice_weights, morans_i

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.fixture(params=[0.0, 0.5])
def spatial_values(request):
    """A graph, with spots that have no neighbour at 50 % missing, and genes from empty to dense."""
    position, library = collection("hex", request.param, sizes=((14, 12), (6, 6)), seed=4)
    rng = np.random.default_rng(5)
    smooth = np.sin(position[:, [0]] / 3) + np.cos(position[:, [1]] / 5)
    values = rng.poisson(np.exp(smooth + np.linspace(-5, 2, 14))).astype(np.float64)
    values[:, -1] = 50 + smooth[:, 0] / 1000  # far from zero, and varies little
    values[:, -2] = rng.normal(size=len(position))
    weights = lattice_weights(lattices.from_array(position, library))
    assert (np.diff(weights.indptr) == 0).any() == (request.param > 0)
    return weights, values


@pytest.mark.parametrize("container", [np.asarray, sps.csr_matrix, sps.csc_matrix], ids=["dense", "csr", "csc"])
def test_morans_i_equals_squidpy(spatial_values, container):
    import squidpy as sq
    from anndata import AnnData

    weights, values = spatial_values
    varying = values.std(axis=0) > 0
    adata = AnnData(values[:, varying], obsp={"spatial_connectivities": weights})
    table = sq.gr.spatial_autocorr(adata, mode="moran", copy=True, show_progress_bar=False, n_jobs=1)
    expected = table["I"][adata.var_names].to_numpy()
    ours = morans_i(weights, container(values), n_threads=2)
    np.testing.assert_allclose(ours[varying], expected, rtol=0, atol=1e-10)
    assert np.isnan(ours[~varying]).all()


def test_morans_i_equals_scanpy_with_uneven_weights(spatial_values):
    import scanpy as sc
    from sklearn.preprocessing import normalize

    weights, values = spatial_values
    weights = weights.copy()
    weights.data = np.random.default_rng(0).uniform(0.1, 3, weights.nnz)  # not symmetric either
    values = values[:, values.std(axis=0) > 0]
    expected = sc.metrics.morans_i(sps.csr_matrix(normalize(weights, norm="l1")), values.T)
    np.testing.assert_allclose(morans_i(weights, values, n_threads=1), expected, rtol=0, atol=1e-10)


def test_morans_i_does_not_change_with_offset_and_scale(spatial_values):
    weights, values = spatial_values
    values = values[:, values.std(axis=0) > 0]
    moved = morans_i(weights, 1e4 - 3 * values[:, :-1], n_threads=1)
    np.testing.assert_allclose(moved, morans_i(weights, values[:, :-1], n_threads=1), rtol=0, atol=1e-10)


def test_morans_i_of_constant_genes_is_nan():
    position, library = collection("hex", 0.2, sizes=((6, 6),))
    n = len(position)
    weights = lattice_weights(lattices.from_array(position, library))
    values = np.column_stack([np.zeros(n), np.full(n, 0.1), np.arange(n)])
    assert np.isnan(morans_i(weights, values, n_threads=1)).tolist() == [True, True, False]
    # zeros may be stored, all of them or some
    stored = sps.csr_matrix((np.zeros(3), ([0, 1, 2], [0, 0, 1])), shape=(n, 2))
    assert np.isnan(morans_i(weights, stored, n_threads=1)).all()


def test_morans_i_without_any_neighbour_is_nan():
    values = np.arange(6.0).reshape(3, 2)
    assert np.isnan(morans_i(sps.csr_matrix((3, 3)), values, n_threads=1)).all()


def test_morans_i_does_not_depend_on_threads_or_container(spatial_values):
    weights, values = spatial_values
    one = morans_i(weights, values, n_threads=1)
    np.testing.assert_array_equal(one, morans_i(weights, values, n_threads=2))
    np.testing.assert_array_equal(one, morans_i(weights, sps.csr_matrix(values), n_threads=1))
