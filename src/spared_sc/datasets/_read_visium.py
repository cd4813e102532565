"""Read Visium sections from the folders that Space Ranger writes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.names import check_library_name
from spared_sc._core.record import record
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._join import (
    PIXELS,
    PLACES,
    Section,
    check_library_key,
    in_tissue,
    join_sections,
    matches,
    read_image,
    readable,
)

if TYPE_CHECKING:
    from anndata import AnnData

# In the order in which they are tried.
_COUNTS = (
    "filtered_feature_bc_matrix.h5",
    "*filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "raw_feature_bc_matrix.h5",
    "*raw_feature_bc_matrix.h5",
    "raw_feature_bc_matrix",
)
_POSITIONS = (
    "tissue_positions.parquet",
    "tissue_positions.csv",
    "tissue_positions_list.csv",
    "*tissue_positions*.parquet",
    "*tissue_positions*.csv",
    "*tissue_positions*.csv.gz",
)
_IMAGE_TYPES = ("png", "jpg", "jpeg", "tiff", "tif")
_POSITION_COLUMNS = ("barcode", *PLACES, *PIXELS)
_PARTS = "a folder `spatial` and counts such as filtered_feature_bc_matrix.h5"


def read_visium(
    paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    library_key: str = "library_id",
    counts_file: str | None = None,
    load_images: bool = True,
    in_tissue_only: bool = True,
) -> AnnData:
    """Read one or several Visium sections from Space Ranger folders (versions 1 to 4).

    Parameters
    ----------
    paths
        One folder, several, or a dictionary library name -> folder. A folder is Space Ranger's `outs` or its parent, with
        the counts and a folder `spatial`. For Visium HD pass one folder of `binned_outputs`. Without a dictionary,
        libraries are named after their folders (after the parent of `outs`).
    library_key
        Column of `obs` for the names of the sections.
    counts_file
        Name of the counts inside each folder, an `.h5` file or a folder with `matrix.mtx.gz`. By default
        `filtered_feature_bc_matrix` is used, and `raw_feature_bc_matrix` where that is missing.
    load_images
        Also read the hires and lowres images that exist.
    in_tissue_only
        Drop the spots that Space Ranger marks as outside the tissue.

    Returns
    -------
    Spots x genes, with

    - `X`: raw counts, sparse (CSR), float32
    - `obs`: `in_tissue`, `array_row`, `array_col` (integers) and the categorical column `library_key`; spots are
      named by their barcode, followed by `_<library>` where there are several sections
    - `var`: `gene_ids`, and the other columns that are equal in all sections. Sections are joined on `gene_ids`, keeping
      the genes that all of them have; names are the symbols, made unique
    - `obsm["spatial"]`: x and y of the spots in pixels of the full-resolution image, float64
    - `uns["spatial"][library]`: `images` (`hires`, `lowres`: uint8 RGB), `scalefactors`, `metadata`
    - `uns["spared_sc"]["read_visium"]`: how it was read

    Raises
    ------
    FileNotFoundError
        A folder, its counts, its positions or its scale factors are missing.
    ValueError
        A file is damaged, counts and positions do not belong together, or two libraries have the same name.

    Notes
    -----
    Genes that are not in all sections, spots outside the tissue and features other than gene expression are dropped; the
    log says how many.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.read_visium(["runs/section_1", "runs/section_2"])  # doctest: +SKIP
    >>> adata = sp.datasets.read_visium({"control": "runs/a/outs", "treated": "runs/b/outs"})  # doctest: +SKIP
    """
    check_library_key(library_key, "barcode")
    folders = _named_folders(paths)
    sections = [_read_section(name, folder, counts_file, load_images) for name, folder in folders.items()]
    if in_tissue_only:
        sections = [in_tissue(section) for section in sections]
    adata = join_sections(sections, library_key)
    record(
        adata,
        key="read_visium",
        function="datasets.read_visium",
        params={
            "library_key": library_key,
            "counts_file": counts_file,
            "load_images": load_images,
            "in_tissue_only": in_tissue_only,
        },
        slots={},
        libraries=list(folders),
    )
    logger.info("read %d spots x %d genes of %d libraries", *adata.shape, len(folders))
    return adata


def _named_folders(paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Library name -> the folder that holds counts and `spatial`."""
    if isinstance(paths, Mapping):
        named = [(name, _section_folder(path)) for name, path in paths.items()]
    else:
        folders = [_section_folder(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
        named = [(folder.parent.name if folder.name == "outs" else folder.name, folder) for folder in folders]
    if not named:
        raise ValueError("no folder was given: pass the path of at least one Space Ranger folder.")
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"several folders give the library name {listing(twice)}: pass a dictionary of names and folders, "
            'such as {"section_1": "run_1/outs", "section_2": "run_2/outs"}.'
        )
    for name in names:
        check_library_name(name)
    return dict(named)


def _section_folder(path: str | Path) -> Path:
    folder = Path(path).expanduser()
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(path)!r}: pass the path of a Space Ranger folder ({_PARTS}).")
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(path)!r} is a file: pass the Space Ranger folder it belongs to ({_PARTS}); counts with an unusual "
            "name are chosen with counts_file=."
        )
    # "." and ".." have no name of their own; a link keeps its name, for that is what the user called the section.
    folder = folder.resolve() if folder.name in {"", ".."} else folder.absolute()
    has_counts = any(matches(folder, pattern) for pattern in _COUNTS)
    return folder / "outs" if not has_counts and (folder / "outs").is_dir() else folder


