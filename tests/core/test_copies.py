"""_core/copies."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, refused


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def with_copy(adata, *, moved=True, share=1.0):
    """The collection with library_1 once more: under another name, elsewhere, and only some of its spots."""
    again = adata[adata.obs["library_id"] == "library_1"].copy()
    again = again[np.random.default_rng(0).permutation(again.n_obs)[: int(share * again.n_obs)]].copy()
    again.obs["library_id"] = "again"
    again.obs_names = [f"{name}-2" for name in again.obs_names]
    if moved:
        again.obs["array_row"], again.obs["array_col"] = again.obs["array_col"] * 2, again.obs["array_row"] * 2
        again.obsm["spatial"] = again.obsm["spatial"][:, ::-1] * 1.7
    result = ad.concat([adata, again], merge="same", uns_merge="first")
    result.obs["library_id"] = result.obs["library_id"].astype("category")
    result.uns.pop("spatial", None)
    return result


@pytest.mark.parametrize("share", [1.0, 0.6])
@pytest.mark.parametrize("moved", [False, True])
def test_a_copy_is_found_wherever_it_lies(adata, moved, share):
    pairs = sp.pp.find_duplicate_libraries(with_copy(adata, moved=moved, share=share), **KEY)
    assert pairs[["library", "other"]].to_numpy().tolist() == [["again", "library_1"]]
    assert pairs["correlation"].iloc[0] == pytest.approx(1)


def test_a_copy_is_held_out_with_its_original(adata):
    both = with_copy(adata)
    with pytest.warns(UserWarning, match="same section are held out together: 'again = library_1'"):
        predict(both)
    alone = adata.copy()
    predict(alone)
    rows = (alone.obs["library_id"] == "library_1").to_numpy()
    found = both.obsm["predicted_ridge"].loc[alone.obs_names[rows]]
    np.testing.assert_allclose(found, alone.obsm["predicted_ridge"][rows], atol=1e-5)  # as without the copy


def test_a_split_that_divides_copies_is_refused(adata):
    both = with_copy(adata)
    both.obs["split"] = np.where(both.obs["library_id"] == "again", "test", "train")
    match = r"'again' \(test\) and 'library_1' \(train\) hold the same section"
    refused(predict, both, ValueError, match)


def test_sections_of_one_block_are_none(adata):
    assert sp.pp.find_duplicate_libraries(adata, **KEY).empty
