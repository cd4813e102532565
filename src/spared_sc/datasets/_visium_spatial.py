"""Positions, scale factors and images of Visium sections, and whether they fit each other."""

from __future__ import annotations

import io
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from spared_sc._core.keys import Key
from spared_sc._core.names import shown
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._files import (
    ContentError,
    content,
    names_in,
    open_bytes,
    open_text,
    read_json,
    reading,
    unpacked,
)
from spared_sc.datasets._join import PIXELS, PLACES, read_image

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc.datasets._visium_layout import Layout

POSITION_COLUMNS = ("barcode", *PLACES, *PIXELS)
_MOST_SPOTS = 2**27  # bins of 2 um of the largest slides are a quarter of this
_FAR = 1e8  # no array has as many places, no image as many pixels on one side
_FEW = 0.05  # share of the spots that may lie outside of an image
_AGREE = 0.05  # by which two measures of one length may differ
_BIN_BARCODE = re.compile(r"^s_(\d{3})um_\d+_\d+")


def read_positions(layout: Layout) -> pd.DataFrame:
    """Positions of all spots of the array, indexed by barcode."""
    path = layout.positions
    if path is None:
        raise FileNotFoundError(_no_positions(layout))
    with reading(path, f"the columns {listing(POSITION_COLUMNS)}"):
        table = _position_parquet(path) if ".parquet" in path.suffixes else _position_csv(path)
        positions = table[list(POSITION_COLUMNS[1:])].apply(_numbers)
        positions.index = pd.Index(table["barcode"].astype(str).str.strip(), dtype=object, name=None)
        _check_positions(positions)
    return positions.astype(dict.fromkeys(PLACES, int)).astype(dict.fromkeys(PIXELS, float))


def _no_positions(layout: Layout) -> str:
    folders = [folder for folder in layout.spatial if folder != layout.folder]
    archives = [
        path.name for path in names_in(layout.folder) if path.name.endswith((".tar.gz", ".tgz", ".tar", ".zip"))
    ]
    if folders:
        where = f"{folders[0]} has no spot positions; it holds {content(folders[0])}."
    else:
        where = (
            f"{layout.folder} has counts ({layout.counts_name}) but no folder `spatial` and no spot positions (it holds "
            f"{content(layout.folder)})."
        )
    unpack = f"Unpack {listing(archives)} there. " if archives else ""
    return (
        f"{where} {unpack}Expected tissue_positions.csv, tissue_positions_list.csv or tissue_positions.parquet of Space "
        "Ranger; unpack its spatial.tar.gz there. Without positions, read the counts with scanpy.read_10x_h5."
    )


def _position_parquet(path: Path) -> pd.DataFrame:
    import pyarrow.parquet

    with open_bytes(path) as content_of, pyarrow.parquet.ParquetFile(io.BytesIO(content_of.read())) as file:
        if file.metadata.num_rows > _MOST_SPOTS:
            raise ContentError(f"it declares {file.metadata.num_rows} rows")
        missing = [column for column in POSITION_COLUMNS if column not in file.schema_arrow.names]
        if missing:
            raise ContentError(f"it lacks {listing(missing)} and has {listing(file.schema_arrow.names)}")
        return file.read(columns=list(POSITION_COLUMNS)).to_pandas()


def _position_csv(path: Path) -> pd.DataFrame:
    """The fields as text; whether there is a header shows in the second field, a number in every other row."""
    with open_text(path) as file:
        table = pd.read_csv(file, header=None, dtype=str, keep_default_na=False, skipinitialspace=True)
    first = [str(name).strip() for name in table.iloc[0]]
    if set(POSITION_COLUMNS) <= set(first):
        return table.iloc[1:].set_axis(first, axis=1)[list(POSITION_COLUMNS)]
    if table.shape[1] != len(POSITION_COLUMNS):
        raise ContentError(
            f"it has {table.shape[1]} columns, and begins with {listing(first)}",
            "Columns are separated by commas, and there is no column with numbers of rows.",
        )
    if pd.to_numeric(table.iloc[:1, 1], errors="coerce").isna().all():
        missing = [column for column in POSITION_COLUMNS if column not in first]
        raise ContentError(f"it lacks {listing(missing)} and has {listing(first)}", "Name its columns so.")
    return table.set_axis(list(POSITION_COLUMNS), axis=1)


