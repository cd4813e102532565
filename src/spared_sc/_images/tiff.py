"""TIFF files, read tile by tile or strip by strip."""

from __future__ import annotations

import threading
import weakref
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.memory import check_memory
from spared_sc._images.raster import (
    CACHE_BYTES,
    ORIENTATION,
    RGB,
    TILED,
    ArraySource,
    Cache,
    Source,
    check_kind,
    image_file,
    open_pillow,
    tell_turned,
    to_rgb,
)
from spared_sc._images.resolution import of_tiff

if TYPE_CHECKING:
    from pathlib import Path

_IN_PARTS = ("JPEG", "JPEG2000", "PNG", "WEBP")  # whole files that a part may be
_WORK = 9  # bytes of memory for each pixel of a part: decoded, its channels joined, and the result
_SEPARATE = 2  # PlanarConfiguration: one plane for each colour


def open_tiff(path: Path, cache: Cache | None) -> Source:
    """TIFF files, tile by tile or strip by strip."""
    import tifffile

    with image_file(path):
        tif = tifffile.TiffFile(path, _multifile=False)  # files that OME metadata name are not opened
    try:
        with image_file(path):
            series = _largest(list(tif.series), path)
            for level in series.levels:
                _check_pages(level, path.stat().st_size)
            source_scale = of_tiff(tif, series.keyframe)
            tag = series.keyframe.tags.get(ORIENTATION)
        lock = threading.Lock()
        levels = [_tiff_level(tif, level, lock, path, cache) for level in series.levels]
    except BaseException:
        tif.close()
        raise
    weakref.finalize(tif, tif.filehandle.close)  # once no level needs it any more
    source, *source.overviews = levels
    source.um_per_px, source.scale_fault = source_scale
    tell_turned(None if tag is None else tag.value, path)
    return source


def _largest(series: list[Any], path: Path) -> Any:
    """The image of a file of several that is meant: the slide, not its label or macro image."""
    sizes = [one.keyframe.imagewidth * one.keyframe.imagelength for one in series]
    largest = [one for one, size in zip(series, sizes, strict=True) if size == max(sizes)]
    if len(largest) > 1:
        raise ValueError(
            f"it holds {len(largest)} images of the same size; save the one that is meant to a file of its own"
        )
    return largest[0]


