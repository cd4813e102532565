"""A predictor fitted to these sections, to be applied to others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.folds import split_fold
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc.tl._fitted import FittedPredictor, fit_fold
from spared_sc.tl._target import EXPRESSION
from spared_sc.tl._task import make_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def fit_predictor(
    adata: AnnData,
    *,
    model: str = "ridge",
    target: str = EXPRESSION,
    layer: str = Key.layers.log2tpm,
    loss: Literal["mse", "poisson", "nb", "detected", "all"] | None = None,
    use_rep: str | Sequence[str] | None = None,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    model_params: Mapping[str, Any] | None = None,
    novelty: bool = False,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
) -> FittedPredictor:
    """Fit a predictor, to apply it to other slides.

    If there is a split, the predictor is fitted to the train libraries, and the best step is chosen on the validation
    libraries; otherwise it is fitted to all libraries. `adata` is not changed.

    Parameters
    ----------
    {adata}
    model, target, layer, loss, use_rep, mask_var, library_key, spatial_key, split_key, model_params
        As in :func:`spared_sc.tl.predict_expression`.
    subject_key
        Column of `obs` with the donor of each spot. Parameters are chosen, and predictions shrunk, by inner folds that
        hold out donors rather than sections.
    novelty
        Learn how the training data look, so that spots of other slides that look unlike them are flagged.
    checkpoint, device, batch_size, n_jobs, random_state, show_progress_bar
        As in :func:`spared_sc.tl.predict_expression`.

    Returns
    -------
    The fitted predictor. `fitted.predict(adata)` returns the table for another slide, and
    :func:`spared_sc.tl.predict_expression` with `model=fitted` writes it. `fitted.save(folder)` saves it as safetensors and
    a JSON card with genes, patches, encoder, unit of the target and a hash of the data;
    :func:`spared_sc.tl.load_predictor` reads it.

    Raises
    ------
    KeyError, TypeError, ValueError
        As in :func:`spared_sc.tl.predict_expression`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> fitted = sp.tl.fit_predictor(adata, model="gene_mean", library_key="library_id")
    >>> fitted.predict(adata, library_key="library_id").shape[1]
    16
    """
    adata = validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    compute = make_compute(
        random_state=random_state,
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        show_progress_bar=show_progress_bar,
        checkpoint=checkpoint,
    )
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
    return fit_fold(task, split_fold(task.split, len(libraries.names)), compute)
