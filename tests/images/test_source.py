"""_images/source."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

from helpers.images import RECIPE, WRITERS, cut_short, pillow, pyramid, smooth, tiff
from spared_sc._images.patches import Patches
from spared_sc._images.source import Cache, Source, open_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


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
