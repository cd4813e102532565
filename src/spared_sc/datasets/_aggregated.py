"""Aggregated runs of Space Ranger: which spots, positions and images belong to which section."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd

from spared_sc._core.names import check_library_name
from spared_sc._core.validate import listing
from spared_sc.datasets._files import ContentError, existing, names_in, read_lines, reading
from spared_sc.datasets._visium_layout import Layout, spatial_layout
from spared_sc.datasets._visium_spatial import read_positions

if TYPE_CHECKING:
    from pathlib import Path

_MOST = 2**24  # bytes of aggregation.csv


@dataclass(frozen=True)
class Part:
    """One section of an aggregated run."""

    number: str  # ending of its barcodes
    name: str
    layout: Layout
    positions: pd.DataFrame


@dataclass(frozen=True)
class _Row:
    """What aggregation.csv says about a section."""

    name: str
    spatial: str  # its folder, where it is given


def suffixes(barcodes: pd.Index) -> list[str]:
    """Endings of barcodes, such as `1` of AACT-1, in the order of their numbers."""
    found = pd.Series(barcodes, dtype=object).astype(str).str.extract(r"-(\d{1,6})$", expand=False).dropna().unique()
    return sorted(found, key=int)


def aggregated_layouts(name: str, layout: Layout, barcodes: pd.Index, numbers: list[str]) -> list[Part]:
    """The sections of an aggregated run."""
    rows = _rows(name, layout, numbers)
    # Images beside the counts would be those of one section, and nothing says of which.
    base = replace(layout, images={}, scalefactors=None, positions=None)
    joint = None if layout.positions is None else read_positions(layout)
    parts = []
    for number in numbers:
        row = rows[number]
        folder = _spatial_folder(layout, row, number)
        own = base if folder is None else spatial_layout(base, folder)
        positions = _positions(joint, own, number)
        if positions is not None:
            parts.append(
                Part(number, row.name, own if own.positions else replace(own, positions=layout.positions), positions)
            )
    if len(parts) < len(numbers):
        n = pd.Series(barcodes.str.rpartition("-").get_level_values(2)).value_counts()
        raise ValueError(
            f"{layout.counts_path} holds {len(numbers)} sections of an aggregated run (barcodes ending in "
            f"{', '.join(f'-{number}: {n[number]} spots' for number in numbers)}), and there are positions of "
            f"{listing(f'-{part.number}' for part in parts)}: pass the Space Ranger folder of each section, as "
            "paths={name: folder}, or add aggr_tissue_positions.csv of the aggregated run."
        )
    return parts


def _positions(joint: pd.DataFrame | None, own: Layout, number: str) -> pd.DataFrame | None:
    """Positions of one section, with the barcodes of the aggregated run."""
    if joint is not None and len(suffixes(joint.index)) > 1:
        positions = joint[joint.index.str.endswith(f"-{number}")]
        if len(positions):
            return positions
    if own.positions is None:
        return None
    positions = read_positions(own)
    if suffixes(positions.index) not in (["1"], [number]):
        raise ValueError(
            f"{own.positions} has barcodes such as {listing(positions.index, 1)}, for the section -{number} of an aggregated "
            "run: expected the positions of one section, with barcodes ending in -1."
        )
    return positions.set_axis(positions.index.str.replace(r"-\d+$", f"-{number}", regex=True))


def _rows(name: str, layout: Layout, numbers: list[str]) -> dict[str, _Row]:
    """Name and folder of each section, by the ending of its barcodes."""
    path = layout.aggregation
    if path is None:
        return {number: _Row(f"{name}_{number}", "") for number in numbers}
    with reading(path, "one line per section, with its library_id, as spaceranger aggr writes it"):
        lines = [row for row in csv.reader(read_lines(path, _MOST)) if any(field.strip() for field in row)]
        if not lines:
            raise ContentError("it has no lines")
        header = [field.strip() for field in lines[0]]
        column = next((header.index(key) for key in ("library_id", "sample_id") if key in header), None)
        if column is None:
            raise ContentError(f"it has the columns {listing(header)} and no library_id")
        if any(len(row) != len(header) for row in lines) or len(lines) - 1 < int(numbers[-1]):
            raise ContentError(f"it has {len(lines) - 1} complete lines, and barcodes end in -{numbers[-1]}")
        spatial = header.index("spatial_folder") if "spatial_folder" in header else None
        rows = {
            str(at): _Row(row[column].strip(), "" if spatial is None else row[spatial].strip())
            for at, row in enumerate(lines[1:], start=1)
        }
        names = [row.name for row in rows.values()]
        for library in names:
            check_library_name(library)
        if len(set(names)) < len(names):
            raise ContentError(f"its library_id {listing(names)} are not unique")
    return {number: rows[str(int(number))] for number in numbers}


def _spatial_folder(layout: Layout, row: _Row, number: str) -> Path | None:
    """The folder with the spatial files of a section."""
    for place in layout.spatial:
        for path in names_in(place):
            if path.is_dir() and path.name in (row.name, number):
                inside = [path / "spatial", path / "outs" / "spatial"]
                return next((folder for folder in inside if folder.is_dir()), path)
    given = layout.folder / row.spatial
    return given if row.spatial and existing(given) and given.is_dir() else None
