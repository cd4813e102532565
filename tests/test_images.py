"""Patches of images, whatever they are read from, and whether spots lie on the tissue that the image shows."""

from __future__ import annotations

import logging
import shutil
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr
from matplotlib.figure import Figure
from PIL import Image
from scipy.ndimage import gaussian_filter

import spared_sc as sp
from spared_sc._core.validate import get_libraries
from spared_sc._images.alignment import _agreement
from spared_sc._images.patches import Patches
from spared_sc._images.resolve import resolve_patches, spot_pitch
from spared_sc._images.source import ArraySource, Cache, Source, open_image
from spared_sc._images.store import StoredPatches
from spared_sc._images.tissue import otsu, share_within, tissue_mask

if TYPE_CHECKING:
    from pathlib import Path

KEY = {"library_key": "library_id"}
RECIPE = {
    "size": 1.0,
    "unit": "pixel",
    "output_size": 16,
    "sources": {"library": {"patch_px": 1.0, "um_per_px": np.nan}},
}


def smooth(height=300, width=400, seed=0) -> np.ndarray:
    noise = gaussian_filter(np.random.default_rng(seed).random((height, width, 3)), (3, 3, 0))
    return (255 * (noise - noise.min()) / np.ptp(noise)).astype(np.uint8)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


def tiff(path: Path, array: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, array, photometric="rgb", **options)
    return path


def pyramid(path: Path, array: np.ndarray) -> Path:
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"}
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, subifds=1, metadata={"PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"}, **options)
        half = np.asarray(Image.fromarray(array).reduce(2))
        writer.write(half, subfiletype=1, **options)
    return path


def pillow(path: Path, array: np.ndarray, **options) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


WRITERS = {
    "png": lambda folder, a: pillow(folder / "a.png", a),
    "opaque": lambda folder, a: pillow(folder / "a.png", np.dstack([a, np.full(a.shape[:2], 255, np.uint8)])),
    "tiled": lambda folder, a: tiff(folder / "a.tif", a, tile=(64, 96), compression="zlib"),
    "strips": lambda folder, a: tiff(folder / "a.tif", a, rowsperstrip=7, compression="zlib"),
    "plain": lambda folder, a: tiff(folder / "a.tif", a),
    "planes": lambda folder, a: tiff(
        folder / "a.tif", np.moveaxis(a, 2, 0), planarconfig="separate", tile=(64, 64), compression="zlib"
    ),
    "pages": lambda folder, a: (
        tifffile.imwrite(
            folder / "a.ome.tif",
            np.moveaxis(a, 2, 0),
            photometric="minisblack",
            tile=(64, 64),
            metadata={"axes": "CYX"},
        )
        or folder / "a.ome.tif"
    ),
    "ome": lambda folder, a: pyramid(folder / "a.ome.tif", a),
    "opaque tiff": lambda folder, a: tiff(
        folder / "a.tif", np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]), tile=(64, 64), extrasamples=[2]
    ),
    "array": lambda folder, a: a,
    "channels first": lambda folder, a: np.moveaxis(a, 2, 0),
    "fractions": lambda folder, a: (a / 255).astype(np.float32),
}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_every_kind_of_image_gives_the_same_pixels(write, image, tmp_path):
    source = open_image(write(tmp_path, image))
    assert source.shape == image.shape[:2]
    for top, bottom, left, right in [(0, 300, 0, 400), (50, 51, 60, 61), (100, 203, 90, 389), (299, 300, 0, 400)]:
        window = source.read(top, bottom, left, right)
        assert window.dtype == np.uint8
        assert np.array_equal(window, image[top:bottom, left:right])


def test_jpeg_is_what_pillow_decodes(image, tmp_path):
    path = pillow(tmp_path / "a.jpg", image, quality=90)
    assert np.array_equal(open_image(path).read(10, 50, 20, 80), np.asarray(Image.open(path))[10:50, 20:80])


def test_jpeg_tiles_and_missing_tiles(image, tmp_path):
    path = tiff(tmp_path / "a.tif", image, tile=(64, 64), compression="jpeg", compressionargs={"level": 95})
    window = open_image(path).read(30, 250, 30, 350)
    assert np.array_equal(window, tifffile.imread(path)[30:250, 30:350])
    assert (
        np.abs(window.astype(int) - image[30:250, 30:350]).mean() < 5
    )  # red, green and blue, not the file's own colours


def test_a_tiled_file_is_read_in_parts(tmp_path):
    path = tiff(tmp_path / "a.tif", np.zeros((3000, 3000, 3), np.uint8), tile=(256, 256), compression="zlib")
    tracemalloc.start()
    try:
        open_image(path).read(1000, 1100, 1000, 1100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5e6  # the whole image has 27 MB


def test_the_cache_keeps_to_its_limit_and_decodes_once():
    array, decoded = smooth(64, 64), []

    def decode(row, col):
        decoded.append((row, col))
        return array[8 * row : 8 * row + 8, 8 * col : 8 * col + 8]

    block_bytes = 8 * 8 * 3
    roomy = Source((64, 64), (8, 8), decode, "x", cache=Cache(64 * block_bytes))
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(w, array) for w in pool.map(lambda _: roomy.read(0, 64, 0, 64), range(16)))
    assert len(decoded) == len(set(decoded)) == 64
    decoded.clear()
    tight = Source((64, 64), (8, 8), decode, "x", cache=Cache(2 * block_bytes))
    for _ in range(2):
        assert np.array_equal(tight.read(0, 64, 0, 64), array)
    assert len(decoded) == 128  # none was left of the first round


def test_thumbnail_is_the_mean_of_its_pixels(image, tmp_path):
    for source in (open_image(image), open_image(WRITERS["tiled"](tmp_path, image))):
        small, zoom = source.thumbnail(100)
        assert zoom == 0.25
        assert small.shape == (75, 100, 3)
        assert np.abs(small - image.reshape(75, 4, 100, 4, 3).mean(axis=(1, 3))).max() <= 1


def test_pyramids_are_read_where_they_suffice(image, tmp_path):
    source = open_image(pyramid(tmp_path / "a.ome.tif", image))
    assert source.um_per_px == 0.5
    assert source.at_scale(1.9) is source
    assert source.at_scale(2.5).shape == (150, 200)
    small, zoom = source.thumbnail(100)
    assert (small.shape, zoom) == ((75, 100, 3), 0.25)
    fine = Patches([open_image(image)], np.zeros(1, int), np.array([[200.0, 150.0]]), [128], 32, RECIPE)
    coarse = Patches([source], np.zeros(1, int), np.array([[200.0, 150.0]]), [128], 32, RECIPE)
    assert np.abs(fine.read([0]).astype(int) - coarse.read([0])).mean() < 3


