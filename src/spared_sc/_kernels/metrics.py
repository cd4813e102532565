"""Scores on hidden entries."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sps
from scipy.special import ndtr, xlogy

from spared_sc._kernels.threads import limited_threads

FLOORS = ("floor_low", "floor_high")  # how the two ends of the noise floor are named in tables
HIGHER_IS_BETTER = ("pcc", "pcc_pooled", "r2")  # of the others, less is, or there is an ideal
WIDTH_90 = 1.6448536269514722  # standard deviations to either side that hold 90 % of a Gaussian
_LEAST = 10  # entries, or spots in common, for a correlation
_LEAST_RATE = 1e-9  # an expected count of zero is taken for this, so that a count there costs much but not infinitely
_CONSTANT = 1e-12  # variance relative to the mean square, below which values are constant but for rounding


def ratio(numerator: np.ndarray, denominator: np.ndarray, *, default: float = np.nan) -> np.ndarray:
    """Quotient, and the default where the denominator is not above zero."""
    return np.divide(numerator, denominator, out=np.full(np.shape(numerator), default), where=denominator > 0)


def finite_mean(values: np.ndarray, axis: int) -> np.ndarray:
    """Mean of the finite values along an axis, NaN where there are none."""
    defined = np.isfinite(values)
    return ratio(np.where(defined, values, 0).sum(axis=axis), defined.sum(axis=axis))


def masked_mse(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared error over the entries where `mask` is true; NaN where there are none."""
    if not mask.any():
        return float("nan")
    error = truth[mask].astype(np.float64) - estimate[mask]
    return float(np.mean(error**2))


def grouped_pearson(one: np.ndarray, other: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Pearson correlation within every group of entries, (n_groups,).

    NaN if a group has fewer than ten entries or is constant.
    """
    n = np.bincount(group, minlength=n_groups)
    safe = np.maximum(n, 1)

    def centred(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean = np.bincount(group, values, n_groups) / safe
        deviation = values - mean[group]
        variance = np.bincount(group, deviation**2, n_groups) / safe
        return deviation, np.where(variance > _CONSTANT * (mean**2 + variance), variance, np.nan)

    one, variance = centred(one.astype(np.float64))
    other, other_variance = centred(other.astype(np.float64))
    covariance = np.bincount(group, one * other, n_groups) / safe
    return np.where(n >= _LEAST, covariance / np.sqrt(variance * other_variance), np.nan)


def detected_morans_i(weights: sps.csr_matrix, values: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Moran's I of every gene, (n_genes,), on the spots that detected it, and the neighbours among those.

    `weights` (n_spots, n_spots) are one where spots touch. NaN where Moran's I is not defined.
    """
    n = detected.sum(axis=0)
    mean = np.sum(values, axis=0, where=detected, dtype=np.float64) / np.maximum(n, 1)
    deviation = np.where(detected, values - mean, 0.0)
    n_neighbours = weights @ detected.astype(np.float64)
    around = weights @ deviation
    linked = detected & (n_neighbours > 0)
    cross = np.sum(deviation * around / np.maximum(n_neighbours, 1), axis=0)
    squares = np.sum(deviation**2, axis=0)
    total = linked.sum(axis=0)  # of the row-standardised weights
    defined = (total > 0) & (squares > _CONSTANT * (squares + n * mean**2))
    return np.divide(n * cross, total * squares, out=np.full(n.size, np.nan), where=defined)


@limited_threads(1)
def detected_correlations(values: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Correlation of every pair of genes over the spots that detected both, (n_genes, n_genes) float32.

    NaN where fewer than ten spots did, or one of the two is constant there.
    """
    known = detected.astype(np.float64)
    mean = np.sum(values, axis=0, where=detected, dtype=np.float64) / np.maximum(detected.sum(axis=0), 1)
    deviation = np.where(detected, values - mean, 0.0)  # so that products do not cancel
    n = known.T @ known
    safe = np.maximum(n, 1)
    of_row = deviation.T @ known / safe  # mean of the gene of the row over the spots in common with that of the column
    square = (deviation**2).T @ known / safe
    variance = square - of_row**2
    variance[(variance <= 1e-9 * square) | (n < _LEAST)] = np.nan
    covariance = deviation.T @ deviation / safe - of_row * of_row.T
    return (covariance / np.sqrt(variance * variance.T)).astype(np.float32)


def gaussian_crps(error: np.ndarray, sd: np.ndarray | float) -> np.ndarray:
    """Continuous ranked probability score of a Gaussian forecast, per entry (Gneiting and Raftery 2007, eq. 21).

    s (z (2 Phi(z) - 1) + 2 phi(z) - 1 / sqrt(pi)) with z = error / s; the absolute error where s is zero.
    """
    error, sd = np.broadcast_arrays(np.abs(error).astype(np.float64), np.asarray(sd, dtype=np.float64))
    z = np.divide(error, sd, out=np.zeros_like(error), where=sd > 0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    score = sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(sd > 0, score, error)


def poisson_deviance(counts: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Deviance 2 (k log(k / rate) - k + rate) per entry; a rate of zero is taken for 1e-9."""
    counts = counts.astype(np.float64)
    rate = np.maximum(rate.astype(np.float64), _LEAST_RATE)
    return 2 * (xlogy(counts, counts / rate) - counts + rate)


def decile(values: np.ndarray) -> np.ndarray:
    """Decile of every value among all of them, 0 to 9; equal values are in the same one."""
    edges = np.quantile(values, np.arange(1, 10) / 10)
    return np.searchsorted(edges, values, side="left")
