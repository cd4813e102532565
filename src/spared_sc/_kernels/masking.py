"""Choose detected entries to hide, for training and for scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def hide_detected(detected: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Hide a share of the detected entries, each with the same chance.

    Parameters
    ----------
    detected
        (n_spots, n_genes) booleans.
    share
        Between 0 and 1.
    rng
        Source of randomness.

    Returns
    -------
    (n_spots, n_genes) booleans, true where a detected entry is to be hidden.
    """
    return detected & (rng.random(detected.shape) < share)
