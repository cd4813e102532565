"""A predictor that is added from outside: one file and one registry line, and everything works with it."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed
from spared_sc._core.registry import About
from spared_sc._models.prediction.registry import PREDICTORS

HALFWAY = About("halfway", "helpers.toy_predictor:Halfway", "a toy", needs=("embedding",), paper="nobody (2024)")


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


@pytest.fixture
def halfway():
    PREDICTORS.add(HALFWAY)
    yield
    PREDICTORS.remove("halfway")


@pytest.mark.usefixtures("halfway")
def test_it_is_listed_with_its_parameters():
    assert sp.tl.predictors().loc["halfway"].tolist() == ["embedding", "nobody (2024)", "", "a toy"]
    table = sp.tl.predictors("halfway")
    assert table.loc["step"].tolist() == ["0.5", "number from 0 to 1", "How much more."]


@pytest.mark.usefixtures("halfway")
def test_it_is_fitted_scored_saved_and_applied(adata, tmp_path):
    options = {"model": "halfway", "target": "log2tpm", "use_rep": "X_test", "model_params": {"step": 0.25}, **KEY}
    sp.tl.predict_expression(adata, novelty=True, **options)
    table, record = adata.obsm["predicted_halfway"], adata.uns["spared_sc"]["predicted_halfway"]
    out = (adata.obs["library_id"] == "library_1").to_numpy()
    above = adata.obsm["X_test"][:, 0] > np.median(adata.obsm["X_test"][~out, 0])
    assert np.ptp(table.to_numpy()[out & above], axis=0).max() == 0
    np.testing.assert_allclose(table.to_numpy()[out & above][0] - table.to_numpy()[out & ~above][0], 0.25, rtol=1e-4)
    assert record["fits"]["fit_0"]["step"] == 0.25
    assert adata.obs["predicted_halfway_out_of_distribution"].dtype == bool
    assert "predicted_halfway" in set(sp.tl.score_prediction(adata, **KEY)["prediction"])
    fitted = sp.tl.fit_predictor(adata, **options)
    fitted.save(tmp_path / "model")
    again = sp.tl.load_predictor(tmp_path / "model")
    assert again.card == fitted.card
    assert again.predict(adata, **KEY).equals(fitted.predict(adata, **KEY))
    with pytest.raises(ValueError, match="step=2 cannot be used"):
        sp.tl.predict_expression(adata, **{**options, "model_params": {"step": 2}})
