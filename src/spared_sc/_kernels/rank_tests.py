"""Tests of several methods over blocks, such as data sets, that all of them were run on."""

from __future__ import annotations

import warnings
from itertools import combinations
from typing import NamedTuple

import numpy as np
from scipy import stats

LEAST_BLOCKS = 3  # for a test
LEAST_METHODS = 2


class Friedman(NamedTuple):
    """The omnibus test: chi-squared, and the F statistic of Iman and Davenport, which is less conservative.

    F is infinite where all blocks agree, and then has no p value: it would be zero for any number of blocks.
    """

    chi_squared: float
    p_chi_squared: float
    f_statistic: float
    p_f: float
    freedom: tuple[int, int]  # of the F statistic


class Shift(NamedTuple):
    """Hodges-Lehmann estimate of a difference, and both ends of its 95 % interval."""

    estimate: float
    lower: float
    upper: float


def block_ranks(loss: np.ndarray) -> np.ndarray:
    """Ranks of the methods within each block, (n_blocks, n_methods): 1 has the lowest loss, ties share their mean.

    A method without a value in a block comes last there, together with all others that have none.
    """
    return stats.rankdata(np.where(np.isnan(loss), np.inf, loss), axis=1)


def friedman(ranks: np.ndarray) -> Friedman:
    """Whether any method differs; NaN below two methods or three blocks, and where all ranks are tied."""
    n_blocks, n_methods = ranks.shape
    freedom = (n_methods - 1, (n_methods - 1) * (n_blocks - 1))
    middle = (n_methods + 1) / 2
    scatter = float(((ranks - middle) ** 2).sum())
    if n_methods < LEAST_METHODS or n_blocks < LEAST_BLOCKS or scatter == 0:
        return Friedman(np.nan, np.nan, np.nan, np.nan, freedom)
    chi = (n_methods - 1) * float((ranks.sum(axis=0) - n_blocks * middle) @ (ranks.sum(axis=0) - n_blocks * middle))
    chi /= scatter
    rest = n_blocks * (n_methods - 1) - chi
    statistic = (n_blocks - 1) * chi / rest if rest > 1e-9 else np.inf  # all blocks agree
    return Friedman(
        chi_squared=chi,
        p_chi_squared=float(stats.chi2.sf(chi, freedom[0])),
        f_statistic=float(statistic),
        p_f=float(stats.f.sf(statistic, *freedom)) if np.isfinite(statistic) else np.nan,
        freedom=freedom,
    )


def nemenyi(ranks: np.ndarray) -> np.ndarray:
    """P values of all pairs after a Friedman test, (n_methods, n_methods)."""
    n_blocks, n_methods = ranks.shape
    if n_methods < LEAST_METHODS or n_blocks < LEAST_BLOCKS:
        return np.full((n_methods, n_methods), np.nan)
    mean = ranks.mean(axis=0)
    distance = np.abs(mean[:, None] - mean) / np.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks))
    return stats.studentized_range.sf(distance * np.sqrt(2), n_methods, np.inf)


def critical_difference(n_blocks: int, n_methods: int, alpha: float) -> float:
    """Difference of mean ranks from which on Nemenyi's test rejects at the level `alpha`."""
    if n_methods < LEAST_METHODS or n_blocks < LEAST_BLOCKS:
        return np.nan
    quantile = float(stats.studentized_range.ppf(1 - alpha, n_methods, np.inf)) / np.sqrt(2)
    return float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_blocks)))


def wilcoxon_holm(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """P values of signed-rank tests of all pairs, raw and adjusted by Holm, both (n_methods, n_methods).

    Blocks without a value of one of the two do not count. Pairs with fewer than three blocks have no p value.
    """
    pairs = list(combinations(range(values.shape[1]), 2))
    raw = np.array([_signed_rank(values[:, i] - values[:, j]) for i, j in pairs])
    return _square(pairs, raw, values.shape[1]), _square(pairs, holm(raw), values.shape[1])


def _signed_rank(difference: np.ndarray) -> float:
    difference = difference[np.isfinite(difference)]
    if len(difference) < LEAST_BLOCKS:
        return np.nan
    if not difference.any():
        return 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few blocks with ties: the p value is then far from any level
        return float(stats.wilcoxon(difference).pvalue)


def holm(p_values: np.ndarray) -> np.ndarray:
    """P values adjusted by Holm's step-down method; those that are NaN do not count as tests."""
    adjusted = np.full(len(p_values), np.nan)
    order = np.argsort(p_values, kind="stable")
    order = order[np.isfinite(p_values[order])]
    stepped = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted


def dunn_bonferroni(values: np.ndarray) -> np.ndarray:
    """P values of Dunn's test of all pairs, adjusted by Bonferroni, (n_methods, n_methods).

    It ranks all values together and takes them as independent, which values of one block are not.
    """
    n_methods = values.shape[1]
    rows, columns = np.nonzero(np.isfinite(values))
    ranks = stats.rankdata(values[rows, columns])
    n, sizes = len(ranks), np.bincount(columns, minlength=n_methods)
    mean = np.bincount(columns, weights=ranks, minlength=n_methods) / np.maximum(sizes, 1)
    _, tied = np.unique(ranks, return_counts=True)
    variance = n * (n + 1) / 12 - (tied**3 - tied).sum() / (12 * (n - 1))
    pairs = list(combinations(range(n_methods), 2))
    i, j = np.array(pairs, dtype=int).reshape(-1, 2).T
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.abs(mean[i] - mean[j]) / np.sqrt(variance * (1 / sizes[i] + 1 / sizes[j]))
    return _square(pairs, np.minimum(2 * stats.norm.sf(z) * len(pairs), 1), n_methods)


def hodges_lehmann(differences: np.ndarray) -> Shift:
    """Median of all pairwise means of the differences, and the interval that inverts the signed-rank test.

    The ends are NaN below six differences: no interval of that kind then covers 95 %.
    """
    differences = differences[np.isfinite(differences)]
    if not len(differences):
        return Shift(np.nan, np.nan, np.nan)
    first, second = np.triu_indices(len(differences))
    means = np.sort((differences[first] + differences[second]) / 2)
    cut = int(np.searchsorted(_signed_rank_distribution(len(differences)), 0.025, side="right"))
    ends = (means[cut - 1], means[len(means) - cut]) if cut else (np.nan, np.nan)
    return Shift(float(np.median(means)), float(ends[0]), float(ends[1]))


def _signed_rank_distribution(n: int) -> np.ndarray:
    """Cumulative distribution of Wilcoxon's statistic of `n` differences without ties."""
    mass = np.ones(1)
    for rank in range(1, n + 1):
        mass = (np.r_[mass, np.zeros(rank)] + np.r_[np.zeros(rank), mass]) / 2
    return np.cumsum(mass)


def _square(pairs: list[tuple[int, int]], values: np.ndarray, n_methods: int) -> np.ndarray:
    """Values of pairs as a symmetric matrix, with ones on the diagonal."""
    matrix = np.eye(n_methods)
    for (i, j), value in zip(pairs, values, strict=True):
        matrix[i, j] = matrix[j, i] = value
    return matrix
