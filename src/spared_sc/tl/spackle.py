"""Completion by SpaCKLE."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record, write_columns
from spared_sc._core.report import logger
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from typing import Literal

    import scipy.sparse as sps
    from anndata import AnnData

    from spared_sc._models.completion.spackle import SpackleNet, SpackleParams
    from spared_sc._models.training import Fit

PAPER = "paper"
_WIDTH = 128  # of the encoder; the paper's
_MISSING_GENES = 0.1  # share of a saved model's genes that the data may lack


def spackle_complete(
    adata: AnnData,
    *,
    model: str | Path = "paper",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    key_added: str = Key.layers.spackle,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    n_rings: int = 2,
    mask_share: float = 0.3,
    precomplete: bool = True,
    loss: Literal["all", "hidden"] = "all",
    n_steps: int = 10_000,
    patience: int | None = 1_000,
    learning_rate: float | Literal["search"] = 1e-3,
    train_batch_size: int = 256,
    n_layers: int = 2,
    n_heads: int = 4,
    feedforward: int = 256,
    dropout: float = 0.1,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries with SpaCKLE, a transformer over each spot's neighbourhood.

    Undetected entries are first filled with the adaptive median. The network sees a spot and its neighbours
    up to `n_rings` hops away, with a random share of the detected entries set to zero, and learns to give back
    the whole neighbourhood. To complete a spot, its undetected entries are set to zero and the network's values
    are taken for them.

    Some detected entries are hidden before anything is filled in or trained: one part chooses the best step, the
    other gives the score that is logged and recorded beside those of the adaptive median and the gene mean. Look at
    it before you use the layer.

    Parameters
    ----------
    adata
        Spots x genes.
    model
        `"paper"`: fit the model of Ruiz et al. (2025), section 4, to these data. Or the folder of a saved model, which
        is applied as it is; what concerns fitting (from `split_key` and `save_model` to `dropout`, and `mask_var`) is
        not used then. The model's genes are found by name, in any order. Up to a tenth of them may be missing from
        the data: they count as undetected.
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
        Column of `obs` with `"train"`, `"val"` or `"test"`. Where it exists, the network is trained on the train
        libraries, the best step is chosen on the validation libraries, and the score is taken on the test
        libraries. Without a split all libraries are trained on, apart from a tenth of the detected entries.
    key_added
        Name of the new layer.
    save_model
        Folder to save the fitted model to.
    checkpoint
        Folder to keep the state of training in. A call that finds its own state there, after a crash or an interrupt,
        goes on from it and ends with the same result as without the break.
    n_rings
        Neighbourhood in hops, 0 to 3: 0, 6, 18 or 36 neighbours on a full hexagonal array.
    mask_share
        Share of the detected entries that is hidden in every training batch.
    precomplete
        Fill undetected entries with the adaptive median before training; without it they are zero.
    loss
        `"all"`: squared error over all entries of all spots of the neighbourhood (the paper's equation 5), filled
        medians included; `"hidden"`: over the hidden entries of the spot itself.
    n_steps
        Most training steps.
    patience
        Stop when the validation error has not improved for this many steps. `None` takes all steps.
    learning_rate
        Of Adam, constant. `"search"` fits a model for each of ten values from 1e-5 to 1e-2, evenly spaced on the
        logarithmic scale, as the paper does, and keeps the one with the lowest validation error.
    train_batch_size
        Spots per training step; part of the method.
    n_layers, n_heads, feedforward, dropout
        Of the transformer encoder, of width 128.
    device
        Torch device. `None` asks `sp.settings`, which takes cuda, mps or cpu, in that order.
    batch_size
        Spots per forward pass when completing; changes memory and speed, not results.
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
    `uns["spared_sc"]["spackle"]`
        Parameters, device and genes; of a model fitted here also the training curve (`training`), the learning
        rates tried (`search`) and the score on hidden entries (`score`).

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If several libraries come without `library_key`, a parameter is out of range, the device is absent,
        there are too few detected entries to hold any out, a saved model is damaged or of other genes or another
        layer, or a checkpoint belongs to another fit.
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
    Source: Ruiz et al. (2025), equations 1 to 6. The paper leaves open the number of layers and heads, the width
    of the feed-forward part and the initialisation; what was chosen here and why is in the documentation. The
    values are conditional on detection: they say nothing on whether a zero is a true one, so do not use them for
    differential expression.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8))
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.tl.spackle_complete(adata, library_key="library_id", n_steps=20)
    >>> sorted(adata.uns["spared_sc"]["spackle"]["score"])
    ['gene_mean', 'median', 'n_entries', 'spackle']
    """
    validate.check_adata(adata)
    check_key(adata, key_added, source=layer)
    if batch_size is not None:
        validate.check_number("batch_size", batch_size, 1, whole=True)
    values = validate.get_layer(adata, layer)
    libraries = validate.get_libraries(adata, library_key)
    lattice = validate.get_lattice(adata, libraries, spatial_key)
    order = validate.canonical_order(adata, libraries, spatial_key)
    detected = validate.get_detected(adata)

    from spared_sc._models.completion import spackle
    from spared_sc._models.training import resolve_device

    run = {
        "device": resolve_device(device),
        "batch_size": batch_size or settings.batch_size or 2048,
        "n_threads": validate.n_threads(n_jobs),
    }
    ordered = lattice.reordered(order), libraries.codes[order]
    if model == PAPER:
        params = spackle.SpackleParams(
            n_rings=n_rings,
            mask_share=mask_share,
            precomplete=precomplete,
            loss=loss,
            width=_WIDTH,
            n_layers=n_layers,
            n_heads=n_heads,
            feedforward=feedforward,
            dropout=dropout,
            n_steps=n_steps,
            train_batch_size=train_batch_size,
            learning_rate=learning_rate,
            patience=patience,
        )
        _check_params(params, random_state)
        split = validate.get_split(adata, split_key, libraries)
        spot_split = None if split is None else split[libraries.codes]
        genes = _genes_to_fit(adata, mask_var, detected, spot_split)
        block, known = _block(values, genes)[order], _block(detected, genes)[order]
        fitted = spackle.fit_spackle(
            block,
            known,
            *ordered,
            None if spot_split is None else spot_split[order],
            params,
            seed=random_state,
            show_progress_bar=show_progress_bar,
            checkpoint=None if checkpoint is None else Path(checkpoint),
            **run,
        )
        network, score = fitted.network, fitted.score
        logger.info(
            "MSE on %d hidden entries: SpaCKLE %.4f, adaptive median %.4f, gene mean %.4f",
            *(score[name] for name in ("n_entries", "spackle", "median", "gene_mean")),
        )
        details = {
            "data": spackle.data_hash(block, known),
            "score": score,
            "training": _curve(fitted.fit),
            "search": {name: np.asarray(tried) for name, tried in fitted.search.items()},
        }
        if save_model is not None:
            card = {"layer": layer, "data": details["data"], "score": score, "random_state": random_state}
            spackle.save_spackle(save_model, network, params, adata.var_names[genes].tolist(), card)
    else:
        network, params, genes, card = _load(model, adata, layer)
        network.to(run["device"])
        block, known = _block(values, genes)[order], _block(detected, genes)[order]
        details = {"data": card["data"], "model_version": card["version"]}
    completed = np.empty_like(block)
    completed[order] = spackle.complete(network, params, block, known, *ordered, **run)

    present = genes >= 0
    genes = genes[present]
    filled = validate.dense(values[:, genes])
    filled = np.where(_block(detected, genes), filled, completed[:, present]).astype(
        np.result_type(values.dtype, np.float32), copy=False
    )
    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.spackle_complete",
        params={
            "model": PAPER,
            "fitted": "here" if model == PAPER else "before",
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var and model == PAPER else None,
            "library_key": library_key,
            "split_key": split_key if split_key in adata.obs and model == PAPER else None,
            "lattice": lattice.kind,
            "random_state": random_state,
            **asdict(params),
        },
        slots={"layers": {key_added: write_columns(values, genes, filled)}},
        device=str(run["device"]),
        n_parameters=sum(weights.numel() for weights in network.parameters()),
        genes=adata.var_names[genes].to_numpy(dtype=object),
        **details,
    )
    return adata if copy else None


