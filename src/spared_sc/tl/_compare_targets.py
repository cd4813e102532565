"""Raw against completed targets, in the four arms that such a comparison needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep, leak, record_of
from spared_sc._core.record import shallow_copy
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc.tl._predict_expression import predict_expression
from spared_sc.tl._score_prediction import score_prediction
from spared_sc.tl._task import CLASSICAL

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_LOSSES: tuple[Literal["all", "detected"], ...] = ("all", "detected")


@accepts_spatialdata
@docs.fill()
def compare_targets(
    adata: AnnData,
    *,
    model: str = "ridge",
    completed: str = Key.layers.spackle,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str = Key.obs.split,
    allow_unrecorded_rep: bool = False,
    random_state: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Fit a predictor to raw and to completed expression, and score both on the measurements.

    Undetected entries enter a raw target as zeros and a completed one as estimates, and either target can be restricted to
    detected entries. Comparing raw with completed targets without the last two arms confuses the effect of completion with
    that of leaving out zeros. Completion changes no detected value, so the two arms on detected entries differ only if
    the layer is corrected otherwise, e.g. by ComBat, or denoised.

    Parameters
    ----------
    adata
        Spots x genes with a split. It is not changed.
    model
        Name of a predictor.
    completed
        Layer with filled or denoised values. It must have been made with the same split: otherwise, train values were
        filled using test sections. The default holds values given detection, which is what the scores compare with. The
        error of a model of `"spackle_denoised"` contains the difference between the two; compare correlations.
    layer
        Measured expression: the raw target, and the truth of all scores.
    {library_key}
    {subject_key}
    {spatial_key}
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`.
    {allow_unrecorded_rep}
    {random_state}
    options
        Further arguments of :func:`spared_sc.tl.predict_expression`.

    Returns
    -------
    The table of :func:`spared_sc.tl.score_prediction`, in which `prediction` names the arm: `"raw, all"`,
    `"raw, detected"`, `"completed, all"` and `"completed, detected"`.

    Raises
    ------
    KeyError
        If a layer, the split or the predictor does not exist.
    ValueError
        If the completed layer was made without this split, or the embedding may hold expression of test sections.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> adata.obs["split"] = ["train" if name == "library_1" else "test" for name in adata.obs["library_id"]]
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> scores = sp.tl.compare_targets(adata, model="gene_mean", completed="median", library_key="library_id")
    >>> list(scores["prediction"].unique()[:4])
    ['raw, all', 'raw, detected', 'completed, all', 'completed, detected']
    """
    adata = validate.check_adata(adata)
    if not isinstance(model, str) or model not in PREDICTORS:
        raise KeyError(f"there is no predictor {model!r} to fit: choose among {validate.listing(PREDICTORS, 30)}.")
    taken = sorted({"copy", "key_added", "layer", "loss"} & set(options))
    if taken:
        raise TypeError(f"compare_targets sets {taken[0]!r} itself: leave it out.")
    _check_completed(adata, completed, validate.get_libraries(adata, library_key), split_key)
    if "embedding" in PREDICTORS[model].needs:
        check_rep(adata, options.get("use_rep", CLASSICAL), allow_unrecorded=allow_unrecorded_rep)
    checkpoint = options.pop("checkpoint", None)
    work, arms = shallow_copy(adata), []
    for target, source in (("raw", layer), ("completed", completed)):
        for loss in _LOSSES:
            arms.append(f"{target}, {loss}")
            predict_expression(
                work,
                model=model,
                layer=source,
                loss=loss,
                library_key=library_key,
                spatial_key=spatial_key,
                split_key=split_key,
                key_added=arms[-1],
                random_state=random_state,
                checkpoint=None if checkpoint is None else Path(checkpoint) / f"{target}-{loss}",
                **options,
            )
    return score_prediction(
        work,
        arms,
        protocol="spared",
        layer=layer,
        library_key=library_key,
        subject_key=subject_key,
        spatial_key=spatial_key,
        random_state=random_state,
    )


def _check_completed(adata: AnnData, completed: str, libraries: validate.Libraries, split_key: str) -> None:
    """Refuse values that were filled in with the help of other splits."""
    if split_key not in adata.obs:
        raise KeyError(
            f"there is no column {split_key!r} in adata.obs (columns: {validate.listing(adata.obs.columns)}): make a "
            "split with `sp.pp.split_libraries(adata)` first."
        )
    split = validate.get_split(adata, split_key, libraries)
    validate.get_layer(adata, completed)
    reason = leak(adata, completed, libraries, split_key, split)
    if not record_of(adata.uns.get(Key.uns.records, {}), completed):
        reason = f"layers[{completed!r}] is not known to be made with the split {split_key!r}"
    if reason:
        raise ValueError(
            f"{reason}: train values may have been filled using test sections. Run "
            f"`sp.tl.spackle_complete(adata, split_key={split_key!r})` after the split."
        )