def _numbers(values: pd.Series) -> pd.Series:
    """Numbers of a column, NaN for empty fields."""
    if pd.api.types.is_numeric_dtype(values):
        return values.astype(float)
    numbers = pd.to_numeric(values, errors="coerce").astype(float)
    # pandas refuses some numbers that are too large; only what is not a number at all is an error here.
    for at in np.flatnonzero(numbers.isna().to_numpy() & values.notna().to_numpy()):
        text = str(values.iloc[at]).strip()
        try:
            numbers.iloc[at] = float(text or "nan")
        except ValueError as error:
            raise ContentError(
                f"{values.name} holds {shown(text)} instead of a number",
                "Copy the file from the Space Ranger run again.",
            ) from error
    return numbers


def _check_positions(positions: pd.DataFrame) -> None:
    """Refuse positions that no array has."""
    if positions.empty:
        raise ContentError("it has no rows")
    empty = positions.isna().any(axis=1)
    if empty.any():
        raise ContentError(
            f"{int(empty.sum())} rows have empty fields", "It is cut short or was edited: copy it again."
        )
    places = positions[list(PLACES)]
    if not positions[Key.obs.in_tissue].isin([0, 1]).all() or not (places == places.round()).to_numpy().all():
        raise ContentError("in_tissue must be 0 or 1, array_row and array_col whole numbers")
    low, high = positions.min(), positions.max()
    wrong = [c for c in PLACES if low[c] < 0 or high[c] > _FAR] + [
        c for c in PIXELS if low[c] < -_FAR or high[c] > _FAR
    ]
    if wrong:
        raise ContentError(f"{wrong[0]} goes from {low[wrong[0]]:g} to {high[wrong[0]]:g}")
    if not positions.index.is_unique:
        raise ContentError(f"{int(positions.index.duplicated().sum())} barcodes occur more than once")


def check_distinct(positions: pd.DataFrame, where: str) -> None:
    """Refuse spots that share their place on the array or their position in the image."""
    for columns, what in ((PLACES[1:], "place on the array"), (PIXELS, "position in the image")):
        twice = positions.duplicated(list(columns))
        if twice.any():
            example = dict(positions.loc[twice, list(columns)].iloc[0])
            raise ValueError(
                f"{where}: {int(twice.sum())} of {len(positions)} spots share their {what} with another one (such as "
                f"{', '.join(f'{k} = {v:g}' for k, v in example.items())}): expected one position per spot. Copy the "
                "positions from the Space Ranger run again."
            )


def read_scalefactors(path: Path) -> dict[str, float]:
    """Positive numbers by their names."""
    with reading(path, "numbers such as tissue_hires_scalef and spot_diameter_fullres, as JSON"):
        table = read_json(path)
        if not isinstance(table, dict):
            raise ContentError(f"it holds {shown(table)}, which is no table of names and values", _COPY)
        return {str(key): _positive(key, value) for key, value in table.items()}


_COPY = "Copy scalefactors_json.json from the Space Ranger run again."


def _positive(key: str, value: Any) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf
        if 0 < number < math.inf:
            return number
    raise ContentError(f"{key} is {shown(value)} instead of a positive number", _COPY)


def read_spatial(name: str, layout: Layout, load_images: bool) -> dict[str, Any]:
    """The entries `images` and `scalefactors` of a library."""
    images = {}
    for resolution in ("hires", "lowres") if load_images else ():
        path = layout.images.get(resolution)
        if path is None:
            logger.info(
                "library %r: there is no tissue_%s_image in %s", name, resolution, listing(map(str, layout.spatial))
            )
        else:
            with unpacked(path, "an image") as plain:
                images[resolution], _ = read_image(plain)
    if load_images and not images:
        _refuse_other_names(layout)
    if layout.scalefactors is None:
        if images:
            raise FileNotFoundError(
                f"{layout.spatial[0]} has images but no scalefactors_json.json to place the spots on them; it holds "
                f"{content(layout.spatial[0])}. Copy the file from the Space Ranger run, or pass load_images=False."
            )
        logger.warning("library %r: there is no scalefactors_json.json, so the scale is not known", name)
        return {"images": {}, "scalefactors": {}}
    scalefactors = read_scalefactors(layout.scalefactors)
    missing = [key for key in (f"tissue_{resolution}_scalef" for resolution in images) if key not in scalefactors]
    if missing:
        raise ValueError(
            f"{layout.scalefactors} lacks {listing(missing)} and has {listing(scalefactors)}: copy it from the Space "
            "Ranger run again, or pass load_images=False."
        )
    return {"images": images, "scalefactors": scalefactors}


