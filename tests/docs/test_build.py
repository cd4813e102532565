"""The documentation builds, its tables cover the package, and its notebooks run."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spared_sc as sp
from helpers.docs import DOCS, ROOT, generated

NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
SOURCE = Path(sp.__file__).parent


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx")
    # A copy: the build writes pages into its own folder.
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "generated", "tutorials"))
    shutil.copytree(ROOT / "tutorials", tmp_path / "tutorials", ignore=shutil.ignore_patterns(".*"))
    shutil.copytree(ROOT / "measurements", tmp_path / "measurements")
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    html = tmp_path / "html"
    run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", str(tmp_path / "docs"), str(html)])
    pages = {path.relative_to(html).as_posix() for path in html.rglob("*.html")}
    assert {f"generated/spared_sc.{name}.html" for name in generated.public_names()} <= pages
    assert {f"tutorials/{path.stem}.html" for path in NOTEBOOKS} <= pages


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, data_dir, tmp_path):
    kernel = tmp_path / "kernels" / "this_python"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "this Python", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    # In a process of its own: what the notebook machinery warns of is not this package's business.
    run(
        [sys.executable, "-c", EXECUTE, str(path), str(tmp_path / "executed.ipynb")],
        JUPYTER_PATH=str(tmp_path),
        SPARED_SC_DATA_DIR=str(data_dir),
    )
    outputs = [
        output
        for cell in json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
        for output in cell.get("outputs", [])
    ]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    written = [output for output in outputs if output.get("name") == "stderr"]
    assert not written, "warnings, log lines or progress bars among the outputs"


EXECUTE = """
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

source, target = map(Path, sys.argv[1:])
notebook = nbformat.read(source, as_version=4)
resources = {"metadata": {"path": str(target.parent)}}
NotebookClient(notebook, timeout=1200, kernel_name="this_python", resources=resources).execute()
nbformat.write(notebook, target)
"""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_notebook_is_clean(path):
    text = path.read_text()
    assert len(text) < 700_000
    cells = json.loads(text)["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "not run from top to bottom"
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    shown = "".join(
        part if isinstance(part, str) else "".join(part)
        for output in outputs
        for part in [output.get("text", ""), output.get("data", {}).get("text/plain", "")]
    )
    assert not re.search(r"(?<![\w.])(?:/\w+){2,}|[A-Z]:\\", shown), "a path of the machine among the outputs"


def test_every_tutorial_is_listed():
    listed = re.findall(r"^tutorials/(\S+)$", (DOCS / "tutorials.md").read_text(), flags=re.MULTILINE)
    assert listed == [path.stem for path in NOTEBOOKS]


def test_slots_are_found_in_docstrings():
    assert 'layers["spackle"]' in dict(generated.documented_slots("tl.spackle_complete"))
    assert 'uns["spared_sc"]["moran_i"]' in dict(generated.documented_slots("pp.recipe_spared"))
    assert 'varm["programs"]' in dict(generated.documented_slots("datasets.synthetic"))


def test_tables_cover_the_package():
    api, slots, completers = generated.api(), generated.slots(), generated.table(sp.tl.completers(), method="")
    for name in generated.public_names():
        assert f"`sp.{name} <" in api
        assert all(f"`{slot}`" in slots for slot, _ in generated.documented_slots(name))
    assert all(f"`{name}`" in completers for name in sp.tl.completers().index)


@pytest.mark.parametrize("path", [p for p in SOURCE.rglob("*.py") if p.read_text().strip()], ids=str)
def test_every_file_is_said_in_a_sentence(path):
    sentence = generated.sentence(path)
    assert re.fullmatch(r"[A-Z`].{8,180}[.?]", sentence), f"{path}: the docstring begins {sentence!r}"
