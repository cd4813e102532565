"""_images/tissue."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.images import PINK, slide
from spared_sc._images.tissue import otsu, share_within, tissue_mask


def test_tissue_mask():
    image, tissue = slide()
    found = tissue_mask(image)
    assert (found & tissue).sum() / (found | tissue).sum() > 0.95
    assert not found[15:35].any()  # fiducials
    assert not found[445:460, 295:310].any()  # the speck
    assert not found[165:175, 205:235].any()  # the hole
    assert not tissue_mask(np.full((100, 120, 3), 235, np.uint8)).any()
    assert tissue_mask(np.full((100, 120, 3), PINK, np.uint8)).all()


def test_otsu():
    filters = pytest.importorskip("skimage.filters")
    generator = np.random.default_rng(0)
    values = np.concatenate([generator.normal(0.1, 0.03, 4000), generator.normal(0.5, 0.1, 1500)])
    assert otsu(values) == pytest.approx(filters.threshold_otsu(values), abs=np.ptp(values) / 256)


def test_share_within():
    mask = np.random.default_rng(0).random((40, 50)) < 0.5
    centres = np.array([[10.5, 12.5], [0.5, 0.5], [49.9, 39.9], [25.2, 20.8]])
    y, x = np.mgrid[:40, :50]
    for diameter in (0, 1, 7, 12.4):
        got = share_within(mask, centres, diameter)
        for centre, share in zip(np.floor(centres), got, strict=True):
            near = np.hypot(x - centre[0], y - centre[1]) <= diameter / 2
            full = sum(
                np.hypot(i, j) <= diameter / 2 for i in range(-10, 11) for j in range(-10, 11)
            )  # what lies outside counts as glass
            assert share == pytest.approx((mask & near).sum() / full)