@pytest.mark.parametrize("first", ["label", "slide"])
def test_scale_of_a_file_of_several_images_is_that_of_the_largest(image, tmp_path, first):
    path = tmp_path / "a.ome.tif"
    images = {"label": (image[:40, :60], 10.0), "slide": (image, 0.5)}
    with tifffile.TiffWriter(path, ome=True) as writer:
        for name in (first, *(images.keys() - {first})):
            array, um = images[name]
            scale = {"PhysicalSizeX": um, "PhysicalSizeXUnit": "µm", "PhysicalSizeY": um, "PhysicalSizeYUnit": "µm"}
            writer.write(array, photometric="rgb", metadata={"axes": "YXS", "Name": name, **scale})
    source = open_image(path)
    assert (source.shape, source.um_per_px) == ((300, 400), 0.5)


def test_a_plain_file_is_mapped_and_its_thumbnail_made_band_by_band(tmp_path, monkeypatch):
    image = smooth(2500, 60)
    source = open_image(WRITERS["plain"](tmp_path, image))
    heights, read = [], source.read

    def seen(top, bottom, left, right):
        heights.append(bottom - top)
        return read(top, bottom, left, right)

    monkeypatch.setattr(source, "read", seen)
    small, _ = source.thumbnail(625)
    assert len(heights) > 1
    assert max(heights) <= 1024
    assert np.abs(small - image.reshape(625, 4, 15, 4, 3).mean(axis=(1, 3))).max() <= 1


@pytest.mark.parametrize("compression", ["zlib", "lzw", "jpeg", "zstd", "webp"])
def test_a_tile_with_wrong_bytes_is_named(compression, image, tmp_path):
    path = tiff(tmp_path / "a.tif", image, tile=(64, 64), compression=compression)
    with tifffile.TiffFile(path) as file:
        start, length = file.pages[0].dataoffsets[7], file.pages[0].databytecounts[7]
    content = bytearray(path.read_bytes())
    content[start : start + length] = np.random.default_rng(0).integers(1, 256, length, dtype=np.uint8).tobytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.tif cannot be read .* damaged"):
        open_image(path).read(0, 300, 0, 400)


