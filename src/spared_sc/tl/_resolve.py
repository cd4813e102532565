"""From an AnnData to the arrays that completers work on, and from their estimate back to layers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record, records_of, write_columns
from spared_sc._core.report import warn
from spared_sc._kernels.sections import Counts, Sections, rescaled

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.validate import Libraries
    from spared_sc._kernels.sections import Estimate

NOT_COMPLETED = "not completed"  # in place of a verdict


@dataclass(frozen=True)
class Resolved:
    """Sections, and where their rows and columns are in the AnnData."""

    sections: Sections
    split: np.ndarray | None  # (n_spots,) "train", "val" or "test" of every row of the sections
    library_split: np.ndarray | None  # the same of every library
    order: np.ndarray  # (n_spots,) row of the AnnData for every row of the sections
    genes: np.ndarray  # (n_genes,) column of the AnnData for every gene of the sections
    libraries: Libraries  # of the rows of the AnnData
    lattice_kinds: str | dict[str, Any]  # for the record
    values: np.ndarray | sps.csr_matrix  # the whole layer
    counts: np.ndarray | sps.csr_matrix | None  # all raw counts, where there are any

    def to_rows(self, block: np.ndarray) -> np.ndarray:
        """A block (n_spots, n_genes) in the order of the AnnData."""
        result = np.empty_like(block)
        result[self.order] = block
        return result


def resolve(
    adata: AnnData,
    *,
    layer: str,
    mask_var: str | None,
    library_key: str | None,
    spatial_key: str,
    use_rep: str | None = None,
    split_key: str | None = None,
    genes: np.ndarray | None = None,
    use_counts: bool = True,
) -> Resolved:
    """Find layer, genes, libraries, split, lattice, detected entries and raw counts.

    `genes` are columns to use instead of those of the mask, -1 for one that the data lack. Of the mask, genes are used
    that some spot detected, among those of the train libraries where there is a split; they are sorted by name, so that
    no result depends on their order.
    """
    from spared_sc._kernels.counts import row_sums
    from spared_sc._kernels.floor import is_log2_of_counts

    validate.check_adata(adata)
    values = validate.get_layer(adata, layer)
    libraries = validate.get_libraries(adata, library_key)
    library_split = validate.get_split(adata, split_key, libraries)
    split = None if library_split is None else library_split[libraries.codes]
    lattice = validate.get_lattice(adata, libraries, spatial_key)
    order = validate.canonical_order(adata, libraries, spatial_key)
    detected = validate.get_detected(adata)
    if genes is None:
        mask = validate.gene_mask(adata, mask_var, optional=Key.var.selected)
        genes = _seen(adata, np.flatnonzero(mask), detected if split is None else detected[split == "train"])
        genes = genes[np.argsort(adata.var_names[genes], kind="stable")]
    known = block_of(detected, genes)[order]
    counts = validate.find_counts(adata, without="expected counts are not estimated") if use_counts else None
    block = np.where(known, block_of(values, genes)[order], np.float32(0))
    sections = Sections(
        values=block,
        known=known,
        lattice=lattice.subset(order),
        library=libraries.codes[order],
        counts=None
        if counts is None
        else Counts(np.where(known, block_of(counts, genes)[order], np.float32(0)), row_sums(counts)[order]),
        embedding=None if use_rep is None else validate.get_embedding(adata, use_rep)[order],
    )
    with np.errstate(all="ignore"):  # of layers that are something else
        if counts is not None and is_log2_of_counts(sections):
            normalised_by = _normalised_by(adata, layer, genes[genes >= 0])
            sections = replace(sections, total=_scaled_totals(values[:, normalised_by])[order])
    split = None if split is None else split[order]
    kinds = validate.recorded_kinds(lattice, libraries)
    return Resolved(sections, split, library_split, order, genes, libraries, kinds, values, counts)


def _normalised_by(adata: AnnData, layer: str, genes: np.ndarray) -> np.ndarray:
    """Mask of the genes whose counts make the total of a spot, as the layer's record says; all of them without one."""
    params = records_of(adata).get(layer, {}).get("params", {})
    mask_var = params.get("mask_var")
    if mask_var not in adata.var:
        return np.ones(adata.n_vars, dtype=bool)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.keep)
    return mask if mask[genes].all() else np.ones(adata.n_vars, dtype=bool)


def _scaled_totals(values: np.ndarray | sps.csr_matrix) -> np.ndarray:
    """Sum over all genes of 2^value - 1, (n_spots,) float64."""
    from spared_sc._kernels.counts import row_sums

    if isinstance(values, np.ndarray):
        return row_sums(np.exp2(values) - 1)
    values = values.copy()
    values.data = np.exp2(values.data) - 1
    return row_sums(values)


def warn_of_no_floor(layer: str) -> None:
    """Say why the noise of a layer's values cannot be computed: its sections have no totals."""
    warn(f"there is no noise floor: it needs raw counts, and a layer that is log2(1 + scaled count), unlike {layer!r}.")


