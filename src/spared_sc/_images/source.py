"""Images that are read in parts: files, arrays, elements of a SpatialData object."""

from __future__ import annotations

import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.memory import check_memory
from spared_sc._core.report import logger
from spared_sc._images.resolution import of_file, of_tiff, square

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

CACHE_BYTES = 2 * 2**30
_BLOCK = 1024  # pixels of a block's side where the image itself has none
# Formats that only OpenSlide reads, or that it reads better than as a TIFF.
_SLIDE_FORMATS = (".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Others hide their bit depth (JPEG 2000, PPM), hold documents (PSD, EPS) or start programs.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
_FORMATS = "JPEG, PNG, TIFF, OME-TIFF, or a whole-slide format that OpenSlide reads"
_RGB = "Images are 8-bit RGB of stained tissue"
_TILED = "save it as a tiled TIFF, which is read in parts, or use a machine with more memory."
# Bytes for each pixel while an image is decoded as a whole: Pillow's own four, and three of the result.
_PER_PIXEL = 7
# Most pixels that a byte of the file can hold: a JPEG of one colour has about 400, deflate shrinks to 1/1032.
_MOST_OF_JPEG, _MOST_OF_DEFLATE = 1000, 1032
_BAND = 512  # rows that are converted at once
_ORIENTATION = 274  # tag of TIFF and EXIF: how viewers turn the stored pixels

_pillow_lock = threading.Lock()


@contextmanager
def readable(path: Path, expected: str) -> Iterator[None]:
    """Name a file that cannot be read, and the remedy.

    The errors of imagecodecs are RuntimeErrors.
    """
    try:
        yield
    except (OSError, EOFError, KeyError, ValueError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): expected {expected}. "
            "The file looks cut short or damaged: download or copy it again."
        ) from error


