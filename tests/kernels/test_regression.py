"""_kernels/regression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.optimize
from scipy.optimize import minimize
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.completion import SECTIONS, estimate_of, residual_of, sections_of
from spared_sc._kernels import lowrank, regression

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
def residual(sections) -> np.ndarray:
    return residual_of(sections)


def test_means_of_genes_and_libraries(sections):
    estimate = estimate_of("library_gene_mean", sections, shrinkage=7.0)
    total = estimate_of("gene_mean", sections)
    for gene in range(sections.values.shape[1]):
        known = sections.known[:, gene]
        mean = sections.values[known, gene].astype(float).mean()
        np.testing.assert_allclose(total.values[:, gene], mean, rtol=1e-5)
        counts = sections.counts
        share = counts.values[:, gene].sum() / counts.depth.sum()
        np.testing.assert_allclose(total.rate[:, gene], share * counts.depth, rtol=1e-4)
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
    quick = estimate_of("additive", sections, spot_shrinkage=spot_shrinkage, library_shrinkage=library_shrinkage)
    np.testing.assert_allclose(quick.values, expected, atol=0.02)


def test_depth_trend_is_the_penalised_parabola(sections):
    depth = sections.counts.depth
    found = regression.depth_trend(sections.values, sections.known, depth, 4.0)
    x = np.log(depth)
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
    found = regression.depth_rate(sections.counts.values, sections.counts.depth, prior=10.0)
    x = np.log(sections.counts.depth) - np.log(sections.counts.depth).mean()
    for gene in range(found.shape[1]):
        counts = sections.counts.values[:, gene]

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


def test_variance_regression_maximises_the_likelihood():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, 2)) * [1.0, 3.0] + 1
    squares = np.exp(features @ [0.8, -0.3] - 1) * rng.normal(size=3000) ** 2
    found = regression.variance_regression(features, squares, penalty=0.0)

    def loss(weights):
        log_variance = weights[0] + features @ weights[1:]
        return np.sum(log_variance + squares * np.exp(-log_variance))

    expected = minimize(loss, np.zeros(3), method="BFGS", options={"gtol": 1e-6}).x
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(found, [-1, 0.8, -0.3], atol=0.1)


def test_variance_regression_on_a_constant_is_the_mean_square():
    squares = np.array([1.0, 2.0, 6.0])
    assert np.exp(regression.variance_regression(np.ones((3, 1)), squares)) == pytest.approx([3.0, 1.0])
