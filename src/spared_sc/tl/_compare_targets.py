"""Raw, completed and denoised targets, in the four arms that such a comparison needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep
from spared_sc._core.record import shallow_copy
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._models.prediction.registry import PREDICTORS, needs_of
from spared_sc.tl._predict_expression import predict_expression
from spared_sc.tl._score_prediction import score_prediction
from spared_sc.tl._target import EXPRESSION, GIVEN_DETECTION
from spared_sc.tl._task import CLASSICAL, embedding_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_ARMS: dict[str, dict[str, Any]] = {
    "raw, all": {"loss": "all"},
    "raw, detected": {"loss": "detected"},
    "given detection": {"target": GIVEN_DETECTION},
    "denoised": {"target": EXPRESSION},
}


@accepts_spatialdata
@docs.fill()
def compare_targets(
    adata: AnnData,
    *,
    model: str = "ridge",
    layer: str = Key.layers.log2tpm,
    protocol: Literal["expression", "spared", "hest"] = "expression",
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    allow_unrecorded_rep: bool = False,
    random_state: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Fit a predictor to raw, completed and denoised expression, and score all on the measurements of held-out sections.

    The four arms differ in what the predictor learns. `"raw, all"`: the measured layer, with zeros as measurements.
    `"raw, detected"`: its detected entries alone. `"given detection"`: the layer that the default completion fills, all
    entries. `"denoised"`: the denoised values, which are the default target of :func:`spared_sc.tl.predict_expression`;
    only its predictions are shrunk, as there, which makes genes without a supported pattern constant. Completed and
    denoised values come from the train sections of every fit alone. Comparing raw with completed targets without
    `"raw, detected"` confuses the effect of completion with that of leaving out zeros.

    Parameters
    ----------
    adata
        Spots x genes with raw counts. It is not changed.
    model
        Name of a predictor.
    layer
        Measured expression, log2(1 + scaled count): the raw target, and what is completed.
    protocol
        Of the scores; see :func:`spared_sc.tl.score_prediction`. D2 is of use for targets with true zeros only: values
        given detection are on another scale.
    {library_key}
    subject_key
        Column of `obs` with the donor of each spot: donors are held out together, and are the units of the intervals.
    {spatial_key}
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`, used where it exists. Without one, each library (or donor) is
        predicted by a fit to the others.
    {allow_unrecorded_rep}
    {random_state}
    options
        Further arguments of :func:`spared_sc.tl.predict_expression`.

    Returns
    -------
    The table of :func:`spared_sc.tl.score_prediction`, in which `prediction` names the arm.

    Raises
    ------
    KeyError
        If a layer, a column or the predictor does not exist.
    TypeError
        If an option is one of those that this function sets.
    ValueError
        If raw counts are missing, or the embedding may hold expression of test sections.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> scores = sp.tl.compare_targets(adata, model="gene_mean", library_key="library_id")
    >>> list(scores["prediction"].unique()[:4])
    ['raw, all', 'raw, detected', 'given detection', 'denoised']
    """
    adata = validate.check_adata(adata)
    if not isinstance(model, str) or model not in PREDICTORS:
        raise KeyError(f"there is no predictor {model!r} to fit: choose among {validate.listing(PREDICTORS, 30)}.")
    taken = sorted({"copy", "key_added", "target", "loss"} & set(options))
    if taken:
        raise TypeError(f"compare_targets sets {taken[0]!r} itself: leave it out.")
    if "embedding" in needs_of(model, options.get("use_rep")):
        for name in embedding_names(options.get("use_rep") or CLASSICAL):
            check_rep(adata, name, allow_unrecorded=allow_unrecorded_rep)
    checkpoint = options.pop("checkpoint", None)
    work = shallow_copy(adata)
    for name, arm in _ARMS.items():
        predict_expression(
            work,
            model=model,
            **{"target": layer, **arm},
            layer=layer,
            library_key=library_key,
            subject_key=subject_key,
            spatial_key=spatial_key,
            split_key=split_key,
            key_added=name,
            random_state=random_state,
            checkpoint=None if checkpoint is None else Path(checkpoint) / name.replace(", ", "-").replace(" ", "-"),
            **options,
        )
    return score_prediction(
        work,
        list(_ARMS),
        layer=layer,
        protocol=protocol,
        library_key=library_key,
        subject_key=subject_key,
        spatial_key=spatial_key,
        random_state=random_state,
    )