def rescaled_rows(values: np.ndarray | sps.csr_matrix, factor: np.ndarray) -> np.ndarray | sps.csr_matrix:
    """A layer of log2(1 + scaled expression) with the scaled expression of every spot multiplied by its factor."""
    if isinstance(values, np.ndarray):
        return rescaled(values, factor[:, None])
    values = values.copy()
    values.data = rescaled(values.data, np.repeat(factor, np.diff(values.indptr)))
    return values


def block_of(matrix: np.ndarray | sps.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Columns of a matrix as a dense array, float32 or boolean; zero for a gene at -1."""
    block = validate.dense(matrix[:, np.maximum(genes, 0)])
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is reported where it matters
        block = block if block.dtype == bool else block.astype(np.float32)
    block[:, genes < 0] = 0
    return block


def write_layers(
    adata: AnnData,
    resolved: Resolved,
    estimate: Estimate,
    *,
    blocks: frozenset[str],
    columns: Mapping[str, np.ndarray],
    key_added: str,
    params: Mapping[str, Any],
    details: Mapping[str, Any],
) -> None:
    """Write the layers of an estimate that are among the blocks, and columns of the genes.

    What an earlier estimate wrote under the same name does not stay behind.
    """
    present = resolved.genes >= 0
    genes = resolved.genes[present]

    def of_data(block: np.ndarray) -> np.ndarray:
        return resolved.to_rows(block)[:, present]

    known = of_data(resolved.sections.known)
    shape = resolved.values.shape
    zero = np.zeros(shape, dtype=np.float32)
    zero = sps.csr_matrix(zero.shape, dtype=np.float32) if sps.issparse(resolved.values) else zero
    layers = {}
    if "completed" in blocks:
        filled = np.where(known, validate.dense(resolved.values[:, genes]), of_data(estimate.need_values()))
        dtype = np.result_type(resolved.values.dtype, np.float32)
        layers[key_added] = write_columns(resolved.values, genes, filled.astype(dtype, copy=False))
    if blocks & {"denoised", "denoised_sd"} and estimate.rate is not None and resolved.sections.total is None:
        warn("there are no denoised values: they need a layer that is log2(1 + scaled count).")
    elif blocks & {"denoised", "denoised_sd"} and estimate.rate is not None:
        scaled = estimate.rate * _count_scale(resolved)
        if "denoised" in blocks:
            layers[Key.denoised(key_added)] = write_columns(resolved.values, genes, of_data(np.log2(1 + scaled)))
        if "denoised_sd" in blocks and estimate.log_rate_sd is not None:  # to first order
            sd = estimate.log_rate_sd * scaled / ((1 + scaled) * np.float32(np.log(2)))
            layers[Key.denoised_sd(key_added)] = write_columns(zero, genes, of_data(sd))
    if "rate" in blocks and estimate.rate is not None and resolved.counts is not None:
        layers[Key.rate(key_added)] = write_columns(resolved.counts, genes, of_data(estimate.rate))
    if "sd" in blocks and estimate.sd is not None:
        sd = np.where(known, np.float32(0), of_data(estimate.sd))
        layers[Key.sd(key_added)] = write_columns(zero, genes, sd)
    of_genes = {
        f"{key_added}_{name}": spread_over_genes(values[present], genes, shape[1], other=NOT_COMPLETED)
        for name, values in columns.items()
    }
    record(
        adata,
        key=key_added,
        function="tl.complete",
        params={**params, "lattice": resolved.lattice_kinds},
        slots={"layers": layers, "var": of_genes},
        outdated={
            "layers": Key.completed(key_added),
            "var": (Key.skill(key_added), Key.skill_se(key_added), Key.verdict(key_added)),
        },
        genes=adata.var_names[genes].to_numpy(dtype=object),
        split=validate.recorded_split(resolved.libraries, resolved.library_split),
        **details,
    )


def spread_over_genes(values: np.ndarray, genes: np.ndarray, n_vars: int, *, other: str) -> np.ndarray:
    """A column of `var` with values for some genes; the others have NaN, or `other` among words."""
    column = np.full(n_vars, np.nan) if values.dtype.kind == "f" else np.full(n_vars, other, dtype=object)
    column[genes] = values
    return column


def _count_scale(resolved: Resolved) -> np.ndarray:
    """What one count adds to the scaled expression, learned for a split from itself and the train libraries alone."""
    sections, split = resolved.sections, resolved.split
    if split is None:
        return sections.count_scale()
    result = np.ones_like(sections.values)
    for name in np.unique(split):
        spots = np.flatnonzero((split == name) | (split == "train"))
        result[split == name] = sections.of_spots(spots).count_scale()[split[spots] == name]
    return result


def _seen(adata: AnnData, genes: np.ndarray, detected: sps.csr_matrix) -> np.ndarray:
    """Genes that some spot detected."""
    seen = np.asarray(detected[:, genes].sum(axis=0)).ravel() > 0
    if not seen.any():
        raise ValueError("no gene to complete is detected in a spot to learn from: check `mask_var` and the counts.")
    if not seen.all():
        warn(
            f"{int((~seen).sum())} genes are detected in no spot to learn from and stay as they are "
            f"({validate.listing(adata.var_names[genes[~seen]], 5)}): "
            "select genes with `sp.pp.recipe_spared(adata)` first."
        )
    return genes[seen]
