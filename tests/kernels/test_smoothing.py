"""_kernels/smoothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps
from scipy.sparse.csgraph import shortest_path

from helpers.completion import SECTIONS, estimate_of, residual_of, sections_of
from spared_sc._kernels import smoothing

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


@pytest.fixture(scope="module")
def hops(sections) -> np.ndarray:
    """Number of hops between any two spots."""
    lattice = sections.lattice
    graph = sps.csr_matrix((np.ones(lattice.indices.size), lattice.indices, lattice.indptr))
    return shortest_path(graph, unweighted=True)


@pytest.fixture(scope="module")
def residual(sections) -> np.ndarray:
    return residual_of(sections)


@pytest.mark.parametrize("n_rings", [1, 3])
def test_neighbor_mean_is_the_mean_of_known_values_around(sections, hops, n_rings):
    few = sections.without(sections.known & (np.random.default_rng(0).random(sections.known.shape) < 0.8))
    estimate = estimate_of("neighbor_mean", few, n_rings=n_rings)
    shrinkage, n_alone = estimate.params["shrinkage"], 0
    for spot, gene in np.ndindex(few.values.shape):
        others = (hops[spot] <= n_rings) & (hops[spot] > 0) & few.known[:, gene]
        expected = few.values[others, gene].astype(float).sum() / max(others.sum(), 1)
        if not others.any():
            n_alone += 1
            mean = few.values[few.known[:, gene], gene].astype(float).mean()
            own = few.known[:, gene] & (few.library == few.library[spot])
            expected = (few.values[own, gene].astype(float).sum() + shrinkage * mean) / (own.sum() + shrinkage)
        assert estimate.values[spot, gene] == pytest.approx(expected, rel=1e-4)
    assert n_alone > 0 or n_rings > 1
    counts, depth = few.counts.values, few.counts.depth
    for spot, gene in np.ndindex(few.values.shape):
        near = (hops[spot] <= n_rings) & (hops[spot] > 0)
        unit = depth.mean()
        share = counts[:, gene].sum() / (depth.sum() / unit)
        own = few.library == few.library[spot]
        share = (counts[own, gene].sum() + 5 * share) / (depth[own].sum() / unit + 5)
        expected = (counts[near, gene].sum() + share) / (depth[near].sum() / unit + 1) * depth[spot] / unit
        assert estimate.rate[spot, gene] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("bandwidth", "shrinkage"), [(0.7, 0.5), (1.0, 2.0), (4.0, 0.0)])
def test_kernel_adds_the_smoothed_residual(sections, hops, bandwidth, shrinkage):
    estimate = estimate_of("kernel", sections, bandwidth=bandwidth, shrinkage=shrinkage)
    additive = {name: estimate.params[name] for name in ("spot_shrinkage", "library_shrinkage")}
    base = estimate_of("additive", sections, **additive).values.astype(float)
    reach = min(np.ceil(3 * bandwidth), 8)
    for spot, gene in np.ndindex(sections.values.shape):
        above, below = 0.0, shrinkage
        for other in np.flatnonzero((hops[spot] > 0) & (hops[spot] <= reach) & sections.known[:, gene]):
            weight = np.exp(-(hops[spot, other] ** 2) / (2 * bandwidth**2))
            above += weight * (sections.values[other, gene] - base[other, gene])
            below += weight
        assert estimate.values[spot, gene] == pytest.approx(base[spot, gene] + above / max(below, 1e-9), abs=2e-4)


def test_kernel_rate_is_gamma_poisson_around_and_in_the_spot(sections, hops):
    estimate = estimate_of("kernel", sections, bandwidth=1.0, shrinkage=1.0)
    bandwidth, shrinkage = estimate.params["rate_bandwidth"], estimate.params["rate_shrinkage"]
    exposure = sections.counts.depth / sections.counts.depth.mean()
    prior = estimate_of("additive", sections).rate / exposure[:, None]
    weight = np.where(hops <= np.ceil(3 * bandwidth), np.exp(-(np.minimum(hops, 99) ** 2) / (2 * bandwidth**2)), 0)
    counts, total = weight @ sections.counts.values, weight @ exposure
    expected = exposure[:, None] * (counts + shrinkage * prior) / (total + shrinkage)[:, None]
    np.testing.assert_allclose(estimate.rate, expected, rtol=1e-4)


@pytest.mark.parametrize("strength", [0.0, 0.5, 20.0])
def test_diffusion_solves_its_equation(sections, residual, strength):
    known = sections.known.copy()
    known[sections.library == 0, 3] = False  # nothing to start from in this library
    known[:, 5] = False
    residual = np.where(known, residual, 0).astype(np.float32)
    solved = smoothing.diffuse(residual, known, sections.lattice, strength, tolerance=1e-6)
    lattice = sections.lattice
    adjacent = sps.csr_matrix((np.ones(lattice.indices.size), lattice.indices, lattice.indptr)).toarray()
    laplacian = np.diag(adjacent.sum(axis=1)) - adjacent
    for gene in range(residual.shape[1]):
        # the smallest solution, where there are several
        matrix = np.diag(known[:, gene].astype(float)) + strength * laplacian
        expected = np.linalg.pinv(matrix, hermitian=True) @ residual[:, gene]
        np.testing.assert_allclose(solved[:, gene], expected, atol=2e-4)
    assert not solved[sections.library == 0, 3].any()
    assert not solved[:, 5].any()


def test_diffusion_does_not_depend_on_its_start(sections, residual):
    other = smoothing.diffuse(residual, sections.known, sections.lattice, 5.0)
    once = smoothing.diffuse(residual, sections.known, sections.lattice, 1.0, tolerance=1e-6)
    again = smoothing.diffuse(residual, sections.known, sections.lattice, 1.0, start=other, tolerance=1e-6)
    np.testing.assert_allclose(again, once, atol=1e-4)
    assert abs(other - once).max() > 0.01


def test_sme_is_the_mean_over_the_most_similar_spots(sections, hops):
    estimate = estimate_of("sme", sections, n_rings=2, n_neighbors=4)
    n_spots, n_with = len(sections.values), 0
    for spot in range(n_spots):
        weights = {}
        for other in np.flatnonzero((hops[spot] > 0) & (hops[spot] <= 2)):
            one, two = sections.embedding[spot].astype(float), sections.embedding[other].astype(float)
            likeness = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
            correlation = np.corrcoef(sections.values[spot], sections.values[other])[0, 1]
            weights[other] = max(likeness, 0) * max(correlation, 0)
        best = sorted(weights, key=weights.get, reverse=True)[:4]
        total = sum(weights[other] for other in best)
        if total > 0:
            n_with += 1
            expected = sum(weights[other] * sections.values[other].astype(float) for other in best) / total
            np.testing.assert_allclose(estimate.values[spot], expected, atol=1e-3)
        else:
            assert not estimate.values[spot].any()
    assert n_with > 0.9 * n_spots


@pytest.mark.parametrize(("bandwidth", "spacing"), [(0.7, 1), (1.5, 2), (4.0, 4)])
def test_centres_cover_the_spots_and_keep_apart(sections, hops, bandwidth, spacing):
    kernel = smoothing.centre_kernel(sections.lattice, bandwidth, spacing).toarray()
    full = np.where(
        hops <= min(np.ceil(3 * bandwidth), 8), np.exp(-(np.minimum(hops, 99) ** 2) / (2 * bandwidth**2)), 0
    )
    centres: list[int] = []
    for spot in range(len(hops)):
        if all(hops[spot, centre] >= spacing for centre in centres):
            centres.append(spot)
    assert kernel.shape == (len(hops), len(centres))
    expected = full[:, centres] / np.linalg.norm(full[:, centres], axis=1, keepdims=True)
    np.testing.assert_allclose(kernel, expected, atol=1e-6)
    assert hops[:, centres].min(axis=1).max() < spacing
