"""The manifest and the Snakefile of the page about the benchmark run as they stand."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spared_sc as sp
from helpers.docs import DOCS, blocks
from spared_sc.benchmark._manifest import Manifest, read_manifest
from spared_sc.benchmark._tables import read_cells

PAGE = DOCS / "benchmark.md"
SNAKEMAKE = shutil.which("snakemake") or os.environ.get("SNAKEMAKE")


def shown(name: str) -> str:
    """A file that the page shows."""
    every = [*blocks(PAGE, "{code-block} yaml"), *blocks(PAGE, "{code-block} python")]
    (text,) = [code.split("\n", 1)[1] for code in every if code.startswith(f":caption: {name}\n")]
    return text


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "manifest.yaml"
    path.write_text(shown("manifest.yaml"))
    return path


def test_the_manifest_is_read(manifest):
    assert isinstance(read_manifest(manifest), Manifest)
    plan = sp.benchmark.plan(manifest)
    assert len(plan) == 2 * 4 + 2 * 2
    assert plan["status"].eq("not run").all()


def test_every_key_of_a_manifest_is_described():
    text = PAGE.read_text()
    listed = set(re.findall(r"^\| `(\w+)` \|", text.partition("A **data set**")[0], flags=re.MULTILINE))
    assert listed == {
        *("datasets", "features", "patches", "targets", "models", "steps", "completion", "seeds", "protocols"),
        *("genes_scored", "threads", "device", "memory", "statistics"),
    }


def test_the_snakefile_names_cells_and_tables(manifest):
    """Without Snakemake: the commands and files in it are those of a run."""
    text = shown("Snakefile")
    assert len([line for line in text.splitlines() if line.strip()]) <= 25
    code = "import sys; from spared_sc.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, "benchmark", "plan", str(manifest), "--ids"], capture_output=True, text=True
    )
    assert done.stdout.split() == sp.benchmark.plan(manifest)["cell"].tolist()
    assert '"/cells/{cell}.parquet"' in text
    assert {"scores.parquet", "cells.parquet"} <= set(re.findall(r"[a-z]+\.parquet", text))


@pytest.mark.slow
@pytest.mark.skipif(SNAKEMAKE is None, reason="snakemake is not installed")
def test_the_snakefile_runs(manifest):
    folder = manifest.parent
    (folder / "Snakefile").write_text(shown("Snakefile"))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    subprocess.run([SNAKEMAKE, "--cores", "2"], cwd=folder, env={**os.environ, "PATH": path}, check=True, timeout=900)
    assert read_cells(folder / "results")["status"].eq("done").all()
