"""Arguments of public functions, refused where they are of another type than their annotations say."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from spared_sc._core.names import shown

P = ParamSpec("P")
R = TypeVar("R")

_ALTERNATIVES = re.compile(r" \| (?![^\[]*\])")  # not those within brackets


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _several(value: Any, fits: Callable[[Any], bool]) -> bool:
    """Whether a list, or something like one, holds only what fits."""
    if isinstance(value, str | bytes | dict) or not (isinstance(value, Collection) or hasattr(value, "__array__")):
        return False
    return (isinstance(value, set | frozenset) or np.ndim(value) == 1) and all(map(fits, value))


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) == 2 and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


# part of an annotation -> (what is given, in words, and whether a value is that)
_NAMES = ("a list of names", lambda value: _several(value, _is_text))
_NUMBERS = ("a list of numbers", lambda value: _several(value, _is_number))
_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "None": ("None", lambda value: value is None),
    "str": ("text", _is_text),
    "bool": ("True or False", lambda value: isinstance(value, bool | np.bool_)),
    "Path": ("a path", lambda value: isinstance(value, os.PathLike)),
    "Sequence[str]": _NAMES,
    "Collection[str]": _NAMES,
    "Sequence[float]": _NUMBERS,
    "Axes": ("axes of matplotlib", lambda value: hasattr(value, "get_window_extent") and hasattr(value, "figure")),
    # Sizes of figures; bounds are left to the functions that have some.
    "tuple[float, float] | None": ("two numbers or None", lambda value: value is None or _is_pair(value)),
}


def checks_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function refuse arguments of a wrong type before it does anything.

    Numbers are left to the function, which knows their range, and so are types that are not in `_KINDS`.
    """
    signature = inspect.signature(function)
    kinds = {name: _kinds(str(one.annotation)) for name, one in signature.parameters.items()}

    @wraps(function)
    def checking(*args: P.args, **kwargs: P.kwargs) -> R:
        given = dict(zip(signature.parameters, args, strict=False)) | kwargs
        for name, value in given.items():
            known = kinds.get(name)
            if known and not any(fits(value) for _, fits in known):
                wanted = " or ".join(words for words, _ in known)
                if isinstance(value, str) and _NAMES in known:
                    raise TypeError(f"{name}={shown(value)} is one name: pass a list.")
                raise TypeError(f"{name}={shown(value)} cannot be used: give {wanted}.")
        return function(*args, **kwargs)

    return checking


def _kinds(annotation: str) -> list[tuple[str, Callable[[Any], bool]]]:
    """What an annotation allows; nothing where a part of it is not known here."""
    if annotation in _KINDS:
        return [_KINDS[annotation]]
    parts = _ALTERNATIVES.split(annotation)
    return [_KINDS[part] for part in parts] if set(parts) <= set(_KINDS) else []
