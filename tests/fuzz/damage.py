"""Ways to spoil a section, or to make another one of it that is as good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sps

from fuzz.sections import NAMES, rename_libraries
from helpers import dense

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

Change = "Callable[[AnnData, np.random.Generator], AnnData | None]"


def pick(rng: np.random.Generator, values: Any) -> Any:
    return list(values)[rng.integers(len(values))]


def spoil_value(adata: AnnData, rng: np.random.Generator) -> None:
    """NaN, infinite, negative or broken values in X or a layer."""
    slot = pick(rng, ["X", *adata.layers])
    matrix = dense(adata.X if slot == "X" else adata.layers[slot]).astype(np.float32)
    matrix[rng.integers(adata.n_obs), rng.integers(adata.n_vars)] = pick(rng, [np.nan, np.inf, -3, 0.5, 1e30])
    matrix = pick(rng, [sps.csr_matrix, np.asarray])(matrix)
    if slot == "X":
        adata.X = matrix
    else:
        adata.layers[slot] = matrix


def other_type(adata: AnnData, rng: np.random.Generator) -> None:
    slot = pick(rng, ["X", *adata.layers])
    matrix = dense(adata.X if slot == "X" else adata.layers[slot])
    kind = pick(rng, ["float64", "int64", "int16", "bool", "float16", "uint8", "complex64", "object", "str", ">f4"])
    matrix = matrix.astype(np.float32).astype(kind)
    if matrix.dtype.kind in "iufb" and kind not in ("float16", ">f4"):
        matrix = pick(rng, [sps.csr_matrix, sps.csc_matrix, sps.csr_array, np.asfortranarray])(matrix)
    if slot == "X":
        adata.X = matrix
    else:
        adata.layers[slot] = matrix


def no_x(adata: AnnData, rng: np.random.Generator) -> None:
    adata.X = None


def drop_slot(adata: AnnData, rng: np.random.Generator) -> None:
    attr = pick(rng, ["layers", "obsm", "obs", "var", "uns", "obsp"])
    part = getattr(adata, attr)
    if len(part):
        del part[pick(rng, list(part))]


def record_edited(adata: AnnData, rng: np.random.Generator) -> None:
    records = dict(adata.uns.get("spared_sc", {}))
    if not records:
        return
    key = pick(rng, records)
    record = dict(records[key])
    field = pick(rng, list(record) or ["function"])
    if rng.random() < 0.4:
        record.pop(field, None)
    else:
        record[field] = pick(rng, ODD)
    records[key] = record if rng.random() < 0.8 else pick(rng, ODD)
    adata.uns["spared_sc"] = records


def foreign_records(adata: AnnData, rng: np.random.Generator) -> None:
    adata.uns["spared_sc"] = pick(rng, [*ODD, {"mine": 1}, {"median": [1]}, {1: {"function": "x", "params": {}}}])


ODD = [None, 0, "text", [], {}, np.arange(3), True, {"a": None}, 1.5, np.nan, [None], {"A": {"images": None}}]


def odd_spatial(adata: AnnData, rng: np.random.Generator) -> None:
    adata.uns["spatial"] = pick(rng, ODD)


def odd_slide(adata: AnnData, rng: np.random.Generator) -> None:
    if not adata.uns.get("spatial"):
        return
    slides = dict(adata.uns["spatial"])
    name = pick(rng, slides)
    slides[name] = pick(rng, ODD)
    adata.uns["spatial"] = slides


def odd_scale(adata: AnnData, rng: np.random.Generator) -> None:
    """One part of a slide, or one scale factor, is something else or not there."""
    if not adata.uns.get("spatial"):
        return
    slides = dict(adata.uns["spatial"])
    name = pick(rng, slides)
    slide = dict(slides[name])
    part = pick(rng, ["images", "scalefactors", "scalefactors", "scalefactors", "metadata"])
    inner = slide.get(part)
    if isinstance(inner, dict) and inner and rng.random() < 0.8:
        inner = dict(inner)
        key = pick(rng, inner)
        if rng.random() < 0.3:
            del inner[key]
        else:
            inner[key] = pick(rng, [None, [], 0, -1.0, np.nan, np.inf, "0.5", "text", 1e-300, 1e300, [0.5], True, {}])
        slide[part] = inner
    else:
        slide[part] = pick(rng, ODD)
    slides[name] = slide
    adata.uns["spatial"] = slides


def odd_image(adata: AnnData, rng: np.random.Generator) -> None:
    slides = adata.uns.get("spatial")
    if not slides:
        return
    name = pick(rng, slides)
    image = slides[name].get("images", {}).get("hires")
    if image is None:
        return
    makers: list[Callable[[np.ndarray], Any]] = [
        lambda a: a / 255,
        lambda a: a.astype(np.uint16) * 257,
        lambda a: a[..., 0],
        lambda a: np.dstack([a, np.full(a.shape[:2], 255, np.uint8)]),
        lambda a: np.dstack([a, np.zeros(a.shape[:2], np.uint8)]),
        lambda a: a[:0],
        lambda a: a[: a.shape[0] // 2],
        lambda a: a.tolist()[:3],
        lambda a: "image.png",
        lambda a: a.astype(float) * np.nan,
        lambda a: a.astype(np.int64) - 300,
        lambda a: np.moveaxis(a, 2, 0),
        lambda a: a[None],
        lambda a: a.astype(str),
    ]
    slide = dict(slides[name])
    slide["images"] = {"hires": pick(rng, makers)(image)}
    adata.uns["spatial"] = {**slides, name: slide}


def odd_positions(adata: AnnData, rng: np.random.Generator) -> None:
    if "spatial" not in adata.obsm:
        return
    xy = np.array(adata.obsm["spatial"], dtype=float)
    i = rng.integers(len(xy))
    kind = rng.integers(9)
    if kind == 0:
        xy[i] = np.nan
    elif kind == 1:
        xy[i] = -500
    elif kind == 2:
        xy[:] = xy[0]
    elif kind == 3:
        xy = xy[:, :1]
    elif kind == 4:
        xy = xy.astype(str)
    elif kind == 5:
        xy = pd.DataFrame(xy, index=adata.obs_names, columns=["x", "y"])
    elif kind == 6:
        xy = np.column_stack([xy, np.zeros(len(xy))])
    elif kind == 7:
        xy[i] = 1e30
    else:
        xy = sps.csr_matrix(xy)
    adata.obsm["spatial"] = xy


def odd_places(adata: AnnData, rng: np.random.Generator) -> None:
    name = pick(rng, ["array_row", "array_col", "in_tissue"])
    if name not in adata.obs:
        return
    column = adata.obs[name]
    kind = rng.integers(7)
    if kind == 0:
        adata.obs[name] = column.astype(str)
    elif kind == 1:
        mixed = column.astype(object)
        mixed.iloc[0] = "3"
        adata.obs[name] = mixed
    elif kind == 2:
        adata.obs[name] = column.astype(float) + 0.5
    elif kind == 3:
        adata.obs[name] = column.iloc[0]
    elif kind == 4:
        adata.obs[name] = pd.Categorical(column)
    elif kind == 5:
        adata.obs[name] = np.nan
    else:
        adata.obs[name] = column.astype("Int64")


def odd_embedding(adata: AnnData, rng: np.random.Generator) -> None:
    key = pick(rng, [*adata.obsm] or ["X_classical"])
    values: list[Any] = [
        np.full((adata.n_obs, 2), np.nan),
        np.full((adata.n_obs, 2), "text"),
        np.ones((adata.n_obs, 0)),
        np.ones((adata.n_obs, 1)),
        np.ones((adata.n_obs, 2, 2)),
        sps.csr_matrix(np.ones((adata.n_obs, 3))),
        pd.DataFrame(np.ones((adata.n_obs, 2)), index=adata.obs_names, columns=["a", "b"]),
        pd.DataFrame({"a": ["x"] * adata.n_obs}, index=adata.obs_names),
        np.full((adata.n_obs, 2), 1e300),
        np.ones((adata.n_obs, 2), dtype=complex),
    ]
    adata.obsm[key] = pick(rng, values)


def odd_column(adata: AnnData, rng: np.random.Generator) -> None:
    attr = pick(rng, ["obs", "var"])
    table = getattr(adata, attr)
    if not len(table.columns):
        return
    name, n = pick(rng, table.columns), len(table)
    values: list[Any] = [
        None, np.nan, "text", 1, True, np.arange(n), np.arange(n) % 2 == 0, pd.array([pd.NA] * n, dtype="Int64"),
        pd.Categorical(["a"] * n, categories=["b", "a"]), [f"l/{i % 2}" for i in range(n)],
        pd.array([None, *["x"] * (n - 1)], dtype="string"), np.full(n, 1e300), pd.Timestamp("2020-01-01"),
        [(1, 2)] * n, [["a"]] * n,
    ]  # fmt: skip
    table[name] = pick(rng, values)


def names_twice(adata: AnnData, rng: np.random.Generator) -> None:
    attr = pick(rng, ["obs_names", "var_names"])
    names = list(getattr(adata, attr))
    if len(names) > 1:
        setattr(adata, attr, [names[1], *names[1:]])


def odd_names(adata: AnnData, rng: np.random.Generator) -> None:
    kind = rng.integers(4)
    if kind == 0:
        adata.var_names = [f"ENSG{i:011d}.{i}" for i in range(adata.n_vars)]
    elif kind == 1:
        adata.var_names = [f"gène {i}/基" for i in range(adata.n_vars)]
    elif kind == 2:
        adata.obs_names = [f"bar code·{i}/x" for i in range(adata.n_obs)]
    else:
        adata.var_names = [f"GRCh38_{name}" for name in adata.var_names]


def other_libraries(adata: AnnData, rng: np.random.Generator) -> None:
    """Other names; strange ones, as people give them."""
    if "library_id" not in adata.obs or not isinstance(adata.uns.get("spatial"), dict):
        return
    old = sorted(set(adata.obs["library_id"].astype(str)))
    new = rng.permutation(NAMES)[: len(old)]
    if not set(adata.uns["spatial"]) <= set(old) or len(new) < len(old):
        return
    rename_libraries(adata, dict(zip(old, map(str, new), strict=True)))


def unused_category(adata: AnnData, rng: np.random.Generator) -> None:
    if "library_id" in adata.obs and isinstance(adata.obs["library_id"].dtype, pd.CategoricalDtype):
        adata.obs["library_id"] = adata.obs["library_id"].cat.add_categories(["of nobody"])


def with_split(adata: AnnData, rng: np.random.Generator) -> None:
    if "library_id" not in adata.obs:
        return
    names = sorted(set(adata.obs["library_id"].astype(str)))
    parts = ["train", *rng.choice(["train", "val", "test", "wrong"], len(names) - 1, p=[0.3, 0.3, 0.35, 0.05])]
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(dict(zip(names, parts, strict=True)))


def few_spots(adata: AnnData, rng: np.random.Generator) -> AnnData:
    return adata[rng.permutation(adata.n_obs)[: rng.integers(0, 5)]].copy()


def few_genes(adata: AnnData, rng: np.random.Generator) -> AnnData:
    return adata[:, rng.permutation(adata.n_vars)[: rng.integers(0, 3)]].copy()


def empty_spots(adata: AnnData, rng: np.random.Generator) -> None:
    if adata.X is None or not adata.n_obs:
        return
    counts = dense(adata.X).copy()
    counts[rng.integers(adata.n_obs)] = 0
    if rng.random() < 0.3:
        counts[:] = 0
    adata.X = sps.csr_matrix(counts)


def as_view(adata: AnnData, rng: np.random.Generator) -> AnnData:
    return adata[rng.permutation(adata.n_obs)[: max(1, adata.n_obs - 2)]]


def with_raw(adata: AnnData, rng: np.random.Generator) -> None:
    if adata.X is not None:
        adata.raw = adata
        adata.X = np.log1p(dense(adata.X).astype(np.float32))


GOOD = (other_libraries, odd_names, unused_category, with_split, as_view)
BAD = (
    spoil_value, other_type, no_x, drop_slot, drop_slot, record_edited, foreign_records, odd_spatial, odd_slide, odd_scale, odd_scale,
    odd_image, odd_image, odd_positions, odd_places, odd_embedding, odd_column, names_twice, few_spots, few_genes, empty_spots,
    with_raw,
)  # fmt: skip


def change(adata: AnnData, rng: np.random.Generator) -> tuple[AnnData, list[str]]:
    """The section after none to three changes, and what they were."""
    done = []
    for _ in range(int(rng.choice([0, 1, 2, 3], p=[0.3, 0.4, 0.2, 0.1]))):
        way = pick(rng, GOOD) if rng.random() < 0.35 else pick(rng, BAD)
        if adata.is_view:
            adata = adata.copy()
        try:
            made = way(adata, rng)
        except Exception:  # noqa: BLE001 - an earlier change stands in the way of this one
            continue
        adata = adata if made is None else made
        done.append(way.__name__)
    return adata, done
