"""Shards are put together, and what does not fit is refused."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.benchmark import hash_of_scores
from spared_sc.benchmark._folder import Folder
from spared_sc.benchmark._tables import SCORES, as_table, read_scores, to_parquet

PLAN = [{"cell": name, "task": "prediction", "dataset": "d", "label": name, "refused": ""} for name in ("b", "a", "c")]


def scores(cell: str, value: float) -> bytes:
    row = {"cell": cell, "limit": "", "protocol": "expression", "role": "test", "library": "l", "subject": "l"}
    row |= {"gene": "all", "metric": "pcc", "value": value, "n": 3, "higher_is_better": True}
    return to_parquet(as_table(pd.DataFrame([row]), SCORES))


def part(path, *, plan=PLAN, failed=(), **values: float) -> str:
    """A folder with some cells done."""
    folder = Folder.at(path)
    folder.create()
    folder.write_cells(plan)
    for cell, value in values.items():
        folder.write_cell(cell, {"status": "done", "error": ""}, scores(cell, value))
    for cell in failed:
        folder.write_cell(cell, {"status": "failed", "error": "ValueError: no"})
    return str(path)


def test_parts_become_the_whole(tmp_path):
    one, other = part(tmp_path / "1", a=0.1), part(tmp_path / "2", b=0.2, failed=["c"])
    every = part(tmp_path / "every", a=0.1, b=0.2, failed=["c"])
    Folder.at(every).write_tables()
    cells = sp.benchmark.merge(tmp_path / "whole", [one, other])
    assert cells.set_index("cell")["status"].to_dict() == {"a": "done", "b": "done", "c": "failed"}
    assert hash_of_scores(tmp_path / "whole") == hash_of_scores(tmp_path / "every")
    np.testing.assert_array_equal(read_scores(tmp_path / "whole")["value"], [0.1, 0.2])
    again = sp.benchmark.merge(one, [one, other])  # into one of the parts
    assert again["status"].tolist() == cells["status"].tolist()


def test_what_is_done_wins(tmp_path):
    one, other = part(tmp_path / "1", failed=["a", "b"]), part(tmp_path / "2", a=0.1)
    for folders in ([one, other], [other, one]):
        cells = sp.benchmark.merge(tmp_path / str(folders.index(one)) / "whole", folders)
        assert cells.set_index("cell")["status"].to_dict() == {"a": "done", "b": "failed", "c": "not run"}


def test_what_was_added_to_a_part_is_in_the_whole(tmp_path):
    one, other = part(tmp_path / "1", a=0.1, e=0.3), part(tmp_path / "2", b=0.2)
    Folder.at(one).write_added({**PLAN[0], "cell": "e", "label": "another tool"})
    cells = sp.benchmark.merge(tmp_path / "whole", [one, other])
    assert cells.set_index("label")["status"].to_dict() == {
        **{"a": "done", "b": "done", "c": "not run"},
        "another tool": "done",
    }
    np.testing.assert_array_equal(read_scores(tmp_path / "whole")["value"], [0.1, 0.2, 0.3])


def test_different_scores_of_a_cell_are_refused(tmp_path):
    with pytest.raises(ValueError, match="have different scores of the cell a"):
        sp.benchmark.merge(tmp_path / "whole", [part(tmp_path / "1", a=0.1), part(tmp_path / "2", a=0.2)])


def test_other_plans_are_refused(tmp_path):
    one, other = part(tmp_path / "1", a=0.1), part(tmp_path / "2", plan=PLAN[:2], a=0.1)
    with pytest.raises(ValueError, match="hold different plans"):
        sp.benchmark.merge(tmp_path / "whole", [one, other])
    with pytest.raises(ValueError, match="holds the plan of another benchmark"):
        sp.benchmark.merge(other, [one])
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="is no folder of a benchmark"):
        sp.benchmark.merge(tmp_path / "whole", [str(tmp_path / "none")])
    with pytest.raises(ValueError, match="there is no folder to merge"):
        sp.benchmark.merge(tmp_path / "whole", [])


def test_a_damaged_cell_counts_as_not_run(tmp_path):
    folder = Folder.at(part(tmp_path / "1", a=0.1))
    folder.cell("a").write_bytes(folder.cell("a").read_bytes()[:-9])
    with pytest.warns(UserWarning, match="counts as not run"):
        cells = folder.write_tables()
    assert cells["status"].eq("not run").all()
    assert json.loads((folder.root / "plan.json").read_text())["cells"] == PLAN
