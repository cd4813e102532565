"""What a worker process computes: the scores of a cell, and what is known afterwards of the cell."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import from_record, records_of
from spared_sc._core.validate import gene_mask
from spared_sc._kernels.metrics import CEILING, CONTROLS, FLOORS
from spared_sc.benchmark._prepare import GENES, about, attach
from spared_sc.benchmark._tables import ALL, COMPLETION, higher_is_better

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spared_sc.benchmark._cells import Job

KEY = "predicted"
_LIMITS = (CEILING, *FLOORS, *CONTROLS)
_TOGETHER = ("pcc_pooled",)  # scores of all libraries together that are no mean of theirs
_LONGEST = 100  # values of a list that a fit reports; training curves are longer


def compute(job: Job, adata: AnnData, features: dict[str, AnnData]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores of a cell in the columns of the table, and values of its row."""
    row = attach(adata, features)
    found = about(adata)
    row |= {name: found[name] for name in ("dataset_hash", "n_spots", "n_libraries")}
    run = _completion if job.kind == COMPLETION else _prediction
    scores, of_run = run(job, adata, found["keys"], list(features))
    scores["higher_is_better"] = [higher_is_better(metric) for metric in scores["metric"]]
    return scores.assign(cell=job.id), row | of_run


def _prediction(
    job: Job, adata: AnnData, keys: dict[str, str | None], features: list[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    import pandas as pd

    import spared_sc as sp

    order, library_key, subject_key = job.order, keys["library_key"], keys["subject_key"]
    if order["patches"] is not None:
        sp.pp.extract_patches(
            adata, library_key=library_key, n_jobs=job.threads, show_progress_bar=False, **order["patches"]
        )
    sp.tl.predict_expression(
        adata,
        model=order["model"],
        target=order["target"],
        layer=order["layer"],
        loss=order["loss"],
        use_rep=features or None,
        mask_var=GENES if GENES in adata.var else None,
        library_key=library_key,
        subject_key=subject_key,
        split_key=keys["split_key"],
        key_added=KEY,
        model_params=_params(order["params"]),
        device=job.device,
        n_jobs=job.threads,
        random_state=order["seed"],
        show_progress_bar=False,
    )
    tables = [
        sp.tl.score_prediction(
            adata, KEY, protocol=protocol, layer=order["layer"], library_key=library_key, subject_key=subject_key
        ).assign(protocol=protocol)
        for protocol in order["protocols"]
    ]
    record = records_of(adata)[KEY]
    fits: dict[str, Any] = from_record(record["fits"])
    row = {
        **_genes(list(adata.obsm[KEY].columns)),
        "device": str(record["device"]),
        "n_parameters": fits.get("fit_0", {}).get("n_parameters"),
        "chosen": _json({name: _short(fit) for name, fit in fits.items()}),
    }
    return _of_prediction(pd.concat(tables), adata, library_key, genes=order["genes_scored"]), row


def _of_prediction(scores: pd.DataFrame, adata: AnnData, library_key: str | None, *, genes: bool) -> pd.DataFrame:
    """Scores of the model and of the limits; anchors are models of their own, and means are made from the table."""
    kept = scores["prediction"].isin([KEY, *_LIMITS])
    kept &= (scores["library"] != ALL) | scores["metric"].isin(_TOGETHER)
    if not genes:
        kept &= scores["gene"] == ALL
    scores = scores[kept]
    if library_key is None:
        spots = dict.fromkeys(scores["library"], adata.n_obs)
    else:
        spots = {str(name): n for name, n in adata.obs[library_key].value_counts().items()}
        spots[ALL] = adata.n_obs
    return _columns(scores, scores["prediction"]).assign(
        protocol=scores["protocol"].to_numpy(),
        role=scores["role"].to_numpy(),
        gene=scores["gene"].to_numpy(),
        n=[spots.get(name) for name in scores["library"]],
    )


def _completion(
    job: Job, adata: AnnData, keys: dict[str, str | None], features: list[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    import spared_sc as sp
    from spared_sc._models.completion.registry import COMPLETERS

    order = job.order
    completer = COMPLETERS.make(order["model"], _params(order["params"]))
    mask_var = GENES if GENES in adata.var else None
    scores = sp.tl.evaluate_completion(
        adata,
        methods=completer,
        regimes=order["regime"],
        shares=None if order["share"] is None else [order["share"]],
        n_masks=1,
        layer=order["layer"],
        mask_var=mask_var,
        library_key=keys["library_key"],
        subject_key=keys["subject_key"],
        use_rep=features[0] if features else None,
        device=job.device,
        n_jobs=job.threads,
        random_state=order["seed"],
        show_progress_bar=False,
    )
    genes = adata.var_names[gene_mask(adata, mask_var, optional=Key.var.selected)]
    row = {
        **_genes(genes.tolist()),
        "device": job.device,
        "chosen": _json({"flags": sorted(set(scores["flag"]) - {""})}),
    }
    columns = _columns(scores, scores["method"]).assign(
        protocol="", role="", gene=scores["genes"].to_numpy(), n=scores["n"].to_numpy()
    )
    return columns, row


def _columns(scores: pd.DataFrame, of: pd.Series) -> pd.DataFrame:
    """The columns that both kinds of scores share; `of` names the model, or a limit."""
    names = ["library", "subject", "metric", "value"]
    return scores[names].reset_index(drop=True).assign(limit=of.where(of.isin(_LIMITS), "").to_numpy())


def _genes(names: list[str]) -> dict[str, Any]:
    return {"n_genes": len(names), "genes_hash": hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()}


def _params(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters as Python has them: lists are tuples."""
    return {name: tuple(one) if isinstance(one, list) else one for name, one in params.items()}


def _short(report: Any) -> Any:
    """What a fit reports, without curves."""
    if isinstance(report, dict):
        return {name: _short(one) for name, one in report.items() if name != "training"}
    if isinstance(report, list):
        return report if np.size(report) <= _LONGEST else f"{len(report)} values"
    return report


def _json(values: Any) -> str:
    return json.dumps(values, sort_keys=True, default=str)
