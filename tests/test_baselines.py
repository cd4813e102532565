"""Baselines of completion against plain loops, closed forms and scikit-learn; what they survive, and what they may not see."""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sps
from scipy.sparse.csgraph import shortest_path
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import spared_sc as sp
from spared_sc._kernels import baselines, lowrank, regression, smoothing, stack
from spared_sc._kernels.baselines import BASELINES
from spared_sc._kernels.lattice import from_array
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.sections import Sections
from spared_sc.tl._sections import resolve

if TYPE_CHECKING:
    from anndata import AnnData

COMPLETERS = {
    "gene_mean": lambda a, **k: sp.tl.gene_mean_complete(a, **k),
    "library_gene_mean": lambda a, **k: sp.tl.library_gene_mean_complete(a, **k),
    "depth_only": lambda a, **k: sp.tl.depth_only_complete(a, **k),
    "additive": lambda a, **k: sp.tl.additive_complete(a, **k),
    "neighbor_mean": lambda a, **k: sp.tl.neighbor_mean_complete(a, **k),
    "kernel": lambda a, **k: sp.tl.kernel_complete(a, **k),
    "diffusion": lambda a, **k: sp.tl.diffusion_complete(a, **k),
    "soft_impute": lambda a, **k: sp.tl.soft_impute_complete(a, **k),
    "soft_impute_kernel": lambda a, **k: sp.tl.soft_impute_kernel_complete(a, **k),
    "ridge": lambda a, **k: sp.tl.ridge_complete(a, **k),
    "stack": lambda a, **k: sp.tl.stack_complete(a, **k),
    "sme": lambda a, **k: sp.tl.sme_complete(a, use_rep="programs", **k),
    "magic": lambda a, **k: sp.tl.magic_complete(a, **k),
    "alra": lambda a, **k: sp.tl.alra_complete(a, **k),
}
WITH_RATE = {
    "gene_mean", "library_gene_mean", "depth_only", "additive", "neighbor_mean", "kernel", "soft_impute",
    "soft_impute_kernel", "stack",
}  # fmt: skip
KEY = {"library_key": "library_id"}


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


@pytest.fixture(scope="module")
def ready() -> AnnData:
    """Two libraries after the recipe."""
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=60, shape=(9, 8), depth=150, missing_spots=0.1, image=False)
    sp.pp.recipe_spared(adata, n_genes=14, real_data_share=0.4, **KEY)
    return adata


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    found = resolve(
        ready, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", use_rep="programs", **KEY
    ).sections
    assert 0.3 < found.known.mean() < 0.95
    return found


@pytest.fixture(scope="module")
def hops(sections) -> np.ndarray:
    """Number of hops between any two spots."""
    lattice = sections.lattice
    graph = sps.csr_matrix((np.ones(lattice.indices.size), lattice.indices, lattice.indptr))
    return shortest_path(graph, unweighted=True)


@pytest.fixture(scope="module")
def residual(sections) -> np.ndarray:
    """Known values around each gene's mean, zero elsewhere."""
    mean = sections.values.sum(axis=0) / sections.known.sum(axis=0)
    return np.where(sections.known, sections.values - mean, 0).astype(np.float32)


# --- neighbours ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rings", [1, 3])
def test_neighbor_mean_is_the_mean_of_known_values_around(sections, hops, n_rings):
    few = sections.without(sections.known & (np.random.default_rng(0).random(sections.known.shape) < 0.8))
    estimate = BASELINES["neighbor_mean"](few, seed=0, n_threads=1, n_rings=n_rings)
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
    for spot, gene in np.ndindex(few.values.shape):
        near = (hops[spot] <= n_rings) & (hops[spot] > 0)
        unit = few.depth.mean()
        share = few.counts[:, gene].sum() / (few.depth.sum() / unit)
        own = few.library == few.library[spot]
        share = (few.counts[own, gene].sum() + 5 * share) / (few.depth[own].sum() / unit + 5)
        expected = (few.counts[near, gene].sum() + share) / (few.depth[near].sum() / unit + 1) * few.depth[spot] / unit
        assert estimate.rate[spot, gene] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("bandwidth", "shrinkage"), [(0.7, 0.5), (1.0, 2.0), (4.0, 0.0)])
def test_kernel_adds_the_smoothed_residual(sections, hops, bandwidth, shrinkage):
    estimate = BASELINES["kernel"](sections, seed=0, n_threads=1, bandwidth=bandwidth, shrinkage=shrinkage)
    additive = {name: estimate.params[name] for name in ("spot_shrinkage", "library_shrinkage")}
    base = BASELINES["additive"](sections, seed=0, n_threads=1, **additive).values.astype(float)
    reach = min(np.ceil(3 * bandwidth), 8)
    for spot, gene in np.ndindex(sections.values.shape):
        above, below = 0.0, shrinkage
        for other in np.flatnonzero((hops[spot] > 0) & (hops[spot] <= reach) & sections.known[:, gene]):
            weight = np.exp(-(hops[spot, other] ** 2) / (2 * bandwidth**2))
            above += weight * (sections.values[other, gene] - base[other, gene])
            below += weight
        assert estimate.values[spot, gene] == pytest.approx(base[spot, gene] + above / max(below, 1e-9), abs=2e-4)


