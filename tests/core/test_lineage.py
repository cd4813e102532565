"""Layers that have seen the sections that are predicted."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.files import through_a_file
from helpers.prediction import SECTIONS, embed, predict, with_split
from spared_sc._core.record import by_library


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


@pytest.mark.parametrize("made_by", ["combat", "additive"])
def test_what_saw_the_predicted_sections_is_not_scored(adata, made_by):
    def make(layer_of):
        if made_by == "combat":
            sp.pp.combat(layer_of, key_added="made", **KEY)
        else:
            sp.tl.complete(layer_of, method="additive", key_added="made", split_key=None, **KEY)

    make(adata)
    with pytest.warns(UserWarning, match=r"layers\['made'\], made by `.*`, has learned from all sections"):
        predict(adata, target="made")
    assert set(by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"]).values()) == {"seen"}
    with pytest.raises(ValueError, match="the layer that was predicted has learned from all libraries"):
        sp.tl.score_prediction(adata, **KEY)
    # A fitted predictor remembers which sections its layer has seen.
    with_split(adata, l1="train", l2="train", l3="train", l4="test")
    fitted = sp.tl.fit_predictor(adata, target="made", use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, **KEY)
    assert by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"])["library_4"] == "seen"
    # Also through a step that by itself looks at one section at a time.
    sp.tl.median_complete(adata, layer="made", key_added="filled", **KEY)
    with pytest.warns(UserWarning, match=r"layers\['made'\].*has learned from all sections"):
        predict(adata, target="filled")


def test_layers_that_were_made_with_the_split_are_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    sp.pp.combat(adata, key_added="made", **KEY)
    predict(adata, target="made")
    assert by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"])["library_4"] == "test"
    with_split(adata, l1="train", l2="test", l3="val", l4="train")  # the same name, another split
    with pytest.warns(UserWarning, match="has learned from another split of the same name"):
        predict(adata, target="made")


def test_what_looks_at_one_section_at_a_time_is_scored(adata):
    sp.tl.median_complete(adata, key_added="filled", **KEY)
    before = adata.layers["filled"].toarray()
    other = (adata.obs["library_id"] == "library_2").to_numpy()
    changed = adata.copy()
    changed.layers["log2tpm"] = changed.layers["log2tpm"].toarray()
    changed.layers["log2tpm"][other] *= 3
    sp.tl.median_complete(changed, key_added="filled", **KEY)
    after = np.asarray(changed.layers["filled"])
    np.testing.assert_array_equal(after[~other], before[~other])
    assert (after[other] != before[other]).any()
    predict(adata, target="filled")  # without a warning
    assert set(by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"]).values()) == {"held out"}


def test_a_correction_that_was_learned_elsewhere_is_scored(adata, tmp_path):
    old, new = ["library_1", "library_2"], ["library_3", "library_4"]
    sp.pp.combat(adata[adata.obs["library_id"].isin(old)].copy(), save_model=tmp_path / "combat", **KEY)
    here = adata[adata.obs["library_id"].isin(new)].copy()
    sp.pp.combat(here, model=tmp_path / "combat", key_added="made", **KEY)
    predict(here, target="made")
    assert set(by_library(here.uns["spared_sc"]["predicted_ridge"]["roles"]).values()) == {"held out"}
    alone = here[here.obs["library_id"] == "library_4"].copy()  # by itself, the same
    sp.pp.combat(alone, model=tmp_path / "combat", key_added="made", **KEY)
    rows = (here.obs["library_id"] == "library_4").to_numpy()
    np.testing.assert_allclose(alone.layers["made"].toarray(), here.layers["made"][rows].toarray(), rtol=1e-5)
    sp.pp.combat(adata, model=tmp_path / "combat", key_added="made", **KEY)  # two of the sections it has learned from
    with pytest.warns(UserWarning, match="has learned from all sections"):
        predict(adata, target="made")


def test_layers_that_were_made_of_one_another_come_to_an_end(adata):
    sp.pp.center(adata)
    sp.pp.uncenter(adata, key_added="log2tpm")
    sp.tl.median_complete(adata, key_added="one", **KEY)
    sp.tl.median_complete(adata, layer="one", key_added="two", **KEY)
    sp.tl.median_complete(adata, layer="two", key_added="one", **KEY)
    predict(adata, "gene_mean", key_added="a")
    predict(adata, "gene_mean", target="one", key_added="b")
    assert set(by_library(adata.uns["spared_sc"]["b"]["roles"]).values()) == {"held out"}


def test_rates_have_seen_what_their_layer_has(adata):
    sp.tl.complete(adata, method="additive", key_added="made", **KEY)
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    with pytest.warns(UserWarning, match=r"layers\['made_rate'\].*has learned from all sections"):
        predict(adata, target="made_rate")
    fitted = sp.tl.fit_predictor(adata, target="made_rate", use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="saved", **KEY)
    roles = {"library_1": "train", "library_2": "train", "library_3": "seen", "library_4": "seen"}
    for key in ("predicted_ridge", "saved"):
        assert by_library(adata.uns["spared_sc"][key]["roles"]) == roles


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_a_split_is_recorded_so_that_files_can_hold_it(adata, tmp_path, form):
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    adata.obs["split"] = np.where(adata.obs["library_id"] == "library/4", "test", "train")
    del adata.uns["spatial"]
    sp.pp.combat(adata, key_added="made", **KEY)
    back = through_a_file(adata, tmp_path / f"a.{form}")
    predict(back, target="made")  # without a warning: made with this split
    assert by_library(back.uns["spared_sc"]["predicted_ridge"]["roles"])["library/4"] == "test"
