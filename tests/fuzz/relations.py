"""Relations between the results of two inputs, where there is no other reference."""

from __future__ import annotations

import inspect
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData, concat, read_h5ad
from PIL import Image

import spared_sc as sp
from fuzz.arguments import function
from helpers import dense
from properties.calls import frozen

if TYPE_CHECKING:
    from collections.abc import Callable

    from fuzz.checks import Outcome
    from fuzz.inputs import Input

SLOTS = ("layers", "obsm", "obsp", "obs", "var")
CLOSE = {"rtol": 1e-3, "atol": 1e-3}
BOUNDS = ("spot_counts", "gene_counts")  # of `pp.spared_filter`


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


@dataclass
class Other:
    """Another input of the same call, and what makes its result comparable."""

    first: AnnData
    values: dict[str, Any]
    base: AnnData | None = None  # what its result is compared with, where that is not the case's own
    restore: Callable[[Any], Any] = lambda result: result
    not_compared: Callable[[str], bool] = lambda slot: False


def other_rows(case: Input) -> Other:
    return Other(case.first[case.rng.permutation(case.first.n_obs)].copy(), case.arguments.values)


def other_genes(case: Input) -> Other:
    return Other(case.first[:, case.rng.permutation(case.first.n_vars)].copy(), case.arguments.values)


def other_container(case: Input) -> Other:
    """The same numbers in another container, and of another type where it holds them."""
    adata = case.first.copy()
    kind = [sps.csc_matrix, sps.csr_matrix, np.asfortranarray, sps.csr_array][case.rng.integers(4)]

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
    return Other(adata, case.arguments.values)


def other_place(case: Input) -> Other | None:
    """Images continued beyond their upper and left border as patches are, and all spots moved with them."""
    adata, values = case.first.copy(), case.arguments.values
    if "stain" in values or case.name == "pp.check_alignment":  # they measure the whole image
        return None
    pad, moved = 8 * int(case.rng.integers(4, 9)), {}
    position = np.array(adata.obsm["spatial"], dtype=float)
    for name, slide in adata.uns["spatial"].items():
        if set(slide["images"]) != {"hires"}:
            return None
        image = np.pad(slide["images"]["hires"], ((pad, 0), (pad, 0), (0, 0)), mode="symmetric")
        moved[name] = {**slide, "images": {"hires": image}}
        position[(adata.obs["library_id"] == name).to_numpy()] += pad / slide["scalefactors"]["tissue_hires_scalef"]
    adata.uns["spatial"], adata.obsm["spatial"] = moved, position
    return Other(adata, values)


# Functions, or their results, that do not depend on the depth of the sections.
SCALE_FREE = {
    "get.missing_share", "get.predicted", "pp.center", "pp.combat", "pp.extract_patches", "pp.find_duplicate_libraries",
    "pp.lattice_neighbors", "pp.moran", "pp.normalize_tpm", "pp.recipe_spared", "pp.select_genes", "pp.spared_filter",
    "pp.split_libraries", "pp.uncenter", "tl.complete", "tl.embed_patches", "tl.hide_entries", "tl.median_complete",
    "tl.predict_expression",
}  # fmt: skip
# Expected counts grow with the depth; what is uncertain about a rate falls with it.
OF_DEPTH = ("_rate", "_sd")


def doubled_counts(case: Input) -> Other | None:
    """Every molecule counted twice, and the bounds of filters with them."""
    adata, values = case.first.copy(), dict(case.arguments.values)
    if case.name not in SCALE_FREE or values.get("target") == "expression" or values.get("model") == "depth_only":
        return None
    if values.get("regime") == "released":  # molecules are drawn
        return None
    if adata.X is not None:
        adata.X = adata.X.astype(np.float64) * 2
    if "counts" in adata.layers:
        adata.layers["counts"] = adata.layers["counts"].astype(np.float64) * 2
    if case.name in ("pp.spared_filter", "pp.recipe_spared"):
        filter_options = inspect.signature(sp.pp.spared_filter).parameters
        for name in BOUNDS:
            values[name] = tuple(2 * bound for bound in values.get(name, filter_options[name].default))
    return Other(adata, values, not_compared=lambda slot: slot.endswith(OF_DEPTH))