def test_kernel_rate_is_gamma_poisson_around_and_in_the_spot(sections, hops):
    estimate = BASELINES["kernel"](sections, seed=0, n_threads=1, bandwidth=1.0, shrinkage=1.0)
    bandwidth, shrinkage = estimate.params["rate_bandwidth"], estimate.params["rate_shrinkage"]
    exposure = sections.depth / sections.depth.mean()
    prior = BASELINES["additive"](sections, seed=0, n_threads=1).rate / exposure[:, None]
    weight = np.where(hops <= np.ceil(3 * bandwidth), np.exp(-(np.minimum(hops, 99) ** 2) / (2 * bandwidth**2)), 0)
    counts, total = weight @ sections.counts, weight @ exposure
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
    estimate = BASELINES["sme"](sections, seed=0, n_threads=1, n_rings=2, n_neighbors=4)
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


# --- fits to the whole table -----------------------------------------------------------------------------------------


def test_means_of_genes_and_libraries(sections):
    estimate = BASELINES["library_gene_mean"](sections, seed=0, n_threads=1, shrinkage=7.0)
    total = BASELINES["gene_mean"](sections, seed=0, n_threads=1)
    for gene in range(sections.values.shape[1]):
        known = sections.known[:, gene]
        mean = sections.values[known, gene].astype(float).mean()
        np.testing.assert_allclose(total.values[:, gene], mean, rtol=1e-5)
        share = sections.counts[:, gene].sum() / sections.depth.sum()
        np.testing.assert_allclose(total.rate[:, gene], share * sections.depth, rtol=1e-4)
        for code in range(2):
            own = known & (sections.library == code)
            expected = (sections.values[own, gene].astype(float).sum() + 7 * mean) / (own.sum() + 7)
            np.testing.assert_allclose(estimate.values[sections.library == code, gene], expected, rtol=1e-5)


@pytest.mark.parametrize(("spot_shrinkage", "library_shrinkage"), [(0.3, 50.0), (3.0, 2.0), (40.0, 0.2)])
def test_additive_solves_its_normal_equations(sections, spot_shrinkage, library_shrinkage):
    spots, genes = np.nonzero(sections.known)
    n, n_genes = sections.values.shape
    rows = np.arange(spots.size)
    design = np.zeros((spots.size, n_genes + n + 2 * n_genes))
    design[rows, genes] = 1
    design[rows, n_genes + spots] = 1
    design[rows, n_genes + n + sections.library[spots] * n_genes + genes] = 1
    penalty = np.r_[np.zeros(n_genes), np.full(n, spot_shrinkage), np.full(2 * n_genes, library_shrinkage)]
    stacked = np.vstack([design, np.diag(np.sqrt(penalty))])
    target = np.r_[sections.values[sections.known], np.zeros(penalty.size)]
    solution = np.linalg.lstsq(stacked, target, rcond=None)[0]
    gene, spot, library = np.split(solution, [n_genes, n_genes + n])
    expected = gene + spot[:, None] + library.reshape(2, n_genes)[sections.library]
    found = lowrank.additive(
        sections.values, sections.known, sections.library, spot_shrinkage=spot_shrinkage,
        library_shrinkage=library_shrinkage, tolerance=1e-7,
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, atol=2e-3)
    # as it is run
    quick = BASELINES["additive"](
        sections, seed=0, n_threads=1, spot_shrinkage=spot_shrinkage, library_shrinkage=library_shrinkage
    )
    np.testing.assert_allclose(quick.values, expected, atol=0.02)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_soft_impute_is_optimal(sections, residual, share):
    """Of a minimum Z = U D V', the known residuals over the penalty are U V' plus a matrix across it of norm 1 at most."""
    penalty = share * np.linalg.norm(residual, 2)
    rank = min(residual.shape)
    factors = lowrank.soft_impute(residual, sections.known, penalty, rank=rank, tolerance=1e-6, most_steps=3000)
    left = np.where(sections.known, residual - factors.product(), 0) / penalty
    assert np.linalg.norm(left, 2) < 1.002
    active = factors.scale > 1e-3
    assert active.sum() == rank if share == 0.05 else active.any()
    assert share != 0.5 or active.sum() < rank
    gradient = factors.left[:, active].T @ left @ factors.right[:, active]
    np.testing.assert_allclose(gradient, np.eye(active.sum()), atol=5e-3)