def _find(folder: Path, patterns: Sequence[str]) -> Path | None:
    """The file that fits the first pattern that any file fits."""
    for pattern in patterns:
        paths = matches(folder, pattern)
        if len(paths) > 1:
            raise ValueError(
                f"{folder} holds several files that fit {pattern!r}: {listing(path.name for path in paths)}. "
                "Keep one section per folder; counts are chosen with counts_file=."
            )
        if paths:
            return paths[0]
    return None


def _content(folder: Path) -> str:
    return listing(sorted(path.name for path in folder.iterdir()))


def _read_section(name: str, folder: Path, counts_file: str | None, load_images: bool) -> Section:
    path = _counts_path(folder, counts_file)
    spatial = folder / "spatial"
    if not spatial.is_dir():
        raise FileNotFoundError(
            f"{folder} has counts ({path.name}) but no folder `spatial` (it holds {_content(folder)}): unpack Space "
            "Ranger's spatial.tar.gz there. Without positions, read the counts with scanpy.read_10x_h5."
        )
    counts, barcodes, genes = _read_counts(path)
    positions = _read_positions(spatial)
    unknown = barcodes[~barcodes.isin(positions.index)]
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(barcodes)} barcodes of {path} have no position: the counts have {unknown[0]!r}, "
            f"the positions such as {listing(positions.index, 1)}. Check that `spatial` and the counts are of the "
            "same section."
        )
    idle = int((positions[Key.obs.in_tissue] == 1).sum()) - int(positions[Key.obs.in_tissue][barcodes].sum())
    if idle:
        logger.info("library %r: %d spots in tissue have positions but are not in %s", name, idle, path.name)
    return Section(
        name=name,
        counts=counts,
        barcodes=barcodes,
        genes=genes,
        positions=positions.loc[barcodes],
        slot={
            **_read_images(name, spatial, load_images),
            "metadata": {"source": folder.name, "counts_file": path.name, **_h5_metadata(path)},
        },
    )


def _counts_path(folder: Path, counts_file: str | None) -> Path:
    if counts_file is not None:
        path = folder / counts_file
        if not path.exists():
            raise FileNotFoundError(
                f"there is no counts_file={counts_file!r} in {folder}, which holds {_content(folder)}."
            )
        if not path.is_dir() and path.suffix != ".h5":
            raise ValueError(
                f"counts_file={counts_file!r} cannot be used: expected an .h5 file or a folder with matrix.mtx.gz."
            )
        return path
    usual = _find(folder, _COUNTS)
    if usual is not None:
        return usual
    inside = [
        child
        for child in sorted({*folder.glob("*"), *folder.glob("*/*")})
        if child.is_dir() and (child / "spatial").is_dir() and any(matches(child, pattern) for pattern in _COUNTS)
    ]
    remedy = (
        f"It has section folders inside: pass one or a list of {listing(str(child) for child in inside)}"
        if inside
        else f"Pass a Space Ranger folder ({_PARTS}); counts with another name are chosen with counts_file="
    )
    raise FileNotFoundError(f"{folder} has no counts; it holds {_content(folder)}. {remedy}.")


def _read_counts(path: Path) -> tuple[sps.csr_matrix, pd.Index, pd.DataFrame]:
    """Counts, barcodes and genes (indexed by their ids, with the column `symbol`)."""
    import scanpy as sc

    with warnings.catch_warnings():
        # Symbols repeat in every reference; they are made unique once the sections are joined.
        warnings.filterwarnings("ignore", message="Variable names are not unique", category=UserWarning)
        if path.is_dir():
            with readable(path, "matrix.mtx.gz, features.tsv.gz and barcodes.tsv.gz of one matrix"):
                read = sc.read_10x_mtx(path, make_unique=False, gex_only=False)
        else:
            with readable(path, "a 10x feature-barcode matrix"):
                _check_h5(path)
                read = sc.read_10x_h5(path, gex_only=False)
    genes = read.var.assign(symbol=read.var_names.astype(str)).set_index(Key.var.gene_ids)
    counts = sps.csr_matrix(read.X, dtype=np.float32)
    counts.sort_indices()
    if "feature_types" in genes:
        keep = (genes["feature_types"] == "Gene Expression").to_numpy()
        if not keep.all():
            logger.info("%s: left out %d features that are not gene expression", path.name, int((~keep).sum()))
            genes, counts = genes[keep], counts[:, keep]
    for values, kind in ((genes.index, "gene ids"), (read.obs_names, "barcodes")):
        if not values.is_unique:
            raise ValueError(
                f"{path}: {int(values.duplicated().sum())} {kind} occur more than once (such as "
                f"{listing(values[values.duplicated()], 1)}); expected a feature-barcode matrix, one row per gene."
            )
    return counts, pd.Index(read.obs_names, dtype=object), genes


