"""The numeric kernels against plain readings of their definitions, and against networkx, squidpy and scanpy."""

from __future__ import annotations

import statistics

import numba
import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.metrics import masked_mse
from spared_sc._kernels.moran import lattice_weights, morans_i

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")

STEPS = {
    "hex": [(0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)],
    "grid": [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)],
    "grid4": [(-1, 0), (0, -1), (0, 1), (1, 0)],
}


THREADS = min(2, numba.config.NUMBA_NUM_THREADS)  # a machine may have one core


def places(kind: str, n_rows: int, n_cols: int) -> np.ndarray:
    row, col = (index.ravel() for index in np.indices((n_rows, n_cols)))
    return np.column_stack([row, 2 * col + row % 2 if kind == "hex" else col])


def collection(
    kind: str, missing: float, *, sizes=((9, 8), (7, 11), (1, 1), (2, 2)), offset=(0, 0), seed=0
) -> tuple[np.ndarray, np.ndarray]:
    """Places and libraries; the libraries' coordinates overlap and the rows are shuffled."""
    rng = np.random.default_rng(seed)
    position, library = [], []
    for code, size in enumerate(sizes):
        here = places(kind, *size) + offset
        kept = rng.permutation(len(here))[: max(1, round(len(here) * (1 - missing)))]
        position.append(here[kept])
        library.append(np.full(len(kept), code))
    order = rng.permutation(sum(map(len, library)))
    return np.concatenate(position)[order], np.concatenate(library)[order]


def neighbours_by_dictionary(position: np.ndarray, library: np.ndarray, steps: list[tuple[int, int]]) -> list[set[int]]:
    spot_at = {
        (int(code), int(row), int(col)): i for i, (code, (row, col)) in enumerate(zip(library, position, strict=True))
    }
    return [
        {
            spot_at[int(code), int(row) + dr, int(col) + dc]
            for dr, dc in steps
            if (int(code), int(row) + dr, int(col) + dc) in spot_at
        }
        for code, (row, col) in zip(library, position, strict=True)
    ]


def neighbours(lattice: lattices.Lattice) -> list[set[int]]:
    parts = [part.tolist() for part in np.split(lattice.indices, lattice.indptr[1:-1])]
    assert all(part == sorted(set(part)) for part in parts)
    return [set(part) for part in parts]


# --- lattice ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["hex", "grid", "grid4"])
def test_array_neighbours_are_those_of_a_dictionary_of_places(kind, missing):
    position, library = collection(kind, missing)
    lattice = lattices.from_array(position, library, kind=kind)
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])
    assert lattice.n_spots == len(position)
    assert lattice.kind == kind


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, 1), (-3, -5), (-8, 3), (1000, 70_001)])
@pytest.mark.parametrize("kind", ["hex", "grid"])
def test_lattice_kind_is_guessed_at_any_offset(kind, offset):
    position, library = collection(kind, 0.3, offset=offset)
    lattice = lattices.from_array(position, library)
    assert lattice.kind == kind
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])


def test_hex_libraries_may_differ_in_parity():
    position, library = collection("hex", 0.2)
    position[library == 1] += (1, 0)
    lattice = lattices.from_array(position, library)
    assert lattice.kind == "hex"
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS["hex"])


def test_spots_at_opposite_borders_of_a_library_or_of_two_do_not_touch():
    # A wrap-around over the last column, or from one library's last row into the next one's first, would join these.
    position = np.array([[0, 0], [0, 9], [1, 0], [1, 9], [9, 0], [9, 9], [0, 0], [0, 9]])
    library = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    assert neighbours(lattices.from_array(position, library, kind="grid")) == [
        {2}, {3}, {0}, {1}, set(), set(), set(), set(),
    ]  # fmt: skip


def test_fragments_of_three_spots():
    triangle, line, corner = [[0, 0], [0, 2], [1, 1]], [[4, 0], [4, 2], [4, 4]], [[0, 20], [1, 21], [2, 20]]
    position = np.array(triangle + line + corner)
    lattice = lattices.from_array(position, np.repeat([0, 1, 0], 3))
    assert neighbours(lattice) == [{1, 2}, {0, 2}, {0, 1}, {4}, {3, 5}, {4}, {7}, {6, 8}, {7}]


