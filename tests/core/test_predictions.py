"""_core/predictions."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from spared_sc._core.predictions import get_predictions, prediction_key, scored_libraries
from spared_sc._core.record import library_table

ROLES = {"a": "train", "b": "test"}


def adata_with(**predictions) -> ad.AnnData:
    """Tables of two genes, with records."""
    adata = ad.AnnData(np.ones((3, 2), np.float32))
    adata.uns["spared_sc"] = {"other": {"function": "tl.embed_patches", "params": {}}}
    adata.obsm["other"] = np.ones((3, 1))
    for name, details in predictions.items():
        adata.obsm[name] = pd.DataFrame(
            np.ones((3, 2)), index=adata.obs_names, columns=details.pop("genes", ["x", "y"])
        )
        adata.uns["spared_sc"][name] = {
            "function": "tl.predict_expression",
            "params": {},
            "card": {"unit": "log2tpm"},
            "roles": library_table("ab", values=ROLES.values()),
            "groups": library_table("ab", values="12"),
            **details,
        }
    return adata


def test_all_predictions_by_default():
    adata = adata_with(one={}, two={"card": {"unit": "log2tpm_delta"}})
    found = get_predictions(adata, None, ["a", "b"])
    assert list(found.tables) == ["one", "two"]
    assert found.units == {"one": "log2tpm", "two": "log2tpm_delta"}
    assert found.genes.tolist() == ["x", "y"]
    assert found.roles == ROLES
    assert found.gene_mean is None
    assert list(get_predictions(adata, "two", ["a", "b"]).tables) == ["two"]


def test_the_gene_means_of_a_saved_model():
    mean = np.array([1.0, np.nan])
    adata = adata_with(one={"gene_mean": mean}, two={"gene_mean": mean * (1 + 1e-6)}, three={})
    np.testing.assert_allclose(get_predictions(adata, ["one", "two"], ["a", "b"]).gene_mean, mean)
    for pair in (["one", "three"], ["three", "one"]):
        with pytest.raises(ValueError, match="different data"):
            get_predictions(adata, pair, ["a", "b"])


@pytest.mark.parametrize(
    ("other", "libraries", "message"),
    [
        ({"genes": ["x", "z"]}, ["a", "b"], "different genes"),
        ({"roles": library_table("ab", values=["test", "train"])}, ["a", "b"], "different libraries"),
        ({"groups": library_table("ab", values="11")}, ["a", "b"], "different libraries"),
        ({}, ["a", "c"], "library_key"),
        ({}, ["a"], "whole AnnData"),
    ],
)
def test_predictions_that_cannot_be_compared(other, libraries, message):
    with pytest.raises(ValueError, match=message):
        get_predictions(adata_with(one={}, two=other), None, libraries)


def test_the_prediction_that_is_asked_for():
    assert prediction_key(adata_with(one={}), None) == "one"
    with pytest.raises(ValueError, match="several predictions"):
        prediction_key(adata_with(one={}, two={}), None)
    for key in (None, "other"):
        with pytest.raises(KeyError, match="no prediction"):
            prediction_key(adata_with(), key)


def test_libraries_to_score():
    for roles, expected, kind in (
        ("train val test", [False, False, True], "held-out"),
        ("train val val", [False, True, True], "validation"),
        ("held held held", [True] * 3, "held-out"),
    ):
        names = roles.replace("held", "held_out").split()
        scored, found = scored_libraries(
            dict(zip("abc", [n.replace("_", " ") for n in names], strict=True)), list("abc")
        )
        assert scored.tolist() == expected
        assert found == kind
    with pytest.raises(ValueError, match="had a part in fitting"):
        scored_libraries(dict.fromkeys("abc", "train"), list("abc"))
    with pytest.raises(ValueError, match="learned from all libraries"):
        scored_libraries({"a": "train", "b": "seen"}, list("ab"))
