"""The only writer into an AnnData: the slot, and beside it a record of how it came about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc import __version__
from spared_sc._core.keys import Key
from spared_sc._core.report import logger

if TYPE_CHECKING:
    from anndata import AnnData

_GUARDED = ("layers", "obsm")  # where a name may hold values that somebody cannot get back


def _plain(value: Any) -> Any:
    """A form of `value` that h5ad and zarr files can hold."""
    if value is None:
        return "None"
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic | str | bool | int | float):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else list(value)
        numbers = all(isinstance(v, bool | int | float | np.number) for v in items)
        return np.asarray(items) if numbers else np.asarray([str(v) for v in items], dtype=object)
    return str(value)


def from_record(value: Any) -> Any:
    """A recorded value as it was given: records hold no None, and files give numpy's types."""
    if isinstance(value, dict):
        return {str(name): from_record(one) for name, one in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, str) and value == "None" else value


def library_table(libraries: Iterable[str], **columns: Iterable[Any]) -> dict[str, Any]:
    """Values of libraries as records hold them: names are no keys, since files cannot hold a key with "/"."""
    names = np.asarray([str(name) for name in libraries], dtype=object)
    return {"libraries": names, **{name: _plain(list(values)) for name, values in columns.items()}}


def by_library(table: Mapping[str, Any], column: str = "values") -> dict[str, Any]:
    """A column of a recorded table, by library; a ValueError if there is not one value for each."""
    names, values = (np.atleast_1d(table[name]).tolist() for name in ("libraries", column))
    return {str(name): from_record(value) for name, value in zip(names, values, strict=True)}


def check_key(adata: AnnData, key: str, *, attr: str = "layers", source: str | None = None) -> None:
    """Refuse, before any work is done, a name that files cannot hold or that holds somebody else's values.

    With `source`, the layer that is read, also refuse that one, and the names that every function reads.
    """
    if not isinstance(key, str) or not key or "/" in key:
        raise ValueError(
            f"key_added={key!r} cannot be used: give a non-empty name without '/', "
            "which h5ad and zarr files would read as a folder."
        )
    if source is not None and key in (source, Key.layers.counts, Key.layers.detected):
        use = (
            "is the layer that is read"
            if key == source
            else "is the name under which raw counts or detections are read"
        )
        raise ValueError(f"key_added={key!r} {use}, and would replace it: pass another key_added.")
    if attr in _GUARDED and key in getattr(adata, attr) and f'{attr}["{key}"]' not in _written_slots(adata):
        raise ValueError(
            f'{attr}["{key}"] exists and was not written by spared_sc: pass another key_added, '
            f'or remove it first with `del adata.{attr}["{key}"]`.'
        )
    past = records_of(adata).get(key) if attr in _GUARDED else None
    if past is not None and not {f'{attr}["{name}"]' for name in Key.completed(key)} & slots_of(past):
        raise ValueError(
            f"key_added={key!r} is the name of a record of {past.get('function')}, which would be lost: pass another."
        )


def records_of(adata: AnnData) -> dict[str, Mapping[str, Any]]:
    """The records of this package by name; what somebody else put beside them is left out."""
    found = adata.uns.get(Key.uns.records, {})
    if not isinstance(found, Mapping):
        raise TypeError(
            f'adata.uns["{Key.uns.records}"] is a {type(found).__name__}, and records are kept under that name: rename it, '
            f'such as with `adata.uns["mine"] = adata.uns.pop("{Key.uns.records}")`.'
        )
    return {str(name): made for name, made in found.items() if _is_record(made)}


def _is_record(made: Any) -> bool:
    return (
        isinstance(made, Mapping) and isinstance(made.get("function"), str) and isinstance(made.get("params"), Mapping)
    )


def slots_of(past: Mapping[str, Any]) -> set[str]:
    """What was written together with a record, such as `layers["median"]`."""
    return {str(slot) for slot in np.atleast_1d(past.get("slots", []))}


def _written_slots(adata: AnnData) -> set[str]:
    return {slot for past in records_of(adata).values() for slot in slots_of(past)}


