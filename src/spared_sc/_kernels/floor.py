"""Noise floor: the squared error that remains for every method, because counts are drawn at random."""

from __future__ import annotations

import numpy as np
from scipy.special import lambertw

from spared_sc._kernels.sections import Sections
from spared_sc._kernels.truncated import truncated_moments

_LEAST_DISPERSION = 1e-3  # of a gene; below it the other half says nothing that the prior mean does not


def noise_variances(sections: Sections, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two estimates of the sampling variance of every detected entry, (n_spots, n_genes), zero elsewhere.

    Given its rate, an entry is log2(1 + c k) of a zero-truncated Poisson count c, and its variance is the error that
    remains when everything else is known. The rates are not known.

    The first estimate takes the rate from a thinned half of the counts: twice the mean of the gamma posterior whose
    prior mean is the library's share of the gene times the depth of the spot, with one dispersion per gene, by moments.
    The second takes the rate for which the zero-truncated Poisson expects the entry's own count. It is zero where that
    count is one, so this estimate is too low, the more so the fewer the counts.

    The two means over hidden entries are a range of the smallest possible mean squared error. On synthetic sections of
    0.2 to 16 counts per entry, with and without additional overdispersion, the higher end was between 7 % below and 8 %
    above the floor at the true rates, and the lower end 14 to 39 % below it: the higher end is the better guess.

    Nothing may be hidden in the sections, and their values must be log2(1 + scaled count). `rng` thins the counts.
    """
    known = sections.known
    scale = _scale(sections)[known]
    result = []
    for rate in (_rates_of_half(sections, rng)[known], truncated_rate(sections.need_counts().values[known])):
        _, sd = truncated_moments(rate[:, None], np.array([np.inf]), scale[:, None])
        variance = np.zeros(known.shape, dtype=np.float32)
        variance[known] = sd[:, 0] ** 2
        result.append(variance)
    return result[0], result[1]


def _scale(sections: Sections) -> np.ndarray:
    """What one count adds to the scaled expression: exact where known, zero elsewhere."""
    scaled = np.expm1(sections.values * np.log(2.0))
    return np.divide(scaled, sections.need_counts().values, out=np.zeros_like(scaled), where=sections.known)


def is_log2_of_counts(sections: Sections) -> bool:
    """Whether the values are log2(1 + count x scale of the spot x scale of the gene), as after TPM or CPM.

    Then what one count adds differs between two genes by the same factor in every spot.
    """
    known = sections.known
    scale = _scale(sections)
    reference = int(known.sum(axis=0).argmax())
    both = known & known[:, [reference]] & (scale > 0) & (scale[:, [reference]] > 0)
    ratio = np.divide(scale, scale[:, [reference]], out=np.ones_like(scale), where=both)
    lowest = np.min(ratio, axis=0, where=both, initial=np.inf)
    highest = np.max(ratio, axis=0, where=both, initial=0)
    return bool((highest <= 1.01 * lowest).all() and (scale[known] >= 0).all())


def truncated_rate(counts: np.ndarray) -> np.ndarray:
    """Maximum-likelihood rate of a zero-truncated Poisson variable from one count of at least one.

    It solves rate / (1 - exp(-rate)) = count, so rate = count + W(-count exp(-count)), with W the principal branch of
    Lambert's function.
    """
    counts = np.asarray(counts, dtype=np.float64)
    rate = counts + lambertw(-counts * np.exp(-counts)).real
    return np.where(counts > 1, rate, 0.0)  # the branch point, where W is not accurate


def _rates_of_half(sections: Sections, rng: np.random.Generator) -> np.ndarray:
    """Rates at full depth from a half of the counts."""
    half, _ = sections.thinned(rng)
    counts, depth = half.need_counts().values, half.need_counts().depth
    prior = np.empty(counts.shape)
    for code in range(sections.n_libraries):
        rows = sections.library == code
        share = counts[rows].sum(axis=0, dtype=np.float64) / max(depth[rows].sum(), 1.0)
        prior[rows] = depth[rows, None] * share
    excess = ((counts - prior) ** 2 - prior).sum(axis=0)
    squares = np.maximum((prior**2).sum(axis=0), np.finfo(float).tiny)
    size = 1 / np.maximum(excess / squares, _LEAST_DISPERSION)
    return 2 * prior * (size + counts) / (size + prior)