def png16(path: Path, array: np.ndarray) -> Path:
    """A PNG of 16 bits per channel, written out: Pillow cannot."""
    height, width, n_channels = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    colours = {2: 4, 3: 2, 4: 6}[n_channels]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colours, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def cut_short(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


WRONG = {
    "missing": (lambda f, a: f / "none.jpg", FileNotFoundError, "image="),
    "folder": (lambda f, a: f, ValueError, "folder"),
    "text": (lambda f, a: (f / "a.png").write_text("hello") and f / "a.png", ValueError, "cannot be read"),
    "short jpeg": (lambda f, a: cut_short(pillow(f / "a.jpg", a)), ValueError, "cut short"),
    "short png": (lambda f, a: cut_short(pillow(f / "a.png", a)), ValueError, "cut short"),
    "short tiff": (lambda f, a: cut_short(WRITERS["tiled"](f, a)), ValueError, "cut short"),
    "short plain tiff": (lambda f, a: cut_short(WRITERS["plain"](f, a)), ValueError, "cut short"),
    "grey png": (lambda f, a: pillow(f / "a.png", a[..., 0]), ValueError, "grey"),
    "grey tiff": (
        lambda f, a: tifffile.imwrite(f / "a.tif", a[..., 0], photometric="minisblack") or f / "a.tif",
        ValueError,
        "grey",
    ),
    "grey array": (lambda f, a: a[..., 0], ValueError, "grey"),
    "16-bit png": (lambda f, a: pillow(f / "a.png", a[..., 0].astype(np.uint16)), ValueError, "16 bits"),
    "16-bit colour png": (lambda f, a: png16(f / "a.png", a.astype(np.uint16) * 16), ValueError, "16 bits"),
    "16-bit png with alpha": (
        lambda f, a: png16(f / "a.png", np.dstack([a.astype(np.uint16) * 16, np.full(a.shape[:2], 65535)])),
        ValueError,
        "16 bits",
    ),
    "16-bit tiff": (lambda f, a: tiff(f / "a.tif", a.astype(np.uint16)), ValueError, "16 bits"),
    "16-bit array": (lambda f, a: a.astype(np.uint16), ValueError, "16 bits"),
    "transparent": (lambda f, a: pillow(f / "a.png", np.dstack([a, a[..., 0]])), ValueError, "not opaque"),
    "transparent array": (lambda f, a: np.dstack([a, a[..., 0]]), ValueError, "not opaque"),
    "cmyk": (lambda f, a: Image.fromarray(a).convert("CMYK").save(f / "a.jpg") or f / "a.jpg", ValueError, "CMYK"),
    "fluorescence": (lambda f, a: np.dstack([a, a]), ValueError, "6 channels"),
    "fluorescence tiff": (
        lambda f, a: (
            tifffile.imwrite(f / "a.ome.tif", np.zeros((5, 40, 40), np.uint8), metadata={"axes": "CYX"})
            or f / "a.ome.tif"
        ),
        ValueError,
        "5 channels",
    ),
    "stack": (
        lambda f, a: (
            tifffile.imwrite(
                f / "a.ome.tif", np.zeros((4, 40, 40, 3), np.uint8), photometric="rgb", metadata={"axes": "ZYXS"}
            )
            or f / "a.ome.tif"
        ),
        ValueError,
        "stack",
    ),
    "large fractions": (lambda f, a: a.astype(float), ValueError, "from 0 to 255"),
    "four axes": (lambda f, a: a[None], ValueError, "4 axes"),
    "number": (lambda f, a: 3, TypeError, "path"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_images(wrong, image, tmp_path):
    make, error, text = WRONG[wrong]
    where = make(tmp_path, image)
    with pytest.raises(error, match=text):
        open_image(where).read(0, 30, 0, 30)


def test_whole_slide_formats_name_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openslide", None)
    path = tmp_path / "a.ndpi"
    path.touch()
    with pytest.raises(ImportError, match="pip install openslide-python"):
        open_image(path)


def test_large_files_leave_pillow_as_it_was(image, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    open_image(pillow(tmp_path / "a.png", image)).read(0, 10, 0, 10)
    assert Image.MAX_IMAGE_PIXELS == 1000


# --- patches ---------------------------------------------------------------------------------------------------------


def patches_of(image: np.ndarray, centres, side_px: float, side: int, **options) -> Patches:
    centres = np.asarray(centres, dtype=float)
    return Patches([open_image(image)], np.zeros(len(centres), int), centres, [side_px], side, RECIPE, **options)


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


# --- from an AnnData -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made() -> ad.AnnData:
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=20, shape=(8, 8), lattice="hex")
    return adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()  # rows of a library need not be together


@pytest.fixture
def adata(made) -> ad.AnnData:
    return made.copy()


def resolve(adata, **options):
    return resolve_patches(adata, get_libraries(adata, "library_id"), **options)


def factors(adata, library="library_1") -> dict:
    return adata.uns["spatial"][library]["scalefactors"]


def test_patches_are_the_squares_around_the_spots(adata):
    patches = resolve(adata, size=21, unit="pixel", output_size=21)
    assert len(patches) == adata.n_obs
    assert (patches.side, patches.recipe["output_size"]) == (21, 21)
    pixels = patches.read(np.arange(adata.n_obs))
    for row in (0, 5, 60):
        library = adata.obs["library_id"].iloc[row]
        slide = adata.uns["spatial"][library]
        centre = adata.obsm["spatial"][row] * slide["scalefactors"]["tissue_hires_scalef"]
        expected = patches_of(slide["images"]["hires"], [centre], 21, 21).read([0])[0]
        assert np.array_equal(pixels[row], expected)
        assert patches.recipe["sources"][library]["source"] == "hires"


def test_libraries_in_any_order_and_alone(adata):
    whole = resolve(adata, output_size=32).read(np.arange(adata.n_obs))
    rows = np.flatnonzero(adata.obs["library_id"] == "library_2")
    alone = adata[rows].copy()
    assert np.array_equal(resolve(alone, output_size=32).read(np.arange(len(rows))), whole[rows])


def test_which_image_is_taken(adata, tmp_path):
    slide = adata.uns["spatial"]["library_1"]
    slide["images"]["lowres"] = slide["images"]["hires"][::3, ::3]
    adata.uns["spatial"]["library_2"]["images"] = {"lowres": slide["images"]["lowres"]}
    assert [s["source"] for s in resolve(adata).recipe["sources"].values()] == ["hires", "lowres"]
    assert {s["source"] for s in resolve(adata, image="lowres").recipe["sources"].values()} == {"lowres"}
    full = smooth(1400, 1400)
    slide["metadata"]["source_image_path"] = str(WRITERS["png"](tmp_path, full))
    sources = resolve(adata).recipe["sources"]
    assert sources["library_1"]["source"] == "file"
    assert sources["library_1"]["patch_px"] == factors(adata)["spot_diameter_fullres"]
    both = resolve(adata, image={"library_1": full, "library_2": tmp_path / "a.png"}, size=10, unit="pixel").recipe
    assert [s["source"] for s in both["sources"].values()] == ["array", "file"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image='hires'"):
        resolve(adata)
    with pytest.raises(ValueError, match="dictionary"):
        resolve(adata, image=full)
    with pytest.raises(KeyError, match="no entry for library 'library_2'"):
        resolve(adata, image={"library_1": full, "library_3": full})
    with pytest.raises(KeyError, match="no image 'hires'"):
        resolve(adata, image="hires")
    adata.uns["spatial"]["library_2"]["images"] = {}
    with pytest.raises(ValueError, match="library 'library_2' has no image"):
        resolve(adata, image={"library_1": "hires"})


def one_section(kind="hex", *, diameter=None, places=True, scale=2.0, jitter=0.0) -> ad.AnnData:
    """Spots 100 (hexagonal) or 200 um (square) apart, at `scale` pixels per um, on a grey image."""
    row, column = (index.ravel() for index in np.indices((8, 9)))
    if kind == "hex":
        column = 2 * column + row % 2
        xy = np.column_stack([50 * column, 50 * np.sqrt(3) * row])
    elif kind == "dense":  # every other place of a square grid
        column = 2 * column + row % 2
        xy = np.column_stack([100 * column, 100 * row])
    else:
        xy = np.column_stack([200 * column, 200 * row])
    xy = scale * (xy + 150) + np.random.default_rng(0).normal(0, jitter, (len(row), 2))
    adata = ad.AnnData(np.ones((len(row), 2), np.float32), obsm={"spatial": xy})
    if places:
        adata.obs["array_row"], adata.obs["array_col"] = row, column
    image = np.full((int(xy[:, 1].max() + 300), int(xy[:, 0].max() + 300), 3), 200, np.uint8)
    scalefactors = {"tissue_hires_scalef": 1.0} | ({} if diameter is None else {"spot_diameter_fullres": diameter})
    adata.uns["spatial"] = {"A": {"images": {"hires": image}, "scalefactors": scalefactors, "metadata": {}}}
    return adata


@pytest.mark.parametrize(
    ("made", "extra", "um", "origin", "patch_px"),
    [
        ({"diameter": 130.0}, {}, 0.5, "scale factors", 130),  # Space Ranger's circle of 65 um
        ({"diameter": 130.0}, {"microns_per_pixel": 0.51}, 0.51, "scale factors", 130),
        ({"diameter": 110.0}, {}, 0.5, "spot pitch", 110),  # the diameter is of something else
        ({}, {}, 0.5, "spot pitch", 130),
        ({"places": False, "diameter": 130.0}, {}, 0.5, "scale factors", 130),
        ({"places": False}, {}, 0.5, "spot pitch", 130),
        ({"kind": "grid", "jitter": 4.0, "diameter": 200.0}, {}, 0.5, "spot pitch", 200),
        ({"kind": "grid"}, {}, 0.5, "spot pitch", 200),
        ({"kind": "dense", "diameter": 100.0}, {}, np.nan, "unknown", 100),
    ],
)
def test_scale(made, extra, um, origin, patch_px):
    adata = one_section(**made)
    factors(adata, "A").update(extra)
    source = resolve_patches(adata, get_libraries(adata, None)).recipe["sources"]["A"]
    assert source["um_per_px"] == pytest.approx(um, rel=0.01, nan_ok=True)
    assert source["scale_from"] == origin
    assert source["patch_px"] == pytest.approx(patch_px, rel=0.01)


def test_units(caplog):
    adata = one_section(diameter=130.0)
    factors(adata, "A")["tissue_hires_scalef"] = 0.5
    libraries = get_libraries(adata, None)

    def side(**options):
        return resolve_patches(adata, libraries, **options).recipe["sources"]["A"]["patch_px"]

    assert side(size=2, unit="spot") == 130
    assert side(size=40, unit="pixel") == 40
    assert side(size=65, unit="um") == pytest.approx(65)  # 1 um per pixel of the hires image
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        assert side(size=65, unit="um", mpp=2.0) == 32.5
    assert "mpp=2 was given" in caplog.text
    nothing = one_section("dense")
    for unit, remedy in (("um", "mpp="), ("spot", "unit='pixel'")):
        with pytest.raises(ValueError, match=remedy):
            resolve_patches(nothing, libraries, unit=unit)
    assert resolve_patches(nothing, libraries, size=65, unit="um", mpp=0.5).recipe["sources"]["A"]["patch_px"] == 130
    for options, text in (
        ({"unit": "mm"}, "unit='mm'"),
        ({"size": 0}, "size=0"),
        ({"output_size": 2.5}, "output_size=2.5"),
        ({"size": 5000, "unit": "pixel"}, "more than its image"),
    ):
        with pytest.raises(ValueError, match=text):
            resolve_patches(adata, libraries, **options)


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_pitch_of_a_turned_lattice_with_gaps(turn):
    adata = one_section(scale=3.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    keep = np.random.default_rng(0).random(adata.n_obs) < 0.7
    places = adata.obs[["array_row", "array_col"]].to_numpy()[keep]
    kind, pitch = spot_pitch(adata.obsm["spatial"][keep] @ rotation, places)
    assert kind == "hex"
    assert pitch == pytest.approx(300)


def test_spots_outside_of_the_image(adata, tmp_path):
    libraries = get_libraries(adata, "library_id")
    hires = {n: adata.uns["spatial"][n]["images"]["hires"] for n in libraries.names}
    with pytest.raises(ValueError, match=r"Pass image='hires'"):
        resolve(adata, image=hires)
    flat = one_section()
    flat.uns["spatial"]["A"]["images"]["hires"] = np.full((1600, 2100, 3), 200, np.uint8)
    flat.obsm["swapped"] = flat.obsm["spatial"][:, ::-1]
    flat.obsm["moved"] = flat.obsm["spatial"] + [0, 3000]
    with pytest.raises(ValueError, match="x and y exchanged all lie inside"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="swapped")
    flat.obsm["moved"][0] = -1
    with pytest.raises(ValueError, match=r"'0'.* outside"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="moved")
    flat.obsm["moved"][0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="moved")
    with pytest.raises(KeyError, match="spatial_key="):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="none")


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_spatialdata_image(image, multiscale):
    pytest.importorskip("spatialdata")
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    # Pixels become spots' coordinates by a quarter turn, a factor 2 and a shift.
    matrix = np.array([[0, -2.0, 700], [2, 0, 30], [0, 0, 1]])
    turned = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    element = Image2DModel.parse(
        da.from_array(np.moveaxis(image, 2, 0), chunks=(3, 70, 90)),
        dims=("c", "y", "x"),
        transformations={"global": turned, "other": Identity()},
        **({"scale_factors": [2]} if multiscale else {}),
    )
    pixels = np.array([[100.0, 50], [200, 80], [30, 250]])
    adata = ad.AnnData(np.ones((3, 1), np.float32))
    adata.obsm["spatial"] = pixels @ matrix[:2, :2].T + matrix[:2, 2]
    adata.obsm["pixels"] = pixels
    libraries = get_libraries(adata, None)
    options = {"image": element, "size": 24, "unit": "pixel", "output_size": 24}
    expected = patches_of(image, pixels, 24, 24).read([0, 1, 2])
    patches = resolve_patches(adata, libraries, **options)
    assert np.array_equal(patches.read([0, 1, 2]), expected)
    assert patches.recipe["sources"]["library"]["source"] == "spatialdata"
    adata.uns["spatial"] = {"library": {"metadata": {"coordinate_system": "other"}}}  # as a SpatialData object lends it
    other = resolve_patches(adata, libraries, **options, spatial_key="pixels")
    assert np.array_equal(other.read([0, 1, 2]), expected)
    adata.uns["spatial"]["library"]["metadata"]["coordinate_system"] = "none"
    with pytest.raises(KeyError, match="none.*it lies in .*global.*other"):
        resolve_patches(adata, libraries, **options)


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_image_of_fractions():
    import dask.array as da
    from spatialdata.models import Image2DModel

    element = Image2DModel.parse(da.zeros((3, 40, 40), dtype=np.float64), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match=r"64 bits per channel \(float64\)"):
        open_image(element)


# --- the store, and the record ---------------------------------------------------------------------------------------


def test_extract_patches_records_what_is_read_later(adata, tmp_path):
    assert sp.pp.extract_patches(adata, size=2, output_size=48, **KEY) is None
    record = adata.uns["spared_sc"]["patches"]
    assert record["fingerprint"] == resolve(adata).fingerprint()
    assert resolve(adata).recipe == resolve(adata, image="hires", size=2.0, output_size=48).recipe
    assert resolve(adata, output_size=32).recipe["size"] == 2  # what is not asked for stays
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    assert resolve(ad.read_h5ad(path)).fingerprint() == record["fingerprint"]
    result = sp.pp.extract_patches(adata, size=3, copy=True, **KEY)
    assert resolve(adata).recipe["size"] == 2
    assert resolve(result).recipe["size"] == 3
    assert resolve(result, follow=False).recipe["size"] == 1


def test_recorded_positions_are_the_ones_that_are_used(adata):
    expected = resolve(adata, output_size=32).read(np.arange(adata.n_obs))
    adata.obsm["good"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial"] = 0.7 * adata.obsm["spatial"][::-1]
    sp.pp.extract_patches(adata, output_size=32, spatial_key="good", **KEY)
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), expected)
    adata.obsm["moved"] = adata.obsm["good"] + 5
    assert not np.array_equal(resolve(adata, spatial_key="moved").read(np.arange(adata.n_obs)), expected)
    result = sp.tl.embed_patches(adata, copy=True, **KEY)
    adata.obsm["spatial"] = adata.obsm["good"]
    sp.tl.embed_patches(adata, **KEY)
    assert np.array_equal(result.obsm["X_classical"], adata.obsm["X_classical"])


def test_a_recorded_scale_is_that_of_the_recorded_image(adata, tmp_path):
    path = WRITERS["png"](tmp_path, smooth(1400, 1400))
    options = {"mpp": 0.5, "size": 60, "unit": "um", "output_size": 16}
    sp.pp.extract_patches(adata, image={"library_1": path, "library_2": path}, **options, **KEY)
    assert {one["um_per_px"] for one in resolve(adata).recipe["sources"].values()} == {0.5}
    hires = resolve(adata, image="hires").recipe
    assert hires == resolve(adata, image="hires", size=60, unit="um", output_size=16, follow=False).recipe
    assert hires["sources"]["library_1"]["scale_from"] != "given"


def test_libraries_that_are_gone_do_not_matter(adata):
    full = smooth(1400, 1400)
    sp.pp.extract_patches(adata, image={"library_1": full, "library_2": "hires"}, size=40, unit="pixel", **KEY)
    rest = adata[adata.obs["library_id"] == "library_2"].copy()
    assert resolve(rest).recipe["sources"]["library_2"]["source"] == "hires"
    with pytest.raises(ValueError, match="pass it again"):
        resolve(adata)


@pytest.mark.filterwarnings("ignore")  # anndata's own, of names that future versions will not write
def test_names_with_a_slash_survive_files(adata, tmp_path):
    paths = {}
    for name, slide in adata.uns["spatial"].items():
        paths[name.replace("_", "/")] = tmp_path / f"{name}.png"
        pillow(tmp_path / f"{name}.png", np.kron(slide["images"]["hires"], np.ones((3, 3, 1), np.uint8)))
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    del adata.uns["spatial"]
    sp.pp.extract_patches(adata, image=paths, size=2, output_size=32, **KEY)
    sp.tl.embed_patches(adata, **KEY)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    assert resolve(back).recipe == resolve(adata).recipe
    assert resolve(back).fingerprint() == adata.uns["spared_sc"]["patches"]["fingerprint"]
    recipe = back.uns["spared_sc"]["X_classical"]["patches"]  # as predictors compare it
    assert sp.tl._prediction.scale_of(recipe) == sp.tl._prediction.scale_of(resolve(adata).recipe)


def test_the_recorded_image_is_the_one_that_is_used(adata, tmp_path):
    full = smooth(1400, 1400)
    path = WRITERS["tiled"](tmp_path, full)
    sp.pp.extract_patches(adata, image={"library_1": path, "library_2": "hires"}, size=40, unit="pixel", **KEY)
    assert [one["source"] for one in resolve(adata).recipe["sources"].values()] == ["file", "hires"]
    sp.pp.extract_patches(adata, image={"library_1": full, "library_2": full}, size=40, unit="pixel", **KEY)
    with pytest.raises(ValueError, match="pass it again"):
        resolve(adata)
    assert resolve(adata, image={"library_1": full, "library_2": full}).recipe["size"] == 40


def test_store_holds_the_same_patches(adata, tmp_path):
    store = tmp_path / "deep" / "patches.zarr"
    expected = resolve(adata, size=2.0, output_size=40)
    pixels = expected.read(np.arange(adata.n_obs))
    sp.pp.extract_patches(adata, size=2, output_size=40, store=store, show_progress_bar=False, **KEY)
    stored = resolve(adata)
    assert isinstance(stored, StoredPatches)
    assert (len(stored), stored.side) == (adata.n_obs, 40)
    assert np.array_equal(stored.read(np.arange(adata.n_obs)), pixels)
    order = np.random.default_rng(3).integers(0, adata.n_obs, 50)  # also twice
    assert np.array_equal(stored.read(order), pixels[order])
    assert stored.read([]).shape == (0, 40, 40, 3)
    assert np.array_equal(stored.library, expected.library)
    assert stored.fingerprint() == expected.fingerprint()
    assert stored.recipe["sources"]["library_1"]["source"] == "store"
    assert stored.recipe["sources"]["library_1"]["patch_px"] == expected.recipe["sources"]["library_1"]["patch_px"]
    # A selection in another order finds its patches by name, also after a detour through a file.
    keep = np.random.default_rng(1).permutation(adata.n_obs)[:30]
    adata[keep].write_h5ad(tmp_path / "some.h5ad")
    some = ad.read_h5ad(tmp_path / "some.h5ad")
    assert np.array_equal(resolve(some).read(np.arange(30)), pixels[keep])
    assert not isinstance(resolve(adata, output_size=32), StoredPatches)


def test_store_is_written_once(adata, tmp_path, caplog):
    store = tmp_path / "patches.zarr"
    options = {"output_size": 24, "store": store, **KEY}
    sp.pp.extract_patches(adata, **options)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    with caplog.at_level(logging.INFO, logger="spared_sc"):
        sp.pp.extract_patches(adata, **options)
    assert "already" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        sp.pp.extract_patches(adata, size=2, **options)
    sp.pp.extract_patches(adata, size=2, overwrite=True, **options)
    assert resolve(adata).recipe["size"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]


def test_wrong_stores(adata, tmp_path):
    store = tmp_path / "patches.zarr"
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    sp.pp.extract_patches(one, output_size=24, store=store, **KEY)
    with pytest.raises(ValueError, match="no patch of 64 of 128 spots"):
        resolve(adata, image=store)
    for name, value in (("output_size", 64), ("mpp", 4.0)):
        with pytest.raises(ValueError, match=rf"{name}={value} is not .*output_size=24.* leave that out"):
            resolve(one, image=store, **{name: value})
    moved = store.rename(tmp_path / "moved.zarr")
    with pytest.raises(FileNotFoundError, match=r"new place with `sp.pp.extract_patches\(adata, image=...\)`"):
        resolve(one)
    assert len(resolve(one, image=moved)) == 64
    shutil.copytree(moved, store)
    for chunk in [p for p in store.rglob("*") if p.is_file() and p.name != "zarr.json"]:
        chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged"):
        resolve(one).read([0])
    (store / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match="no store of patches"):
        resolve(one)


def test_a_moved_store_is_named_as_the_image(adata, tmp_path):
    old, new = tmp_path / "old.zarr", tmp_path / "new.zarr"
    sp.pp.extract_patches(adata, size=90, unit="um", output_size=24, store=old, **KEY)
    pixels = resolve(adata).read(np.arange(adata.n_obs))
    old.rename(new)
    some = adata[::2].copy()  # fewer spots than the store holds
    sp.pp.extract_patches(some, image=new, **KEY)
    found = some.uns["spared_sc"]["patches"]["params"]
    assert (found["size"], found["unit"], found["output_size"], found["store"]) == (90, "um", 24, str(new))
    assert isinstance(resolve(some), StoredPatches)
    assert np.array_equal(resolve(some).read(np.arange(some.n_obs)), pixels[::2])


def test_a_store_that_was_written_anew_is_noticed(adata, tmp_path):
    store = tmp_path / "patches.zarr"
    options = {"output_size": 24, "store": store, **KEY}
    sp.pp.extract_patches(adata, **options)
    fewer = adata[::3].copy()
    assert isinstance(resolve(fewer), StoredPatches)  # filtered since
    changes = {
        "size": lambda other: sp.pp.extract_patches(other, size=3, overwrite=True, **options),
        "scale": lambda other: sp.pp.extract_patches(other, mpp=4.0, overwrite=True, **options),
        "image": lambda other: (
            other.uns["spatial"]["library_2"]["images"].update(hires=hires[::-1].copy()),
            sp.pp.extract_patches(other, overwrite=True, **options),
        ),
    }
    hires = adata.uns["spatial"]["library_2"]["images"]["hires"]
    for change in changes.values():
        other = adata.copy()
        change(other)
        assert isinstance(resolve(other), StoredPatches)
        for one in (adata, fewer):
            with pytest.raises(ValueError, match=r"was written anew.*extract_patches\(adata, image="):
                resolve(one)
        sp.pp.extract_patches(fewer, image=store, **KEY)
        assert resolve(fewer).recipe == resolve(other).recipe
        sp.pp.extract_patches(adata, overwrite=True, **options)
        fewer = adata[::3].copy()
    # Nor is a store at another scale taken for the same.
    with pytest.raises(FileExistsError, match="holds other patches: pass overwrite=True"):
        sp.pp.extract_patches(adata, mpp=4.0, **options)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_nothing_else_is_ever_replaced(adata, tmp_path):
    def contents():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    adata.write_zarr(tmp_path / "section.zarr")
    array = zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="uint8")
    array[:] = 7
    (tmp_path / "notes.zarr").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "free.zarr.part").mkdir()
    (tmp_path / "free.zarr.part" / "notes.txt").write_text("mine")
    before, records = contents(), dict(adata.uns["spared_sc"])
    for name in ("section.zarr", "array.zarr", "notes.zarr", "folder", "free.zarr"):
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="is no store of patches: pass another `store=`"):
                sp.pp.extract_patches(adata, output_size=24, store=tmp_path / name, overwrite=overwrite, **KEY)
    for name in ("section.zarr", "array.zarr"):
        with pytest.raises(ValueError, match="is no store of patches") as error:
            resolve(adata, image=tmp_path / name)
        assert "overwrite" not in str(error.value)
    assert contents() == before
    assert adata.uns["spared_sc"] == records
    # An empty folder may be filled, and what lies beside a store stays when it is replaced.
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "empty.zarr.old").mkdir()
    (tmp_path / "empty.zarr.old" / "notes.txt").write_text("mine")
    before = contents()
    sp.pp.extract_patches(adata, output_size=24, store=tmp_path / "empty.zarr", **KEY)
    sp.pp.extract_patches(adata, size=2, output_size=24, store=tmp_path / "empty.zarr", overwrite=True, **KEY)
    assert resolve(adata).recipe["size"] == 2
    left = {path: content for path, content in contents().items() if tmp_path / "empty.zarr" not in path.parents}
    assert left == before


