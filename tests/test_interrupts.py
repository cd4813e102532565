"""An interrupt at any line leaves the object as it was, or as after the whole call."""

from __future__ import annotations

import random

import pytest

from helpers.fuzz import FIRST, how_many
from helpers.interrupts import CALLS, SDATA_CALLS, makers, outcomes, ready

N = how_many(4)  # interrupts of each function; `measurements/interrupts.py` counts them


@pytest.fixture(scope="module")
def objects():
    return makers(ready())


@pytest.mark.parametrize(
    ("kind", "name"),
    [(kind, name) for kind in ("AnnData", "view") for name in CALLS] + [("SpatialData", name) for name in SDATA_CALLS],
)
@pytest.mark.filterwarnings("ignore:training interrupted")
def test_an_interrupt_leaves_the_object_as_before_or_complete(objects, tmp_path, kind, name):
    calls, make = objects[kind]
    left = list(outcomes(calls[name], make, tmp_path / "p.zarr", N, random.Random(f"{kind} {name} {FIRST}")))
    assert set(left) <= {"as before", "complete"}
