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
