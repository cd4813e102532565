"""Files of one section of a Spatial Transcriptomics array: table of counts, table of spots, image."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.names import check_library_name
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._files import ContentError, open_text, reading
from spared_sc.datasets._join import PIXELS, Section, in_tissue, read_image

if TYPE_CHECKING:
    from pathlib import Path

# A place on the array, such as 10x13 or 9.02x20.99; R puts an X in front where places are the names of columns.
_PLACE = re.compile(r"^X?(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)$")
_SPOT_COLUMNS = ("x", "y", "pixel_x", "pixel_y")
_ENDINGS = (".gz", ".tsv", ".csv", ".txt")
# Pandas reads numbers exactly from version 3.1 on, where asking for it is deprecated.
_EXACT: dict[str, Any] = (
    {"float_precision": "round_trip"} if tuple(map(int, pd.__version__.split(".")[:2])) < (3, 1) else {}
)
_LONGEST = 2000  # pixels of the longer side of the hires image, as Space Ranger makes it
_MOST_PLACES, _MOST_PIXELS = 1e6, 1e8
_ST_ARRAY = 40  # places of the first arrays (33 x 35) in a row, and some for their rim
_FEW = 0.05  # share of the spots that may be in one of two files only


def read_section(
    counts: Path,
    spots: Path | None,
    image: Path | None,
    *,
    name: str | None = None,
    spot_diameter: float | None = None,
    in_tissue_only: bool = True,
) -> Section:
    """One section from its files; see `read_st`."""
    if image is not None and spots is None:
        raise ValueError("an image needs spots=, the file that says where in the image the spots are.")
    if spot_diameter is not None and not 0 < spot_diameter < np.inf:
        raise ValueError(f"spot_diameter={spot_diameter!r} cannot be used: give a positive number of pixels, or None.")
    name = _stem(counts) if name is None else name
    check_library_name(name)
    matrix, barcodes, genes = _read_counts(counts, name)
    places = _places(barcodes, str(counts))
    if spots is None:
        table = pd.DataFrame({"pixel_x": places["x"], "pixel_y": places["y"], Key.obs.in_tissue: 1})
        keep = np.ones(len(places), dtype=bool)
        logger.info("library %r: without a spot file, positions are the places on the array", name)
    else:
        table = _read_spots(spots)
        keep = _with_position(name, places.index, table, counts, spots, in_tissue_only)
    positions = _positions(table.loc[places.index[keep]], barcodes[keep])
    section = Section(name, matrix[keep], barcodes[keep], pd.DataFrame(index=genes), positions)
    section = in_tissue(section) if in_tissue_only else section
    section.slot = {
        **_image_slot(section, image, spot_diameter or _half_pitch(table, name)),
        "metadata": {
            **_assay(places),
            "counts_file": counts.name,
            **({} if spots is None else {"spots_file": spots.name}),
            **({} if image is None else {"source_image_path": str(image.absolute())}),
        },
    }
    return section


def _assay(places: pd.DataFrame) -> dict[str, str]:
    """The entry `assay`: the first arrays use all of 33 x 35 places, the denser ones every other place of more."""
    x, y = (places.index.get_level_values(axis).to_numpy() for axis in "xy")
    square = len(np.unique((x + y) % 2)) == 2
    return {"assay": "st"} if square and max(x.max(), y.max()) <= _ST_ARRAY else {}


def _positions(table: pd.DataFrame, barcodes: pd.Index) -> pd.DataFrame:
    """Columns of `obs` and pixels, from the rows of a table of spots."""
    columns = {
        Key.obs.in_tissue: table[Key.obs.in_tissue],
        Key.obs.array_row: table.index.get_level_values("y"),
        Key.obs.array_col: table.index.get_level_values("x"),
        PIXELS[0]: table["pixel_y"],
        PIXELS[1]: table["pixel_x"],
    }
    return pd.DataFrame({name: values.to_numpy() for name, values in columns.items()}, index=barcodes)


def _stem(path: Path) -> str:
    name = path.name
    while name.endswith(_ENDINGS):
        name = name[: name.rindex(".")]
    return name


def _separator(path: Path) -> str:
    return "," if ".csv" in path.suffixes else "\t"


def _read_counts(path: Path, name: str) -> tuple[sps.csr_matrix, pd.Index, pd.Index]:
    """Counts (spots x genes), and the names of the spots and of the genes."""
    with reading(path, "a table of counts, with names in its first row and column"):
        values, rows, columns = _read_table(path)
        if not np.isfinite(values).all() or (values < 0).any():
            raise ContentError("it holds negative or missing values", "Pass raw counts.")
    if all(map(_PLACE.match, rows)):
        logger.info("library %r: the rows of %s are spots", name, path.name)
    elif all(map(_PLACE.match, columns)):
        logger.info("library %r: the columns of %s are spots", name, path.name)
        values, rows, columns = values.T, columns, rows
    else:
        raise ValueError(
            f"{path} names neither its rows ({listing(rows, 3)}) nor its columns ({listing(columns, 3)}) by places on "
            "the array, such as '10x13': expected a table of counts of the legacy Spatial Transcriptomics arrays."
        )
    if not (values == np.rint(values)).all():
        logger.warning("library %r: %s holds values that are no integers, so no raw counts", name, path.name)
    genes = pd.Index(columns, dtype=object)
    if not genes.is_unique:
        from anndata.utils import make_index_unique

        logger.info("library %r: %d gene names occur more than once", name, int(genes.duplicated().sum()))
        genes = make_index_unique(genes)
    return sps.csr_matrix(values, dtype=np.float32), pd.Index(rows, dtype=object), genes


def _read_table(path: Path) -> tuple[np.ndarray, list[str], list[str]]:
    """Values, names of the rows and names of the columns."""
    separator = _separator(path)
    names: list[str] = []

    def values(lines: Iterator[str]) -> Iterator[str]:
        for line in lines:
            if line.strip():
                row, _, rest = line.partition(separator)
                names.append(row.strip('"'))
                yield rest

    with open_text(path) as f:
        header = next(csv.reader([next(f, "")], delimiter=separator), [])
        # Not pandas, which renames repeated genes, and needs six times as long for many columns.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="loadtxt: input contained no data", category=UserWarning)
            block = np.loadtxt(values(f), delimiter=separator, dtype=np.float32, ndmin=2, comments=None)
    if not names or not header:
        raise ContentError("it has no rows")
    if len(header) == block.shape[1] + 1:
        header = header[1:]  # R leaves out the name of the first column, others leave it empty
    if len(header) != block.shape[1]:
        raise ContentError(f"it has {len(header)} names for {block.shape[1]} columns")
    return block, names, header


def _places(names: pd.Index, where: str) -> pd.DataFrame:
    """Columns `x` and `y` from the names of spots, indexed by their rounded values."""
    xy = pd.Series(names, dtype=object).str.extract(_PLACE).astype(float)
    return _by_place(xy.set_axis(["x", "y"], axis=1), where)


def _by_place(table: pd.DataFrame, where: str) -> pd.DataFrame:
    """The table with the rounded `x` and `y` as its index."""
    for axis, most in (("x", _MOST_PLACES), ("y", _MOST_PLACES), ("pixel_x", _MOST_PIXELS), ("pixel_y", _MOST_PIXELS)):
        far = table[axis].abs() > most if axis in table else np.zeros(0, dtype=bool)
        if far.any():
            raise ValueError(
                f"{where}: {axis} goes from {table[axis].min():g} to {table[axis].max():g}, and no array or image reaches so "
                "far: copy the file again."
            )
    place = pd.MultiIndex.from_arrays([np.rint(table[axis]).astype(np.int64) for axis in "xy"], names=["x", "y"])
    if not place.is_unique:
        raise ValueError(
            f"{where}: {int(place.duplicated().sum())} spots share their place on the array with another one (such as "
            f"x, y = {place[place.duplicated()][0]}); expected one row per spot of one section."
        )
    return table.set_index(place)


def read_places(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    """A table with one row per spot, indexed by the rounded `x` and `y`; `pixel_*`, `x` and `y` are numbers."""
    with reading(path, f"the columns {listing(columns)}"):
        with open_text(path) as file:
            table = pd.read_csv(file, sep=_separator(path), **_EXACT)
        missing = [column for column in columns if column not in table]
        if missing:
            raise ContentError(f"it lacks {listing(missing)} and has {listing(table.columns)}")
        table = table.assign(**{c: pd.to_numeric(table[c]).astype(float) for c in _SPOT_COLUMNS if c in columns})
    complete = np.isfinite(table[[c for c in _SPOT_COLUMNS if c in columns]]).all(axis=1)
    if not complete.all():
        logger.info("%s: left out %d rows without a position", path.name, int((~complete).sum()))
    return _by_place(table[complete], str(path))


def _read_spots(path: Path) -> pd.DataFrame:
    """`pixel_x`, `pixel_y` and `in_tissue` of all listed spots, indexed by place."""
    table = read_places(path, _SPOT_COLUMNS)
    if "selected" in table and not table["selected"].isin([0, 1]).all():
        wrong = table["selected"][~table["selected"].isin([0, 1])]
        raise ValueError(f"{path}: the column 'selected' holds {listing(wrong.unique(), 3)}; expected 0 or 1.")
    selected = table["selected"].astype(int) if "selected" in table else 1
    return table[["pixel_x", "pixel_y"]].assign(**{Key.obs.in_tissue: selected})


def _with_position(
    name: str, counted: pd.MultiIndex, table: pd.DataFrame, counts: Path, spots: Path, in_tissue_only: bool
) -> np.ndarray:
    """Mask of the spots with counts that have a position too; see the notes of `read_st`."""
    keep = counted.isin(table.index)
    n_without = int((~keep).sum())
    selected = table.index[table[Key.obs.in_tissue] == 1]
    n_idle = int((~selected.isin(counted)).sum())
    if n_without > _FEW * len(keep) and not (in_tissue_only and n_idle <= _FEW * len(selected)):
        reason = (
            f"and {n_idle} of {len(selected)} selected spots have no counts: check that both files are of the same section"
            if n_idle > _FEW * len(selected)
            else "pass in_tissue_only=True to leave them out, or a file with the positions of all spots of the array"
        )
        raise ValueError(
            f"{n_without} of {len(keep)} spots of {counts} (such as {listing(_texts(counted[~keep]), 3)}) have no "
            f"position in {spots}, {reason}."
        )
    if n_without:
        logger.info(
            "library %r: left out %d of %d spots with counts that have no position in %s (such as %s)",
            name,
            n_without,
            len(keep),
            spots.name,
            listing(_texts(counted[~keep]), 3),
        )
    if n_idle:
        logger.info("library %r: left out %d selected spots that have no counts", name, n_idle)
    return keep


def _texts(places: pd.MultiIndex) -> list[str]:
    return [f"{x}x{y}" for x, y in places]


def _half_pitch(table: pd.DataFrame, name: str) -> float:
    """Half the distance between neighbouring spots, from the affine map that leads from places to pixels."""
    x, y = (table.index.get_level_values(axis).to_numpy() for axis in "xy")
    design = np.column_stack([np.ones(len(table)), x, y])
    # Found spots are some pixels off their lattice, so that the nearest one is nearer than the pitch; the fit is not
    # misled by that.
    fit, _, rank, _ = np.linalg.lstsq(design, table[["pixel_x", "pixel_y"]].to_numpy(), rcond=None)
    if rank < 3:
        raise ValueError(
            f"the {len(table)} spots of library {name!r} lie on one line, which does not give the distance between "
            "spots: pass spot_diameter=."
        )
    places_per_spot = 2 if len(np.unique((x + y) % 2)) == 1 else 1
    diameter = 0.5 * float(np.sqrt(places_per_spot * abs(np.linalg.det(fit[1:]))))
    logger.info("library %r: spots are taken to be %.1f pixels wide, half the distance between them", name, diameter)
    return diameter


def _image_slot(section: Section, path: Path | None, spot_diameter: float) -> dict[str, Any]:
    """The entries `images` and `scalefactors` of a library."""
    scalefactors = {"spot_diameter_fullres": float(spot_diameter)}
    if path is None:
        return {"images": {}, "scalefactors": scalefactors}
    hires, (width, height) = read_image(path, _LONGEST)
    x, y = section.positions[PIXELS[1]], section.positions[PIXELS[0]]
    n_outside = int((~(x.between(0, width) & y.between(0, height))).sum())
    if n_outside > _FEW * len(x):
        raise ValueError(
            f"{n_outside} of {len(x)} spots of library {section.name!r} lie outside {path} ({width} x {height} pixels; "
            f"spots reach to {x.max():.0f}, {y.max():.0f}): pass the image in which the spots were found, at its full "
            "resolution."
        )
    if n_outside:
        logger.warning("library %r: %d of %d spots lie outside the image", section.name, n_outside, len(x))
    scalefactors["tissue_hires_scalef"] = max(hires.shape[:2]) / max(width, height)
    return {"images": {"hires": hires}, "scalefactors": scalefactors}
