"""Tissue on a slide."""

from __future__ import annotations

import numpy as np

_BINS = 256
# Limits of the difference between glass and stained tissue: without them, a slide full of tissue would be split in two.
_LOWEST, _HIGHEST = 0.04, 0.1
_SMOOTH = 1 / 500  # standard deviation of the smoothing, as a share of the longer side
_SPECK = 1 / 2000  # smallest piece of tissue, as a share of the image
_MOST_STEPS = 32  # from the centre of a circle to its rim
_HOLE = 1 / 5000  # smallest hole


def tissue_mask(image: np.ndarray) -> np.ndarray:
    """Boolean mask (y, x) of the tissue in a thumbnail of an H&E image, uint8 (y, x, 3).

    Tissue is coloured: its stains take different shares of red, green and blue light, which glass, pen-like black marks
    and shadows do not. The measure is the range of the optical densities of the three colours; its threshold is Otsu's
    (1979). Small pieces and holes are ignored.
    """
    from scipy.ndimage import gaussian_filter

    colour = _colour(image)
    colour = gaussian_filter(colour, max(0.5, _SMOOTH * max(colour.shape)))
    mask = colour > np.clip(otsu(colour), _LOWEST, _HIGHEST)
    mask = _without_small(mask, _SPECK * mask.size)
    return ~_without_small(~mask, _HOLE * mask.size)


def _colour(image: np.ndarray) -> np.ndarray:
    """Range of the optical densities of red, green and blue; 0 for white, grey and black."""
    light = image.astype(np.float32) + 1
    # The glass is brightest, apart from reflections. A slide full of tissue has none, hence the limit.
    glass = np.maximum(np.percentile(light.reshape(-1, 3), 99, axis=0), 200)
    density = np.log(np.maximum(glass / light, 1))
    return density.max(axis=2) - density.min(axis=2)


def otsu(values: np.ndarray) -> float:
    """Threshold that makes the variance between the two classes largest (Otsu, 1979)."""
    counts, edges = np.histogram(values, bins=_BINS)
    middle = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(counts).astype(float)
    above = below[-1] - below
    sums = np.cumsum(counts * middle)
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between[:-1])]) if np.isfinite(between[:-1]).any() else float(edges[-1])


def _without_small(mask: np.ndarray, smallest: float) -> np.ndarray:
    """The mask without pieces of fewer pixels."""
    from scipy.ndimage import label

    pieces, _ = label(mask)
    large = np.bincount(pieces.ravel()) >= smallest
    large[0] = False
    return large[pieces]


def share_within(mask: np.ndarray, centres: np.ndarray, diameter: float) -> np.ndarray:
    """Share of tissue within a circle around each position (x, y) of a mask; there is none outside the mask."""
    reach = int(diameter / 2)
    step = max(1, reach // _MOST_STEPS)  # of large circles every so-manyth pixel is looked at
    steps = np.arange(-(reach // step) * step, reach + 1, step)
    dx, dy = (step.ravel() for step in np.meshgrid(steps, steps))
    circle = np.hypot(dx, dy) <= diameter / 2
    x, y = np.floor(centres).astype(int).T
    height, width = mask.shape
    total = np.zeros(len(centres))
    for across, down in zip(dx[circle], dy[circle], strict=True):
        column, row = x + across, y + down
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        total += inside & mask[np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return total / circle.sum()
