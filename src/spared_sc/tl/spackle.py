"""Completion by a model: the default, or SpaCKLE as the paper writes it."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key
from spared_sc._core.report import logger, warn
from spared_sc.tl._completers import make_run
from spared_sc.tl._sections import resolve, write

if TYPE_CHECKING:
    from typing import Literal

    from anndata import AnnData

    from spared_sc._kernels.sections import Estimate, Sections
    from spared_sc._models.completion.residual import FittedResidual
    from spared_sc._models.training import Fit
    from spared_sc.tl._completers import Run
    from spared_sc.tl._sections import Resolved

RESIDUAL, PAPER = "residual", "paper"
_MISSING_GENES = 0.1  # share of a saved model's genes that the data may lack


def spackle_complete(
    adata: AnnData,
    *,
    model: str | Path = "residual",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    key_added: str = Key.layers.spackle,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    n_steps: int | None = None,
    patience: int | None = None,
    learning_rate: float | Literal["search"] | None = None,
    train_batch_size: int | None = None,
    dropout: float | None = None,
    use_rep: str | None = None,
    n_rings: int | None = None,
    mask_share: float | None = None,
    precomplete: bool | None = None,
    loss: Literal["all", "hidden"] | None = None,
    n_layers: int | None = None,
    n_heads: int | None = None,
    feedforward: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with a model learned from the detected ones.

    The default, `model="residual"`, combines a count model of the sections (genes load on factors that vary smoothly
    over the tissue, or not; counts are zero-inflated negative binomial) with simple estimates: additive effects,
    neighbours, low rank, regression on other genes. How to combine them is learned on detected entries that were hidden
    from all of them, by a linear stack and a small network on what the stack leaves over.

    `model="paper"` is SpaCKLE, a transformer over each spot's neighbourhood. Undetected entries are first filled with
    the adaptive median; a random share of the detected entries is set to zero, and the network learns to give back the
    whole neighbourhood. To complete a spot, its undetected entries are set to zero.

    In both, some detected entries are hidden before anything is filled in or trained: one part chooses the best step,
    the other gives the score that is logged and recorded beside those of simple estimates. Look at it, or better run
    `sp.tl.audit_completion`, before you use the layer.

    Parameters
    ----------
    adata
        Spots x genes.
    model
        `"residual"` or `"paper"`: fit that model to these data. Or the folder of a saved model, which is applied as it
        is; what concerns fitting (from `save_model` to `feedforward`, and `mask_var`) is not used then. The model's
        genes are found by name, in any order. Up to a tenth of them may be missing from the data: they count as
        undetected.
    layer
        Layer to complete.
    mask_var
        Boolean column of `var`: the genes to model. `"spared_selected"` is used when present, all genes
        otherwise.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the positions that stand in where there are no array coordinates.
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`. Where it exists, the model is fitted to the train
        libraries alone, and these are completed from each other alone: no measurement of another split has a part in
        a train value. The libraries of another split are completed together with the train libraries. For `"paper"`,
        the best step is then chosen on the validation libraries and the score is taken on the test libraries.
    key_added
        Name of the new layer, and beginning of the names of the others.
    save_model
        Folder to save the fitted model to.
    checkpoint
        Folder to keep the state of the fit in. A call that finds its own state there, after a crash or an interrupt,
        goes on from it and ends with the same result as without the break.
    n_steps
        Most training steps: of the network, 2,000 for `"residual"` (whose count model takes at most 400) and 10,000 for
        `"paper"`.
    patience
        Stop when the validation error has not improved for this many steps: 500 for `"residual"`, 1,000 for `"paper"`.
    learning_rate
        Of Adam, constant, 1e-3. For `"paper"`, `"search"` fits a model for each of ten values from 1e-5 to 1e-2, evenly
        spaced on the logarithmic scale, as the paper does, and keeps the one with the lowest validation error.
    train_batch_size
        Entries (`"residual"`: 2,048) or spots (`"paper"`: 256) per training step; part of the method.
    dropout
        Of the network, 0.1.
    use_rep
        `"paper"` only: name in `obsm` of an embedding, such as of the image, that is put beside the expression of each
        spot. A saved model that was fitted with one needs one of the same kind.
    n_rings
        `"paper"` only: neighbourhood in hops, 0 to 3: 0, 6, 18 (the default) or 36 neighbours on a full hexagonal
        array.
    mask_share
        `"paper"` only: share of the detected entries that is hidden in every training batch, 0.3.
    precomplete
        `"paper"` only: fill undetected entries with the adaptive median before training (the default); without it they
        are zero.
    loss
        `"paper"` only: `"all"`, squared error over all entries of all spots of the neighbourhood (the paper's equation
        5, the default), filled medians included; `"hidden"`: over the hidden entries of the spot itself.
    n_layers, n_heads, feedforward
        `"paper"` only: of the transformer encoder, of width 128: 2, 4 and 256.
    device
        Torch device. `None` asks `sp.settings`, which takes cuda, mps or cpu, in that order.
    batch_size
        `"paper"` only: spots per forward pass when completing; changes memory and speed, not results.
    n_jobs
        Threads of the adaptive median. `None` asks `sp.settings`.
    random_state
        Seed of weights, batches and hidden entries. Same seed, machine and number of torch threads: same result.
    show_progress_bar
        Progress with the validation error. `None` asks `sp.settings`.
    copy
        Return a changed copy instead of changing `adata`.

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["spackle"]`
        Expression given detection, in the unit and container of the input layer. Equal to the input where
        detected, and for genes outside of the mask.
    `layers["spackle_rate"]`
        Only by `"residual"`, and only with raw counts: expected count of every entry at the depth of its spot, true
        zeros included; the entry's own count has its say. Raw counts for genes outside of the mask.
    `layers["spackle_sd"]`
        Only by `"residual"`: standard deviation of the filled entries of `layers["spackle"]`, given detection; zero
        elsewhere.
    `uns["spared_sc"]["spackle"]`
        Parameters, device and genes; of a model fitted here also the training curve (`training`), the learning
        rates tried (`search`) and the score on hidden entries (`score`).

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If several libraries come without `library_key`, a parameter is out of range or not one of the model, the
        device is absent, there are too few detected entries to hold any out, a saved model is damaged or of other genes
        or another layer, or a checkpoint belongs to another fit.
    FileNotFoundError
        If there is no saved model.
    OSError
        If a model or a checkpoint cannot be written.
    FloatingPointError
        If training diverges from the start.

    Warns
    -----
    UserWarning
        If genes are detected in no training spot (they stay as they are), or training was interrupted: the best
        model so far is used then.

    Notes
    -----
    Sources: of `"paper"` Ruiz et al. (2025), equations 1 to 6. The paper leaves open the number of layers and heads, the
    width of the feed-forward part and the initialisation; what was chosen here and why is in the documentation.
    `"residual"` is this package's own; the documentation has its formulas.

    `layers["spackle"]` is conditional on detection: it says nothing on whether a zero is a true one, so do not use it
    for differential expression. `layers["spackle_rate"]` is for questions in which true zeros count.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8))
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.spackle_complete(adata, library_key="library_id", n_steps=20)
    >>> sorted(layer for layer in adata.layers if layer.startswith("spackle"))
    ['spackle', 'spackle_rate', 'spackle_sd']
    """
    check_key(validate.check_adata(adata), key_added, source=layer)
    for key in (Key.rate(key_added), Key.sd(key_added)):
        check_key(adata, key, source=layer)
    given = {
        "n_steps": n_steps,
        "patience": patience,
        "learning_rate": learning_rate,
        "train_batch_size": train_batch_size,
        "dropout": dropout,
        "n_rings": n_rings,
        "mask_share": mask_share,
        "precomplete": precomplete,
        "loss": loss,
        "n_layers": n_layers,
        "n_heads": n_heads,
        "feedforward": feedforward,
    }
    given = {name: value for name, value in given.items() if value is not None}
    run = make_run(
        random_state, device=device, batch_size=batch_size, n_jobs=n_jobs, show_progress_bar=show_progress_bar
    )
    where = {
        "layer": layer,
        "mask_var": mask_var,
        "library_key": library_key,
        "spatial_key": spatial_key,
        "use_rep": use_rep,
    }
    if model == RESIDUAL and use_rep is not None:
        raise ValueError("'use_rep' only concerns model='paper': leave it out, or pass that model.")
    libraries = validate.get_libraries(adata, library_key)
    split = validate.get_split(adata, split_key, libraries)
    spot_split = None if split is None else split[libraries.codes]
    if model in (RESIDUAL, PAPER):
        train = None if spot_split is None else spot_split == "train"
        resolved = resolve(adata, **where, spots=train)
        in_order = None if spot_split is None else spot_split[resolved.order]
        fit = _fit_residual if model == RESIDUAL else _fit_paper
        checkpoint = None if checkpoint is None else Path(checkpoint)
        estimate, details = fit(
            resolved.sections, in_order, given, run, checkpoint, _saver(adata, resolved, save_model, layer)
        )
        logger.info(
            "MSE on %d hidden entries: %s",
            details["score"]["n_entries"],
            ", ".join(f"{name} {mse:.4f}" for name, mse in details["score"].items() if name != "n_entries"),
        )
        fitted = "here"
    else:
        saved, card, genes = _load(model, adata, layer)
        resolved = resolve(adata, **where, genes=genes)
        in_order = None if spot_split is None else spot_split[resolved.order]
        estimate, details = _apply(saved, card, resolved.sections, in_order, run)
        model, fitted = details.pop("model"), "before"
    adata = adata.copy() if copy else adata
    write(
        adata,
        resolved,
        estimate,
        key_added=key_added,
        function="tl.spackle_complete",
        params={
            "model": model,
            "fitted": fitted,
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var and fitted == "here" else None,
            "library_key": library_key,
            "split_key": None if split is None else split_key,
            "use_rep": use_rep,
            "random_state": random_state,
        },
        device=str(run.device),
        split=validate.recorded_split(libraries, split),
        **details,
    )
    return adata if copy else None


