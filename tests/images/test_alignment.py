"""_images/alignment."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.images import section, slide
from spared_sc._images.alignment import _agreement


def test_agreement_is_the_correlation_of_tissue_and_spots():
    tissue = slide()[1]
    spots = section().obsm["spatial"] / 4
    phi, covered = _agreement(tissue, spots, 20.0)
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
    left, top = np.floor(spots.min(axis=0) - 30).astype(int).clip(0)
    right, bottom = np.ceil(spots.max(axis=0) + 30).astype(int)
    near = np.zeros(tissue.shape, bool)
    for px, py in np.floor(spots):
        near |= np.hypot(x - px, y - py) < 14
    near, part = near[top:bottom, left:right], tissue[top:bottom, left:right]
    assert phi == pytest.approx(np.corrcoef(near.ravel(), part.ravel())[0, 1])
    assert covered == pytest.approx((near & part).sum() / part.sum())
