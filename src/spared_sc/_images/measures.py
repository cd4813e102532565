"""Micrometres per pixel and diameter of the spots of one library, from what states them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spared_sc._core.report import warn
from spared_sc._core.validate import listing
from spared_sc._images.assay import ASSAYS, OTHER, Assay, stated_assay

AGREE = 0.1  # relative difference up to which two lengths are taken to be equal


@dataclass(frozen=True)
class Measures:
    """Measures of one library."""

    diameter: float  # of a spot, in units of the positions; NaN where unknown
    um_per_px: float  # of the image; NaN where unknown
    scale_from: str  # the statement that was used, or "unknown"
    assay: str  # name, or "unknown"


@dataclass(frozen=True)
class Statement:
    """What one source says about the scale."""

    source: str
    um_per_px: float  # of the image

    def agrees(self, other: Statement) -> bool:
        """Whether two statements differ by a tenth at most."""
        ratio = self.um_per_px / other.um_per_px
        return max(ratio, 1 / ratio) <= 1 + AGREE


@dataclass(frozen=True)
class Array:
    """The spots of one library as an array: kind of lattice, and lengths in units of their positions."""

    kind: str  # as of `spot_pitch`
    has_places: bool  # row and column of every spot are known
    pitch: float
    diameter: float  # as the scale factors say; NaN where they do not
    bin_um: float  # side of a bin in micrometres; NaN where there are none


def factor(name: str, factors: Mapping[str, Any], key: str) -> float:
    """A scale factor, NaN where there is none."""
    if key not in factors:
        return np.nan
    try:
        value = float(factors[key])
    except (TypeError, ValueError):
        value = np.nan
    if not 0 < value < np.inf:
        raise ValueError(
            f"uns['spatial'][{name!r}]['scalefactors'][{key!r}] is {factors[key]!r}: expected a positive number. Correct "
            "it, or remove the entry."
        )
    return value


def measure(
    name: str,
    slide: Mapping[str, Any],
    positions: np.ndarray,
    places: np.ndarray | None,
    *,
    zoom: float,
    of_file: float | None,
    mpp: float | None,
    asked: Assay | None,
    quiet: bool,
) -> Measures:
    """Measures of a library with these `positions` (n, 2), `zoom` pixels of the image per unit of them.

    `of_file` is the scale that the image file states, `mpp` the one that was given, `asked` the assay that was named.
    The first statement of the scale counts; those that contradict it are told, unless `quiet`.
    """
    factors = slide["scalefactors"]
    kind, pitch = spot_pitch(positions, places)
    array = Array(
        kind,
        places is not None,
        pitch,
        factor(name, factors, "spot_diameter_fullres"),
        factor(name, factors, "bin_size_um"),
    )
    assay = _assay(name, slide["metadata"], array, asked, quiet=quiet)
    statements = [
        Statement("given", np.nan if mpp is None else mpp),
        Statement("microns_per_pixel", factor(name, factors, "microns_per_pixel") / zoom),
        Statement("image file", np.nan if of_file is None else of_file),
    ]
    statements += [replace(one, um_per_px=one.um_per_px / zoom) for one in _of_spots(array, assay)]
    known = [one for one in statements if one.um_per_px > 0]
    unsure = assay is not None and asked is None and stated_assay(slide["metadata"], array.bin_um > 0) is None
    used = _choose(name, known, assay, unsure=unsure, quiet=quiet)
    diameter = array.diameter if array.diameter > 0 else _usual_diameter(array, assay)
    return Measures(
        diameter,
        np.nan if used is None else used.um_per_px,
        "unknown" if used is None else used.source,
        "unknown" if assay is None else assay.name,
    )


def _assay(name: str, metadata: Mapping[str, Any], array: Array, asked: Assay | None, *, quiet: bool) -> Assay | None:
    """The assay that was asked for, that metadata or scale factors name, or Visium where the array is Visium's."""
    assay = asked or stated_assay(metadata, array.bin_um > 0)
    if assay is None:
        return ASSAYS["visium"] if _is_visium(array) else None
    kinds = {"hex": "hexagonal", "grid": "square"}
    if assay.lattice is None or array.kind not in kinds or array.kind == assay.lattice:
        return assay
    message = (
        f"library {name!r}: its assay is {assay.name!r}, with a {kinds[assay.lattice]} array, but its spots lie on a "
        f"{kinds[array.kind]} one"
    )
    if asked is not None:
        raise ValueError(f"{message}: pass another `assay=` ({listing(ASSAYS)}), or the scale itself as `mpp=`.")
    if not quiet:
        warn(f"{message}; the assay is not used. Name the right one with `assay=`.")
    return OTHER


def _is_visium(array: Array) -> bool:
    """Whether the spots lie as on Visium: rows and columns of its array, or its ratio of diameter and distance."""
    visium = ASSAYS["visium"]
    return array.kind == "hex" and (array.has_places or _fitting(array, visium) is not None)


