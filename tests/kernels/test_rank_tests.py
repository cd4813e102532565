"""Tests over blocks, against scipy, statsmodels and scikit-posthocs."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
import scikit_posthocs as posthocs
from scipy import stats
from statsmodels.stats.multitest import multipletests

from spared_sc._kernels.rank_tests import (
    block_ranks,
    critical_difference,
    dunn_bonferroni,
    friedman,
    hodges_lehmann,
    holm,
    nemenyi,
    wilcoxon_holm,
)


@pytest.fixture(params=[(12, 5, None), (25, 9, None), (6, 3, 1), (30, 2, 1)])
def values(request) -> np.ndarray:
    """Values of methods that differ, (n_blocks, n_methods), in some cases rounded so that there are ties."""
    n_blocks, n_methods, digits = request.param
    rng = np.random.default_rng(n_blocks)
    made = rng.normal(size=(n_blocks, n_methods)) + 0.5 * np.arange(n_methods)
    return made if digits is None else made.round(digits)


def test_friedman_is_that_of_scipy_and_f_that_of_iman_and_davenport(values):
    n_blocks, n_methods = values.shape
    found = friedman(block_ranks(values))
    if n_methods > 2:
        expected = stats.friedmanchisquare(*values.T)
        assert found.chi_squared == pytest.approx(expected.statistic)
        assert found.p_chi_squared == pytest.approx(expected.pvalue)
    # The F test of a two-way analysis of variance of the ranks is the same statistic.
    ranks = block_ranks(values)
    effects = ranks.mean(axis=0) - ranks.mean()
    rest = ranks - ranks.mean(axis=0)
    f = n_blocks * (effects**2).sum() / (n_methods - 1) / ((rest**2).sum() / ((n_methods - 1) * (n_blocks - 1)))
    assert found.f_statistic == pytest.approx(f)
    assert found.p_f == pytest.approx(stats.f.sf(f, *found.freedom))


def test_nemenyi_is_that_of_scikit_posthocs(values):
    np.testing.assert_allclose(nemenyi(block_ranks(values)), posthocs.posthoc_nemenyi_friedman(values), atol=1e-6)


def test_critical_difference_is_where_nemenyi_rejects():
    # Demsar (2006), Table 5: 2.728 at 5 % for five methods
    assert critical_difference(6, 5, 0.05) == pytest.approx(2.728 * np.sqrt(5 * 6 / (6 * 6)), rel=1e-3)
    difference = critical_difference(10, 4, 0.05)
    ranks = np.full((10, 4), 2.5) + np.array([-difference / 2, difference / 2, 0, 0])
    assert nemenyi(ranks)[0, 1] == pytest.approx(0.05, rel=1e-4)


def test_wilcoxon_holm_is_that_of_scipy_and_statsmodels(values):
    pairs = list(itertools.combinations(range(values.shape[1]), 2))
    with np.errstate(all="ignore"):
        raw = [stats.wilcoxon(values[:, i], values[:, j]).pvalue for i, j in pairs]
    adjusted = multipletests(raw, method="holm")[1]
    found_raw, found = wilcoxon_holm(values)
    for (i, j), p, q in zip(pairs, raw, adjusted, strict=True):
        assert found_raw[i, j] == found_raw[j, i] == pytest.approx(p)
        assert found[i, j] == found[j, i] == pytest.approx(q)


def test_holm_ignores_what_was_not_tested():
    found = holm(np.array([0.01, np.nan, 0.04]))
    np.testing.assert_allclose(found, [0.02, np.nan, 0.04])


@pytest.mark.parametrize("missing", [False, True])
def test_dunn_is_that_of_scikit_posthocs(values, missing):
    values = values.copy()
    if missing:
        values[0, 0] = np.nan
    table = pd.DataFrame(values).melt(var_name="method", value_name="value").dropna()
    expected = posthocs.posthoc_dunn(table, val_col="value", group_col="method", p_adjust="bonferroni")
    np.testing.assert_allclose(dunn_bonferroni(values), expected, rtol=1e-8)


def test_shift_is_the_median_of_walsh_averages_and_inverts_the_test():
    rng = np.random.default_rng(5)
    differences = rng.normal(1, 1, size=15)
    found = hodges_lehmann(differences)
    walsh = [(a + b) / 2 for i, a in enumerate(differences) for b in differences[i:]]
    assert found.estimate == pytest.approx(np.median(walsh))
    # Shifts inside of the interval are not rejected by the exact test, and those outside of it are.
    for shift, inside in [
        (found.lower + 1e-9, True),
        (found.upper - 1e-9, True),
        (found.lower - 1e-9, False),
        (found.upper + 1e-9, False),
    ]:
        assert (stats.wilcoxon(differences - shift, method="exact").pvalue > 0.05) == inside


def test_interval_of_the_shift_covers():
    rng = np.random.default_rng(0)
    ends = [hodges_lehmann(rng.standard_t(3, size=12) + 2) for _ in range(400)]
    assert 0.93 < np.mean([end.lower <= 2 <= end.upper for end in ends]) < 0.985


def test_few_blocks_have_no_interval_and_no_test():
    assert np.isnan(hodges_lehmann(np.arange(1.0, 6)).lower)
    assert np.isfinite(hodges_lehmann(np.arange(1.0, 7)).lower)
    assert np.isnan(hodges_lehmann(np.array([np.nan])).estimate)
    two = block_ranks(np.array([[1.0, 2], [2, 3]]))
    assert np.isnan(friedman(two).p_f)
    assert np.isnan(nemenyi(two)).all()
    assert np.isnan(critical_difference(2, 2, 0.05))
    assert np.isnan(wilcoxon_holm(np.array([[1.0, 2], [2, 4]]))[0][0, 1])


def test_extremes_are_no_errors():
    agree = block_ranks(np.tile(np.arange(3.0), (5, 1)))
    found = friedman(agree)
    assert found.f_statistic == np.inf
    assert np.isnan(found.p_f)
    assert found.p_chi_squared == pytest.approx(stats.friedmanchisquare(*np.tile(np.arange(3.0), (5, 1)).T).pvalue)
    assert np.isnan(friedman(block_ranks(np.ones((5, 3)))).p_f)
    assert wilcoxon_holm(np.ones((5, 2)))[0][0, 1] == 1


def test_what_failed_is_last():
    np.testing.assert_array_equal(block_ranks(np.array([[np.nan, 1, np.nan, 0.5]])), [[3.5, 2, 3.5, 1]])
