"""Scores on hidden entries."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sps
from scipy.special import ndtr, xlogy

from spared_sc._kernels.threads import limited_threads

FLOORS = ("floor_low", "floor_high")  # how the two ends of the noise floor are named in tables
CEILING = "ceiling"  # the row of the scores that a prediction without any error would reach
CONTROLS = ("no_denoising", "perfect_denoising")  # the counts that a method sees, and those that it is scored on
HIGHER_IS_BETTER = ("pcc", "pcc_pooled", "pcc_depth", "r2")  # of the others, less is, or there is an ideal
WIDTH_90 = 1.6448536269514722  # standard deviations to either side that hold 90 % of a Gaussian
_LEAST = 10  # entries, or spots in common, for a correlation
_LEAST_RELIABILITY = 0.1  # correlation of two halves, for a statement on what they have in common
_STANDARD_ERRORS = 3  # the same
_LEAST_RATE = 1e-9  # an expected count of zero is taken for this, so that a count there costs much but not infinitely
_LEAST_LOGARITHM = 1e-6  # added to a rate in the Poisson loss, as in other benchmarks
_CONSTANT = 1e-12  # variance relative to the mean square, below which values are constant but for rounding
_NOTHING_LEFT = 1e-6  # of the variance: what is left of single-precision values that are a function of the terms
_DEPENDENT = 1e-9  # of the length of a term: what is left of one that the terms before it determine


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


def partial_pearson(estimate: np.ndarray, truth: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Correlation of every column, (n_genes,), of what is left of it after least squares on some terms.

    `terms` is (n_spots, n_terms), or (n_genes, n_spots, n_terms) if every gene has its own. NaN where nothing is left of
    the truth, or there are fewer than ten spots; zero where nothing is left of the estimate.
    """
    basis = _orthonormal(terms)
    one, other = (_residual(values.astype(np.float64), basis) for values in (estimate, truth))
    spread = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    defined = (other != 0).any(axis=0) & (len(truth) >= _LEAST)
    return np.where(defined, ratio((one * other).sum(axis=0), spread, default=0.0), np.nan)


def _orthonormal(terms: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span the terms; zero for a term that depends on those before it."""
    basis, triangle = np.linalg.qr(terms)
    size = np.abs(np.diagonal(triangle, axis1=-2, axis2=-1))
    length = np.sqrt((terms**2).sum(axis=-2))
    return basis * (size > _DEPENDENT * length)[..., None, :]


def _residual(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What a basis leaves of the columns, (n_spots, n_genes); exactly zero where that is nothing but rounding."""
    if basis.ndim == 2:
        rest = values - basis @ (basis.T @ values)
    else:
        each = values.T[:, :, None]
        rest = (each - basis @ (basis.swapaxes(1, 2) @ each))[:, :, 0].T
    least = np.maximum(_CONSTANT * (values**2).mean(axis=0), _NOTHING_LEFT * values.var(axis=0))
    return np.where((rest**2).mean(axis=0) > least, rest, 0)


def reliable(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Genes of which two independent halves, (n_spots, n_genes), agree beyond chance: they correlate by at least 0.1."""
    (one, other), n = (_centred(half) for half in (one, other)), len(one)
    spread = np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))
    return ratio((one * other).sum(axis=0), spread, default=0.0) >= max(_LEAST_RELIABILITY, _STANDARD_ERRORS / n**0.5)


def cross_morans_i(weights: sps.csr_matrix, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Moran's I of every gene, (n_genes,), with one half of the data around each spot of the other half.

    Products of independent halves have no noise on average, neither here nor in their covariance, by which it is divided:
    this is Moran's I of the noise-free values. With `one` twice it is the usual one. `weights` (n_spots, n_spots) are one
    where spots touch. NaN where the covariance is not above zero, or no spot has a neighbour; zero for a constant.
    """
    one, other = _centred(one), _centred(other)
    constant = ~one.any(axis=0) | ~other.any(axis=0)
    n_neighbours = np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    each = 1 / np.maximum(n_neighbours, 1)  # of the row-standardised weights
    cross = ((one * each * (weights @ other)).sum(axis=0) + (other * each * (weights @ one)).sum(axis=0)) / 2
    linked = (n_neighbours > 0).sum()
    result = ratio(len(one) * cross, linked * (one * other).sum(axis=0))
    return np.where(constant & (linked > 0), 0.0, result)


@limited_threads(1)
def cross_correlations(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Correlation of every pair of genes, (n_genes, n_genes), from covariances between two independent halves.

    Noise of counting has no part in them, so it does not weaken the correlation; the result is clipped to -1 and 1. With
    `one` twice it is the usual one. NaN where a covariance of a gene with itself is not above zero; zero for a constant.
    """
    one, other = _centred(one), _centred(other)
    covariance = one.T @ other
    covariance = (covariance + covariance.T) / 2
    variance = np.diag(covariance)
    constant = ~one.any(axis=0) | ~other.any(axis=0)
    spread = np.sqrt(np.where(constant, 1, np.where(variance > 0, variance, np.nan)))
    return np.clip(covariance / np.outer(spread, spread), -1, 1)


def _centred(values: np.ndarray) -> np.ndarray:
    """Deviations from the mean of the column; exactly zero where they are no more than rounding."""
    mean = values.mean(axis=0, dtype=np.float64)
    deviation = values - mean
    return np.where((deviation**2).mean(axis=0) > _CONSTANT * mean**2, deviation, 0)


def poisson_loss(counts: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Negative log-likelihood rate - k log(rate + 1e-6) per entry, without the part that depends on the counts alone."""
    rate = rate.astype(np.float64)
    return rate - counts * np.log(rate + _LEAST_LOGARITHM)


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