def _check_pages(level: Any, end: int) -> None:
    """Refuse a level of which parts are missing or out of proportion."""
    missing = sum(page is None for page in level.pages)
    if missing:
        raise ValueError(f"{missing} of its {len(level.pages)} planes are missing or in other files")
    page = level.keyframe
    height, width = page.imagelength, page.imagewidth
    rows, cols = _block(page)
    if min(height, width, rows, cols) < 1:
        raise ValueError(f"it has {width} x {height} pixels in parts of {cols} x {rows}")
    if page.imagedepth > 1:
        raise ValueError(f"it is a volume of {page.imagedepth} planes")
    n_parts = _planes(page) * -(-height // rows) * -(-width // cols)
    for one in level.pages:
        if min(len(one.dataoffsets), len(one.databytecounts)) < n_parts and not page.is_memmappable:
            raise ValueError(f"it lists {len(one.dataoffsets)} of the {n_parts} parts of its pixels")
        if any(start + n > end for start, n in zip(one.dataoffsets, one.databytecounts, strict=True)):
            raise ValueError("it ends before its last pixels")


@dataclass(frozen=True)
class _Level:
    """One resolution of a TIFF, in parts: tiles, or strips of the image's width."""

    tif: Any
    pages: list[Any]  # one, or one for each colour
    page: Any  # the first of them, which describes all
    block: tuple[int, int]  # height and width of a part
    palette: np.ndarray | None
    lock: threading.Lock
    path: Path

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.page.imagelength, self.page.imagewidth

    def decode(self, row: int, col: int) -> np.ndarray:
        """One block: uint8 (height, width, 3)."""
        n_rows, n_cols = (-(-side // part) for side, part in zip(self.shape, self.block, strict=True))
        index = row * n_cols + col
        inside = (
            min(self.block[0], self.shape[0] - row * self.block[0]),
            min(self.block[1], self.shape[1] - col * self.block[1]),
        )
        n_planes = _planes(self.page)
        with image_file(self.path):
            parts = [
                self._part(page, index + plane * n_rows * n_cols, inside)
                for page in self.pages
                for plane in range(n_planes)
            ]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            if self.palette is not None:
                pixels = self.palette[pixels[..., 0].astype(np.uint8)]
            if pixels.shape[:2] != inside or pixels.dtype != np.uint8:
                raise ValueError(f"a part of {inside} pixels came out as {pixels.shape[:2]}")
        return np.ascontiguousarray(to_rgb(pixels, str(self.path)))

    def _part(self, page: Any, index: int, inside: tuple[int, int]) -> np.ndarray:
        """One tile or strip of one page, without what reaches beyond the image."""
        with self.lock:
            self.tif.filehandle.seek(page.dataoffsets[index])
            data = self.tif.filehandle.read(page.databytecounts[index]) or None
        if data is None:  # tiles without tissue may be left out
            return np.full((*inside, self.page.samplesperpixel // _planes(self.page)), 255, dtype=np.uint8)
        _check_header(data, int(self.page.compression), self.block, inside)
        tables = {"jpegtables": self.page.jpegtables, "jpegheader": self.page.jpegheader}
        decoded, _, _ = self.page.decode(data, index, **tables)
        return decoded[0][: inside[0], : inside[1]]


def _planes(page: Any) -> int:
    return page.samplesperpixel if page.planarconfig == _SEPARATE else 1


def _block(page: Any) -> tuple[int, int]:
    """Height and width of the parts of a page."""
    strips = (min(page.rowsperstrip, page.imagelength), page.imagewidth)
    return (page.tilelength, page.tilewidth) if page.is_tiled else strips


def _tiff_level(tif: Any, level: Any, lock: threading.Lock, path: Path, cache: Cache | None) -> Source:
    """One resolution of a TIFF."""
    page, where = level.keyframe, str(path)
    colour_axis = "S" if page.samplesperpixel > 1 else "C"
    others = {
        axis: n for axis, n in zip(level.axes, level.shape, strict=True) if axis not in f"YX{colour_axis}" and n > 1
    }
    if others:
        raise ValueError(f"{where} is a stack: its axes are {level.axes} {level.shape}. {RGB}: save one plane of it.")
    palette = _palette(page, path) if len(level.pages) == 1 else None
    if palette is None:
        _check_colours(page, len(level.pages), where)
        if len(level.pages) == 1 and page.is_memmappable and not page.is_tiled:
            with image_file(path):
                mapped = page.asarray(out="memmap")
            return ArraySource(mapped if _planes(page) == 1 else np.moveaxis(mapped, 0, 2), where, kind="file")
    block = _block(page)
    measures = f"{block[1]} x {block[0]} pixels"
    if page.is_tiled and 3 * block[0] * block[1] > CACHE_BYTES:
        raise ValueError(f"{where} cannot be read: its tiles of {measures} are out of proportion.")
    check_memory(f"a part of {where} ({measures})", _WORK * block[0] * block[1], TILED)
    parts = _Level(tif, list(level.pages), page, block, palette, lock, path)
    return Source(parts.shape, block, parts.decode, where, cache=cache)


def _palette(page: Any, path: Path) -> np.ndarray | None:
    """Colours (n, 3) that the numbers of a TIFF stand for, uint8; `None` where they are colours themselves."""
    import tifffile

    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.samplesperpixel != 1 or page.bitspersample > 8:
        return None
    with image_file(path):
        colours = np.asarray(page.tags["ColorMap"].value).reshape(3, 2**page.bitspersample).T
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)  # some programs write 8 bits


def _check_colours(page: Any, n_pages: int, where: str) -> None:
    """Refuse a TIFF that is not 8-bit RGB; colours are samples of a pixel, or pages of their own."""
    import tifffile

    colours = tifffile.PHOTOMETRIC
    grey = page.photometric in (colours.MINISBLACK, colours.MINISWHITE) or page.samplesperpixel * n_pages > 4
    from_jpeg = page.photometric == colours.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if page.photometric not in (colours.RGB, colours.MINISBLACK) and not from_jpeg and not grey:
        name = getattr(page.photometric, "name", page.photometric)
        raise ValueError(f"{where} has the colours {name}. {RGB}: save it as RGB.")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    check_kind(page.dtype or np.uint8, page.samplesperpixel * n_pages, where, bits=bits)
    if page.photometric == colours.MINISWHITE:
        raise ValueError(f"{where} has the colours MINISWHITE: 0 is white. {RGB}: save it as RGB.")


def _check_header(data: bytes, compression: int, block: tuple[int, int], inside: tuple[int, int]) -> None:
    """Refuse a tile that is a whole JPEG or the like of other measures: those ask for memory, and shift its rows."""
    import tifffile

    if compression not in tifffile.TIFF.IMAGE_COMPRESSIONS:
        return
    try:
        width, height = open_pillow(BytesIO(data), _IN_PARTS).size
    except (OSError, SyntaxError):
        return  # a format that Pillow does not know: its decoder says what is wrong
    if not (inside[0] <= height <= block[0] and inside[1] <= width <= block[1]):
        raise ValueError(f"a part of {block[1]} x {block[0]} pixels holds an image of {width} x {height}")