def test_one_spot_has_no_neighbours():
    lattice = lattices.from_array(np.array([[5, 7]]), np.array([0]))
    assert neighbours(lattice) == [set()]
    assert lattice.table(3).shape == (1, 0)
    assert [part.tolist() for part in lattice.hops(2)] == [[0, 0], [], []]


def test_unknown_lattice_kind_is_named():
    with pytest.raises(ValueError, match="'hexagon' is unknown; choose 'auto', 'hex', 'grid', 'grid4'"):
        lattices.from_array(np.zeros((1, 2), dtype=int), np.zeros(1, dtype=int), kind="hexagon")


@pytest.mark.parametrize("n_rings", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("missing", [0, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["hex", "grid"])
def test_hops_are_shortest_paths_through_present_spots(kind, missing, n_rings):
    import networkx

    position, library = collection(kind, missing, sizes=((8, 8), (5, 9)))
    lattice = lattices.from_array(position, library)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(position)))
    graph.add_edges_from(
        (i, j) for i, near in enumerate(neighbours_by_dictionary(position, library, STEPS[kind])) for j in near
    )
    indptr, indices, hops = lattice.hops(n_rings)
    table = lattice.table(n_rings)
    for spot in range(len(position)):
        expected = networkx.single_source_shortest_path_length(graph, spot, cutoff=n_rings)
        expected = sorted((hop, other) for other, hop in expected.items() if other != spot)
        part = slice(indptr[spot], indptr[spot + 1])
        assert list(zip(hops[part], indices[part], strict=True)) == expected
        padding = [lattice.n_spots] * (table.shape[1] - len(expected))
        assert table[spot].tolist() == [other for _, other in expected] + padding
    assert table.shape[1] == np.diff(indptr).max()


@pytest.mark.parametrize(("n_rings", "size"), [(1, 6), (2, 18), (3, 36), (4, 60)])
def test_size_of_a_full_hexagonal_neighbourhood(n_rings, size):
    position = places("hex", 9, 9)
    table = lattices.from_array(position, np.zeros(81, dtype=int)).table(n_rings)
    assert table.shape == (81, size)
    assert (table[40] < 81).all()  # the middle spot has them all


def test_reordered_lattice_is_the_lattice_of_reordered_spots():
    position, library = collection("hex", 0.4)
    order = np.random.default_rng(1).permutation(len(position))
    reordered = lattices.from_array(position, library).reordered(order)
    expected = lattices.from_array(position[order], library[order])
    np.testing.assert_array_equal(reordered.indptr, expected.indptr)
    np.testing.assert_array_equal(reordered.indices, expected.indices)
    assert reordered.kind == expected.kind


@pytest.mark.parametrize("n_rings", [1, 2])
@pytest.mark.parametrize(("kind", "n_neighs"), [("hex", 6), ("grid4", 4), ("grid", 8)])
def test_full_lattice_equals_squidpys_grid(kind, n_neighs, n_rings):
    import squidpy as sq
    from anndata import AnnData

    position = places(kind, 10, 11)
    xy = position[:, ::-1] * ([0.5, np.sqrt(0.75)] if kind == "hex" else [1.0, 1.0])
    adata = AnnData(np.zeros((len(position), 1), dtype=np.float32), obsm={"spatial": xy * 100})
    sq.gr.spatial_neighbors_grid(adata, n_neighs=n_neighs, n_rings=n_rings)
    indptr, indices, _ = lattices.from_array(position, np.zeros(len(position), dtype=int), kind=kind).hops(n_rings)
    ours = sps.csr_matrix((np.ones(indices.size), indices, indptr), shape=(len(position),) * 2)
    np.testing.assert_array_equal(ours.toarray(), adata.obsp["spatial_connectivities"].toarray() > 0)