def test_soft_impute_as_it_is_run_is_near_the_minimum(sections, residual):
    penalty = 0.15 * np.linalg.norm(residual, 2)
    matrix = np.zeros(residual.shape)
    for _ in range(3000):  # plain iterated thresholding of singular values
        left, scale, right = np.linalg.svd(np.where(sections.known, residual, matrix), full_matrices=False)
        matrix = (left * np.maximum(scale - penalty, 0)) @ right
    found = lowrank.soft_impute(residual, sections.known, penalty, rank=24).product()
    assert np.linalg.norm(found - matrix) < 0.03 * np.linalg.norm(matrix)
    assert lowrank.largest_singular_value(residual) == pytest.approx(np.linalg.norm(residual, 2), rel=0.01)


def test_soft_impute_finds_programmes():
    rng = np.random.default_rng(0)
    truth = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    known = rng.random(truth.shape) < 0.6
    row, column = (index.ravel() for index in np.indices((20, 10)))
    lattice = from_array(np.column_stack([row, column]), np.zeros(200, dtype=int), kind="grid")
    sections = Sections(np.where(known, truth, 0), known, lattice, np.zeros(200, dtype=int))

    def error(name):
        values = BASELINES[name](sections, seed=0, n_threads=1).values
        return np.mean((values - truth)[~known] ** 2) / truth.var()

    assert error("soft_impute") < 0.05
    assert error("ridge") < 0.05
    assert error("kernel") > 0.5  # there is nothing in the places


def test_factorisation_of_rank_one_is_known():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, size=(40, 1)) * rng.gamma(2, size=(1, 9)) * 3).astype(np.float32)
    exposure = rng.gamma(3, size=40)
    left, right = lowrank.poisson_nmf(counts, exposure, 1, seed=0, prior=0)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    np.testing.assert_allclose(exposure[:, None] * (left @ right), expected, rtol=1e-3, atol=1e-4)


def test_factorisation_approaches_that_of_sklearn():
    from sklearn.decomposition import NMF

    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, size=(150, 3)) @ rng.gamma(0.5, size=(3, 20)) * 8
    counts = rng.poisson(rate).astype(np.float32)
    model = NMF(3, init="nndsvda", solver="mu", beta_loss="kullback-leibler", max_iter=2000, tol=1e-6)
    other = model.fit_transform(counts.astype(float)) @ model.components_
    left, right = lowrank.poisson_nmf(counts, np.ones(150), 3, seed=0, n_steps=400, prior=1e-3)

    def deviance(rate):
        return baselines.poisson_deviance(counts, rate).mean()

    assert deviance(left @ right) < 1.03 * deviance(other)
    few = lowrank.poisson_nmf(counts, np.ones(150), 3, seed=0, n_steps=5)
    assert deviance(left @ right) < 0.9 * deviance(few[0] @ few[1])


# --- regressions -----------------------------------------------------------------------------------------------------


def test_depth_trend_is_the_penalised_parabola(sections):
    found = regression.depth_trend(sections.values, sections.known, sections.depth, 4.0)
    x = np.log(sections.depth)
    x = (x - x.mean()) / x.std()
    terms = np.column_stack([np.ones_like(x), x, x**2])
    mean = sections.values.sum(axis=0, dtype=float) / sections.known.sum(axis=0)
    spots, genes = np.nonzero(sections.known)
    left = sections.values[spots, genes] - mean[genes]
    together = np.linalg.lstsq(terms[spots], left, rcond=None)[0]
    for gene in range(mean.size):
        own = genes == gene
        target = np.r_[left[own], 2 * together]  # 2 is the root of the shrinkage
        fit = np.linalg.lstsq(np.vstack([terms[spots[own]], 2 * np.eye(3)]), target, rcond=None)[0]
        np.testing.assert_allclose(found[:, gene], mean[gene] + terms @ fit, atol=1e-3)


def test_depth_rate_is_the_penalised_poisson_regression(sections):
    found = regression.depth_rate(sections.counts, sections.depth, prior=10.0)
    x = np.log(sections.depth) - np.log(sections.depth).mean()
    for gene in range(sections.counts.shape[1]):
        counts = sections.counts[:, gene]

        def loss(p, counts=counts):
            log_rate = p[0] + p[1] * x
            return np.exp(log_rate).sum() - counts @ log_rate + 5 * (p[1] - 1) ** 2

        # the slope does not depend on where the depth is centred, nor does the rate
        best = scipy.optimize.minimize(loss, [0.0, 1.0], options={"gtol": 1e-6})
        np.testing.assert_allclose(found[:, gene], np.exp(best.x[0] + best.x[1] * x), rtol=1e-3)


