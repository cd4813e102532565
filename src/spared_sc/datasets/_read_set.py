"""From the files of a data set to one AnnData: sections by the reader of their technology, subjects, further tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._counts_10x import MtxFiles
from spared_sc.datasets._files import ContentError, open_text, reading
from spared_sc.datasets._join import Section, in_tissue, join_sections
from spared_sc.datasets._read_visium import read_layout
from spared_sc.datasets._st_files import read_places
from spared_sc.datasets._st_files import read_section as read_st_section
from spared_sc.datasets._visium_layout import Layout

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from spared_sc.datasets._entries import DataSet

_FEW = 0.5  # share of the spots that must have a label, or of the barcodes that a table must name


def read_set(
    entry: DataSet,
    files: Mapping[str, Mapping[str, Path]],
    *,
    images: str | None,
    layers: Sequence[str],
    join: str,
    library_key: str,
) -> AnnData:
    """The sections of a data set; `files` says of each what its files are."""
    sections = []
    for name, own in files.items():
        section = (_read_visium if entry.technology == "visium" else _read_st)(name, own, images)
        section.positions["subject"] = entry.sections[name].subject
        sections.append(section)
    adata = join_sections(sections, library_key, join=join)
    for column in {"subject", "label"} & set(adata.obs):
        adata.obs[column] = adata.obs[column].astype("category")
    for layer in layers:
        adata.layers[layer] = _read_layer(adata, sections, [files[section.name][layer] for section in sections])
    return adata


def _read_visium(name: str, files: Mapping[str, Path], images: str | None) -> Section:
    counts = files["counts"]
    mtx = ".h5" not in counts.suffixes
    layout = Layout(
        folder=counts.parent,
        counts=MtxFiles(counts, files["features"], files["barcodes"]) if mtx else counts,
        filtered="raw_" not in f"{counts.parent.name}/{counts.name}",
        positions=files["positions"],
        scalefactors=files["scalefactors"],
        images={role: files[role] for role in ("hires", "lowres") if role in files},
        spatial=[files["positions"].parent],
    )
    read = read_layout(name, layout, load_images=bool(images and layout.images), in_tissue_only=True)
    if len(read) != 1:
        raise ValueError(f"{counts} holds {len(read)} sections of an aggregated run: expected those of {name} alone.")
    section = read[0]
    if images and not layout.images:
        logger.warning("library %r: its source has no hires image", name)
    if images == "full":
        section.slot["metadata"]["source_image_path"] = str(files["image"].absolute())
    return in_tissue(section)


def _read_st(name: str, files: Mapping[str, Path], images: str | None) -> Section:
    section = read_st_section(files["counts"], files["spots"], files["image"] if images else None, name=name)
    if "labels" in files:
        section.positions["label"] = _read_labels(section, files["labels"])
    return section


def _read_labels(section: Section, path: Path) -> list[str | None]:
    """The pathologist's label of each spot, joined on the rounded places, as counts and spots are."""
    labels = read_places(path, ("x", "y", "label"))["label"]
    place = pd.MultiIndex.from_frame(section.positions[[Key.obs.array_col, Key.obs.array_row]])
    labels = labels.reindex(place)
    n_labelled = int(labels.notna().sum())
    logger.info("library %r: %d of %d spots have a label", section.name, n_labelled, len(place))
    if n_labelled < _FEW * len(place):
        raise ValueError(
            f"only {n_labelled} of {len(place)} spots of section {section.name} have a label in {path}: expected the "
            "labels of this section; download the file again, or leave the labels out."
        )
    return labels.tolist()


def _read_layer(adata: AnnData, sections: Iterable[Section], paths: Sequence[Path]) -> sps.csr_matrix:
    """Tables of values, one for each section, as a layer; 0 where a table does not have the spot or the gene."""
    genes = [adata.var_names, pd.Index(adata.var[Key.var.gene_ids])]
    blocks = [
        _aligned(_read_values(path, section), section, genes) for section, path in zip(sections, paths, strict=True)
    ]
    return sps.vstack(blocks, format="csr")


def _read_values(path: Path, section: Section) -> pd.DataFrame:
    """A table of spots x genes, with the spots named as in the counts."""
    with reading(path, "a table of values, with names in its first row and column"):
        with open_text(path) as file:
            table = pd.read_csv(file, sep="\t", index_col=0)
        barcodes = {_bare(name): name for name in section.barcodes}
        for one in (table, table.T):
            names = [barcodes.get(_bare(name)) for name in one.index]
            n_known = len(names) - names.count(None)
            if n_known >= _FEW * len(barcodes):
                logger.info("library %r: %d of %d spots are in %s", section.name, n_known, len(barcodes), path.name)
                return one[[name is not None for name in names]].set_axis([n for n in names if n is not None], axis=0)
        raise ContentError(f"neither its rows ({listing(table.index, 2)}) nor its columns are the spots")


def _bare(barcode: Any) -> str:
    """A barcode without its number; R writes a dot for the hyphen."""
    return str(barcode).replace(".", "-").partition("-")[0]


def _aligned(table: pd.DataFrame, section: Section, genes: Sequence[pd.Index]) -> sps.csr_matrix:
    """Values in the order of the section's spots and of the genes, by symbol or id, whichever more columns have."""
    names = max(genes, key=lambda index: int(index.isin(table.columns).sum()))
    n_known = int(names.isin(table.columns).sum())
    logger.info("library %r: the table has %d of %d genes", section.name, n_known, len(names))
    table = table.loc[:, ~table.columns.duplicated()].reindex(index=section.barcodes, columns=names)
    return sps.csr_matrix(np.nan_to_num(table.to_numpy(dtype=np.float32)))
