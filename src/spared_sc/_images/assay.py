"""Spatial assays by name, and the lengths that are known of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from spared_sc._core.validate import listing


@dataclass(frozen=True)
class Assay:
    """Lengths of an assay; `None` or empty where it has no fixed one."""

    name: str
    lattice: str | None  # "hex" or "grid"
    pitch_um: float | None  # from centre to centre of neighbouring spots
    diameters_um: tuple[float, ...]  # that `spot_diameter_fullres` may be, the usual one first
    diameter_of_pitch: float | None  # diameter that replaces a missing one, as a share of the pitch


# Space Ranger's spot_diameter_fullres is that of a circle of 65 um, other programs give the spot itself, 55 um. Bins of
# Visium HD and channels of DBiT-seq come in several widths.
_TABLE = (
    Assay("visium", "hex", 100.0, (65.0, 55.0), 0.65),
    Assay("visium_hd", "grid", None, (), 1.0),
    Assay("st", "grid", 200.0, (100.0,), 0.5),
    Assay("dbit", "grid", None, (), None),
    Assay("other", None, None, (), None),
)
ASSAYS = {assay.name: assay for assay in _TABLE}
OTHER = ASSAYS["other"]
_SYNONYMS = {"dbit_seq": "dbit", "visiumhd": "visium_hd", "spatial_transcriptomics": "st"}


def find_assay(name: str) -> Assay | None:
    """The assay of this name, however it is spelled."""
    key = re.sub(r"[\s-]+", "_", name.strip().lower())
    return ASSAYS.get(_SYNONYMS.get(key, key))


def check_assay(name: Any) -> Assay:
    """The assay that was asked for."""
    found = find_assay(name) if isinstance(name, str) else None
    if found is None:
        raise ValueError(
            f"assay={name!r} is unknown: choose one of {listing(ASSAYS)}. 'other' stands for assays that are not listed; "
            "their scale is given with `mpp=`."
        )
    return found


def stated_assay(metadata: Mapping[str, Any], has_bins: bool) -> Assay | None:
    """The assay that metadata or scale factors name, if any; a name that is not in the table is `OTHER`."""
    if metadata.get("assay") is not None:
        return find_assay(str(metadata["assay"])) or OTHER
    chemistry = str(metadata.get("chemistry_description", "")).lower()
    if has_bins or ("visium" in chemistry and re.search(r"\bhd\b", chemistry)):
        return ASSAYS["visium_hd"]
    if "visium" in chemistry or chemistry.startswith("spatial 3'"):
        return ASSAYS["visium"]
    return None
