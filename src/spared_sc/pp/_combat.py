"""Batch correction by ComBat, learned on the train libraries and applied to any library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.columns import names_of
from spared_sc._core.genes import match_genes, saved_ids
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record, write_columns
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

    from spared_sc._kernels.combat import CombatFit


@accepts_spatialdata
@docs.fill()
def combat(
    adata: AnnData,
    *,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    batch_key: str | None = None,
    library_key: str | None = None,
    split_key: str | None = Key.obs.split,
    model: str | Path | None = None,
    save_model: str | Path | None = None,
    key_added: str | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Remove batch effects with ComBat: a location and a scale per batch and gene, shrunk over the genes.

    ComBat is fitted to the train libraries where there is a split. A batch that it was not fitted to, such as a test
    library or a new section, gets its own location and scale, estimated from its spots and shrunk with the prior of
    the train batches.

    Parameters
    ----------
    {adata}
    layer
        Layer to correct. SpaRED corrects a completed layer, such as `"median"`. In a layer that is not completed, the
        zeros of undetected entries are part of the fit and are corrected like all other values.
    batch_key
        Column of `obs` with the batch of each spot. By default every library is a batch.
    model
        Folder of a saved fit to apply. It corrects the genes that it knows.
    save_model
        Folder in which to save the fit.
    key_added
        Name of the new layer; `"<layer>_combat"` by default.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `layers["log2tpm_combat"]`
        Corrected values, in the unit and container of the layer; named by `key_added`. Undetected entries are
        corrected too; genes outside of the mask stay as they are.
    `uns["spared_sc"]["log2tpm_combat"]`
        Parameters, the batches of the fit, and new batches.

    Raises
    ------
    KeyError
        If a named layer or column does not exist.
    ValueError
        If there are fewer than two batches of at least two spots to fit, or a saved model belongs to other data.
    FileNotFoundError
        If there is no saved model.
    OSError
        If the model cannot be saved; `adata` is unchanged then.

    Warns
    -----
    UserWarning
        If genes do not vary within the batches (they stay as they are), or batches of one spot are left out of the fit.

    Notes
    -----
    Source: Johnson et al. (2007), fitted by `pycombat`, which divides the variance of the location's prior by n - 1
    where `scanpy.pp.combat` divides by n. New batches get the same posterior, with the moments of the prior taken over
    all train batches and genes.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, library_effect=0.5, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=32)
    >>> sp.pp.combat(adata, library_key="library_id")
    >>> "log2tpm_combat" in adata.layers
    True
    """
    from spared_sc._kernels.combat import apply_combat
    from spared_sc._models import checkpoint

    validate.check_adata(adata)
    key_added = key_added or f"{layer}_combat"
    check_key(adata, key_added, source=layer)
    values = validate.get_layer(adata, layer)
    libraries = validate.get_libraries(adata, library_key)
    batch = _batches(adata, libraries, batch_key)
    if model is None:
        checkpoint.check_place(save_model)
        split = validate.get_split(adata, split_key, libraries)
        genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
        train = np.ones(adata.n_obs, dtype=bool) if split is None else split[libraries.codes] == "train"
        fit = _fit(validate.dense(values[:, genes])[train], batch[train], batch_key or libraries.key)
        _warn_of_constant_genes(adata.var_names[genes[fit.variance == 0]])
        if save_model is not None:
            _save(save_model, fit, adata.var_names[genes].tolist(), saved_ids(adata, genes), layer)
    else:
        split = None
        fit, genes = _load(model, adata, layer)
    new = sorted(set(np.unique(batch).tolist()) - set(fit.batches))
    if new:
        logger.info("batches that the fit does not know get their own location and scale: %s", validate.listing(new))
    corrected = apply_combat(fit, validate.dense(values[:, genes]), batch)
    corrected = corrected.astype(np.result_type(values.dtype, np.float32), copy=False)

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.combat",
        params={
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var and model is None else None,
            "batch_key": batch_key,
            "library_key": libraries.key,
            "split_key": None if split is None else split_key,
            "model": "learned here" if model is None else "loaded",
        },
        slots={"layers": {key_added: write_columns(values, genes, corrected)}},
        split=validate.recorded_split(libraries, split),
        batches=np.asarray(fit.batches, dtype=object),
        new_batches=np.asarray(new, dtype=object),
    )
    return adata if copy else None


