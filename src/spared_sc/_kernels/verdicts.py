"""Which layer of a completion has been shown to be better than averages, gene by gene."""

from __future__ import annotations

import numpy as np
from scipy.stats import norm

COMPLETE, DENOISE, UNDECIDED = "complete", "denoise", "undecided"
_FALSE_DISCOVERIES = 0.05


def decide(given_detection: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    """Verdict of every gene, (n_genes,) strings, from evidence in standard errors; NaN says nothing.

    Each kind of evidence is tested at a false discovery rate of 5 % over the genes. Values given detection need a pattern
    in addition, as a width that fits better would be enough for them.
    """
    has_pattern = discoveries(_chance(pattern))
    complete = discoveries(_chance(given_detection)) & has_pattern
    return np.where(complete, COMPLETE, np.where(has_pattern, DENOISE, UNDECIDED)).astype(object)


def _chance(evidence: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(evidence), 1.0, norm.sf(evidence))


def discoveries(chance: np.ndarray) -> np.ndarray:
    """Which of the tests pass at a false discovery rate of 5 % (Benjamini and Hochberg, 1995)."""
    order = np.argsort(chance, kind="stable")
    passes = chance[order] <= _FALSE_DISCOVERIES * np.arange(1, chance.size + 1) / max(chance.size, 1)
    last = np.flatnonzero(passes).max(initial=-1)
    result = np.zeros(chance.size, dtype=bool)
    result[order[: last + 1]] = True
    return result
