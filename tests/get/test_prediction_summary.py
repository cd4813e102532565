"""get.prediction_summary."""

from __future__ import annotations

import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict

ANCHORS = ["gene_mean", "depth_only", "position_only"]
COLUMNS = {
    "expression": [
        *[
            f"{metric}{end}"
            for metric in ("d2", "d2_own", "pcc", "pcc_given_depth")
            for end in ("", "_lower", "_upper")
        ],
        "constant",
        "negative",
        "positive",
    ],
    "hest": ["pcc", "pcc_lower", "pcc_upper"],
    "spared": ["mse", "mae", "r2", "pcc", "pcc_lower", "pcc_upper", "pcc_spot", "pcc_pooled"]
    + ["skill", "skill_lower", "skill_upper"],
}
MAIN = {"expression": "pcc_given_depth", "hest": "pcc", "spared": "skill"}


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


@pytest.mark.parametrize("protocol", COLUMNS)
def test_a_row_for_every_prediction_best_first(adata, protocol):
    for model in ("gene_mean", "position_only", "ridge"):
        predict(adata, model, loss="all")
    scores = sp.tl.score_prediction(adata, protocol=protocol, **KEY)
    summary = sp.get.prediction_summary(scores.sample(frac=1, random_state=0))
    limits = ["floor_low", "floor_high"] if protocol == "spared" else ["ceiling"]
    assert summary.index[3:].tolist() == [*ANCHORS, *limits]
    assert set(summary.index[:3]) == {"predicted_ridge", "predicted_position_only", "predicted_gene_mean"}
    assert summary[MAIN[protocol]].iloc[:3].is_monotonic_decreasing
    assert set(summary.columns) == set(COLUMNS[protocol])
    assert sp.get.prediction_summary(scores).columns.tolist() == COLUMNS[protocol]
    for row in scores[(scores["library"] == "all") & (scores["gene"] == "all")].itertuples():
        assert summary.loc[row.prediction, row.metric] == pytest.approx(row.value, nan_ok=True)
        for end in ("lower", "upper"):
            if f"{row.metric}_{end}" in summary:
                assert summary.loc[row.prediction, f"{row.metric}_{end}"] == pytest.approx(
                    getattr(row, end), nan_ok=True
                )


def test_other_tables_are_refused(adata):
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    with pytest.raises(TypeError, match=r"sp.tl.score_prediction\(adata\).*found AnnData"):
        sp.get.prediction_summary(adata)
    with pytest.raises(KeyError, match="no column 'metric'"):
        sp.get.prediction_summary(scores.drop(columns="metric"))
    with pytest.raises(ValueError, match="repeats a prediction"):
        sp.get.prediction_summary(pd.concat([scores, scores]))
    with pytest.raises(ValueError, match="no rows with library"):
        sp.get.prediction_summary(scores[scores["library"] != "all"])