def test_an_interrupted_store_is_finished(adata, tmp_path, monkeypatch):
    from spared_sc._images import store as module

    monkeypatch.setattr(module, "_BATCH", 8)
    store = tmp_path / "patches.zarr"
    read, seen = Patches.read, []

    def stopping(self, rows):
        if len(rows) == 8:
            seen.append(int(rows[0]))
            if len(seen) == 5:
                raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(Patches, "read", stopping)
    before = adata.copy()
    with pytest.raises(KeyboardInterrupt):
        sp.pp.extract_patches(adata, output_size=24, store=store, **KEY)
    assert not store.exists()
    assert "patches" not in adata.uns["spared_sc"]
    assert adata.uns["spared_sc"].keys() == before.uns["spared_sc"].keys()
    sp.pp.extract_patches(adata, output_size=24, store=store, **KEY)
    assert seen[5:] == list(range(24, 128, 8))  # the last batch that was begun is done again
    monkeypatch.undo()
    whole = resolve(adata, image="hires", output_size=24).read(np.arange(adata.n_obs))
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]


def test_a_broken_image_changes_nothing(adata, tmp_path):
    path = cut_short(pillow(tmp_path / "a.jpg", smooth(1400, 1400)))
    records = dict(adata.uns["spared_sc"])
    with pytest.raises(ValueError, match="cut short"):
        sp.pp.extract_patches(adata, image={"library_1": path, "library_2": path}, store=tmp_path / "p.zarr", **KEY)
    assert adata.uns["spared_sc"] == records
    assert not (tmp_path / "p.zarr").exists()


