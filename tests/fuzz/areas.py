"""The areas of the public API that are tried, each with inputs of its own."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from fuzz import checks, inputs, models, objects

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AREAS: dict[str, tuple[Callable[[int, Path], Any], Callable[[Any], checks.Outcome]]] = {
    **{area: (partial(inputs.Input, area), checks.explore) for area in inputs.AREAS},
    "files": (models.ModelInput, models.explore),
    "spatialdata": (objects.ObjectInput, objects.explore),
}


def try_one(area: str, number: int, folder: Path) -> tuple[Any, checks.Outcome]:
    """Make an input and the call; a `Fault` that names the input says what must not be."""
    make, explore = AREAS[area]
    case = make(number, folder)
    try:
        return case, explore(case)
    except checks.Fault as fault:
        fault.add_note(f"{case!r}; repeat it with SPARED_SC_FUZZ=1 SPARED_SC_FUZZ_SEED={number}")
        raise
