"""Deviations from the train mean, the delta targets of SEPAL."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import ONE_LIBRARY
from spared_sc._core.record import check_key, record, write_columns
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def center(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    split_key: str | None = Key.obs.split,
    library_key: str | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Subtract each gene's mean over the train libraries.

    Parameters
    ----------
    {adata}
    layer
        Layer to center. Undetected entries count with the value that the layer holds, zero unless it is completed.
    key_added
        Name of the new layer; `"<layer>_delta"` by default.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["log2tpm_delta"]`
        Deviation from the train mean, in the unit and container of the layer; the layer's own values for genes outside of
        the mask. Named by `key_added`.
    `var["log2tpm_mean"]`
        The mean; zero for genes outside of the mask. Named after the layer.
    `uns["spared_sc"]["log2tpm_delta"]`
        Parameters.

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If a library is in several splits.

    Notes
    -----
    Source: Mejia et al. (2023), SEPAL, which predicts deviations; SpaRED (Ruiz et al. 2025) calls them deltas.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=1, image=False)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.pp.center(adata)
    >>> bool(abs(adata.layers["log2tpm_delta"].mean()) < 1e-4)
    True
    """
    validate.check_adata(adata)
    key_added = key_added or Key.delta(layer)
    check_key(adata, key_added, source=layer)
    values = validate.get_layer(adata, layer)
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    train = np.ones(adata.n_obs, dtype=bool)
    if split_key is not None and (split_key != Key.obs.split or split_key in adata.obs):
        libraries = validate.get_libraries(adata, library_key)
        train = validate.train_libraries(adata, split_key, libraries)[libraries.codes]
    block = validate.dense(values[:, genes])
    mean = np.zeros(adata.n_vars)
    mean[genes] = block[train].mean(axis=0, dtype=np.float64)
    delta = (block - mean[genes]).astype(np.result_type(values.dtype, np.float32), copy=False)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.center",
        params={
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "split_key": split_key if split_key in adata.obs else None,
        },
        slots={"layers": {key_added: write_columns(values, genes, delta)}, "var": {Key.mean(layer): mean}},
        scope=ONE_LIBRARY,
    )
    return adata if copy else None
