"""benchmark.reference_external: what the authors of SpaRED published."""

from __future__ import annotations

import numpy as np

import spared_sc as sp


def test_published_scores_are_complete_and_agree_with_the_paper():
    scores = sp.benchmark.reference_external()
    assert scores["dataset"].nunique() == 26
    assert scores["model"].nunique() == 10
    assert scores["source"].nunique() == 8
    per_set = scores.drop_duplicates("dataset")
    assert per_set["source"].value_counts().nlargest(2).to_dict() == {"mirzazadeh": 10, "10x_genomics": 5}
    assert per_set["role"].value_counts().to_dict() == {"val": 15, "test": 11}  # the paper: 11 of 26 have a test split
    assert per_set["organism"].value_counts().to_dict() == {"human": 14, "mouse": 12}
    best = scores[scores["metric"] == "pcc"].groupby("dataset")["value"].max().round(2)
    assert best.idxmin() == "MMBR"  # the paper: the most difficult with 0.16, and the least with 0.74
    assert best["MMBR"] == 0.16
    assert best.idxmax() == "10XGMBSP"
    assert best["10XGMBSP"] == 0.74


def test_published_scores_are_marked_and_never_missing():
    scores = sp.benchmark.reference_external()
    assert set(scores["status"]) == {"published"}
    assert np.isfinite(scores["value"]).all()
    assert scores.groupby("metric")["higher_is_better"].first().to_dict() == {"mse": False, "pcc": True}
    lacking = {"Hist2ST": 2, "HisToGene": 25}
    counts = scores[scores["metric"] == "mse"]["model"].value_counts()
    assert {name: counts[name] for name in lacking} == lacking
    assert set(counts.drop(list(lacking))) == {26}
