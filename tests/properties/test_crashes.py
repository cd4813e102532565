"""Some of the experiments of `measurements/crashes.py`, which does many more."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "measurements" / "crashes.py"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the jobs are forked")
@pytest.mark.parametrize(
    "job",
    ["model save", *(pytest.param(job, marks=pytest.mark.slow) for job in ("overwritten patch store", "download"))],
)
def test_after_a_crash_everything_is_the_same_or_refused(tmp_path, job):
    command = [
        sys.executable,
        SCRIPT,
        "--kills",
        "3",
        "--failures",
        "4",
        "--pairs",
        "1",
        "--folder",
        tmp_path,
        "--only",
        job,
    ]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    tables = json.loads((tmp_path / "crashes.json").read_text())
    (kills,), (full,), (writers,) = (tables[name]["rows"] for name in ("kills", "full_disk", "writers"))
    assert kills["kills"] == 3
    assert kills["half_read"] == kills["with_litter"] == 0
    assert kills["same_bytes"] == kills["runs"]
    assert full["failures"] > 3
    assert {full[name] for name in ("half_read", "other_error", "no_error")} == {0}
    assert full["same_bytes_after"] == full["failures"]
    assert writers["other_error"] == writers["with_litter"] == 0
    assert writers["same_bytes"] == writers["runs"] == 1
