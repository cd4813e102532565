"""Completion by SpaCKLE."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record, write_columns
from spared_sc._core.report import logger
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from typing import Literal

    from anndata import AnnData

WIDTH = 128  # of the encoder; the paper's


def spackle_complete(
    adata: AnnData,
    *,
    model: Literal["paper"] = "paper",
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    key_added: str = Key.layers.spackle,
    n_rings: int = 2,
    mask_share: float = 0.3,
    n_steps: int = 10_000,
    patience: int | None = 1_000,
    learning_rate: float = 1e-3,
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
        `"paper"`: the model of Ruiz et al. (2025), section 4.
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
    n_rings
        Neighbourhood in hops, 0 to 3: 0, 6, 18 or 36 neighbours on a full hexagonal array.
    mask_share
        Share of the detected entries that is hidden in every training batch.
    n_steps
        Most training steps.
    patience
        Stop when the validation error has not improved for this many steps. `None` takes all steps.
    learning_rate
        Of Adam, constant.
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
        Parameters, device, training curve (`training`) and score on hidden entries (`score`).

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If several libraries come without `library_key`, a parameter is out of range, the device is absent, or
        there are too few detected entries to hold any out.
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
    if model != "paper":
        raise ValueError(f"model={model!r} is unknown: choose 'paper'.")
    validate.check_adata(adata)
    check_key(adata, key_added)
    for name, value, least, most in (
        ("n_rings", n_rings, 0, 3),
        ("n_steps", n_steps, 1, None),
        ("patience", patience, 1, None),
        ("train_batch_size", train_batch_size, 1, None),
        ("batch_size", batch_size, 1, None),
        ("n_layers", n_layers, 1, None),
        ("n_heads", n_heads, 1, None),
        ("feedforward", feedforward, 1, None),
        ("random_state", random_state, 0, None),
    ):
        if value is not None or name == "random_state":
            validate.check_number(name, value, least, most, whole=True)
    for name, value, least, most in (
        ("mask_share", mask_share, 0.01, 0.99),
        ("learning_rate", learning_rate, 1e-8, 1),
        ("dropout", dropout, 0, 0.9),
    ):
        validate.check_number(name, value, least, most)
    if WIDTH % n_heads:
        raise ValueError(f"n_heads={n_heads} does not divide the width of {WIDTH}: choose 1, 2, 4, 8, 16, ...")
    values = validate.get_layer(adata, layer)
    mask = validate.gene_mask(adata, mask_var, optional=Key.var.selected)
    libraries = validate.get_libraries(adata, library_key)
    split = validate.get_split(adata, split_key, libraries)
    lattice = validate.get_lattice(adata, libraries, spatial_key)
    order = validate.canonical_order(adata, libraries, spatial_key)
    n_threads = validate.n_threads(n_jobs)
    genes = np.flatnonzero(mask)
    block = validate.dense(values[:, genes])
    block = block.astype(np.result_type(block.dtype, np.float32), copy=False)
    detected = validate.dense(validate.get_detected(adata)[:, genes])
    spot_split = None if split is None else split[libraries.codes]
    seen = (detected if split is None else detected[spot_split == "train"]).any(axis=0)
    if not seen.any():
        raise ValueError("no gene to model is detected in a training spot: check `mask_var` and the counts.")
    if not seen.all():
        warnings.warn(
            f"{int((~seen).sum())} genes are detected in no training spot and stay as they are "
            f"({validate.listing(adata.var_names[genes[~seen]], 5)}): "
            "select genes with `sp.pp.recipe_spared(adata)` first.",
            UserWarning,
            stacklevel=2,
        )

    from spared_sc._models.completion import spackle
    from spared_sc._models.training import resolve_device

    torch_device = resolve_device(device)
    params = spackle.SpackleParams(
        n_rings=n_rings,
        mask_share=mask_share,
        width=WIDTH,
        n_layers=n_layers,
        n_heads=n_heads,
        feedforward=feedforward,
        dropout=dropout,
        n_steps=n_steps,
        train_batch_size=train_batch_size,
        learning_rate=learning_rate,
        patience=patience,
    )
    result = spackle.fit_and_complete(
        block[np.ix_(order, seen)].astype(np.float32, copy=False),
        detected[np.ix_(order, seen)],
        lattice.reordered(order),
        libraries.codes[order],
        None if spot_split is None else spot_split[order],
        params,
        device=torch_device,
        batch_size=batch_size or settings.batch_size or 2048,
        seed=random_state,
        n_threads=n_threads,
        show_progress_bar=show_progress_bar,
    )
    logger.info(
        "MSE on %d hidden entries: SpaCKLE %.4f, adaptive median %.4f, gene mean %.4f",
        *(result.score[name] for name in ("n_entries", "spackle", "median", "gene_mean")),
    )
    completed = np.empty((adata.n_obs, int(seen.sum())), dtype=block.dtype)
    completed[order] = result.completed
    block[:, seen] = np.where(detected[:, seen], block[:, seen], completed)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.spackle_complete",
        params={
            "model": model,
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var else None,
            "library_key": library_key,
            "split_key": split_key if split is not None else None,
            "lattice": lattice.kind,
            "random_state": random_state,
            **spackle.params_as_dict(params),
        },
        slots={"layers": {key_added: write_columns(values, genes, block)}},
        device=str(torch_device),
        n_parameters=result.n_parameters,
        genes=adata.var_names[genes[seen]].to_numpy(dtype=object),
        score=result.score,
        training={
            "step": result.fit.step,
            "train_mse": result.fit.train_mse,
            "validation_mse": result.fit.validation_mse,
            "best_step": result.fit.best_step,
            "stopped": result.fit.stopped,
        },
    )
    return adata if copy else None