@contextmanager
def _image_file(path: Path) -> Iterator[None]:
    """Name an image file that cannot be read, and the remedy; decoders fail with errors of every kind."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"{path} cannot be read: you have no permission for it. Change it, or copy the file."
        ) from error
    except MemoryError as error:
        raise ValueError(f"{path} needs more memory than there is: {_TILED}") from error
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({str(error) or type(error).__name__}): expected an image ({_FORMATS}). Where another "
            "program shows it, save it from there as 8-bit RGB TIFF; otherwise it is cut short or damaged: download or "
            "copy it again."
        ) from error


def _open_pillow(path: Path) -> ImageFile:
    """An image file of any size, not yet decoded."""
    from PIL import Image

    # Pillow takes whole-slide images for an attack; a file that the user names is not one.
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path, formats=_PILLOW_FORMATS)
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
        # Bands of whole blocks, so that nothing is decoded twice and little is held at once.
        band = factor * max(1, source.block[0] // factor)
        parts = []
        for top in range(0, height, band):
            part = Image.fromarray(np.ascontiguousarray(source.read(top, min(top + band, height), 0, width)))
            parts.append(np.asarray(part.reduce(factor)))
        return np.concatenate(parts), source.shape[0] / (self.shape[0] * factor)


class ArraySource(Source):
    """An image that is an array in memory, or mapped into it."""

    undivided_bytes = 0  # nothing is decoded

    def __init__(self, array: np.ndarray, where: str, *, kind: str = "array") -> None:
        array = np.moveaxis(array, *_channel_axes(array, where))
        _check_kind(array.dtype, array.shape[2], where, fractions=True)
        width = array.shape[1]
        blocks = (_BLOCK, width)  # for thumbnails: a file that is mapped into memory need not be in it as a whole
        super().__init__(array.shape[:2], blocks, lambda row, _: array[row * _BLOCK :][:_BLOCK], where, kind=kind)
        self._array = array
        if array.size == 0:
            raise ValueError(f"{where} is empty: it has the shape {array.shape}.")
        if array.dtype.kind == "f":
            low, high = float(array.min()), float(array.max())
            if not (low >= 0 and high <= 1):
                raise ValueError(
                    f"{where} holds numbers from {low:g} to {high:g}. {_RGB}: expected whole numbers from 0 to 255 "
                    "(uint8), or fractions from 0 to 1."
                )

    def read(self, top: int, bottom: int, left: int, right: int) -> np.ndarray:
        """Pixels of a window inside of the image: uint8 (height, width, 3), not to be written to."""
        return _rgb(self._array[top:bottom, left:right], self.where)


def open_image(where: Any, *, coordinate_system: str | None = None, cache: Cache | None = None) -> Source:
    """An image to read in parts: path of a file, array (y, x, c) or (c, y, x), or an image of a SpatialData object.

    Everything in the package that reads an image file does so here. Pixels are those that are stored: tags that tell
    viewers to turn the image do not count, because the positions of spots are measured in stored pixels.
    `coordinate_system` is that of the spots' positions, for a SpatialData image. Images that share a `cache` keep to
    its limit together.
    """
    package = type(where).__module__.partition(".")[0]
    if isinstance(where, str | Path):
        return _open_file(_existing_file(where), cache)
    if isinstance(where, np.ndarray):
        return ArraySource(where, f"the array {where.shape}")
    if package == "dask" and hasattr(where, "chunks"):
        return _open_lazy(where, f"the dask array {where.shape}", "array", cache)
    if package == "xarray":
        return _open_element(where, coordinate_system, cache)
    raise TypeError(
        f"image={type(where).__name__} cannot be read: expected the path of an image file, a numpy or dask array or an "
        "image of a SpatialData object. Pass `np.asarray(image)` of other images."
    )


def _check_kind(dtype: Any, n_channels: int, where: str, *, bits: int | None = None, fractions: bool = False) -> None:
    """Refuse anything but 8-bit RGB, with or without an alpha channel; with `fractions` also floats, to be checked later."""
    dtype = np.dtype(dtype)
    if n_channels in (1, 2):
        raise ValueError(f"{where} is grey: it has no colours. {_RGB}: pass the colour image.")
    if n_channels not in (3, 4):
        raise ValueError(
            f"{where} has {n_channels} channels, as fluorescence images do. {_RGB}: pass the H&E image, or an array of "
            "three channels made from this one."
        )
    bits = 8 * dtype.itemsize if bits is None else bits
    if (dtype != np.uint8 or bits != 8) and not (fractions and dtype.kind == "f"):
        raise ValueError(
            f"{where} has {bits} bits per channel ({dtype}). {_RGB}: convert it, such as with "
            "`(image / image.max() * 255).astype('uint8')` of the array, and use that, or save it."
        )


def _channel_axes(array: Any, where: str) -> tuple[int, int]:
    """Where the channels are, and where they belong: last."""
    if array.ndim == 2:
        _check_kind(array.dtype, 1, where)
    if array.ndim != 3:
        raise ValueError(f"{where} has {array.ndim} axes: expected (y, x, c) or (c, y, x).")
    first = array.shape[2] not in (3, 4) and array.shape[0] < min(array.shape[1:])
    return (0, 2) if first else (2, 2)


def _rgb(pixels: np.ndarray, where: str) -> np.ndarray:
    """uint8 (y, x, 3) of checked pixels (y, x, 3 or 4)."""
    if pixels.dtype.kind == "f":
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.shape[2] == 4:
        if (pixels[..., 3] < 255).any():
            raise ValueError(
                f"{where} has a fourth channel that is not opaque: it is transparent in places, or holds something else. "
                f"{_RGB}: lay it on white first, with `PIL.Image.alpha_composite(PIL.Image.new('RGBA', image.size, "
                "'white'), image).convert('RGB')`, or keep its first three channels only."
            )
        pixels = pixels[..., :3]
    return pixels


def _existing_file(where: str | Path) -> Path:
    """The path of an image file; whole-slide formats may be folders."""
    try:
        path = Path(where).expanduser().absolute()
        exists, regular, folder = path.exists(), path.is_file(), path.is_dir()
    except PermissionError as error:
        raise PermissionError(
            f"there is no permission to look for {str(where)!r}: change it, or copy the file."
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{str(where)[:300]!r} cannot be the path of an image: {error}.") from error
    if not exists:
        raise FileNotFoundError(
            f"there is no image {str(path)!r}: it may have been moved. Pass its new place as `image=`."
        )
    if folder:
        raise ValueError(f"{path} is a folder: pass the image file in it as `image=` ({_FORMATS}).")
    if not regular:
        raise ValueError(f"{path} is no regular file: pass the path of an image file as `image=` ({_FORMATS}).")
    return path


def _open_file(path: Path, cache: Cache | None) -> Source:
    if path.suffix.lower() in _SLIDE_FORMATS:
        return _open_slide(path, cache)
    with _image_file(path), path.open("rb") as file:
        start = file.read(4)
    return _open_tiff(path, cache) if start in _TIFF_STARTS else _open_whole(path, cache)


def _open_whole(path: Path, cache: Cache | None) -> Source:
    """JPEG, PNG and similar formats, decoded as a whole, once."""
    with _image_file(path), _open_pillow(path) as image:
        mode, (width, height) = image.mode, image.size
        ratio = {"JPEG": _MOST_OF_JPEG, "MPO": _MOST_OF_JPEG, "PNG": 8 * _MOST_OF_DEFLATE}.get(str(image.format))
        if ratio is not None and width * height > ratio * path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes cannot hold {width} x {height} pixels")
        deep = any(";16" in str(tile[3]) for tile in image.tile)  # Pillow would keep the high bytes only
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # previews follow in an MPO
        um_per_px, fault = of_file(image)
        # A PNG without EXIF would be decoded in search of one.
        turned = image.getexif().get(_ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
        see_through = mode != "RGB" or "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        _check_kind(np.uint8, 1, str(path))
    if deep or mode.startswith("I"):
        _check_kind(np.uint16, 3, str(path))
    if mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"{path} has the colours {mode}. {_RGB}: save it as RGB.")
    if n_frames != 1:
        raise ValueError(f"{path} is a stack: it holds {n_frames} images. {_RGB}: save one of them.")
    check_memory(f"{path} ({width} x {height} pixels)", _PER_PIXEL * width * height, _TILED)
    _tell_turned(turned, path)

    def decode(row: int, col: int) -> np.ndarray:
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        with _image_file(path), _open_pillow(path) as image:
            image.load()  # all of it: a file that was cut short fails here
            for top in range(0, height, _BAND):
                band = image.crop((0, top, width, min(top + _BAND, height)))
                pixels[top : top + _BAND] = _rgb(np.asarray(band.convert("RGBA") if see_through else band), str(path))
        return pixels

    source = Source((height, width), (height, width), decode, str(path), cache=cache)
    source.um_per_px, source.scale_fault = um_per_px, fault
    return source


def _tell_turned(orientation: Any, path: Path) -> None:
    if orientation not in (None, 1):
        logger.warning(
            "%s has the orientation tag %s, by which viewers turn or mirror it. Its pixels are read as they are stored; "
            "positions of spots must be measured in stored pixels (see `sp.pp.check_alignment`)",
            *(path, orientation),
        )


def _open_tiff(path: Path, cache: Cache | None) -> Source:
    """TIFF files, tile by tile or strip by strip."""
    import tifffile

    with _image_file(path):
        tif = tifffile.TiffFile(path, _multifile=False)  # files that OME metadata name are not opened
    try:
        with _image_file(path):
            series = _largest(list(tif.series), path)
            for level in series.levels:
                _check_pages(level, path.stat().st_size)
            source_scale = of_tiff(tif, series.keyframe)
            tag = series.keyframe.tags.get(_ORIENTATION)
        lock = threading.Lock()
        levels = [_tiff_level(tif, level, lock, path, cache) for level in series.levels]
    except BaseException:
        tif.close()
        raise
    weakref.finalize(tif, tif.filehandle.close)  # once no level needs it any more
    source, *source.overviews = levels
    source.um_per_px, source.scale_fault = source_scale
    _tell_turned(None if tag is None else tag.value, path)
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
    rows, cols = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    if min(height, width, rows, cols) < 1:
        raise ValueError(f"it has {width} x {height} pixels in parts of {cols} x {rows}")
    if page.imagedepth > 1:
        raise ValueError(f"it is a volume of {page.imagedepth} planes")
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    n_parts = planes * -(-height // rows) * -(-width // cols)
    for one in level.pages:
        if min(len(one.dataoffsets), len(one.databytecounts)) < n_parts and not page.is_memmappable:
            raise ValueError(f"it lists {len(one.dataoffsets)} of the {n_parts} parts of its pixels")
        if any(start + n > end for start, n in zip(one.dataoffsets, one.databytecounts, strict=True)):
            raise ValueError("it ends before its last pixels")


def _tiff_level(tif: Any, level: Any, lock: threading.Lock, path: Path, cache: Cache | None) -> Source:
    """One resolution of a TIFF."""
    page, where = level.keyframe, str(path)
    colour_axis = "S" if page.samplesperpixel > 1 else "C"
    others = {
        axis: n for axis, n in zip(level.axes, level.shape, strict=True) if axis not in f"YX{colour_axis}" and n > 1
    }
    if others:
        raise ValueError(f"{where} is a stack: its axes are {level.axes} {level.shape}. {_RGB}: save one plane of it.")
    palette = _palette(page, where) if len(level.pages) == 1 else None
    if palette is None:
        _check_colours(page, len(level.pages), where)
    planes = page.samplesperpixel if page.planarconfig == 2 else 1
    if palette is None and len(level.pages) == 1 and page.is_memmappable and not page.is_tiled:
        with _image_file(path):
            mapped = page.asarray(out="memmap")
        return ArraySource(mapped if planes == 1 else np.moveaxis(mapped, 0, 2), where, kind="file")

    height, width = page.imagelength, page.imagewidth
    block = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    needed = 3 * 3 * block[0] * block[1]  # decoded, its channels joined, and the result
    if page.is_tiled and needed > 3 * CACHE_BYTES:
        raise ValueError(f"{where} cannot be read: its tiles of {block[1]} x {block[0]} pixels are out of proportion.")
    check_memory(f"a part of {where} ({block[1]} x {block[0]} pixels)", needed, _TILED)
    n_rows, n_cols = -(-height // block[0]), -(-width // block[1])

    def segment(part: Any, index: int, inside: tuple[int, int]) -> np.ndarray:
        with lock:
            tif.filehandle.seek(part.dataoffsets[index])
            data = tif.filehandle.read(part.databytecounts[index]) or None
        if data is None:  # tiles without tissue may be left out
            return np.full((*inside, page.samplesperpixel // planes), 255, dtype=np.uint8)
        _check_header(data, int(page.compression), block, inside)
        decoded, _, _ = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        return decoded[0][: inside[0], : inside[1]]  # tiles reach beyond the image

    def decode(row: int, col: int) -> np.ndarray:
        index = row * n_cols + col
        inside = (min(block[0], height - row * block[0]), min(block[1], width - col * block[1]))
        with _image_file(path):
            parts = [segment(part, index + s * n_rows * n_cols, inside) for part in level.pages for s in range(planes)]
            pixels = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
            if palette is not None:
                pixels = palette[pixels[..., 0].astype(np.uint8)]
            if pixels.shape[:2] != inside or pixels.dtype != np.uint8:
                raise ValueError(f"a part of {inside} pixels came out as {pixels.shape[:2]}")
        return np.ascontiguousarray(_rgb(pixels, where))

    return Source((height, width), block, decode, where, cache=cache)


def _palette(page: Any, where: str) -> np.ndarray | None:
    """Colours (n, 3) that the numbers of a TIFF stand for, uint8; `None` where they are colours themselves."""
    import tifffile

    if page.photometric != tifffile.PHOTOMETRIC.PALETTE or page.samplesperpixel != 1 or page.bitspersample > 8:
        return None
    with _image_file(Path(where)):
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
        raise ValueError(f"{where} has the colours {name}. {_RGB}: save it as RGB.")
    bits = page.bitspersample if isinstance(page.bitspersample, int) else max(page.bitspersample)
    _check_kind(page.dtype or np.uint8, page.samplesperpixel * n_pages, where, bits=bits)
    if page.photometric == colours.MINISWHITE:
        raise ValueError(f"{where} has the colours MINISWHITE: 0 is white. {_RGB}: save it as RGB.")


def _check_header(data: bytes, compression: int, block: tuple[int, int], inside: tuple[int, int]) -> None:
    """Refuse a tile that is a whole JPEG or the like of other measures: those ask for memory, and shift its rows."""
    import tifffile
    from PIL import Image

    if compression not in tifffile.TIFF.IMAGE_COMPRESSIONS:
        return
    try:
        with _pillow_lock:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                width, height = Image.open(BytesIO(data)).size
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except (OSError, SyntaxError):
        return  # a format that Pillow does not know: its decoder says what is wrong
    if not (inside[0] <= height <= block[0] and inside[1] <= width <= block[1]):
        raise ValueError(f"a part of {block[1]} x {block[0]} pixels holds an image of {width} x {height}")


def _open_slide(path: Path, cache: Cache | None) -> Source:
    """Whole-slide formats, through OpenSlide."""
    try:
        import openslide
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a whole-slide format that needs OpenSlide: run `pip install openslide-python openslide-bin`, "
            "or convert the image to a tiled TIFF."
        ) from error
    with _image_file(path):
        slide = openslide.OpenSlide(path)

    def level(k: int) -> Source:
        width, height = slide.level_dimensions[k]

        def decode(row: int, col: int) -> np.ndarray:
            y, x = row * _BLOCK, col * _BLOCK
            start = tuple(round(v * slide.level_downsamples[k]) for v in (x, y))
            with _image_file(path):
                region = slide.read_region(start, k, (min(_BLOCK, width - x), min(_BLOCK, height - y)))
            # What was never scanned is transparent: glass.
            pixels = np.asarray(region)
            return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

        return Source((height, width), (_BLOCK, _BLOCK), decode, str(path), cache=cache)

    source, *source.overviews = [level(k) for k in range(slide.level_count)]
    names = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
    source.um_per_px, source.scale_fault = square(*(slide.properties.get(name) for name in names))
    return source


def _open_element(element: Any, coordinate_system: str | None, cache: Cache | None) -> Source:
    """An image of a SpatialData object, lazily, with its transformation from the spots' coordinates."""
    from spatialdata.transformations import get_transformation

    arrays = [element] if hasattr(element, "dims") and "c" in element.dims else None
    if arrays is None:  # several resolutions
        arrays = [child["image"] for child in element.children.values() if "image" in child]
    if not arrays or any(tuple(array.dims) != ("c", "y", "x") for array in arrays):
        raise ValueError("the image is no raster image of a SpatialData object: expected the axes c, y, x.")
    levels = [_element_level(array, cache) for array in arrays]
    source, *source.overviews = levels
    known = get_transformation(element, get_all=True)
    if coordinate_system is None:
        coordinate_system = "global" if "global" in known or len(known) != 1 else next(iter(known))
    if coordinate_system not in known:
        raise KeyError(
            f"the image does not lie in the coordinate system of the spots, {coordinate_system!r} (it lies in "
            f"{', '.join(map(repr, known))}): pass another image, or give this one a transformation to it with "
            "`spatialdata.transformations.set_transformation`."
        )
    to_spots = known[coordinate_system].to_affine_matrix(input_axes=("x", "y"), output_axes=("x", "y"))
    source.from_spots = np.linalg.inv(to_spots)[:2]
    return source


