"""benchmark.paper_table: tables of the paper from the scores at hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results


def completion(**options) -> pd.DataFrame:
    """Scores of completion; the labels are settings of the published model."""
    scores = made_results(methods=("none", "two"), targets=("",), n_sets=4, **options)
    params = scores["label"].map({"none": '{"n_rings": 0}', "two": '{"n_rings": 2}'})
    fixed = {"task": "completion", "regime": "released", "share": 0.3, "loss": "", "protocol": "", "role": ""}
    return scores.assign(**fixed, model="paper", params=params)


def test_table_1_is_what_the_paper_prints():
    table = sp.benchmark.paper_table(1)
    assert table[["sections", "spots"]].sum().tolist() == [105, 308_843]
    row = table.loc["VLO"]
    assert row[["organism", "tissue", "genes", "sections", "spots"]].tolist() == [
        "human",
        "Lung organoids",
        128,
        4,
        1832,
    ]
    assert row[["corrupt spots (%)", "missing before (%)", "missing after (%)"]].tolist() == [100, 90, 26]
    some = sp.benchmark.paper_table(1, made_results().replace({"dataset": {"set_0": "VKO", "set_1": "VLO"}}))
    assert some.index.tolist() == ["VLO", "VKO"]
    with pytest.raises(ValueError, match="no data set is in the catalogue: 'set_0'"):
        sp.benchmark.paper_table(1, made_results())


def test_tables_2_and_3_are_means_over_data_sets():
    scores = completion()
    table = sp.benchmark.paper_table(2, scores)
    for metric in ("mse", "pcc"):
        rows = scores[scores["metric"] == metric]
        donors = rows.groupby(["label", "dataset", "subject", "library"])["value"].mean()
        expected = donors.groupby(["label", "dataset", "subject"]).mean().groupby(["label", "dataset"]).mean()
        pd.testing.assert_series_equal(
            table[metric], expected.groupby("label").mean(), check_names=False, check_like=True
        )
    assert set(table["n_data_sets"]) == {4}
    by_neighbours = sp.benchmark.paper_table(3, scores)
    assert by_neighbours.index.tolist() == [
        "0 rings (0 neighbours on a full hexagonal array)",
        "2 rings (18 neighbours on a full hexagonal array)",
    ]
    np.testing.assert_allclose(by_neighbours["mse"], table["mse"])


def test_means_are_over_the_same_data_sets():
    table = sp.benchmark.paper_table(2, completion(failed=(("set_3", "none"),)))
    assert set(table["n_data_sets"]) == {3}


def test_a_constant_has_no_correlation_and_does_not_take_that_of_others():
    scores = completion()
    lost = (scores["label"] == "none") & (scores["metric"] == "pcc")
    for less in (scores[~lost], scores.assign(value=scores["value"].where(~lost))):
        table = sp.benchmark.paper_table(2, less)
        assert table["pcc"].isna().to_dict() == {"none": True, "two": False}
        assert set(table["n_data_sets"]) == {4}


def test_table_4_is_the_papers_test_of_published_scores():
    scores = sp.benchmark.reference_external()
    table = sp.benchmark.paper_table(4, scores, published=True)
    pd.testing.assert_frame_equal(table, sp.benchmark.compare(scores, "mse", published=True).dunn)
    assert (table.to_numpy()[np.triu_indices(9, 1)] < 0.05).sum() == 14


@pytest.mark.parametrize(
    ("number", "scores", "words"),
    [
        (5, None, "tables 1 to 4"),
        (2, None, "needs scores.*sp.benchmark.results"),
        (2, made_results(), "about completion"),
        (3, completion().assign(model="median"), "'paper', and the scores hold none"),
    ],
)
def test_refusals(number, scores, words):
    with pytest.raises(ValueError, match=words):
        sp.benchmark.paper_table(number, scores)
