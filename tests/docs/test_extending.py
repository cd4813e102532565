"""The examples of the pages on extending the package work as they stand: one file and one line in a copy of the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import spared_sc as sp
from helpers.docs import DOCS, ROOT, blocks, captioned
from helpers.repositories import space_ranger, truth_of, zip_of
from spared_sc._core import download
from spared_sc.datasets._catalogue import entries, read_catalogue

SOURCE = Path(sp.__file__).parent
PAGES = {  # page -> folder of its file, its file, and the tests that new entries of the registry pass
    "extend_completer": (
        "_models/completion",
        "quantile.py",
        ["tests/models/completion/test_registry.py", "tests/test_contract.py", "-k", "quantile"],
    ),
    "extend_predictor": (
        "_models/prediction",
        "colour.py",
        ["tests/models/prediction/test_registry.py", "-k", "colour"],
    ),
    "extend_plot": ("pl", "_depth.py", ["tests/test_contract.py", "-k", "pl.depth"]),
}
SECTIONS = """
import warnings
import numpy as np
import spared_sc as sp
from pathlib import Path
from helpers.contract import check_copy, check_files, check_measurements, written_by
from helpers.docs import generated
warnings.simplefilter("ignore")
sp.settings.library_key = "library_id"
adata = sp.datasets.synthetic(n_libraries=3, shape=(8, 8), n_genes=40, depth=400.0)
sp.pp.recipe_spared(adata)
"""
USES = {
    "extend_completer": """
sp.tl.complete(adata, method="quantile", method_params={"level": 0.5})
values, input = adata.layers["quantile"].toarray(), adata.layers["log2tpm"].toarray()
selected, detected = adata.var["spared_selected"].to_numpy(), input > 0
assert (values[detected] == input[detected]).all()
assert (values[:, selected] > 0).all()
assert adata.uns["spared_sc"]["quantile"]["params"]["method_params"]["level"] == 0.5
assert sp.tl.completers("quantile").loc["level", "tuned over"] == "0.25, 0.5, 0.75"
assert "| `quantile` | quantile of the gene's detected values |" in generated.table(
    sp.tl.completers(), method="", summary="summary"
)
scores = sp.tl.evaluate_completion(adata, methods=["quantile", "gene_mean"], n_masks=1)
assert set(scores["method"]) >= {"quantile", "gene_mean"}
sp.tl.audit_completion(adata, method="quantile", quick=True)
""",
    "extend_predictor": """
sp.tl.predict_expression(adata, model="colour", model_params={"n_neighbours": 10})
scores = sp.tl.score_prediction(adata)
assert "predicted_colour" in set(scores["prediction"])
assert "| `colour` | patches |" in generated.table(sp.tl.predictors(), model="", needs="needs")
options = {"model": "colour"}
slots = {'obsm["predicted_colour"]', 'var["predicted_colour_skill"]', 'uns["spared_sc"]["predicted_colour"]'}
assert written_by(sp.tl.predict_expression, adata, {**options, "key_added": "mine"}) == {
    slot.replace("predicted_colour", "mine") for slot in slots
}
check_copy(sp.tl.predict_expression, adata, options)
check_measurements(sp.tl.predict_expression, adata, options)
check_files(sp.tl.predict_expression, adata, options, Path("result.h5ad"))
fitted = sp.tl.fit_predictor(adata, model="colour")
fitted.save("model")
np.testing.assert_array_equal(sp.tl.load_predictor("model").predict(adata), fitted.predict(adata))
""",
    "extend_plot": """
import matplotlib
matplotlib.use("Agg")
ax = sp.pl.depth(adata)
assert len(ax.get_legend().get_texts()) == 3
assert "`sp.pl.depth <" in generated.api()
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_example_works_as_it_stands(page, tmp_path):
    folder, name, tests = PAGES[page]
    files = captioned(DOCS / f"{page}.md")
    registry = next(file for file in files if file != name)
    package = tmp_path / "src" / "spared_sc"
    shutil.copytree(SOURCE, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / folder / name).write_text(files[name])
    add_line(package / folder / registry, files[registry])

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(package.parent), str(ROOT / "tests")])}
    run([sys.executable, "-c", SECTIONS + USES[page]], environment, tmp_path)
    pytest_run = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "addopts=--import-mode=importlib",
    ]
    run([*pytest_run, *tests], environment, ROOT)


def test_a_data_set_is_one_block(server, tmp_path, monkeypatch):
    (block,) = blocks(DOCS / "extend_dataset.md", "{code-block} toml")
    (load,) = blocks(DOCS / "extend_dataset.md", "{code-block} python")
    text = block.removeprefix(":caption: own.toml\n")
    (tmp_path / "own.toml").write_text(text)
    for section in ("S1", "S2"):
        files = space_ranger(section)
        counts = files["filtered_feature_bc_matrix.h5"]
        spatial = zip_of({name: data for name, data in files.items() if name.startswith("spatial/")})
        server.files[f"/data.example.org/{section}/filtered_feature_bc_matrix.h5"] = counts
        server.files[f"/data.example.org/{section}/spatial.zip"] = spatial
    monkeypatch.setattr(download, "address", lambda url: f"{server.url}/{url.removeprefix('https://')}")
    monkeypatch.chdir(tmp_path)
    names = {"sp": sp}
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "cache"):
        exec(load, names)
    adata = names["adata"]
    for section, split in (("S1", "train"), ("S2", "val")):
        part, truth = adata[adata.obs["library_id"] == section], truth_of(section)
        assert (part.X.toarray() == truth.counts[: truth.n_tissue]).all()
        assert set(part.obs["split"]) == {split}
    # In the package it is the same block.
    known = read_catalogue((SOURCE / "datasets" / "catalogue.toml").read_text() + "\n" + text, "catalogue.toml")
    assert known["SKIN"].sections == entries(tmp_path / "own.toml")["SKIN"].sections
    assert known["SKIN"].known["citation"] == "verified: our own article"


def add_line(registry: Path, line: str) -> None:
    """At the end of a list of names, or before the parenthesis that closes the registry."""
    text = registry.read_text()
    if registry.suffix == ".pyi":
        registry.write_text(text + line)
        return
    head, end = text.rsplit("),\n)", 1)
    registry.write_text(f"{head}),\n    {line.strip()}\n){end}")


def run(command: list[str], environment: dict[str, str], folder: Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
