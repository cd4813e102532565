"""_kernels/truncated."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spared_sc._kernels.truncated import detected_moments, truncated_moments

RATES = np.array([1e-4, 0.03, 1.0, 7.0, 60.0, 299.9, 300.1, 2e3, 1e4])


SIZES = np.array([0.3, 1.0, 4.0, 50.0, 1e4, 1e6, np.inf])


def moments_by_summation(rate: float, size: float, scale: float) -> tuple[float, float]:
    law = stats.poisson(rate) if np.isinf(size) else stats.nbinom(size, size / (size + rate))
    count = np.arange(1, int(law.isf(1e-13)) + 30)
    chance = law.pmf(count)
    value = np.log2(1 + scale * count)
    mean = chance @ value / chance.sum()
    return mean, np.sqrt(chance @ (value - mean) ** 2 / chance.sum())


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_moments_of_a_truncated_count_are_sums_over_counts(scale):
    rate = np.repeat(RATES[:, None], len(SIZES), axis=1)
    ours = truncated_moments(rate, SIZES, np.full(rate.shape, scale))
    expected = np.array([[moments_by_summation(r, size, scale) for size in SIZES] for r in RATES])
    np.testing.assert_allclose(ours[0], expected[:, :, 0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[1], expected[:, :, 1], rtol=0, atol=1e-3)
    assert all(block.dtype == np.float32 for block in ours)


def test_moments_do_not_jump_where_the_summation_changes():
    size = np.array([0.2, 0.3, 1.0, 5.0, 1e3, np.inf])
    rate = np.repeat(300 * (1 + 1e-7 * np.array([-1, 1]))[:, None], len(size), axis=1)
    rate[:, 0] /= 1.5  # of this small size the change comes earlier
    for block in truncated_moments(rate, size, np.full(rate.shape, 0.3)):
        np.testing.assert_allclose(block[0], block[1], rtol=0, atol=2e-4)


@pytest.mark.parametrize("width", [0.0, 0.1, 0.6])
def test_moments_under_an_uncertain_rate_are_integrals_over_it(width):
    """Over the posterior of the logarithm of the rate, given that something was detected."""
    means, sizes = np.array([0.02, 0.5, 4.0, 40.0]), np.array([0.5, 3.0, 1e3])
    log_rate = np.repeat(np.log(means)[:, None], len(sizes), axis=1)
    ours = detected_moments(log_rate, np.full(log_rate.shape, width), sizes, np.full(log_rate.shape, 20.0))
    points, weights = np.polynomial.hermite_e.hermegauss(31)
    for i, mean in enumerate(means):
        rates = mean * np.exp(width * points - width**2 / 2)
        for j, size in enumerate(sizes):
            detected = weights * (1 - (1 + rates / size) ** -size)
            first, sd = np.array([moments_by_summation(rate, size, 20.0) for rate in rates]).T
            expected = detected @ first / detected.sum()
            square = detected @ (first**2 + sd**2) / detected.sum()
            tolerance = 0.03 if width > 0.5 else 2e-3
            assert ours[0][i, j] == pytest.approx(expected, abs=tolerance)
            assert ours[1][i, j] == pytest.approx(np.sqrt(square - expected**2), abs=tolerance)
