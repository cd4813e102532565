"""_kernels/comparison."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spared_sc._kernels.comparison import QUANTITIES, combine, compare

NO_FLOOR = np.full((3, 2), np.nan)


def compared(values, floors=NO_FLOOR, units=("x", "y", "z"), *, higher_is_better=False):
    return compare(
        np.array(values, dtype=float), np.array(floors, dtype=float), units, higher_is_better=higher_is_better
    )


def test_the_best_baseline_is_the_one_with_the_best_mean():
    values = [[1.0, 3.0, 2.0], [1.0, 1.0, 2.5], [1.0, 3.5, 2.0]]  # means 2.5 and 2.17
    assert compared(values).baseline == 1
    assert compared(values, higher_is_better=True).baseline == 0
    result = compared(values)
    assert result.method_value == pytest.approx(1)
    assert result.baseline_value == pytest.approx(6.5 / 3)
    logs = -np.log([2, 2.5, 2])
    interval = stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    expected = np.exp([logs.mean(), interval.low, interval.high])
    assert result.estimates["ratio"] == pytest.approx(tuple(expected))
    assert result.estimates["difference"][0] == pytest.approx(1 - 6.5 / 3)


def test_sections_of_a_donor_are_one_unit():
    values = [[1.0, 2.0], [2.0, 3.0], [3.0, 4.0], [1.0, 1.5], [2.0, 1.0]]
    result = compared(values, np.full((5, 2), 0.5), ["x", "y", "x", "z", "z"])
    of_units = np.array([[2, 3], [2, 3], [1.5, 1.25]])
    assert (result.n_libraries, result.n_units) == (5, 3)
    assert (result.method_value, result.baseline_value) == pytest.approx(tuple(of_units.mean(axis=0)))
    differences = of_units[:, 0] - of_units[:, 1]
    interval = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    assert result.estimates["difference"] == pytest.approx((differences.mean(), interval.low, interval.high))
    removed = -differences / (of_units[:, 1] - 0.5)
    assert result.estimates["excess_removed_floor_low"][0] == pytest.approx(removed.mean())
    # the best baseline is that of the donors' means, not of the sections'
    values = [[1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 1.0, 2.0], [1.0, 9.0, 2.0]]
    assert compared(values, np.full((4, 2), np.nan), list("xxxx")).baseline == 1
    assert compared(values, np.full((4, 2), np.nan), list("xxxy")).baseline == 1
    values[3][1] = 4.5
    assert compared(values, np.full((4, 2), np.nan), list("wxyz")).baseline == 0
    assert compared(values, np.full((4, 2), np.nan), list("xxxy")).baseline == 1


def test_missing_scores_are_left_out():
    nan = np.nan
    # The second baseline lacks a library of the method, the first lacks one that the method lacks as well.
    result = compared([[nan, nan, 0.1], [1.0, 2.0, nan], [1.0, 3.0, 0.1]])
    assert (result.baseline, result.n_libraries, result.n_units) == (0, 2, 2)
    assert result.estimates["difference"][0] == pytest.approx(-1.5)
    assert np.isnan(result.estimates["difference"][1:]).all()
    assert result.baseline_value == pytest.approx(2.5)
    alone = compared([[nan, nan, 0.1], [nan, 2.0, nan], [1.0, 3.0, 4.0]])
    assert alone.n_units == 1
    assert np.isnan(alone.estimates["difference"][1:]).all()
    assert compared([[nan, 1.0]] * 3) is None
    assert compared([[1.0, nan]] * 3) is None


def test_the_excess_over_the_floor_that_is_removed():
    result = compared([[0.6, 1.0]] * 3, [[0.2, 1.2]] * 3)
    assert result.estimates["excess_removed_floor_low"] == pytest.approx((0.5, 0.5, 0.5))
    assert np.isnan(result.estimates["excess_removed_floor_high"]).all()  # the baseline is below that end
    result = compared([[0.6, 1.0]] * 3, [[0.2, 0.4], [0.2, 0.4], [0.2, 1.0]])  # in one unit
    assert np.isnan(result.estimates["excess_removed_floor_high"]).all()


def test_ratios_need_positive_values():
    result = compared([[0.2, 0.1], [0.3, -0.1], [0.2, 0.1]], higher_is_better=True)
    assert np.isnan(result.estimates["ratio"]).all()
    assert result.estimates["difference"][0] == pytest.approx(0.6 / 3)


def test_sets_count_the_same():
    parts = [compared([[0.8, 1.0]] * 3), compared([[20.0, 100.0]] * 3), compared([[4.0, 4.0]] * 3)]
    result = combine(parts)
    assert result.baseline is None
    assert (result.n_libraries, result.n_units) == (9, 3)
    assert set(result.estimates) == set(QUANTITIES)
    for name, values, back in (("ratio", np.log([0.8, 0.2, 1]), np.exp), ("difference", [-0.2, -80, 0], np.array)):
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        expected = back([np.mean(values), interval.low, interval.high])
        assert result.estimates[name] == pytest.approx(tuple(expected))
