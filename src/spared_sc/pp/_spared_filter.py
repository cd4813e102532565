"""The SpaRED filter: which spots and genes have enough data to be modelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import docs, validate
from spared_sc._core.genes import mitochondrial as is_mitochondrial
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, one_step, record
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.detection import Detection


@accepts_spatialdata
@docs.fill(counts_layer=docs.COUNTS_LAYER)
def spared_filter(
    adata: AnnData,
    *,
    library_key: str | None = None,
    layer: str | None = None,
    spot_counts: tuple[float, float] = (10, 1e6),
    gene_counts: tuple[float, float] = (10, 1e6),
    min_expressed_fraction: float = 0.0,
    min_library_expressed_fraction: float = 0.0,
    real_data_share: float = 0.7,
    genes: Sequence[str] | None = None,
    mitochondrial: bool = True,
    split_key: str | None = Key.obs.split,
    subset_spots: bool = True,
    subset_genes: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Find the spots and the genes worth modelling (SpaRED's filter).

    Spots and genes with too few or too many counts are left out. The remaining genes are ranked by the share of spots
    in which they are detected, in the library where it is smallest, and kept as long as the kept genes together are
    detected in at least `real_data_share` of all entries. Where there is a split, the train libraries alone judge the
    genes. Spots in which no kept gene is detected are left out too.

    Parameters
    ----------
    {adata}
    {counts_layer}
    spot_counts
        A spot is kept when its total count lies strictly between these two.
    gene_counts
        A gene is kept when its total count lies strictly between these two.
    min_expressed_fraction
        Least share of all spots in which a gene must be detected.
    min_library_expressed_fraction
        Least share of spots in which a gene must be detected in every library.
    real_data_share
        Least share of detected entries over all kept genes (the "real-data rule").
    genes
        Keep these genes instead of applying any gene criterion.
    mitochondrial
        Whether mitochondrial genes that pass may be kept. SpaRED's data sets have none, and
        :func:`spared_sc.pp.recipe_spared` with TPM leaves them out as well. Has no effect with `genes`.
    subset_spots
        Drop the spots that fail, as scanpy's filters do. Otherwise they are only marked.
    subset_genes
        Drop the genes that fail. By default they are only marked.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obs["spared_keep"]`
        Whether the spot is kept.
    `var["spared_keep"]`
        Whether the gene is kept.
    `var["expressed_fraction"]`
        Share of (train) spots in which the gene is detected.
    `var["min_expressed_fraction"]`
        The smallest such share over the (train) libraries.
    `layers["detected"]`
        Sparse booleans: count above zero.
    `uns["spared_sc"]["spared_filter"]`
        Parameters, and how many spots and genes are left.

    Raises
    ------
    ValueError
        If the counts are no raw counts, several libraries come without `library_key`, or nothing is left.
    KeyError
        If a named column, layer or gene does not exist.

    Notes
    -----
    Source: Ruiz et al. (2025), "Completing Spatial Transcriptomics Data for Gene Expression Prediction
    Benchmarking", section 3.1, with the rule at 0.7 of its library. Ties in the ranking are broken by the
    global expressed fraction, then by the name, so that the order of genes and libraries does not matter.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.spared_filter(adata, library_key="library_id")
    >>> bool(adata.var["expressed_fraction"][adata.var["spared_keep"]].mean() >= 0.7)
    True
    """
    from spared_sc._kernels.counts import row_sums
    from spared_sc._kernels.detection import count_detections, well_detected

    validate.check_adata(adata)
    check_key(adata, Key.layers.detected)
    _check_bounds(spot_counts, gene_counts, real_data_share)
    libraries = validate.get_libraries(adata, library_key)
    train = validate.train_libraries(adata, split_key, libraries)
    counts, slot = validate.get_counts(adata, layer=layer)
    validate.warn_of_doubtful_counts(counts, slot)
    own_genes = None if genes is None else _own_genes(adata, genes)

    matrix = sps.csr_matrix(counts)
    keep_spot = _spots_between(row_sums(matrix), spot_counts, slot)
    judged = keep_spot & train[libraries.codes]
    if not judged.any():
        raise ValueError("no spot of a train library passes `spot_counts`: change it, or pass split_key=None.")
    detection = count_detections(matrix, np.where(judged, libraries.codes, -1), len(libraries.names))
    keep_gene = own_genes
    if keep_gene is None:
        keep_gene = well_detected(
            detection,
            adata.var_names.to_numpy(dtype=str),
            counts=gene_counts,
            min_fraction=min_expressed_fraction,
            min_library_fraction=min_library_expressed_fraction,
            real_data_share=real_data_share,
        )
        if not mitochondrial:
            keep_gene = _without_mitochondrial(adata, keep_gene)
    keep_spot &= row_sums(matrix, keep_gene.astype(float)) > 0
    _check_verdicts(libraries, keep_spot, keep_gene, detection)

    summary = _summary(keep_spot, keep_gene, detection.fraction)
    adata = adata.copy() if copy else adata
    with one_step(adata) as work:
        # First drop what is not kept, so that the detections of a large collection need no memory for it.
        spots, columns = _subset(work, keep_spot, keep_gene, subset_spots=subset_spots, subset_genes=subset_genes)
        record(
            work,
            key="spared_filter",
            function="pp.spared_filter",
            params={
                "library_key": libraries.key,
                "counts": slot,
                "spot_counts": spot_counts,
                "gene_counts": gene_counts,
                "min_expressed_fraction": min_expressed_fraction,
                "min_library_expressed_fraction": min_library_expressed_fraction,
                "real_data_share": real_data_share,
                "genes": None if genes is None else [str(gene) for gene in genes],
                "mitochondrial": mitochondrial,
                "subset_spots": subset_spots,
                "subset_genes": subset_genes,
                "split_key": split_key,
            },
            slots={
                "obs": {Key.obs.keep: keep_spot[spots]},
                "var": {
                    Key.var.keep: keep_gene[columns],
                    Key.var.expressed_fraction: detection.fraction[columns],
                    Key.var.min_expressed_fraction: detection.min_fraction[columns],
                },
                "layers": {
                    Key.layers.detected: validate.detected_from_counts(validate.get_counts(work, layer=layer)[0])
                },
            },
            summary=summary,
        )
    kept = (summary["n_spots"], summary["n_spots_before"], summary["n_genes"], summary["n_genes_before"])
    logger.info("spared_filter keeps %d of %d spots and %d of %d genes", *kept)
    return adata if copy else None