# --- the default ------------------------------------------------------------------------------------------------------


def _fit_residual(sections, split, given, run, checkpoint, save) -> tuple[Estimate, dict[str, Any]]:
    from spared_sc._models.completion import residual

    params = residual.ResidualParams()
    _check_params(RESIDUAL, params, given)
    params = replace(params, **given)
    if "n_steps" in given:
        params = replace(params, factor=replace(params.factor, n_steps=min(given["n_steps"], params.factor.n_steps)))
    learned_from = sections if split is None else sections.of_spots(np.flatnonzero(split == "train"))
    how = {"device": run.device, "seed": run.seed, "show_progress_bar": run.show_progress_bar}
    fitted = residual.fit_residual(learned_from, params, **how, checkpoint=checkpoint)
    details = {
        "data": residual.data_hash(learned_from),
        "score": fitted.score,
        "training": _curve(fitted.fit),
        "tuned": fitted.tuned,
        "n_parameters": _n_weights(fitted.network) + len(fitted.stack),
        "hyperparameters": asdict(params),
    }
    if save is not None:
        save(residual.save_residual, fitted, card={"data": details["data"]})
    return _complete_residual(fitted, sections, split, run), details


def _complete_residual(fitted: FittedResidual, sections: Sections, split: np.ndarray | None, run: Run) -> Estimate:
    """Complete the train libraries from each other, and those of every other split together with them."""
    from spared_sc._kernels.sections import Estimate
    from spared_sc._models.completion import residual

    how = {"device": run.device, "seed": run.seed, "show_progress_bar": run.show_progress_bar}
    if split is None:
        return residual.complete_residual(fitted, sections, **how)
    parts: dict[str, np.ndarray] = {}
    for name in Key.splits:
        here = split == name
        if not here.any():
            continue
        spots = np.flatnonzero(here | (split == "train"))
        estimate = residual.complete_residual(fitted, sections.of_spots(spots), **how)
        for what in ("values", "rate", "sd"):
            block = getattr(estimate, what)
            if block is not None:
                parts.setdefault(what, np.empty_like(sections.values))[here] = block[here[spots]]
    return Estimate(**parts)


