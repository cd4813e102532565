"""Moran's I of every gene, averaged over the libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record

if TYPE_CHECKING:
    from anndata import AnnData

_BLOCK = 1 << 26  # values held as a dense array at once, so that memory does not grow with the number of genes


def moran(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    median_completed: bool = False,
    mask_var: str | None = Key.var.keep,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    connectivity_key: str | None = None,
    split_key: str | None = Key.obs.split,
    key_added: str = Key.var.moran_i,
    n_jobs: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    r"""Moran's I of every gene, averaged over the libraries.

    .. math:: I = \frac{n}{S_0} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}

    with :math:`z` the values minus their mean and weights :math:`w` whose rows add up to one, in one pass for
    all genes and without permutations.

    Parameters
    ----------
    adata
        Spots x genes.
    layer
        Layer with the values.
    median_completed
        Fill undetected entries with the adaptive median (:func:`spared_sc.tl.median_complete`) before
        measuring. The filled values are not kept. On sparsely detected genes the filling itself makes
        neighbours alike, which raises their rank.
    mask_var
        Boolean column of `var`: the genes to measure; the others get NaN. `"spared_keep"` is used when present.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the positions that stand in where there are no array coordinates.
    connectivity_key
        Name in `obsp` of another graph to use. By default the exact lattice (:func:`lattice_neighbors`),
        whether or not it was written before.
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`. Where it exists, only train libraries are averaged.
    key_added
        Name of the new column.
    n_jobs
        Threads. `None` asks `sp.settings`.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `var["moran_i"]`
        Mean Moran's I over the (train) libraries; a library in which the gene is constant does not count.
        NaN for genes outside of the mask and genes that are constant everywhere.
    `uns["spared_sc"]["moran_i"]`
        Parameters.

    Raises
    ------
    KeyError
        If a named layer, column or graph does not exist.
    ValueError
        If several libraries come without `library_key`.

    Notes
    -----
    Source: Moran (1950); weights and averaging as in squidpy and SpaRED (Ruiz et al. 2025, section 3.1).

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.pp.moran(adata, library_key="library_id")
    >>> bool(adata.var["moran_i"].max() > 0.1)
    True
    """
    from spared_sc._kernels import median, moran

    validate.check_adata(adata)
    values = validate.get_layer(adata, layer)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.keep)
    libraries = validate.get_libraries(adata, library_key)
    train = validate.train_libraries(adata, split_key, libraries)
    threads = validate.n_threads(n_jobs)
    lattice = None
    if connectivity_key is None or median_completed:
        lattice = validate.get_lattice(adata, libraries, spatial_key)
    if connectivity_key is None:
        weights = moran.lattice_weights(lattice)
    elif connectivity_key in adata.obsp:
        weights = sps.csr_matrix(adata.obsp[connectivity_key], dtype=np.float64)
        if not (np.isfinite(weights.data).all() and (weights.data >= 0).all()):
            raise ValueError(
                f"the graph obsp[{connectivity_key!r}] holds NaN, infinite or negative weights: repair it, or leave "
                "`connectivity_key` out to use the lattice."
            )
    else:
        raise KeyError(
            f"there is no graph {connectivity_key!r} in adata.obsp (graphs: {validate.listing(adata.obsp)}): "
            "leave `connectivity_key` out to use the lattice."
        )
    detected = validate.get_detected(adata) if median_completed else None

    rows = [rows for rows, use in zip(libraries.rows(), train, strict=True) if use]
    library_weights = [weights[r][:, r] for r in rows]
    genes = np.flatnonzero(mask)
    scores = np.full((len(rows), adata.n_vars), np.nan)
    step = max(1, _BLOCK // adata.n_obs)
    for start in range(0, genes.size, step):
        part = genes[start : start + step]
        block = values[:, part]
        if median_completed:
            block = median.adaptive_median(
                validate.dense(block), validate.dense(detected[:, part]), lattice, libraries.codes, n_threads=threads
            )
        for i, (r, w) in enumerate(zip(rows, library_weights, strict=True)):
            scores[i, part] = moran.morans_i(w, block[r], n_threads=threads)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.moran",
        params={
            "layer": layer,
            "median_completed": median_completed,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": library_key,
            "graph": connectivity_key or lattice.kind,
            "split_key": split_key,
        },
        slots={"var": {key_added: _mean_over_libraries(scores)}},
    )
    return adata if copy else None


def _mean_over_libraries(scores: np.ndarray) -> np.ndarray:
    n = np.isfinite(scores).sum(axis=0)
    return np.divide(np.nansum(scores, axis=0), n, out=np.full(n.size, np.nan), where=n > 0)
