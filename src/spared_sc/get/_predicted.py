"""Predictions as an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.predictions import prediction_key, prediction_keys
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
def predicted(adata: AnnData, key: str | None = None) -> AnnData:
    """Predicted expression as an AnnData of its own, for `sc.pl` and `sq.pl`.

    Parameters
    ----------
    adata
        Spots x genes with a table from :func:`spared_sc.tl.predict_expression`.
    key
        Name of the table in `obsm`; not needed where there is one.

    Returns
    -------
    Spots x predicted genes: predictions in `X`, and the observations, embeddings, images and coordinates of `adata`.

    Raises
    ------
    KeyError
        If there is no such table.
    ValueError
        If there are several and no `key`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="gene_mean", library_key="library_id")
    >>> sp.get.predicted(adata).shape[1]
    16
    """
    from anndata import AnnData

    adata = validate.check_adata(adata, genes=False)
    key = prediction_key(adata, key)
    table = adata.obsm[key]
    others = {name: value.copy() for name, value in adata.obsm.items() if name not in prediction_keys(adata)}
    common = adata.var.reindex(table.columns) if table.columns.isin(adata.var_names).all() else None
    return AnnData(
        X=table.to_numpy(copy=True),
        obs=adata.obs.copy(),
        var=common if common is not None else table.columns.to_frame()[[]],
        obsm=others,
        uns={name: value for name, value in adata.uns.items() if name in (Key.uns.spatial, Key.uns.records)},
    )
