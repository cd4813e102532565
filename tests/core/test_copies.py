"""_core/copies."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, refused
from spared_sc._core.validate import get_libraries
from spared_sc._models.prediction.linear import folds
from spared_sc.tl._task import make_task


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


def test_equal_totals_and_few_spots_say_nothing():
    rng = np.random.default_rng(3)
    places = np.indices((6, 6)).reshape(2, -1).T

    def pairs(counts, places):
        obs = pd.DataFrame(np.tile(places, (2, 1)), columns=["array_row", "array_col"])
        obs["library_id"] = np.repeat(["a", "b"], len(places))
        adata = ad.AnnData(np.concatenate(counts).astype(np.float32), obs=obs.set_index(obs.index.astype(str)))
        return len(sp.pp.find_duplicate_libraries(adata, **KEY))

    equal = [rng.multinomial(300, np.ones(40) / 40, size=36) for _ in range(2)]  # as after downsampling
    assert pairs(equal, places) == 0
    assert pairs([equal[0], equal[0]], places) == 1
    level = np.arange(1, 6)[:, None]  # five spots of two sections are deep in the same order
    few = [rng.poisson(20 * level, size=(5, 40)) for _ in range(2)]
    assert np.corrcoef(*(np.log1p(counts.sum(axis=1)) for counts in few))[0, 1] > 0.95
    assert pairs(few, places[:5]) == 0


def test_copies_do_not_choose_parameters_for_each_other(adata):
    both = with_copy(adata[adata.obs["library_id"].isin(["library_1", "library_2"])].copy(), moved=False)
    with pytest.warns(UserWarning, match="same section"):
        task = make_task(
            both,
            get_libraries(both, "library_id"),
            "ridge",
            target="log2tpm",
            layer="log2tpm",
            loss=None,
            use_rep="X_test",
            mask_var="spared_selected",
            subject_key=None,
            spatial_key="spatial",
            split_key=None,
            params=None,
            novelty=False,
        )
    rows = np.flatnonzero(both.obs["library_id"] != "library_2")
    spots = task.spots.take(rows)
    fold = folds(spots)
    assert fold.max() > 0
    here = {tuple(place): fold[i] for i, place in enumerate(spots.position) if spots.library[i] == spots.library[0]}
    assert all(fold[i] == here[tuple(place)] for i, place in enumerate(spots.position))