def test_ridge_is_that_of_sklearn(sections, residual):
    rng = np.random.default_rng(0)
    filled = np.where(sections.known, residual, rng.normal(size=residual.shape)).astype(np.float32)
    around = rng.normal(size=residual.shape).astype(np.float32)
    known = sections.known.copy()
    known[:, 3] = False
    results = regression.ridge_genes(residual, known, filled, around, [2.0, 30.0])
    for result, penalty in zip(results, (2.0, 30.0), strict=True):
        for gene in range(residual.shape[1]):
            inputs = np.column_stack([np.delete(filled, gene, axis=1), around])
            rows = known[:, gene]
            if not rows.any():
                assert not result[:, gene].any()
                continue
            expected = Ridge(penalty).fit(inputs[rows], residual[rows, gene]).predict(inputs)
            np.testing.assert_allclose(result[:, gene], expected, atol=1e-3)


def test_ridge_of_many_genes_uses_the_most_correlated():
    rng = np.random.default_rng(0)
    filled = (rng.normal(size=(60, 5)) @ rng.normal(size=(5, 300)) + rng.normal(size=(60, 300))).astype(np.float32)
    around = rng.normal(size=filled.shape).astype(np.float32)
    known = rng.random(filled.shape) < 0.7
    (result,) = regression.ridge_genes(filled, known, filled, around, [20.0])
    correlation = np.abs(np.corrcoef(filled.T.astype(float)))
    for gene in (0, 17, 299):
        others = np.setdiff1d(np.argsort(-correlation[gene])[:129], gene)
        inputs = np.column_stack([filled[:, others], around[:, others], around[:, gene]])
        rows = known[:, gene]
        expected = Ridge(20.0).fit(inputs[rows], filled[rows, gene]).predict(inputs)
        np.testing.assert_allclose(result[:, gene], expected, atol=1e-3)


def test_poisson_regression_is_that_of_sklearn():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(400, 3)) * [1.0, 4.0, 0.2] + 2
    exposure = rng.gamma(4, size=400)
    counts = rng.poisson(exposure * np.exp(features @ [0.3, -0.1, 1.0] - 1)).astype(float)
    found = regression.poisson_regression(features, counts, np.log(exposure), penalty=5.0)
    # a rate per exposure, weighted by the exposure, has the same likelihood; sklearn takes the mean over the weights
    model = make_pipeline(StandardScaler(), PoissonRegressor(alpha=5.0 / exposure.sum(), tol=1e-9, max_iter=1000))
    model.fit(features, counts / exposure, poissonregressor__sample_weight=exposure)
    np.testing.assert_allclose(np.exp(found[0] + features @ found[1:]), model.predict(features), rtol=1e-3)


# --- stacking --------------------------------------------------------------------------------------------------------


def test_stack_weights_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(300, 4)) * [1, 5, 0.1, 0] + 3).astype(np.float32)
    target = (features @ [1, 0.2, -3, 0] + rng.normal(size=300)).astype(np.float32)
    weights = stack.ridge_stack(features, target)
    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(features[:, :3].astype(float), target)
    expected = model.predict(features[:, :3])
    np.testing.assert_allclose(weights[0] + features @ weights[1:], expected, atol=1e-4)
    blocks = [column.reshape(30, 10) for column in features.T]
    np.testing.assert_allclose(stack.combine(weights, blocks).ravel(), expected, atol=1e-4)


def test_every_known_entry_is_hidden_once(sections):
    seen = []

    def fit(part):
        seen.append(part.known)
        return [part.values, np.full(part.values.shape, len(seen), dtype=np.float32)]

    rows, genes, features, target, fold = stack.cross_fit(sections, fit, n_folds=4, seed=0)
    found = np.zeros(sections.known.shape, dtype=int)
    np.add.at(found, (rows, genes), 1)
    np.testing.assert_array_equal(found, sections.known)
    assert (np.lexsort((genes, rows)) == np.arange(rows.size)).all()
    assert not features[:, 0].any()  # the value itself is gone
    np.testing.assert_array_equal(features[:, 1] - 1, fold)  # from the fit that did not see it
    sizes = np.bincount(fold)
    assert sizes.size == 4
    assert np.ptp(sizes) <= 1
    for number, known in enumerate(seen):
        hidden = sections.known & ~known
        np.testing.assert_array_equal(np.argwhere(hidden), np.column_stack([rows, genes])[fold == number])
        np.testing.assert_array_equal(target[fold == number], sections.renormalised(hidden)[hidden])

    kept = stack.cross_fit(sections, fit, n_folds=4, seed=0, most_entries=100)
    assert np.ptp(np.bincount(kept[4])) <= 1
    place = {entry: i for i, entry in enumerate(zip(rows, genes, strict=True))}
    at = [place[entry] for entry in zip(kept[0], kept[1], strict=True)]
    assert len(at) == 100
    np.testing.assert_array_equal(fold[at], kept[4])
    np.testing.assert_array_equal(target[at], kept[3])