def _check_params(params: SpackleParams, random_state: int) -> None:
    for name, most in (
        ("n_rings", 3),
        ("n_steps", None),
        ("train_batch_size", None),
        ("n_layers", None),
        ("n_heads", None),
        ("feedforward", None),
    ):
        validate.check_number(name, getattr(params, name), 0 if name == "n_rings" else 1, most, whole=True)
    validate.check_number("random_state", random_state, 0, whole=True)
    if params.patience is not None:
        validate.check_number("patience", params.patience, 1, whole=True)
    validate.check_number("mask_share", params.mask_share, 0.01, 0.99)
    validate.check_number("dropout", params.dropout, 0, 0.9)
    if params.learning_rate != "search":
        validate.check_number("learning_rate", params.learning_rate, 1e-8, 1)
    if params.loss not in ("all", "hidden"):
        raise ValueError(f"loss={params.loss!r} is unknown: choose 'all' or 'hidden'.")
    if params.width % params.n_heads:
        raise ValueError(
            f"n_heads={params.n_heads} does not divide the width of {params.width}: choose 1, 2, 4, 8, 16, ..."
        )


def _genes_to_fit(
    adata: AnnData, mask_var: str | None, detected: sps.csr_matrix, spot_split: np.ndarray | None
) -> np.ndarray:
    """Genes of the mask that some training spot detected."""
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    train = np.ones(adata.n_obs, dtype=bool) if spot_split is None else spot_split == "train"
    seen = np.asarray(detected[train][:, genes].sum(axis=0)).ravel() > 0
    if not seen.any():
        raise ValueError("no gene to model is detected in a training spot: check `mask_var` and the counts.")
    if not seen.all():
        warnings.warn(
            f"{int((~seen).sum())} genes are detected in no training spot and stay as they are "
            f"({validate.listing(adata.var_names[genes[~seen]], 5)}): "
            "select genes with `sp.pp.recipe_spared(adata)` first.",
            UserWarning,
            stacklevel=3,
        )
    return genes[seen]


