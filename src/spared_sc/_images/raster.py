"""Images of which parts are read: what files, arrays and elements of a SpatialData object become."""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.report import logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import BytesIO
    from pathlib import Path

    from PIL.ImageFile import ImageFile

CACHE_BYTES = 2 * 2**30
BLOCK = 1024  # pixels of a block's side where the image itself has none
FORMATS = "JPEG, PNG, TIFF, OME-TIFF, or a whole-slide format that OpenSlide reads"
RGB = "Images are 8-bit RGB of stained tissue"
TILED = "save it as a tiled TIFF, which is read in parts, or use a machine with more memory."
ORIENTATION = 274  # tag of TIFF and EXIF: how viewers turn the stored pixels

_pillow_lock = threading.Lock()


@contextmanager
def image_file(path: Path) -> Iterator[None]:
    """Name an image file that cannot be read, and the remedy; decoders fail with errors of every kind."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be read: you have no permission for it. Change it, or copy the file."
        ) from error
    except MemoryError as error:
        raise ValueError(f"{path} needs more memory than there is: {TILED}") from error
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({str(error) or type(error).__name__}): expected an image ({FORMATS}). Where another "
            "program shows it, save it from there as 8-bit RGB TIFF; otherwise it is cut short or damaged: download or "
            "copy it again."
        ) from error


def tell_turned(orientation: Any, path: Path) -> None:
    """Log that viewers show a file from another side than it is read."""
    if orientation not in (None, 1):
        logger.warning(
            "%s has the orientation tag %s, by which viewers turn or mirror it. Its pixels are read as they are stored; "
            "positions of spots must be measured in stored pixels (see `sp.pp.check_alignment`)",
            *(path, orientation),
        )


def open_pillow(file: Path | BytesIO, formats: tuple[str, ...]) -> ImageFile:
    """An image of any size, not yet decoded."""
    from PIL import Image

    # Pillow takes whole-slide images for an attack; here, their memory is checked before they are decoded.
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats)
        finally:
            Image.MAX_IMAGE_PIXELS = limit


class Cache:
    """Decoded blocks of some images; the least recently used are dropped when they take too much memory."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self._blocks: OrderedDict[Any, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoding = [threading.Lock() for _ in range(32)]

    def get(self, key: Any, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """The block `key`; decoded once, also when several threads ask for it."""
        block = self._find(key)
        if block is None:
            with self._decoding[hash(key) % len(self._decoding)]:
                block = self._find(key)
                if block is None:
                    block = decode()
                    self._keep(key, block)
        return block

    def _find(self, key: Any) -> np.ndarray | None:
        with self._lock:
            if key in self._blocks:
                self._blocks.move_to_end(key)
            return self._blocks.get(key)

    def _keep(self, key: Any, block: np.ndarray) -> None:
        with self._lock:
            self._blocks[key] = block
            self._bytes += block.nbytes
            while self._bytes > self.limit and len(self._blocks) > 1:
                self._bytes -= self._blocks.popitem(last=False)[1].nbytes


class Source:
    """An RGB image of which parts are read; may be used by several threads at once.

    Positions in it are continuous: the pixel in column j covers x from j to j + 1.
    """

    def __init__(
        self,
        shape: tuple[int, int],  # height and width
        block: tuple[int, int],  # height and width of the blocks in which the image is decoded
        decode: Callable[[int, int], np.ndarray],  # block row, block column -> uint8 (height, width, 3)
        where: str,  # the image's name in messages
        *,
        kind: str = "file",
        cache: Cache | None = None,
    ) -> None:
        self.shape = (int(shape[0]), int(shape[1]))
        self.block = (min(int(block[0]), self.shape[0]), min(int(block[1]), self.shape[1]))
        self.where = where
        self.kind = kind
        self.um_per_px: float | None = None  # as the file says
        self.scale_fault = ""  # why the scale that the file states is not used
        self.from_spots = np.eye(2, 3)  # from the spots' coordinates to pixels
        self.overviews: list[Source] = []  # the same image in fewer pixels, largest first
        self._decode = decode
        self._cache = cache or Cache()
        self._key = object()  # not the id of the source, which another one may get later

    @property
    def undivided_bytes(self) -> int:
        """Memory of the image, when it can only be decoded as a whole; else 0."""
        return 3 * self.shape[0] * self.shape[1] if self.block == self.shape and self.kind == "file" else 0

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Pixels of a window inside of the image: uint8 (height, width, 3), not to be written to."""
        height, width = self.block
        rows, cols = range(top // height, (bottom - 1) // height + 1), range(left // width, (right - 1) // width + 1)
        if len(rows) * len(cols) == 1:
            y, x = rows[0] * height, cols[0] * width
            return self._get(rows[0], cols[0])[top - y : bottom - y, left - x : right - x]
        window = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
        for row in rows:
            for col in cols:
                y, x = row * height, col * width
                y0, y1 = max(top, y), min(bottom, y + height)
                x0, x1 = max(left, x), min(right, x + width)
                part = self._get(row, col)[y0 - y : y1 - y, x0 - x : x1 - x]
                window[y0 - top : y1 - top, x0 - left : x1 - left] = part
        return window

    def _get(self, row: int, col: int) -> np.ndarray:
        return self._cache.get((self._key, row, col), lambda: self._decode(row, col))

    def at_scale(self, shrink: float) -> Source:
        """The smallest version of the image that has no fewer pixels than the image shrunk by this factor."""
        enough = [v for v in self.overviews if self.shape[0] / v.shape[0] <= shrink * 1.001]
        return enough[-1] if enough else self

    def thumbnail(self, longest: int) -> tuple[np.ndarray, float]:
        """The whole image, no side much longer than `longest`, and the thumbnail's pixels per pixel."""
        from PIL import Image

        source = self.at_scale(max(self.shape) / longest)
        height, width = source.shape
        factor = max(1, round(max(source.shape) / longest))
        # Bands of whole blocks, so that little is held at once; of a large one, which the cache keeps, parts.
        band = factor * max(1, min(source.block[0], BLOCK) // factor)
        parts = []
        for top in range(0, height, band):
            part = Image.fromarray(np.ascontiguousarray(source.read(top, min(top + band, height), 0, width)))
            parts.append(np.asarray(part.reduce(factor)))
        return np.concatenate(parts), source.shape[0] / (self.shape[0] * factor)


class ArraySource(Source):
    """An image that is an array in memory, or mapped into it."""

    undivided_bytes = 0  # nothing is decoded

    def __init__(self, array: np.ndarray, where: str, *, kind: str = "array") -> None:
        array = np.moveaxis(array, *channel_axes(array, where))
        check_kind(array.dtype, array.shape[2], where, fractions=True)
        width = array.shape[1]
        blocks = (BLOCK, width)  # for thumbnails: a file that is mapped into memory need not be in it as a whole
        super().__init__(array.shape[:2], blocks, lambda row, _: array[row * BLOCK :][:BLOCK], where, kind=kind)
        self._array = array
        if array.size == 0:
            raise ValueError(f"{where} is empty, it has the shape {array.shape}: pass an image with pixels.")
        if array.dtype.kind == "f":
            low, high = float(array.min()), float(array.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"{where} holds numbers from {low:g} to {high:g}. {RGB}: expected whole numbers from 0 to 255 "
                    "(uint8), or fractions from 0 to 1."
                )

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Pixels of a window inside of the image: uint8 (height, width, 3), not to be written to."""
        return to_rgb(self._array[top:bottom, left:right], self.where)


def check_kind(dtype: Any, n_channels: int, where: str, *, bits: int | None = None, fractions: bool = False) -> None:
    """Refuse anything but 8-bit RGB, with or without an alpha channel; with `fractions` also floats, to be checked later."""
    dtype = np.dtype(dtype)
    if n_channels in (1, 2):
        raise ValueError(f"{where} is grey: it has no colours. {RGB}: pass the colour image.")
    if n_channels not in (3, 4):
        raise ValueError(
            f"{where} has {n_channels} channels, as fluorescence images do. {RGB}: pass the H&E image, or an array of "
            "three channels made from this one."
        )
    bits = 8 * dtype.itemsize if bits is None else bits
    if (dtype != np.uint8 or bits != 8) and not (fractions and dtype.kind == "f"):
        raise ValueError(
            f"{where} has {bits} bits per channel ({dtype}). {RGB}: convert it, such as with "
            "`(image / image.max() * 255).astype('uint8')` of the array, and use that, or save it."
        )


def channel_axes(array: Any, where: str) -> tuple[int, int]:
    """Where the channels are, and where they belong: last."""
    if array.ndim == 2:
        check_kind(array.dtype, 1, where)
    if array.ndim != 3:
        raise ValueError(f"{where} has {array.ndim} axes: expected (y, x, c) or (c, y, x).")
    first = array.shape[2] not in (3, 4) and array.shape[0] < min(array.shape[1:])
    return (0, 2) if first else (2, 2)


def to_rgb(pixels: np.ndarray, where: str) -> np.ndarray:
    """uint8 (y, x, 3) of checked pixels (y, x, 3 or 4)."""
    if pixels.dtype.kind == "f":
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.shape[2] == 4:
        if (pixels[..., 3] < 255).any():
            raise ValueError(
                f"{where} has a fourth channel that is not opaque: it is transparent in places, or holds something else. "
                f"{RGB}: lay it on white first, with `PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, "
                "'white'), image).convert('RGB')`, or keep its first three channels only."
            )
        pixels = pixels[..., :3]
    return pixels
