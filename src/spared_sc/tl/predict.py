"""Expression predicted from the image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import as_given, check_key, record
from spared_sc._core.report import logger, warn
from spared_sc.tl import _prediction as of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Literal

    import pandas as pd
    from anndata import AnnData

    from spared_sc._models.prediction.base import How
    from spared_sc._models.prediction.fitted import FittedPredictor

_REP = "X_classical"


def predict_expression(
    adata: AnnData,
    *,
    model: str | Path | FittedPredictor = "ridge",
    layer: str = Key.layers.log2tpm,
    loss: Literal["detected", "all"] = "detected",
    use_rep: str = _REP,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    key_added: str | None = None,
    model_params: Mapping[str, Any] | None = None,
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

    With the name of a predictor, it is fitted here. Where there is a split, to the train libraries, with the best step
    chosen on the validation libraries, and all libraries are predicted. Where there is none, every library (or subject)
    is predicted by a fit to the others, so that no prediction comes from a model that has seen its own library.

    With a fitted or saved predictor, `adata` needs an image and positions, and no expression.

    Parameters
    ----------
    adata
        Spots x genes.
    model
        Name of a predictor (:func:`spared_sc.tl.predictors` lists them), a fitted one, or the folder of a saved one.
    layer
        Target: a raw layer such as `"log2tpm"`, or a completed one such as `"spackle"`. Not used with a fitted predictor,
        like `loss`, `mask_var`, `subject_key`, `split_key`, `model_params` and `checkpoint`. A layer whose making (such as
        ComBat or completion, without the split) has looked at the sections that are predicted gives predictions that
        are marked `"seen"` and not scored.
    loss
        Entries that count in fitting: `"detected"` ones, so that the prediction is expression given detection, or
        `"all"`, as in the paper, with undetected entries as the layer has them.
    use_rep
        Embedding in `obsm`, for predictors that work on one; :func:`spared_sc.tl.embed_patches` writes it.
    mask_var
        Boolean column of `var`: the genes to predict. `"spared_selected"` is used when present, all genes otherwise.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    subject_key
        Column of `obs` with the donor: without a split, all sections of a donor are held out together. Sections of one
        donor look alike, and scores with siblings in training say little about another donor.
    spatial_key
        Name in `obsm` of the spots' positions in pixels of the full-resolution image.
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`, used when present. Networks need a `"val"`. `None` ignores it.
    key_added
        Name of the new table; `"predicted_<model>"` by default.
    model_params
        Parameters of the predictor, such as `{"n_steps": 500}`; :func:`spared_sc.tl.predictors` lists them.
    checkpoint
        Folder to keep the state of a network's fit in. A call that finds its own state there goes on from it and ends
        with the same result as without the break.
    force
        Predict although the patches show another size of tissue, or another resolution, than those of training.
    device
        Torch device; `None` asks `sp.settings`.
    batch_size
        Spots per forward pass at inference; the result does not depend on it.
    n_jobs
        Threads of compiled kernels. The result does not depend on it.
    random_state
        Seed of weights, batches and augmentation.
    show_progress_bar
        `None` asks `sp.settings`.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obsm["predicted_ridge"]`
        With the name of the model. DataFrame, spots x genes, float32, in the unit of the target layer.
        :func:`spared_sc.get.predicted` gives it as an AnnData.
    `obs["predicted_ridge_unlike"]`
        Spots that look unlike anything in training: farther from it, in the leading components of their embedding, than
        all but one in a thousand of the train spots. Written where the predictor looks at the image.
    `uns["spared_sc"]["predicted_ridge"]`
        Parameters, and under `roles` the part that each library had: only `"test"` and `"held out"` ones have honest
        predictions, and :func:`spared_sc.tl.score_prediction` scores no `"train"` library, and none whose expression the
        layer has `"seen"`.

    Raises
    ------
    KeyError
        If a named layer, column, embedding or predictor does not exist.
    TypeError
        If the predictor has no such parameter.
    ValueError
        If there is neither a split nor a second library to learn from, if a split has no validation library for a
        network to choose its best step on, if the patches do not match those of training, or if a saved model is
        damaged.
    FileNotFoundError
        If there is no saved model, or an image is missing.

    Notes
    -----
    The predictors and their sources are on the page about prediction. `depth_only` uses the measured depth of the spots
    that it predicts: it is an anchor for scores, no image model.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> sp.tl.predict_expression(adata, model="ridge", library_key="library_id")
    >>> adata.obsm["predicted_ridge"].shape[1]
    16
    """
    adata = validate.check_adata(adata, genes=False)
    libraries = validate.get_libraries(adata, library_key)
    how = of.make_how(random_state, device, batch_size, n_jobs, show_progress_bar)
    if isinstance(model, str) and model in _names():
        return _fit_and_predict(
            adata,
            libraries,
            model,
            layer=layer,
            loss=loss,
            use_rep=use_rep,
            mask_var=mask_var,
            library_key=library_key,
            subject_key=subject_key,
            spatial_key=spatial_key,
            split_key=split_key,
            key_added=Key.predicted(model) if key_added is None else key_added,
            params=dict(model_params or {}),
            checkpoint=checkpoint,
            how=how,
            copy=copy,
        )
    fitted, source = _fitted(model)
    key_added = Key.predicted(fitted.name) if key_added is None else key_added
    _check_name(adata, key_added)
    roles, codes = of.recognised(fitted, adata, libraries, spatial_key)
    prediction, unlike = _apply(fitted, adata, libraries, codes[libraries.codes], spatial_key, how, force=force)
    logger.info("predicted on the scale of layer %r of the training data", fitted.card["layer"])
    adata = adata.copy() if copy else adata
    _write(
        adata,
        key_added,
        prediction,
        unlike,
        fitted.genes,
        params={"model": fitted.name, "fitted": source, "library_key": library_key, "force": force},
        roles=roles,
        groups={name: name for name in libraries.names},
        gene_mean=fitted.gene_mean,
        card={name: value for name, value in fitted.card.items() if name not in ("libraries", "codes")},
    )
    return adata if copy else None


