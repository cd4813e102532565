"""SpaRED's recipe in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, one_step
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc.pp._moran import moran
from spared_sc.pp._normalize_tpm import normalize_tpm
from spared_sc.pp._select_genes import select_genes
from spared_sc.pp._spared_filter import spared_filter

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def recipe_spared(
    adata: AnnData,
    *,
    library_key: str | None = None,
    gene_lengths: str | Path | pd.Series | Mapping[str, float] | None = "auto",
    n_genes: int | None = None,
    moran_layer: Literal["median", "log2tpm"] = "median",
    split_key: str | None = Key.obs.split,
    spatial_key: str = Key.obsm.spatial,
    subset_genes: bool = False,
    n_jobs: int | None = None,
    copy: bool = False,
    **filter_options: Any,
) -> AnnData | None:
    """From raw counts to comparable data: SpaRED's recipe with the paper's defaults.

    Runs :func:`spared_filter`, :func:`normalize_tpm`, :func:`moran` and :func:`select_genes`. Where there is a split, genes
    are judged and ranked by the train libraries only.

    Parameters
    ----------
    {adata}
    gene_lengths
        See :func:`normalize_tpm`. With lengths, mitochondrial genes are not kept, as in SpaRED, whose lengths have none;
        `mitochondrial=True` keeps them. With `None`, they are kept where they pass the filter.
    n_genes
        Number of genes to select. `None` follows SpaRED: 128, or 32 when 320 or fewer are left after the filter.
    moran_layer
        Values on which Moran's I is measured: `"median"`, completed by the adaptive median as in the paper's code, or
        `"log2tpm"`, not completed. Completion makes neighbours alike where a gene is sparse, so `"median"` favours
        sparser genes; the documentation compares the two.
    subset_genes
        Keep only the selected genes. By default no gene is removed.
    {others}
    filter_options
        Further options of :func:`spared_filter`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obs["spared_keep"]`, `var["spared_keep"]`, `var["expressed_fraction"]`, `var["min_expressed_fraction"]`, `layers["detected"]`
        By :func:`spared_filter`; spots that fail are dropped.
    `layers["log2tpm"]`, `var["gene_length"]`
        By :func:`normalize_tpm`.
    `var["moran_i"]`
        By :func:`moran`.
    `var["spared_selected"]`
        By :func:`select_genes`.
    `uns["spared_sc"]["spared_filter"]`, `uns["spared_sc"]["log2tpm"]`, `uns["spared_sc"]["moran_i"]`, `uns["spared_sc"]["spared_selected"]`
        Parameters of each step.

    Raises
    ------
    ValueError, KeyError, FileNotFoundError
        As the four steps do. `adata` is unchanged then.

    Notes
    -----
    Source: Ruiz et al. (2025), section 3.1. Spots and genes as in the paper's Table 1; see the documentation
    for the figures.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic()
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> int(adata.var["spared_selected"].sum())
    32
    """
    if moran_layer not in (Key.layers.median, Key.layers.log2tpm):
        raise ValueError(f"moran_layer={moran_layer!r} is unknown: choose 'median' or 'log2tpm'.")
    validate.check_adata(adata)
    for layer in (Key.layers.detected, Key.layers.log2tpm):
        check_key(adata, layer)
    filter_options.setdefault("mitochondrial", gene_lengths is None)
    adata = adata.copy() if copy else adata
    with one_step(adata) as work:
        spared_filter(work, library_key=library_key, split_key=split_key, subset_genes=subset_genes, **filter_options)
        normalize_tpm(work, gene_lengths=gene_lengths, layer=filter_options.get("layer"))
        moran(
            work,
            median_completed=moran_layer == Key.layers.median,
            library_key=library_key,
            spatial_key=spatial_key,
            split_key=split_key,
            n_jobs=n_jobs,
        )
        select_genes(work, n_genes=n_genes, subset_genes=subset_genes)
    return adata if copy else None
