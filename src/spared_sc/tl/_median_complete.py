"""Completion by the adaptive median."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc.tl._complete import complete

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
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

    For an undetected entry and h = 1 to `n_rings`, the median over the spot itself and all spots within h hops is taken,
    undetected entries counting as zero; the first median that is not zero is the value. Where there is none, it is the
    median of the gene's detected values in the library. Because zeros take part, the values are low: use this as the
    field's baseline, not as the best estimate. The same as :func:`spared_sc.tl.complete` with `method="median"`.

    Parameters
    ----------
    {adata}
    n_rings
        Largest neighbourhood, in hops.
    layer, mask_var, library_key, spatial_key, key_added, n_jobs, copy
        As in :func:`spared_sc.tl.complete`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["median"]`
        Expression given detection, in the unit and container of the input layer. Equal to the input where detected, and
        for genes outside of the mask. A gene that is detected nowhere in a library stays zero there.
    `uns["spared_sc"]["median"]`
        Parameters.

    Raises
    ------
    KeyError, ValueError
        As in :func:`spared_sc.tl.complete`.

    Notes
    -----
    Source: Mejia et al. (2023), SEPAL; SpaRED (Ruiz et al. 2025) uses it as the step before SpaCKLE.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> bool((adata[:, adata.var["spared_selected"]].layers["median"].toarray() > 0).all())
    True
    """
    return complete(
        adata,
        method="median",
        method_params={"n_rings": n_rings},
        layer=layer,
        mask_var=mask_var,
        library_key=library_key,
        spatial_key=spatial_key,
        key_added=key_added,
        n_jobs=n_jobs,
        copy=copy,
    )