@pytest.mark.parametrize("missing", [0, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["hex", "grid4"])
def test_pixel_neighbours_are_those_of_the_array(kind, missing):
    position, library = collection(kind, missing, sizes=((12, 12), (9, 14)))
    pitch = np.array([100.0, 37.0])[library][:, None]  # libraries of different resolution
    xy = position[:, ::-1] * ([0.5, np.sqrt(0.75)] if kind == "hex" else [1.0, 1.0]) * pitch
    xy += np.random.default_rng(2).uniform(-0.04, 0.04, xy.shape) * pitch
    lattice = lattices.from_pixels(xy, library)
    assert lattice.kind == "pixels"
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])


def test_pixel_libraries_of_one_spot_have_no_neighbours():
    xy = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0]])
    assert neighbours(lattices.from_pixels(xy, np.array([0, 1, 2]))) == [set(), set(), set()]


# --- adaptive median -------------------------------------------------------------------------------------------------


def adaptive_median_by_loops(values, detected, near: list[set[int]], library, n_rings: int = 4) -> np.ndarray:
    """SEPAL's definition, word by word."""
    n_spots, n_genes = values.shape
    seen = [[float(values[s, g]) if detected[s, g] else 0.0 for g in range(n_genes)] for s in range(n_spots)]
    filled = values.copy()
    for spot in range(n_spots):
        within = [{spot}]
        for _ in range(n_rings):
            within.append(within[-1].union(*(near[other] for other in within[-1])))
        for gene in range(n_genes):
            if detected[spot, gene]:
                continue
            medians = (statistics.median(seen[s][gene] for s in spots) for spots in within[1:])
            answer = next((median for median in medians if median != 0), None)
            if answer is None:
                others = [seen[s][gene] for s in range(n_spots) if library[s] == library[spot] and seen[s][gene] != 0]
                answer = statistics.median(others) if others else 0.0
            filled[spot, gene] = answer
    return filled


def expression(position, library, n_genes: int, dtype, *, seed=0):
    """Values with zeros, negatives, ties and every share of detected entries; something is stored where undetected."""
    rng = np.random.default_rng(seed)
    values = rng.normal(2, 2, size=(len(position), n_genes)).astype(dtype)
    values[:, 1] = np.rint(values[:, 1])  # ties, and detected values of zero
    detected = rng.random(values.shape) < np.linspace(0, 1, n_genes)
    detected[library == 1, 2] = False  # a gene undetected in one library
    return values, detected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("missing", [0, 0.4])
@pytest.mark.parametrize("kind", ["hex", "grid"])
def test_adaptive_median_is_the_definition(kind, missing, dtype):
    position, library = collection(kind, missing)
    values, detected = expression(position, library, 9, dtype)
    before = values.copy(), detected.copy()
    filled = adaptive_median(values, detected, lattices.from_array(position, library), library, n_threads=THREADS)
    expected = adaptive_median_by_loops(
        values, detected, neighbours_by_dictionary(position, library, STEPS[kind]), library
    )
    assert filled.dtype == dtype
    np.testing.assert_array_equal(filled, expected)
    assert (filled[:, 0] == 0).all()  # detected nowhere
    np.testing.assert_array_equal(values, before[0])
    np.testing.assert_array_equal(detected, before[1])


@pytest.mark.parametrize("n_rings", [1, 2])
def test_adaptive_median_with_fewer_rings(n_rings):
    position, library = collection("hex", 0.3)
    values, detected = expression(position, library, 8, np.float64, seed=3)
    filled = adaptive_median(
        values, detected, lattices.from_array(position, library), library, n_rings=n_rings, n_threads=1
    )
    near = neighbours_by_dictionary(position, library, STEPS["hex"])
    np.testing.assert_array_equal(filled, adaptive_median_by_loops(values, detected, near, library, n_rings))


def test_adaptive_median_ignores_what_is_stored_at_undetected_entries():
    position, library = collection("hex", 0.3)
    values, detected = expression(position, library, 8, np.float64)
    lattice = lattices.from_array(position, library)
    filled = adaptive_median(values, detected, lattice, library, n_threads=1)
    other = np.where(detected, values, np.nan)
    np.testing.assert_array_equal(filled, adaptive_median(other, detected, lattice, library, n_threads=1))


