"""What must hold of every call: the right result or a clear error, nothing else."""

from __future__ import annotations

import ast
import functools
import re
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sps

import spared_sc as sp
from helpers import dense

if TYPE_CHECKING:
    from anndata import AnnData

SOURCE = Path(sp.__file__).parent


REFUSALS = (ValueError, KeyError, TypeError, FileNotFoundError, FloatingPointError)


# Every refusal says what to do.
REMEDY = re.compile(
    r"\b(pass|give|drop|call|run|put|use|choose|lower|widen|name|change|check|repair|rename|remove|leave|convert|load|"
    r"set|keep|needed|must|expected|score|save|read|train|embed|install|copy|ask)\b|columns: |`sp\.",
    re.IGNORECASE,
)


WARNINGS = re.compile(
    "genes have no length and get no value|spots have no count in the genes|no spot is left of|genes have a score|"
    "genes do not vary within the batches|batches have one spot|look like copies of each other|"
    "are detected in no spot to learn from|training diverged|there are no denoised values"
)


class Refused(Exception):
    """A reading finds that there is no right result."""


def frozen(value):
    """A copy of whatever an AnnData may hold, down to the buffers of a sparse matrix."""
    if sps.issparse(value):
        parts = (value.data, value.indices, value.indptr)
        return value.format, sps.issparse(value), value.shape, *((part.dtype, part.tobytes()) for part in parts)
    if isinstance(value, pd.DataFrame):
        return value.index.tolist(), {name: (str(value[name].dtype), repr(value[name].tolist())) for name in value}
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, repr(value.tolist()) if value.dtype.kind == "O" else value.tobytes()
    if hasattr(value, "items"):
        return {key: frozen(part) for key, part in value.items()}
    return repr(value)


SLOTS = ("X", "obs", "var", "uns", "layers", "obsm", "varm", "obsp", "varp")


def snapshot(adata: AnnData) -> dict[str, object]:
    return {name: frozen(getattr(adata, name)) for name in SLOTS}


@functools.cache
def raise_lines(path: str) -> set[int]:
    tree = ast.parse(Path(path).read_text())
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {line for node in raises for line in range(node.lineno, node.end_lineno + 1)}


def check_refusal(error: Exception) -> None:
    """An error that the package raises on purpose, and that helps."""
    assert type(error) in REFUSALS
    text = str(error.args[0])
    assert len(text) > 20, text
    assert REMEDY.search(text), text
    where = traceback.extract_tb(error.__traceback__)[-1]
    assert SOURCE in Path(where.filename).parents, f"from {where.filename}: {text}"
    assert where.lineno in raise_lines(where.filename), f"stray, from {where.line}: {text}"


def call(function, adata: AnnData, **options):
    """Result or refusal of a call, and the warnings of the package; any other warning is a failure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(adata, **options)
        except Exception as error:  # noqa: BLE001
            result = error
    for warning in caught:
        assert warning.category is UserWarning, f"{warning.category.__name__}: {warning.message}"
        assert WARNINGS.search(str(warning.message)), warning.message
        inner = Path(warning.filename)
        assert inner.parent == Path(__file__).parent or inner.name == "_recipe_spared.py", (
            f"{warning.message} points to {inner}"
        )
    if isinstance(result, Exception):
        if type(result) not in REFUSALS:
            raise result
        try:
            check_refusal(result)
        except AssertionError as error:
            raise error from result
    return result, [str(warning.message) for warning in caught]


def copied_if_whole(adata: AnnData) -> AnnData | None:
    """A copy; none of a collection in which a name occurs twice, which no function takes, and AnnData warns of."""
    return adata.copy() if adata.obs_names.is_unique and adata.var_names.is_unique else None


def attempt(function, adata: AnnData, expected, writes: list[str], *, again: bool = True, **options):
    """Call a function that writes, as a copy, in place and once more; compare with what is expected.

    `expected` is a reading: it gives the arrays that must come out (slot -> array), or raises `Refused`. The return
    value tells whether there is a result.
    """
    before = snapshot(adata)
    original = copied_if_whole(adata)
    parent = adata._adata_ref if adata.is_view else None
    parent_before = snapshot(parent) if adata.is_view else None
    wanted, reason = reading(expected)
    copied, said = call(function, adata, copy=True, **options)
    assert snapshot(adata) == before
    result, said_again = call(function, adata, **options)
    assert said_again == said
    if parent is not None:
        assert snapshot(parent) == parent_before
    if isinstance(result, Exception):
        assert snapshot(adata) == before
        assert (type(copied), str(copied)) == (type(result), str(result))
        assert reason is not None, f"refused without a reason: {result!r}"
        return False
    assert reason is None, f"{function.__name__} gives a result although: {reason}"
    assert result is None
    assert not adata.is_view
    after = snapshot(adata)
    assert after == snapshot(copied)
    check_untouched(original, adata, writes)
    check_record(adata.uns["spared_sc"])
    for slot, value in wanted.items():
        attr, name = slot.split(":")
        assert name in getattr(adata, attr), slot
        compare(getattr(adata, attr)[name], value, slot)
    if again:
        call(function, adata, **options)
        assert snapshot(adata) == after
    return True


def reading(read) -> tuple[object, str | None]:
    """What a reading gives, or why there is nothing to give."""
    try:
        return read(), None
    except Refused as reason:
        return None, str(reason)


def compare(found, wanted, slot: str) -> None:
    found = dense(found) if not isinstance(found, pd.Series) else found.to_numpy()
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    if wanted.dtype.kind in "bOU":
        assert found.tolist() == wanted.tolist(), slot
    else:
        atol = 3e-7 * max(1, np.abs(wanted[np.isfinite(wanted)]).max(initial=0))  # float32
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=2e-6, atol=atol, err_msg=slot)


def check_untouched(before: AnnData, after: AnnData, writes: list[str]) -> None:
    """Only the slots in `writes` are new or other than before; rows and genes may be fewer."""
    if after.shape != before.shape:
        before = before[after.obs_names, after.var_names].copy()
    assert list(after.obs_names) == list(before.obs_names)
    assert list(after.var_names) == list(before.var_names)
    assert (before.X is None) == (after.X is None)
    if before.X is not None:
        assert type(after.X) is type(before.X)
        assert after.X.dtype == before.X.dtype
        assert dense(after.X).tobytes() == dense(before.X).tobytes()
    for attr in SLOTS[1:]:
        old, new = getattr(before, attr), getattr(after, attr)
        written = {slot.partition(":")[2] for slot in writes if slot.startswith(f"{attr}:")} | {"spared_sc"}
        assert set(new) - set(old) <= written, attr
        assert not set(old) - set(new), attr
        for name in set(old) - written:
            if sps.issparse(old[name]):
                assert type(new[name]) is type(old[name])
                assert new[name].dtype == old[name].dtype
                assert dense(new[name]).tobytes() == dense(old[name]).tobytes()
            else:
                assert frozen(new[[name]] if attr in ("obs", "var") else new[name]) == frozen(
                    old[[name]] if attr in ("obs", "var") else old[name]
                ), f"{attr}[{name!r}]"


def check_record(value) -> None:
    """Only what h5ad and zarr files hold."""
    if isinstance(value, dict):
        assert all(isinstance(key, str) and key and "/" not in key for key in value)
        for part in value.values():
            check_record(part)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        assert all(isinstance(part, str) for part in value.ravel())
    else:
        assert isinstance(value, str | bool | int | float | np.generic | np.ndarray)
