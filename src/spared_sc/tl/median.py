"""Completion by the adaptive median."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record, write_columns

if TYPE_CHECKING:
    from anndata import AnnData


def median_complete(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_rings: int = 4,
    key_added: str = Key.layers.median,
    n_jobs: int | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with the adaptive median of the surrounding spots.

    For an undetected entry and h = 1 to `n_rings`, the median over the spot itself and all spots within h
    hops is taken, undetected entries counting as zero; the first median that is not zero is the value. Where
    there is none, it is the median of the gene's detected values in the library. Because zeros take part, the
    values are low: use this as the field's baseline, not as the best estimate.

    Parameters
    ----------
    adata
        Spots x genes.
    layer
        Layer to complete.
    mask_var
        Boolean column of `var`: the genes to complete. `"spared_selected"` is used when present, all genes
        otherwise.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the positions that stand in where there are no array coordinates.
    n_rings
        Largest neighbourhood, in hops.
    key_added
        Name of the new layer.
    n_jobs
        Threads. `None` asks `sp.settings`. The result does not depend on it.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["median"]`
        Expression given detection, in the unit and container of the input layer. Equal to the input where
        detected, and for genes outside of the mask. A gene that is detected nowhere in a library stays zero
        there.
    `uns["spared_sc"]["median"]`
        Parameters.

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If several libraries come without `library_key`, or the layer is not finite.

    Notes
    -----
    Source: Mejia et al. (2023), SEPAL; SpaRED (Ruiz et al. 2025) uses it as the step before SpaCKLE.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> bool((adata[:, adata.var["spared_selected"]].layers["median"].toarray() > 0).all())
    True
    """
    from spared_sc._kernels.median import adaptive_median

    validate.check_adata(adata)
    check_key(adata, key_added, source=layer)
    validate.check_number("n_rings", n_rings, 1, whole=True)
    values = validate.get_layer(adata, layer)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.selected)
    libraries = validate.get_libraries(adata, library_key)
    lattice = validate.get_lattice(adata, libraries, spatial_key)
    genes = np.flatnonzero(mask)
    block = validate.dense(values[:, genes])
    detected = validate.dense(validate.get_detected(adata)[:, genes])
    filled = adaptive_median(
        block, detected, lattice, libraries.codes, n_rings=int(n_rings), n_threads=validate.n_threads(n_jobs)
    )

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.median_complete",
        params={
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": library_key,
            "lattice": lattice.kind,
            "n_rings": int(n_rings),
        },
        slots={"layers": {key_added: write_columns(values, genes, filled)}},
    )
    return adata if copy else None