# Functions whose result for a library depends on that library only.
BY_LIBRARY = {
    "pp.check_alignment", "pp.extract_patches", "pp.lattice_neighbors", "pp.normalize_tpm", "tl.embed_patches", "tl.median_complete",
}  # fmt: skip


def more_libraries(case: Input) -> Other | None:
    """Another library: the places of one, with the spots' values exchanged."""
    adata, values = case.first, case.arguments.values
    if case.name not in BY_LIBRARY:
        return None
    library = adata.obs["library_id"].astype(str)
    rows = np.flatnonzero(library == library.iloc[0])
    more = adata[case.rng.permutation(rows)].copy()
    more.obsm["spatial"] = np.asarray(adata.obsm["spatial"])[rows]
    for name in ("array_row", "array_col"):
        more.obs[name] = adata.obs[name].to_numpy()[rows]
    more.obs_names = [f"more {i}" for i in range(more.n_obs)]
    more.obs["library_id"] = "more"
    both = concat([adata, more], join="outer", merge="first", pairwise=True)
    both.obs["library_id"] = pd.Categorical(both.obs["library_id"].astype(str))
    slides = adata.uns["spatial"]
    both.uns = {**adata.uns, "spatial": {**slides, "more": slides[library.iloc[0]]}}

    def restore(result: Any) -> Any:
        if isinstance(result, AnnData):
            return result[adata.obs_names]
        return result[result["library_id"].astype(str) != "more"] if "library_id" in result else result.drop("more")

    return Other(both, values, restore=restore)


NEW = "new/"  # before the names of libraries: their order stays


def renamed_libraries(case: Input) -> Other | None:
    """Other names of the libraries, in the data, in records, and in arguments."""
    adata = case.first.copy()
    names = set(adata.obs["library_id"].astype(str))
    if case.arguments.values.get("library_key", "library_id") != "library_id":
        return None

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(name): renamed(one) for name, one in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(renamed(one) for one in value)
        if isinstance(value, np.ndarray) and value.dtype.kind in "OU":
            return np.array([renamed(one) for one in value.ravel()], dtype=object).reshape(value.shape)
        return f"{NEW}{value}" if isinstance(value, str) and value in names else value

    adata.obs["library_id"] = pd.Categorical(NEW + adata.obs["library_id"].astype(str))
    adata.uns = renamed(dict(adata.uns))

    def former(value: Any) -> Any:
        return value.replace(NEW, "") if isinstance(value, str) else value

    def restore(result: Any) -> Any:
        if not isinstance(result, pd.DataFrame):
            return result
        texts = [name for name in result if result[name].dtype.kind not in "biufc"]
        named = result.assign(**{name: result[name].astype(object).map(former) for name in texts})
        named = named.rename(columns=former)
        return named if isinstance(named.index, pd.RangeIndex) else named.rename(index=former)

    return Other(adata, renamed(case.arguments.values), restore=restore)


def image_files(case: Input) -> Other | None:
    """The hires images in files, whose pixels are then the unit of the positions."""
    base, values = case.first.copy(), case.arguments.values
    if case.name not in ("pp.extract_patches", "pp.check_alignment", "tl.embed_patches") or "image" in values:
        return None
    paths, slides, position = {}, {}, np.array(base.obsm["spatial"], dtype=float)
    for i, (name, slide) in enumerate(base.uns["spatial"].items()):
        if set(slide["images"]) != {"hires"}:
            return None
        factors = slide["scalefactors"]
        factor = factors["tissue_hires_scalef"]
        position[(base.obs["library_id"] == name).to_numpy()] *= factor
        width = factor * factors["spot_diameter_fullres"]
        slides[name] = {**slide, "scalefactors": {"tissue_hires_scalef": 1.0, "spot_diameter_fullres": width}}
        paths[name] = case.folder / f"image {i}.{['png', 'tif', 'bmp'][case.rng.integers(3)]}"
        Image.fromarray(slide["images"]["hires"]).save(paths[name])
    base.uns["spatial"], base.obsm["spatial"] = slides, position
    if case.name != "tl.embed_patches":
        return Other(base, {**values, "image": paths}, base=base)
    # The default number of patch sizes depends on whether patches were cut.
    cut, of_files = (
        sp.pp.extract_patches(base, copy=True, library_key="library_id", **image) for image in ({}, {"image": paths})
    )
    return Other(of_files, values, base=cut)


