"""Parameters of methods and models: keyword-only dataclass fields that carry their range and the values that tuning tries."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.validate import check_number, listing

if TYPE_CHECKING:
    import pandas as pd

_ALLOWED = "allowed"


@dataclass(frozen=True)
class Allowed:
    """Values that a parameter can take; `None` is allowed where it is the default."""

    least: float | None = None
    most: float | None = None
    whole: bool = False
    choices: tuple[Any, ...] = ()  # beside numbers, or instead of them
    grid: tuple[Any, ...] = ()  # values that tuning tries

    def check(self, name: str, value: Any) -> None:
        """Refuse a value out of range."""
        if isinstance(value, str | bool) and value in self.choices:
            return
        if self.least is None:
            raise ValueError(f"{name}={value!r} is unknown: choose {listing(self.choices)}.")
        try:
            check_number(name, value, self.least, self.most, whole=self.whole)
        except ValueError as error:
            if not self.choices:
                raise
            raise ValueError(f"{name}={value!r} cannot be used: give {self}.") from error

    def __str__(self) -> str:
        parts = [repr(choice) for choice in self.choices]
        if self.least is not None:
            kind = "whole number" if self.whole else "number"
            parts.append(f"{kind} from {self.least:g}" + ("" if self.most is None else f" to {self.most:g}"))
        return " or ".join(parts)


def parameter(
    default: Any,
    *,
    least: float | None = None,
    most: float | None = None,
    whole: bool = False,
    choices: tuple[Any, ...] = (),
    grid: tuple[Any, ...] = (),
) -> Any:
    """A dataclass field with a default and the values that it can take."""
    return field(default=default, metadata={_ALLOWED: Allowed(least, most, whole, choices, grid)})


def check_params(thing: Any) -> None:
    """Refuse parameters of a dataclass instance that are out of range; for its `__post_init__`.

    Numbers of numpy become those of Python, which files of settings and of models can hold.
    """
    for field_ in fields(thing):
        value = getattr(thing, field_.name)
        if isinstance(value, np.generic):
            value = value.item()
            setattr(thing, field_.name, value)
        if _ALLOWED in field_.metadata and not (value is None and field_.default is None):
            field_.metadata[_ALLOWED].check(field_.name, value)


def allowed_of(cls: type) -> dict[str, Allowed]:
    """Values that the parameters of a dataclass can take."""
    return {one.name: one.metadata[_ALLOWED] for one in fields(cls) if _ALLOWED in one.metadata}


def check_names(cls: type, name: str, params: Any) -> None:
    """Refuse parameters that a method does not have."""
    known = [one.name for one in fields(cls) if one.init]
    foreign = sorted(set(params) - set(known))
    if foreign:
        raise TypeError(
            f"{name!r} has no parameter {listing(foreign)}; its parameters: {listing(known, 30)}. Leave it out."
        )


def params_table(cls: type) -> pd.DataFrame:
    """One row per parameter of a dataclass: default, range, values tried by tuning, and meaning."""
    import pandas as pd

    meanings: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        meanings |= _documented(base)
    rows = {}
    for one in fields(cls):
        if not one.init:
            continue
        allowed = one.metadata.get(_ALLOWED, Allowed())
        rows[one.name] = {
            "default": repr(one.default),
            "range": str(allowed),
            "tuned over": ", ".join(map(str, allowed.grid)),
            "meaning": meanings.get(one.name, ""),
        }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["default", "range", "tuned over", "meaning"])


def _documented(cls: type) -> dict[str, str]:
    """Texts of the Parameters section of a class docstring, by name."""
    text = inspect.cleandoc(cls.__dict__.get("__doc__") or "")
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if section is None:
        return {}
    found: dict[str, str] = {}
    for names, body in re.findall(r"^(\w[\w, ]*)\n((?:(?:[ \t]+.*)?\n?)+)", section[1], flags=re.MULTILINE):
        for name in names.split(", "):
            found[name] = " ".join(body.split())
    return found