def record(
    adata: AnnData,
    *,
    key: str,
    function: str,
    params: Mapping[str, Any],
    slots: Mapping[str, Mapping[str, Any]],
    outdated: Mapping[str, Iterable[str]] | None = None,
    **details: Any,
) -> None:
    """Write `slots` (attribute -> name -> value), and the record `uns["spared_sc"][key]` of how they were made.

    `function` is the public name of the caller, such as `"pp.moran"`, and `params` are its parameters as resolved;
    `details` are what else is worth keeping, such as summaries and training curves. Slots of the former record of this
    key that are `outdated` and not written again are removed. All of it happens, or nothing.
    """
    for attr, values in slots.items():
        for name in values:
            check_key(adata, name, attr=attr)
    before = slots_of(records_of(adata).get(key, {}))
    written = [f'{attr}["{name}"]' for attr, values in slots.items() for name in values]
    entry = _plain({"function": function, "params": dict(params), "slots": written, "version": __version__, **details})
    with one_step(adata) as work:
        for attr, names in (outdated or {}).items():
            for name in names:
                if f'{attr}["{name}"]' in before and name in getattr(work, attr):
                    del getattr(work, attr)[name]
        for attr, values in slots.items():
            for name, value in values.items():
                getattr(work, attr)[name] = value
        # A new dictionary: a shallow copy of the AnnData must not share its records with the original.
        work.uns[Key.uns.records] = {**adata.uns.get(Key.uns.records, {}), key: entry}
    if written:
        logger.info("added %s", ", ".join(written))


@contextmanager
def one_step(adata: AnnData) -> Iterator[AnnData]:
    """A copy over the same matrices, which the block changes; the object becomes it when the block has ended.

    An error or an interrupt, wherever it comes, leaves the object as it was. A view becomes an object of its own.
    """
    if adata.is_view:
        logger.info("the AnnData is a view of another one; it becomes a copy of its own")
    work = shallow_copy(adata)
    yield work
    become(adata, work)


def become(adata: AnnData, other: AnnData) -> None:
    """Give the object the content of another one, which nobody uses any more."""
    state = {**vars(adata), **vars(other), "file": type(other.file)(adata, None)}
    if state["_raw"] is not None:
        state["_raw"]._adata = adata
    adata.__dict__ = state  # one statement: nothing can come in between


def shallow_copy(adata: AnnData) -> AnnData:
    """A new AnnData over the same matrices; of a view, a whole copy."""
    from anndata import AnnData

    if adata.is_view:
        return adata.copy()  # its matrices belong to the parent
    return AnnData(
        X=adata.X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=dict(adata.uns),
        raw=adata.raw,
        **{attr: dict(getattr(adata, attr).items()) for attr in ("obsm", "varm", "obsp", "varp", "layers")},
    )


def write_columns(
    base: np.ndarray | sps.csr_matrix, columns: np.ndarray, block: np.ndarray
) -> np.ndarray | sps.csr_matrix:
    """A copy of `base` (array or CSR) with some of its columns replaced by a dense block.

    Same container and type; integers become the block's floats.
    """
    if base.dtype.kind != "f":
        base = base.astype(block.dtype)
    if isinstance(base, np.ndarray):
        result = base.copy()
        result[:, columns] = block
        return result
    order = np.argsort(columns)
    if (np.diff(order) < 0).any():
        columns, block = columns[order], block[:, order]
    n, k = block.shape
    index = np.int32 if n * k < np.iinfo(np.int32).max else np.int64
    parts = (block.astype(base.dtype).ravel(), np.tile(columns.astype(index), n), np.arange(n + 1) * k)
    filled = sps.csr_matrix(parts, shape=base.shape, copy=False)
    filled.eliminate_zeros()
    if k == base.shape[1]:
        return type(base)(filled)
    replaced = np.zeros(base.shape[1], dtype=bool)
    replaced[columns] = True
    kept = base.copy()
    kept.data[replaced[kept.indices]] = 0
    kept.eliminate_zeros()
    return type(base)(kept + filled)