def test_features_of_an_entry_do_not_know_its_value(sections):
    tuned = baselines.tune_all(sections, 0)

    def fit(part):
        return baselines.base_features(part, tuned)[1]

    # without totals, which would change the scale of the whole spot
    plain = replace(sections, total=None)
    first = stack.cross_fit(plain, fit, n_folds=3)
    changed = np.flatnonzero(first[4] == 1)[::7]
    values, counts, depth = plain.values.copy(), plain.counts.copy(), plain.depth.copy()
    at = first[0][changed], first[1][changed]
    values[at] += 3
    counts[at] += 50
    np.add.at(depth, at[0], 50)
    second = stack.cross_fit(replace(plain, values=values, counts=counts, depth=depth), fit, n_folds=3)
    np.testing.assert_array_equal(first[4], second[4])
    np.testing.assert_array_equal(second[2][first[4] == 1], first[2][first[4] == 1])
    assert (second[2][first[4] != 1] != first[2][first[4] != 1]).any(axis=0).all()


def test_stack_is_made_of_named_features(sections):
    estimate = BASELINES["stack"](sections, seed=0, n_threads=1, n_folds=3)
    tuned = estimate.params["tuned"]
    names, features = baselines.base_features(sections, tuned)
    weights = estimate.params["weights"]
    assert list(weights) == ["intercept", *names]
    total = weights["intercept"] + sum(weights[n] * f.astype(float) for n, f in zip(names, features, strict=True))
    np.testing.assert_allclose(estimate.values, total, atol=1e-3)
    for name, parameters in [
        ("additive", tuned["additive"]),
        ("kernel", {k: tuned["kernel"][k] for k in ("bandwidth", "shrinkage")}),
        ("neighbor_mean", tuned["neighbor_mean"]),
        ("depth_only", tuned["depth_only"]),
    ]:
        alone = BASELINES[name](sections, seed=0, n_threads=1, **parameters)
        np.testing.assert_allclose(features[names.index(name)], alone.values, atol=1e-4)


# --- tuning ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("library_gene_mean", "shrinkage"),
        ("depth_only", "shrinkage"),
        ("neighbor_mean", "n_rings"),
        ("kernel", "bandwidth"),
        ("diffusion", "strength"),
        ("soft_impute", "shrinkage"),
        ("soft_impute_kernel", "kernel_shrinkage"),
        ("ridge", "penalty"),
        ("sme", "n_neighbors"),
    ],
)
def test_parameters_are_chosen_or_taken_as_given(sections, name, parameter):
    grid = baselines._GRIDS[name][parameter]
    tuned = BASELINES[name](sections, seed=0, n_threads=1)
    assert tuned.params[parameter] in grid
    given = {parameter: grid[0] if tuned.params[parameter] != grid[0] else grid[1]}
    other = BASELINES[name](sections, seed=0, n_threads=1, **given)
    assert other.params[parameter] == given[parameter]
    assert abs(other.values - tuned.values).max() > 1e-4


def test_the_best_on_hidden_entries_is_chosen(sections):
    tuner = baselines._Tuner(sections, 0)
    assert not (tuner.hidden & ~sections.known).any()
    np.testing.assert_array_equal(tuner.train.known, sections.known & ~tuner.hidden)
    truth = sections.renormalised(tuner.hidden)[tuner.hidden].astype(float)
    errors = {}
    for n_rings in baselines._GRIDS["neighbor_mean"]["n_rings"]:
        values = BASELINES["neighbor_mean"](tuner.train, seed=0, n_threads=1, n_rings=n_rings).values
        errors[n_rings] = np.mean((truth - values[tuner.hidden]) ** 2)
    chosen = BASELINES["neighbor_mean"](sections, seed=0, n_threads=1).params["n_rings"]
    assert errors[chosen] < 1.01 * min(errors.values())


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_where_no_single_step_is_better(seed):
    grids = {"one": tuple(range(5)), "two": tuple(range(4))}
    place = np.random.default_rng(seed).uniform(0, 4, 2)

    def score(one, two):  # a tilted bowl
        x, y = one - place[0], two - place[1]
        return x * x + y * y + 1.2 * x * y

    found = baselines._pick(score, grids)
    for name, values in grids.items():
        assert score(**found) == min(score(**{**found, name: value}) for value in values)
    rough = np.random.default_rng(seed).random((5, 4))
    found = baselines._pick(lambda one, two: rough[one, two], grids)  # ends, whatever the scores are
    assert rough[found["one"], found["two"]] <= np.median(rough)
    assert baselines._pick(lambda one, two: np.nan, grids) == {"one": 2, "two": 2}


@pytest.mark.parametrize("seed", [0, 3])
def test_who_hides_by_the_same_seed_leaves_entries_to_choose_by(sections, seed):
    visible = sections.without(hide_detected(sections.known, 0.3, np.random.default_rng(seed)))
    hidden = baselines._Tuner(visible, seed).hidden
    assert hidden.sum() == pytest.approx(0.1 * visible.known.sum(), rel=0.25)
    # and neither does a second half repeat the first
    half, other = sections.thinned(np.random.default_rng(seed))
    again = baselines._RateTuner(half, seed).rates.counts
    left = half.counts > 0
    shares = again[left] / half.counts[left], half.counts[left] / (half.counts + other)[left]
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.2


