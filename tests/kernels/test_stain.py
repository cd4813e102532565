"""_kernels/stain."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import nnls

from spared_sc._kernels.stain import REFERENCE, REFERENCE_STRENGTH, brightness_of_glass, to_reference

STAINS = np.array([[0.75, 0.58, 0.32], [0.42, 0.81, 0.42]])
STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def amounts(n=40_000, seed=0) -> np.ndarray:
    """Amounts of two stains in pixels: nuclei, fibres, and mixtures."""
    rng = np.random.default_rng(seed)
    amount = rng.gamma(3, 0.3, (n, 2))
    amount[: n // 4, 1] *= 0.01
    amount[n // 4 : n // 2, 0] *= 0.01
    return amount


def painted(amount, stains=STAINS, glass=(246.0, 240.0, 236.0)) -> tuple[np.ndarray, np.ndarray]:
    """An image of 200 columns, its lower half glass, and the mask of the tissue."""
    light = np.asarray(glass) * np.exp(-(amount @ stains)) - 1
    tissue = np.clip(np.rint(light), 0, 255).astype(np.uint8).reshape(-1, 200, 3)
    empty = np.broadcast_to(np.asarray(glass) - 1, tissue.shape).astype(np.uint8)
    mask = np.zeros((2 * len(tissue), 200), dtype=bool)
    mask[: len(tissue)] = True
    return np.concatenate([tissue, empty]), mask


def test_known_amounts_get_the_colours_of_the_reference():
    amount = amounts()
    image, mask = painted(amount)
    recolour, measured = to_reference(image, mask)
    assert measured
    assert_allclose(brightness_of_glass(image), (246, 240, 236))
    strength = np.percentile(amount[(amount @ STAINS > 0.15).all(axis=1)], 99, axis=0)
    expected = 256 * np.exp(-((amount * REFERENCE_STRENGTH / strength) @ REFERENCE)) - 1
    got = recolour(image)[mask].astype(float)
    assert np.abs(got - np.clip(expected, 0, 255)).mean() < 3
    assert (recolour(image)[~mask] == 255).all()


def test_stains_are_those_of_the_published_steps():
    """Singular vectors of the covariance, extreme angles and non-negative amounts, written out pixel by pixel."""
    image, mask = painted(amounts(4_000))
    density = -np.log((image[mask].astype(float) + 1) / (246, 240, 236))
    density = density[(density > 0.15).all(axis=1)]
    plane = np.linalg.svd(np.cov(density.T))[0][:, :2]
    plane[:, 0] *= np.sign(plane[:, 0].sum())
    angles = [np.arctan2(d @ plane[:, 1], d @ plane[:, 0]) for d in density]
    ends = [plane @ (np.cos(a), np.sin(a)) for a in np.percentile(angles, [1, 99])]
    stains = np.array(sorted(ends, key=lambda end: -end[0]))
    amount = np.linalg.lstsq(stains.T, density.T, rcond=None)[0].T
    scale = REFERENCE_STRENGTH / np.percentile(amount, 99, axis=0)
    recolour, _ = to_reference(image, mask)
    for pixel in image[mask][::400]:
        found = nnls(stains.T, np.maximum(-np.log((pixel + 1.0) / (246, 240, 236)), 0))[0]
        if (found > 0).all():
            expected = 256 * np.exp(-(found * scale) @ REFERENCE) - 1
            assert np.abs(recolour(pixel).astype(float) - np.clip(expected, 0, 255)).max() <= 3


@pytest.mark.parametrize("change", ["strength", "colour", "glass"])
def test_another_staining_of_the_same_tissue_gives_the_same_colours(change):
    amount = amounts()
    stains = np.array([[0.65, 0.70, 0.29], [0.30, 0.85, 0.40]]) if change == "colour" else STAINS
    glass = (250.0, 230.0, 215.0) if change == "glass" else (246.0, 240.0, 236.0)
    one, mask = painted(amount)
    other, _ = painted(amount * ((1.3, 0.8) if change == "strength" else 1), stains, glass)
    before, after = (np.abs(a.astype(float) - b).mean() for a, b in ((one, other), _recoloured(one, other, mask)))
    assert after < 4
    assert after < before / 2


def _recoloured(one, other, mask):
    return tuple(to_reference(image, mask)[0](image) for image in (one, other))


def test_a_part_of_the_pixels_is_enough_for_the_same_stains():
    amount = amounts()
    image, mask = painted(amount)
    whole, _ = to_reference(image, mask)
    part = mask & (np.random.default_rng(1).random(mask.shape) < 0.05)
    few, measured = to_reference(image, part)
    assert measured
    assert np.abs(whole(image).astype(float) - few(image)).mean() < 3


def test_without_two_stains_only_glass_is_brought_to_white():
    image, mask = painted(amounts())
    few = mask & (np.cumsum(mask).reshape(mask.shape) <= 900)
    single, _ = painted(amounts() * (1, 0))
    for picture, part in ((image, few), (image, np.zeros_like(mask)), (single, mask)):
        recolour, measured = to_reference(picture, part)
        assert not measured
        expected = 256 * (picture + 1.0) / brightness_of_glass(picture) - 1
        assert np.abs(recolour(picture) - np.clip(expected, 0, 255)).max() <= 0.51