def _fitting(array: Array, assay: Assay) -> float | None:
    """The diameter of the assay, in micrometres, that goes with the distance between the spots."""
    if not (assay.pitch_um and array.diameter > 0 and array.pitch > 0):
        return None
    by_pitch = Statement("spot pitch", assay.pitch_um / array.pitch)
    fitting = (um for um in assay.diameters_um if Statement("spot diameter", um / array.diameter).agrees(by_pitch))
    return next(fitting, None)


def _of_spots(array: Array, assay: Assay | None) -> list[Statement]:
    """What diameter and distance of the spots say, per unit of their positions; the more reliable one first."""
    if assay is None:
        return []
    if assay.lattice == "grid" and array.bin_um > 0:
        assay = replace(assay, pitch_um=array.bin_um, diameters_um=(array.bin_um,))
    if array.kind not in ("", assay.lattice):
        return []  # an array that the assay does not have
    on_array = assay.pitch_um is not None and array.kind == assay.lattice
    pitch = Statement("spot pitch", (assay.pitch_um or np.nan) / array.pitch if on_array else np.nan)
    usual = assay.diameters_um[0] if assay.diameters_um else np.nan
    fitting = _fitting(array, assay) if on_array else None
    diameter = Statement("spot diameter", (fitting or usual) / array.diameter)
    # Space Ranger measures its circle; elsewhere programs differ in what they call the diameter, or take it from the pitch.
    return [diameter, pitch] if not on_array or (fitting and assay.lattice == "hex") else [pitch, diameter]


def _choose(name: str, known: list[Statement], assay: Assay | None, *, unsure: bool, quiet: bool) -> Statement | None:
    """The statement that counts; `unsure` says that the assay itself was concluded from the array."""
    if not known:
        return None
    used, *rest = known
    others = [one for one in rest if not one.agrees(used)]
    of_spots = {"spot pitch", "spot diameter"}
    told = ", ".join(f"{_shown(one, assay)} gives {one.um_per_px:.4g}" for one in others)
    if used.source in of_spots and others and unsure:
        if not quiet:
            warn(
                f"library {name!r}: {_shown(used, assay)} gives {used.um_per_px:.4g} um per pixel of the image, but {told}; "
                "the scale is taken as unknown. Pass `mpp=`, or name the assay with `assay=`."
            )
        return None
    if others and not quiet:
        first = f"mpp={used.um_per_px:g} was given" if used.source == "given" else _says(used, assay)
        warn(
            f"library {name!r}: {first}, but {told} um per pixel of the image; {used.um_per_px:.4g} is used. If that is "
            "wrong, pass `mpp=` or `assay=`."
        )
    return used


def _says(one: Statement, assay: Assay | None) -> str:
    return f"{_shown(one, assay)} gives {one.um_per_px:.4g}"


def _shown(one: Statement, assay: Assay | None) -> str:
    """A source, for messages."""
    if one.source in ("spot pitch", "spot diameter") and assay is not None:
        return f"the {one.source} of assay {assay.name!r}"
    return f"the {one.source}" if one.source == "image file" else one.source


def _usual_diameter(array: Array, assay: Assay | None) -> float:
    """Diameter that replaces a missing one: a share of the distance between spots that the assay has."""
    if assay is None and array.kind == "hex":
        assay = ASSAYS["visium"]
    if assay is None or assay.diameter_of_pitch is None or array.kind != assay.lattice:
        return np.nan
    return assay.diameter_of_pitch * array.pitch


def spot_pitch(positions: np.ndarray, places: np.ndarray | None) -> tuple[str, float]:
    """Kind of lattice and distance between neighbouring spots, in units of `positions`.

    `"hex"` as on Visium, `"grid"` for squares, `"other"` for every other place of a square grid, `""` where there is no
    lattice to be seen. The map from places to positions gives the distance; without places, nearest spots do.
    """
    from spared_sc._kernels import lattice

    library = np.zeros(len(positions), dtype=int)
    if places is not None and len(positions) > 3:
        design = np.column_stack([np.ones(len(places)), places])
        fit, _, rank, _ = np.linalg.lstsq(design, positions, rcond=None)
        unit = np.sqrt(abs(np.linalg.det(fit[1:]))) if rank == 3 else 0.0
        apart = np.abs(positions - design @ fit).max() if rank == 3 else np.inf
        if unit > 0 and apart < unit:
            row, column = np.linalg.norm(fit[1:], axis=1)
            if lattice.guess_kind(places) == "grid":
                return "grid", float(unit)
            # A hexagonal array of pitch d has columns d / 2 apart, and rows d * sqrt(3) / 2.
            if abs(row / column / np.sqrt(3) - 1) < AGREE:
                return "hex", float(unit * 2 / 3**0.25)
            return "other", float(np.hypot(row, column))
    if len(positions) < 2:
        return "", np.nan
    from scipy.spatial import cKDTree

    nearest = cKDTree(positions).query(positions, k=2)[0][:, 1]
    pitch = float(np.median(nearest))
    if pitch > 0 and np.quantile(nearest, 0.9) < 1.2 * pitch:
        touching = np.median(np.diff(lattice.from_pixels(positions, library).indptr))
        if touching > 4:
            return "hex", pitch
        if touching > 2:
            return "grid", pitch
    return "", pitch if pitch > 0 else np.nan
