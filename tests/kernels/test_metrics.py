"""_kernels/metrics."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from helpers.evaluation import crps_by_quadrature
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels import metrics
from spared_sc._kernels.metrics import masked_mse
from spared_sc._kernels.moran import lattice_weights, morans_i


@pytest.mark.parametrize(("error", "sd"), [(0, 1), (1.3, 0.4), (-2, 3), (5, 0.1), (0.01, 2)])
def test_crps_is_the_integral(error, sd):
    assert metrics.gaussian_crps(np.array(error), sd) == pytest.approx(crps_by_quadrature(error, sd), rel=1e-6)


def test_crps_of_no_width_is_the_absolute_error():
    np.testing.assert_array_equal(metrics.gaussian_crps(np.array([-2.0, 0.5]), np.array([0.0, 0.0])), [2, 0.5])


def test_pearson_within_groups():
    rng = np.random.default_rng(0)
    group = rng.integers(0, 5, 400)
    group[group == 4] = 3
    group[:6] = 4  # too few
    one = rng.normal(size=400) + 1e3 * group
    other = one + rng.normal(size=400)
    other[group == 2] = 7.1  # constant
    found = metrics.grouped_pearson(one, other, group, 6)
    expected = [stats.pearsonr(one[group == g], other[group == g])[0] for g in (0, 1, 3)]
    np.testing.assert_allclose(found[[0, 1, 3]], expected, rtol=1e-9)
    assert np.isnan(found[[2, 4, 5]]).all()


def test_moran_of_detected_values_of_constant_and_lonely_genes():
    position = np.column_stack([np.zeros(30, int), 2 * np.arange(30)])
    lattice = lattices.from_array(position, np.zeros(30, int), kind="hex")
    rng = np.random.default_rng(0)
    values = rng.normal(5, 1, (30, 4))
    detected = np.ones((30, 4), bool)
    values[:, 1] = 3.3
    detected[1::2, 2] = False  # no two neighbours
    detected[:, 3] = False
    found = metrics.detected_morans_i(lattice_weights(lattice), values, detected)
    assert np.isnan(found[1:]).all()
    expected = morans_i(lattice_weights(lattice), values[:, :1], n_threads=1)
    np.testing.assert_allclose(found[:1], expected, rtol=1e-9)


def test_deviance_is_that_of_scikit_learn():
    from sklearn.metrics import mean_poisson_deviance

    rng = np.random.default_rng(0)
    rate = rng.gamma(1, 2, 1000)
    counts = rng.poisson(rate)
    assert metrics.poisson_deviance(counts, rate).mean() == pytest.approx(mean_poisson_deviance(counts, rate))
    at_zero = metrics.poisson_deviance(np.array([0, 2]), np.zeros(2))
    assert at_zero[0] < 1e-8
    assert 50 < at_zero[1] < 100


def test_deciles_keep_equal_values_together():
    rng = np.random.default_rng(0)
    values = rng.normal(size=500)
    np.testing.assert_array_equal(metrics.decile(values), pd.qcut(values, 10, labels=False))
    tied = np.repeat([1.0, 2.0, 3.0], [50, 30, 20])
    found = metrics.decile(tied)
    assert [len(set(found[tied == value])) for value in (1, 2, 3)] == [1, 1, 1]
    assert len(set(found)) == 3


# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


def test_masked_mse_is_the_mean_over_masked_entries():
    rng = np.random.default_rng(0)
    truth, estimate = rng.normal(size=(2, 40, 7)).astype(np.float32)
    mask = rng.random(truth.shape) < 0.3
    errors = [(float(truth[i, j]) - float(estimate[i, j])) ** 2 for i in range(40) for j in range(7) if mask[i, j]]
    assert masked_mse(truth, estimate, mask) == pytest.approx(sum(errors) / len(errors), rel=1e-12)
    assert np.isnan(masked_mse(truth, estimate, np.zeros_like(mask)))


def test_poisson_loss_is_that_of_torch():
    import torch

    rng = np.random.default_rng(0)
    rate, counts = rng.gamma(1, 2, 500), rng.poisson(2, 500)
    rate[0] = 0
    found = metrics.poisson_loss(counts, rate)
    tensors = (torch.from_numpy(x.astype(float)) for x in (rate, counts))
    expected = torch.nn.functional.poisson_nll_loss(*tensors, log_input=False, eps=1e-6, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_partial_correlation_is_that_of_the_inverse_covariance():
    rng = np.random.default_rng(0)
    depth = rng.normal(size=300)
    terms = np.column_stack([np.ones(300), depth, depth**2])
    truth = rng.normal(size=(300, 5)) + depth[:, None] ** 2
    estimate = 0.3 * truth + rng.normal(size=(300, 5)) + depth[:, None]
    truth[:, 3] = 4.0  # nothing to find
    estimate[:, 4] = 2 * depth + 0.1 * depth**2  # nothing but depth
    found = metrics.partial_pearson(estimate, truth, terms)
    for gene in range(3):
        inverse = np.linalg.inv(np.cov(np.column_stack([estimate[:, gene], truth[:, gene], depth, depth**2]).T))
        assert found[gene] == pytest.approx(-inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1]), rel=1e-9)
    assert np.isnan(found[3])
    assert found[4] == 0
    assert np.isnan(metrics.partial_pearson(estimate[:9], truth[:9], terms[:9])).all()


def test_partial_correlation_with_terms_of_each_gene():
    rng = np.random.default_rng(1)
    estimate, truth = rng.normal(size=(2, 80, 4))
    terms = rng.normal(size=(4, 80, 3))
    terms[2, :, 2] = terms[2, :, 0] - 2 * terms[2, :, 1]  # says nothing new
    found = metrics.partial_pearson(estimate, truth, terms)
    for gene in range(4):
        kept = terms[gene] if gene != 2 else terms[gene][:, :2]
        one = metrics.partial_pearson(estimate[:, [gene]], truth[:, [gene]], kept)
        assert found[gene] == pytest.approx(one[0], rel=1e-9)


@pytest.fixture(scope="module")
def field():
    """Smooth expression of 40 genes in four programs, two noisy measurements of it, and the weights of a square grid."""
    side = 40
    place = np.array([(x, y) for x in range(side) for y in range(side)])
    weights = lattice_weights(lattices.from_array(place, np.zeros(side**2, int), kind="grid"))
    rng = np.random.default_rng(0)
    programs = np.column_stack([np.sin(place @ rng.normal(0, 0.25, 2) + phase) for phase in range(4)])
    truth = programs @ rng.normal(0, 1, (4, 40)) + rng.normal(0, 0.5, (side**2, 40))
    noisy = [truth + rng.normal(0, 2, truth.shape) for _ in range(2)]
    return truth, noisy, weights


def test_moran_of_one_half_around_the_other_has_no_noise_in_it(field):
    truth, (one, other), weights = field
    usual = morans_i(weights, truth, n_threads=1)
    np.testing.assert_allclose(metrics.cross_morans_i(weights, truth, truth), usual, rtol=1e-9)
    found = metrics.cross_morans_i(weights, one, other)
    np.testing.assert_allclose(found, metrics.cross_morans_i(weights, other, one), rtol=1e-12)
    clear = metrics.reliable(one, other)
    assert clear.sum() >= 15
    assert np.abs(found - usual)[clear].mean() < 0.15
    assert abs((found - usual)[clear].mean()) < 0.05
    assert (morans_i(weights, one, n_threads=1) - usual)[clear].mean() < -0.2  # noise takes most of it away
    truth = truth.copy()
    truth[:, 0] = 0.1
    assert metrics.cross_morans_i(weights, truth, truth)[0] == 0
    assert np.isnan(metrics.cross_morans_i(0 * weights, truth, truth)).all()


def test_correlations_between_halves_have_no_noise_in_them(field):
    truth, (one, other), _ = field
    usual = np.corrcoef(truth.T)
    np.testing.assert_allclose(metrics.cross_correlations(truth, truth), usual, atol=1e-9)
    clear = metrics.reliable(one, other)
    upper = np.triu_indices(clear.sum(), 1)
    usual, found, noisy = (
        table[np.ix_(clear, clear)][upper]
        for table in (usual, metrics.cross_correlations(one, other), np.corrcoef(one.T))
    )
    assert np.abs(found - usual).mean() < 0.12
    assert np.polyfit(usual, found, 1)[0] == pytest.approx(1, abs=0.1)
    assert np.polyfit(usual, noisy, 1)[0] < 0.5
    truth = truth.copy()
    truth[:, 0] = 0.1
    found = metrics.cross_correlations(truth, truth)
    assert (found[0] == 0).all()
    assert np.isfinite(found).all()


def test_genes_whose_halves_agree_by_chance_alone_are_not_reliable():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 400, 2000))
    assert metrics.reliable(one, other).mean() < 0.005
    assert metrics.reliable(one, other + 0.5 * one).mean() > 0.99
    assert not metrics.reliable(np.ones((400, 3)), other[:, :3]).any()
