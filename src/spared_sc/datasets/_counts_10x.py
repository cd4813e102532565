"""Counts of Space Ranger and Cell Ranger: HDF5 files, and the three files of a Matrix Market folder."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._files import ContentError, is_gzip, open_bytes, read_lines, reading

if TYPE_CHECKING:
    from pathlib import Path

_ENSEMBL = re.compile(r"^(?:GRC[hm]\d+_+|hg\d+_+|mm\d+_+)?ENS[A-Z]*G\d{6,}")
_EXACT = 2**24  # float32 holds whole numbers up to here
# Places of counts compress little: what declares far more of them than it stores was made to fill the memory.
_RATIO, _FREE = 200, 2**26
_H5 = "a feature-barcode matrix of Space Ranger or Cell Ranger (group 'matrix')"
_BANNER = ["%%matrixmarket", "matrix", "coordinate"]
_MTX = "matrix.mtx.gz, features.tsv.gz and barcodes.tsv.gz of one matrix"


@dataclass(frozen=True)
class MtxFiles:
    """The three files of a matrix in the Matrix Market format."""

    matrix: Path
    features: Path
    barcodes: Path

    @property
    def name(self) -> str:
        """What to call them in a message."""
        return self.matrix.parent.name if self.matrix.name.startswith("matrix.mtx") else self.matrix.name


@dataclass
class Counts:
    """Counts (spots x genes), barcodes, and genes: indexed by their ids, with the column `symbol`."""

    values: sps.csr_matrix
    barcodes: pd.Index
    genes: pd.DataFrame


def read_counts(files: Path | MtxFiles) -> Counts:
    """Counts of gene expression from an h5 file or Matrix Market files, checked."""
    path = files.matrix if isinstance(files, MtxFiles) else files
    read = _read_mtx(files) if isinstance(files, MtxFiles) else _read_h5(files)
    values, genes, barcodes = read.values, read.genes, read.barcodes
    if 0 in values.shape:
        raise ValueError(
            f"{path} is empty: it holds {values.shape[0]} spots x {values.shape[1]} genes. Pass other counts as counts_file=, "
            "such as 'raw_feature_bc_matrix.h5'."
        )
    with reading(path, "whole numbers of molecules"):
        _check_values(values.data)
    if "feature_types" in genes:
        keep = (genes["feature_types"] == "Gene Expression").to_numpy()
        if not keep.any():
            raise ValueError(
                f"{path} has no gene expression: its features are of the types {listing(genes['feature_types'].unique())}. "
                "Pass the counts of the genes as counts_file=."
            )
        if not keep.all():
            logger.info("%s: left out %d features that are not gene expression", path.name, int((~keep).sum()))
            genes, values = genes[keep], values[:, keep]
    for names, kind in ((genes.index, "gene ids"), (barcodes, "barcodes")):
        if not names.is_unique:
            raise ValueError(
                f"{path}: {int(names.duplicated().sum())} {kind} occur more than once (such as "
                f"{listing(names[names.duplicated()], 1)}); expected a feature-barcode matrix, one row per gene."
            )
    return Counts(sps.csr_matrix(values, dtype=np.float32), barcodes, genes)


def _check_values(data: np.ndarray) -> None:
    if not len(data):
        return
    low, high = data.min(), data.max()
    if not np.isfinite([low, high]).all() or low < 0 or high > _EXACT:
        raise ContentError(f"it holds values from {low:g} to {high:g}", "Pass raw counts.")
    if data.dtype.kind == "f" and not (data == np.rint(data)).all():
        raise ContentError(
            "it holds values that are not whole numbers, such as normalised or corrected ones",
            "Pass the raw counts, such as counts_file='raw_feature_bc_matrix.h5'.",
        )


# ---- HDF5 ----


def _read_h5(path: Path) -> Counts:
    import h5py

    with reading(path, _H5), h5py.File(io.BytesIO(_whole(path)) if is_gzip(path) else path) as file:
        groups = _groups(file)
        parts = [_read_group(group, genome) for genome, group in groups.items()]
    first = parts[0]
    if len(parts) == 1:
        return first
    if not all(part.barcodes.equals(first.barcodes) for part in parts):
        raise ValueError(
            f"{path} holds matrices of {listing(groups)} with different barcodes: expected the same spots for every "
            "genome. Run Space Ranger again, with one reference for both species."
        )
    return Counts(
        sps.csr_matrix(sps.hstack([part.values for part in parts], format="csr")),
        first.barcodes,
        pd.concat([part.genes for part in parts]),
    )


def _whole(path: Path) -> bytes:
    with open_bytes(path) as file:
        return file.read()


def _groups(file: Any) -> dict[str, Any]:
    """Groups with a matrix: `matrix` since version 3, one for each genome before."""
    import h5py

    if isinstance(file.get("matrix"), h5py.Group):
        return {"": file["matrix"]}
    old = {name: group for name, group in file.items() if isinstance(group, h5py.Group) and "gene_names" in group}
    if old:
        return old
    found = f"found {listing(file)} instead of the group 'matrix'"
    if {"obs", "var"} <= set(file):
        raise ContentError(f"{found}: it is an AnnData", "Read it with anndata.read_h5ad.")
    if {"barcode_idx", "umi"} & set(file):
        raise ContentError(f"{found}: it is a list of molecules", "Pass filtered_feature_bc_matrix.h5.")
    raise ContentError(found, "Pass filtered_feature_bc_matrix.h5 as counts_file=.")


def _read_group(group: Any, genome: str) -> Counts:
    """One matrix; `genome` is empty where the features name theirs."""
    import h5py

    new = not genome
    kind = "features" if new else "genes"
    missing = {"barcodes", "data", "indices", "indptr", "shape", kind} - set(group)
    if missing:
        raise ContentError(f"the group {group.name.strip('/')!r} lacks {listing(sorted(missing))}")
    if new and not isinstance(group["features"], h5py.Group):
        raise ContentError("'features' is not a group")
    shape = _array(group, "shape", whole=True)
    if shape.shape != (2,) or (shape < 0).any():
        raise ContentError(f"its shape is {shape.tolist()}")
    n_genes, n_spots = (int(n) for n in shape)
    barcodes = _texts(group, "barcodes", n_spots)
    genes = _features(group["features"], n_genes) if new else _old_genes(group, n_genes, genome)
    values = _matrix(group, n_spots, n_genes)
    return Counts(values, pd.Index(barcodes, dtype=object), genes)


def _matrix(group: Any, n_spots: int, n_genes: int) -> sps.csr_matrix:
    """The matrix as spots x genes; what is declared is compared with what there is before anything large is read."""
    indptr = _array(group, "indptr", whole=True, length=n_spots + 1)
    n_values = int(indptr[-1]) if len(indptr) else 0
    if indptr[0] != 0 or (np.diff(indptr) < 0).any() or n_values > n_spots * n_genes:
        raise ContentError("'indptr' does not start at 0 and increase to the number of values")
    indices = _array(group, "indices", whole=True, length=n_values, dense=False)
    data = _array(group, "data", length=n_values)
    if n_values and (indices.min() < 0 or indices.max() >= n_genes):
        raise ContentError(f"its indices go from {indices.min()} to {indices.max()}, for {n_genes} genes")
    values = sps.csr_matrix((data, indices, indptr), shape=(n_spots, n_genes))
    values.sort_indices()
    if not values.has_canonical_format:
        raise ContentError("it has several values for one gene in one spot")
    return values


def _array(group: Any, name: str, *, whole: bool = False, length: int | None = None, dense: bool = True) -> np.ndarray:
    """A one-dimensional array of numbers; `dense`: its values may be the same in long runs, and so take little space."""
    dataset = _dataset(group, name)
    if dataset.dtype.kind not in ("iu" if whole else "iuf"):
        raise ContentError(f"{name!r} holds {dataset.dtype} instead of {'whole ' if whole else ''}numbers")
    if dataset.ndim != 1 or (length is not None and dataset.shape[0] != length):
        expected = "one dimension" if length is None else f"{length} values"
        raise ContentError(f"{name!r} has the shape {dataset.shape} instead of {expected}")
    stored = dataset.id.get_storage_size()
    if dataset.nbytes > _FREE and dataset.nbytes > (_RATIO if not dense else 1100) * stored:
        raise ContentError(f"{name!r} declares {dataset.nbytes} bytes and stores {stored}")
    return dataset[()]


def _dataset(group: Any, name: str) -> Any:
    import h5py

    if not isinstance(group.get(name), h5py.Dataset):
        raise ContentError(f"{name!r} is missing or is not an array")
    return group[name]


def _texts(group: Any, name: str, length: int) -> list[str]:
    dataset = _dataset(group, name)
    if dataset.dtype.kind not in "SO" or dataset.shape != (length,):
        raise ContentError(
            f"{name!r} has the shape {dataset.shape} and the type {dataset.dtype} instead of {length} texts"
        )
    if dataset.nbytes > _FREE and dataset.nbytes > _RATIO * dataset.id.get_storage_size():
        raise ContentError(f"{name!r} declares {dataset.nbytes} bytes and stores {dataset.id.get_storage_size()}")
    return [value.decode() if isinstance(value, bytes) else str(value) for value in dataset[()].tolist()]


def _features(group: Any, n: int) -> pd.DataFrame:
    columns = {"symbol": _texts(group, "name", n)}
    for name, column in (("feature_type", "feature_types"), ("genome", "genome")):
        if name in group:
            columns[column] = _texts(group, name, n)
    return pd.DataFrame(columns, index=pd.Index(_texts(group, "id", n), dtype=object, name=Key.var.gene_ids))


def _old_genes(group: Any, n: int, genome: str) -> pd.DataFrame:
    index = pd.Index(_texts(group, "genes", n), dtype=object, name=Key.var.gene_ids)
    return pd.DataFrame({"symbol": _texts(group, "gene_names", n), "genome": genome}, index=index)


def h5_metadata(path: Path) -> dict[str, str]:
    """What an h5 file says about the assay, under squidpy's names."""
    import h5py

    with reading(path, _H5), h5py.File(io.BytesIO(_whole(path)) if is_gzip(path) else path) as file:
        attrs = {key: file.attrs[key] for key in ("chemistry_description", "software_version") if key in file.attrs}
    return {
        key: value.decode(errors="replace") if isinstance(value, bytes) else str(value) for key, value in attrs.items()
    }


