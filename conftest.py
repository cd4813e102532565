"""Fixtures of all tests, the examples in docstrings included."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

# Examples of what needs an optional dependency.
collect_ignore = [] if find_spec("bokeh") else ["src/spared_sc/_explorer/_explore.py"]


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