def test_many_undivided_images_warn(adata, tmp_path, caplog, monkeypatch):
    from spared_sc._images import resolve as module

    path = WRITERS["png"](tmp_path, smooth(1400, 1400))
    images = {"library_1": path, "library_2": path}
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        resolve(adata, image=images)
        assert not caplog.text
        monkeypatch.setattr(module, "CACHE_BYTES", 10**6)
        resolve(adata, image=images)
    assert "store=" in caplog.text


# --- tissue and alignment --------------------------------------------------------------------------------------------

PINK = (205, 120, 170)


def slide(seed=0) -> tuple[np.ndarray, np.ndarray]:
    """An image with tissue of a shape without symmetry, black fiducials and specks; and where the tissue is."""
    y, x = np.mgrid[:500, :560]
    tissue = ((x - 200) / 120) ** 2 + ((y - 180) / 70) ** 2 < 1
    tissue |= (abs(x - 130) < 40) & (abs(y - 300) < 90)
    tissue |= ((x - 330) / 40) ** 2 + ((y - 350) / 25) ** 2 < 1
    tissue &= ~(((x - 220) / 30) ** 2 + ((y - 170) / 15) ** 2 < 1)  # a hole
    image = np.full((500, 560, 3), (240, 236, 240), float)
    image[tissue] = PINK
    image += np.random.default_rng(seed).normal(0, 6, image.shape)
    image[20:30, 20:540:20] = 40  # fiducials
    image[450:453, 300:303] = PINK  # a speck
    return np.clip(image, 0, 255).astype(np.uint8), tissue


