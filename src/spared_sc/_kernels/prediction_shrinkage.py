"""Shrinkage of predictions toward each gene's share, as far as the counts of held-out sections support them."""

from __future__ import annotations

import numpy as np

from spared_sc._kernels.lowrank import members
from spared_sc._kernels.metrics import ratio
from spared_sc._kernels.shrinkage import fit_weights, gains, posterior_weights, restored, shrunk

_LEAST = 0.02  # of a predicted level, relative to the gene's share: a logarithm needs one
_TINY = 1e-12
_LEAST_EVIDENCE = 2.0  # standard errors of the pattern of all genes together, or else all are flat
_LEAST_BLOCK, _MOST_SIDE = 16, 5  # spots of a block, and blocks along a side of a library


def level(counts: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Scaled expression of every gene, float64 (n_genes,), if its share were the same in all spots.

    `exposure` (n_spots, n_genes) is the count that a scaled expression of one gives.
    """
    return ratio(counts.sum(axis=0, dtype=np.float64), exposure.sum(axis=0, dtype=np.float64), default=0.0)


def expected_counts(values: np.ndarray, exposure: np.ndarray) -> np.ndarray:
    """Counts that are expected of values log2(1 + count / exposure), (n_spots, n_genes); those below zero count as zero."""
    return np.expm1(np.maximum(values, 0) * np.log(2)) * exposure


def prediction_weights(
    counts: np.ndarray, exposure: np.ndarray, predicted: np.ndarray, library: np.ndarray, position: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Weight of every gene's predicted pattern, 0 (flat) to 1, and its skill, (n_genes,).

    `predicted` is log2(1 + scaled expression) of spots that had no part in the fit, and `counts` are their raw counts. The
    skill is the share of the Poisson deviance that the prediction explains beyond depth times the gene's share in the
    library, with the prediction at the library's level. A weight maximises the likelihood; over the genes, weights are
    normal with a mean and a variance that are learned. All are zero where the genes together show no pattern. Errors of
    neighbouring spots are correlated, so blocks of spots are the independent units.
    """
    library = np.unique(library, return_inverse=True)[1]
    rate, share = _expected(counts, exposure, predicted, library)
    weight, information = fit_weights(counts, rate, share, library)
    total, gain, _ = gains(counts, rate, share)
    pattern, block = np.log(rate / share), members(blocks(library, position))
    of_all = np.asarray(block @ _scores(counts, share, pattern, library)).sum(axis=1)
    if of_all.sum() <= _LEAST_EVIDENCE * np.sqrt((of_all**2).sum()):
        weight = np.zeros_like(weight)
    else:
        expected = shrunk(rate, share, np.clip(weight, 0, 1), library)
        variance = (np.asarray(block @ _scores(counts, expected, pattern, library)) ** 2).sum(axis=0)
        weight = posterior_weights(weight, np.sqrt(np.maximum(variance, information)) / information)
    return weight.astype(np.float32), ratio(gain, total, default=0.0).astype(np.float32)


def blocks(library: np.ndarray, position: np.ndarray | None) -> np.ndarray:
    """Block of every spot: strips of a library along x, cut along y, with equal numbers of spots; without positions, runs."""
    result, n = np.empty(len(library), dtype=int), 0
    for code in np.unique(library):
        here = np.flatnonzero(library == code)
        side = int(np.clip(np.sqrt(len(here) / _LEAST_BLOCK), 1, _MOST_SIDE))
        if position is None:
            of_library = np.arange(len(here)) * side**2 // len(here)
        else:
            strip = _quantiles(position[here, 0], side)
            of_library = strip * side
            for number in range(side):
                of_library[strip == number] += _quantiles(position[here, 1][strip == number], side)
        result[here] = n + of_library
        n += side**2
    return np.unique(result, return_inverse=True)[1]


def _quantiles(values: np.ndarray, n: int) -> np.ndarray:
    """Number of the part that each value is in, of `n` equally large parts."""
    return np.argsort(np.argsort(values, kind="stable")) * n // max(len(values), 1)


def _expected(
    counts: np.ndarray, exposure: np.ndarray, predicted: np.ndarray, library: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Counts that a prediction expects, at the level of the library, and those of the gene's share there."""
    overall, of_library = level(counts, exposure), members(library)
    found, exposed = of_library @ counts.astype(np.float64), of_library @ exposure.astype(np.float64)
    # One count at the share of all libraries is the prior of a library's.
    levels = (found + 1) / (exposed + 1 / np.maximum(overall, _TINY))
    share = (exposure * levels[library]).astype(np.float32)
    rate = exposure * (np.exp2(np.maximum(predicted, np.log2(1 + _LEAST * overall))) - 1)
    return restored(np.maximum(rate, _TINY).astype(np.float32), share, library), share


def _scores(counts: np.ndarray, expected: np.ndarray, pattern: np.ndarray, library: np.ndarray) -> np.ndarray:
    """What every entry says of the weight of the gene's pattern, the sum over a library being given."""
    of_library = members(library)
    weighted = expected.astype(np.float64)
    mean = ratio(of_library @ (weighted * pattern), of_library @ weighted, default=0.0)
    return (counts - weighted) * (pattern - mean[library])
