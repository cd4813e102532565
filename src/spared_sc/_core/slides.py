"""The entries of `uns["spatial"]`, one for each library: images, scale factors and metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from spared_sc._core.keys import Key

if TYPE_CHECKING:
    from anndata import AnnData


def slides_of(adata: AnnData) -> Mapping[str, Any]:
    """All entries, by the name of the library; empty where there are none."""
    return _mapping(adata.uns.get(Key.uns.spatial), "adata.uns['spatial']")


def entry_of(adata: AnnData, name: str) -> dict[str, Any]:
    """The entry of `uns["spatial"]` of a library, with its parts as dictionaries; empty ones where there are none."""
    where = f"adata.uns['spatial'][{name!r}]"
    slide = _mapping(slides_of(adata).get(name), where)
    parts = ("images", "scalefactors", "metadata")
    return {part: _mapping(slide.get(part), f"{where}[{part!r}]") for part in parts}


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise TypeError(f"{where} is a {type(value).__name__}: expected a dictionary, as scanpy and squidpy write it.")
    return value
