"""benchmark.report: one page with everything."""

from __future__ import annotations

import base64
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_tables
from spared_sc.benchmark._report import completion_rows
from spared_sc.benchmark._tables import CELLS, CELLS_FILE, SCORES, SCORES_FILE, as_table, to_parquet

EVIL = '<script>alert("x")</script>'


def made_folder(folder, cells: pd.DataFrame, scores: pd.DataFrame):
    (folder / CELLS_FILE).write_bytes(to_parquet(as_table(cells, CELLS)))
    (folder / SCORES_FILE).write_bytes(to_parquet(as_table(scores, SCORES)))
    return folder


class Page(HTMLParser):
    """Tags, sources and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.sources, self.texts = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    folder = tmp_path_factory.mktemp("out")
    names = ("good", "middle", EVIL)
    cells, scores = made_tables(n_sets=4, methods=names, metrics=("mse",), seeds=(0,), failed=(("set_1", "middle"),))
    of_completion, values = made_tables(
        n_sets=3, methods=("counts", "median"), targets=("",), metrics=("mse",), seeds=(0,)
    )
    made = []
    for share in (0.3, 0.5):
        renamed = {
            "cell": of_completion["cell"] + f"-{share}",
            "task": "completion",
            "regime": "detected",
            "share": share,
        }
        made.append(
            (
                of_completion.assign(**renamed, loss=""),
                values.assign(cell=values["cell"] + f"-{share}", protocol="", role=""),
            )
        )
    cells, scores = (pd.concat(tables) for tables in zip((cells, scores), *made, strict=True))
    made_folder(folder, cells.assign(versions='{"numpy": "2.0"}'), scores)
    before = plt.get_fignums()
    path = sp.benchmark.report(folder)
    assert path == folder / "report.html"
    assert plt.get_fignums() == before
    return Page(path.read_text())


def test_the_page_needs_nothing_else_and_runs_nothing(page):
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert len(page.sources) >= 12
    for source in page.sources:
        assert ET.fromstring(base64.b64decode(source.partition(",")[2])).tag.endswith("svg")


def test_names_are_text(page):
    assert EVIL in page.text


def test_tests_and_what_is_missing_are_said(page):
    assert "Prediction: mse, protocol spared" in page.text
    assert "Completion: mse, detected, 30% hidden" in page.text
    assert "3 methods over 3 data sets by mse" in page.text
    assert "1 cells have no scores: 1 failed" in page.text
    assert "ValueError: no" in page.text
    assert "left out: set_1 (no value of 'middle')" in page.text
    assert "Computed with numpy 2.0" in page.text
    assert "no data set is in the catalogue" in page.text
    assert "Published scores, which enter no test above" in page.text
    assert re.search(r"15 of 36 pairs differ", page.text)


def test_too_few_data_sets_are_no_test_and_still_a_page(tmp_path):
    cells, scores = made_tables(n_sets=2, metrics=("mse",), seeds=(0,))
    text = Page(sp.benchmark.report(made_folder(tmp_path, cells, scores), tmp_path / "page.html").read_text()).text
    assert "No test: 3 methods and 2 blocks are complete" in text


def test_equal_tables_are_equal_pages_and_other_folders_are_refused(tmp_path):
    cells, scores = made_tables(n_sets=1, methods=("one",), metrics=("mse",), seeds=(0,))
    folder = made_folder(tmp_path, cells, scores)
    first = sp.benchmark.report(folder).read_bytes()
    assert sp.benchmark.report(folder).read_bytes() == first
    with pytest.raises(FileNotFoundError, match="sp.benchmark.run"):
        sp.benchmark.report(tmp_path / "none")


def test_completion_rows_are_those_of_the_evaluation():
    adata = sp.datasets.synthetic(n_libraries=2, shape=(7, 7), n_genes=20, depth=300, image=False)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    options = {"regimes": ["detected"], "shares": (0.2, 0.5), "n_masks": 1, "library_key": "library_id"}
    expected = sp.tl.evaluate_completion(adata, methods=["additive"], **options)
    limits = expected["method"].where(expected["method"].str.startswith("floor"), "")
    scores = expected.rename(columns={"genes": "gene", "mask": "seed"}).assign(
        dataset="toy", label=expected["method"].where(limits == "", "additive"), limit=limits
    )
    found = completion_rows(scores)
    columns = ["regime", "share", "mask", "method", "library", "genes", "metric", "value"]
    pd.testing.assert_frame_equal(found[columns], expected[columns], check_dtype=False)
    fig = sp.pl.completion_curve(found)
    assert fig.axes[0].get_title() == "toy"
    plt.close(fig)
