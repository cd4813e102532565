"""_models/prediction/registry."""

from __future__ import annotations

import pytest

from spared_sc._models.prediction.base import Predictor
from spared_sc._models.prediction.registry import PREDICTORS


def test_unknown_predictors_and_parameters():
    with pytest.raises(KeyError, match=r"no predictor 'rigde': choose among .*'ridge'"):
        PREDICTORS.make("rigde", {})
    with pytest.raises(
        TypeError, match=r"'ridge' has no parameter 'steps'; its parameters: 'standardize', 'n_components'"
    ):
        PREDICTORS.make("ridge", {"steps": 3})


@pytest.mark.parametrize("name", PREDICTORS)
def test_what_a_predictor_says_of_itself(name):
    cls = PREDICTORS.load(name)
    assert issubclass(cls, Predictor)
    assert cls.about is PREDICTORS[name]
    assert cls.about.summary
    assert not cls.about.summary.endswith(".")
    assert set(cls.about.needs) <= {
        "tokens",
        "patches",
        "embedding",
        "position",
        "place",
        "lattice",
        "log_depth",
        "counts",
    }
    predictor = cls()
    assert predictor.name == name
    table = PREDICTORS.params_table(name)
    assert list(table.index) == list(predictor.params())
    assert table["meaning"].str.len().gt(5).all(), table.index[table["meaning"].str.len() <= 5]
