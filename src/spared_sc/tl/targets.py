"""Raw against completed targets, in the four arms that such a comparison needs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import shallow_copy
from spared_sc.tl._prediction import learned_across
from spared_sc.tl._score_prediction import score_prediction
from spared_sc.tl.predict import predict_expression

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from anndata import AnnData


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
    n_bootstrap: int = 2000,
    random_state: int = 0,
    **options: Any,
) -> pd.DataFrame:
    """Fit a predictor to raw and to completed expression, and score all on what was measured.

    Undetected entries enter a raw target as zeros and a completed one as estimates, and either target can count on
    detected entries only. A comparison of raw and completed targets without the last two arms mixes the use of completion
    with that of leaving out zeros. Completion changes no detected value, so the two arms on detected entries differ only
    where the completed layer is corrected otherwise, such as by ComBat.

    Parameters
    ----------
    adata
        Spots x genes with a split. It is not changed.
    model
        Name of a predictor.
    completed
        Layer with filled values. It must have been made with the same split: otherwise, train values were filled with
        the help of test sections.
    layer
        Measured expression: the raw target, and the truth of all scores.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    subject_key
        Column of `obs` with the donor, for the intervals.
    spatial_key
        Name in `obsm` of the spots' positions.
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`.
    n_bootstrap
        Resamples of the libraries.
    random_state
        Seed of the fits and of the resampling.
    options
        Further arguments of :func:`spared_sc.tl.predict_expression`.

    Returns
    -------
    The table of :func:`spared_sc.tl._score_prediction_prediction`, in which `prediction` names the arm: `"raw, all"`,
    `"raw, detected"`, `"completed, all"` and `"completed, detected"`.

    Raises
    ------
    KeyError
        If a layer, the split or the predictor does not exist.
    ValueError
        If the completed layer was made without this split.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> adata.obs["split"] = (
    ...     adata.obs["library_id"]
    ...     .astype(str)
    ...     .replace({"library_1": "train", "library_2": "train", "library_3": "test"})
    ... )
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> scores = sp.tl.compare_targets(adata, completed="median", library_key="library_id")
    >>> list(scores["prediction"].unique()[:4])
    ['raw, all', 'raw, detected', 'completed, all', 'completed, detected']
    """
    from spared_sc._models.prediction.registry import PREDICTORS

    adata = validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    if split_key not in adata.obs:
        raise KeyError(
            f"there is no column {split_key!r} in adata.obs (columns: {validate.listing(adata.obs.columns)}): make a "
            "split with `sp.pp.split_libraries(adata)` first."
        )
    split = validate.get_split(adata, split_key, libraries)
    if not isinstance(model, str) or model not in PREDICTORS:
        raise KeyError(f"there is no predictor {model!r} to fit: choose among {validate.listing(PREDICTORS, 30)}.")
    taken = sorted({"copy", "key_added", "layer", "loss"} & set(options))
    if taken:
        raise TypeError(f"compare_targets sets {taken[0]!r} itself: leave it out.")
    checkpoint = options.pop("checkpoint", None)
    _check_completed(adata, completed, libraries, split_key, split)
    work = shallow_copy(adata)
    arms = []
    for what, source in (("raw", layer), ("completed", completed)):
        for loss in ("all", "detected"):
            key = f"{what}, {loss}"
            predict_expression(
                work,
                model=model,
                layer=source,
                loss=loss,
                library_key=library_key,
                spatial_key=spatial_key,
                split_key=split_key,
                key_added=key,
                random_state=random_state,
                checkpoint=None if checkpoint is None else Path(checkpoint) / key.replace(", ", "-"),
                **options,
            )
            arms.append(key)
    return score_prediction(
        work,
        arms,
        layer=layer,
        library_key=library_key,
        subject_key=subject_key,
        spatial_key=spatial_key,
        n_bootstrap=n_bootstrap,
        random_state=random_state,
    )


def _check_completed(
    adata: AnnData, completed: str, libraries: validate.Libraries, split_key: str, split: np.ndarray
) -> None:
    """Refuse values that were filled in with the help of other splits."""
    validate.get_layer(adata, completed)
    learned = learned_across(adata, completed, libraries, split_key, split)
    if completed not in adata.uns.get(Key.uns.records, {}):
        learned = f"layers[{completed!r}] is not known to be made with the split {split_key!r}"
    if learned:
        raise ValueError(
            f"{learned}: train values may have been filled with the help of test sections. Run "
            f"`sp.tl.spackle_complete(adata, split_key={split_key!r})` after the split."
        )
