"""Relations between the results of two inputs, where there is no other reference."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData, read_h5ad

from fuzz.arguments import function
from helpers import dense
from properties.calls import frozen

if TYPE_CHECKING:
    from pathlib import Path

    from fuzz.checks import Outcome
    from fuzz.inputs import Input

SLOTS = ("layers", "obsm", "obsp", "obs", "var")
CLOSE = {"rtol": 1e-3, "atol": 1e-3}


def all_finite(adata: AnnData) -> bool:
    parts = [adata.X, *adata.layers.values(), *adata.obsm.values()]
    for part in parts:
        values = np.asarray(dense(part)) if part is not None else np.zeros(0)
        if values.dtype.kind not in "biuf" or not np.isfinite(values).all():
            return False
    return True


def differing(one: AnnData, other: AnnData) -> list[str]:
    """Slots that are not the same, for messages."""
    found = []
    for attr in (*SLOTS, "uns"):
        mine, theirs = getattr(one, attr), getattr(other, attr)
        found += [f"{attr}[{name!r}]" for name in set(mine) ^ set(theirs)]
        found += [f"{attr}[{name!r}]" for name in set(mine) & set(theirs) if frozen(mine[name]) != frozen(theirs[name])]
    return found


def alike(one: Any, other: Any) -> bool:
    """Values of one slot; numbers up to rounding."""
    one, other = (
        np.asarray(dense(part)) if not isinstance(part, pd.Series) else part.to_numpy() for part in (one, other)
    )
    if one.shape != other.shape:
        return False
    if one.dtype.kind in "biuf" and other.dtype.kind in "biuf":
        return np.allclose(one.astype(float), other.astype(float), equal_nan=True, **CLOSE)
    return [str(value) for value in one.ravel()] == [str(value) for value in other.ravel()]


def compare(one: AnnData, other: AnnData, written: set[str]) -> list[str]:
    """Written slots that differ, rows and genes by name."""
    if set(one.obs_names) != set(other.obs_names) or set(one.var_names) != set(other.var_names):
        return [f"{one.shape} and {other.shape} spots and genes"]
    other = other[one.obs_names, one.var_names]
    different = []
    for slot in sorted(written):
        attr, _, name = slot.partition(":")
        mine, theirs = getattr(one, attr), getattr(other, attr)
        if name not in theirs or not alike(mine[name], in_columns_of(mine[name], theirs[name])):
            different.append(slot)
    return different


def in_columns_of(mine: Any, theirs: Any) -> Any:
    """A table with its columns in the order of the other one, as predictions have genes in the order of the data."""
    if isinstance(mine, pd.DataFrame) and set(mine.columns) == set(theirs.columns):
        return theirs[mine.columns]
    return theirs


def written_slots(before: AnnData, after: AnnData) -> set[str]:
    """Slots that are new or other than before."""
    slots = set()
    for attr in SLOTS:
        old, new = getattr(before, attr), getattr(after, attr)
        same_shape = before.shape == after.shape
        slots |= {f"{attr}:{n}" for n in new if n not in old or (same_shape and frozen(new[n]) != frozen(old[n]))}
    return slots


# Relations: what changes in the input and leaves the result as it is.


def other_rows(adata: AnnData, rng: np.random.Generator) -> AnnData:
    return adata[rng.permutation(adata.n_obs)].copy()


def other_genes(adata: AnnData, rng: np.random.Generator) -> AnnData:
    return adata[:, rng.permutation(adata.n_vars)].copy()


def other_container(adata: AnnData, rng: np.random.Generator) -> AnnData:
    """The same numbers in another container, and of another type where it holds them."""
    adata = adata.copy()
    kind = [sps.csc_matrix, sps.csr_matrix, np.asfortranarray, sps.csr_array][rng.integers(4)]

    def other(matrix: Any) -> Any:
        values = dense(matrix)
        if values.dtype == np.float32:
            values = values.astype(np.float64)
        return (
            kind(values)
            if values.dtype.kind in "biuf" and values.dtype.itemsize in (1, 4, 8) and values.dtype.isnative
            else matrix
        )

    if adata.X is not None:
        adata.X = other(adata.X)
    for name in list(adata.layers):
        adata.layers[name] = other(adata.layers[name])
    return adata


def other_place(adata: AnnData, rng: np.random.Generator) -> AnnData | None:
    """Images padded at the top and at the left, and all spots moved with them."""
    slides = adata.uns.get("spatial")
    if "spatial" not in adata.obsm or not isinstance(slides, dict) or not slides:
        return None
    pad = 8 * int(rng.integers(1, 4))
    moved, adata = {}, adata.copy()
    for name, slide in slides.items():
        factor = slide["scalefactors"]["tissue_hires_scalef"]
        if set(slide["images"]) != {"hires"} or factor != 1:
            return None
        image = np.pad(slide["images"]["hires"], ((pad, 0), (pad, 0), (0, 0)), mode="edge")
        moved[name] = {**slide, "images": {"hires": image}}
    adata.uns["spatial"] = moved
    adata.obsm["spatial"] = adata.obsm["spatial"] + pad
    return adata


RELATIONS = {"rows": other_rows, "genes": other_genes, "container": other_container}
PLOTS = "pl."


def check(case: Input, outcome: Outcome) -> None:
    """One relation, drawn, of a call that had a result."""
    from fuzz.checks import WRONG, Fault, call

    if case.name.startswith(PLOTS) or case.area == "files" or case.first.is_view or uses_files(case):
        return
    name = [*RELATIONS, "file"][case.rng.integers(len(RELATIONS) + 1)]
    other = through_file(case.first, case.folder) if name == "file" else RELATIONS[name](case.first, case.rng)
    if other is None:
        return
    values = {
        **case.arguments.values,
        **({"copy": True} if isinstance(outcome.result, AnnData) and writes(case) else {}),
    }
    again = call(lambda: function(case.name)(other, **values))
    if again.error is not None:
        raise Fault(WRONG, f"other {name}: refused ({again.error!r})")
    different = results_differ(case.first, outcome.result, again.result)
    if different:
        raise Fault(WRONG, f"other {name}: differ in {different}")


def writes(case: Input) -> bool:
    from fuzz.arguments import parameters

    return "copy" in parameters(case.name)


def uses_files(case: Input) -> bool:
    return any(name in case.arguments.values for name in ("save_model", "checkpoint", "store"))


def results_differ(first: AnnData, one: Any, other: Any) -> list[str]:
    if isinstance(one, AnnData):
        return compare(one, other, written_slots(first, one))
    if isinstance(one, pd.DataFrame):
        return tables_differ(one, other)
    return []


def tables_differ(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    if set(map(str, one.columns)) != set(map(str, other.columns)) or len(one) != len(other):
        return ["columns or rows"]

    def in_order(table: pd.DataFrame) -> pd.DataFrame:
        named = table.reset_index()
        texts = [c for c in named if named[c].dtype.kind not in "fc"]
        return named.sort_values(texts, key=lambda c: c.astype(str), kind="stable").reset_index(drop=True)

    one, other = in_order(one), in_order(other)
    return [str(c) for c in one if not alike(one[c], other[c])]


def through_file(adata: AnnData, folder: Path) -> AnnData | None:
    """Written and read; none where anndata cannot write it, such as values of the user that no file holds."""
    path = folder / "through.h5ad"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adata.copy().write_h5ad(path)
            return read_h5ad(path)
        except Exception:  # noqa: BLE001
            return None