# --- the paper's ------------------------------------------------------------------------------------------------------


def _fit_paper(sections, split, given, run, checkpoint, save) -> tuple[Estimate, dict[str, Any]]:
    from spared_sc._kernels.sections import Estimate
    from spared_sc._models.checkpoint import data_hash
    from spared_sc._models.completion import spackle

    params = spackle.SpackleParams()
    _check_params(PAPER, params, given)
    params = replace(params, **given)
    if params.width % params.n_heads:
        raise ValueError(
            f"n_heads={params.n_heads} does not divide the width of {params.width}: choose 1, 2, 4, 8, 16, ..."
        )
    data = (sections.values, sections.known, sections.lattice, sections.library)
    how = {"device": run.device, "batch_size": run.batch_size, "n_threads": run.n_threads}
    fitted = spackle.fit_spackle(
        *data,
        split,
        params,
        seed=run.seed,
        show_progress_bar=run.show_progress_bar,
        checkpoint=checkpoint,
        embedding=sections.embedding,
        **how,
    )
    details = {
        "data": data_hash(sections.values, sections.known),
        "score": fitted.score,
        "training": _curve(fitted.fit),
        "search": {name: np.asarray(tried) for name, tried in fitted.search.items()},
        "n_parameters": _n_weights(fitted.network),
        "hyperparameters": asdict(params),
    }
    if save is not None:
        save(spackle.save_spackle, fitted.network, params, card={"data": details["data"], "score": fitted.score})
    values = spackle.complete(fitted.network, params, *data, embedding=sections.embedding, **how)
    return Estimate(values), details