def _block(matrix: np.ndarray | sps.csr_matrix, genes: np.ndarray) -> np.ndarray:
    """Columns of a matrix as a dense array, float32 or boolean; zero for a gene at -1."""
    block = validate.dense(matrix[:, np.maximum(genes, 0)])
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and training says so
        block = block if block.dtype == bool else block.astype(np.float32)
    block[:, genes < 0] = 0
    return block


def _load(
    folder: str | Path, adata: AnnData, layer: str
) -> tuple[SpackleNet, SpackleParams, np.ndarray, dict[str, Any]]:
    """A saved model, and where its genes are in the data (-1: missing)."""
    from spared_sc._models.completion import spackle

    if isinstance(folder, str) and not Path(folder).exists():
        raise FileNotFoundError(f"model={folder!r} is neither {PAPER!r} nor the folder of a saved model.")
    network, params, card = spackle.load_spackle(folder)
    if card["layer"] != layer:
        raise ValueError(f"the model completes layer {card['layer']!r}, not {layer!r}: pass layer={card['layer']!r}.")
    genes = adata.var_names.get_indexer(card["genes"])
    missing = [gene for gene, at in zip(card["genes"], genes, strict=True) if at < 0]
    if len(missing) > _MISSING_GENES * len(genes):
        raise ValueError(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data "
            f"({validate.listing(missing, 5)}; the data have {validate.listing(adata.var_names, 3)}): use the same kind "
            f"of names. At most {_MISSING_GENES:.0%} may be missing; beyond that, fit a model to these data."
        )
    if missing:
        warnings.warn(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data and count as undetected: "
            f"{validate.listing(missing, 5)}.",
            UserWarning,
            stacklevel=3,
        )
    return network, params, genes, card


def _curve(fit: Fit) -> dict[str, Any]:
    return {
        "step": np.asarray(fit.step),
        "train_mse": np.asarray(fit.train_mse),
        "validation_mse": np.asarray(fit.validation_mse),
        "best_step": fit.best_step,
        "stopped": fit.stopped,
    }
