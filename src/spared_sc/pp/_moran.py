"""Moran's I of every gene, averaged over the libraries."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.lattice import Lattice


@accepts_spatialdata
@docs.fill()
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
    {adata}
    layer
        Layer with the values.
    median_completed
        Fill undetected entries with the adaptive median (:func:`spared_sc.tl.median_complete`) first; the filled
        values are not kept. In sparsely detected genes the filling itself makes neighbours alike, which raises their
        rank.
    mask_var
        Boolean column of `var`: the genes to measure; the others get NaN. `"spared_keep"` is used when present.
    connectivity_key
        Key in `obsp` of another graph. The default is the exact lattice (:func:`lattice_neighbors`), which need not
        be written first.
    {others}

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
    from spared_sc._kernels.moran import mean_morans_i

    validate.check_adata(adata)
    values = validate.get_layer(adata, layer)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.keep)
    libraries = validate.get_libraries(adata, library_key)
    train = validate.train_libraries(adata, split_key, libraries)
    threads = validate.n_threads(n_jobs)
    lattice = cache(lambda: validate.get_lattice(adata, libraries, spatial_key))  # made once, where it is needed
    graph, weights = _graph(adata, libraries, lattice, connectivity_key)
    read = _completed(adata, values, libraries, lattice(), threads) if median_completed else lambda at: values[:, at]
    spots = [rows for rows, use in zip(libraries.rows(), train, strict=True) if use]
    scores = np.full(adata.n_vars, np.nan)
    scores[mask] = mean_morans_i(read, np.flatnonzero(mask), weights, spots, n_threads=threads)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.moran",
        params={
            "layer": layer,
            "median_completed": median_completed,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": libraries.key,
            "graph": graph,
            "split_key": split_key,
        },
        slots={"var": {key_added: scores}},
    )
    return adata if copy else None


def _graph(
    adata: AnnData, libraries: validate.Libraries, lattice: Callable[[], Lattice], connectivity_key: str | None
) -> tuple[str | dict[str, np.ndarray], sps.csr_matrix]:
    """Name (or the kinds of the lattice) and weights of the graph to use."""
    from spared_sc._kernels.moran import lattice_weights

    if connectivity_key is None:
        return validate.recorded_kinds(lattice(), libraries), lattice_weights(lattice())
    if connectivity_key not in adata.obsp:
        raise KeyError(
            f"there is no graph {connectivity_key!r} in adata.obsp (graphs: {validate.listing(adata.obsp)}): "
            "leave `connectivity_key` out to use the lattice."
        )
    weights = sps.csr_matrix(adata.obsp[connectivity_key], dtype=np.float64)
    if not (np.isfinite(weights.data).all() and (weights.data >= 0).all()):
        raise ValueError(
            f"the graph obsp[{connectivity_key!r}] holds NaN, infinite or negative weights: repair it, or leave "
            "`connectivity_key` out to use the lattice."
        )
    return connectivity_key, weights


def _completed(
    adata: AnnData, values: np.ndarray | sps.csr_matrix, libraries: validate.Libraries, lattice: Lattice, n_threads: int
) -> Callable[[np.ndarray], np.ndarray | sps.csr_matrix]:
    """A reader of genes whose undetected entries are filled with the adaptive median."""
    from spared_sc._kernels.median import adaptive_median

    detected = validate.get_detected(adata)

    def read(genes: np.ndarray) -> np.ndarray:
        block, known = validate.dense(values[:, genes]), validate.dense(detected[:, genes])
        return adaptive_median(block, known, lattice, libraries.codes, n_threads=n_threads)

    return read
