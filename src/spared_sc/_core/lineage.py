"""Where values come from: the unit of a layer, the steps that looked across sections, the fingerprints of sections."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal
from zlib import crc32

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import by_library, records_of, slots_of
from spared_sc._kernels.fingerprint import hashed, same_section, sketch

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.validate import Libraries

# Detail of a record: the step looked at one library at a time, or added a constant to each gene.
ONE_LIBRARY = "library"


def unit_of(adata: AnnData, layer: str) -> str:
    """The layer that defines the unit of a layer: completion, denoised or not, and batch correction keep the unit.

    Centering does not.
    """
    records, visited = records_of(adata), set()
    of_denoised = {Key.denoised(name): made for name, made in records.items()}
    while layer not in visited:
        visited.add(layer)
        made = records.get(layer, of_denoised.get(layer, {}))
        if made.get("function") == "pp.uncenter":
            made = records.get(str(made["params"]["layer"]), {})
        elif not str(made.get("function")).endswith(("complete", ".combat")):
            break
        layer = str(made.get("params", {}).get("layer", layer))
    return layer


def leak(adata: AnnData, layer: str, libraries: Libraries, split_key: str | None, split: np.ndarray | None) -> str:
    """The step behind a layer that learned from libraries outside the train split, in words; empty if there is none.

    A layer without a record is trusted.
    """
    records, visited = records_of(adata), set()
    while layer not in visited:
        visited.add(layer)
        made = record_of(records, layer)
        params = made.get("params", {})
        if made and not _looks_at_one_library(made, libraries):
            where, past = f"layers[{layer!r}], made by `{made['function']}`", made.get("split")
            if split is None or params.get("split_key") != split_key:
                return f"{where}, has learned from all sections"
            parts = set(zip(libraries.names, split.tolist(), strict=True))
            if isinstance(past, Mapping) and not parts <= by_library(past, "parts").items():
                return f"{where}, has learned from another split of the same name"
        layer = str(params.get("layer", layer))
    return ""


def record_of(records: Mapping[str, Any], layer: str) -> Mapping[str, Any]:
    """The record of a layer, also where it is one of several that were written together; empty if there is none."""
    if layer in records:
        return records[layer]
    return next((made for made in records.values() if f'layers["{layer}"]' in slots_of(made)), {})


def _looks_at_one_library(made: Mapping[str, Any], libraries: Libraries) -> bool:
    """Whether a step learned nothing from other libraries of these data."""
    if made["function"] != "pp.combat" or made["params"].get("model") != "loaded":
        return made.get("scope") == ONE_LIBRARY
    # A ComBat model that was fitted elsewhere gives batches unknown to it their own location and scale.
    new = set(np.atleast_1d(made["new_batches"]).tolist())
    return made["params"].get("batch_key") == "None" and set(libraries.names) <= new


def check_rep(adata: AnnData, use_rep: str | None, *, allow_unrecorded: bool) -> None:
    """Refuse an embedding that may hold what is hidden: one that is not recorded as that of an image.

    One that does not exist is left to those who read it.
    """
    if use_rep is None or use_rep not in adata.obsm or allow_unrecorded:
        return
    made = records_of(adata).get(use_rep, {})
    if made.get("function") != "tl.embed_patches" or f'obsm["{use_rep}"]' not in slots_of(made):
        raise ValueError(
            f"obsm[{use_rep!r}] is not recorded as an image embedding. An embedding made from expression, such as by "
            "`sc.pp.pca`, holds the entries that are hidden here, and makes scores too good: use one from "
            "`sp.tl.embed_patches(adata)`, or pass allow_unrecorded_rep=True."
        )


def fingerprint_source(adata: AnnData, libraries: Libraries, spatial_key: str) -> Literal["places", "names"]:
    """What identifies spots: their positions where these differ between the sections, else their names."""
    if spatial_key not in adata.obsm:
        return "names"
    sketches = fingerprints(adata, libraries, spatial_key, "places").values()
    return "names" if any(same_section(one, other) for one, other in combinations(sketches, 2)) else "places"


def fingerprints(adata: AnnData, libraries: Libraries, spatial_key: str, source: str) -> dict[str, list[int]]:
    """Fingerprint of every library, of its spots' positions or names (see `fingerprint_source`)."""
    if source == "places" and spatial_key in adata.obsm:
        values = np.rint(10 * np.nan_to_num(np.asarray(adata.obsm[spatial_key], dtype=float)[:, :2])).astype(np.int64)
    else:
        values = np.array([[crc32(name.encode())] for name in adata.obs_names])
    hashes = hashed(values)
    return {name: sketch(hashes[rows]) for name, rows in zip(libraries.names, libraries.rows(), strict=True)}
