"""_kernels/intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spared_sc._kernels.intervals import independent_unit, reason, t_interval, unit_means

N_DRAWS = 20_000


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def coverage(values: np.ndarray, truth: float) -> float:
    """Share of the intervals that hold the truth; one for each column."""
    found = t_interval(values)
    return float(np.mean((found.lower <= truth) & (truth <= found.upper)))


def test_the_interval_is_that_of_scipy(rng):
    values = rng.normal(size=(5, 3))
    values[1, 1] = values[4, 1] = np.nan
    found = t_interval(values)
    assert found.n_units.tolist() == [5, 3, 5]
    for column in range(3):
        defined = values[:, column][np.isfinite(values[:, column])]
        interval = stats.ttest_1samp(defined, 0).confidence_interval(0.95)
        assert found.mean[column] == pytest.approx(defined.mean())
        assert (found.lower[column], found.upper[column]) == pytest.approx((interval.low, interval.high))


@pytest.mark.parametrize("n", [0, 1, 2])
def test_there_is_no_interval_below_three_units(n):
    values = np.full((4, 1), np.nan)
    values[:n] = np.arange(n)[:, None]
    found = t_interval(values)
    assert found.n_units.tolist() == [n]
    assert np.isnan([found.lower, found.upper]).all()
    assert np.isnan(found.mean[0]) if n == 0 else found.mean[0] == np.arange(n).mean()
    assert reason(n, "subject") == "fewer than 3 subjects"
    assert reason(3, "subject") == ""


@pytest.mark.parametrize("n", [3, 4, 8, 24])
def test_intervals_of_normal_units_cover(rng, n):
    assert 0.94 < coverage(rng.normal(2, 3, size=(n, N_DRAWS)), 2) < 0.96


@pytest.mark.parametrize("n", [3, 4, 8, 24])
def test_intervals_of_skewed_units_cover_less(rng, n):
    assert 0.75 < coverage(rng.lognormal(size=(n, N_DRAWS)), np.exp(0.5)) < 0.96


@pytest.mark.parametrize("n", [3, 5])
def test_sections_of_a_donor_do_not_count_as_donors(rng, n):
    sections = 1 + np.arange(n) % 3  # of each donor
    units = np.repeat([f"donor {i}" for i in range(n)], sections)
    donor = rng.normal(2, 1, size=(n, N_DRAWS))
    values = np.repeat(donor, sections, axis=0) + rng.normal(0, 0.3, size=(len(units), N_DRAWS))
    assert 0.94 < coverage(unit_means(values, units), 2) < 0.96
    assert coverage(values, 2) < 0.92


def test_units_are_averaged_first():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [8.0, np.nan]])
    np.testing.assert_array_equal(unit_means(values, ["a", "a", "b"]), [[2, 2], [8, np.nan]])
    assert independent_unit(["s1", "s2"], ["s1", "s2"]) == "library"
    assert independent_unit(["d", "d"], ["s1", "s2"]) == "subject"
