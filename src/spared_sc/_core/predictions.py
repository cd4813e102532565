"""Predictions that an AnnData holds, as their records describe them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.record import by_library, records_of
from spared_sc._core.validate import Libraries, choose_key, get_libraries, listing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_SCORED = {"held-out": ("test", "held out"), "validation": ("val",)}  # the first kind that exists is scored


@dataclass(frozen=True)
class Predictions:
    """Predictions of the same genes by fits to the same libraries."""

    tables: dict[str, pd.DataFrame]
    units: dict[str, str]  # of every table, the layer in whose unit it is
    genes: pd.Index
    roles: dict[str, str]  # of every library: its part in the fits
    groups: dict[str, str]  # of every library: those of one group were held out together
    gene_mean: np.ndarray | None  # (n_genes,) float32, of a saved model; NaN for genes that it never saw detected
    at_share: bool  # whether that is the level at the gene's share, as of expression, or a mean over detected entries


def get_predictions(adata: AnnData, keys: str | Sequence[str] | None, libraries: Sequence[str]) -> Predictions:
    """The predictions that are asked for, all by default.

    It is an error if one was made with other libraries than these, or if they differ in genes or in what they were
    fitted to.
    """
    chosen = prediction_keys(adata) if keys is None else [keys] if isinstance(keys, str) else list(keys)
    names = [prediction_key(adata, name) for name in chosen] or [prediction_key(adata, None)]
    records = {name: records_of(adata)[name] for name in names}
    tables = {name: adata.obsm[name] for name in names}
    roles, groups = ({name: by_library(records[name][what]) for name in names} for what in ("roles", "groups"))
    means = {name: records[name].get("gene_mean") for name in names}
    first = names[0]
    for name in names:
        if set(roles[name]) != set(libraries):
            remedy = "pass the same `library_key`"
            if set(libraries) < set(roles[name]):
                remedy = "score the whole AnnData, anchors need its train libraries, and choose rows of the result"
            raise ValueError(
                f"{name!r} was made with the libraries {listing(roles[name])}, here are {listing(libraries)}: {remedy}."
            )
        if not tables[name].columns.equals(tables[first].columns):
            raise ValueError(f"{name!r} and {first!r} predict different genes: score them one by one.")
        if (roles[name], groups[name]) != (roles[first], groups[first]):
            raise ValueError(f"{name!r} and {first!r} were fitted to different libraries: score them one by one.")
        if not _same_means(means[name], means[first]):
            raise ValueError(f"{name!r} and {first!r} were fitted to different data: score them one by one.")
    return Predictions(
        tables=tables,
        units={name: str(records[name]["card"]["unit"]) for name in names},
        genes=tables[first].columns,
        roles=roles[first],
        groups=groups[first],
        gene_mean=None if means[first] is None else np.asarray(means[first], dtype=np.float32),
        at_share=records[first]["card"].get("target") == "expression",
    )


def _same_means(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.allclose(one, other, rtol=1e-4, equal_nan=True)


def prediction_keys(adata: AnnData) -> list[str]:
    """Names of all predictions in `obsm`."""
    records = records_of(adata)
    return [key for key in adata.obsm if records.get(key, {}).get("function") == "tl.predict_expression"]


def prediction_key(adata: AnnData, key: str | None) -> str:
    """The prediction that is asked for, or the only one."""
    return choose_key(
        key, prediction_keys(adata), "prediction", "run `sp.tl.predict_expression(adata, model=...)` first"
    )


def predicts_zeros(adata: AnnData, key: str) -> bool:
    """Whether undetected entries count as zeros: of expression, and of a layer that was fitted on all entries."""
    card = records_of(adata)[key].get("card", {})
    return card.get("target") == "expression" or card.get("loss") == "all"


def fitted_libraries(adata: AnnData, key: str) -> tuple[Libraries, dict[str, str]]:
    """The libraries of the call that predicted, and the part in fitting that each had."""
    record = records_of(adata)[key]
    column = record["params"]["library_key"]
    return get_libraries(adata, None if column == "None" else column), by_library(record["roles"])


def scored_libraries(roles: Mapping[str, str], names: Sequence[str]) -> tuple[np.ndarray, str]:
    """Mask of the libraries to score, and what they are: those without a part in fitting, or else those that chose it."""
    role = np.array([roles.get(name, "") for name in names])
    for what, wanted in _SCORED.items():
        scored = np.isin(role, wanted)
        if scored.any():
            return scored, what
    if "seen" in role:
        raise ValueError(
            "the layer that was predicted has learned from all libraries: a score on them would say nothing. Make a split "
            "with `sp.pp.split_libraries(adata)`, and the layer with it, or predict a layer that looks at one section at a "
            "time, such as 'log2tpm' or 'median'."
        )
    raise ValueError(
        "all libraries had a part in fitting: a score on them would say nothing. Make a split with "
        "`sp.pp.split_libraries(adata)`, or pass split_key=None to `sp.tl.predict_expression`, which then predicts every "
        "library by a fit to the others."
    )
