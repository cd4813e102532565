"""Genes to model, by their Moran's I."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import one_step, record
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

# SpaRED models 128 genes, and 32 where this many or fewer are left after the filter.
_FEW_GENES = 320


@accepts_spatialdata
@docs.fill()
def select_genes(
    adata: AnnData,
    *,
    n_genes: int | None = None,
    score: str = Key.var.moran_i,
    mask_var: str | None = Key.var.keep,
    key_added: str = Key.var.selected,
    subset_genes: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Select the genes with the highest Moran's I for modelling.

    Parameters
    ----------
    {adata}
    n_genes
        Number of genes. `None` follows SpaRED: 128, or 32 when there are 320 or fewer to choose from.
    score
        Column of `var` to rank by, highest first. Genes without a score are never selected.
    mask_var
        Boolean column of `var` with the genes to choose from. `"spared_keep"` is used where it exists, all genes
        otherwise.
    subset_genes
        Drop all other genes.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `var["spared_selected"]`
        Whether the gene is selected. Every function that models genes reads it, as scanpy's read `highly_variable`.
    `uns["spared_sc"]["spared_selected"]`
        Parameters and the number of genes.

    Raises
    ------
    KeyError
        If there are no scores.
    ValueError
        If `n_genes` is not positive, or no gene has a score.

    Warns
    -----
    UserWarning
        If fewer genes have a score than `n_genes`; all of them are selected then.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.pp.moran(adata, library_key="library_id")
    >>> sp.pp.select_genes(adata, n_genes=16)
    >>> int(adata.var["spared_selected"].sum())
    16
    """
    validate.check_adata(adata)
    scores = validate.get_numbers(adata, score, remedy="run `sp.pp.moran(adata)` first")
    if n_genes is not None:
        validate.check_number("n_genes", n_genes, 1, whole=True)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.keep)
    candidates = np.flatnonzero(mask & np.isfinite(scores))
    if not candidates.size:
        raise ValueError(f"no gene has a finite {score!r}: run `sp.pp.moran(adata)` on the genes to choose from.")
    wanted = int(n_genes) if n_genes is not None else (128 if candidates.size > _FEW_GENES else 32)
    if candidates.size < wanted:
        warn(
            f"{candidates.size} genes have a score, {wanted} were asked for: all of them are selected. "
            "Lower `real_data_share` in `sp.pp.spared_filter` to keep more genes."
        )
    # ties go to the name, so that the order of the genes does not matter
    names = adata.var_names.to_numpy(dtype=str)[candidates]
    best = candidates[np.lexsort((names, -scores[candidates]))[:wanted]]
    selected = np.zeros(adata.n_vars, dtype=bool)
    selected[best] = True

    adata = adata.copy() if copy else adata
    with one_step(adata) as work:
        record(
            work,
            key=key_added,
            function="pp.select_genes",
            params={"n_genes": n_genes, "score": score, "mask_var": mask_var if mask_var in adata.var else None},
            slots={"var": {key_added: selected}},
            n_selected=int(selected.sum()),
        )
        if subset_genes:
            work._inplace_subset_var(selected)
    logger.info("%d of %d genes selected by %s", selected.sum(), candidates.size, score)
    return adata if copy else None