# --- what everything must survive ------------------------------------------------------------------------------------


def spoiled(sections: Sections) -> dict[str, Sections]:
    def hidden(rows, genes) -> Sections:
        mask = np.zeros_like(sections.known)
        mask[rows, genes] = True
        return sections.without(mask & sections.known)

    def part(rows, genes=slice(None)) -> Sections:
        found = sections.of_spots(rows)
        return replace(
            found, values=found.values[:, genes], known=found.known[:, genes], counts=found.counts[:, genes], total=None
        )

    n, first = len(sections.values), np.argwhere(sections.known)[0]
    all_but_one = sections.known.copy()
    all_but_one[tuple(first)] = False
    no_spot = hidden(slice(4, 5), slice(None))
    everywhere = np.arange(n)
    alone = from_array(10 * np.column_stack([everywhere, everywhere]), sections.library, kind="grid")
    return {
        "gene of a library": hidden(sections.library == 0, 2),
        "gene": hidden(slice(None), 2),
        "spot": no_spot,
        "spot without counts": replace(no_spot, depth=np.where(everywhere == 4, 0, no_spot.depth)),
        "one library": part(np.flatnonzero(sections.library == 0)),
        "one gene": part(everywhere, slice(1)),
        "two spots": part(everywhere[:2]),
        "one spot": part(everywhere[:1]),
        "no neighbours": replace(sections, lattice=alone),
        "one known entry": sections.without(all_but_one),
        "one value": replace(sections, values=np.where(sections.known, np.float32(3), np.float32(0)), total=None),
        "below zero": replace(
            sections, values=np.where(sections.known, sections.values - 12, np.float32(0)), total=None
        ),
        "no counts": replace(sections, counts=None, depth=None),
    }


CASES = [
    "gene of a library", "gene", "spot", "spot without counts", "one library", "one gene", "two spots", "one spot",
    "no neighbours", "one known entry", "one value", "below zero", "no counts",
]  # fmt: skip


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("case", CASES)
def test_poor_data_give_finite_estimates(sections, case, name):
    if name == "magic":
        pytest.importorskip("magic")
    data = spoiled(sections)[case]
    if case == "no counts" and name in ("depth_only", "magic"):
        with pytest.raises(ValueError, match=r"adata\.X or adata\.layers"):
            BASELINES[name](data, seed=0, n_threads=1)
        return
    estimate = BASELINES[name](data, seed=0, n_threads=1)
    assert estimate.values.shape == data.values.shape
    assert estimate.values.dtype == np.float32
    assert np.isfinite(estimate.values).all()
    assert (estimate.rate is not None) == (name in WITH_RATE and data.counts is not None)
    if estimate.rate is not None:
        assert estimate.rate.dtype == np.float32
        assert np.isfinite(estimate.rate).all()
        assert (estimate.rate >= 0).all()
    if case == "one value" and name not in ("alra", "sme", "median", "magic"):
        np.testing.assert_allclose(estimate.values, 3, atol=1e-3)


@pytest.mark.parametrize("name", [n for n in BASELINES if n not in ("median", "sme", "alra", "magic")])
def test_a_gene_that_nobody_knows_has_the_mean_of_all(sections, name):
    data = spoiled(sections)["gene"]
    values = BASELINES[name](data, seed=0, n_threads=1).values[:, 2]
    spread = data.values[data.known].std()
    assert abs(values.mean() - data.values[data.known].mean()) < spread


# --- rates -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def with_truth() -> tuple[Sections, np.ndarray]:
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=40, shape=(14, 12), depth=300, image=False)
    adata.layers["log2cpm"] = adata.X.copy()
    depth = np.asarray(adata.X.sum(axis=1)).ravel()
    adata.layers["log2cpm"].data = np.log2(1 + 1e6 * adata.X.data / np.repeat(depth, np.diff(adata.X.indptr)))
    found = resolve(adata, layer="log2cpm", mask_var=None, spatial_key="spatial", **KEY)
    return found.sections, dense(adata.layers["rate"])[found.order][:, found.genes]


@pytest.mark.parametrize("name", sorted(WITH_RATE))
def test_rates_are_near_the_truth(with_truth, name):
    sections, truth = with_truth
    rate = BASELINES[name](sections, seed=0, n_threads=1).rate.astype(float)
    assert rate.sum() == pytest.approx(truth.sum(), rel=0.03)
    # nearer than what one count tells, and than what the gene's share tells unless it is no more than this
    error = baselines.poisson_deviance(truth, rate).mean()
    assert error < 0.6 * baselines.poisson_deviance(truth, sections.counts).mean()
    simple = baselines.poisson_deviance(truth, BASELINES["gene_mean"](sections, seed=0, n_threads=1).rate).mean()
    limit = {"gene_mean": 1.001, "depth_only": 1.1, "library_gene_mean": 1, "additive": 1, "neighbor_mean": 0.9}
    assert error < limit.get(name, 0.6) * simple


