"""Images that are read in parts: files, arrays, elements of a SpatialData object."""

from __future__ import annotations

import re
import threading
import weakref
import zlib
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from PIL.ImageFile import ImageFile

CACHE_BYTES = 2 * 2**30
_BLOCK = 1024  # pixels of a block's side where the image itself has none
# Formats that only OpenSlide reads, or that it reads better than as a TIFF.
_SLIDE_FORMATS = (".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FORMATS = "JPEG, PNG, TIFF, OME-TIFF, or a whole-slide format that OpenSlide reads"
_RGB = "Patches are cut from 8-bit RGB images of stained tissue"
_PLAUSIBLE = (0.05, 20.0)  # um per pixel of a microscope image; 72 dpi, which many files claim, are 353

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


def open_pillow(path: Path) -> ImageFile:
    """An image file of any size, not yet decoded."""
    from PIL import Image

    # Pillow takes whole-slide images for an attack; a file that the user names is not one.
    with _pillow_lock:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(path)
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
        array = _channels_last(array, where)
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

    `coordinate_system` is that of the spots' positions, for a SpatialData image. Images that share a `cache` keep to
    its limit together.
    """
    if isinstance(where, str | Path):
        return _open_file(Path(where).expanduser().absolute(), cache)
    if isinstance(where, np.ndarray):
        return ArraySource(where, f"the array {where.shape}")
    if type(where).__module__.partition(".")[0] == "xarray":
        return _open_element(where, coordinate_system, cache)
    raise TypeError(
        f"image={type(where).__name__} cannot be read: expected the path of an image file, a numpy array or an image "
        "of a SpatialData object."
    )


def _check_kind(dtype: Any, n_channels: int, where: str, *, fractions: bool = False) -> None:
    """Refuse anything but 8-bit RGB, with or without an alpha channel; with `fractions` also floats, to be checked later."""
    dtype = np.dtype(dtype)
    if n_channels in (1, 2):
        raise ValueError(f"{where} is grey: it has no colours. {_RGB}: pass the colour image.")
    if n_channels not in (3, 4):
        raise ValueError(
            f"{where} has {n_channels} channels, as fluorescence images do. {_RGB}: pass the H&E image, or an array of "
            "three channels made from this one."
        )
    if dtype != np.uint8 and not (fractions and dtype.kind == "f"):
        raise ValueError(
            f"{where} has {8 * dtype.itemsize} bits per channel ({dtype}). {_RGB}: convert it, such as with "
            "`(image / image.max() * 255).astype('uint8')` of the array, and pass that as `image=`."
        )


def _channels_last(array: np.ndarray, where: str) -> np.ndarray:
    """The array as (y, x, c)."""
    if array.ndim == 2:
        _check_kind(array.dtype, 1, where)
    if array.ndim != 3:
        raise ValueError(f"{where} has {array.ndim} axes: expected (y, x, c) or (c, y, x).")
    if array.shape[2] not in (3, 4) and array.shape[0] < min(array.shape[1:]):
        array = np.moveaxis(array, 0, 2)
    _check_kind(array.dtype, array.shape[2], where, fractions=True)
    return array


def _rgb(pixels: np.ndarray, where: str) -> np.ndarray:
    """uint8 (y, x, 3) of checked pixels (y, x, 3 or 4)."""
    if pixels.dtype.kind == "f":
        pixels = np.rint(255 * pixels).astype(np.uint8)
    if pixels.shape[2] == 4:
        if (pixels[..., 3] < 255).any():
            raise ValueError(
                f"{where} has a fourth channel that is not opaque: it is transparent in places, or holds something else. "
                f"{_RGB}: lay it on white first, or pass the first three channels as an array."
            )
        pixels = pixels[..., :3]
    return pixels


def _open_file(path: Path, cache: Cache | None) -> Source:
    if not path.exists():
        raise FileNotFoundError(
            f"there is no image {str(path)!r}: it may have been moved. Pass its new place as `image=`."
        )
    if path.suffix.lower() in _SLIDE_FORMATS:
        return _open_slide(path, cache)
    if path.is_dir():
        raise ValueError(f"{path} is a folder: pass the image file in it as `image=` ({_FORMATS}).")
    with path.open("rb") as file:
        start = file.read(4)
    return _open_tiff(path, cache) if start in _TIFF_STARTS else _open_whole(path, cache)


def _open_whole(path: Path, cache: Cache | None) -> Source:
    """JPEG, PNG and similar formats, decoded as a whole, once."""
    with readable(path, f"an image ({_FORMATS})"), open_pillow(path) as image:
        mode, (width, height) = image.mode, image.size
        deep = any(";16" in str(tile[3]) for tile in image.tile)  # Pillow would keep the high bytes only
    if mode in ("1", "L", "LA", "La"):
        _check_kind(np.uint8, 1, str(path))
    if deep or mode.startswith("I"):
        _check_kind(np.uint16, 3, str(path))
    if mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"{path} has the colours {mode}. {_RGB}: save it as RGB.")

    def decode(row: int, col: int) -> np.ndarray:
        with readable(path, f"an image ({_FORMATS})"), open_pillow(path) as image:
            image.load()  # all of it: a file that was cut short fails here
            pixels = np.asarray(image if mode in ("RGB", "RGBA") else image.convert("RGBA"))
        return np.ascontiguousarray(_rgb(pixels, str(path)))

    return Source((height, width), (height, width), decode, str(path), cache=cache)


def _open_tiff(path: Path, cache: Cache | None) -> Source:
    """TIFF files, tile by tile or strip by strip."""
    import tifffile

    with readable(path, "a TIFF image"):
        tif = tifffile.TiffFile(path)
    try:
        with readable(path, "a TIFF image"):
            series = max(tif.series, key=lambda s: s.keyframe.imagewidth * s.keyframe.imagelength)
            end = path.stat().st_size
            pages = [page for level in series.levels for page in level.pages if page is not None]
            for page in pages:
                if any(a + n > end for a, n in zip(page.dataoffsets, page.databytecounts, strict=True)):
                    raise ValueError("it ends before its last pixels")
        lock = threading.Lock()
        levels = [_tiff_level(tif, level, lock, path, cache) for level in series.levels]
    except BaseException:
        tif.close()
        raise
    weakref.finalize(tif, tif.filehandle.close)  # once no level needs it any more
    source, *source.overviews = levels
    source.um_per_px = _tiff_scale(tif, series.keyframe)
    return source


def _tiff_level(tif: Any, level: Any, lock: threading.Lock, path: Path, cache: Cache | None) -> Source:
    """One resolution of a TIFF."""
    import tifffile

    page, where = level.keyframe, str(path)
    colour_axis = "S" if page.samplesperpixel > 1 else "C"
    others = {
        axis: n for axis, n in zip(level.axes, level.shape, strict=True) if axis not in f"YX{colour_axis}" and n > 1
    }
    if others:
        raise ValueError(f"{where} is a stack: its axes are {level.axes} {level.shape}. {_RGB}: save one plane of it.")
    # Colours are samples of a pixel, or pages of their own.
    _check_kind(page.dtype, page.samplesperpixel * len(level.pages), where)
    colours = tifffile.PHOTOMETRIC
    from_jpeg = page.photometric == colours.YCBCR and page.compression == tifffile.COMPRESSION.JPEG
    if page.photometric not in (colours.RGB, colours.MINISBLACK) and not from_jpeg:
        raise ValueError(f"{where} has the colours {page.photometric!r}. {_RGB}: save it as RGB.")
    if len(level.pages) == 1 and page.is_memmappable and not page.is_tiled:
        with readable(path, "a TIFF image"):
            return ArraySource(page.asarray(out="memmap"), where, kind="file")

    height, width = page.imagelength, page.imagewidth
    block = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
    n_rows, n_cols = -(-height // block[0]), -(-width // block[1])
    planes = page.samplesperpixel if page.planarconfig == tifffile.PLANARCONFIG.SEPARATE else 1

    def segment(part: Any, index: int) -> np.ndarray:
        with lock:
            tif.filehandle.seek(part.dataoffsets[index])
            data = tif.filehandle.read(part.databytecounts[index]) or None
        decoded, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        if decoded is None:  # tiles without tissue may be left out
            return np.full((*shape[1:3], page.samplesperpixel // planes), 255, dtype=np.uint8)
        return decoded[0]

    def decode(row: int, col: int) -> np.ndarray:
        index = row * n_cols + col
        with readable(path, "a TIFF image"):
            parts = [segment(part, index + s * n_rows * n_cols) for part in level.pages for s in range(planes)]
        inside = np.s_[: height - row * block[0], : width - col * block[1]]  # tiles reach beyond the image
        return np.ascontiguousarray(_rgb(np.concatenate(parts, axis=2)[inside], where))

    return Source((height, width), block, decode, where, cache=cache)


def _tiff_scale(tif: Any, page: Any) -> float | None:
    """Micrometres per pixel, as OME or Aperio metadata or the resolution say."""
    import tifffile

    text = tif.ome_metadata or page.description or ""
    # A file may hold several images: the slide, its label, an overview.
    size = (f' SizeX="{page.imagewidth}"', f' SizeY="{page.imagelength}"')
    tags = re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", text)
    tag = next((tag for tag in tags if all(text in tag for text in size)), "")
    scale = re.search(r'PhysicalSizeX="([\d.eE+-]+)"', tag) or re.search(r"\bMPP\s*=\s*([\d.]+)", text)
    unit = re.search(r'PhysicalSizeXUnit="([^"]*)"', tag)
    if scale and (unit is None or unit[1] in ("µm", "um", "&#181;m", "&#xB5;m", "&#xb5;m")):
        return _plausible(float(scale[1]))
    per_um = page.get_resolution("MICROMETER")[0] if page.resolutionunit != tifffile.RESUNIT.NONE else 0
    return _plausible(1 / per_um if per_um else 0)


def _plausible(um_per_px: float) -> float | None:
    return um_per_px if _PLAUSIBLE[0] <= um_per_px <= _PLAUSIBLE[1] else None


def _open_slide(path: Path, cache: Cache | None) -> Source:
    """Whole-slide formats, through OpenSlide."""
    try:
        import openslide
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a whole-slide format that needs OpenSlide: run `pip install openslide-python openslide-bin`, "
            "or convert the image to a tiled TIFF."
        ) from error
    try:
        slide = openslide.OpenSlide(path)
    except openslide.OpenSlideError as error:
        raise ValueError(f"{path} cannot be read ({error}): the file may be cut short or damaged.") from error

    def level(k: int) -> Source:
        width, height = slide.level_dimensions[k]

        def decode(row: int, col: int) -> np.ndarray:
            y, x = row * _BLOCK, col * _BLOCK
            start = tuple(round(v * slide.level_downsamples[k]) for v in (x, y))
            try:
                region = slide.read_region(start, k, (min(_BLOCK, width - x), min(_BLOCK, height - y)))
            except openslide.OpenSlideError as error:
                raise ValueError(f"{path} cannot be read ({error}): the file may be cut short or damaged.") from error
            # What was never scanned is transparent: glass.
            pixels = np.asarray(region)
            return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

        return Source((height, width), (_BLOCK, _BLOCK), decode, str(path), cache=cache)

    source, *source.overviews = [level(k) for k in range(slide.level_count)]
    source.um_per_px = _plausible(float(slide.properties.get(openslide.PROPERTY_NAME_MPP_X, 0)))
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
    n_channels, height, width = data.shape
    _check_kind(data.dtype, n_channels, where)
    block = tuple(min(2 * _BLOCK, chunks[0]) for chunks in data.chunks[1:])

    def decode(row: int, col: int) -> np.ndarray:
        y, x = row * block[0], col * block[1]
        part = data[:, y : y + block[0], x : x + block[1]].compute(scheduler="synchronous")
        return np.ascontiguousarray(_rgb(np.moveaxis(part, 0, 2), where))

    return Source((height, width), block, decode, where, kind="spatialdata", cache=cache)
