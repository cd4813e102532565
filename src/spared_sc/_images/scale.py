"""The scale of patches: how much tissue they show, at which resolution, and whether that matches other patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from spared_sc._core.record import by_library, from_record, library_table
from spared_sc._core.report import logger, warn

UNITS = ("spot", "pixel", "um")
STAINS = (None, "macenko")
SIDES = (8, 4096)  # that patches may have, in pixels
_SAME_SIZE = 0.1  # largest relative difference in side length
_SAME_RESOLUTION = 2.0  # largest ratio of resolutions


@dataclass(frozen=True, kw_only=True)
class PatchScale:
    """Size and resolution of patches, as medians over the libraries of known scale if any is, and their colours."""

    size: float
    unit: str
    output_size: int
    patch_px: float  # side in pixels of the image
    um_per_px: float | None  # of the image; `None` where unknown
    stain: str | None  # method that brought the colours to a reference

    def __post_init__(self) -> None:
        """A ValueError if there are no such patches."""
        lengths = [self.size, self.patch_px, 1.0 if self.um_per_px is None else self.um_per_px]
        if not (np.isfinite(lengths).all() and min(lengths) > 0 and SIDES[0] <= self.output_size <= SIDES[1]):
            raise ValueError(f"there are no patches of {self!r}")
        if self.unit not in UNITS or self.stain not in STAINS:
            raise ValueError(f"there are no patches of unit {self.unit!r:.60} and stain {self.stain!r:.60}")

    @property
    def side_um(self) -> float | None:
        """Side in micrometres; `None` where unknown."""
        return None if self.um_per_px is None else self.patch_px * self.um_per_px

    @property
    def measure(self) -> tuple[float, str]:
        """Side and unit: spots differ in size between arrays, micrometres do not."""
        return (self.size, self.unit) if self.side_um is None else (self.side_um, "um")

    def times(self, factor: float) -> PatchScale:
        """The scale of patches that are larger by a factor, of the same images."""
        return replace(self, size=self.size * factor, patch_px=self.patch_px * factor)

    def __str__(self) -> str:
        return f"{self.size:g} {self.unit} of {self.patch_px:.0f} pixels"


def recorded_recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe of patches as records hold it."""
    sources = recipe["sources"]
    columns = {field: [source[field] for source in sources.values()] for field in next(iter(sources.values()))}
    return {**recipe, "sources": library_table(sources, **columns)}


def recipe_of(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe that was recorded."""
    columns = {field: by_library(recorded["sources"], field) for field in recorded["sources"]}
    names = columns.pop("libraries")
    sources = {name: {field: column[name] for field, column in columns.items()} for name in names}
    return {**{name: from_record(value) for name, value in recorded.items()}, "sources": sources}


def scale_of(recipe: Mapping[str, Any]) -> PatchScale:
    """The scale that a recipe describes."""
    pairs = [(source["patch_px"], source["um_per_px"]) for source in recipe["sources"].values()]
    measures = np.array(pairs, dtype=float)
    known = measures[measures[:, 1] > 0]
    patch_px, resolution = float(np.median(measures[:, 0])), None
    if len(known):
        # Libraries may differ in resolution: their patches have a side in common in micrometres, not in pixels.
        resolution = float(np.median(known[:, 1]))
        patch_px = float(np.median(known.prod(axis=1))) / resolution
    return PatchScale(
        size=float(recipe["size"]),
        unit=str(recipe["unit"]),
        output_size=int(recipe["output_size"]),
        patch_px=patch_px,
        um_per_px=resolution,
        stain=recipe["stain"],
    )


def check_scale(trained: PatchScale, recipe: Mapping[str, Any], *, force: bool) -> None:
    """Refuse patches of other colours, or of any library whose tissue size or resolution differs; `force` logs a warning."""
    stain = scale_of(recipe).stain
    if stain != trained.stain:
        message = f"the patches have stain={stain!r}, those of training stain={trained.stain!r}"
        _refuse(message, f"stain={trained.stain!r}", force)
    if trained.side_um is None and scale_of(recipe).side_um is not None:
        warn(
            f"the scale of the patches of training ({trained}) is unknown: whether patches of {scale_of(recipe).side_um:.1f} um "
            "show as much tissue cannot be checked. Train with `mpp=` or `assay=` of `sp.pp.extract_patches`."
        )
    for name, source in recipe["sources"].items():
        scale = scale_of({**recipe, "sources": {name: source}})
        if _matches(trained, scale):
            continue
        shown, wanted = str(scale), str(trained)
        if trained.side_um and scale.side_um:
            shown, wanted = (f"{s.side_um:.1f} um at {s.um_per_px:.3g} um per pixel" for s in (scale, trained))
        elif trained.side_um:
            shown, wanted = f"{scale} of unknown scale", f"{trained.side_um:.1f} um"
        message = f"the patches of library {name!r} are {shown}, those of training {wanted}"
        _refuse(message, "image=..., size=..., unit=..., mpp=..., assay=...", force)


def _refuse(message: str, arguments: str, force: bool) -> None:
    """An error with the call that extracts other patches; with `force`, a line of the log."""
    if not force:
        raise ValueError(
            f"{message}: the model was not trained on such patches. Extract others with "
            f"`sp.pp.extract_patches(adata, {arguments})`, or pass force=True."
        )
    logger.warning("%s; predicting anyway (force=True)", message)


def _matches(trained: PatchScale, scale: PatchScale) -> bool:
    """Whether two scales are close enough: in micrometres, or in the given unit where those of training are unknown."""
    if trained.side_um and not scale.side_um:
        return False
    if trained.side_um and scale.side_um and trained.um_per_px and scale.um_per_px:
        resolution = scale.um_per_px / trained.um_per_px
        same_size = abs(scale.side_um / trained.side_um - 1) <= _SAME_SIZE
    else:
        resolution = trained.patch_px / scale.patch_px
        same_size = (trained.size, trained.unit) == (scale.size, scale.unit)
    return same_size and 1 / _SAME_RESOLUTION <= resolution <= _SAME_RESOLUTION
