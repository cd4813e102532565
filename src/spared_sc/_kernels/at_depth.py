"""What the depth and the library of a spot say of its counts, without neighbours and without other genes."""

from __future__ import annotations

import numpy as np

from spared_sc._kernels.metrics import ratio
from spared_sc._kernels.sections import Sections
from spared_sc._kernels.truncated import truncated_moments

_LEAST_DISPERSION = 1e-3
_MOST_HIDDEN = 0.95  # of the counts
_STEPS = 50
_TOLERANCE = 1e-4  # of the hidden share


def rate_at_depth(by_depth: np.ndarray, of_library: np.ndarray, of_all: np.ndarray) -> np.ndarray:
    """Expected counts at the depth, times what the library's share of the gene is beside its share of all counts."""
    return by_depth.astype(np.float64) * ratio(of_library.astype(np.float64), of_all, default=1.0)


def detected_values(visible: Sections, rate: np.ndarray) -> np.ndarray:
    """Mean of log2(1 + count x scale) given a count above zero, (n_spots, n_genes) float32.

    Counts are negative binomial, with one dispersion per gene, by moments. `rate` are the counts expected among the
    visible ones. Entries may be hidden, so that true rates are higher by a factor: it is the one at which known entries
    have the counts that are expected of detected ones. A gene without known entries is taken for a typical one.
    """
    counts, known = visible.need_counts(), visible.known
    rate = rate * (visible.whole_depth() / np.maximum(counts.depth, 1))[:, None]
    seen = known.any(axis=0)
    if seen.any():
        rate[:, ~seen] = rate[:, seen].mean(axis=1, keepdims=True)
    first, second = rate.sum(axis=0), (rate**2).sum(axis=0)
    squares = (counts.values.astype(np.float64) ** 2).sum(axis=0)
    found, expected = counts.values.sum(where=known, dtype=np.float64), rate[known]
    gene = np.nonzero(known)[1]

    def size(hidden: float) -> np.ndarray:
        left = 1 - hidden
        return _size(squares / left, first / left, second / left**2)

    hidden = 0.0
    for _ in range(_STEPS):
        of_entry, true = size(hidden)[gene], expected / (1 - hidden)
        detected = -np.expm1(-of_entry * np.log1p(true / of_entry))
        total = float(ratio(true, detected, default=1.0).sum())
        before, hidden = hidden, float(np.clip(1 - (1 - hidden) * total / max(found, 1e-12), 0, _MOST_HIDDEN))
        if abs(hidden - before) < _TOLERANCE:
            break
    return truncated_moments(rate / (1 - hidden), size(hidden), visible.count_scale())[0]


def size_by_moments(counts: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Size of negative binomial counts (n_spots, n_genes) with these means: their variance is rate + rate^2 / size."""
    squares, second = ((x.astype(np.float64) ** 2).sum(axis=0) for x in (counts, rate))
    return _size(squares, rate.sum(axis=0, dtype=np.float64), second)


def _size(squares: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The same from sums over the spots: of the squared counts, of the means, and of their squares."""
    return 1 / np.maximum(ratio(squares - second - first, second, default=0.0), _LEAST_DISPERSION)