def _refuse_other_names(layout: Layout) -> None:
    """Images that look like those of Space Ranger, and are called otherwise."""
    ends = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
    names = [path.name for folder in layout.spatial for path in names_in(folder)]
    like = [
        name
        for name in names
        if re.search("hires|lowres", name, re.IGNORECASE) and name.lower().removesuffix(".gz").endswith(ends)
    ]
    if like:
        raise ValueError(
            f"{layout.folder} holds the images {listing(like)}, which are not called as Space Ranger does: rename them to "
            "tissue_hires_image.png and tissue_lowres_image.png, or pass load_images=False."
        )


def check_images(name: str, positions: pd.DataFrame, slot: dict[str, Any]) -> None:
    """Refuse images outside of which spots in tissue lie at the scale that the scale factors say."""
    shown = positions[positions[Key.obs.in_tissue] == 1]
    full = {}
    for resolution, image in slot["images"].items():
        scale = slot["scalefactors"][f"tissue_{resolution}_scalef"]
        height, width = image.shape[:2]
        full[resolution] = max(height, width) / scale
        y, x = (shown[column].to_numpy() * scale for column in PIXELS)
        # The centre of a spot at the edge of the image may lie outside of it, by less than a spot.
        rim = 1 + 0.5 * scale * slot["scalefactors"].get("spot_diameter_fullres", 0)
        outside = int(((x < -rim) | (x > width + rim) | (y < -rim) | (y > height + rim)).sum())
        if outside > _FEW * len(shown):
            raise ValueError(
                f"{outside} of {len(shown)} spots in tissue of library {name!r} lie outside of its {resolution} image: "
                f"positions times tissue_{resolution}_scalef={scale:g} reach to x = {x.max():.0f}, y = {y.max():.0f}, and "
                f"the image has {width} x {height} pixels. Check that images, scalefactors_json.json and positions are of "
                "the same section, or pass load_images=False."
            )
        if outside:
            logger.warning(
                "library %r: %d of %d spots lie outside of the %s image", name, outside, len(shown), resolution
            )
    if len(full) == 2 and abs(np.log(full["hires"] / full["lowres"])) > _AGREE:
        logger.warning(
            "library %r: by its scale factors, the hires image shows %.0f pixels of the full image and the lowres image "
            "%.0f: one of the scale factors is wrong",
            name,
            full["hires"],
            full["lowres"],
        )


def assay_of(layout: Layout, positions: pd.DataFrame, scalefactors: dict[str, float], chemistry: str) -> dict[str, str]:
    """The entry `assay` of the metadata, where files say what it is; refused where they contradict each other."""
    said = {}
    if layout.bin_um is not None:
        said[f"the folder {layout.folder.name}"] = float(layout.bin_um)
    if "bin_size_um" in scalefactors:
        said["bin_size_um of the scale factors"] = scalefactors["bin_size_um"]
    match = _BIN_BARCODE.match(str(positions.index[0])) if len(positions) else None
    if match:
        said[f"the barcode {positions.index[0]}"] = float(match[1])
    if len(set(said.values())) > 1:
        raise ValueError(
            f"{layout.folder} has bins of different sizes: {', '.join(f'{size:g} um by {by}' for by, size in said.items())}. "
            "Keep the files of one bin size together, as Space Ranger writes them."
        )
    if said:
        return {"assay": "visium_hd"}
    return {"assay": "visium"} if _on_visium_array(positions, chemistry) else {}


def _on_visium_array(positions: pd.DataFrame, chemistry: str) -> bool:
    """Whether every other place of a row is used, and the files say Visium or rows are sqrt(3) times as far apart."""
    places = positions[[Key.obs.array_row, Key.obs.array_col]].to_numpy(dtype=float)
    if len(places) < 2 or (places.sum(axis=1) % 2).any():
        return False
    design = np.column_stack([np.ones(len(places)), places])
    fit, _, rank, _ = np.linalg.lstsq(design, positions[list(PIXELS)].to_numpy(dtype=float), rcond=None)
    by_row, by_column = np.linalg.norm(fit[1:], axis=1)
    hexagonal = rank == 3 and by_column > 0 and abs(by_row / by_column / math.sqrt(3) - 1) < 0.1
    return "visium" in chemistry.lower() or bool(hexagonal)