# --- saved models -----------------------------------------------------------------------------------------------------


def _saver(adata: AnnData, resolved: Resolved, folder: str | Path | None, layer: str):
    """What writes a fitted model to the folder, if one is asked for."""
    if folder is None:
        return None
    genes = adata.var_names[resolved.genes].tolist()

    def save(write_files, *fitted: Any, card: dict[str, Any]) -> None:
        write_files(folder, *fitted, genes, {"layer": layer, **card})

    return save


def _load(folder: str | Path, adata: AnnData, layer: str) -> tuple[Any, dict[str, Any], np.ndarray]:
    """What was saved, its card, and where its genes are in the data (-1: missing)."""
    from spared_sc._models import checkpoint
    from spared_sc._models.completion import residual, spackle

    if isinstance(folder, str) and not Path(folder).exists():
        raise FileNotFoundError(
            f"model={folder!r} is neither {RESIDUAL!r}, nor {PAPER!r}, nor the folder of a saved model."
        )
    arrays, card = checkpoint.load(folder, residual.KIND, spackle.KIND)
    if not {"layer", "genes"} <= card.keys() or len(set(card["genes"])) < len(card["genes"]):
        raise ValueError(f"the model in {folder} is damaged: its card lacks the layer or names a gene twice.")
    if card["layer"] != layer:
        raise ValueError(f"the model completes layer {card['layer']!r}, not {layer!r}: pass layer={card['layer']!r}.")
    model = (residual if card["kind"] == residual.KIND else spackle).from_files(arrays, card)
    genes = adata.var_names.get_indexer(card["genes"])
    missing = [gene for gene, at in zip(card["genes"], genes, strict=True) if at < 0]
    if len(missing) > _MISSING_GENES * len(genes):
        raise ValueError(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data "
            f"({validate.listing(missing, 5)}; the data have {validate.listing(adata.var_names, 3)}): use the same kind "
            f"of names. At most {_MISSING_GENES:.0%} may be missing; beyond that, fit a model to these data."
        )
    if missing:
        warn(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data and count as undetected: "
            f"{validate.listing(missing, 5)}.",
        )
    return model, card, genes


