"""Stains of an H&E image, and its colours as those of a reference."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Densities in red, green and blue of haematoxylin and of eosin, unit vectors, and their strengths: the reference of
# Macenko's method that its public implementations share.
REFERENCE = np.array([[0.5626, 0.7201, 0.4062], [0.2159, 0.8012, 0.5581]])
REFERENCE_STRENGTH = np.array([1.9705, 1.0308])
_DIMMEST = 200  # glass; a slide full of tissue shows none
_STAINED = 0.15  # least density of a stained pixel, in every colour
_EXTREME = 1.0  # percentile of the pixels' directions that is taken for a pure stain
_STRENGTH = 99.0  # percentile of the amount of a stain in a pixel
_FEWEST = 1000  # stained pixels
_APART = np.deg2rad(5)  # least angle between the stains
_MOST = 200_000  # pixels that are looked at


@dataclass(frozen=True)
class Recolouring:
    """From the colours of an image to those of the reference."""

    glass: np.ndarray  # (3,) brightness of red, green and blue without tissue, plus one
    matrix: np.ndarray  # (3, 3) from densities, a row, to densities

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels (..., 3), uint8; glass becomes white."""
        light = np.arange(1, 257, dtype=np.float32)
        table = np.log(np.maximum(self.glass.astype(np.float32) / light[:, None], 1))
        density = np.stack([table[pixels[..., colour], colour] for colour in range(3)], axis=-1)
        value = 256 * np.exp(-(density @ self.matrix.astype(np.float32))) - 1
        return np.clip(np.rint(value), 0, 255).astype(np.uint8)


def brightness_of_glass(image: np.ndarray) -> np.ndarray:
    """Brightness (3,) of the brightest pixels of a thumbnail, plus one, apart from reflections."""
    return np.maximum(np.percentile(image.reshape(-1, 3), 99, axis=0) + 1, _DIMMEST)


def to_reference(image: np.ndarray, tissue: np.ndarray) -> tuple[Recolouring, bool]:
    """The recolouring of an image by its thumbnail, uint8 (y, x, 3), and mask of the tissue (y, x); whether it was measured.

    Macenko et al. (2009): the directions of haematoxylin and eosin are the extreme directions of the densities in the
    plane of their two leading components, and the 99th percentiles of their amounts are brought to those of the
    reference. Where there are fewer than 1,000 stained pixels, or only one stain, only glass is brought to white.
    """
    glass = brightness_of_glass(image)
    density = np.log(np.maximum(glass / (image[tissue].astype(np.float64) + 1), 1))
    density = density[(density > _STAINED).all(axis=1)]
    density = density[:: max(1, len(density) // _MOST)]
    stains = _stains(density) if len(density) >= _FEWEST else None
    if stains is None:
        return Recolouring(glass, np.eye(3)), False
    unmix = np.linalg.pinv(stains)
    strength = np.percentile(density @ unmix, _STRENGTH, axis=0)
    if strength.min() <= 0:
        return Recolouring(glass, np.eye(3)), False
    return Recolouring(glass, (unmix * (REFERENCE_STRENGTH / strength)) @ REFERENCE), True


def _stains(density: np.ndarray) -> np.ndarray | None:
    """Unit vectors (2, 3) of haematoxylin, which takes more red, and eosin; `None` where there are no two stains."""
    _, axes = np.linalg.eigh(np.cov(density.T))
    plane = axes[:, [2, 1]]
    plane[:, 0] *= np.sign(density.mean(axis=0) @ plane[:, 0])
    across, along = (density @ plane[:, i] for i in (1, 0))
    angles = np.percentile(np.arctan2(across, along), [_EXTREME, 100 - _EXTREME])
    if angles[1] - angles[0] < _APART:
        return None
    stains = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T
    return stains[np.argsort(-stains[:, 0])]
