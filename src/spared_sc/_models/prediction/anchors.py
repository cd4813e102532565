"""Anchors: predictors without an image, which every score is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._models.prediction.registry import PREDICTORS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spared_sc._core.compute import Compute
    from spared_sc._kernels.folds import Fold
    from spared_sc._models.prediction.base import Spots


def predict_anchor(name: str, spots: Spots, folds: Sequence[Fold], compute: Compute) -> np.ndarray:
    """Predictions of all spots, each by the fit of its fold: float32 (n_spots, n_genes)."""
    result = np.empty(spots.targets()[0].shape, dtype=np.float32)
    for fold in folds:
        predictor = PREDICTORS.make(name, {})
        predictor.fit(spots.take(np.flatnonzero(fold.train[spots.library])), None, compute)
        rows = np.flatnonzero(fold.predicted[spots.library])
        result[rows] = predictor.predict(spots.take(rows), compute)
    return result
