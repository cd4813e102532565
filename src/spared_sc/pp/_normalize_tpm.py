"""Counts to log2(TPM + 1), or to log2 of counts per million."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, genes, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import ONE_LIBRARY
from spared_sc._core.record import check_key, record, records_of
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spared_sc._core.genes import GeneMatch


@accepts_spatialdata
@docs.fill(counts_layer=docs.COUNTS_LAYER)
def normalize_tpm(
    adata: AnnData,
    *,
    gene_lengths: str | Path | pd.Series | Mapping[str, float] | None = "auto",
    layer: str | None = None,
    mask_var: str | None = Key.var.keep,
    target_sum: float = 1e6,
    key_added: str = Key.layers.log2tpm,
    copy: bool = False,
) -> AnnData | None:
    """Normalise raw counts to log2(TPM + 1).

    Each count is divided by the gene's length. In every spot the values of the genes in `mask_var` are then scaled to
    add up to `target_sum`, and log2(x + 1) is taken. Sparse counts stay sparse.

    `gene_lengths=None` leaves out the lengths, which gives log2 of counts per million (CPM). UMI counts from poly-A or
    probe-based kits count molecules whatever their length, so CPM is the better choice for comparing genes there. TPM
    is the default because SpaRED's data sets are defined with it. For one gene across spots the two differ only through
    the spot's total.

    Parameters
    ----------
    {adata}
    gene_lengths
        Lengths in bp. `"auto"` uses `var["gene_length"]` where it exists, and GENCODE for the organism that the gene
        names suggest otherwise. Or `"human"` (GENCODE v43), `"mouse"` (GENCODE vM33), the path of a GTF file or of a
        prepared table, a Series or mapping from gene name or Ensembl id to length, or `None` for CPM. Symbols, also of
        older annotations, Ensembl ids with and without version, and names with a genome prefix all match.
    {counts_layer}
    mask_var
        Boolean column of `var` with the genes whose sum is scaled; all others are scaled by the same factors.
        `"spared_keep"` is used where it exists, all genes otherwise.
    target_sum
        Sum of the scaled genes in every spot, one million by default.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["log2tpm"]`
        log2(TPM + 1), float32, sparse or dense as the counts are; named by `key_added`. A gene without a known length
        is zero and takes no part in the sum.
    `var["gene_length"]`
        Length used, in bp; NaN where unknown. Not written for CPM.
    `uns["spared_sc"]["log2tpm"]`
        Parameters, and how the gene names were matched.

    Raises
    ------
    ValueError
        If there are no raw counts, or no gene has a length.
    FileNotFoundError
        If a table of lengths cannot be found.

    Warns
    -----
    UserWarning
        If genes in `mask_var` have no length, spots have no count in those genes, or the counts look as if they were
        normalised or scaled before.

    Notes
    -----
    Source: SpaRED (Ruiz et al. 2025), section 3.1, with the union of exon lengths as in its library. SpaRED sums the
    denominator over the kept genes, hence `mask_var`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=1)
    >>> sp.pp.normalize_tpm(adata)
    >>> sums = (2 ** adata.layers["log2tpm"].toarray() - 1).sum(axis=1)
    >>> bool((abs(sums / 1e6 - 1) < 1e-3).all())
    True
    """
    from spared_sc._kernels.counts import log2_scaled, row_sums

    validate.check_adata(adata)
    check_key(adata, key_added, source=layer or Key.layers.counts)
    validate.check_number("target_sum", target_sum, 0)
    if not 0 < target_sum < np.inf:
        raise ValueError(f"target_sum={target_sum} must be positive and finite.")
    counts, counts_slot = validate.get_counts(adata, layer=layer)
    if "spared_filter" not in records_of(adata):  # which says so itself
        validate.warn_of_doubtful_counts(counts, counts_slot)
    scaled_genes = validate.gene_mask(adata, mask_var, optional=Key.var.keep)
    match = genes.resolve_lengths(adata, gene_lengths)
    per_length = np.ones(adata.n_vars)
    if match is not None:
        _check_match(adata, match, scaled_genes, key_added)
        per_length = np.divide(1.0, match.lengths, out=np.zeros(adata.n_vars), where=np.isfinite(match.lengths))

    scale = _scale_of_spots(row_sums(counts, per_length * scaled_genes), target_sum)
    values = log2_scaled(counts, scale, per_length)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.normalize_tpm",
        params={
            "counts": counts_slot,
            "gene_lengths": _describe(gene_lengths),
            "mask_var": mask_var if mask_var in adata.var else None,
            "target_sum": target_sum,
        },
        slots={"layers": {key_added: values}, "var": {} if match is None else {Key.var.gene_length: match.lengths}},
        match="CPM, without lengths" if match is None else match.summary(),
        scope=ONE_LIBRARY,
    )
    return adata if copy else None


def _check_match(adata: AnnData, match: GeneMatch, scaled_genes: np.ndarray, key_added: str) -> None:
    """Refuse lengths that fit no gene, and warn of genes without one."""
    logger.info(match.summary())
    known = np.isfinite(match.lengths)
    if not (known & scaled_genes).any():
        raise ValueError(
            f"no gene has a length ({match.summary()}): check the organism in `gene_lengths`, give lengths for "
            f"names such as {validate.listing(adata.var_names[:3])}, or pass gene_lengths=None for CPM."
        )
    lost = adata.var_names[scaled_genes & ~known]
    if len(lost):
        warn(
            f"{len(lost)} of {int(scaled_genes.sum())} genes have no length and get no value in "
            f"layers[{key_added!r}] ({validate.listing(lost, 5)}): pass their lengths in `gene_lengths`, "
            "or gene_lengths=None for CPM."
        )


def _scale_of_spots(total: np.ndarray, target_sum: float) -> np.ndarray:
    """Factor of every spot, zero where there is nothing to scale."""
    empty = total == 0
    if empty.any():
        warn(
            f"{int(empty.sum())} spots have no count in the genes to scale and get no values: "
            "run `sp.pp.spared_filter(adata)` first, which drops such spots."
        )
    return np.divide(target_sum, total, out=np.zeros_like(total), where=~empty)


def _describe(gene_lengths: object) -> str:
    if gene_lengths is None:
        return "None"
    return str(gene_lengths) if isinstance(gene_lengths, str | Path) else type(gene_lengths).__name__