def _check_h5(path: Path) -> None:
    import h5py

    with h5py.File(path) as file:
        if "matrix" not in file:
            raise KeyError(f"found {listing(file)} instead of the group 'matrix'")
        missing = {"barcodes", "data", "features", "indices", "indptr", "shape"} - set(file["matrix"])
        if missing:
            raise KeyError(f"the group 'matrix' lacks {listing(sorted(missing))}")


def _h5_metadata(path: Path) -> dict[str, str]:
    """What an h5 file says about the assay, under squidpy's names."""
    import h5py

    if path.is_dir():
        return {}
    with h5py.File(path) as file:
        attrs = {key: file.attrs[key] for key in ("chemistry_description", "software_version") if key in file.attrs}
    return {key: value.decode() if isinstance(value, bytes) else str(value) for key, value in attrs.items()}


def _read_positions(spatial: Path) -> pd.DataFrame:
    """Positions of all spots of the array, indexed by barcode."""
    path = _find(spatial, _POSITIONS)
    if path is None:
        raise FileNotFoundError(
            f"{spatial} has no spot positions; it holds {_content(spatial)}. Expected tissue_positions.csv, "
            "tissue_positions_list.csv or tissue_positions.parquet."
        )
    with readable(path, f"the columns {listing(_POSITION_COLUMNS)}"):
        table = pd.read_parquet(path) if path.suffix == ".parquet" else _position_csv(path)
        missing = [column for column in _POSITION_COLUMNS if column not in table]
        if missing:
            raise ValueError(f"it lacks {listing(missing)}")
        positions = table[list(_POSITION_COLUMNS[1:])].apply(pd.to_numeric)
        positions.index = pd.Index(table["barcode"].astype(str), dtype=object, name=None)
        if positions.isna().to_numpy().any():
            raise ValueError(f"{int(positions.isna().any(axis=1).sum())} rows have empty fields")
        whole = positions[list(PLACES)]
        if not (whole == whole.round()).to_numpy().all() or not positions[Key.obs.in_tissue].isin([0, 1]).all():
            raise ValueError("in_tissue must be 0 or 1, array_row and array_col whole numbers")
        if not positions.index.is_unique:
            raise ValueError(f"{int(positions.index.duplicated().sum())} barcodes occur more than once")
    return positions.astype(dict.fromkeys(whole, int))


def _position_csv(path: Path) -> pd.DataFrame:
    """The fields as text; whether there is a header shows in the second field, a number in every other row."""
    table = pd.read_csv(path, header=None, dtype=str, encoding="utf-8-sig")
    if table.shape[1] != len(_POSITION_COLUMNS):
        raise ValueError(f"it has {table.shape[1]} columns")
    if pd.to_numeric(table.iloc[:1, 1], errors="coerce").isna().all():
        return table.iloc[1:].set_axis([str(name).strip() for name in table.iloc[0]], axis=1)
    return table.set_axis(list(_POSITION_COLUMNS), axis=1)


def _read_images(name: str, spatial: Path, load_images: bool) -> dict[str, Any]:
    """The entries `images` and `scalefactors` of a library."""
    images = {}
    for resolution in ("hires", "lowres") if load_images else ():
        path = _find(spatial, [f"tissue_{resolution}_image.{end}" for end in _IMAGE_TYPES])
        if path is None:
            logger.info("library %r: there is no tissue_%s_image in %s", name, resolution, spatial)
        else:
            images[resolution], _ = read_image(path)
    path = spatial / "scalefactors_json.json"
    if not path.is_file():
        if images:
            raise FileNotFoundError(
                f"{spatial} has images but no scalefactors_json.json to place the spots on them; it holds "
                f"{_content(spatial)}. Copy the file from the Space Ranger run, or pass load_images=False."
            )
        return {"images": {}, "scalefactors": {}}
    with readable(path, "numbers such as tissue_hires_scalef and spot_diameter_fullres, as JSON"):
        scalefactors = {key: float(value) for key, value in json.loads(path.read_text()).items()}
        missing = [f"tissue_{resolution}_scalef" for resolution in images]
        missing = [key for key in missing if key not in scalefactors]
        if missing:
            raise ValueError(f"it lacks {listing(missing)}")
    return {"images": images, "scalefactors": scalefactors}
