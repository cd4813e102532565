"""Moments of log2(scaled count + 1), given that the count is above zero."""

from __future__ import annotations

import math
from functools import partial

import numpy as np

from spared_sc._kernels.jit import compiled
from spared_sc._kernels.threads import run_chunks

_ENTRIES = 4096  # of a chunk
_MANY = 300.0  # expected counts, or a thousand times the size, from which counts are summed in blocks


def truncated_moments(
    rate: np.ndarray, size: np.ndarray, scale: np.ndarray, *, n_threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of log2(1 + c k) for negative binomial counts c >= 1, (n_spots, n_genes) float32.

    `rate` (n_spots, n_genes) are the expected counts, zeros included, and `scale` the k, what one count adds to the
    scaled expression. `size` (n_genes,) gives the variance rate + rate^2 / size; it is infinite for Poisson counts.
    """
    mean, sd = np.empty(rate.shape, dtype=np.float32), np.empty(rate.shape, dtype=np.float32)
    rate, size, scale = (block.astype(np.float64) for block in (rate, np.minimum(size, 1e6), scale))
    chunk = 1 + _ENTRIES // (1 + rate.shape[1])
    run_chunks(partial(_moments, rate, size, scale, mean, sd), len(rate), chunk, n_threads)
    return mean, sd


def detected_moments(
    log_rate: np.ndarray, log_rate_sd: np.ndarray, size: np.ndarray, scale: np.ndarray, *, n_threads: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """The same for rates that are known with an uncertainty.

    `log_rate` is the logarithm of their mean, and `log_rate_sd` the standard deviation of their logarithm, which is
    normal. The moments are those of the posterior given that the count is above zero, by three points of Gauss-Hermite
    quadrature. All arrays but `size` are (n_spots, n_genes).
    """
    mean, sd = np.empty(log_rate.shape, dtype=np.float32), np.empty(log_rate.shape, dtype=np.float32)
    size = np.minimum(size, 1e6).astype(np.float64)
    chunk = 1 + _ENTRIES // (1 + log_rate.shape[1])
    kernel = partial(_uncertain_moments, log_rate, log_rate_sd, size, scale, mean, sd)
    run_chunks(kernel, len(log_rate), chunk, n_threads)
    return mean, sd


@compiled
def _moments(rate, size, scale, mean, sd, start, stop):
    for s in range(start, stop):
        for g in range(rate.shape[1]):
            first, second = _sum(rate[s, g], size[g], scale[s, g])
            mean[s, g] = first
            sd[s, g] = math.sqrt(max(second - first * first, 0.0))


@compiled
def _uncertain_moments(log_rate, log_rate_sd, size, scale, mean, sd, start, stop):
    for s in range(start, stop):
        for g in range(log_rate.shape[1]):
            width, theta = np.float64(log_rate_sd[s, g]), size[g]
            middle = np.float64(log_rate[s, g]) - width * width / 2
            total, first, second = 0.0, 0.0, 0.0
            for point in range(-1, 2):
                rate = math.exp(middle + point * math.sqrt(3.0) * width)
                detected = -math.expm1(-theta * math.log1p(rate / theta))
                weight = (2 / 3 if point == 0 else 1 / 6) * max(detected, 1e-12)
                one, two = _sum(rate, theta, np.float64(scale[s, g]))
                total += weight
                first += weight * one
                second += weight * two
            first, second = first / total, second / total
            mean[s, g] = first
            sd[s, g] = math.sqrt(max(second - first * first, 0.0))


@compiled
def _sum(rate, size, scale):
    """First and second moment of one entry."""
    rate = max(rate, 1e-6)
    if rate > _MANY or rate > 1000 * size:
        return _sum_of_blocks(rate, size, scale)
    return _sum_of_counts(rate, size, scale)


@compiled
def _sum_of_counts(lam, theta, k):
    """First and second moment."""
    ratio = lam / (theta + lam)
    zero = math.exp(-theta * math.log1p(lam / theta))
    p = ratio * theta * zero  # of one count
    above = -math.expm1(-theta * math.log1p(lam / theta))
    c, mass, first, second = 1, 0.0, 0.0, 0.0
    while mass < above * (1 - 1e-6) and c < 20000:
        value = math.log2(1 + c * k)
        mass += p
        first += p * value
        second += p * value * value
        p *= (c + theta) / (c + 1) * ratio
        c += 1
    return first / mass, second / mass


@compiled
def _sum_of_blocks(lam, theta, k):
    """The same, where counts that are near each other beside the spread of the distribution are taken together."""
    spread = math.sqrt(1 / lam + 1 / theta)
    step = min(0.1 * spread, 0.05)
    log_zero = -theta * math.log1p(lam / theta)
    log_ratio = -math.log1p(theta / lam)
    c = max(1.0, math.floor(lam * (1 - 8 * spread)))
    mass, first, second = 0.0, 0.0, 0.0
    while True:
        width = max(1.0, math.floor(step * c))
        middle = c + (width - 1) / 2
        log_p = log_zero + math.lgamma(middle + theta) - math.lgamma(theta) - math.lgamma(middle + 1)
        p = width * math.exp(log_p + middle * log_ratio)
        value = math.log2(1 + middle * k)
        mass += p
        first += p * value
        second += p * value * value
        c += width
        if c > lam and p < 1e-9 * mass:
            return first / mass, second / mass
