"""Completion of undetected entries by any method."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._core import docs, validate
from spared_sc._core.compute import OF_RATES, make_compute
from spared_sc._core.files import as_path
from spared_sc._core.genes import match_genes, saved_ids
from spared_sc._core.keys import Key
from spared_sc._core.lineage import check_rep
from spared_sc._core.record import check_key
from spared_sc._core.report import announce, logger, warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.threads import limited_threads
from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED
from spared_sc._models.device import check_device
from spared_sc.tl._resolve import resolve, write_layers

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._kernels.sections import Estimate
    from spared_sc._models.completion.base import Completer
    from spared_sc._models.completion.files import SavedCompleter
    from spared_sc.tl._resolve import Resolved

_MISSING_GENES = 0.1  # share of a saved model's genes that the data may lack


@accepts_spatialdata
@docs.fill()
def complete(
    adata: AnnData,
    *,
    method: str | Path | Completer = "counts",
    method_params: Mapping[str, Any] | None = None,
    layer: str = Key.layers.log2tpm,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    split_key: str | None = Key.obs.split,
    use_rep: str | None = None,
    allow_unrecorded_rep: bool = False,
    key_added: str | None = None,
    write: str | Collection[str] | None = None,
    save_model: str | Path | None = None,
    checkpoint: str | Path | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    n_jobs: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Fill undetected entries, and denoise all entries where the method estimates expected counts.

    :func:`spared_sc.tl.completers` lists the methods and their parameters. There are two results. The completed layer
    keeps detected values and fills the others with an estimate *given detection*, as in the paper. The denoised layer
    estimates the expression of every entry at equal depth, true zeros included: use it for maps, clustering, embeddings
    and training targets. No layer is for differential expression or for tests of the correlation of two genes.

    Parameters
    ----------
    {adata}
    method
        Name of a method, or a `Completer` of your own. Or the folder of a saved model, which is applied as it is: its
        genes are found by name, in any order, and up to a tenth of them may be missing from the data (they count as
        undetected). `mask_var` and what concerns fitting are not used then.
    method_params
        Parameters of the method by name. Those that are left out or `None` are tuned on detected entries that are hidden
        for the purpose, where the method has values to try.
    layer
        Layer to complete.
    split_key
        Column of `obs` with `"train"`, `"val"` or `"test"`, used where it exists. The method is then fitted to the train
        libraries, and these are completed from each other alone: no measurement of another split has a part in a train
        value. The libraries of another split are completed together with the train libraries.
    use_rep
        Key in `obsm` of an embedding of the spots, for the methods that use one (`"sme"`, `"paper"`). Where the method is
        tuned or scored on hidden entries, it must be an image embedding.
    key_added
        Name of the new layer, and beginning of the names of the others. `None` takes the name of the method, and
        `"spackle"` for `"counts"`, whose name is that of raw counts.
    save_model
        Folder to save a fitted model to (`"counts"`, `"paper"`).
    checkpoint
        Folder in which the state of a fit is kept (`"counts"`, `"paper"`). The same call after an interrupt or a crash
        resumes there and ends with the same result.
    random_state
        Seed of what is drawn: the hidden entries, and the weights and batches of networks. The same seed on the same
        machine gives the same result, whatever the order of spots, libraries and genes. The fit of the count model draws
        nothing.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. A second completion of the same name replaces the first with all of its
    layers. Slots written, here for `method="kernel"`, as far as `write` asks for them:

    `layers["kernel"]`
        Expression given detection, in the unit and container of the input layer; the quantity of the paper. Equal to the
        input where detected, and for genes outside of the mask.
    `layers["kernel_denoised"]`
        Estimated expression of every entry, detected or not, true zeros included: log2(1 + the expected count as TPM or
        CPM), with the unit and the denominator of the input layer. Equal to the input for genes outside of the mask. Only
        from methods with expected counts, with raw counts, and if the input layer is log2(1 + scaled counts).
    `layers["kernel_denoised_sd"]`
        Posterior standard deviation of the denoised layer; zero for genes outside of the mask. Only from `"counts"` and
        `"factor"`.
    `layers["kernel_rate"]`
        Expected count of every entry at the depth of its spot, true zeros included; raw counts for genes outside of the
        mask. It contains the depth: the denoised layer is the same estimate without it. Only from methods with expected
        counts, and with raw counts.
    `layers["kernel_sd"]`
        Standard deviation of the filled entries of the completed layer, given detection; zero elsewhere. Only from
        `"counts"` and `"factor"`.
    `var["kernel_skill"]`
        Only from `"counts"` with raw counts, as the next two: share of the Poisson deviance of held-out molecules that the
        expected counts explain beyond depth times the gene's share in its library, before shrinkage. NaN for genes outside
        of the mask.
    `var["kernel_skill_se"]`
        Standard error of the skill.
    `var["kernel_verdict"]`
        `"complete"`: values given detection are shown to be better than averages, and so is the denoised layer.
        `"denoise"`: only the denoised layer is. `"undecided"`: neither is; do not read a pattern into the gene.
        `"not completed"`: outside of the mask.
    `uns["spared_sc"]["kernel"]`
        Method, parameters as tuned, device and genes. A fitted method adds the score on hidden entries beside simple
        estimates (`score`), `"paper"` also its training curve (`training`). `interrupted` is true where the last fit of
        the count model was stopped early.

    Raises
    ------
    KeyError
        If the method, or a named layer or column does not exist.
    TypeError
        If the method does not have one of the parameters.
    ValueError
        If several libraries come without `library_key`, a parameter is out of range, `write` asks for a layer that the
        method does not give, the device is absent, raw counts or an embedding are missing, the embedding may
        hold hidden entries, no gene is detected, there
        are too few detected entries to hold any out, a saved model is damaged or made for other genes or another layer,
        or a checkpoint belongs to another fit.
    OSError
        If a model or a checkpoint cannot be written.
    FloatingPointError
        If values are too large to be squared, or a fit diverges from the start.

    Warns
    -----
    UserWarning
        If genes are detected in no training spot (they stay as they are), if there are no raw counts, or if a fit was
        interrupted: its state so far is used then, of `"paper"` the best so far. An interrupt before the count model has
        all of its factors, or before the first validation of `"paper"`, ends the call, and nothing is written.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=24)
    >>> sp.tl.complete(adata, method="kernel", method_params={"bandwidth": 1.5}, library_key="library_id")
    >>> sorted(layer for layer in adata.layers if layer.startswith("kernel"))
    ['kernel', 'kernel_denoised', 'kernel_rate']
    """
    from spared_sc._models import checkpoint as models
    from spared_sc._models.completion.base import FittedCompleter

    validate.check_adata(adata)
    compute = make_compute(
        random_state=random_state,
        device=device,
        batch_size=batch_size,
        n_jobs=n_jobs,
        show_progress_bar=show_progress_bar,
        checkpoint=checkpoint,
        write=write,
    )
    completer, saved = _completer(method, dict(method_params or {}))
    if key_added is None:
        key_added = Key.layers.spackle if completer.name == Key.layers.counts else completer.name
    for key in Key.completed(key_added):
        check_key(adata, key, source=layer)
    _check_options(completer, use_rep, save_model, checkpoint)
    if completer.hides_entries:
        check_rep(adata, use_rep, allow_unrecorded=allow_unrecorded_rep)
    resolved = resolve(
        adata,
        layer=layer,
        mask_var=mask_var,
        library_key=library_key,
        spatial_key=spatial_key,
        use_rep=use_rep,
        split_key=None if completer.scope == "library" else split_key,
        genes=None if saved is None else _genes_of(saved, adata, layer),
        use_counts=completer.uses_counts,
    )
    resolved.sections.check_size()
    if write is not None:
        _check_blocks(compute.write, resolved, completer, layer)
    fitted_before = isinstance(completer, FittedCompleter) and completer.fitted
    models.check_place(save_model)
    estimate, details = _estimate(completer, saved, resolved, compute, save_model, adata, layer)
    if write is not None:
        _check_given(estimate, compute, completer.name)
    adata = adata.copy() if copy else adata
    write_layers(
        adata,
        resolved,
        estimate,
        blocks=compute.write,
        columns=completer.gene_report() if isinstance(completer, FittedCompleter) else {},
        key_added=key_added,
        params={
            "method": completer.name,
            "fitted": "before" if fitted_before else "here",
            "method_params": {**completer.params(), **estimate.params},
            "layer": layer,
            "mask_var": mask_var if mask_var in adata.var and saved is None else None,
            "library_key": resolved.libraries.key,
            "split_key": None if resolved.split is None else split_key,
            "use_rep": use_rep,
            "allow_unrecorded_rep": allow_unrecorded_rep,
            "random_state": random_state,
        },
        details={"scope": completer.scope, **details},
    )
    _announce(adata, resolved, key_added)
    return adata if copy else None


