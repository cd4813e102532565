"""_images/features."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from spared_sc._images.features import KNOTS, N_LEVELS, PLANES, SIDE, classical, feature_names

NAMES = {name: index for index, name in enumerate(feature_names())}


STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


STAINS = np.vstack([STAINS, np.cross(*STAINS)])


STAINS /= np.linalg.norm(STAINS, axis=1, keepdims=True)


def painted(stains: np.ndarray) -> np.ndarray:
    """The image (..., 3) uint8 of densities of haematoxylin, eosin and the rest."""
    return np.clip(np.round(255 * 10.0 ** -(stains @ STAINS)), 0, 255).astype(np.uint8)


def grid(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels' centres, from 0 to 1."""
    at = (np.arange(side) + 0.5) / side
    return tuple(np.meshgrid(at, at, indexing="ij"))


def tissue(n: int, side: int) -> np.ndarray:
    """Fibres in eosin, nuclei in haematoxylin and a white corner, drawn at any resolution from the same places."""
    rng = np.random.default_rng(0)
    row, column = grid(side)
    result = []
    for _ in range(n):
        angle, wave, white = rng.uniform(0, np.pi), rng.uniform(20, 90), rng.uniform(0, 0.7)
        eosin = 0.35 + 0.2 * np.sin(wave * (column * np.cos(angle) + row * np.sin(angle)))
        nuclei = np.zeros_like(row)
        for y, x in rng.uniform(0, 1, (rng.integers(5, 40), 2)):
            nuclei += np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * 0.02**2))
        stains = np.stack([0.1 + 0.8 * np.minimum(nuclei, 1), eosin, np.zeros_like(row)], axis=-1)
        result.append(painted(stains * (row + column > white)[..., None]))
    return np.stack(result)


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    return tissue(4, SIDE)


def unmixed(patch: np.ndarray) -> np.ndarray:
    """Densities of the stains by least squares, (3, side, side)."""
    density = -np.log10(np.maximum(patch.astype(float), 1) / 255).reshape(-1, 3)
    return np.linalg.lstsq(STAINS.T, density.T, rcond=None)[0].reshape(3, *patch.shape[:2])


