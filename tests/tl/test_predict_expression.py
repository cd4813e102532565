"""tl.predict_expression."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.files import through_a_file
from helpers.prediction import SECTIONS, embed, predict, refused, with_split
from spared_sc._core.record import by_library


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_every_library_is_predicted_by_a_fit_to_the_others(adata):
    predict(adata)
    table = adata.obsm["predicted_ridge"]
    assert table.columns.tolist() == adata.var_names[adata.var["spared_selected"]].tolist()
    assert table.dtypes.eq(np.float32).all()
    rows = np.flatnonzero(adata.obs["library_id"] == "library_2")
    changed = adata.copy()
    for name in ("log2tpm", "detected"):  # what is measured in a library has no part in its prediction
        values = changed.layers[name].tolil()
        values[rows] = values[rows][::-1]
        changed.layers[name] = values.tocsr()
    predict(changed)
    assert np.array_equal(changed.obsm["predicted_ridge"].iloc[rows], table.iloc[rows])
    others = np.flatnonzero(adata.obs["library_id"] != "library_2")
    assert not np.array_equal(changed.obsm["predicted_ridge"].iloc[others], table.iloc[others])
    assert set(by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"]).values()) == {"held out"}


def test_subjects_are_held_out_together(adata):
    adata.obs["donor"] = adata.obs["library_id"].astype(str).str[-1].isin(["1", "2"]).map({True: "a", False: "b"})
    predict(adata, subject_key="donor")
    of_a = (adata.obs["donor"] == "a").to_numpy()
    alone = sp.tl.fit_predictor(adata[~of_a].copy(), target="log2tpm", use_rep="X_test", **KEY)
    new = adata[of_a].copy()
    sp.tl.predict_expression(new, model=alone, key_added="alone", **KEY)
    np.testing.assert_allclose(new.obsm["alone"], adata.obsm["predicted_ridge"][of_a], atol=1e-5)


def test_with_a_split_only_train_libraries_are_learned_from(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata)
    train = (adata.obs["split"] == "train").to_numpy()
    alone = sp.tl.fit_predictor(adata[train].copy(), target="log2tpm", use_rep="X_test", split_key=None, **KEY)
    whole = adata.copy()
    sp.tl.predict_expression(whole, model=alone, key_added="alone", **KEY)
    np.testing.assert_allclose(whole.obsm["alone"], adata.obsm["predicted_ridge"], atol=1e-5)
    roles = by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"])
    assert roles == {"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"}


def test_donors_on_both_sides_of_a_split_are_told(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    adata.obs["donor"] = adata.obs["library_id"].astype(str).replace({"library_4": "library_1"})
    with pytest.warns(UserWarning, match="'library_1' have libraries in 'train' and in other parts"):
        predict(adata, "gene_mean", subject_key="donor")


def test_spots_at_no_place_are_refused(adata):
    adata.obsm["spatial"][3] = np.nan
    refused(lambda adata: predict(adata, "position_only"), adata, ValueError, "NaN or infinite positions")


def test_what_a_table_replaces_goes(adata):
    predict(adata, key_added="table", novelty=True)
    assert "table_out_of_distribution" in adata.obs
    predict(adata, "gene_mean", key_added="table")
    assert "table_out_of_distribution" not in adata.obs


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_names_with_a_slash_survive_a_file(adata, tmp_path, form):
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    del adata.uns["spatial"]
    predict(adata)
    expected = sp.tl.score_prediction(adata, **KEY)
    back = through_a_file(adata, tmp_path / f"a.{form}")
    pd.testing.assert_frame_equal(sp.tl.score_prediction(back, **KEY), expected)


def test_losses_differ_and_all_includes_zeros(adata):
    predict(adata, "gene_mean", loss="detected", key_added="detected")
    predict(adata, "gene_mean", loss="all", key_added="all")
    genes = adata.obsm["all"].columns
    values = adata[:, genes].layers["log2tpm"].toarray()
    out = (adata.obs["library_id"] == "library_1").to_numpy()
    np.testing.assert_allclose(adata.obsm["all"].to_numpy()[out][0], values[~out].mean(axis=0), rtol=1e-5)
    assert (adata.obsm["detected"].to_numpy() >= adata.obsm["all"].to_numpy() - 1e-4).all()
    assert not np.allclose(adata.obsm["detected"], adata.obsm["all"], atol=0.01)


def test_same_seed_same_result_whatever_the_order(adata):
    predict(adata)
    order = np.random.default_rng(3).permutation(adata.n_obs)
    other = adata[order].copy()
    del other.obsm["predicted_ridge"]
    predict(other)
    np.testing.assert_allclose(other.obsm["predicted_ridge"], adata.obsm["predicted_ridge"].iloc[order], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": "rigde"}, KeyError, "no predictor and no folder 'rigde'"),
        ({"model": 3}, TypeError, "model is a int"),
        ({"loss": "some"}, ValueError, "loss='some' is unknown"),
        ({"use_rep": "X_resnet18"}, KeyError, r"embed_patches\(adata, encoder='resnet18'\)"),
        ({"target": "spackle"}, KeyError, "no layer 'spackle'"),
        ({"model_params": {"n_step": 3}}, TypeError, "no parameter 'n_step'"),
        ({"subject_key": "donor"}, KeyError, "no column 'donor'"),
        ({"split_key": "fold"}, KeyError, "no column 'fold'"),
        ({"key_added": "a/b"}, ValueError, "without '/'"),
        ({"key_added": "spatial"}, ValueError, "was not written by spared_sc"),
        ({"key_added": "log2tpm"}, ValueError, "is the name of a record of pp.normalize_tpm"),
        ({"key_added": "gene_mean"}, ValueError, "is the name of an anchor"),
        ({"key_added": "floor_low"}, ValueError, "is the name of an anchor"),
        ({"key_added": "ceiling"}, ValueError, "is the name of an anchor"),
        ({"model_params": {"n_components": 0}}, ValueError, "n_components=0"),
        ({"library_key": None}, ValueError, "library_key="),
        ({"random_state": -1}, ValueError, "random_state"),
        ({"device": "abacus", "model": "shufflenet"}, ValueError, "abacus"),
        ({"device": "abacus"}, ValueError, "abacus"),
    ],
)
def test_wrong_arguments(adata, options, error, match):
    refused(lambda adata: predict(adata, **options), adata, error, match)


def test_one_library_needs_something_to_predict(adata):
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    refused(predict, one, ValueError, "nothing is left to predict.*fit_predictor")
