"""The tables of a benchmark are the same bytes for the same rows, whatever their order."""

from __future__ import annotations

import hashlib

import numpy as np
import pandas as pd
import pytest

from spared_sc.benchmark._tables import CELLS, SCORES, as_table, higher_is_better, read_table, to_parquet


@pytest.fixture
def scores() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    rows = pd.MultiIndex.from_product([["b", "a"], ["l2", "l1"], ["g1", "all"], ["pcc", "mse"]]).to_frame(index=False)
    rows.columns = ["cell", "library", "gene", "metric"]
    return rows.assign(
        limit="", protocol="expression", role="test", subject="", value=generator.normal(size=len(rows)), n=12
    ).assign(higher_is_better=rows["metric"].map(higher_is_better))


def test_equal_rows_are_equal_bytes(scores):
    shuffled = scores.sample(frac=1, random_state=1)[sorted(scores.columns)]
    once, again = (hashlib.sha256(to_parquet(as_table(rows, SCORES))).hexdigest() for rows in (scores, shuffled))
    assert once == again
    changed = scores.assign(value=scores["value"] + 1e-12)
    assert hashlib.sha256(to_parquet(as_table(changed, SCORES))).hexdigest() != once


def test_a_table_is_read_as_it_was(scores, tmp_path):
    scores.loc[3, ["n", "value"]] = None
    scores["higher_is_better"] = scores["higher_is_better"].astype(object).where(scores.index != 4, None)
    path = tmp_path / "scores.parquet"
    path.write_bytes(to_parquet(as_table(scores, SCORES)))
    read = read_table(path, SCORES)
    keys = ["cell", "library", "gene", "metric"]
    wanted = scores.set_index(keys).loc[pd.MultiIndex.from_frame(read[keys])]
    np.testing.assert_array_equal(read["value"], wanted["value"])
    assert read["n"].isna().sum() == 1
    assert read["higher_is_better"].isna().sum() == 1
    assert read["n"].dropna().eq(12).all()
    assert list(read.columns) == [column.name for column in SCORES]


def test_every_column_says_what_it_means():
    for columns in (CELLS, SCORES):
        assert len({column.name for column in columns}) == len(columns)
        assert all(column.meaning for column in columns)


@pytest.mark.parametrize(
    ("metric", "better"),
    [
        ("mse", False),
        ("mse_log", False),
        ("pcc_given_depth", True),
        ("d2_own", True),
        ("skill", True),
        ("coverage_90", None),
        ("moran_change", None),
        ("calibration_d3", None),
        ("crps_constant", False),
    ],
)
def test_direction_of_metrics(metric, better):
    assert higher_is_better(metric) is better
