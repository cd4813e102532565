"""_kernels/median."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

import spared_sc as sp
from helpers.lattices import STEPS, collection, neighbours_by_dictionary
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.median import adaptive_median

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


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
    filled = adaptive_median(values, detected, lattices.from_array(position, library), library, n_threads=2)
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
    filled = [adaptive_median(values, detected, lattice, library, n_threads=n) for n in (1, 2)]
    np.testing.assert_array_equal(*filled)


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
    filled = adaptive_median(values, values > 0, lattices.from_array(position, library), library, n_threads=2)
    near = neighbours_by_dictionary(position, library, STEPS["hex"])
    np.testing.assert_array_equal(filled, adaptive_median_by_loops(values, values > 0, near, library))
