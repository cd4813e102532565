"""tl.predict_expression from images."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries
from spared_sc._core.record import by_library

TINY = {  # a network that is trained in a second
    "weights": "random",
    "backbone": "timm:resnet10t",
    "n_steps": 4,
    "train_batch_size": 8,
    "validate_every": 2,
    "learning_rate": 1e-3,
}


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_a_network_is_fitted_and_selected_on_its_own_libraries(adata):
    adata.obs["split"] = (
        adata.obs["library_id"]
        .astype(str)
        .map({"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"})
    )
    sp.tl.predict_expression(adata, model="shufflenet", target="log2tpm", model_params=TINY, **KEY)
    record = adata.uns["spared_sc"]["predicted_shufflenet"]
    assert record["fits"]["fit_0"]["n_parameters"] > 1e6
    table = adata.obsm["predicted_shufflenet"]
    assert np.isfinite(table.to_numpy()).all()
    changed = adata.copy()
    rows = np.flatnonzero(adata.obs["split"] == "test")
    values = changed.layers["log2tpm"].tolil()
    values[rows] = values[rows][::-1]
    changed.layers["log2tpm"] = values.tocsr()
    sp.tl.predict_expression(changed, model="shufflenet", target="log2tpm", model_params=TINY, **KEY)
    assert changed.obsm["predicted_shufflenet"].equals(table)  # measured test values have no part


@pytest.mark.parametrize("model", ["shufflenet", "bleep", "egn"])
def test_saved_networks_predict_the_same(adata, tmp_path, model):
    params = dict(TINY)
    if model == "bleep":
        params |= {"n_neighbours": 5}
    if model == "egn":
        del params["backbone"]
        params |= {"encoder": "timm:resnet10t", "width": 32, "depth": 2, "n_heads": 2, "feedforward": 32}
        params |= {"token_size": 4, "image_size": 32}
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), model=model, model_params=params, **KEY)
    fitted.save(tmp_path / "model")
    new = of_libraries(adata, 3)
    sp.tl.predict_expression(new, model=fitted, key_added="one")
    sp.tl.predict_expression(new, model=tmp_path / "model", key_added="other", batch_size=5)
    np.testing.assert_allclose(new.obsm["one"], new.obsm["other"], rtol=1e-4, atol=1e-5)
    assert set(by_library(new.uns["spared_sc"]["one"]["roles"]).values()) == {"test"}


def test_retrieval_from_one_train_section(adata):
    """All exemplars are of it, for the other section as for its own."""
    two = of_libraries(adata, 1, 2)
    two.obs["split"] = np.where(two.obs["library_id"] == "library_1", "train", "val")
    sp.tl.predict_expression(
        two, model="bleep", model_params={**TINY, "n_neighbours": 5}, target="log2tpm", loss="all", **KEY
    )
    table = two.obsm["predicted_bleep"]
    values = two[two.obs["split"] == "train", table.columns].layers["log2tpm"].toarray()
    assert (table.min() >= values.min(axis=0) - 1e-4).all()
    assert (table.max() <= values.max(axis=0) + 1e-4).all()


def test_retrieval_leaves_out_the_section_itself(adata):
    """Predicting a train section, no spot may find itself among the exemplars."""
    params = {**TINY, "n_neighbours": 1}
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), model="bleep", model_params=params, **KEY)
    again = of_libraries(adata, 1)
    sp.tl.predict_expression(again, model=fitted)
    genes = again.obsm["predicted_bleep"].columns
    other = of_libraries(adata, 2)[:, genes].layers["log2tpm"].toarray()
    own = again[:, genes].layers["log2tpm"].toarray()

    def contained(row, rows):
        return np.isclose(rows, row, atol=1e-3).all(axis=1).any()

    found = again.obsm["predicted_bleep"].to_numpy()
    # With every entry known, a prediction from one exemplar would be a row of the train sections.
    whole = [row for row in found if contained(row, own) or contained(row, other)]
    assert not [row for row in whole if contained(row, own) and not contained(row, other)]


def test_a_new_slide_is_embedded_as_the_train_sections_were(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    expected = of_libraries(adata, 4)
    sp.tl.predict_expression(expected, model=fitted)
    bare = ad.AnnData(obs=expected.obs[["array_row", "array_col"]].copy(), obsm={"spatial": expected.obsm["spatial"]})
    bare.uns["spatial"] = {"library_4": expected.uns["spatial"]["library_4"]}
    sp.tl.predict_expression(bare, model=fitted)
    assert "X_classical" not in bare.obsm
    np.testing.assert_allclose(bare.obsm["predicted_ridge"], expected.obsm["predicted_ridge"], atol=1e-4)


def test_embeddings_by_another_encoder_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    new = of_libraries(adata, 4)
    new.uns["spared_sc"]["X_classical"]["encoder"]["name"] = "resnet18"
    with pytest.raises(ValueError, match="name is 'resnet18' instead of 'classical'"):
        sp.tl.predict_expression(new, model=fitted)
    new.uns["spared_sc"]["X_classical"]["encoder"] |= {"name": "classical", "of_others": "None"}
    sp.tl.predict_expression(new, model=fitted)  # what is None there says nothing
    del new.uns["spared_sc"]["X_classical"]
    with pytest.raises(ValueError, match="its encoder is not recorded"):
        sp.tl.predict_expression(new, model=fitted)


def test_networks_refuse_a_split_without_validation(adata):
    adata.obs["split"] = np.where(adata.obs["library_id"] == "library_4", "test", "train")
    before = adata.copy()
    for function in (sp.tl.predict_expression, sp.tl.fit_predictor):
        with pytest.raises(ValueError, match="'shufflenet' chooses its best step on validation libraries.*has none"):
            function(adata, model="shufflenet", model_params=TINY, **KEY)
    assert set(adata.obsm) == set(before.obsm)
    sp.tl.predict_expression(adata, model="ridge", **KEY)  # has no use for one
    two = of_libraries(adata, 1, 2)  # nothing is left to validate on: the last step
    sp.tl.predict_expression(two, model="shufflenet", model_params=TINY, split_key=None, **KEY)
    assert np.isfinite(two.obsm["predicted_shufflenet"].to_numpy()).all()
    params = {**TINY, "learning_rate": "search"}
    with pytest.raises(ValueError, match="learning_rate='search' compares rates on validation spots"):
        sp.tl.predict_expression(two, model="shufflenet", model_params=params, split_key=None, **KEY)


def test_a_saved_predictor_makes_all_its_embeddings(adata, tmp_path):
    sp.tl.embed_patches(adata, size=(2, 3), key_added="X_sizes", **KEY)
    sp.tl.embed_patches(adata, n_rings=1, **KEY)
    names = ["X_classical_mean1", "X_sizes"]
    train, new = of_libraries(adata, 1, 2), of_libraries(adata, 3)
    fitted = sp.tl.fit_predictor(train, use_rep=names, **KEY)
    expected = fitted.predict(new)
    fitted.save(tmp_path / "model")
    fitted = sp.tl.load_predictor(tmp_path / "model")
    assert list(fitted.card.data.embeddings) == names
    joined = train.copy()
    joined.obsm["X_joined"] = np.hstack([train.obsm[name] for name in names])
    alone = sp.tl.fit_predictor(joined, use_rep="X_joined", **KEY)
    new.obsm["X_joined"] = np.hstack([new.obsm[name] for name in names])
    np.testing.assert_allclose(alone.predict(new), expected, rtol=1e-5, atol=1e-5)
    for name in names:
        del new.obsm[name]
    np.testing.assert_allclose(fitted.predict(new), expected, rtol=1e-4, atol=1e-4)
    del new.uns["spared_sc"]["patches"]  # which were of one size anyway
    np.testing.assert_allclose(fitted.predict(new), expected, rtol=0.05, atol=0.05)  # cut to 32 pixels there
    with pytest.raises(ValueError, match="'X_joined'.*'X_joined'.* cannot be used: .*a list of different ones"):
        sp.tl.fit_predictor(joined, use_rep=["X_joined", "X_joined"], **KEY)
    with pytest.raises(KeyError, match="there is no obsm\\['X_other'\\]"):
        sp.tl.fit_predictor(joined, use_rep=["X_joined", "X_other"], **KEY)


@pytest.mark.parametrize("change", [{"size": (2, 4)}, {"size": 2}, {"size": (2, 3), "n_rings": 1}])
def test_an_embedding_of_other_sizes_or_neighbours_is_refused(adata, change):
    sp.tl.embed_patches(adata, size=(2, 3), key_added="X_sizes", **KEY)
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), use_rep="X_sizes", **KEY)
    new = of_libraries(adata, 3)
    sp.tl.embed_patches(new, key_added="X_sizes", **change)
    with pytest.raises(
        ValueError, match=r"obsm\['X_sizes'\] has size=.*fitted on size=\[2.0, 3.0\], n_rings=0: remove it"
    ):
        fitted.predict(new)


@pytest.mark.filterwarnings("ignore:the mean embedding of a section")  # means vary less within the sections
def test_predictions_from_several_embeddings_are_recorded(adata):
    sp.tl.embed_patches(adata, n_rings=1, **KEY)
    sp.tl.predict_expression(adata, use_rep=("X_classical", "X_classical_mean1"), **KEY)
    record = adata.uns["spared_sc"]["predicted_ridge"]
    assert record["params"]["use_rep"].tolist() == ["X_classical", "X_classical_mean1"]
    assert record["card"]["embeddings"]["X_classical_mean1"]["params"]["n_rings"] == 1
