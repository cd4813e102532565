"""tl.predictors."""

from __future__ import annotations

import pytest

import spared_sc as sp
from helpers.prediction import LINEAR
from spared_sc._models.prediction.registry import ANCHORS, PREDICTORS


def test_predictors_are_listed():
    table = sp.tl.predictors()
    assert table.columns.tolist() == ["needs", "paper", "pretrained", "summary"]
    assert set(LINEAR) <= set(table.index)
    assert set(ANCHORS) <= set(table.index)
    assert table.loc["depth_only", "needs"] == "log_depth"
    assert (table[["needs", "summary"]] != "").all(axis=None)


@pytest.mark.parametrize("name", PREDICTORS)
def test_parameters_of_each_have_a_meaning(name):
    table = sp.tl.predictors(name)
    assert table.columns.tolist() == ["default", "range", "meaning"]
    assert (table["meaning"] != "").all()
    assert PREDICTORS.load(name).about is PREDICTORS[name]


def test_parameters_of_one():
    table = sp.tl.predictors("stnet_he")
    assert table.loc["start_at_mean", "default"] == "True"
    assert table.loc["n_steps", "range"] == "whole number from 1"
    with pytest.raises(KeyError, match="no predictor 'rigde': choose among"):
        sp.tl.predictors("rigde")
