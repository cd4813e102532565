"""benchmark.results: scores with their cells."""

from __future__ import annotations

import pandas as pd
import pytest

import spared_sc as sp
from helpers.benchmark_tables import joined, made_tables
from spared_sc.benchmark._tables import CELLS, CELLS_FILE, SCORES, SCORES_FILE, as_table, to_parquet


def write(folder, cells: pd.DataFrame, scores: pd.DataFrame) -> None:
    (folder / CELLS_FILE).write_bytes(to_parquet(as_table(cells, CELLS)))
    (folder / SCORES_FILE).write_bytes(to_parquet(as_table(scores, SCORES)))


def test_scores_come_with_their_cells_and_failures_keep_a_row(tmp_path):
    cells, scores = made_tables(failed=(("set_1", "poor"),))
    write(tmp_path, cells.replace({"dataset": {"set_0": "VLO"}}), scores)
    found = sp.benchmark.results(tmp_path)
    assert len(found) == len(scores) + 2  # one row for each seed that failed
    lost = found[found["metric"] == ""]
    assert lost["status"].tolist() == ["failed"] * 2
    assert lost["value"].isna().all()
    assert set(found.loc[found["dataset"] == "VLO", "generalisation"]) == {"intra-subject"}
    assert set(found.loc[found["dataset"] != "VLO", "generalisation"]) == {""}
    key = ["cell", "library", "metric"]
    expected = joined(cells, scores).sort_values(key, ignore_index=True)
    pd.testing.assert_series_equal(found.sort_values(key, ignore_index=True)["value"], expected["value"])
    assert sp.benchmark.compare(found, "mse").ranks.index[0] == "good"


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no cells.parquet.*sp.benchmark.run"):
        sp.benchmark.results(tmp_path)
    cells, scores = made_tables()
    write(tmp_path, cells, scores[scores["cell"] != scores["cell"].iloc[0]])
    with pytest.raises(ValueError, match=r"1 cells .* are done and have no score"):
        sp.benchmark.results(tmp_path)
