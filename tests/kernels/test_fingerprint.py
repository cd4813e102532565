"""Sections are known again by their spots."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed
from spared_sc._core.lineage import fingerprints
from spared_sc._core.record import by_library
from spared_sc._core.validate import get_libraries
from spared_sc._kernels.fingerprint import same_section


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_places_that_sections_share_do_not_tell_them_apart(adata):
    adata.obsm["spatial"] = adata.obs[["array_row", "array_col"]].to_numpy(dtype=float)
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, **KEY)
    roles = by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"])
    assert roles == {"library_1": "train", "library_2": "train", "library_3": "train", "library_4": "test"}
    alone = adata[adata.obs["library_id"] == "library_1"].copy()  # by the names of its spots, whatever it is called
    del alone.obs["library_id"], alone.uns["spatial"]
    sp.tl.predict_expression(alone, model=fitted)
    assert list(by_library(alone.uns["spared_sc"]["predicted_ridge"]["roles"]).values()) == ["train"]


def test_a_section_is_known_again_under_another_name(adata):
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    adata.obs["other"] = adata.obs["library_id"].astype(str).map(lambda name: f"section {name}")
    sp.tl.predict_expression(adata, model=fitted, library_key="other")
    roles = by_library(adata.uns["spared_sc"]["predicted_ridge"]["roles"])
    assert [roles[f"section library_{i}"] for i in (1, 2, 3, 4)] == ["train", "train", "train", "test"]


def test_sections_are_told_apart_by_their_spots(rng):
    def sketch(places):
        adata = ad.AnnData(obs=pd.DataFrame(index=map(str, range(len(places)))), obsm={"spatial": places})
        return fingerprints(adata, get_libraries(adata, None), "spatial", "places")["library"]

    places = rng.uniform(0, 5000, size=(900, 2))
    assert same_section(sketch(places), sketch(places[::-1]))
    assert same_section(sketch(places), sketch(places[rng.random(900) < 0.7]))  # after a filter
    many = rng.uniform(0, 5000, size=(20_000, 2))
    assert same_section(sketch(many), sketch(many[:2000]))  # a small part
    assert not same_section(sketch(many[2000:]), sketch(many[:2000]))
    assert not same_section(sketch(places), sketch(places + 0.4))
    assert not same_section(sketch(places), sketch(rng.uniform(0, 5000, size=(900, 2))))
    assert not same_section([], [])


def test_a_section_without_positions_is_known_again(adata):
    """A cut-out as well; otherwise its own values would make an honest score."""
    del adata.obsm["spatial"]
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    part = adata[np.random.default_rng(0).random(adata.n_obs) < 0.2].copy()
    sp.tl.predict_expression(part, model=fitted, **KEY)
    roles = by_library(part.uns["spared_sc"]["predicted_ridge"]["roles"])
    assert [roles[f"library_{i}"] for i in (1, 2, 3, 4)] == ["train", "train", "train", "test"]
