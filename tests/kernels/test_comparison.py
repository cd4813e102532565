"""_kernels/comparison."""

from __future__ import annotations

import numpy as np
import pytest

from spared_sc._kernels.comparison import QUANTITIES, combine, compare

NO_FLOOR = np.full((3, 2), np.nan)


def compared(values, floors=NO_FLOOR, subjects=("x", "y", "z"), *, higher_is_better=False):
    return compare(
        np.array(values, dtype=float),
        np.array(floors, dtype=float),
        subjects,
        higher_is_better=higher_is_better,
        n_bootstrap=500,
        rng=np.random.default_rng(0),
    )


def test_the_best_baseline_is_the_one_with_the_best_mean():
    values = [[1.0, 3.0, 2.0], [1.0, 1.0, 2.5], [1.0, 3.5, 2.0]]  # means 2.5 and 2.17
    assert compared(values).baseline == 1
    assert compared(values, higher_is_better=True).baseline == 0
    result = compared(values)
    assert result.method_value == pytest.approx(1)
    assert result.baseline_value == pytest.approx(6.5 / 3)
    assert result.estimates["ratio"] == pytest.approx(3 / 6.5)
    low, high = result.interval("ratio")
    assert 1 / 2.5 <= low < result.estimates["ratio"] < high <= 1 / 2


def test_missing_scores_are_left_out():
    nan = np.nan
    # The second baseline lacks a library of the method, the first lacks one that the method lacks as well.
    result = compared([[nan, nan, 0.1], [1.0, 2.0, nan], [1.0, 3.0, 0.1]])
    assert (result.baseline, result.n_libraries, result.descriptive) == (0, 2, False)
    assert result.baseline_value == pytest.approx(2.5)
    alone = compared([[nan, nan, 0.1], [nan, 2.0, nan], [1.0, 3.0, 4.0]])
    assert alone.descriptive
    assert np.isnan(alone.interval("difference")).all()
    assert compared([[nan, 1.0]] * 3) is None
    assert compared([[1.0, nan]] * 3) is None


def test_the_excess_over_the_floor_that_is_removed():
    result = compared([[0.6, 1.0]] * 3, [[0.2, 1.2]] * 3)
    assert result.estimates["excess_removed_floor_low"] == pytest.approx(0.5)
    assert np.isnan(result.estimates["excess_removed_floor_high"])  # the baseline is below that end
    assert result.interval("excess_removed_floor_low") == pytest.approx((0.5, 0.5))


def test_sets_count_the_same():
    parts = [compared([[0.8, 1.0]] * 3), compared([[20.0, 100.0]] * 3), compared([[4.0, 4.0]] * 3)]
    result = combine(parts)
    assert result.baseline is None
    assert result.n_libraries == 9
    assert result.estimates["ratio"] == pytest.approx((0.8 * 0.2 * 1) ** (1 / 3))
    assert result.estimates["difference"] == pytest.approx(-80.2 / 3)
    assert set(result.samples) == set(result.estimates) == set(QUANTITIES)
    assert result.interval("ratio") == pytest.approx((0.16 ** (1 / 3),) * 2)
