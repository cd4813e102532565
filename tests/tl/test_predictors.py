"""tl.predictors."""

from __future__ import annotations

import spared_sc as sp
from helpers.prediction import LINEAR


def test_predictors_are_listed():
    table = sp.tl.predictors()
    assert set(LINEAR) <= set(table.index)
    assert table.loc["depth_only", "needs"] == "log_depth"
    assert (table["needs"] != "").all()
