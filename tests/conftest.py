"""Fixtures that several test modules share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is loaded: spinning threads slow the tests down several times on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data, which `SPARED_SC_DATA_DIR` names."""
    value = os.environ.get("SPARED_SC_DATA_DIR")
    if not value:
        pytest.skip("SPARED_SC_DATA_DIR is not set: no real data")
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"SPARED_SC_DATA_DIR={value} is not a folder")
    return folder.resolve()
