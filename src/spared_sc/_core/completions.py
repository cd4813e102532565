"""Readers of the records of completed layers: which layers there are, and which method made each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spared_sc._core.keys import Key
from spared_sc._core.record import records_of, slots_of

if TYPE_CHECKING:
    from anndata import AnnData

# Methods whose name says too little.
_LABELS = {"counts": "counts model", "factor": "factor model", "paper": "SpaCKLE (paper)"}


def completed_layers(adata: AnnData) -> list[str]:
    """Layers that a completion wrote, in their order in `adata.layers`.

    Layers of the default names count without a record, since a layer may be copied from one object to another.
    """
    return [name for name in adata.layers if name in (Key.layers.median, Key.layers.spackle) or _record(adata, name)]


def denoised_layers(adata: AnnData) -> list[str]:
    """Denoised layers that a completion wrote, in their order in `adata.layers`; default names as above."""
    completions = [name for name in records_of(adata) if _record(adata, name)]
    made = {Key.denoised(name) for name in (Key.layers.spackle, *completions)}
    return [name for name in adata.layers if name in made]


def layers_for_maps(adata: AnnData) -> list[str]:
    """Of every completion the denoised layer, or the completed layer where there is no denoised one."""
    denoised = denoised_layers(adata)
    completed = [name for name in completed_layers(adata) if Key.denoised(name) not in denoised]
    return [name for name in adata.layers if name in denoised or name in completed]


def measured_layers(adata: AnnData) -> list[str]:
    """The normalised layer, and any other that was completed."""
    completed = completed_layers(adata)
    records = records_of(adata)
    used = {str(_record(adata, name).get("params", {}).get("layer")) for name in records} | {Key.layers.log2tpm}
    return [name for name in adata.layers if name in used and name not in completed]


def describe_layer(adata: AnnData, layer: str) -> str:
    """The layer's name and the method that made it, such as `"spackle: counts model"`."""
    for name, record in records_of(adata).items():
        if f'layers["{layer}"]' in slots_of(record):
            method = _record(adata, name).get("params", {}).get("method", layer)
            return describe_method(method) if method == layer else f"{layer}: {describe_method(method)}"
    return layer


def describe_method(method: str) -> str:
    """A completion method in words."""
    return _LABELS.get(str(method), str(method))


def _record(adata: AnnData, layer: str) -> Mapping[str, Any]:
    """The record of the completion that wrote a layer as its main result; empty where there is none."""
    record = records_of(adata).get(layer, {})
    return record if record.get("function") == "tl.complete" else {}