def through_a_file(case: Input) -> Other:
    path = case.folder / "through.h5ad"
    case.first.copy().write_h5ad(path)
    return Other(read_h5ad(path), case.arguments.values)


RELATIONS = {
    "rows": other_rows,
    "genes": other_genes,
    "container": other_container,
    "place": other_place,
    "depth": doubled_counts,
    "libraries": more_libraries,
    "names of libraries": renamed_libraries,
    "image files": image_files,
    "file": through_a_file,
}
PLOTS = "pl."


def check(case: Input, outcome: Outcome) -> None:
    """One relation, drawn, of a call that had a result."""
    if case.name.startswith(PLOTS) or case.first.is_view or uses_files(case):
        return
    check_relation(case, outcome, list(RELATIONS)[case.rng.integers(len(RELATIONS))])


def check_relation(case: Input, outcome: Outcome, name: str) -> bool:
    """Whether the relation holds of such a call; a `Fault` if it should and does not."""
    from fuzz.checks import WRONG, Fault, call

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            other = RELATIONS[name](case)
        except Exception:  # noqa: BLE001 - a spoiled section of which there is no such other one
            return False
    if other is None:
        return False
    copied = {"copy": True} if isinstance(outcome.result, AnnData) and writes(case) else {}
    first = case.first
    if other.base is not None:
        first = other.base
        outcome = call(lambda: function(case.name)(first, **case.arguments.values, **copied))
        if outcome.error is not None:
            return False
    again = call(lambda: function(case.name)(other.first, **other.values, **copied))
    if again.error is not None:
        raise Fault(WRONG, f"other {name}: refused ({again.error!r})")
    different = results_differ(first, outcome.result, other.restore(again.result), other.not_compared)
    if other.base is not None and case.name == "pp.extract_patches":
        different += [] if fingerprint(outcome.result) == fingerprint(again.result) else ["pixels of patches"]
    if different:
        raise Fault(WRONG, f"other {name}: differ in {different}")
    return True


def fingerprint(adata: AnnData) -> str:
    return adata.uns["spared_sc"]["patches"]["fingerprint"]


def writes(case: Input) -> bool:
    from fuzz.arguments import parameters

    return "copy" in parameters(case.name)


def uses_files(case: Input) -> bool:
    return any(name in case.arguments.values for name in ("save_model", "checkpoint", "store"))


def results_differ(
    first: AnnData, one: Any, other: Any, not_compared: Callable[[str], bool] = lambda slot: False
) -> list[str]:
    if isinstance(one, AnnData):
        return compare(one, other, {slot for slot in written_slots(first, one) if not not_compared(slot)})
    if isinstance(one, pd.DataFrame):
        return tables_differ(one, other)
    return []


def tables_differ(one: pd.DataFrame, other: pd.DataFrame) -> list[str]:
    if set(map(str, one.columns)) != set(map(str, other.columns)) or len(one) != len(other):
        return ["columns or rows"]

    def in_order(table: pd.DataFrame) -> pd.DataFrame:
        # Predictions stand in the order of obsm, which files sort.
        named = table if isinstance(table.index, pd.RangeIndex) else table.reset_index()
        texts = [c for c in named if named[c].dtype.kind not in "fc"]
        return named.sort_values(texts, key=lambda c: c.astype(str), kind="stable").reset_index(drop=True)

    one, other = in_order(one), in_order(other)
    return [str(c) for c in one if not alike(one[c], other[c])]
