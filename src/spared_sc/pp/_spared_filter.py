"""The SpaRED filter: which spots and genes have enough data to be modelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import actualise, check_key, record
from spared_sc._core.report import logger, warn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData


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
    split_key: str | None = Key.obs.split,
    subset_spots: bool = True,
    subset_genes: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Find the spots and the genes worth modelling (SpaRED's filter).

    Spots and genes with too few or too many counts are left out. Of the rest, genes are ranked by the
    smallest share of spots, over the libraries, in which they are detected, and kept as long as the kept
    genes together are detected in at least `real_data_share` of all entries. Spots in which no kept gene is
    detected are left out as well.

    Parameters
    ----------
    adata
        Spots x genes with raw counts in `X` or `layers["counts"]`.
    library_key
        Column of `obs` that names the library (section) of each spot; needed with several libraries.
    layer
        Layer with the raw counts; by default `layers["counts"]` where it exists, `X` otherwise.
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
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`. Where it exists, genes are judged on the train
        libraries only. `None` judges on all libraries.
    subset_spots
        Drop the spots that fail, as scanpy's filters do. Otherwise they are only marked.
    subset_genes
        Drop the genes that fail. By default they are only marked.
    copy
        Return a changed copy instead of changing `adata`.

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
    from spared_sc._kernels.counts import column_statistics, row_sums

    validate.check_adata(adata)
    check_key(adata, Key.layers.detected)
    for name, bounds in (("spot_counts", spot_counts), ("gene_counts", gene_counts)):
        if len(bounds) != 2 or not bounds[0] < bounds[1]:
            raise ValueError(f"{name}={bounds!r} leaves nothing: give a lower and a higher bound.")
    if not 0 <= real_data_share <= 1:
        raise ValueError(f"real_data_share={real_data_share} must lie between 0 and 1.")
    libraries = validate.get_libraries(adata, library_key)
    train = validate.train_libraries(adata, split_key, libraries)
    counts, counts_slot = validate.get_counts(adata, layer=layer)
    sparse = sps.csr_matrix(counts)
    stored = sparse.indptr, sparse.indices, sparse.data
    own_genes = None if genes is None else _own_genes(adata, genes)

    total = row_sums(sparse)
    keep_spot = (total > spot_counts[0]) & (total < spot_counts[1])
    if not keep_spot.any():
        raise ValueError(
            f"no spot has between {spot_counts[0]:g} and {spot_counts[1]:g} counts "
            f"(found {total.min():g} to {total.max():g}): change `spot_counts`, or check that {counts_slot} holds counts."
        )

    judged = keep_spot & train[libraries.codes]
    if not judged.any():
        raise ValueError("no spot of a train library passes `spot_counts`: change it, or pass split_key=None.")
    library = np.where(judged, libraries.codes, -1)
    gene_total, n_detected = column_statistics(*stored, library, len(libraries.names), adata.n_vars)
    n_spots = np.bincount(library[judged], minlength=len(libraries.names))
    present = n_spots > 0
    expressed = n_detected.sum(axis=0) / n_spots.sum()
    min_expressed = (n_detected[present] / n_spots[present, None]).min(axis=0)

    if own_genes is not None:
        keep_gene = own_genes
    else:
        candidate = (
            (gene_total > gene_counts[0])
            & (gene_total < gene_counts[1])
            & (expressed >= min_expressed_fraction)
            & (min_expressed >= min_library_expressed_fraction)
        )
        # ties go to the name, so that the order of the genes does not matter
        ranked = np.lexsort((adata.var_names.to_numpy(dtype=str), -expressed, -min_expressed))
        ranked = ranked[candidate[ranked]]
        keep_gene = np.zeros(adata.n_vars, dtype=bool)
        keep_gene[_real_data_rule(ranked, n_detected.sum(axis=0), n_spots.sum(), real_data_share)] = True
    if not keep_gene.any():
        raise ValueError(
            "no gene passes the filter: lower `real_data_share` "
            f"(the best detected gene is found in {expressed.max():.0%} of the spots), widen `gene_counts`, "
            "or name your own `genes`."
        )
    keep_spot &= row_sums(sparse, keep_gene.astype(float)) > 0
    if not keep_spot.any():
        raise ValueError("none of the kept genes is detected in a spot that passes `spot_counts`: name other `genes`.")
    lost = [name for name, rows in zip(libraries.names, libraries.rows(), strict=True) if not keep_spot[rows].any()]
    if lost:
        warn(
            f"no spot is left of {validate.listing(lost)}: check these libraries' counts, or change `spot_counts`.",
        )

    summary = {
        "n_spots_before": adata.n_obs,
        "n_spots": int(keep_spot.sum()),
        "n_genes_before": adata.n_vars,
        "n_genes": int(keep_gene.sum()),
        "missing_share_before": float(1 - expressed[expressed > 0].mean()) if expressed.any() else 1.0,
    }
    adata = adata.copy() if copy else adata
    actualise(adata)
    # First drop what is not kept, so that the detections of a large collection need no memory for it.
    spots = np.flatnonzero(keep_spot) if subset_spots else np.arange(adata.n_obs)
    genes_left = np.flatnonzero(keep_gene) if subset_genes else np.arange(adata.n_vars)
    if spots.size < adata.n_obs:
        adata._inplace_subset_obs(spots)
    if genes_left.size < adata.n_vars:
        adata._inplace_subset_var(genes_left)
    counts, _ = validate.get_counts(adata, layer=layer)
    record(
        adata,
        key="spared_filter",
        function="pp.spared_filter",
        params={
            "library_key": library_key,
            "counts": counts_slot,
            "spot_counts": spot_counts,
            "gene_counts": gene_counts,
            "min_expressed_fraction": min_expressed_fraction,
            "min_library_expressed_fraction": min_library_expressed_fraction,
            "real_data_share": real_data_share,
            "genes": None if genes is None else [str(gene) for gene in genes],
            "subset_spots": subset_spots,
            "subset_genes": subset_genes,
            "split_key": split_key,
        },
        slots={
            "obs": {Key.obs.keep: keep_spot[spots]},
            "var": {
                Key.var.keep: keep_gene[genes_left],
                Key.var.expressed_fraction: expressed[genes_left],
                Key.var.min_expressed_fraction: min_expressed[genes_left],
            },
            "layers": {Key.layers.detected: validate.detected_from_counts(counts)},
        },
        summary=summary,
    )
    logger.info(
        "spared_filter keeps %d of %d spots and %d of %d genes",
        keep_spot.sum(),
        keep_spot.size,
        keep_gene.sum(),
        keep_gene.size,
    )
    return adata if copy else None


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


def _real_data_rule(ranked: np.ndarray, n_detected: np.ndarray, n_spots: float, real_data_share: float) -> np.ndarray:
    """The genes up to the last place where the share of detected entries among them reaches `real_data_share`."""
    # Sums of counts, not of shares: these are exact, so that a share just reached is seen as reached.
    running = np.cumsum(n_detected[ranked]) / (n_spots * np.arange(1, ranked.size + 1))
    enough = np.flatnonzero(running >= real_data_share)
    return ranked[: enough[-1] + 1] if enough.size else ranked[:0]
