"""Readers of the records of completed layers: which layers there are, and which model made each."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from spared_sc._core.keys import Key
from spared_sc._core.record import slots_of

if TYPE_CHECKING:
    from anndata import AnnData

_COMPLETER = re.compile(r"tl\.(?:(\w+)_)?complete")  # functions that complete, and the method that is in their name
# Methods whose name alone says too little.
_LABELS = {"counts": "counts model", "factor": "factor model", "paper": "SpaCKLE (paper)"}


def completed_layers(adata: AnnData) -> list[str]:
    """Layers that a completion wrote, in their order in `adata.layers`.

    Layers of the default names count without a record, since a layer may be copied from one object to another.
    """
    return [name for name in adata.layers if name in (Key.layers.median, Key.layers.spackle) or _is_own(adata, name)]


def measured_layers(adata: AnnData) -> list[str]:
    """The normalised layer, and any other that was completed."""
    records = adata.uns.get(Key.uns.records, {})
    completed = completed_layers(adata)
    used = {records[name]["params"].get("layer") for name in completed if _is_own(adata, name)}
    return [name for name in adata.layers if name in used | {Key.layers.log2tpm} and name not in completed]


def describe_layer(adata: AnnData, layer: str) -> str:
    """The layer's name and the model that made it, such as `"spackle: counts model"`."""
    method = layer_method(adata, layer)
    return layer if method in (None, layer) else f"{layer}: {describe_method(method)}"


def describe_method(method: str) -> str:
    """A completion method in words."""
    return _LABELS.get(method, method)


def layer_method(adata: AnnData, layer: str) -> str | None:
    """The method that made a layer, `None` where no record tells."""
    for record in adata.uns.get(Key.uns.records, {}).values():
        made_here = _COMPLETER.fullmatch(str(record.get("function", "")))
        if made_here and f'layers["{layer}"]' in slots_of(record):
            params: dict[str, Any] = record.get("params", {})
            return str(params.get("method", params.get("model", made_here[1])))
    return None


def _is_own(adata: AnnData, layer: str) -> bool:
    """Whether a completion wrote this layer as its main result."""
    record = adata.uns.get(Key.uns.records, {}).get(layer, {})
    return bool(_COMPLETER.fullmatch(str(record.get("function", "")))) and f'layers["{layer}"]' in slots_of(record)
