"""Deviations from the train mean back to values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import ONE_LIBRARY
from spared_sc._core.record import check_key, record, records_of, write_columns
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def uncenter(
    adata: AnnData,
    *,
    layer: str = Key.delta(Key.layers.log2tpm),
    mean: str | None = None,
    mask_var: str | None = Key.var.selected,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Add the train mean back to deviations, the inverse of `center`.

    Parameters
    ----------
    {adata}
    layer
        Layer with deviations.
    mean
        Column of `var` with the means. By default the one that :func:`center` wrote together with `layer`.
    key_added
        Name of the new layer; `"<layer>_restored"` by default.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["log2tpm_delta_restored"]`
        Values on the scale before centering; named by `key_added`.
    `uns["spared_sc"]["log2tpm_delta_restored"]`
        Parameters.

    Raises
    ------
    KeyError
        If the layer or the means do not exist.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=1, image=False)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.pp.center(adata)
    >>> sp.pp.uncenter(adata, key_added="again")
    >>> bool(abs(adata.layers["again"] - adata.layers["log2tpm"]).max() < 1e-4)
    True
    """
    validate.check_adata(adata)
    key_added = key_added or f"{layer}_restored"
    check_key(adata, key_added, source=layer)
    values = validate.get_layer(adata, layer)
    if mean is None:
        made = records_of(adata).get(layer, {})
        if made.get("function") != "pp.center":
            raise KeyError(
                f"there is no record that `sp.pp.center` made layers[{layer!r}]: name its means, a column of adata.var "
                f"({validate.listing(adata.var.columns)}), with `mean=`."
            )
        mean = Key.mean(str(made["params"]["layer"]))
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    means = validate.get_numbers(adata, mean)[genes]
    if not np.isfinite(means).all():
        raise ValueError(
            f"adata.var[{mean!r}] has no value for {int((~np.isfinite(means)).sum())} genes: pass the genes that have "
            "one as `mask_var`."
        )
    block = (validate.dense(values[:, genes]) + means).astype(np.result_type(values.dtype, np.float32), copy=False)
    restored = write_columns(values, genes, block)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.uncenter",
        params={"layer": layer, "mean": mean, "mask_var": mask_var if mask_var in adata.var else None},
        slots={"layers": {key_added: restored}},
        scope=ONE_LIBRARY,
    )
    return adata if copy else None
