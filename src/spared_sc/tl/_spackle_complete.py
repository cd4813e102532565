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
    write: str | Collection[str] | None = None,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries and denoise all entries, with a model learned from these sections.

    The default, `model="counts"`, is this package's own: a count model of the sections (genes load on factors that vary
    smoothly over the tissue, or not; counts are zero-inflated negative binomial), combined with simple estimates on
    detected entries that were hidden from all of them. `model="paper"` is SpaCKLE as published, a transformer over the
    neighbourhood of each spot.

    The default writes two estimates. `layers["spackle_denoised"]` holds the expression of every entry at equal depth, true
    zeros included: use it for maps, clustering, embeddings and training targets. `layers["spackle"]` holds the quantity of
    the paper: detected values as measured, and the others as they would be if they were detected. Molecules that are held
    out of two more fits tell which genes have a pattern (`var["spackle_verdict"]`), and shrink the others toward their
    share in the library. One line with the number of genes of each verdict is printed; `sp.settings.verbosity =
    "warning"` silences it.

    Both models hide some detected entries before anything is filled in or trained. On one part of them they learn or
    choose (weights of the estimates, or the best step); the other part gives the score that is recorded beside those of
    simple estimates. The same as :func:`spared_sc.tl.complete`, which has all other methods, too.

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
        Expression given detection, the quantity of the paper. Equal to the input where detected, and for genes outside of
        the mask.
    `layers["spackle_denoised"]`
        Estimated expression of every entry, true zeros included, in the unit and with the denominator of the input layer
        (`"counts"` only, as all that follows except for the record, and with raw counts).
    `layers["spackle_denoised_sd"]`
        Posterior standard deviation of the denoised layer.
    `layers["spackle_rate"]`
        Expected count of every entry at the depth of its spot.
    `layers["spackle_sd"]`
        Standard deviation of the filled entries of `layers["spackle"]`, given detection.
    `var["spackle_skill"]`
        Share of the deviance of held-out molecules that is explained beyond depth and the gene's share in its library.
    `var["spackle_skill_se"]`
        Standard error of the skill.
    `var["spackle_verdict"]`
        `"complete"`, `"denoise"`, `"undecided"` or `"not completed"`.
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

    No layer is for differential expression or for tests of the correlation of two genes: neighbouring spots, and genes
    that load on the same factors, share information. Test counts.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.spackle_complete(adata, library_key="library_id")
    spackle: 32 genes (32 complete, 0 denoise, 0 undecided) in 128 spots; 1% of the entries were undetected and are filled.
    >>> sorted(layer for layer in adata.layers if layer.startswith("spackle"))
    ['spackle', 'spackle_denoised', 'spackle_denoised_sd', 'spackle_rate', 'spackle_sd']
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
