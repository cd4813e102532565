"""Predictions that an AnnData holds, as their records describe them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import listing

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

_SCORED = {"held-out": ("test", "held out"), "validation": ("val",)}  # the first kind that exists is scored


def prediction_keys(adata: AnnData) -> list[str]:
    """Names of all predictions in `obsm`."""
    records = adata.uns.get(Key.uns.records, {})
    return [key for key in adata.obsm if records.get(key, {}).get("function") == "tl.predict_expression"]


def prediction_key(adata: AnnData, key: str | None) -> str:
    """The prediction that is asked for, or the only one."""
    keys = prediction_keys(adata)
    if (key is not None and key not in keys) or not keys:
        what = "there is no prediction" + ("" if key is None else f" {key!r}")
        raise KeyError(
            f"{what} (predictions: {listing(keys)}): run `sp.tl.predict_expression(adata, model=...)` first."
        )
    if key is None and len(keys) > 1:
        raise ValueError(f"there are several predictions ({listing(keys)}): pass one of them as `key`.")
    return keys[0] if key is None else key


def by_library(entries: Mapping[str, Any]) -> dict[str, str]:
    """A recorded table library -> text; files give back the parts of a name with "/" one inside of the other."""
    result: dict[str, str] = {}
    for name, value in entries.items():
        if isinstance(value, dict):
            result |= {f"{name}/{rest}": text for rest, text in by_library(value).items()}
        else:
            result[str(name)] = str(value)
    return result


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
