"""The built wheel, installed outside of the checkout: it is complete, and does its main job."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"


def run(command: list[str | Path], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "SPARED_SC_DATA_DIR")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], ROOT)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    kept = {path for path in SOURCE.rglob("*") if path.is_file() and not {"__pycache__", ".mypy_cache"} & {*path.parts}}
    assert files == {path.relative_to(SOURCE).as_posix() for path in kept}
    assert {Path(name).suffix for name in files} >= {".py", ".pyi", ".typed", ".toml", ".xz"}


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo(wheel, tmp_path):
    environment = tmp_path / "environment"
    run([sys.executable, "-m", "venv", environment], tmp_path)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / "python"
    run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], tmp_path)
    # Other packages come from the environment of the tests, but not what is installed there in editable form.
    own = Path(run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], tmp_path).strip())
    (own / "others.pth").write_text(sysconfig.get_path("purelib"))

    where = run([python, "-c", "import spared_sc; print(spared_sc.__file__)"], tmp_path)
    assert environment in Path(where.strip()).parents
    assert "spared-sc" in run([scripts / "spared-sc", "info"], tmp_path)
    lengths = "import spared_sc as sp; print(*(len(sp.datasets.gene_lengths(name)) for name in ('human', 'mouse')))"
    assert run([python, "-c", lengths], tmp_path).split() == ["62703", "56884"]
    said = run([scripts / "spared-sc", "demo", "--output", "demo"], tmp_path)
    assert "made-up collection" in said
    assert {"completed.h5ad", "summary.txt", "missing.png"} <= {path.name for path in (tmp_path / "demo").iterdir()}