# --- ALRA and MAGIC --------------------------------------------------------------------------------------------------


def test_alra_is_what_its_paper_says(sections):
    rank = 3
    found, used = lowrank.alra(sections.values, sections.known, rank=rank, seed=0)
    assert used == rank
    left, scale, right = np.linalg.svd(sections.values.astype(float), full_matrices=False)
    matrix = (left[:, :rank] * scale[:rank]) @ right[:rank]
    n_zero = 0
    for gene in range(matrix.shape[1]):
        column = matrix[:, gene]
        kept = column > max(-column.min(), 0)
        known = sections.values[sections.known[:, gene], gene].astype(float)
        expected = (column[kept] - column[kept].mean()) / column[kept].std() * known.std() + known.mean()
        np.testing.assert_allclose(found[kept, gene], np.maximum(expected, 0), atol=5e-3)
        assert not found[~kept, gene].any()
        n_zero += (~kept).sum()
    assert n_zero > 0


def test_alra_finds_the_rank():
    rng = np.random.default_rng(0)
    matrix = rng.gamma(1, size=(300, 4)) @ rng.gamma(1, size=(4, 150)) + 0.1 * rng.normal(size=(300, 150))
    left, scale, right = lowrank.random_svd(matrix.astype(np.float32), 20, seed=0)
    np.testing.assert_allclose(scale[:4], np.linalg.svd(matrix, compute_uv=False)[:4], rtol=1e-4)
    np.testing.assert_allclose(left.T @ left, np.eye(20), atol=1e-4)
    known = np.ones(matrix.shape, dtype=bool)
    assert lowrank.alra(np.maximum(matrix, 0).astype(np.float32), known, rank=None, seed=0)[1] == 4


def test_magic_is_brought_to_the_unit_of_the_layer(sections):
    magic = pytest.importorskip("magic")
    estimate = BASELINES["magic"](sections, seed=0, n_threads=1, knn=4, t=2)
    scaled = sections.counts * (np.median(sections.depth) / sections.depth)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffused = magic.MAGIC(knn=4, t=2, n_jobs=1, random_state=0, verbose=0).fit_transform(np.sqrt(scaled))
    for gene in range(diffused.shape[1]):
        known = sections.known[:, gene]
        slope, level = np.polyfit(diffused[known, gene], sections.values[known, gene].astype(float), 1)
        np.testing.assert_allclose(estimate.values[:, gene], level + slope * diffused[:, gene], atol=5e-3)


def test_magic_says_how_to_install_it(ready, monkeypatch):
    monkeypatch.setitem(sys.modules, "magic", None)
    with pytest.raises(ImportError, match=r'pip install "spared-sc\[impute\]"'):
        sp.tl.magic_complete(ready.copy(), **KEY)


# --- the public functions --------------------------------------------------------------------------------------------


def test_every_baseline_is_public():
    assert set(BASELINES) == {*COMPLETERS, "median"}
    assert {f"{name}_complete" for name in BASELINES} <= set(sp.tl.__all__)


@pytest.mark.parametrize("name", COMPLETERS)
def test_docstrings_are_filled_in(name):
    lines = getattr(sp.tl, f"{name}_complete").__doc__.split("\n")
    assert not [line for line in lines if re.fullmatch(r"\s*\{\w+\}", line)]
    assert max(map(len, lines)) <= 120
    assert "random_state" in lines
    tuned = [line for line in lines if line.strip().startswith("`None` chooses it")]
    assert all(line.startswith("    `") for line in tuned)
    assert len(tuned) == len(baselines._GRIDS.get(name, {})) + (name == "soft_impute_kernel")


