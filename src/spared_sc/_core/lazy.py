"""Public functions as they are loaded: on first use, and taking SpatialData objects as well. No import here is heavy."""

from __future__ import annotations

import sys
from functools import wraps
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def accepting(module: str, get: Callable[[str], Any]) -> Callable[[str], Any]:
    """A module's lazy `__getattr__` whose functions also take a SpatialData object as their first argument."""

    def getattr_(name: str) -> Any:
        found = get(name)
        if isinstance(found, FunctionType):
            found = _accept(found)
            found.__module__ = module  # where other processes find it
            vars(sys.modules[module])[name] = found  # so that this is done once
        return found

    return getattr_


def _accept(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs.get("adata")
        if not _is_spatialdata(first):
            return function(*args, **kwargs)
        from spared_sc._core.sdata import as_anndata, without_elements

        with as_anndata(first) as table:
            if args:
                return without_elements(function(table, *args[1:], **kwargs))
            return without_elements(function(**{**kwargs, "adata": table}))

    return wrapped


def _is_spatialdata(thing: Any) -> bool:
    """Without importing spatialdata, which takes seconds."""
    return any(
        one.__name__ == "SpatialData" and one.__module__.startswith("spatialdata") for one in type(thing).__mro__
    )
