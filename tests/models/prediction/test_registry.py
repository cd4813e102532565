"""_models/prediction/registry."""

from __future__ import annotations

import pytest

from spared_sc._models.prediction.registry import PREDICTORS


def test_unknown_predictors_and_parameters():
    with pytest.raises(KeyError, match=r"no predictor 'rigde': choose among .*'ridge'"):
        PREDICTORS.make("rigde", {})
    with pytest.raises(
        TypeError, match=r"'ridge' has no parameter 'steps'; its parameters: 'standardize', 'n_components'"
    ):
        PREDICTORS.make("ridge", {"steps": 3})
