"""What the readers share: a section as it comes from its files, and the joining of sections."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.genes import canonical_ids
from spared_sc._core.keys import Key
from spared_sc._core.memory import check_memory
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc._images.source import open_image

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from spared_sc._images.raster import Source

PIXELS = ("pxl_row_in_fullres", "pxl_col_in_fullres")
PLACES = (Key.obs.in_tissue, Key.obs.array_row, Key.obs.array_col)


@dataclass
class Section:
    """What the files of one section hold."""

    name: str
    counts: sps.csr_matrix
    barcodes: pd.Index
    genes: pd.DataFrame  # its index joins sections: ids, beside a column `symbol`, or the symbols themselves
    positions: pd.DataFrame  # one row per barcode: PLACES, PIXELS, and what else goes to obs
    slot: dict[str, Any] = field(default_factory=dict)  # for uns["spatial"]


def check_library_key(library_key: str, *more: str) -> None:
    """Refuse what is no name of a column, or the name of one that is written anyway."""
    if not isinstance(library_key, str) or not library_key or "/" in library_key or "\0" in library_key:
        raise ValueError(f"library_key={library_key!r} cannot be the name of a column: pass a text without '/'.")
    if library_key in (*PLACES, *PIXELS, *more):
        raise ValueError(f"library_key={library_key!r} is the name of another column that is read: pass another name.")


def matches(folder: Path, pattern: str) -> list[Path]:
    """Files of a folder, without those with a leading dot, which macOS leaves behind on other file systems."""
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def read_image(path: Path, longest: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """An image as uint8 RGB, no side longer than `longest`, and its (width, height) in the file.

    The same reader cuts patches: hires image and patches show the same pixels, and the same images are refused.
    """
    try:
        source = open_image(path)
        height, width = source.shape
        if longest is not None and max(source.shape) > longest:
            return _shrunk(source, longest), (width, height)
        check_memory(f"{path} ({width} x {height} pixels)", 3 * height * width, "leave the image out.")
        return np.array(source.read(0, height, 0, width)), (width, height)
    except ValueError as error:
        raise ValueError(
            f"{error} To read the counts without it, pass load_images=False (`read_visium`), or leave out `image` "
            "(`read_st`)."
        ) from error


def _shrunk(source: Source, longest: int) -> np.ndarray:
    """The whole image with a longer side of `longest` pixels."""
    from PIL import Image

    small, _ = source.thumbnail(2 * longest)
    scale = longest / max(source.shape)
    height, width = (max(1, round(side * scale)) for side in source.shape)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def in_tissue(section: Section) -> Section:
    """The section without the spots off the tissue."""
    keep = (section.positions[Key.obs.in_tissue] == 1).to_numpy()
    if keep.all():
        return section
    if not keep.any():
        raise ValueError(
            f"none of the {len(keep)} spots of library {section.name!r} is in tissue: check the positions file, or "
            "pass in_tissue_only=False."
        )
    logger.info("library %r: dropped %d of %d spots outside the tissue", section.name, int((~keep).sum()), len(keep))
    return replace(
        section, counts=section.counts[keep], barcodes=section.barcodes[keep], positions=section.positions[keep]
    )


def join_sections(sections: Sequence[Section], library_key: str, *, join: str = "inner") -> AnnData:
    """One AnnData of all sections, with the genes that all (`"inner"`) or any (`"outer"`) of them have."""
    from anndata import AnnData

    sections = _same_ids(sections)
    genes = _common_genes(sections) if join == "inner" else _all_genes(sections)
    counts = sps.vstack([_aligned(section, genes.index) for section in sections], format="csr")
    counts.sort_indices()
    positions = pd.concat([section.positions for section in sections])
    names = [section.name for section in sections]
    libraries = np.repeat(names, [len(section.barcodes) for section in sections])
    if len(sections) > 1:
        positions.index = [f"{barcode}_{library}" for barcode, library in zip(positions.index, libraries, strict=True)]
    obs = positions.drop(columns=list(PIXELS))
    obs[library_key] = pd.Categorical(libraries, categories=names)
    if "symbol" in genes:
        var = genes.reset_index(names=Key.var.gene_ids).set_index("symbol").rename_axis(None)
    else:
        var = genes.rename_axis(None)
    with warnings.catch_warnings():
        # The names become unique in the next line; that some then look like "NAME-1" is scanpy's convention.
        warnings.filterwarnings("ignore", message="Variable names are not unique", category=UserWarning)
        warnings.filterwarnings("ignore", message="Suffix used", category=UserWarning)
        adata = AnnData(X=counts, obs=obs, var=var)
        adata.var_names_make_unique()
    adata.obsm[Key.obsm.spatial] = positions[list(PIXELS[::-1])].to_numpy(dtype=np.float64)
    adata.uns[Key.uns.spatial] = {section.name: section.slot for section in sections}
    return adata


def _same_ids(sections: Sequence[Section]) -> Sequence[Section]:
    """Sections with ids without version and genome prefix, where more genes are then the same."""
    if not all("symbol" in section.genes for section in sections):
        return sections
    bare = []
    for section in sections:
        ids, raw = canonical_ids(section.genes.index, None), pd.Series(section.genes.index, dtype=object)
        bare.append(pd.Index(ids.where(ids.notna(), raw), dtype=object, name=section.genes.index.name))
    n_raw, n_bare = (
        len(set.intersection(*map(set, indices))) for indices in ([section.genes.index for section in sections], bare)
    )
    if n_bare <= n_raw or not all(index.is_unique for index in bare):
        return sections
    logger.info("%d more genes are common to all libraries by ids without version and genome", n_bare - n_raw)
    return [
        replace(section, genes=section.genes.set_axis(index)) for section, index in zip(sections, bare, strict=True)
    ]


def _aligned(section: Section, genes: pd.Index) -> sps.csr_matrix:
    """Counts with the columns `genes`; empty where the section does not have the gene."""
    column = section.genes.index.get_indexer(genes)
    counts = section.counts
    if (column < 0).any():
        # The column -1 of those genes is an empty one behind the others.
        counts = sps.hstack([counts, sps.csr_matrix((counts.shape[0], 1), dtype=counts.dtype)], format="csr")
    return counts[:, column]


def _all_genes(sections: Sequence[Section]) -> pd.DataFrame:
    """Genes of any section, those of the first one first; of their columns only the symbol."""
    columns = ["symbol"] if all("symbol" in section.genes for section in sections) else []
    genes = pd.concat([section.genes[columns] for section in sections])
    return genes[~genes.index.duplicated()]


def _common_genes(sections: Sequence[Section]) -> pd.DataFrame:
    """Genes that all sections have, in the order of the first, with the columns on which all agree."""
    first = sections[0].genes
    common = first.index[np.all([first.index.isin(section.genes.index) for section in sections], axis=0)]
    if common.empty:
        examples = "; ".join(f"{section.name!r} has {listing(section.genes.index, 2)}" for section in sections)
        raise ValueError(f"the sections have no gene id in common ({examples}): read them one by one.")
    for section in sections:
        if len(section.genes) > len(common):
            logger.info(
                "library %r: left out %d of %d genes that other libraries do not have",
                section.name,
                len(section.genes) - len(common),
                len(section.genes),
            )
    tables = [section.genes.loc[common] for section in sections]
    same = [c for c in first if all(c in table and table[c].equals(tables[0][c]) for table in tables)]
    if "symbol" in first and "symbol" not in same:
        logger.info("the libraries' symbols differ for some gene ids: those of %r are used", sections[0].name)
        same.append("symbol")
    return tables[0][same]
