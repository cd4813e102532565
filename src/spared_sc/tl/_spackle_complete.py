"""Completion by a fitted model: the count model by default, or SpaCKLE as published."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc.tl._complete import complete

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def spackle_complete(
    adata: AnnData,
    *,
    model: str | Path = "counts",
    model_params: Mapping[str, Any] | None = None,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    use_rep: str | None = None,
    allow_unrecorded_rep: bool = False,
    key_added: str = Key.layers.spackle,
    write: Collection[str] | None = None,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with a model learned from the detected ones.

    The default, `model="counts"`, is this package's own: a count model of the sections (genes load on factors that vary
    smoothly over the tissue, or not; counts are zero-inflated negative binomial), combined with simple estimates on
    detected entries that were hidden from all of them. `model="paper"` is SpaCKLE as published, a transformer over the
    neighbourhood of each spot.

    Both hide some detected entries before anything is filled in or trained. On one part of them they learn or choose
    (weights of the estimates, or the best step); the other part gives the score that is logged and recorded beside those
    of simple estimates. Look at it, or better run :func:`spared_sc.tl.audit_completion`, before you use the layer. The
    same as :func:`spared_sc.tl.complete`, which has all other methods, too.

    Parameters
    ----------
    {adata}
    model
        `"counts"` or `"paper"`: fit that model to these data. Or the folder of a saved model, which is applied as it is.
    model_params
        Parameters of the model by name, such as `{"n_iterations": 10}`. `sp.tl.completers("counts")` and
        `sp.tl.completers("paper")` list them.
    split_key
        As in :func:`spared_sc.tl.complete`. `"paper"` then chooses its best step on the validation libraries and takes its
        score on the test libraries.
    use_rep
        `"paper"` only: key in `obsm` of an embedding, such as of the image, that is put beside the expression of each
        spot. A saved model that was fitted with one needs one of the same kind.
    layer, mask_var, library_key, spatial_key, allow_unrecorded_rep, key_added, write, save_model, checkpoint
        As in :func:`spared_sc.tl.complete`.
    device, batch_size, n_jobs, random_state, show_progress_bar, copy
        As in :func:`spared_sc.tl.complete`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written, as by :func:`spared_sc.tl.complete`:

    `layers["spackle"]`
        Expression given detection. Equal to the input where detected, and for genes outside of the mask.
    `layers["spackle_rate"]`
        Expected count of every entry at the depth of its spot (`"counts"` only, and with raw counts).
    `layers["spackle_sd"]`
        Standard deviation of the filled entries, given detection (`"counts"` only).
    `uns["spared_sc"]["spackle"]`
        Method, parameters, device and genes. A model fitted here adds the score on hidden entries (`score`); `"counts"`
        the tuned parameters of the simple estimates (`tuned`) and their weights (`weights`); `"paper"` the training
        curve (`training`) and the learning rates tried (`search`).

    Raises
    ------
    KeyError, TypeError, ValueError, OSError, FloatingPointError
        As in :func:`spared_sc.tl.complete`.

    Warns
    -----
    UserWarning
        As in :func:`spared_sc.tl.complete`.

    Notes
    -----
    Source of `"paper"`: Ruiz et al. (2025), equations 1 to 6. The paper leaves open the number of layers and heads, the
    width of the feed-forward part and the initialisation; the documentation says what was chosen here and why. It has the
    formulas of `"counts"`, too.

    `layers["spackle"]` is conditional on detection: it does not say whether a zero is a true one, so do not use it for
    differential expression. `layers["spackle_rate"]` is for questions in which true zeros count.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.spackle_complete(adata, library_key="library_id")
    >>> sorted(layer for layer in adata.layers if layer.startswith("spackle"))
    ['spackle', 'spackle_rate', 'spackle_sd']
    """
    return complete(
        adata,
        method=model,
        method_params=model_params,
        layer=layer,
        mask_var=mask_var,
        library_key=library_key,
        spatial_key=spatial_key,
        split_key=split_key,
        use_rep=use_rep,
        allow_unrecorded_rep=allow_unrecorded_rep,
        key_added=key_added,
        write=write,
        save_model=save_model,
        checkpoint=checkpoint,
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        random_state=random_state,
        show_progress_bar=show_progress_bar,
        copy=copy,
    )
