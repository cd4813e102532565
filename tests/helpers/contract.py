"""What every function that writes into an AnnData promises."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anndata as ad
import numpy as np
import pandas as pd

from helpers import dense

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MATRICES = ("layers", "obsm", "obsp", "varm", "varp")


def snapshot(adata: ad.AnnData) -> dict[str, object]:
    """Every slot by the name that docstrings give it."""
    found = {"X": adata.X.copy()}
    for attr in ("obs", "var"):
        found |= {f'{attr}["{c}"]': getattr(adata, attr)[c].copy() for c in getattr(adata, attr)}
    for attr in MATRICES:
        found |= {f'{attr}["{k}"]': getattr(adata, attr)[k].copy() for k in getattr(adata, attr)}
    for key, value in adata.uns.items():
        if key == "spared_sc":
            found |= {f'uns["spared_sc"]["{k}"]': repr(v) for k, v in value.items()}
        else:
            found[f'uns["{key}"]'] = repr(value)
    return found


def same(one: Any, other: Any) -> bool:
    if isinstance(one, str):
        return one == other
    if isinstance(one, pd.Series):
        return one.equals(other)
    one, other = dense(one), dense(other)
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    changed = [slot for slot in one if not same(one[slot], other[slot])]
    assert not changed


def written_by(function: Callable, adata: ad.AnnData, options: dict[str, Any]) -> set[str]:
    """Slots that a function adds or changes; it removes none and returns nothing."""
    adata, n_spots = adata.copy(), adata.n_obs
    before = snapshot(adata)
    assert function(adata, **options) is None
    after = snapshot(adata)
    assert not before.keys() - after.keys()
    changed = {slot for slot in before if not same(before[slot], after[slot])} if adata.n_obs == n_spots else set()
    return (after.keys() - before.keys()) | changed


def check_copy(function: Callable, adata: ad.AnnData, options: dict[str, Any]) -> None:
    """`copy=True` leaves the input alone and returns what is written in place otherwise."""
    before = snapshot(adata)
    result = function(adata, copy=True, **options)
    assert_same(before, snapshot(adata))
    assert isinstance(result, ad.AnnData)
    in_place = adata.copy()
    function(in_place, **options)
    assert_same(snapshot(in_place), snapshot(result))


def check_measurements(function: Callable, adata: ad.AnnData, options: dict[str, Any]) -> ad.AnnData:
    """Counts and detected values of all layers stay; the result."""
    result = adata.copy()
    function(result, **options)
    before = adata[result.obs_names]
    assert same(before.X, result.X)
    detected = dense(result.X) > 0
    for layer in before.layers:
        assert np.array_equal(dense(before.layers[layer])[detected], dense(result.layers[layer])[detected])
    return result


def check_completed(adata: ad.AnnData, key: str) -> None:
    """A completed layer equals its input where detected, and has its container and type."""
    detected = dense(adata.X) > 0
    assert np.array_equal(dense(adata.layers[key])[detected], dense(adata.layers["log2tpm"])[detected])
    assert type(adata.layers[key]) is type(adata.layers["log2tpm"])
    assert adata.layers[key].dtype == adata.layers["log2tpm"].dtype


def check_files(function: Callable, adata: ad.AnnData, options: dict[str, Any], path: Path) -> None:
    """The result survives a file, h5ad or zarr by its name, and can be worked on again."""
    adata, kind = adata.copy(), path.suffix.removeprefix(".")
    function(adata, **options)
    getattr(adata, f"write_{kind}")(path)
    back = getattr(ad, f"read_{kind}")(path)
    one, other = snapshot(adata), snapshot(back)
    assert one.keys() == other.keys()
    assert all(same(one[slot], other[slot]) for slot in one if not slot.startswith("uns"))
    for key, record in adata.uns["spared_sc"].items():
        read = back.uns["spared_sc"][key]
        assert record.keys() == read.keys()
        assert record["function"] == read["function"]
        assert record["params"].keys() == read["params"].keys()
    function(back, **options)
