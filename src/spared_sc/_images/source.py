"""The one reader of images: files, arrays, elements of a SpatialData object."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from spared_sc._core.memory import check_memory
from spared_sc._images.raster import (
    BLOCK,
    FORMATS,
    ORIENTATION,
    RGB,
    TILED,
    ArraySource,
    Cache,
    Source,
    channel_axes,
    check_kind,
    image_file,
    open_pillow,
    tell_turned,
    to_rgb,
)
from spared_sc._images.resolution import of_file, square
from spared_sc._images.tiff import open_tiff

# Formats that only OpenSlide reads, or that it reads better than as a TIFF.
_SLIDE_FORMATS = (".svs", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".svslide", ".czi", ".dcm")
_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Others hide their bit depth (JPEG 2000, PPM), hold documents (PSD, EPS) or start programs.
_PILLOW_FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
# Bytes for each pixel while an image is decoded as a whole: Pillow's own four, and three of the result.
_PER_PIXEL = 7
_DEFLATE = 1032  # bytes that one byte of a PNG can stand for
_BAND = 512  # rows that are converted at once


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
        raise ValueError(f"{path} is a folder: pass the image file in it as `image=` ({FORMATS}).")
    if not regular:
        raise ValueError(f"{path} is no regular file: pass the path of an image file as `image=` ({FORMATS}).")
    return path


def _open_file(path: Path, cache: Cache | None) -> Source:
    if path.suffix.lower() in _SLIDE_FORMATS:
        return _open_slide(path, cache)
    with image_file(path), path.open("rb") as file:
        start = file.read(4)
    return open_tiff(path, cache) if start in _TIFF_STARTS else _open_whole(path, cache)


def _open_whole(path: Path, cache: Cache | None) -> Source:
    """JPEG, PNG and similar formats, decoded as a whole, once."""
    with image_file(path), open_pillow(path, _PILLOW_FORMATS) as image:
        mode, (width, height) = image.mode, image.size
        n_bytes = path.stat().st_size
        if width * height > _most_pixels(str(image.format), mode) * n_bytes:
            raise ValueError(f"{n_bytes} bytes cannot hold {width} x {height} pixels")
        deep = any(";16" in str(tile[3]) for tile in image.tile)  # Pillow would keep the high bytes only
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # previews follow in an MPO
        um_per_px, fault = of_file(image)
        # A PNG without EXIF would be decoded in search of one.
        turned = image.getexif().get(ORIENTATION, 1) if image.format != "PNG" or "exif" in image.info else 1
        see_through = mode != "RGB" or "transparency" in image.info
    if mode in ("1", "L", "LA", "La"):
        check_kind(np.uint8, 1, str(path))
    if deep or mode.startswith("I"):
        check_kind(np.uint16, 3, str(path))
    if mode not in ("RGB", "RGBA", "P"):
        raise ValueError(f"{path} has the colours {mode}. {RGB}: save it as RGB.")
    if n_frames != 1:
        raise ValueError(f"{path} is a stack: it holds {n_frames} images. {RGB}: save one of them.")
    check_memory(f"{path} ({width} x {height} pixels)", _PER_PIXEL * width * height, TILED)
    tell_turned(turned, path)

    def decode(row: int, col: int) -> np.ndarray:
        pixels = np.empty((height, width, 3), dtype=np.uint8)
        with image_file(path), open_pillow(path, _PILLOW_FORMATS) as image:
            image.load()  # all of it: a file that was cut short fails here
            for top in range(0, height, _BAND):
                band = image.crop((0, top, width, min(top + _BAND, height)))
                pixels[top : top + _BAND] = to_rgb(np.asarray(band.convert("RGBA") if see_through else band), str(path))
        return pixels

    source = Source((height, width), (height, width), decode, str(path), cache=cache)
    source.um_per_px, source.scale_fault = um_per_px, fault
    return source


def _most_pixels(kind: str, mode: str) -> float:
    """Pixels that a byte of a file can hold at most: a JPEG of one colour has about 400, runs in a BMP 127."""
    if kind == "PNG":
        return 8 * _DEFLATE if mode in ("1", "P", "L") else _DEFLATE / len(mode)
    return 1000.0 if kind in ("JPEG", "MPO", "BMP") else np.inf  # WebP has no more than 16,383 x 16,383


def _open_slide(path: Path, cache: Cache | None) -> Source:
    """Whole-slide formats, through OpenSlide."""
    try:
        import openslide
    except ImportError as error:
        raise ImportError(
            f"{path.name} is a whole-slide format that needs OpenSlide: run `pip install openslide-python openslide-bin`, "
            "or convert the image to a tiled TIFF."
        ) from error
    with image_file(path):
        slide = openslide.OpenSlide(path)

    def level(k: int) -> Source:
        width, height = slide.level_dimensions[k]

        def decode(row: int, col: int) -> np.ndarray:
            y, x = row * BLOCK, col * BLOCK
            scale = slide.level_downsamples[k]
            with image_file(path):
                region = slide.read_region(
                    (round(x * scale), round(y * scale)), k, (min(BLOCK, width - x), min(BLOCK, height - y))
                )
            # What was never scanned is transparent: glass.
            pixels = np.asarray(region)
            return np.where(pixels[..., 3:] == 0, np.uint8(255), pixels[..., :3])

        return Source((height, width), (BLOCK, BLOCK), decode, str(path), cache=cache)

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
    first, last = channel_axes(data, where)
    if first != last:
        data = data.transpose(1, 2, 0)
    height, width, n_channels = data.shape
    if not all(n > 0 for n in data.shape):  # NaN where dask does not know them
        raise ValueError(
            f"{where} has the shape {data.shape}: call its `compute_chunk_sizes()`, or pass another image."
        )
    check_kind(data.dtype, n_channels, where)
    block = tuple(min(2 * BLOCK, chunks[0]) for chunks in data.chunks[:2])

    def decode(row: int, col: int) -> np.ndarray:
        y, x = row * block[0], col * block[1]
        part = data[y : y + block[0], x : x + block[1]].compute(scheduler="synchronous")
        return np.ascontiguousarray(to_rgb(np.asarray(part), where))

    return Source((height, width), block, decode, where, kind=kind, cache=cache)
