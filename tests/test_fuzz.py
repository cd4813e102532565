"""Random inputs through the whole public API: the right result or a clear error, and nothing of the user's changed.

`helpers.fuzz` says how to try more of them, and how to repeat one; `measurements/fuzz.py` tries thousands, and counts.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from fuzz.areas import AREAS, try_one
from helpers.fuzz import numbers

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 15  # of an area, unless a number was asked for
INPUTS = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.mark.slow
@pytest.mark.parametrize("area", AREAS)
@pytest.mark.filterwarnings("ignore")  # of the inputs; those of calls are looked at
def test_right_or_refused(area, folder, monkeypatch):
    monkeypatch.chdir(folder)
    start = time.monotonic()
    for number in numbers(INPUTS):
        try_one(area, number, folder)
        if "SPARED_SC_FUZZ" not in os.environ and time.monotonic() - start > SECONDS:
            break
