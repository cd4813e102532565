"""The documentation builds, its notebooks run, and it names every public name and every slot."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spared_sc as sp

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOTEBOOKS = sorted((ROOT / "tutorials").glob("*.ipynb"))
MODULES = ("datasets", "pp", "tl", "pl", "get")
NAMES = [f"{module}.{name}" for module in MODULES for name in getattr(sp, module).__all__]
SLOT = re.compile(r'(?:layers|obs|var|obsm|varm|obsp|varp|uns)(?:\["[^"\]]+"\])+')


def returns_section(name: str) -> str:
    module, _, short = name.partition(".")
    text = inspect.getdoc(getattr(getattr(sp, module), short))
    found = re.search(r"^Returns\n-+\n(.*?)(?=^\w[\w ]*\n-+\n|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    assert found, f"{name} has no Returns section"
    return found[1]


def run(command: list[str], **environment: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.slow
def test_documentation_builds_without_warnings(tmp_path):
    pytest.importorskip("sphinx")
    # A copy: the build writes pages into its own folder.
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("_build", "generated", "tutorials"))
    shutil.copytree(ROOT / "tutorials", tmp_path / "tutorials", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "CHANGELOG.md", tmp_path)
    html = tmp_path / "html"
    run([sys.executable, "-m", "sphinx", "-W", "--keep-going", "-b", "html", str(tmp_path / "docs"), str(html)])
    pages = {path.relative_to(html).as_posix() for path in html.rglob("*.html")}
    assert {f"generated/spared_sc.{name}.html" for name in NAMES} <= pages
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


@pytest.mark.parametrize("name", NAMES)
def test_api_page_has_every_public_name(name):
    assert re.search(rf"^\s*{re.escape(name)}$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)


def test_api_page_has_no_other_name():
    listed = re.findall(r"^ +(\w+\.\w+)$", (DOCS / "api.md").read_text(), flags=re.MULTILINE)
    assert sorted(listed) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_slots_page_has_every_documented_slot(name):
    page = (DOCS / "slots.md").read_text()
    missing = [slot for slot in SLOT.findall(returns_section(name)) if slot not in page]
    assert not missing


def test_slots_are_found_in_docstrings():
    assert 'layers["spackle"]' in SLOT.findall(returns_section("tl.spackle_complete"))
    assert 'uns["spared_sc"]["moran_i"]' in SLOT.findall(returns_section("pp.recipe_spared"))
    assert 'varm["programs"]' in SLOT.findall(returns_section("datasets.synthetic"))