def regions(plane: np.ndarray) -> dict[str, np.ndarray]:
    n = len(plane)
    return {"patch": plane, "centre": plane[n // 4 : n - n // 4, n // 4 : n - n // 4]}


def test_colour_is_that_of_scikit_image():
    color = pytest.importorskip("skimage.color")
    rng = np.random.default_rng(0)
    # Enough of every stain, for scikit-image cuts negative densities off.
    patch = painted(rng.uniform([0.2, 0.1, 0.1], [0.6, 0.5, 0.3], (SIDE, SIDE, 3)))
    features = classical(patch[None])[0]
    rgb = patch / 255
    stains = color.separate_stains(rgb, np.linalg.inv(STAINS)) * 6  # it takes logarithms to the base 1e-6
    assert stains.min() > 0
    planes = np.concatenate([-np.log10(rgb), stains, color.rgb2hsv(patch)[..., 1:2]], axis=-1)
    for plane, values in zip(PLANES, np.moveaxis(planes, -1, 0), strict=True):
        for region, inner in regions(values).items():
            np.testing.assert_allclose(features[NAMES[f"{region}_mean_{plane}"]], inner.mean(), atol=1e-5)
            np.testing.assert_allclose(features[NAMES[f"{region}_sd_{plane}"]], inner.std(), atol=1e-5)


def test_shares_and_correlation(patches):
    for patch, features in zip(patches, classical(patches), strict=True):
        inner = [regions(plane) for plane in unmixed(patch)[:2]]
        for region in ("patch", "centre"):
            for stain, planes in zip(("haematoxylin", "eosin"), inner, strict=True):
                for k, knot in enumerate(KNOTS):
                    hat = np.interp(planes[region], KNOTS, np.eye(len(KNOTS))[k])
                    got = features[NAMES[f"{region}_share_{stain}_{knot:g}"]]
                    np.testing.assert_allclose(got, hat.mean(), atol=1e-4)
            pair = [planes[region].ravel() for planes in inner]
            # the floor under the variances takes a little
            expected = np.corrcoef(*pair)[0, 1]
            assert features[NAMES[f"{region}_correlation"]] == pytest.approx(expected, abs=0.02)


def test_texture_is_that_of_scipy(patches):
    weights = np.outer([1, 2, 1], [1, 2, 1]) / 16
    around = np.ones((3, 3), dtype=bool)
    around[1, 1] = False

    def blur(plane, times=1):
        for _ in range(times):
            plane = ndimage.convolve(plane, weights, mode="nearest")
        return plane

    for patch, features in zip(patches, classical(patches), strict=True):
        planes = unmixed(patch)[:2]
        for level in range(N_LEVELS):
            if level:
                n = planes.shape[1] // 2
                planes = planes.reshape(2, n, 2, n, 2).mean(axis=(2, 4))
            bands = [blur(plane) - blur(plane, 3) for plane in planes]
            for stain, plane, band in zip(("haematoxylin", "eosin"), planes, bands, strict=True):
                slopes = [ndimage.correlate1d(blur(plane), [-0.5, 0, 0.5], axis, mode="nearest") for axis in (0, 1)]
                products = [blur(slopes[a] * slopes[b], 2) for a, b in ((0, 0), (0, 1), (1, 1))]
                tensor = np.moveaxis(np.array([products[:2], products[1:]]), (0, 1), (2, 3))
                eigenvalues = np.linalg.eigvalsh(tensor)
                apart, total = eigenvalues[..., 1] - eigenvalues[..., 0], eigenvalues.sum(axis=-1)
                length = np.hypot(*slopes)
                for region in ("patch", "centre"):
                    inner = [regions(values)[region] for values in (band, length, apart, total)]
                    expected = {
                        "band": np.log((inner[0] ** 2).mean() + 1e-4),
                        "gradient": np.log(inner[1].mean() + 0.01),
                        "coherence": inner[2].mean() / (inner[3].mean() + 1e-4),
                    }
                    for feature, value in expected.items():
                        got = features[NAMES[f"{region}_{feature}_{stain}_{level}"]]
                        np.testing.assert_allclose(got, value, atol=1e-3, err_msg=f"{region} {feature} {stain} {level}")
            highest = ndimage.maximum_filter(bands[0], footprint=around, mode="constant", cval=-np.inf)
            peaks = (bands[0] > highest) & (bands[0] > 0.03)
            for region in ("patch", "centre"):
                here = regions(peaks)[region]
                pair = [regions(band)[region] for band in bands]
                variances = [(band**2).mean() + 1e-4 for band in pair]
                expected = {
                    "band_correlation": (pair[0] * pair[1]).mean() / np.sqrt(np.prod(variances)),
                    "blobs": np.sqrt(here.mean()),
                    "blob_density": regions(planes[0])[region][here].mean() if here.any() else 0,
                }
                for feature, value in expected.items():
                    got = features[NAMES[f"{region}_{feature}_{level}"]]
                    np.testing.assert_allclose(got, value, atol=1e-3, err_msg=f"{region} {feature} {level}")


@pytest.mark.parametrize("side", [17, 100, 150, 224])
def test_other_sides_are_averaged_over_areas(side):
    patch = np.random.default_rng(side).integers(1, 256, (side, side, 3), dtype=np.uint8)
    rows = np.repeat(patch, SIDE, axis=0).reshape(SIDE, side, side, 3).mean(axis=1)
    image = np.repeat(rows, SIDE, axis=1).reshape(SIDE, SIDE, side, 3).mean(axis=2)
    density = -np.log10(image / 255)
    features = classical(patch[None])[0]
    for plane, values in zip(PLANES[:3], np.moveaxis(density, -1, 0), strict=True):
        for region, inner in regions(values).items():
            np.testing.assert_allclose(features[NAMES[f"{region}_mean_{plane}"]], inner.mean(), rtol=1e-4)
            np.testing.assert_allclose(features[NAMES[f"{region}_sd_{plane}"]], inner.std(), rtol=1e-3)


def test_blobs_are_counted_and_fibres_told_from_nuclei():
    row, column = grid(SIDE)
    ground = np.full_like(row, 0.1)
    dots = ground.copy()
    places = (np.arange(14, SIDE, SIDE // 4) + 0.5) / SIDE
    for y in places:  # 4 x 4, of which 2 x 2 are in the centre
        for x in places:
            dots += 0.8 * np.exp(-((row - y) ** 2 + (column - x) ** 2) / (2 * 0.02**2))
    stripes = 0.4 + 0.3 * np.sin(60 * (0.6 * column + 0.8 * row))
    nothing = np.zeros_like(row)
    dotted, striped = classical(
        np.stack([painted(np.stack([plane, ground, nothing], axis=-1)) for plane in (dots, stripes)])
    )
    assert dotted[NAMES["patch_blobs_0"]] ** 2 * SIDE**2 == pytest.approx(16)
    assert dotted[NAMES["centre_blobs_0"]] ** 2 * (SIDE // 2) ** 2 == pytest.approx(4)
    assert dotted[NAMES["patch_blob_density_0"]] == pytest.approx(0.9, abs=0.05)
    coherence = NAMES["patch_coherence_haematoxylin_1"]
    assert striped[coherence] > 0.9 > dotted[coherence]


def test_mirrored_and_turned_patches_have_the_same_features(patches):
    expected = classical(patches)
    turned = [np.rot90(patches, k, axes=(1, 2)) for k in range(4)]
    for image in [*turned, *(t[:, ::-1] for t in turned)]:
        np.testing.assert_allclose(classical(image), expected, rtol=1e-4, atol=1e-4)


def test_a_patch_does_not_depend_on_the_batch(patches):
    expected = classical(patches)
    np.testing.assert_array_equal(classical(patches[[2, 0]]), expected[[2, 0]])
    np.testing.assert_array_equal(classical(patches[1:2]), expected[1:2])
    assert classical(patches[:0]).shape == (0, len(NAMES))


def test_the_number_of_pixels_matters_little():
    coarse, fine = classical(tissue(12, SIDE)), classical(tissue(12, 2 * SIDE))
    spread = np.maximum(coarse.std(axis=0), 0.02)
    difference = np.sqrt(((coarse - fine) ** 2).mean(axis=0)) / spread
    assert np.median(difference) < 0.1
    # Far less than patches differ, but for what lies between single pixels.
    assert np.mean(difference < 0.3) > 0.9


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (200, 0, 255)])
def test_plain_patches(colour):
    features = classical(np.full((1, 64, 64, 3), colour, dtype=np.uint8))[0]
    assert np.isfinite(features).all()
    for name, index in NAMES.items():
        if "_sd_" in name or "coherence" in name or "blob" in name or "correlation" in name:
            assert features[index] == pytest.approx(0, abs=1e-4), name
    density = -np.log10(max(colour[1], 1) / 255)
    assert features[NAMES["patch_mean_green"]] == pytest.approx(density, abs=1e-5)


def test_names_and_type(patches):
    features = classical(patches)
    assert features.dtype == np.float32
    assert features.shape == (len(patches), 116)
    assert len(feature_names()) == len(NAMES) == 116


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        (np.zeros((8, 8, 3), dtype=np.uint8), r"\(8, 8, 3\): expected \(n, side, side, 3\)"),
        (np.zeros((2, 8, 9, 3), dtype=np.uint8), r"expected \(n, side, side, 3\)"),
        (np.zeros((2, 8, 8, 4), dtype=np.uint8), r"expected \(n, side, side, 3\)"),
        (np.zeros((2, 0, 0, 3), dtype=np.uint8), r"expected \(n, side, side, 3\)"),
        (np.zeros((2, 8, 8, 3), dtype=np.float32), "float32: expected uint8"),
        (np.zeros((2, 8, 8, 3), dtype=np.uint16), "uint16: expected uint8"),
    ],
)
def test_wrong_patches(patches, message):
    with pytest.raises(ValueError, match=message):
        classical(patches)
