"""Read Visium sections from the folders that Space Ranger writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from spared_sc._core.keys import Key
from spared_sc._core.names import check_library_name
from spared_sc._core.record import record
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._aggregated import aggregated_layouts, suffixes
from spared_sc.datasets._counts_10x import Counts, MtxFiles, h5_metadata, read_counts
from spared_sc.datasets._files import existing
from spared_sc.datasets._join import Section, check_library_key, in_tissue, join_sections
from spared_sc.datasets._visium_layout import PARTS, Layout, find_layout, section_folder
from spared_sc.datasets._visium_spatial import assay_of, check_distinct, check_images, read_positions, read_spatial

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_FEW = 0.05  # share of the spots on which counts and positions may disagree about the tissue


def read_visium(
    paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path],
    *,
    library_key: str = "library_id",
    counts_file: str | Mapping[str, str] | None = None,
    bin_size: int | None = None,
    load_images: bool = True,
    in_tissue_only: bool = True,
) -> AnnData:
    """Read one or several Visium sections from Space Ranger folders (versions 1 to 4).

    Parameters
    ----------
    paths
        One folder, several, or a dictionary library name -> folder. A folder is Space Ranger's `outs` or its parent, with
        the counts and a folder `spatial`. The files may have the name of a sample in front, be compressed (`.gz`), and lie
        in one folder, as repositories deliver them. Without a dictionary, libraries are named after their folders (after
        the parent of `outs`). The sections of an aggregated run (`spaceranger aggr`) become libraries with the names in
        `aggregation.csv`, or the name of the folder and the number of the section.
    library_key
        Column of `obs` for the names of the sections.
    counts_file
        Name of the counts inside each folder, an `.h5` file, a folder with `matrix.mtx.gz`, or such a matrix; or a
        dictionary library name -> name, for several samples in one folder. By default `filtered_feature_bc_matrix` is
        used, and `raw_feature_bc_matrix` where that is missing.
    bin_size
        Visium HD: side of the bins in µm, such as 2, 8 or 16, where a folder holds several. Segmented cells
        (`segmented_outputs`) have no lattice and are not read.
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
    - `uns["spatial"][library]`: `images` (`hires`, `lowres`: uint8 RGB), `scalefactors` (those of the file, for Visium HD
      with `microns_per_pixel` and `bin_size_um`), `metadata` (names of the files, and `assay`, `"visium"` or
      `"visium_hd"`, where the files say which)
    - `uns["spared_sc"]["read_visium"]`: how it was read

    Raises
    ------
    FileNotFoundError
        A folder, its counts, its positions or its scale factors are missing.
    ValueError
        A file is damaged or of another kind; counts, positions, scale factors and images do not belong together; a folder
        holds several samples or sizes of bins; or two libraries have the same name.
    PermissionError
        A file may not be read.

    Notes
    -----
    Genes that are not in all sections, spots outside the tissue and features other than gene expression are dropped; the
    log says how many. Where the barcodes of counts and positions differ by the ending `-1` only, it is ignored.

    What is found by its name is checked by its content: every spot has one position of its own, every barcode of the counts
    has a position, and spots in tissue lie inside of the images at the scale of the scale factors.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.read_visium(["runs/section_1", "runs/section_2"])  # doctest: +SKIP
    >>> adata = sp.datasets.read_visium({"control": "runs/a/outs", "treated": "runs/b/outs"})  # doctest: +SKIP
    >>> adata = sp.datasets.read_visium("runs/hd", bin_size=8)  # doctest: +SKIP
    """
    check_library_key(library_key, "barcode")
    folders = _named_folders(paths)
    chosen = _counts_files(counts_file, folders)
    sections = [
        section
        for name, folder in folders.items()
        for section in _read_run(name, folder, chosen[name], bin_size, load_images, in_tissue_only)
    ]
    _check_names([section.name for section in sections])
    if in_tissue_only:
        sections = [in_tissue(section) for section in sections]
    adata = join_sections(sections, library_key)
    record(
        adata,
        key="read_visium",
        function="datasets.read_visium",
        params={
            "library_key": library_key,
            "counts_file": dict(counts_file) if isinstance(counts_file, Mapping) else counts_file,
            "bin_size": bin_size,
            "load_images": load_images,
            "in_tissue_only": in_tissue_only,
        },
        slots={},
        libraries=[section.name for section in sections],
    )
    logger.info("read %d spots x %d genes of %d libraries", *adata.shape, len(sections))
    return adata


def _named_folders(paths: str | Path | Sequence[str | Path] | Mapping[str, str | Path]) -> dict[str, Path]:
    """Library name -> folder."""
    if isinstance(paths, Mapping):
        named = [(name, _folder(path)) for name, path in paths.items()]
    else:
        folders = [_folder(path) for path in ([paths] if isinstance(paths, str | Path) else _listed(paths))]
        named = [(_library_name(folder), folder) for folder in folders]
    if not named:
        raise ValueError("no folder was given: pass the path of at least one Space Ranger folder.")
    _check_names([name for name, _ in named])
    for name, _ in named:
        check_library_name(name)
    return dict(named)


def _listed(paths: object) -> list[str | Path]:
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | Path) for path in paths):
        raise TypeError(f"paths={paths!r} cannot be used: pass a path, a list of paths, or a dictionary name -> path.")
    return list(paths)


def _library_name(folder: Path) -> str:
    parts = {"outs", "binned_outputs"} if folder.name in {"outs", "binned_outputs"} else set()
    while folder.name in parts:
        folder = folder.parent
    return folder.name


def _check_names(names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1}, key=str)
    if twice:
        raise ValueError(
            f"several folders give the library name {listing(twice)}: pass a dictionary of names and folders, "
            'such as {"section_1": "run_1/outs", "section_2": "run_2/outs"}.'
        )


def _folder(path: str | Path) -> Path:
    if not isinstance(path, str | Path):
        raise TypeError(f"{path!r} is not a path: pass the path of a Space Ranger folder ({PARTS}).")
    folder = Path(path).expanduser()
    if not existing(folder):
        raise FileNotFoundError(f"there is no folder {str(path)!r}: pass the path of a Space Ranger folder ({PARTS}).")
    if not folder.is_dir():
        remedy = "read it with anndata.read_h5ad, or " if folder.suffix == ".h5ad" else ""
        raise NotADirectoryError(
            f"{str(path)!r} is a file: {remedy}pass the Space Ranger folder it belongs to ({PARTS}); counts with an "
            "unusual name are chosen with counts_file=."
        )
    # "." and ".." have no name of their own; a link keeps its name, for that is what the user called the section.
    return folder.resolve() if folder.name in {"", ".."} else folder.absolute()


def _counts_files(counts_file: str | Mapping[str, str] | None, folders: Mapping[str, Path]) -> dict[str, str | None]:
    """Library name -> counts_file."""
    named = isinstance(counts_file, Mapping)
    chosen = {name: counts_file.get(name) if isinstance(counts_file, Mapping) else counts_file for name in folders}
    unknown = [name for name in counts_file if name not in folders] if isinstance(counts_file, Mapping) else []
    if unknown:
        raise ValueError(f"counts_file= names {listing(unknown)}; the libraries are {listing(folders)}.")
    for value in chosen.values():
        if value is not None and (not isinstance(value, str) or not value or "\0" in value):
            raise TypeError(
                f"counts_file={counts_file!r} cannot be used: pass the name of a file{', for each library' if named else ''}."
            )
    return chosen


def _read_run(
    name: str, path: Path, counts_file: str | None, bin_size: int | None, load_images: bool, in_tissue_only: bool
) -> list[Section]:
    """The section of a folder, or the sections of an aggregated run."""
    folder, bin_um = section_folder(path, bin_size)
    return read_layout(name, find_layout(folder, counts_file, bin_um), load_images, in_tissue_only)


def read_layout(name: str, layout: Layout, load_images: bool, in_tissue_only: bool) -> list[Section]:
    """The section of some files, or the sections of an aggregated run."""
    counts = read_counts(layout.counts)
    found = suffixes(counts.barcodes)
    if len(found) < 2:
        read = [_read_section(name, layout, counts, read_positions(layout), load_images, in_tissue_only)]
    else:
        read = []
        for part in aggregated_layouts(name, layout, counts.barcodes, found):
            own = counts.barcodes.str.endswith(f"-{part.number}")
            some = Counts(counts.values[own], counts.barcodes[own], counts.genes)
            read.append(_read_section(part.name, part.layout, some, part.positions, load_images, in_tissue_only))
    return [in_tissue(section) for section in read] if in_tissue_only else read


def _read_section(
    name: str, layout: Layout, counts: Counts, positions: pd.DataFrame, load_images: bool, in_tissue_only: bool
) -> Section:
    path, barcodes = layout.counts_path, counts.barcodes
    positions = _same_endings(name, barcodes, positions)
    unknown = barcodes[~barcodes.isin(positions.index)]
    if len(unknown):
        raise ValueError(
            f"{len(unknown)} of {len(barcodes)} barcodes of {path} have no position: the counts have {unknown[0]!r}, "
            f"the positions such as {listing(positions.index, 1)}. Check that `spatial` and the counts are of the "
            "same section."
        )
    own = positions.loc[barcodes]
    check_distinct(own, str(layout.positions))
    _check_tissue(name, layout, own, positions, in_tissue_only)
    slot = read_spatial(name, layout, load_images)
    check_images(name, own, slot)
    metadata = {"source": layout.folder.name, "counts_file": layout.counts_name}
    if not isinstance(layout.counts, MtxFiles):
        metadata |= h5_metadata(layout.counts)
    metadata |= assay_of(layout, own, slot["scalefactors"], metadata.get("chemistry_description", ""))
    return Section(name, counts.values, barcodes, counts.genes, own, {**slot, "metadata": metadata})


def _same_endings(name: str, barcodes: pd.Index, positions: pd.DataFrame) -> pd.DataFrame:
    """Positions with the ending of the counts' barcodes, where one of both has `-1` and the other has none."""
    if barcodes.isin(positions.index).any():
        return positions
    counted, placed = suffixes(barcodes), suffixes(positions.index)
    if counted == ["1"] and not placed:
        index = positions.index + "-1"
    elif placed == ["1"] and not counted:
        index = positions.index.str.removesuffix("-1")
    else:
        return positions
    logger.info("library %r: barcodes of counts and positions differ by the ending '-1', which is ignored", name)
    return positions.set_axis(index)


def _check_tissue(name: str, layout: Layout, own: pd.DataFrame, positions: pd.DataFrame, in_tissue_only: bool) -> None:
    """Compare the spots in tissue with those of filtered counts, which Space Ranger makes the same."""
    n_tissue = int((positions[Key.obs.in_tissue] == 1).sum())
    inside = int((own[Key.obs.in_tissue] == 1).sum())
    idle, off = n_tissue - inside, len(own) - inside
    if layout.filtered and inside and off > _FEW * len(own) and idle > _FEW * n_tissue and in_tissue_only:
        raise ValueError(
            f"library {name!r}: {off} of {len(own)} spots of {layout.counts_name} are outside of the tissue in "
            f"{layout.positions}, and {idle} of {n_tissue} spots in tissue are not in the counts. Check that both are of "
            "the same section, or pass in_tissue_only=False to keep all spots."
        )
    if layout.filtered and off and inside:
        logger.warning(
            "library %r: %d of %d spots of the filtered counts are outside of the tissue in %s: check that both are of "
            "the same section",
            name,
            off,
            len(own),
            layout.positions,
        )
    if idle:
        logger.info("library %r: %d spots in tissue have positions but are not in %s", name, idle, layout.counts_name)