# ---- Matrix Market ----


def _read_mtx(files: MtxFiles) -> Counts:
    with reading(files.features, _MTX):
        genes = _feature_table(read_lines(files.features))
    with reading(files.barcodes, _MTX):
        barcodes = [line.split("\t")[0].strip().strip('"') for line in read_lines(files.barcodes)]
    with reading(files.matrix, _MTX):
        n_values = _check_header(files, len(genes), len(barcodes))
        values = _entries(files.matrix, n_values, len(genes), len(barcodes))
    return Counts(values, pd.Index(barcodes, dtype=object), genes)


def _feature_table(lines: list[str]) -> pd.DataFrame:
    """Genes from one column (symbols or ids), two (ids, symbols) or more (types in the third)."""
    if not lines:
        raise ContentError("it has no lines")
    rows = [[field.strip().strip('"') for field in line.split("\t")] for line in lines]
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise ContentError(f"its lines have {listing(sorted(widths))} columns")
    width = widths.pop()
    columns = list(zip(*rows, strict=True))
    ids, symbols = columns[0], columns[min(1, width - 1)]
    if width > 1 and sum(map(bool, map(_ENSEMBL.match, symbols))) > 0.5 * len(rows):
        raise ContentError("its second column holds the Ensembl ids", "Put the ids first and the symbols second.")
    table = pd.DataFrame({"symbol": symbols}, index=pd.Index(ids, dtype=object, name=Key.var.gene_ids))
    return table.assign(feature_types=columns[2]) if width > 2 else table