def fit_predictor(
    adata: AnnData,
    *,
    model: str = "ridge",
    layer: str = Key.layers.log2tpm,
    loss: Literal["detected", "all"] = "detected",
    use_rep: str = _REP,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    model_params: Mapping[str, Any] | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
) -> FittedPredictor:
    """Fit a predictor, to apply it to other slides.

    With a split, it is fitted to the train libraries, and the best step chosen on the validation libraries; without, it
    is fitted to all libraries. `adata` is not changed.

    Parameters
    ----------
    adata
        Spots x genes.
    model, layer, loss, use_rep, mask_var, library_key, spatial_key, split_key, model_params, checkpoint
        As in :func:`spared_sc.tl.predict_expression`.
    device, batch_size, n_jobs, random_state, show_progress_bar
        As in :func:`spared_sc.tl.predict_expression`.

    Returns
    -------
    The fitted predictor. `fitted.save(folder)` writes it, as safetensors and a JSON card with genes, patches, encoder,
    scale of the target and a hash of the data. Pass it, or the folder, to :func:`spared_sc.tl.predict_expression`.

    Raises
    ------
    KeyError
        If a named layer, column, embedding or predictor does not exist.
    TypeError
        If the predictor has no such parameter.
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> fitted = sp.tl.fit_predictor(adata, model="ridge", library_key="library_id")
    >>> len(fitted.genes)
    16
    """
    adata = validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    how = of.make_how(random_state, device, batch_size, n_jobs, show_progress_bar)
    split = validate.get_split(adata, split_key, libraries)
    every, none = np.ones(len(libraries.names), dtype=bool), np.zeros(len(libraries.names), dtype=bool)
    part = of.Part(every, none, every) if split is None else of.Part(split == "train", split == "val", every)
    options = (model, layer, loss, use_rep, mask_var, spatial_key, split_key, split, dict(model_params or {}))
    given = _given(adata, libraries, *options)
    return of.fit_one(part=part, how=replace(how, checkpoint=of.checkpoint_of(checkpoint, 0, 1)), **given)


