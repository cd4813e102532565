"""Numbers in the README and the documentation come from result files."""

from __future__ import annotations

import json
import re

import pytest

from helpers.docs import DOCS, ROOT, module, results

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FILES = sorted(results.FOLDER.glob("*.json"))


def test_readme_is_up_to_date():
    update_docs = module(ROOT / "measurements" / "update_docs.py")
    text = (ROOT / "README.md").read_text()
    assert update_docs.filled(text) == text, "run `make numbers`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_measured_number_is_typed(page):
    """Three decimals, or a row of a table with two: only between the markers of the README."""
    text = re.sub(r"<!-- results? .*?<!-- /results? -->", "", page.read_text(), flags=re.DOTALL)
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"`[^`]*`|\$[^$]*\$|doi[:.]\S+|\(https?:\S+\)", "", text)
    assert not re.findall(r"\d\.\d{3}\b", text)
    assert not re.findall(r"^\|.*\d\.\d{2}\b.*$", text, flags=re.MULTILINE)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_result_files_say_how_they_were_made(path):
    assert (ROOT / "measurements" / path.name).with_suffix(".py").is_file()
    for table in json.loads(path.read_text()).values():
        assert set(table) == {"commit", "date", "machine", "versions", "rows"}
        assert re.match(r"[0-9a-f]{7}", table["commit"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", table["date"])
        assert set(table["machine"]) == {"cores", "cpu", "gpu"}
        assert len({tuple(row) for row in table["rows"]}) == 1, "rows with different columns"
    assert not re.search(r"(?<![\w.])(?:/\w+){2,}|[A-Z]:\\", path.read_text()), "a path of the machine"


def test_tables_are_written_read_and_filled_in(tmp_path):
    rows = [{"set": "A 1", "error": 0.51, "lower": float("nan")}, {"set": "B", "error": 0.4, "lower": 0.3}]
    results.write("script.first", rows, folder=tmp_path)
    results.write("script.second", rows[:1], folder=tmp_path)
    results.write("script.first", rows, folder=tmp_path)
    assert results.read("script.first", folder=tmp_path) == [{**rows[0], "lower": None}, rows[1]]
    assert results.fill("script.first set=A_1: {error:.1f}[ ({lower:.1f})| (none)]", folder=tmp_path) == "0.5 (none)"
    assert results.fill("script.first set=B: {error:.0%}[ from {lower:.0%}]", folder=tmp_path) == "40% from 30%"
    assert results.fill("script.first: {error.min} to {error.max}", folder=tmp_path) == "0.4 to 0.51"
    layout = "set = {set}\nerror = {error:.2f}"
    table = "| set | error |\n| --- | --- |\n| A 1 | 0.51 |\n| B | 0.40 |"
    assert results.markdown("script.first set=A_1|B", layout, folder=tmp_path) == table
    with pytest.raises(KeyError, match="second"):
        results.read("script.third", folder=tmp_path)
    with pytest.raises(KeyError, match="no row"):
        results.read("script.first set=C", folder=tmp_path)
