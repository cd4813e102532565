"""Scores on hidden entries."""

from __future__ import annotations

import numpy as np


def masked_mse(truth: np.ndarray, estimate: np.ndarray, mask: np.ndarray) -> float:
    """Mean squared error over the entries where `mask` is true; NaN where there are none."""
    if not mask.any():
        return float("nan")
    error = truth[mask].astype(np.float64) - estimate[mask]
    return float(np.mean(error**2))
