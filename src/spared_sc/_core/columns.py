"""The values of a column of `obs` or `var`, the same whether it holds text, categories, numbers or nullable types."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def names_of(column: pd.Series, where: str) -> np.ndarray:
    """Names, (n,) text; a whole number has one name, as an integer and as a float."""
    _need_all(column, "spots", where, "give every spot its value, or drop those spots")
    return _of_values(column, name_of)


def flags_of(column: pd.Series, where: str) -> np.ndarray:
    """Booleans, (n,), of booleans, zeros and ones, or text such as "True"."""
    if column.dtype == bool:
        return column.to_numpy()
    _need_all(column, "rows", where, f"fill them with `{where} = {where}.fillna(False)`")
    values = _of_values(column, lambda value: _FLAGS.get(name_of(value).lower(), "unknown"))
    unknown = column[values == "unknown"]
    if len(unknown):
        raise TypeError(
            f"{where} must hold booleans, found {name_of(unknown.iloc[0])!r} ({column.dtype}): convert it with "
            f"`{where} = {where}.astype(bool)`."
        )
    return values.astype(bool)


def numbers_of(column: pd.Series) -> np.ndarray:
    """Floats, (n,), of numbers or text; NaN for what is neither."""
    if column.dtype.kind in "iuf" and isinstance(column.dtype, np.dtype):
        return column.to_numpy(dtype=float)
    return _of_values(column, _number).astype(float)


def name_of(value: Any) -> str:
    """Name that a value of a column stands for."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real) and float(value).is_integer():
        return str(int(float(value)))
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _of_values(column: pd.Series, convert: Callable[[Any], Any]) -> np.ndarray:
    """The conversion of every value, (n,), computed once per value."""
    codes, values = pd.factorize(column.astype(object), use_na_sentinel=False)
    converted = np.empty(len(values), dtype=object)
    converted[:] = [convert(value) for value in values]
    return converted[codes]


def _need_all(column: pd.Series, rows: str, where: str, remedy: str) -> None:
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(f"{missing} of {len(column)} {rows} have no value in {where}: {remedy}.")
