"""Micrometres per pixel, as image files state them."""

from __future__ import annotations

import html
import math
import re
import unicodedata
from typing import TYPE_CHECKING, Any

from spared_sc._core.report import logger

if TYPE_CHECKING:
    from PIL.Image import Image

_PLAUSIBLE = (0.05, 20.0)  # um per pixel of a microscope image; 72 dpi, which many files claim, are 353
_SAME = 0.02  # relative difference of width and height up to which pixels count as square
_DIFFERENT = 0.1  # and of two statements of one file from which both are told
_INCH = 25400.0
# Units as OME, ImageJ and other programs write them, in micrometres.
_UNITS = {
    **dict.fromkeys(("m", "meter", "metre"), 1e6),
    "dm": 1e5,
    **dict.fromkeys(("cm", "centimeter", "centimetre"), 1e4),
    **dict.fromkeys(("mm", "millimeter", "millimetre"), 1e3),
    **dict.fromkeys(("μm", "um", "micron", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), 1e-3),
    **dict.fromkeys(("å", "angstrom", "ångström"), 1e-4),
    "pm": 1e-6,
    **dict.fromkeys(("in", "inch", "inche", '"'), _INCH),
    "ft": 12 * _INCH,
    "pt": _INCH / 72,
    **dict.fromkeys(("mil", "thou"), _INCH / 1000),
}
_OF_TAG = {2: _INCH, 3: 1e4, 4: 1e3, 5: 1.0}  # ResolutionUnit of TIFF; 1 is none


def unit_in_um(text: str | None) -> float | None:
    """A unit of length in micrometres; `None` where it is none."""
    if text is None:
        return None
    text = html.unescape(text).replace("\\u00B5", "µ").replace("\\u00b5", "µ").replace("Â", "")
    text = unicodedata.normalize("NFKC", text).strip().lower()
    return _UNITS.get(text, _UNITS.get(text.removesuffix("s")))


def square(width: Any, height: Any) -> tuple[float | None, str]:
    """Micrometres per pixel from width and height of one, and why they are not used; `None` where they are missing."""
    x, y = _number(width), _number(height)
    x, y = (x, x) if y is None else (y, y) if x is None else (x, y)
    if x is None or y is None:
        return None, ""
    if not all(_PLAUSIBLE[0] <= side <= _PLAUSIBLE[1] for side in (x, y)):
        return None, ""
    if abs(x / y - 1) > _SAME:
        return None, f"the image file says that its pixels are {x:.4g} um wide and {y:.4g} um high"
    return x, ""


def _number(value: Any) -> float | None:
    """A positive number; `None` for anything else."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if 0 < number < math.inf else None


def of_file(image: Image) -> tuple[float | None, str]:
    """Resolution of a JPEG, PNG or the like, from its dots per inch."""
    dpi = image.info.get("dpi")
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None, ""
    return square(*(None if not number else _INCH / number for number in map(_number, dpi)))


def of_tiff(tif: Any, page: Any) -> tuple[float | None, str]:
    """Resolution of a TIFF: what OME, ImageJ or Aperio metadata say, else its resolution tags."""
    per_unit = [_ratio(page.tags.get(name)) for name in ("XResolution", "YResolution")]
    found = [_of_ome(tif, page), _of_imagej(tif, per_unit), _of_aperio(page), _of_tags(page, per_unit)]
    stated = [one for one in found if one != (None, "")]
    scales = [scale for scale, _ in stated if scale is not None]
    if len(scales) > 1 and max(scales) / min(scales) > 1 + _DIFFERENT:
        logger.warning(
            "%s: its metadata say %.4g um per pixel, its resolution tags %.4g; the first is used",
            *(tif.filename, scales[0], next(one for one in scales if abs(one / scales[0] - 1) > _DIFFERENT / 2)),
        )
    return stated[0] if stated else (None, "")


def _of_ome(tif: Any, page: Any) -> tuple[float | None, str]:
    # A file may hold several images: the slide, its label, an overview.
    tags = re.findall(r"<(?:\w+:)?Pixels\b[^>]*>", tif.ome_metadata or "")
    size = (str(page.imagewidth), str(page.imagelength))
    tag = next((tag for tag in tags if (_attribute(tag, "SizeX"), _attribute(tag, "SizeY")) == size), "")
    return square(*(_length(tag, f"PhysicalSize{axis}") for axis in "XY"))


def _attribute(tag: str, name: str) -> str | None:
    found = re.search(rf"\b{name}\s*=\s*[\"']([^\"']*)[\"']", tag)
    return None if found is None else found[1]


def _length(tag: str, name: str) -> float | None:
    """A length of OME metadata in micrometres, its default unit."""
    number, unit = _number(_attribute(tag, name)), unit_in_um(_attribute(tag, f"{name}Unit") or "um")
    return None if number is None or unit is None else number * unit


def _of_imagej(tif: Any, per_unit: list[float | None]) -> tuple[float | None, str]:
    metadata = tif.imagej_metadata if tif.is_imagej else None
    unit = unit_in_um(str(metadata["unit"])) if metadata and "unit" in metadata else None
    return (None, "") if unit is None else square(*(n and unit / n for n in per_unit))


def _of_aperio(page: Any) -> tuple[float | None, str]:
    found = re.search(r"\bMPP\s*=\s*([\d.]+)", page.description or "")
    return square(found[1], None) if found else (None, "")


def _of_tags(page: Any, per_unit: list[float | None]) -> tuple[float | None, str]:
    tag = page.tags.get("ResolutionUnit")
    unit = _OF_TAG.get(2 if tag is None else tag.value)  # inches, unless the file says something else
    return (None, "") if unit is None else square(*(n and unit / n for n in per_unit))


def _ratio(tag: Any) -> float | None:
    """A fraction, as TIFF holds numbers."""
    try:
        above, below = tag.value
        return _number(above / below)
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return None