def _check_bounds(spot_counts: tuple[float, float], gene_counts: tuple[float, float], real_data_share: float) -> None:
    for name, bounds in (("spot_counts", spot_counts), ("gene_counts", gene_counts)):
        if isinstance(bounds, str) or not isinstance(bounds, Sequence | np.ndarray) or len(bounds) != 2:
            raise ValueError(f"{name}={bounds!r} cannot be used: give a lower and a higher bound.")
        for bound in bounds:
            validate.check_number(name, bound, -np.inf)
        if not bounds[0] < bounds[1]:
            raise ValueError(f"{name}={bounds!r} leaves nothing: give a lower and a higher bound.")
    validate.check_number("real_data_share", real_data_share, 0, 1)


def _own_genes(adata: AnnData, genes: Sequence[str]) -> np.ndarray:
    if isinstance(genes, str):
        raise TypeError(f"genes={genes!r} is one name: pass a list of names.")
    unknown = [gene for gene in genes if gene not in adata.var_names]
    if unknown:
        raise KeyError(
            f"{len(unknown)} of the {len(genes)} `genes` are not in adata.var_names: {validate.listing(unknown)}. "
            f"Drop them, or write them as the data do (such as {validate.listing(adata.var_names, 3)})."
        )
    return adata.var_names.isin(list(genes))


def _without_mitochondrial(adata: AnnData, keep_gene: np.ndarray) -> np.ndarray:
    """The kept genes that are not mitochondrial; the log names the others."""
    left_out = keep_gene & is_mitochondrial(adata.var_names, adata.var.get(Key.var.gene_ids))
    if left_out.any():
        names = validate.listing(adata.var_names[left_out], 3)
        logger.info("%d mitochondrial genes (%s) are not kept; mitochondrial=True keeps them", left_out.sum(), names)
    return keep_gene & ~left_out


def _spots_between(total: np.ndarray, bounds: tuple[float, float], slot: str) -> np.ndarray:
    """Mask of the spots whose total count lies strictly between the bounds."""
    keep = (total > bounds[0]) & (total < bounds[1])
    if not keep.any():
        raise ValueError(
            f"no spot has between {bounds[0]:g} and {bounds[1]:g} counts (found {total.min():g} to {total.max():g}): "
            f"change `spot_counts`, or check that {slot} holds counts."
        )
    return keep


def _check_verdicts(
    libraries: validate.Libraries, keep_spot: np.ndarray, keep_gene: np.ndarray, detection: Detection
) -> None:
    """Refuse a filter that keeps nothing, and warn of libraries that lose all spots."""
    if not keep_gene.any():
        raise ValueError(
            "no gene passes the filter: lower `real_data_share` "
            f"(the best detected gene is found in {detection.fraction.max():.0%} of the spots), widen `gene_counts`, "
            "or name your own `genes`."
        )
    if not keep_spot.any():
        raise ValueError("none of the kept genes is detected in a spot that passes `spot_counts`: name other `genes`.")
    n_kept = np.bincount(libraries.codes[keep_spot], minlength=len(libraries.names))
    empty = [name for name, n in zip(libraries.names, n_kept, strict=True) if n == 0]
    if empty:
        warn(f"no spot is left of {validate.listing(empty)}: check these libraries' counts, or change `spot_counts`.")


def _summary(keep_spot: np.ndarray, keep_gene: np.ndarray, fraction: np.ndarray) -> dict[str, float]:
    return {
        "n_spots_before": keep_spot.size,
        "n_spots": int(keep_spot.sum()),
        "n_genes_before": keep_gene.size,
        "n_genes": int(keep_gene.sum()),
        "missing_share_before": float(1 - fraction[fraction > 0].mean()) if fraction.any() else 1.0,
    }


def _subset(
    adata: AnnData, keep_spot: np.ndarray, keep_gene: np.ndarray, *, subset_spots: bool, subset_genes: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Drop what was asked to be dropped; rows and columns of what is left."""
    spots = np.flatnonzero(keep_spot | (not subset_spots))
    genes = np.flatnonzero(keep_gene | (not subset_genes))
    if spots.size < adata.n_obs:
        adata._inplace_subset_obs(spots)
    if genes.size < adata.n_vars:
        adata._inplace_subset_var(genes)
    return spots, genes