def _element_level(array: Any, cache: Cache | None) -> Source:
    data, where = array.data, "the SpatialData image"
    if isinstance(data, np.ndarray):
        return ArraySource(np.moveaxis(data, 0, 2), where, kind="spatialdata")
    return _open_lazy(data.transpose(1, 2, 0), where, "spatialdata", cache)


def _open_lazy(data: Any, where: str, kind: str, cache: Cache | None) -> Source:
    """A dask array, of which blocks are computed."""
    first, last = _channel_axes(data, where)
    if first != last:
        data = data.transpose(1, 2, 0)
    height, width, n_channels = data.shape
    if not all(n > 0 for n in data.shape):  # NaN where dask does not know them
        raise ValueError(
            f"{where} has the shape {data.shape}: call its `compute_chunk_sizes()`, or pass another image."
        )
    _check_kind(data.dtype, n_channels, where)
    block = tuple(min(2 * _BLOCK, chunks[0]) for chunks in data.chunks[:2])

    def decode(row: int, col: int) -> np.ndarray:
        y, x = row * block[0], col * block[1]
        part = data[y : y + block[0], x : x + block[1]].compute(scheduler="synchronous")
        return np.ascontiguousarray(_rgb(np.asarray(part), where))

    return Source((height, width), block, decode, where, kind=kind, cache=cache)
