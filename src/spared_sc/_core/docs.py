"""Docstrings that share their text: parameters that mean the same everywhere are described once."""

from __future__ import annotations

import inspect
import textwrap
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    F = TypeVar("F", bound=Callable)

DATA = """
adata
    Spots x genes.
layer
    Layer to complete.
mask_var
    Boolean column of `var`: the genes to complete. `"spared_selected"` is used when present, all genes otherwise.
library_key
    Column of `obs` that names the library of each spot; needed with several libraries.
spatial_key
    Name in `obsm` of the positions that stand in where there are no array coordinates.
"""
RUN = """
key_added
    Name of the new layer.
n_jobs
    Threads. `None` asks `sp.settings`. The result does not depend on it.
random_state
    Seed. The same seed gives the same result.
copy
    Return a changed copy instead of changing `adata`.
"""


def fill(**texts: str) -> Callable[[F], F]:
    """Put texts in place of the lines `{name}` of a function's docstring, as far in as these."""

    def decorate(function: F) -> F:
        if function.__doc__ is not None:  # python -OO drops docstrings
            lines = [_filled(line, texts) for line in inspect.cleandoc(function.__doc__).split("\n")]
            function.__doc__ = "\n".join(lines) + "\n"
        return function

    return decorate


def _filled(line: str, texts: dict[str, str]) -> str:
    text = texts.get(line.strip()[1:-1]) if line.strip().startswith("{") else None
    return line if text is None else textwrap.indent(inspect.cleandoc(text), line[: line.index("{")])
