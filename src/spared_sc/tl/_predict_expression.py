"""Expression predicted from the image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.files import as_path
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, library_table, record
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.metrics import CEILING, FLOORS
from spared_sc._models.prediction.registry import ANCHORS, PREDICTORS
from spared_sc.tl._cross_fit import cross_fit
from spared_sc.tl._fitted import FittedPredictor
from spared_sc.tl._resolve import spread_over_genes
from spared_sc.tl._target import COMPLETED, EXPRESSION
from spared_sc.tl._task import make_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

    from spared_sc.tl._fitted import Prediction


@accepts_spatialdata
@docs.fill()
def predict_expression(
    adata: AnnData,
    *,
    model: str | Path | FittedPredictor = "ridge",
    target: str = EXPRESSION,
    layer: str = Key.layers.log2tpm,
    loss: Literal["mse", "poisson", "nb", "detected", "all"] | None = None,
    use_rep: str | Sequence[str] | None = None,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    key_added: str | None = None,
    model_params: Mapping[str, Any] | None = None,
    novelty: bool = False,
    checkpoint: str | Path | None = None,
    force: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Predict expression from the H&E image, for spots with measured expression or for a slide without.

    With the name of a predictor, it is fitted here. If there is a split, it is fitted to the train libraries, the best
    step is chosen on the validation libraries, and all libraries are predicted. Without a split, each library (or
    subject) is predicted by a fit to the others, so that no prediction comes from a model that has seen its own library.

    With a fitted or saved predictor, `adata` needs an image and positions, and no expression.

    Parameters
    ----------
    {adata}
    model
        Name of a predictor (:func:`spared_sc.tl.predictors` lists them), a fitted one, or the folder of a saved one.
    target
        `"expression"`: denoised values, completed from the train sections alone in every fit, so that the prediction is
        log2(TPM + 1) (the unit of `layer`) with true zeros and without the depth of the spot. `"given_detection"`:
        completed values, from the train sections alone in every fit. Or the name of a layer, such as `"log2tpm"` or one
        that `tl.combat` wrote: if it was computed with the sections being predicted (e.g. without the split), predictions
        are marked `"seen"` and are not scored. A fitted predictor ignores this and `layer`, `loss`, `use_rep`, `mask_var`,
        `subject_key`, `split_key`, `model_params`, `novelty` and `checkpoint`.
    layer
        Measured layer, log2(1 + scaled count), from which the first two targets are completed.
    loss
        For `"expression"`: `"mse"` of denoised values, the default; or `"poisson"` or `"nb"` (negative binomial, with a
        dispersion per gene by moments) of the raw counts, with the depth as offset, for networks with a linear last layer.
        For a layer, the entries that count: `"detected"`, the default, so that the prediction is expression given
        detection, or `"all"`, as in the paper, with the layer's values for undetected entries.
    use_rep
        Embedding in `obsm`, which :func:`spared_sc.tl.embed_patches` writes, or a list of some, whose features are joined.
        Predictors of `"tokens"` (:func:`spared_sc.tl.predictors`) read it instead of patches; those of an embedding read
        `"X_classical"` by default.
    {mask_var}
    {library_key}
    subject_key
        Column of `obs` with the donor of each spot: all sections of a donor are held out together, without a split and in
        inner folds. Sections of one donor look alike, so scores with siblings in training say little about another donor.
    {spatial_key}
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`. The default column is used where it exists; `None` ignores
        it. Networks need a `"val"` library.
    key_added
        Name of the new table; `"predicted_<model>"` by default.
    model_params
        Parameters of the predictor, such as `{"n_steps": 500}`; `sp.tl.predictors("<model>")` lists them.
    novelty
        Flag spots that look unlike the training data. Predictors that read patches embed them once more for that. A fitted
        predictor flags them if it was fitted with `novelty=True`.
    {checkpoint}
    force
        Predict even if the patches differ from training in tissue size or resolution.
    {device}
    {batch_size}
    {n_jobs}
    {random_state}
    {show_progress_bar}
    {copy}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obsm["predicted_ridge"]`
        Named after the model. DataFrame, spots x genes, float32, in the unit of the layer; of expression, none is below
        zero. :func:`spared_sc.get.predicted` returns it as an AnnData.
    `var["predicted_ridge_skill"]`
        With `target="expression"`: share of the Poisson deviance of raw counts that the prediction explains beyond depth
        times the gene's share, in sections that inner folds held out (validation libraries for networks); the mean over
        fits. Each gene's pattern is shrunk toward its share as far as these counts do not support it: a gene that the image
        does not predict gets a constant. NaN for other genes; a network without validation libraries has none.
    `obs["predicted_ridge_out_of_distribution"]`
        With `novelty`: spots that lie farther from the training data, in the leading components of their embedding, than
        all but one in a thousand of the train spots. Written if the predictor reads the image.
    `uns["spared_sc"]["predicted_ridge"]`
        Parameters, skill, and the role of each library under `roles`: only predictions of `"test"` and `"held out"` libraries
        are honest. :func:`spared_sc.tl.score_prediction` scores neither `"train"` libraries nor those whose expression
        the layer has `"seen"`.

    Raises
    ------
    KeyError
        If a named layer, column, embedding or predictor does not exist.
    TypeError
        If the predictor has no such parameter.
    ValueError
        If a parameter is out of range, the predictor does not take the loss, raw counts are missing for
        `target="expression"` or the layer is not log2(1 + scaled count), if copies of a section lie in several parts of the
        split, if there is neither a split nor a second library to learn from, if a split has no
        validation library for a network to choose its best step on, if the patches do not match those of training, or if
        a saved model is damaged.
    FileNotFoundError
        If there is no saved model, or an image is missing.

    Warns
    -----
    UserWarning
        If libraries hold the same section (they are held out together), if genes are undetected in all train libraries, or
        if a split divides a donor.

    Notes
    -----
    The page about prediction describes the predictors and their sources. `depth_only` uses the measured depth of the spots
    that it predicts: it is an anchor for scores, not an image model.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="gene_mean", library_key="library_id")
    >>> adata.obsm["predicted_gene_mean"].shape[1]
    16
    """
    adata = validate.check_adata(adata, genes=False)
    libraries = validate.get_libraries(adata, library_key)
    compute = make_compute(
        random_state=random_state,
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        show_progress_bar=show_progress_bar,
        checkpoint=checkpoint,
    )
    params: dict[str, Any]
    if isinstance(model, str) and model in PREDICTORS:
        key_added = _checked_name(adata, key_added, model)
        compute = PREDICTORS.load(model).place(compute)
        task = make_task(
            adata,
            libraries,
            model,
            target=target,
            layer=layer,
            loss=loss,
            use_rep=use_rep,
            mask_var=mask_var,
            subject_key=subject_key,
            spatial_key=spatial_key,
            split_key=split_key,
            params=model_params,
            novelty=novelty,
        )
        prediction = cross_fit(task, compute)
        params = {
            "model": model,
            "fitted": "here",
            "target": target,
            "layer": layer if target in COMPLETED else target,
            "loss": task.data.loss,
            "use_rep": list(task.data.embeddings),
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": libraries.key,
            "subject_key": subject_key,
            "split_key": None if task.split is None else split_key,
            "random_state": random_state,
            "model_params": task.params,
        }
    else:
        fitted, source = _fitted(model)
        key_added = _checked_name(adata, key_added, fitted.name)
        prediction = fitted.apply(adata, libraries, spatial_key, compute, force=force)
        params = {"model": fitted.name, "fitted": source, "library_key": libraries.key, "force": force}
    adata = adata.copy() if copy else adata
    _write(adata, key_added, prediction, params)
    return adata if copy else None


