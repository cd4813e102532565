"""tl.compare_targets."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, with_split

ARMS = ["raw, all", "raw, detected", "given detection", "denoised"]
OPTIONS = {"use_rep": "X_test", "allow_unrecorded_rep": True, **KEY}


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def overall(scores, metric):
    table = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == metric)]
    return table.set_index("prediction")["value"]


def test_the_arms_are_what_predict_expression_gives(adata):
    """In a cross-fit, every library is predicted from labels that the others alone have made."""
    before = adata.copy()
    scores = sp.tl.compare_targets(adata, **OPTIONS)
    assert list(scores["prediction"].unique()[:4]) == ARMS
    assert set(adata.obsm) == set(before.obsm)
    targets = [{"loss": "all"}, {"loss": "detected"}, {"target": "given_detection"}, {"target": "expression"}]
    for arm, target in zip(ARMS, targets, strict=True):
        predict(adata, key_added=arm, **target)
    expected = sp.tl.score_prediction(adata, ARMS, **KEY)
    pd.testing.assert_frame_equal(scores, expected)
    assert overall(scores, "pcc")["denoised"] > 0.2


def test_protocol_and_split(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    scores = sp.tl.compare_targets(adata, protocol="spared", **OPTIONS)
    mse = overall(scores, "mse")
    assert mse["raw, all"] > mse["raw, detected"]  # zeros in the target cost much on detected entries
    assert set(scores["role"]) == {"test", "all"}
    assert np.isfinite(mse[ARMS]).all()


def test_wrong_arguments(adata):
    with pytest.raises(ValueError, match=r"obsm\['X_test'\] is not recorded as an image embedding"):
        sp.tl.compare_targets(adata, use_rep="X_test", **KEY)
    for name in ("copy", "key_added", "loss", "target"):
        with pytest.raises(TypeError, match=f"sets '{name}' itself"):
            sp.tl.compare_targets(adata, **{name: "all"}, **OPTIONS)
    with pytest.raises(KeyError, match="no predictor 'path/to/saved' to fit"):
        sp.tl.compare_targets(adata, model="path/to/saved", **OPTIONS)
