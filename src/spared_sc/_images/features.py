"""A classical embedding of H&E patches: stains, their distribution and their texture, without any learned weight."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sps

SIDE = 112  # pixels; every patch is averaged or spread to it, so that features do not depend on the patch's own side
N_LEVELS = 3  # the image, and it halved once and twice
REGIONS = ("patch", "centre")  # the whole patch, and the square of half its side in the middle
PLANES = ("red", "green", "blue", "haematoxylin", "eosin", "rest", "saturation")

# Optical densities of haematoxylin and of eosin in red, green and blue (Ruifrok and Johnston 2001, table 1; rounded
# there); the third direction is at a right angle to both and takes what neither explains.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])
# Stain densities around which the share of pixels is taken. Nuclei are above about 0.6 of haematoxylin.
KNOTS = (0.0, 0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.2)

_FLOOR = 0.01  # standard deviation of a density that is not told from noise
_BLOB = 0.03  # least height of a blob above what surrounds it, as density


def feature_names() -> tuple[str, ...]:
    """Names of the features that `classical` computes, in its order: region, feature and, of texture, level."""
    names = []
    for region in REGIONS:
        names += [f"{region}_{statistic}_{plane}" for plane in PLANES for statistic in ("mean", "sd")]
        names.append(f"{region}_correlation")
        names += [f"{region}_share_{stain}_{knot:g}" for stain in ("haematoxylin", "eosin") for knot in KNOTS]
    for level in range(N_LEVELS):
        for region in REGIONS:
            names += [
                f"{region}_{feature}_{stain}_{level}"
                for stain in ("haematoxylin", "eosin")
                for feature in ("band", "gradient", "coherence")
            ]
            names += [f"{region}_{feature}_{level}" for feature in ("band_correlation", "blobs", "blob_density")]
    return tuple(names)


def classical(patches: np.ndarray) -> np.ndarray:
    """Describe patches of H&E images by colour and texture.

    The floor for learned encoders: it needs no weights, no download and no GPU, and every feature has a meaning.

    `patches`, uint8 (n, side, side, 3), red green blue, become (n, 116) float32, always finite; `feature_names` has the
    names. A patch's features depend on nothing but the patch, and do not change when it is mirrored or turned by right
    angles.

    Notes
    -----
    A patch is brought to 112 x 112 pixels by the mean over areas, and its pixels to optical densities, -log10(value /
    255). These are unmixed into haematoxylin, eosin and a rest by the stain vectors of Ruifrok and Johnston (2001).
    Two regions are described, the whole patch and the central square of half its side, so that with patches larger
    than the spot a regression can tell the spot from what surrounds it. In each of them:

    - mean and standard deviation of the densities in red, green and blue, of the three stains, and of the saturation
      (of HSV); the correlation of haematoxylin with eosin
    - for haematoxylin and eosin, the shares of pixels around 8 densities. A pixel between two of them counts for both, in
      proportion, so that a small change of the staining moves the shares little

    and at 3 scales (the stain planes at 112, 56 and 28 pixels), after a binomial blur:

    - band: log energy of the difference between the blurred plane and the plane blurred twice more
    - gradient: log mean length of the gradient
    - coherence: how much gradients within a few pixels share a direction (Bigun and Granlund 1987; 0: none, 1: all,
      as in fibres), whichever direction that is
    - band_correlation: correlation of the two stains' bands
    - blobs, blob_density: square root of the maxima of haematoxylin's band per pixel, and the mean density of
      haematoxylin at them: nuclei, or groups of nuclei, depending on the scale

    References
    ----------
    Ruifrok and Johnston (2001), Quantification of histochemical staining by color deconvolution, Analytical and
    Quantitative Cytology and Histology 23, 291-299. Bigun and Granlund (1987), Optimal orientation detection of linear
    symmetry, Proceedings of the IEEE First International Conference on Computer Vision, 433-438.
    """
    patches = np.asarray(patches)
    if patches.ndim != 4 or patches.shape[1] != patches.shape[2] or patches.shape[3] != 3 or patches.shape[1] < 1:
        raise ValueError(f"patches have the shape {patches.shape}: expected (n, side, side, 3).")
    if patches.dtype != np.uint8:
        raise ValueError(f"patches are {patches.dtype}: expected uint8, values of red, green and blue from 0 to 255.")
    areas, unmix = _areas(patches.shape[1]), _unmixing()
    out = np.empty((len(patches), len(feature_names())), dtype=np.float32)
    # One by one: what is worked on fits into the processor's cache, and no patch can depend on another.
    for row, patch in zip(out, patches, strict=True):
        row[:] = _describe(_resized(patch, areas), unmix)
    return out


def _unmixing() -> np.ndarray:
    """Matrix that takes the densities of red, green and blue, a column, to haematoxylin, eosin and the rest."""
    stains = np.vstack([_STAINS, np.cross(*_STAINS)])
    return np.linalg.inv(stains / np.linalg.norm(stains, axis=1, keepdims=True)).T.astype(np.float32)


def _areas(side: int) -> sps.csr_array:
    """Shares (SIDE, side) that the pixels along a side have in the output pixels, by the length of their overlap."""
    edges, start = np.arange(SIDE + 1) * (side / SIDE), np.arange(side)
    overlap = np.minimum(edges[1:, None], start + 1) - np.maximum(edges[:-1, None], start)
    return sps.csr_array(np.maximum(overlap, 0) * (SIDE / side), dtype=np.float32)


def _resized(patch: np.ndarray, areas: sps.csr_array) -> np.ndarray:
    """The patch at `SIDE` x `SIDE` pixels, each the mean over the area that it covers: (3, SIDE, SIDE) float32."""
    side = len(patch)
    rows = areas @ patch.reshape(side, side * 3).astype(np.float32)
    columns = rows.reshape(SIDE, side, 3).transpose(1, 2, 0).reshape(side, 3 * SIDE)
    return (areas @ columns).reshape(SIDE, 3, SIDE).transpose(1, 2, 0)


def _describe(image: np.ndarray, unmix: np.ndarray) -> list[float]:
    """Features of a patch at `SIDE` x `SIDE` pixels."""
    planes = np.empty((len(PLANES), SIDE, SIDE), dtype=np.float32)
    planes[:3] = -np.log10(np.maximum(image, 1) / 255)
    planes[3:6] = np.einsum("sc,cij->sij", unmix, planes[:3])
    highest = image.max(axis=0)
    planes[6] = (highest - image.min(axis=0)) / np.maximum(highest, 1)
    features = [value for border in (0, SIDE // 4) for value in _colour(_inner(planes, border))]
    stains = planes[3:5]
    for level in range(N_LEVELS):
        stains = _halved(stains) if level else stains
        features += _texture(stains)
    return features


def _inner(planes: np.ndarray, border: int) -> np.ndarray:
    """The planes without their border."""
    return planes[..., border : planes.shape[-2] - border, border : planes.shape[-1] - border]


def _colour(planes: np.ndarray) -> list[float]:
    """Means, standard deviations, the correlation of the stains, and shares of pixels by density."""
    flat = planes.reshape(len(planes), -1)
    mean = flat.mean(axis=1)
    centred = flat - mean[:, None]
    sd = np.sqrt((centred**2).mean(axis=1))
    features = list(np.column_stack([mean, sd]).ravel())
    features.append(_correlation((centred[3] * centred[4]).mean(), sd[3] ** 2, sd[4] ** 2))
    for density in flat[3:5]:
        place = np.interp(density, KNOTS, np.arange(len(KNOTS)))
        below = np.minimum(place.astype(np.intp), len(KNOTS) - 2)
        upper = place - below
        shares = np.bincount(below, 1 - upper, len(KNOTS)) + np.bincount(below + 1, upper, len(KNOTS))
        features += list(shares / density.size)
    return features


def _texture(stains: np.ndarray) -> list[float]:
    """Features of one level: haematoxylin and eosin (2, n, n)."""
    smooth = _blurred(stains)
    band = smooth - _blurred(_blurred(smooth))
    padded = np.pad(smooth, ((0, 0), (1, 1), (1, 1)), mode="edge")
    across = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    squared = across**2 + down**2
    # The direction of a gradient as an angle twice as large, so that opposite gradients add up.
    total, cosine, sine = _blurred(_blurred(np.stack([squared, across**2 - down**2, 2 * across * down])))
    shared = np.sqrt(cosine**2 + sine**2)
    blobs = _maxima(band[0])
    features = []
    for border in (0, stains.shape[1] // 4):
        here, blob = _inner(band, border), _inner(blobs, border)
        energy = (here**2).mean(axis=(1, 2))
        length = np.sqrt(_inner(squared, border)).mean(axis=(1, 2))
        coherence = _inner(shared, border).mean(axis=(1, 2)) / (_inner(total, border).mean(axis=(1, 2)) + _FLOOR**2)
        features += list(np.column_stack([np.log(energy + _FLOOR**2), np.log(length + _FLOOR), coherence]).ravel())
        features.append(_correlation((here[0] * here[1]).mean(), *energy))
        features += [np.sqrt(blob.mean()), _inner(stains[0], border)[blob].mean() if blob.any() else 0]
    return features


def _correlation(covariance: float, variance: float, other: float) -> float:
    """Correlation, shrunken to zero where a variance is no more than noise."""
    return covariance / np.sqrt((variance + _FLOOR**2) * (other + _FLOOR**2))


def _halved(planes: np.ndarray) -> np.ndarray:
    """Means over squares of two by two pixels."""
    even, odd = planes[:, ::2], planes[:, 1::2]
    return ((even[..., ::2] + odd[..., 1::2]) + (even[..., 1::2] + odd[..., ::2])) / 4


def _blurred(planes: np.ndarray) -> np.ndarray:
    """The planes under the binomial weights 1 2 1 along both of the last axes, their border repeated outside."""
    for axis in (-2, -1):
        moved = planes.swapaxes(axis, -2)
        result = 2 * planes
        to = result.swapaxes(axis, -2)
        # Both sides are added up first, so that a mirrored plane gives exactly the mirrored result.
        to[..., 1:-1, :] += moved[..., :-2, :] + moved[..., 2:, :]
        to[..., 0, :] += moved[..., 0, :] + moved[..., 1, :]
        to[..., -1, :] += moved[..., -1, :] + moved[..., -2, :]
        planes = result / 4
    return planes


def _maxima(plane: np.ndarray) -> np.ndarray:
    """Mask of the pixels above `_BLOB` and above their eight neighbours inside the plane."""
    n = len(plane)
    padded = np.pad(plane, 1, constant_values=-np.inf)
    result = plane > _BLOB
    for y in range(3):
        for x in range(3):
            if (y, x) != (1, 1):
                result &= plane > padded[y : y + n, x : x + n]
    return result