def _completer(method: Any, params: dict[str, Any]) -> tuple[Completer, SavedCompleter | None]:
    """The method, and what was saved with it if it was loaded."""
    from spared_sc._models.completion.base import Completer
    from spared_sc._models.completion.files import load_completer
    from spared_sc._models.completion.registry import COMPLETERS

    if isinstance(method, str) and method in COMPLETERS:
        return COMPLETERS.make(method, params), None
    if params:
        raise TypeError("method_params are for methods given by name: leave them out, or name a method.")
    if isinstance(method, Completer):
        return method, None
    if not isinstance(method, str | Path):
        raise TypeError(
            f"method is a {type(method).__name__}: give a name, a Completer or the folder of a saved model."
        )
    if not as_path(method, "method").exists():
        raise KeyError(
            f"there is no completion method and no folder {str(method)!r}: choose among "
            f"{validate.listing(COMPLETERS, 40)}, or give the folder of a saved model."
        )
    saved = load_completer(method)
    return saved.completer, saved


def _check_options(
    completer: Completer, use_rep: str | None, save_model: str | Path | None, checkpoint: str | Path | None
) -> None:
    """Refuse options that the method cannot use."""
    from spared_sc._models.completion.base import FittedCompleter

    if use_rep is not None and not completer.uses_embedding:
        raise ValueError(f"method {completer.name!r} uses no embedding: leave out `use_rep`.")
    fits = isinstance(completer, FittedCompleter) and not completer.fitted
    for name, value in (("save_model", save_model), ("checkpoint", checkpoint)):
        if value is not None and not fits:
            raise ValueError(f"method {completer.name!r} is not fitted here: leave out `{name}`.")


