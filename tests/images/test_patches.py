"""_images/patches."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.images import RECIPE, patches_of, smooth
from spared_sc._images.patches import Patches
from spared_sc._images.source import open_image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


def test_a_patch_on_whole_pixels_is_the_image_itself(image):
    patch = patches_of(image, [[100, 50], [8, 292]], 16, 16).read([0, 1])
    assert np.array_equal(patch[0], image[42:58, 92:108])
    mirrored = np.pad(image, ((20, 20), (20, 20), (0, 0)), mode="symmetric")
    assert np.array_equal(patch[1], mirrored[304:320, 20:36])


@pytest.mark.parametrize("centre", [(0, 0), (400, 300), (0, 300), (3.2, 150), (399.5, 4.7)])
def test_borders_are_mirrored(image, centre):
    mirrored = np.pad(image, 100, mode="symmetric")[:, :, 100:103]
    here = patches_of(image, [centre], 41.3, 16).read([0])
    there = patches_of(mirrored, [np.add(centre, 100)], 41.3, 16).read([0])
    assert np.array_equal(here, there)


def test_shrinking_weighs_all_pixels():
    """Against the triangle filter, written out: weights fall to zero at one output pixel's distance."""
    image = np.random.default_rng(1).integers(0, 256, (60, 60, 3)).astype(np.uint8)
    centre, length, side = (31.3, 28.9), 30.6, 9
    got = patches_of(image, [centre], length, side).read([0])[0]
    step = length / side
    expected = np.empty((side, side, 3))
    weights = []
    for axis in (1, 0):
        middle = centre[axis] - length / 2 + (np.arange(side) + 0.5) * step
        w = np.clip(1 - np.abs((np.arange(60) + 0.5 - middle[:, None]) / step), 0, None)
        weights.append(w / w.sum(axis=1, keepdims=True))
    for channel in range(3):
        expected[..., channel] = weights[0] @ image[..., channel] @ weights[1].T
    assert np.abs(got - expected).max() <= 1.5


def test_parts_of_a_pixel_count():
    ramp = np.repeat(np.arange(100, dtype=np.uint8)[None, :, None] * 2, 50, axis=0).repeat(3, axis=2)
    patch = patches_of(ramp, [[40.0, 25.0], [40.5, 25.0], [41.0, 25.0]], 10, 20).read([0, 1, 2])
    # The pixel in column j has the value 2 j at its middle j + 1/2; the patch's column 10 has its middle at x + 1/4.
    assert np.abs(patch[:, 10, 10, 0] - 2 * (np.array([40, 40.5, 41]) + 0.25 - 0.5)).max() <= 0.5


@pytest.mark.parametrize("n_threads", [1, 3])
def test_batches_threads_and_order_change_nothing(image, n_threads):
    centres = np.random.default_rng(0).uniform(0, 300, (40, 2))
    whole = patches_of(image, centres, 33.3, 24).read(np.arange(40))
    other = patches_of(image, centres, 33.3, 24, n_threads=n_threads)
    order = np.random.default_rng(1).permutation(40)
    assert np.array_equal(other.read(order), whole[order])
    assert np.array_equal(np.concatenate([other.read([i]) for i in range(40)]), whole)
    assert other.fingerprint() == patches_of(image, centres, 33.3, 24).fingerprint()
    assert other.fingerprint() != patches_of(image, centres + 2, 33.3, 24).fingerprint()
    assert other.fingerprint([1, 2]) != other.fingerprint([2, 1])


def test_a_fingerprint_sees_every_library():
    n = 40
    images, scales = [smooth(40, 40, seed) for seed in range(n)], np.linspace(0.5, 1, n)
    library = np.random.default_rng(0).permutation(np.repeat(np.arange(n), 3))
    library = np.append(library, np.zeros(200, int))  # most spots are of one
    centres = np.random.default_rng(1).uniform(10, 30, (len(library), 2))

    def fingerprint(images, scales):
        sources = {f"library_{i}": {"patch_px": 16.0, "um_per_px": um} for i, um in enumerate(scales)}
        recipe = {**RECIPE, "sources": sources}
        return Patches([open_image(one) for one in images], library, centres, [16] * n, 16, recipe).fingerprint()

    whole = fingerprint(images, scales)
    assert whole == fingerprint(images, scales)
    for i in range(n):
        assert fingerprint([one[::-1] if j == i else one for j, one in enumerate(images)], scales) != whole
        assert fingerprint(images, [2 * um if j == i else um for j, um in enumerate(scales)]) != whole