def test_adaptive_median_does_not_depend_on_threads():
    position, library = collection("hex", 0.1, sizes=((20, 20), (15, 25)))
    values, detected = expression(position, library, 20, np.float32)
    lattice = lattices.from_array(position, library)
    threads = numba.get_num_threads()
    filled = [adaptive_median(values, detected, lattice, library, n_threads=n) for n in (1, threads)]
    np.testing.assert_array_equal(*filled)
    assert numba.get_num_threads() == threads


@pytest.mark.parametrize(
    ("dtype", "floats"),
    [(np.int64, np.float64), (np.uint8, np.float32), (np.float16, np.float32), (np.bool_, np.float32)],
)
def test_adaptive_median_of_counts_is_not_rounded(dtype, floats):
    position, library = collection("hex", 0.3, sizes=((7, 7),))
    counts = np.random.default_rng(0).poisson(1.0, size=(len(position), 6)).clip(0, 255 if dtype != np.bool_ else 1)
    filled = adaptive_median(
        counts.astype(dtype), counts > 0, lattices.from_array(position, library), library, n_threads=1
    )
    near = neighbours_by_dictionary(position, library, STEPS["hex"])
    assert filled.dtype == floats
    np.testing.assert_array_equal(filled, adaptive_median_by_loops(counts.astype(floats), counts > 0, near, library))
    assert (filled % 1 != 0).any() or dtype == np.bool_


def test_adaptive_median_on_lung_organoids(data_dir):
    adata = sp.datasets.read_visium(
        sorted((data_dir / "villacampa" / "lung_organoid").glob("V19*")), load_images=False, library_key="library_id"
    )
    rng = np.random.default_rng(0)
    adata = adata[rng.permutation(adata.n_obs)[:700]].copy()
    share = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    genes = rng.choice(np.flatnonzero(share > 0.02), 25, replace=False)
    values = np.log1p(adata.X[:, genes].toarray())
    position = adata.obs[["array_row", "array_col"]].to_numpy()
    library = adata.obs["library_id"].cat.codes.to_numpy().astype(np.int64)
    filled = adaptive_median(values, values > 0, lattices.from_array(position, library), library, n_threads=THREADS)
    near = neighbours_by_dictionary(position, library, STEPS["hex"])
    np.testing.assert_array_equal(filled, adaptive_median_by_loops(values, values > 0, near, library))


# --- Moran's I -------------------------------------------------------------------------------------------------------


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
    ours = morans_i(weights, container(values), n_threads=THREADS)
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
    np.testing.assert_array_equal(one, morans_i(weights, values, n_threads=numba.get_num_threads()))
    np.testing.assert_array_equal(one, morans_i(weights, sps.csr_matrix(values), n_threads=1))


# --- masking and scores ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_the_share_of_hidden_entries_is_the_one_asked_for(share):
    rng = np.random.default_rng(0)
    detected = rng.random((500, 200)) < 0.4
    hidden = hide_detected(detected, share, rng)
    assert not (hidden & ~detected).any()
    n = detected.sum()
    # five standard deviations of the binomial
    assert abs(hidden.sum() - share * n) <= 5 * np.sqrt(n * share * (1 - share))
    by_gene = hidden.sum(axis=0) / detected.sum(axis=0)
    assert abs(by_gene - share).max() <= 5 * np.sqrt(share * (1 - share) / detected.sum(axis=0).min())


def test_hidden_entries_follow_the_generator():
    detected = np.ones((30, 20), dtype=bool)
    first, again, other = (hide_detected(detected, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_masked_mse_is_the_mean_over_masked_entries():
    rng = np.random.default_rng(0)
    truth, estimate = rng.normal(size=(2, 40, 7)).astype(np.float32)
    mask = rng.random(truth.shape) < 0.3
    errors = [(float(truth[i, j]) - float(estimate[i, j])) ** 2 for i in range(40) for j in range(7) if mask[i, j]]
    assert masked_mse(truth, estimate, mask) == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    assert np.isnan(masked_mse(truth, estimate, np.zeros_like(mask)))