def _batches(adata: AnnData, libraries: validate.Libraries, batch_key: str | None) -> np.ndarray:
    """Name of the batch of every spot."""
    if batch_key is None:
        return np.asarray(libraries.names)[libraries.codes]
    batches = validate.get_column(adata, "obs", batch_key, remedy="pass one of these as `batch_key=`")
    return names_of(batches, f"adata.obs[{batch_key!r}]").astype(str)


def _fit(values: np.ndarray, batch: np.ndarray, key: str | None) -> CombatFit:
    """ComBat fitted to the batches of at least two spots."""
    from spared_sc._kernels.combat import fit_combat

    names, n_spots = np.unique(batch, return_counts=True)
    single = names[n_spots == 1]
    if len(single):
        warn(f"{len(single)} batches have one spot and are left out of the fit ({validate.listing(single, 5)}).")
    if (n_spots > 1).sum() < 2:
        raise ValueError(
            f"ComBat compares batches, and there are fewer than two to learn from (column {key!r}: "
            f"{validate.listing(names)}): leave ComBat out, or name another column with `batch_key=`."
        )
    usable = ~np.isin(batch, single)
    return fit_combat(values[usable], batch[usable])


def _warn_of_constant_genes(names: pd.Index) -> None:
    if len(names):
        warn(
            f"{len(names)} genes do not vary within the batches and stay as they are "
            f"({validate.listing(names, 5)}): drop them with `mask_var`."
        )


def _save(folder: str | Path, fit: CombatFit, genes: list[str], ids: list[str] | None, layer: str) -> None:
    from spared_sc._models import checkpoint

    checkpoint.save(
        folder,
        "combat",
        {
            "mean": fit.mean,
            "variance": fit.variance,
            "location": fit.location,
            "scale": fit.scale,
            checkpoint.GENES: checkpoint.genes_hash(genes, ids),
        },
        {
            "genes": genes,
            **({} if ids is None else {"gene_ids": ids}),
            "layer": layer,
            "batches": fit.batches,
            "location_prior": fit.location_prior,
            "scale_prior": fit.scale_prior,
        },
    )


def _load(folder: str | Path, adata: AnnData, layer: str) -> tuple[CombatFit, np.ndarray]:
    """A saved fit, reduced to the genes of the data, and their columns."""
    from spared_sc._models import checkpoint

    arrays, card = checkpoint.load(folder, "combat")
    with checkpoint.fitting(f"the model in {folder}", "Fit and save it again."):
        fit, names = _fit_of(arrays, card)
        ids = checkpoint.ids_of(card.get("gene_ids"), names)
        checkpoint.check_genes(arrays, names, ids)
    if card.get("layer") != layer:
        raise ValueError(f"the model corrects layer {card['layer']!r}, not {layer!r}: pass layer={card['layer']!r}.")
    at = match_genes(names, ids, adata.var_names, adata.var.get(Key.var.gene_ids))
    known = at >= 0
    if not known.any():
        raise ValueError(
            f"none of the model's genes ({validate.listing(names, 3)}) is in adata.var_names "
            f"({validate.listing(adata.var_names, 3)}): use the same kind of names."
        )
    if not known.all():
        logger.info("%d of the model's %d genes are not in the data", (~known).sum(), known.size)
    genes = np.flatnonzero(known)
    return fit.of_genes(genes), at[genes]


def _fit_of(arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> tuple[CombatFit, list[str]]:
    """The fit in a model folder, and its genes; an error if they do not fit together."""
    from spared_sc._kernels.combat import CombatFit
    from spared_sc._models.checkpoint import names_of

    batches, names = names_of(card["batches"], "batch name"), names_of(card["genes"])
    of_genes, of_both = (len(names),), (len(batches), len(names))
    shapes: dict[str, tuple[int, ...]] = {"mean": of_genes, "variance": of_genes, "location": of_both, "scale": of_both}
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype != np.float64:
            raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, expected float64 {shape}")
    if not isinstance(card["layer"], str):
        raise TypeError(f"{card['layer']!r} is no name of a layer")
    priors = {f"{name}_prior": tuple(map(float, card[f"{name}_prior"])) for name in ("location", "scale")}
    if any(len(prior) != 2 for prior in priors.values()):
        raise ValueError("a prior has two numbers")
    fit = CombatFit(batches, *(arrays[name] for name in shapes), *priors.values())  # type: ignore[arg-type]
    return fit, names