@pytest.mark.parametrize("name", COMPLETERS)
def test_layers_hold_the_estimate(ready, sections, name):
    if name == "magic":
        pytest.importorskip("magic")
    adata = COMPLETERS[name](ready, copy=True, key_added="result", random_state=2, **KEY)
    place = resolve(ready, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", **KEY)
    estimate = BASELINES[name](sections, seed=2, n_threads=1)
    known = place.to_rows(sections.known)
    before, after = dense(ready.layers["log2tpm"]), dense(adata.layers["result"])
    filled = np.where(known, before[:, place.genes], place.to_rows(estimate.values))
    np.testing.assert_array_equal(after[:, place.genes], filled)
    others = np.setdiff1d(np.arange(ready.n_vars), place.genes)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    assert ("result_rate" in adata.layers) == (name in WITH_RATE)
    if name in WITH_RATE:
        rate = dense(adata.layers["result_rate"])
        np.testing.assert_allclose(rate[:, place.genes], place.to_rows(estimate.rate), rtol=1e-6)
    record = adata.uns["spared_sc"]["result"]
    assert record["function"] == f"tl.{name}_complete"
    assert record["params"]["random_state"] == 2
    for parameter, value in estimate.params.items():
        if not isinstance(value, dict):
            assert record["params"][parameter] == value


@pytest.mark.parametrize("name", COMPLETERS)
def test_order_of_spots_and_threads_do_not_matter(ready, name):
    if name == "magic":
        pytest.importorskip("magic")
    first = COMPLETERS[name](ready, copy=True, n_jobs=1, **KEY)
    order = np.random.default_rng(0).permutation(ready.n_obs)
    second = COMPLETERS[name](ready[order].copy(), copy=True, n_jobs=2, **KEY)
    for layer in (name, f"{name}_rate"):
        if layer in first.layers:
            np.testing.assert_array_equal(dense(second.layers[layer]), dense(first.layers[layer])[order])


@pytest.mark.parametrize("name", [n for n in COMPLETERS if n not in ("depth_only", "magic")])
def test_without_raw_counts_there_is_no_rate(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    COMPLETERS[name](adata, **KEY)
    assert f"{name}_rate" not in adata.layers
    detected = dense(ready.layers["detected"])
    np.testing.assert_array_equal(dense(adata.layers[name])[detected], dense(ready.layers["log2tpm"])[detected])


@pytest.mark.parametrize("name", ["depth_only", "magic"])
def test_counts_are_asked_for_where_they_are_needed(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match=r"sp\.tl\.additive_complete"):
        COMPLETERS[name](adata, **KEY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: sp.tl.kernel_complete(a, bandwidth=0, **KEY), "bandwidth=0 cannot be used: give a number from 0.1"),
        (lambda a: sp.tl.kernel_complete(a, shrinkage=-1, **KEY), "shrinkage=-1 cannot be used"),
        (lambda a: sp.tl.neighbor_mean_complete(a, n_rings=1.5, **KEY), "n_rings=1.5 cannot be used: give a whole"),
        (lambda a: sp.tl.soft_impute_complete(a, rank=0, **KEY), "rank=0 cannot be used"),
        (lambda a: sp.tl.soft_impute_complete(a, rank=None, **KEY), "rank=None cannot be used"),
        (lambda a: sp.tl.stack_complete(a, n_folds=1, **KEY), "n_folds=1 cannot be used"),
        (lambda a: sp.tl.ridge_complete(a, penalty=np.nan, **KEY), "penalty=nan cannot be used"),
        (lambda a: sp.tl.diffusion_complete(a, random_state=-1, **KEY), "random_state=-1 cannot be used"),
        (lambda a: sp.tl.alra_complete(a), "library_key="),
        (lambda a: sp.tl.gene_mean_complete(a, key_added="log2tpm", **KEY), "is the layer that is read"),
    ],
)
def test_wrong_parameters_are_named(ready, call, message):
    slots = set(ready.layers)
    with pytest.raises(ValueError, match=message):
        call(ready)
    assert set(ready.layers) == slots


def test_an_absent_embedding_is_named(ready):
    with pytest.raises(KeyError, match=r"there is no obsm\['X_none'\]"):
        sp.tl.sme_complete(ready, use_rep="X_none", **KEY)
    with pytest.raises(TypeError, match="use_rep"):
        sp.tl.sme_complete(ready, **KEY)


def test_values_too_large_to_square_are_an_error(ready):
    adata = ready.copy()
    adata.layers["huge"] = adata.layers["log2tpm"] * np.float32(1e30)
    with pytest.raises(FloatingPointError, match="extreme values"):
        sp.tl.additive_complete(adata, layer="huge", **KEY)


# --- real data -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* genes have no length:UserWarning")
def test_order_of_the_methods_on_real_sections(data_dir):
    with sp.settings.override(data_dir=data_dir):
        adata = sp.datasets.her2st("C")
    sp.pp.recipe_spared(adata, **KEY)
    sections = resolve(adata, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", **KEY).sections
    hidden = hide_detected(sections.known, 0.3, np.random.default_rng(0))
    visible, truth = sections.without(hidden), sections.renormalised(hidden)

    def error(name):
        values = BASELINES[name](visible, seed=0, n_threads=1).values
        return np.mean((truth - values)[hidden].astype(float) ** 2)

    errors = {name: error(name) for name in BASELINES if name not in ("sme", "magic")}
    assert errors["library_gene_mean"] < errors["gene_mean"] < errors["alra"]
    assert errors["gene_mean"] < 0.5 * errors["median"]
    assert errors["additive"] < errors["gene_mean"]
    assert max(errors["kernel"], errors["diffusion"]) < errors["additive"]
    assert errors["soft_impute_kernel"] < errors["soft_impute"] < 0.8 * errors["additive"]
    assert errors["ridge"] < errors["soft_impute"]
    assert errors["stack"] <= 1.02 * min(errors.values())