def section(library="A", seed=0, pitch=20.0) -> ad.AnnData:
    """Visium-like spots on the tissue of the slide; the full resolution has four times as many pixels."""
    image, tissue = slide(seed)
    row, column = (index.ravel() for index in np.indices((25, 28)))
    column = 2 * column + row % 2
    xy = np.column_stack([15 + column * pitch / 2, 30 + row * pitch * np.sqrt(3) / 2])
    inside = (xy < (555, 495)).all(axis=1)
    row, column, xy = row[inside], column[inside], xy[inside]
    keep = tissue[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    obs = pd.DataFrame({"array_row": row[keep], "array_col": column[keep], "library_id": library})
    obs.index = [f"{library}{i}" for i in range(keep.sum())]
    adata = ad.AnnData(np.ones((keep.sum(), 2), np.float32), obs=obs, obsm={"spatial": 4 * xy[keep]})
    scale = {"tissue_hires_scalef": 0.25, "tissue_lowres_scalef": 0.075, "spot_diameter_fullres": 4 * 0.65 * pitch}
    adata.uns["spatial"] = {library: {"images": {"hires": image}, "scalefactors": scale, "metadata": {}}}
    return adata


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


MISTAKES = {
    "x and y are exchanged": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"][:, ::-1].copy()),
    "mirrored left to right": lambda a, s: s["images"].update(hires=s["images"]["hires"][:, ::-1]),
    "mirrored top to bottom": lambda a, s: s["images"].update(hires=s["images"]["hires"][::-1]),
    "rotated by 90 degrees clockwise": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"], -1)),
    "rotated by 180 degrees": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"], 2)),
    "rotated by 90 degrees counterclockwise": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"])),
    "positions are in pixels of the hires image": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"] / 4),
    "positions are in pixels of the lowres image": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"] * 0.075),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_alignment_names_the_mistake(mistake, caplog):
    adata = section()
    good = sp.pp.check_alignment(adata).loc["A"]
    assert (good["verdict"], good["likely_cause"]) == ("aligned", "")
    assert good["on_tissue"] > 0.95
    MISTAKES[mistake](adata, adata.uns["spatial"]["A"])
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        found = sp.pp.check_alignment(adata).loc["A"]
    assert found["verdict"] == "misaligned"
    assert mistake in found["likely_cause"]
    assert " or " not in found["likely_cause"]
    assert mistake in caplog.text


def test_check_alignment_of_the_small_image_taken_for_the_full_one(tmp_path):
    adata = section()
    path = pillow(tmp_path / "hires.png", slide()[0])
    found = sp.pp.check_alignment(adata, image=path).loc["A"]
    assert found["verdict"] == "misaligned"
    assert found["likely_cause"] == "the image is the hires one, the positions are in pixels of the full resolution"


def test_check_alignment_does_not_guess():
    adata = section()
    y, x = np.mgrid[:500, :560]
    disc = np.full((500, 560, 3), 240, np.uint8)
    disc[np.hypot(x - 280, y - 250) < 200] = PINK
    adata.uns["spatial"]["A"]["images"]["hires"] = disc
    row, column = (index.ravel() for index in np.indices((23, 50)))
    xy = np.column_stack([280 + (column - 24.5) * 20, 250 + (row - 11) * 20])
    round_ = ad.AnnData(np.ones(((keep := np.hypot(*(xy - (280, 250)).T) < 200).sum(), 2), np.float32))
    round_.obsm["spatial"] = 4 * xy[keep]
    round_.uns = adata.uns
    found = sp.pp.check_alignment(round_).loc["A"]
    assert found["verdict"] == "ambiguous"
    assert "rotated by 180 degrees" in found["likely_cause"]
    adata.uns["spatial"]["A"]["images"]["hires"] = np.full((500, 560, 3), PINK, np.uint8)
    assert sp.pp.check_alignment(adata).loc["A", "verdict"] == "unclear"


def test_check_alignment_of_several_libraries_and_all_spots():
    both = ad.concat([section("A"), section("B", 1)], uns_merge="unique")
    MISTAKES["x and y are exchanged"](both, None)
    both.obsm["spatial"][both.obs["library_id"] == "A"] = section("A").obsm["spatial"]
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    table = sp.pp.check_alignment(both, **KEY)
    assert table["verdict"].to_dict() == {"A": "aligned", "B": "misaligned"}
    # Spots off the tissue are left out where it is known which they are.
    one = section()
    glass = one[:40].copy()
    glass.obs_names = [f"glass{i}" for i in range(40)]
    glass.obs["array_row"] += 1000
    glass.obsm["spatial"] = np.random.default_rng(0).uniform(1600, 1900, (40, 2))
    one.obs["in_tissue"], glass.obs["in_tissue"] = 1, 0
    joined = ad.concat([one, glass], uns_merge="first")
    alone = sp.pp.check_alignment(one)
    pd.testing.assert_frame_equal(sp.pp.check_alignment(joined), alone)
    said = joined.obs["in_tissue"]
    for column in (
        said == 1,
        said.astype(str),
        said.astype(str).astype("category"),
        said.astype(float),
        (said == 1).astype(str),
    ):
        joined.obs["in_tissue"] = column
        pd.testing.assert_frame_equal(sp.pp.check_alignment(joined), alone)
    joined.obs["in_tissue"] = np.where(said == 1, "yes", "no")
    with pytest.raises(ValueError, match="holds 'yes', 'no': expected 1"):
        sp.pp.check_alignment(joined)


REAL = ("villacampa/lung_organoid/V19D02-088_B1", "villacampa/kidney_organoid/V19D02-085_C1", "mouse_embryo_cytassist")


@pytest.mark.parametrize("folder", REAL)
def test_check_alignment_of_real_sections(folder, data_dir):
    adata = sp.datasets.read_visium(data_dir / folder)
    found = sp.pp.check_alignment(adata).iloc[0]
    assert found["verdict"] == "aligned"
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    found = sp.pp.check_alignment(adata).iloc[0]
    assert (found["verdict"], found["likely_cause"]) == ("misaligned", "x and y are exchanged")


def test_real_section_from_its_full_image(data_dir):
    adata = sp.datasets.her2st("C2", images=True)
    patches = resolve(adata, size=1.0, output_size=64)
    source = patches.recipe["sources"]["C2"]
    assert source["source"] == "file"
    assert source["um_per_px"] == pytest.approx(0.69, abs=0.01)  # 6.4 mm of 9,274 pixels
    pixels = patches.read(np.arange(0, len(patches), 20))
    assert 60 < pixels.mean() < 200
    # The same tissue as in the hires image.
    small = resolve(adata, image="hires", size=1.0, output_size=64).read(np.arange(0, len(patches), 20))
    one, other = (p.reshape(len(p), 8, 8, 8, 8, 3).mean(axis=(2, 4)).ravel() for p in (pixels, small))
    assert np.corrcoef(one, other)[0, 1] > 0.95


# --- slides without spots --------------------------------------------------------------------------------------------


def test_tile_slide_lays_a_lattice_on_the_tissue(tmp_path):
    image, tissue = slide()
    path = tiff(tmp_path / "a.tif", image, tile=(64, 64))
    adata = sp.pp.tile_slide(path, mpp=5.0, library_id="new")
    assert adata.n_vars == 0
    assert set(adata.obs["in_tissue"]) == {1}
    assert spot_pitch(adata.obsm["spatial"], adata.obs[["array_row", "array_col"]].to_numpy()) == (
        "hex",
        pytest.approx(20),
    )
    assert share_within(tissue, adata.obsm["spatial"], 13).min() > 0.3
    # and nowhere else: all tissue lies near a spot
    y, x = np.nonzero(tissue)
    nearest = np.sqrt(((adata.obsm["spatial"][None] - np.column_stack([x, y])[::37, None]) ** 2).sum(-1).min(axis=1))
    assert np.quantile(nearest, 0.95) < 14
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    patches = resolve(back, output_size=16)
    source = patches.recipe["sources"]["new"]
    assert (source["source"], source["patch_px"], source["um_per_px"]) == ("file", 13, 5)
    assert np.abs(patches.read(np.arange(len(patches))).mean(axis=(0, 1, 2)) - PINK).max() < 25


def test_tile_slide_of_an_array_on_a_grid():
    image, _ = slide()
    adata = sp.pp.tile_slide(image, mpp=5.0, kind="grid", pitch=200, spot_diameter=100, min_tissue=0)
    assert adata.n_obs == 14 * 12
    assert adata.obsm["spatial"].min(axis=0).tolist() == [20, 20]
    assert adata.obs_names[0] == "0x0"
    assert resolve(adata).recipe["sources"]["slide"]["source"] == "hires"
    assert not adata.uns["spatial"]["slide"]["metadata"]


def test_tile_slide_scale_and_errors(tmp_path, image):
    path = pyramid(tmp_path / "a.ome.tif", np.broadcast_to(np.array(PINK, np.uint8), (600, 600, 3)).copy())
    adata = sp.pp.tile_slide(path)
    assert factors(adata, "slide")["microns_per_pixel"] == 0.5
    for arguments, text in (
        ((image, {}), "give micrometres per pixel, `mpp`"),
        ((image[:40, :40], {"mpp": 1, "min_tissue": 0}), "40 x 40 pixels, too few for one"),
        ((np.full((200, 200, 3), 240, np.uint8), {"mpp": 5}), "no spot lies on tissue"),
        ((image, {"mpp": 500}), "closer than the pixels"),
        ((image, {"mpp": -1}), "mpp=-1"),
        ((image, {"mpp": 1, "kind": "round"}), "kind='round'"),
        ((image, {"mpp": 1, "min_tissue": 2}), "min_tissue=2"),
    ):
        with pytest.raises(ValueError, match=text):
            sp.pp.tile_slide(arguments[0], **arguments[1])


@pytest.mark.parametrize(
    ("matrix", "plain"),
    [
        ([[2.5, 0, 0.5], [0, 2.5, 0]], True),
        ([[2.5, 0, 300], [0, 2.5, 0]], False),
        ([[0, -2, 1300], [2, 0, 0]], False),
        ([[2.5, 0, 0], [0, 2, 0]], False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tile_slide_of_a_spatialdata_image(matrix, plain):
    """The same spots of the same tissue as of the image alone, in the coordinates of the object."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    image, _ = slide()
    matrix = np.array([*matrix, [0, 0, 1]], dtype=float)
    element = Image2DModel.parse(
        np.moveaxis(image, 2, 0),
        dims=("c", "y", "x"),
        transformations={"global": Affine(matrix, ("x", "y"), ("x", "y")), "other": Identity()},
    )
    expected = sp.pp.tile_slide(image, mpp=5.0)
    adata = sp.pp.tile_slide(element, mpp=5.0)
    moved = expected.obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]
    assert adata.obs_names.equals(expected.obs_names)
    np.testing.assert_allclose(adata.obsm["spatial"], moved)
    options = {"output_size": 13, "follow": False}
    wanted = resolve(expected, image=image, **options)
    got = resolve(adata, image=element, **options)
    source, other = (one.recipe["sources"]["slide"] for one in (got, wanted))
    assert (source["patch_px"], source["um_per_px"]) == pytest.approx((other["patch_px"], other["um_per_px"]))
    rows = np.arange(len(got))
    assert np.abs(got.read(rows).astype(int) - wanted.read(rows)).max() <= 1
    assert ("hires" in adata.uns["spatial"]["slide"]["images"]) == plain
    if plain:  # moved by less than a pixel
        assert np.abs(resolve(adata, **options).read(rows).astype(int) - wanted.read(rows)).mean() < 3


# --- plots -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def _plots():
    mpl.use("Agg")
    yield
    plt.close("all")


@pytest.mark.usefixtures("_plots")
def test_plot_of_the_alignment():
    both = ad.concat([section("A"), section("B", 1)], uns_merge="unique")
    both.obsm["spatial"][: both.n_obs // 2] = both.obsm["spatial"][: both.n_obs // 2, ::-1]
    fig = sp.pl.alignment(both, **KEY)
    assert isinstance(fig, Figure)
    table = sp.pp.check_alignment(both, **KEY)
    for ax, name in zip(fig.axes, "AB", strict=True):
        title = ax.get_title()
        assert f"{100 * table.loc[name, 'on_tissue']:.0f} % of" in title
        assert table.loc[name, "verdict"] in title
        drawn = {
            c.get_label(): len(c.get_offsets()) for c in ax.collections if c.get_label() in ("on tissue", "off tissue")
        }
        n = (both.obs["library_id"] == name).sum()
        assert drawn["on tissue"] == round(table.loc[name, "on_tissue"] * n)
        assert sum(drawn.values()) == n
    fig.canvas.draw()
    _, ax = plt.subplots()
    both.uns["spatial"]["A"]["metadata"] = {"source_image_path": "/nowhere.tif"}
    assert sp.pl.alignment(both, libraries="B", ax=ax, **KEY) is ax  # the image of the other one is not looked for
    assert f"{100 * table.loc['B', 'on_tissue']:.0f} % of" in ax.get_title()
    both.obs["in_tissue"] = np.arange(both.n_obs) % 2
    sp.pl.alignment(both, libraries="B", ax=ax, **KEY)
    assert f"of {both.obs['in_tissue'][both.obs['library_id'] == 'B'].sum()} spots" in ax.get_title()
    with pytest.raises(ValueError, match="one panel"):
        sp.pl.alignment(both, ax=ax, **KEY)
    with pytest.raises(KeyError, match="'A', 'B'"):
        sp.pl.alignment(both, libraries=["C"], **KEY)


@pytest.mark.usefixtures("_plots")
def test_plot_of_patches(adata):
    fig = sp.pl.patches(adata, n_spots=7, n_cols=4, output_size=32, **KEY)
    assert len(fig.axes) == 7
    titles = [ax.get_title().split("\n") for ax in fig.axes]
    assert {title[1] for title in titles} == {"library_1", "library_2"}
    again = sp.pl.patches(adata, n_spots=7, n_cols=4, output_size=32, **KEY)
    assert [ax.get_title() for ax in again.axes] == [ax.get_title() for ax in fig.axes]
    sp.pp.extract_patches(adata, size=3, output_size=40, **KEY)
    spots = adata.obs_names[[9, 3]].tolist()
    fig = sp.pl.patches(adata, spots, **KEY)
    expected = resolve(adata).read([9, 3])
    assert all(np.array_equal(ax.images[0].get_array(), patch) for ax, patch in zip(fig.axes, expected, strict=True))
    assert "3 spot diameters" in fig.get_suptitle()
    with pytest.raises(KeyError, match="'nobody'"):
        sp.pl.patches(adata, ["nobody"], **KEY)
    assert ArraySource(expected[0], "x").shape == (40, 40)