def _check_header(files: MtxFiles, n_genes: int, n_spots: int) -> int:
    """The number of entries, after the sizes that the matrix declares were compared with the other files."""
    with open_bytes(files.matrix) as file:
        banner = file.readline(1000).decode(errors="replace").lower().split()
        line = file.readline(10000)
        while line.startswith(b"%") or not line.strip():
            if not line:
                break
            line = file.readline(10000)
    if banner[:3] != _BANNER or banner[3:] not in (["integer", "general"], ["real", "general"]):
        raise ContentError(f"it starts with {' '.join(banner)[:80]!r} instead of '{' '.join(_BANNER)} integer general'")
    sizes = [int(number) for number in line.split()]
    if len(sizes) != 3:
        raise ContentError(f"its sizes are {line[:80].decode(errors='replace').strip()!r}")
    if (sizes[1], sizes[0]) == (n_genes, n_spots) and n_genes != n_spots:
        raise ContentError("it has one row per spot", "Transpose it: rows are genes, columns are spots.")
    if tuple(sizes[:2]) != (n_genes, n_spots):
        raise ContentError(
            f"it has {sizes[0]} rows and {sizes[1]} columns, {files.features.name} has {n_genes} lines and "
            f"{files.barcodes.name} has {n_spots}",
            "Keep the three files of one matrix together, and remove a line with the names of columns.",
        )
    if not 0 <= sizes[2] <= n_genes * n_spots:
        raise ContentError(f"it declares {sizes[2]} values for {n_genes} genes x {n_spots} spots")
    return sizes[2]


def _entries(path: Path, n_values: int, n_genes: int, n_spots: int) -> sps.csr_matrix:
    import scipy.io

    kind: dict[str, Any] = {"spmatrix": False} if "spmatrix" in signature(scipy.io.mmread).parameters else {}
    with open_bytes(path) as file:
        read = scipy.io.mmread(file, **kind)
    values = sps.csr_matrix(sps.coo_matrix(read).T, shape=(n_spots, n_genes))
    if values.nnz != n_values:
        raise ContentError("it has several values for one gene in one spot")
    values.sort_indices()
    return values
