"""Detected entries hidden for a trial of the user's own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep
from spared_sc._core.record import record, write_columns
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels import masking
from spared_sc.tl._resolve import resolve
from spared_sc.tl._visible import VisibleData

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def hide_entries(
    adata: AnnData,
    share: float | None = None,
    *,
    regime: str = "detected",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    use_rep: str | None = None,
    allow_unrecorded_rep: bool = False,
    random_state: int = 0,
) -> AnnData:
    """Hide detected entries, for a trial of a completion method of your own.

    The result holds nothing of the hidden entries outside of the slots that are named for them: complete it, and compare
    with what was hidden (:func:`spared_sc.pl.completion_scatter`). :func:`spared_sc.tl.evaluate_completion` does this for
    many methods and masks. `adata` is not changed.

    Parameters
    ----------
    {adata}
    share
        Share to hide: of the detected entries for the regime `"detected"` (0.3 by default), of all entries for `"released"`
        (0.3), of the spots for `"spots"` and `"blocks"` (0.1).
    regime
        `"detected"` hides every detected entry with the same chance; `"released"` hides as many entries of every gene;
        `"spots"` hides random spots as a whole; `"blocks"` hides contiguous blocks of spots.
    layer
        Layer to complete.
    {mask_var}
    {library_key}
    {spatial_key}
    {use_rep}
    {allow_unrecorded_rep}
    {random_state}

    Returns
    -------
    A new AnnData in the order of `adata`, with the library column, places, `obsm[spatial_key]`, `obsm[use_rep]` and
    images of `adata`, and

    `X`
        Raw counts, zero where hidden; `None` without raw counts.
    `layers["log2tpm"]`
        The layer, zero where hidden. A layer of log2(1 + scaled count) is normalised anew by what is left of every spot,
        so that its scale does not tell how much is hidden.
    `layers["detected"]`
        Whether an entry is detected and not hidden.
    `layers["hidden"]`
        Whether an entry is hidden (sparse, boolean).
    `layers["log2tpm_hidden"]`
        Values of the hidden entries, on the scale of what is left; as they were where a spot is hidden as a whole. Zero
        elsewhere.
    `var["spared_selected"]`
        Genes to complete, under the name of `mask_var`.
    `uns["spared_sc"]["hidden"]`
        Parameters.

    Raises
    ------
    KeyError
        If a named layer or column, or the regime does not exist.
    ValueError
        If several libraries come without `library_key`, `share` is out of range, the embedding may hold hidden entries, or nothing is left to hide or to see.

    Examples
    --------
    >>> import numpy as np
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=24)
    >>> trial = sp.tl.hide_entries(adata, 0.2, library_key="library_id")
    >>> sp.tl.complete(trial, method="additive", library_key="library_id")
    >>> hidden = trial.layers["hidden"].toarray()
    >>> error = (trial.layers["additive"] - trial.layers["log2tpm_hidden"]).toarray()[hidden]
    >>> bool(np.mean(error**2) < 2)
    True
    """
    if regime not in masking.SHARES:
        raise KeyError(f"there is no regime {regime!r}: choose among {validate.listing(masking.SHARES)}.")
    share = masking.SHARES[regime] if share is None else share
    validate.check_number("share", share, 0, 1)
    validate.check_seed(random_state)
    check_rep(adata, use_rep, allow_unrecorded=allow_unrecorded_rep)
    resolved = resolve(
        adata, layer=layer, mask_var=mask_var, library_key=library_key, spatial_key=spatial_key, use_rep=use_rep
    )
    hidden = masking.hide_entries(resolved.sections, regime, share, np.random.default_rng(random_state))
    data = VisibleData(adata, resolved, layer=layer, mask_var=mask_var, obsm=(spatial_key, use_rep))
    trial = data.adata(resolved.sections.without(hidden))[np.argsort(resolved.order)].copy()
    if Key.uns.spatial in adata.uns:
        trial.uns[Key.uns.spatial] = adata.uns[Key.uns.spatial]
    truth = np.where(hidden, resolved.sections.renormalised(hidden), np.float32(0))
    where, values = (
        write_columns(0 * resolved.values, resolved.genes, resolved.to_rows(block))
        for block in (hidden.astype(np.float32), truth)
    )
    record(
        trial,
        key=Key.layers.hidden,
        function="tl.hide_entries",
        params={
            "regime": regime,
            "share": share,
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": resolved.libraries.key,
            "random_state": random_state,
        },
        slots={"layers": {Key.layers.hidden: where.astype(bool), Key.hidden(layer): values}},
        n_hidden=int(hidden.sum()),
    )
    return trial
