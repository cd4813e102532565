"""tl.compare_targets."""

from __future__ import annotations

import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, with_split


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_compare_targets_has_four_arms(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    sp.tl.median_complete(adata, **KEY)
    before = adata.copy()
    options = {"completed": "median", "use_rep": "X_test", **KEY}
    with pytest.raises(ValueError, match=r"obsm\['X_test'\] is not recorded as an image embedding"):
        sp.tl.compare_targets(adata, **options)
    scores = sp.tl.compare_targets(adata, allow_unrecorded_rep=True, **options)
    arms = ["raw, all", "raw, detected", "completed, all", "completed, detected"]
    assert list(scores["prediction"].unique()[:4]) == arms
    assert set(adata.obsm) == set(before.obsm)
    value = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "mse")]
    value = value.set_index("prediction")["value"]
    # Completion changes no detected value, so these two arms are the same; zeros in the target cost much.
    assert value["raw, detected"] == pytest.approx(value["completed, detected"])
    assert value["raw, all"] > value["raw, detected"]


def test_a_denoised_layer_is_a_target(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    options = {"completed": "kernel_denoised", "use_rep": "X_test", "allow_unrecorded_rep": True, **KEY}
    sp.tl.complete(adata, method="kernel", **KEY)
    scores = sp.tl.compare_targets(adata, **options)
    value = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "pcc")]
    value = value.set_index("prediction")["value"]
    assert value["completed, all"] > value["raw, all"]
    sp.tl.complete(adata, method="additive", split_key=None, **KEY)
    with pytest.raises(ValueError, match=r"additive_denoised.*has learned from all sections"):
        sp.tl.compare_targets(adata, **{**options, "completed": "additive_denoised"})


def test_compare_targets_refuses_leaks(adata):
    with pytest.raises(KeyError, match="split_libraries"):
        sp.tl.compare_targets(adata, completed="median", use_rep="X_test", **KEY)
    sp.tl.complete(adata, method="additive", **KEY, key_added="filled")
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    with pytest.raises(ValueError, match="has learned from all sections: train values may have been filled"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    adata.uns["spared_sc"]["filled"]["params"]["split_key"] = "other"  # made with another split
    with pytest.raises(ValueError, match="has learned from all sections: train values may have been filled"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    del adata.uns["spared_sc"]["filled"]
    with pytest.raises(ValueError, match="not known to be made with the split 'split'"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    for name in ("copy", "key_added", "loss"):
        with pytest.raises(TypeError, match=f"sets '{name}' itself"):
            sp.tl.compare_targets(adata, completed="log2tpm", use_rep="X_test", **{name: "all"}, **KEY)
    with pytest.raises(KeyError, match="no predictor 'path/to/saved' to fit"):
        sp.tl.compare_targets(adata, model="path/to/saved", completed="filled", use_rep="X_test", **KEY)