def _checked_name(adata: AnnData, key_added: str | None, model: str) -> str:
    """The name of the table; refused if it cannot be written or means something else in a table of scores."""
    key_added = Key.predicted(model) if key_added is None else key_added
    check_key(adata, key_added, attr="obsm")
    if key_added in (*ANCHORS, *FLOORS, CEILING):
        raise ValueError(f"key_added={key_added!r} is the name of an anchor in tables of scores: pass another.")
    return key_added


def _fitted(model: Any) -> tuple[FittedPredictor, str]:
    """A fitted predictor, and its origin."""
    if isinstance(model, FittedPredictor):
        return model, "before"
    if not isinstance(model, str | Path):
        raise TypeError(
            f"model is a {type(model).__name__}: give a name, a fitted predictor or the folder of a saved one."
        )
    if not as_path(model, "model").exists():
        raise KeyError(
            f"there is no predictor and no folder {str(model)!r}: choose among {validate.listing(PREDICTORS, 30)}."
        )
    return FittedPredictor.load(model), str(model)


def _write(adata: AnnData, key_added: str, prediction: Prediction, params: Mapping[str, Any]) -> None:
    nested = [gene for gene in prediction.genes if "/" in gene]
    if nested:
        warn(
            f"{validate.listing(nested, 3)}: a table with such gene names cannot be written to zarr, and soon not to h5ad. "
            "`sp.get.predicted(adata)` can, or rename the genes.",
        )
    slots: dict[str, dict[str, Any]] = {"obsm": {key_added: prediction.table(adata)}, "obs": {}, "var": {}}
    flags = prediction.out_of_distribution
    if flags is not None:
        slots["obs"][Key.out_of_distribution(key_added)] = flags
        logger.info("%d of %d spots look unlike the training data", int(flags.sum()), len(flags))
    details = dict(prediction.details)
    if prediction.skill is not None:
        genes = adata.var_names.get_indexer(prediction.genes)
        if (genes >= 0).any():
            skill = prediction.skill[genes >= 0].astype(np.float64)
            slots["var"][Key.skill(key_added)] = spread_over_genes(skill, genes[genes >= 0], adata.n_vars, other="")
        details["skill"] = prediction.skill
    record(
        adata,
        key=key_added,
        function="tl.predict_expression",
        params=params,
        slots=slots,
        outdated={"obs": [Key.out_of_distribution(key_added)], "var": [Key.skill(key_added)]},
        roles=library_table(prediction.roles, values=prediction.roles.values()),
        groups=library_table(prediction.groups, values=prediction.groups.values()),
        **details,
    )