def _apply(
    saved: Any, card: dict[str, Any], sections: Sections, split: np.ndarray | None, run: Run
) -> tuple[Estimate, dict[str, Any]]:
    """Complete with a saved model."""
    from spared_sc._kernels.sections import Estimate
    from spared_sc._models.completion import residual, spackle

    details = {"data": card["data"], "model_version": card["version"]}
    if card["kind"] == residual.KIND:
        saved.network.to(run.device)
        details |= {
            "model": RESIDUAL,
            "hyperparameters": asdict(saved.params),
            "n_parameters": _n_weights(saved.network),
        }
        return _complete_residual(saved, sections, split, run), details
    network, params = saved
    network.to(run.device)
    _check_embedding(network, sections)
    values = spackle.complete(
        network,
        params,
        *(sections.values, sections.known, sections.lattice, sections.library),
        device=run.device,
        batch_size=run.batch_size,
        n_threads=run.n_threads,
        embedding=sections.embedding,
    )
    return Estimate(values), {
        **details,
        "model": PAPER,
        "hyperparameters": asdict(params),
        "n_parameters": _n_weights(network),
    }


def _check_embedding(network: Any, sections: Sections) -> None:
    """Refuse a saved model and data of which only one has an embedding, or whose embeddings differ in width."""
    wanted = network.embedding_mean.numel() if hasattr(network, "embedding_mean") else 0
    found = 0 if sections.embedding is None else sections.embedding.shape[1]
    if wanted != found:
        raise ValueError(
            f"the model was fitted with an embedding of {wanted} features, and here are {found}: "
            + ("name the embedding with `use_rep=`." if wanted else "leave out `use_rep`.")
        )


# --- shared -----------------------------------------------------------------------------------------------------------


def _check_params(model: str, params: Any, given: dict[str, Any]) -> None:
    """Refuse what is out of range, or not a parameter of the model."""
    known = {field.name for field in fields(params)}
    foreign = sorted(given.keys() - known)
    if foreign:
        other = PAPER if model == RESIDUAL else RESIDUAL
        raise ValueError(
            f"{validate.listing(foreign)} only concern model={other!r}: leave them out, or pass that model."
        )
    for name, (least, most) in _WHOLE.items():
        if name in given:
            validate.check_number(name, given[name], least, most, whole=True)
    for name, (least, most) in _REAL.items():
        if name in given and not (model == PAPER and given[name] == "search"):
            validate.check_number(name, given[name], least, most)
    if given.get("loss", "all") not in ("all", "hidden"):
        raise ValueError(f"loss={given['loss']!r} is unknown: choose 'all' or 'hidden'.")


_WHOLE = {
    "n_rings": (0, 3),
    **dict.fromkeys(("n_steps", "patience", "train_batch_size", "n_layers", "n_heads", "feedforward"), (1, None)),
}
_REAL = {"mask_share": (0.01, 0.99), "dropout": (0, 0.9), "learning_rate": (1e-8, 1)}


def _n_weights(network: Any) -> int:
    return sum(weights.numel() for weights in network.parameters())


def _curve(fit: Fit) -> dict[str, Any]:
    return {
        "step": np.asarray(fit.step),
        "train_mse": np.asarray(fit.train_mse),
        "validation_mse": np.asarray(fit.validation_mse),
        "best_step": fit.best_step,
        "stopped": fit.stopped,
    }
