"""A completion method that is added from outside: one file and one registry line, and everything works with it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, dense
from helpers.completion import SECTIONS
from helpers.contract import check_completed, check_copy, check_files, check_measurements, written_by
from spared_sc._core.registry import About
from spared_sc._models.completion.registry import COMPLETERS

SHIFTED = About("shifted", "helpers.toy_completer:Shifted", "a toy that is fitted", paper="nobody (2024)")


@pytest.fixture
def ready(collection):
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture
def shifted():
    COMPLETERS.add(SHIFTED)
    yield
    COMPLETERS.remove("shifted")
    sys.modules.pop("helpers.toy_completer", None)  # the next one finds its entry anew


@pytest.mark.usefixtures("shifted")
def test_it_is_listed_with_its_parameters():
    assert sp.tl.completers().loc["shifted"].tolist() == ["a toy that is fitted", "nothing", "nobody (2024)"]
    assert sp.tl.completers("shifted").loc["shift"].tolist() == ["0.5", "number from 0 to 9", "", "How much is added."]


def test_it_is_gone_afterwards(ready):
    assert "shifted" not in sp.tl.completers().index
    with pytest.raises(KeyError, match="'shifted'"):
        sp.tl.complete(ready, method="shifted", **KEY)


@pytest.mark.usefixtures("shifted")
def test_it_is_fitted_recorded_saved_and_applied(ready, tmp_path):
    options = {"method_params": {"shift": 2}, **KEY}
    sp.tl.complete(ready, method="shifted", save_model=tmp_path / "model", **options)
    detected, selected = dense(ready.X) > 0, ready.var["spared_selected"].to_numpy()
    values = dense(ready.layers["log2tpm"]).astype(float)
    mean = values.sum(axis=0) / np.maximum(detected.sum(axis=0), 1)
    filled = dense(ready.layers["shifted"])
    missing = ~detected & selected
    np.testing.assert_allclose(filled[missing], np.broadcast_to(mean + 2, filled.shape)[missing], rtol=1e-5)
    record = ready.uns["spared_sc"]["shifted"]
    assert record["params"]["method"] == "shifted"
    assert record["params"]["method_params"] == {"shift": 2}
    assert record["params"]["fitted"] == "here"
    assert record["score"]["shifted"] == 1

    sp.tl.complete(ready, method=tmp_path / "model", key_added="again", **KEY)
    np.testing.assert_array_equal(dense(ready.layers["again"]), filled)
    sp.tl.spackle_complete(ready, model="shifted", model_params={"shift": 2}, key_added="door", **KEY)
    np.testing.assert_array_equal(dense(ready.layers["door"]), filled)
    with pytest.raises(ValueError, match="shift=10 cannot be used"):
        sp.tl.complete(ready, method="shifted", method_params={"shift": 10}, **KEY)
    with pytest.raises(TypeError, match="'shifted' has no parameter 'level'; .*'shift'"):
        sp.tl.complete(ready, method="shifted", method_params={"level": 1}, **KEY)


@pytest.mark.usefixtures("shifted")
def test_train_values_come_from_train_libraries(ready):
    ready.obs["split"] = np.where(ready.obs["library_id"] == "library_1", "train", "test")
    train = (ready.obs["split"] == "train").to_numpy()
    sp.tl.complete(ready, method="shifted", method_params={"shift": 0}, **KEY)
    detected, selected = dense(ready.X) > 0, ready.var["spared_selected"].to_numpy()
    values = dense(ready.layers["log2tpm"]).astype(float)[train]
    mean = values.sum(axis=0) / np.maximum(detected[train].sum(axis=0), 1)
    missing = ~detected & selected
    filled = dense(ready.layers["shifted"])
    np.testing.assert_allclose(filled[missing], np.broadcast_to(mean, filled.shape)[missing], rtol=1e-5)


@pytest.mark.usefixtures("shifted")
def test_it_is_evaluated_and_audited(ready):
    options = {"n_masks": 1, "device": "cpu", "show_progress_bar": False, **KEY}
    scores = sp.tl.evaluate_completion(
        ready, methods=["shifted", "gene_mean"], regimes=("detected", "thinning"), **options
    )
    mse = scores[(scores["metric"] == "mse") & (scores["genes"] == "all")].groupby("method")["value"].mean()
    assert mse["shifted"] > mse["gene_mean"] > mse["floor_high"]
    assert "deviance" in set(scores.loc[scores["method"] == "shifted", "metric"])
    assert "coverage_90" in set(scores.loc[scores["method"] == "shifted", "metric"])
    instance = COMPLETERS.make("shifted", {"shift": 0})
    other = sp.tl.evaluate_completion(ready, methods=[instance], regimes="detected", **options)
    assert not instance.fitted
    error = other[(other["metric"] == "mse") & (other["genes"] == "all") & (other["method"] == "shifted")]["value"]
    assert error.mean() == pytest.approx(mse["gene_mean"], rel=1e-5)
    del options["n_masks"]
    with pytest.warns(UserWarning, match="nothing is gained with 'shifted'"):
        sp.tl.audit_completion(ready, method="shifted", quick=True, **options)
    assert ready.uns["spared_sc"]["audit"]["params"]["method"] == "shifted"


@pytest.mark.usefixtures("shifted")
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_it_keeps_what_every_writing_function_promises(ready, tmp_path):
    options = {"method": "shifted", **KEY}
    written = written_by(sp.tl.complete, ready, options)
    assert written == {
        'layers["shifted"]', 'layers["shifted_denoised"]', 'layers["shifted_rate"]', 'layers["shifted_sd"]',
        'uns["spared_sc"]["shifted"]',
    }  # fmt: skip
    check_copy(sp.tl.complete, ready, options)
    check_completed(check_measurements(sp.tl.complete, ready, options), "shifted")
    for name in ("result.h5ad", "result.zarr"):
        check_files(sp.tl.complete, ready, options, tmp_path / name)
