"""_images/source."""

from __future__ import annotations

import os
import struct
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from helpers.images import RECIPE, WRITERS, cut_short, pillow, pyramid, smooth, tiff
from spared_sc._images.patches import Patches
from spared_sc._images.raster import Cache, Source
from spared_sc._images.source import open_image
from spared_sc.datasets._join import read_image

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


@pytest.fixture
def slide(tmp_path):
    """A slide as Aperio's scanners write it, and its pixels; tiles of the edge reach beyond it."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), dtype=np.uint8)
    scanned = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
    text = "Aperio Image Library v11.2.1 \r\n1100x700 (256x256) JPEG/RGB Q=100|AppMag = 40|MPP = 0.2500"
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(pixels, tile=(256, 256), description=text, **scanned)
        file.write(pixels[::8, ::8].copy(), description="Aperio thumbnail", rowsperstrip=16, **scanned)
        file.write(pixels[::4, ::4].copy(), tile=(256, 256), description=text, **scanned)
    return tmp_path / "a.svs", pixels


@pytest.mark.parametrize("box", [(0, 700, 0, 1100), (250, 262, 500, 520), (690, 700, 1090, 1100)])
def test_scanner_formats_are_read_by_openslide(slide, tmp_path, box):
    pytest.importorskip("openslide")
    path, pixels = slide
    source = open_image(path)
    assert source.shape == pixels.shape[:2]
    assert source.um_per_px == pytest.approx(0.25)
    np.testing.assert_array_equal(source.read(*box), open_image(pixels).read(*box))
    assert [level.shape for level in source.overviews] == [(175, 275)]
    np.testing.assert_array_equal(source.overviews[0].read(0, 175, 0, 275), pixels[::4, ::4])


@pytest.mark.parametrize("n_bytes", [0, 100, 300_000])
def test_damaged_scanner_files_are_refused(slide, tmp_path, n_bytes):
    pytest.importorskip("openslide")
    path, pixels = slide
    whole = path.read_bytes()
    path.write_bytes(whole[:n_bytes])
    with pytest.raises(ValueError, match=r"a\.svs"):
        open_image(path).read(0, 700, 0, 1100)


def test_large_files_leave_pillow_as_it_was(image, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    open_image(pillow(tmp_path / "a.png", image)).read(0, 10, 0, 10)
    assert Image.MAX_IMAGE_PIXELS == 1000


def turned(folder: Path, name: str, image: np.ndarray, orientation: int) -> Path:
    """A file that viewers turn or mirror."""
    if name.endswith(".tif"):
        return tiff(folder / name, image, extratags=[(274, "H", 1, orientation, True)])
    exif = Image.Exif()
    exif[274] = orientation
    return pillow(folder / name, image, exif=exif, **({} if name.endswith(".png") else {"quality": 100}))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.tif", "a.jpg", "a.png"])
def test_hires_and_patches_show_the_stored_pixels(name, orientation, tmp_path, caplog):
    image = np.full((120, 160, 3), 240, np.uint8)
    image[16:32, 32:48] = (200, 80, 140)  # seen from any other side, it lies elsewhere
    path = turned(tmp_path, name, image, orientation)
    for pixels in (open_image(path).read(0, 120, 0, 160), read_image(path)[0], read_image(path, 160)[0]):
        assert pixels.shape == image.shape
        assert np.abs(pixels[20:28, 36:44].astype(int) - (200, 80, 140)).max() < 12
    assert ("orientation tag" in caplog.text) == (orientation != 1)


def sparse_tiff(path: Path, **tags: int) -> Path:
    """A tiled TIFF with other numbers in its tags than it was written with."""
    tiff(path, np.zeros((64, 64, 3), np.uint8), tile=(64, 64), compression="deflate")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name, value in tags.items():
            tag = file.pages[0].tags[name]
            struct.pack_into({3: "<H", 4: "<I"}[int(tag.dtype)], content, tag.valueoffset, value)
    path.write_bytes(content)
    return path


def giant_jpeg(path: Path, side: int) -> Path:
    """A small JPEG that claims to be `side` pixels wide and high."""
    pillow(path, np.zeros((64, 64, 3), np.uint8))
    content = bytearray(path.read_bytes())
    place = content.find(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    path.write_bytes(content)
    return path


def giant_png(path: Path, side: int) -> Path:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(1000))),
        (b"IEND", b""),
    ]
    parts = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def giant_bmp(path: Path, width: int, height: int) -> Path:
    pillow(path, np.zeros((64, 64, 3), np.uint8))
    content = bytearray(path.read_bytes())
    content[18:26] = struct.pack("<ii", width, height)
    path.write_bytes(content)
    return path


def jpeg_in_a_tile(path: Path, side: int) -> Path:
    """A tile of 64 x 64 pixels that holds a JPEG of another size."""
    tiff(path, smooth(64, 64), tile=(64, 64), compression="jpeg")
    content = bytearray(path.read_bytes())
    place = content.find(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", side, side)
    path.write_bytes(content)
    return path


BOMBS = {
    "jpeg": (lambda f: giant_jpeg(f / "a.jpg", 65000), "bytes cannot hold 65000 x 65000 pixels"),
    "png": (lambda f: giant_png(f / "a.png", 60000), "bytes cannot hold 60000 x 60000 pixels"),
    "bmp": (lambda f: giant_bmp(f / "a.bmp", 68, 16777153), "bytes cannot hold 68 x 16777153 pixels"),
    "tile": (
        lambda f: sparse_tiff(f / "a.tif", TileWidth=65520, TileLength=65520),
        "65520 x 65520 pixels are out of prop",
    ),
    "tiles": (lambda f: sparse_tiff(f / "a.tif", TileWidth=16, TileLength=16), "lists 1 of the 16 parts"),
    "image": (lambda f: sparse_tiff(f / "a.tif", ImageWidth=65535, ImageLength=65535), "lists 1 of the 1048576 parts"),
    "tile of no width": (lambda f: sparse_tiff(f / "a.tif", TileWidth=0), "it has 64 x 64 pixels in parts of"),
    "jpeg in a tile": (lambda f: jpeg_in_a_tile(f / "a.tif", 30000), "holds an image of 30000 x 30000"),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_files_that_ask_for_much_memory_are_refused_before_they_are_read(bomb, tmp_path):
    make, text = BOMBS[bomb]
    path = make(tmp_path)
    tracemalloc.start()
    try:
        for read in (lambda: open_image(path).read(0, 60, 0, 60), lambda: read_image(path)):
            with pytest.raises(ValueError, match=text):
                read()
        with pytest.raises(ValueError, match=text):
            sp.pp.tile_slide(path, mpp=0.5)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3e7


@pytest.mark.parametrize(
    "write", [WRITERS["png"], lambda f, a: tiff(f / "a.tif", a, rowsperstrip=9999, compression="zlib")]
)
def test_an_image_may_take_what_memory_there_is(write, image, tmp_path, monkeypatch):
    from spared_sc._core import memory

    path = write(tmp_path, image)
    monkeypatch.setattr(memory, "available", lambda: 2 * 10**6)
    open_image(path)
    monkeypatch.setattr(memory, "available", lambda: 10**6)
    with pytest.raises(
        ValueError, match=r"400 x 300 pixels\) needs .* GiB of memory, .* available: save it as a tiled TIFF"
    ):
        open_image(path)
    tiled = WRITERS["tiled"](tmp_path, image)
    assert open_image(tiled).shape == (300, 400)


def test_a_decoder_that_runs_out_of_memory_is_told(image, tmp_path, monkeypatch):
    path = pillow(tmp_path / "a.png", image)
    source = open_image(path)

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(ValueError, match=r"a.png needs more memory than there is: save it as a tiled TIFF"):
        source.read(0, 9, 0, 9)


def four_bits(folder: Path) -> Path:
    """RGB of four bits per channel, which decoders give as small numbers."""
    path = tiff(folder / "a.tif", smooth(16, 16), tile=(16, 16), compression="zlib")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["BitsPerSample"]
        struct.pack_into("<3H", content, tag.valueoffset, 4, 4, 4)
    path.write_bytes(content)
    return path


def several_files(folder: Path) -> Path:
    """An OME-TIFF whose planes lie in another file as well."""
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="40" SizeY="30" SizeZ="1" SizeC="3" SizeT="1">'
        + "".join(
            f'<TiffData FirstC="{c}" IFD="0" PlaneCount="1"><UUID FileName="{name}">urn:uuid:{c}</UUID></TiffData>'
            for c, name in enumerate(["a.ome.tif", "b.tif", "../c.tif"])
        )
        + "</Pixels></Image></OME>"
    )
    tifffile.imwrite(folder / "a.ome.tif", np.zeros((30, 40), np.uint8), description=xml, metadata=None)
    return folder / "a.ome.tif"


ODD = {
    "four bits": (four_bits, "4 bits per channel"),
    "several files": (several_files, "planes are missing or in other files|is grey"),
    "two slides": (
        lambda f: tifffile.imwrite(f / "a.tif", np.zeros((2, 30, 40, 3), np.uint8), photometric="rgb") or f / "a.tif",
        "is a stack|images of the same size",
    ),
    "gif": (lambda f: pillow(f / "a.gif", smooth(30, 40)), "expected an image"),
    "jpeg 2000": (lambda f: pillow(f / "a.jp2", smooth(30, 40)), "expected an image"),
    "no bytes": (lambda f: (f / "a.tif").write_bytes(b"") and None or f / "a.tif", "cannot be read"),
    "animation": (
        lambda f: (
            Image.fromarray(smooth(30, 40)).save(
                f / "a.webp", save_all=True, append_images=[Image.fromarray(smooth(30, 40, 1))], lossless=True
            )
            or f / "a.webp"
        ),
        "is a stack: it holds 2 images",
    ),
    "long name": (lambda f: "x" * 5000, "cannot be the path of an image"),
}


def test_a_name_that_no_file_can_have():
    with pytest.raises(
        (FileNotFoundError, ValueError), match=r"no image .*a.x00b|cannot be the path"
    ):  # as Python has it
        open_image("a\0b")


@pytest.mark.parametrize("odd", ODD)
def test_odd_files_are_refused(odd, tmp_path):
    make, text = ODD[odd]
    path = make(tmp_path)
    with pytest.raises(ValueError, match=text):
        open_image(path).read(0, 9, 0, 9)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match="no regular file"):
        open_image(tmp_path / "a.png")


def test_a_file_without_permission(tmp_path, image, monkeypatch):
    path = pillow(tmp_path / "a.png", image)

    def refuse(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)  # root may read everything
    with pytest.raises(PermissionError, match=r"a.png cannot be read: you have no permission"):
        open_image(path)


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_dask_array_is_read_in_parts(image, channels_first):
    da = pytest.importorskip("dask.array")
    array = da.from_array(np.moveaxis(image, 2, 0) if channels_first else image, chunks=50)
    source = open_image(array.rechunk({0: 3} if channels_first else {2: 3}))
    assert source.kind == "array"
    assert np.array_equal(source.read(10, 290, 33, 333), image[10:290, 33:333])
    with pytest.raises(ValueError, match="16 bits"):
        open_image(array.astype(np.uint16))
    with pytest.raises(TypeError, match=r"np\.asarray\(image\)"):
        open_image(Image.fromarray(image))


DEEP = {
    "16 bits": lambda f, a: pillow(f / "a.png", a[..., 0].astype(np.uint16) * 257),
    "float": lambda f, a: tifffile.imwrite(f / "a.tif", (a / 255).astype(np.float32), photometric="rgb") or f / "a.tif",
    "grey": lambda f, a: pillow(f / "a.png", a[..., 0]),
    "transparent": lambda f, a: pillow(f / "a.png", np.dstack([a, a[..., 0]])),
    "cmyk": lambda f, a: Image.fromarray(a).convert("CMYK").save(f / "a.jpg") or f / "a.jpg",
}


@pytest.mark.parametrize("kind", DEEP)
def test_readers_of_sections_refuse_what_patches_refuse(kind, image, tmp_path):
    path = DEEP[kind](tmp_path, image)
    with pytest.raises(ValueError, match="Images are 8-bit RGB") as of_patches:
        open_image(path).read(0, 300, 0, 400)
    with pytest.raises(ValueError, match="load_images=False") as of_section:
        read_image(path)
    assert str(of_section.value).startswith(str(of_patches.value))


@pytest.mark.parametrize(
    ("longest", "shape"), [(None, (300, 400)), (400, (300, 400)), (399, (299, 399)), (100, (75, 100))]
)
def test_hires_images_are_no_longer_than_asked(image, longest, shape, tmp_path):
    small, size = read_image(WRITERS["tiled"](tmp_path, image), longest)
    assert (small.shape, size) == ((*shape, 3), (400, 300))
    wanted = np.asarray(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BICUBIC))
    assert np.abs(small.astype(int) - wanted).mean() < 2