def predictors() -> pd.DataFrame:
    """Predictors that :func:`spared_sc.tl.predict_expression` knows.

    Returns
    -------
    A table with one row per predictor: `needs` (what it takes of a spot), `paper`, `pretrained` (weights that training
    starts from, and their licence) and `parameters` with their defaults.

    Examples
    --------
    >>> import spared_sc as sp
    >>> sp.tl.predictors().loc["ridge", "needs"]
    'embedding'
    """
    import pandas as pd

    from spared_sc._models.prediction.registry import PREDICTORS, default_params

    rows = {
        name: {
            "needs": ", ".join(one.needs) or "nothing",
            "paper": one.paper,
            "pretrained": one.pretrained,
            "parameters": ", ".join(f"{key}={value!r}" for key, value in default_params(name).items()),
        }
        for name, one in PREDICTORS.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def _names() -> list[str]:
    from spared_sc._models.prediction.registry import PREDICTORS

    return list(PREDICTORS)


def _given(
    adata: AnnData,
    libraries: validate.Libraries,
    model: str,
    layer: str,
    loss: str,
    use_rep: str,
    mask_var: str | None,
    spatial_key: str,
    split_key: str | None,
    split: np.ndarray | None,
    params: dict[str, Any],
) -> dict[str, Any]:
    """What every fit to these data is given."""
    from spared_sc._models.prediction.registry import PREDICTORS, make_predictor

    make_predictor(model, params)  # what is wrong with the parameters shows before any work is done
    if split is not None and PREDICTORS[model].validates and "val" not in split:
        raise ValueError(
            f"{model!r} chooses its best step on validation libraries, and adata.obs[{split_key!r}] has none: set some to "
            "'val', as `sp.pp.split_libraries(adata)` does, or pass split_key=None."
        )
    if loss not in of.LOSSES:
        raise ValueError(f"loss={loss!r} is unknown: choose {validate.listing(of.LOSSES)}.")
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    needs = PREDICTORS[model].needs
    spots = of.get_spots(adata, libraries, needs, spatial_key=spatial_key, use_rep=use_rep)
    target, detected = validate.get_block(adata, layer, genes)
    spots = replace(spots, target=target, known=detected if loss == "detected" else None)
    embedded = adata.uns.get(Key.uns.records, {}).get(use_rep, {}) if "embedding" in needs else {}
    recipe = spots.patches.recipe if spots.patches is not None else embedded.get("patches")
    by = of.what_tells_apart(adata, libraries, spatial_key)
    card = {
        "layer": layer,
        "unit": of.unit_of(adata, layer),
        "learned_across": of.learned_across(adata, layer, libraries, split_key, split),
        "loss": loss,
        "use_rep": use_rep if "embedding" in needs else None,
        "encoder": as_given(embedded.get("encoder")),
        "embedded": as_given(embedded.get("params")),
        "patches": None if recipe is None else of.scale_of(recipe),
        "recognised_by": by,
        "libraries": of.fingerprints(adata, libraries, spatial_key, by),
    }
    return {
        "name": model,
        "params": params,
        "spots": spots,
        "genes": adata.var_names[genes].tolist(),
        "card": card,
        "looks": of.appearance(spots),
        "detected": detected,
        "order": validate.canonical_order(adata, libraries, spatial_key),
    }


def _fit_and_predict(
    adata: AnnData,
    libraries: validate.Libraries,
    model: str,
    *,
    layer: str,
    loss: str,
    use_rep: str,
    mask_var: str | None,
    library_key: str | None,
    subject_key: str | None,
    spatial_key: str,
    split_key: str | None,
    key_added: str,
    params: dict[str, Any],
    checkpoint: str | Path | None,
    how: How,
    copy: bool,
) -> AnnData | None:
    from spared_sc._models.prediction.registry import PREDICTORS

    _check_name(adata, key_added)
    split = validate.get_split(adata, split_key, libraries)
    groups = np.asarray(validate.get_subjects(adata, subject_key, libraries))
    if split is None and len(np.unique(groups)) < 2:
        raise ValueError(
            "there is one library (or subject) and no split: nothing is left to predict. Add sections, name parts of the "
            "section as libraries with `library_key=`, or fit with `sp.tl.fit_predictor(adata)` to predict another slide."
        )
    _warn_of_siblings(split, groups)
    given = _given(adata, libraries, model, layer, loss, use_rep, mask_var, spatial_key, split_key, split, params)
    about = PREDICTORS[model]
    parts, roles = of.plan(split, groups, validates=about.validates, least_train=about.least_train)
    learned_across = given["card"]["learned_across"]
    if learned_across:
        roles = ["train" if role == "train" else "seen" for role in roles]
        warn(
            f"{learned_across}, also from those that are predicted here: these predictions are not scored. Make a split, and "
            "the layer with it, or take one that looks at one section at a time, such as 'log2tpm' or 'median'.",
        )
    prediction = np.empty((adata.n_obs, len(given["genes"])), dtype=np.float32)
    unlike = None if given["looks"] is None else np.zeros(adata.n_obs, dtype=bool)
    reports = []
    for fold, part in enumerate(parts):
        here = replace(how, checkpoint=of.checkpoint_of(checkpoint, fold, len(parts)))
        fitted = of.fit_one(part=part, how=here, **given)
        stopped = fitted.predictor.fit_report
        if len(parts) > 1 and stopped is not None and stopped.stopped == "interrupted":
            raise KeyboardInterrupt(
                f"interrupted in fit {fold + 1} of {len(parts)}; nothing was written. With checkpoint='folder' the same "
                "call goes on from there."
            )
        rows = np.flatnonzero(part.predicted[libraries.codes])
        here_rows = given["spots"].rows(rows)
        prediction[rows] = fitted.predictor.predict(here_rows, here, own_library=here_rows.library)
        if unlike is not None:
            unlike[rows] = fitted.novelty.unlike(given["looks"][rows])
        reports.append(fitted.predictor.report())
    adata = adata.copy() if copy else adata
    _write(
        adata,
        key_added,
        prediction,
        unlike,
        given["genes"],
        params={
            "model": model,
            "fitted": "here",
            "layer": layer,
            "loss": loss,
            "use_rep": given["card"]["use_rep"],
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": library_key,
            "subject_key": subject_key,
            "split_key": None if split is None else split_key,
            "random_state": how.seed,
            "model_params": params,
        },
        roles=dict(zip(libraries.names, roles, strict=True)),
        groups=dict(zip(libraries.names, groups.tolist(), strict=True)),
        device=str(how.device),
        fits={f"fit_{i}": report for i, report in enumerate(reports)},
        card={name: value for name, value in given["card"].items() if name not in ("libraries", "codes")},
    )
    return adata if copy else None


def _check_name(adata: AnnData, key_added: str) -> None:
    """Refuse, besides names that cannot be written, those that mean something else in a table of scores."""
    from spared_sc._kernels.metrics import FLOORS
    from spared_sc._models.prediction.registry import ANCHORS

    check_key(adata, key_added, attr="obsm")
    if key_added in (*ANCHORS, *FLOORS):
        raise ValueError(f"key_added={key_added!r} is the name of an anchor in tables of scores: pass another.")


def _warn_of_siblings(split: np.ndarray | None, groups: np.ndarray) -> None:
    """Say that scores will be of donors who were in training."""
    if split is None:
        return
    siblings = sorted(set(groups[split == "train"]) & set(groups[split != "train"]))
    if siblings:
        warn(
            f"{validate.listing(siblings, 5)} have libraries in 'train' and in other parts of the split: scores say little "
            "about other donors. `sp.pp.split_libraries(adata, subject_key=...)` keeps donors together.",
        )


def _fitted(model: Any) -> tuple[FittedPredictor, str]:
    """A fitted predictor, and where it comes from."""
    from spared_sc._models.prediction.fitted import FittedPredictor, load_fitted

    if isinstance(model, FittedPredictor):
        return model, "before"
    if not isinstance(model, str | Path):
        raise TypeError(
            f"model is a {type(model).__name__}: give a name, a fitted predictor or the folder of a saved one."
        )
    if not Path(model).exists():
        raise KeyError(
            f"there is no predictor and no folder {str(model)!r}: choose among {validate.listing(_names(), 30)}."
        )
    return load_fitted(model), str(model)


def _apply(
    fitted: FittedPredictor,
    adata: AnnData,
    libraries: validate.Libraries,
    own_library: np.ndarray,
    spatial_key: str,
    how: How,
    *,
    force: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Prediction, and the spots unlike those in training."""
    card, needs = fitted.card, fitted.predictor.needs
    others = tuple(need for need in needs if need != "embedding")
    spots = of.get_spots(adata, libraries, others, spatial_key=spatial_key, recipe=card["patches"])
    if spots.patches is not None:
        of.check_scale(card["patches"], spots.patches.recipe, force=force)
    if "embedding" in needs:
        spots = replace(spots, embedding=of.embedding_for(card, adata, libraries, spatial_key, how, force=force))
    prediction = fitted.predictor.predict(spots, how, own_library=own_library)
    looks = of.appearance(spots)
    return prediction, None if looks is None or fitted.novelty is None else fitted.novelty.unlike(looks)


def _write(
    adata: AnnData,
    key_added: str,
    prediction: np.ndarray,
    unlike: np.ndarray | None,
    genes: list[str],
    *,
    params: Mapping[str, Any],
    **details: Any,
) -> None:
    import pandas as pd

    slots: dict[str, dict[str, Any]] = {
        "obsm": {key_added: pd.DataFrame(prediction, index=adata.obs_names, columns=genes)}
    }
    folders = [gene for gene in genes if "/" in gene]
    if folders:
        warn(
            f"{validate.listing(folders, 3)}: a table with such names cannot be written to zarr, and soon not to h5ad. "
            "`sp.get.predicted(adata)` can, or rename the genes.",
        )
    before = adata.uns.get(Key.uns.records, {}).get(key_added, {}).get("slots", ())
    if unlike is not None:
        slots["obs"] = {Key.unlike(key_added): unlike}
        logger.info("%d of %d spots look unlike anything in training", int(unlike.sum()), len(unlike))
    record(adata, key=key_added, function="tl.predict_expression", params=params, slots=slots, **details)
    if unlike is None and f'obs["{Key.unlike(key_added)}"]' in before:
        del adata.obs[Key.unlike(key_added)]  # of the table that this one replaces
