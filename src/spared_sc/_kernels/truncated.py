"""Moments of log2(scaled count + 1), given that the count is above zero."""

from __future__ import annotations

import math
from functools import partial

import numba
import numpy as np

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


@numba.njit(cache=True, nogil=True)
def _moments(rate, size, scale, mean, sd, start, stop):
    for s in range(start, stop):
        for g in range(rate.shape[1]):
            lam, theta, k = max(rate[s, g], 1e-6), size[g], scale[s, g]
            if lam > _MANY or lam > 1000 * theta:
                first, second = _sum_of_blocks(lam, theta, k)
            else:
                first, second = _sum_of_counts(lam, theta, k)
            mean[s, g] = first
            sd[s, g] = math.sqrt(max(second - first * first, 0.0))


@numba.njit(cache=True)
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


@numba.njit(cache=True)
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