def _estimate(
    completer: Completer,
    saved: SavedCompleter | None,
    resolved: Resolved,
    compute: Compute,
    save_model: str | Path | None,
    adata: AnnData,
    layer: str,
) -> tuple[Estimate, dict[str, Any]]:
    """Fit where that is needed, and complete; details for the record."""
    from spared_sc._models.completion.base import FittedCompleter
    from spared_sc._models.completion.files import save_completer

    compute = check_device(compute, networks=isinstance(completer, FittedCompleter))
    details: dict[str, Any] = {}
    if isinstance(completer, FittedCompleter):
        details["device"] = compute.device
        if saved is not None:
            details |= {"data": saved.data, "model_version": saved.version}
        elif not completer.fitted:
            with limited_threads(compute.network_threads):
                completer.fit(resolved.sections, resolved.split, compute)
            details |= completer.report()
            _log_score(completer.name, details["score"])
            if save_model is not None:
                genes = adata.var_names[resolved.genes].tolist()
                ids = saved_ids(adata, resolved.genes)
                save_completer(save_model, completer, genes=genes, gene_ids=ids, layer=layer, data=details["data"])
    estimate = completer.complete_by_split(resolved.sections, resolved.split, compute)
    if estimate.interrupted:
        details["interrupted"] = True
    return estimate, details


def _check_blocks(blocks: frozenset[str], resolved: Resolved, completer: Completer, layer: str) -> None:
    """Refuse, before any work is done, to write layers that these data do not allow."""
    of_rates = sorted(blocks & OF_RATES)
    if of_rates and completer.uses_counts and resolved.counts is None:
        raise ValueError(f"there are no raw counts, hence no {validate.listing(of_rates)}: leave that out of `write=`.")
    of_scale = sorted(blocks & {"denoised", "denoised_sd"})
    if of_scale and resolved.sections.total is None:
        raise ValueError(
            f"{validate.listing(of_scale)} needs a layer that is log2(1 + scaled count), unlike {layer!r} here: pass a "
            "layer from `sp.pp.normalize_tpm(adata)`, or leave that out of `write=`."
        )


def _check_given(estimate: Estimate, compute: Compute, method: str) -> None:
    """Refuse to leave out a layer that was asked for."""
    rate = estimate.rate
    given = {"completed": estimate.values, "rate": rate, "denoised": rate, "sd": estimate.sd}
    given["denoised_sd"] = estimate.log_rate_sd
    missing = sorted(name for name in compute.write if given[name] is None)
    if missing:
        raise ValueError(
            f"method {method!r} gives no {validate.listing(missing)} for these data: leave that out of `write=`, or choose "
            "another method. Rates need raw counts."
        )


def _announce(adata: AnnData, resolved: Resolved, key_added: str) -> None:
    """How many genes of each verdict there are, and what was filled."""
    if Key.verdict(key_added) not in adata.var:
        return
    of_kind = adata.var[Key.verdict(key_added)].iloc[resolved.genes[resolved.genes >= 0]].value_counts()
    kinds = ", ".join(f"{of_kind.get(kind, 0)} {kind}" for kind in (COMPLETE, DENOISE, UNDECIDED))
    known = resolved.sections.known
    announce(
        f"{key_added}: {known.shape[1]} genes ({kinds}) in {known.shape[0]} spots; {1 - known.mean():.0%} of the entries "
        "were undetected and are filled."
    )


def _log_score(method: str, score: Mapping[str, float]) -> None:
    errors = ", ".join(f"{name} {mse:.4f}" for name, mse in score.items() if name != "n_entries")
    logger.info("method %r: MSE on %d hidden entries: %s", method, score["n_entries"], errors)


def _genes_of(saved: SavedCompleter, adata: AnnData, layer: str) -> np.ndarray:
    """Columns of the data that hold the genes of a saved model, -1 where one is missing."""
    if saved.layer != layer:
        raise ValueError(f"the model completes layer {saved.layer!r}, not {layer!r}: pass layer={saved.layer!r}.")
    genes = match_genes(saved.genes, saved.gene_ids, adata.var_names, adata.var.get(Key.var.gene_ids))
    missing = [gene for gene, at in zip(saved.genes, genes, strict=True) if at < 0]
    if len(missing) > _MISSING_GENES * len(genes):
        raise ValueError(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data "
            f"({validate.listing(missing, 5)}; the data have {validate.listing(adata.var_names, 3)}): use the same kind "
            f"of names. At most {_MISSING_GENES:.0%} may be missing; beyond that, fit a model to these data."
        )
    if missing:
        warn(
            f"{len(missing)} of the model's {len(genes)} genes are missing from the data and count as undetected: "
            f"{validate.listing(missing, 5)}."
        )
    return genes
