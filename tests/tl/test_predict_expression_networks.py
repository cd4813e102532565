"""tl.predict_expression with networks: order, checkpoints, weights."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import cut
from spared_sc._models.prediction.networks import NetworkPredictor

TINY = {"weights": "random", "n_steps": 4, "train_batch_size": 8, "validate_every": 2, "learning_rate": 1e-3}
SECTION = {name: value for name, value in TINY.items() if name != "train_batch_size"}


MODELS = {
    "shufflenet": {**TINY, "backbone": "timm:test_resnet"},
    "bleep": {**TINY, "backbone": "timm:test_resnet", "loss_chunk": 4, "n_neighbours": 5},
    "egn": {
        **{**TINY, "encoder": "timm:test_resnet", "image_size": 32, "token_size": 16, "width": 32, "depth": 2},
        **{"n_heads": 1, "feedforward": 32, "n_exemplars": 3, "warmup_steps": 1},
    },
    "sepal": {**TINY, "backbone": "timm:test_resnet", "image_size": 32, "width": 16, "first_steps": 4},
    "eggn": {
        **{**SECTION, "encoder": "timm:test_resnet"},
        **{"image_size": 32, "width": 16, "n_layers": 2, "n_exemplars": 3},
    },
    "hist2st": {
        **{**SECTION, "image_size": 32, "token_size": 8, "channels": 4},
        **{"width": 16, "depth": 1, "n_heads": 1, "feedforward": 8, "n_copies": 2},
    },
}


@pytest.fixture
def adata(collection):
    return collection(
        n_libraries=4, shape=(6, 6), n_genes=40, depth=400, recipe={"n_genes": 8, "gene_lengths": None}, then=cut
    )


def predict(adata, model, **options):
    params = {**MODELS[model], **options.pop("model_params", {})}
    sp.tl.predict_expression(adata, model=model, model_params=params, show_progress_bar=False, **KEY, **options)


@pytest.mark.parametrize("model", MODELS)
def test_the_order_of_rows_and_sections_does_not_matter(adata, model):
    predict(adata, model)
    expected = adata.obsm.pop(f"predicted_{model}")
    sections = np.argsort(-adata.obs["library_id"].cat.codes.to_numpy(), kind="stable")
    for order in (sections, np.random.default_rng(0).permutation(adata.n_obs)):
        other = adata[order].copy()
        predict(other, model)
        np.testing.assert_allclose(other.obsm[f"predicted_{model}"].loc[expected.index], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("model", MODELS)
def test_three_sections_are_enough(adata, model):
    three = adata[adata.obs["library_id"] != "library_4"].copy()
    predict(three, model)
    assert np.isfinite(three.obsm[f"predicted_{model}"]).all(axis=None)


def test_an_interrupted_cross_fit_writes_nothing_and_goes_on(adata, tmp_path, monkeypatch):
    predict(adata, "shufflenet")
    expected = adata.obsm.pop("predicted_shufflenet")
    adata.uns["spared_sc"].pop("predicted_shufflenet")
    before = adata.copy()
    taken, loss = [], NetworkPredictor.loss

    def interrupted(self, network, batch):
        taken.append(batch)
        if len(taken) == 7:  # the third step of the second fit
            raise KeyboardInterrupt
        return loss(self, network, batch)

    with monkeypatch.context() as patched:
        patched.setattr(NetworkPredictor, "loss", interrupted)
        with (
            pytest.warns(UserWarning, match="interrupted"),
            pytest.raises(KeyboardInterrupt, match="in fit 2 of 4; nothing was written"),
        ):
            predict(adata, "shufflenet", checkpoint=tmp_path)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns["spared_sc"]) == set(before.uns["spared_sc"])
    predict(adata, "shufflenet", checkpoint=tmp_path)
    np.testing.assert_allclose(adata.obsm["predicted_shufflenet"], expected, rtol=1e-5)


def test_the_four_arms_have_a_checkpoint_each(adata, tmp_path):
    split = {"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"}
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(split)
    options = {"model": "shufflenet", "model_params": MODELS["shufflenet"], **KEY}
    expected = sp.tl.compare_targets(adata, show_progress_bar=False, **options)
    for _ in range(2):
        found = sp.tl.compare_targets(adata, checkpoint=tmp_path, show_progress_bar=False, **options)
        np.testing.assert_allclose(found["value"], expected["value"], rtol=1e-4, atol=1e-6)
    arms = {"raw-all", "raw-detected", "given-detection", "denoised"}
    assert {folder.name for folder in tmp_path.iterdir()} == arms


def test_validation_sections_without_an_entry(adata):
    split = {"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"}
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(split)
    rows = np.flatnonzero(adata.obs["library_id"] == "library_3")
    for values in (adata.layers["log2tpm"], adata.layers["detected"]):
        values.data[values.indptr[rows[0]] : values.indptr[rows[-1] + 1]] = 0
        values.eliminate_zeros()
    with pytest.raises(ValueError, match="no gene is detected in the validation libraries"):
        predict(adata, "shufflenet", target="log2tpm")


def test_the_same_weights_from_another_place_are_the_same_encoder(adata, tmp_path):
    import timm
    from safetensors.torch import save_file

    where, elsewhere = tmp_path / "w.safetensors", tmp_path / "renamed.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), where)
    embed = {"encoder": "test_resnet", "key_added": "X_own", "show_progress_bar": False, **KEY}
    sp.tl.embed_patches(adata, weights=where, **embed)
    sp.tl.fit_predictor(adata, model="ridge", use_rep="X_own", **KEY).save(tmp_path / "model")
    sp.tl.predict_expression(adata, model=tmp_path / "model", **KEY)
    expected = adata.obsm["predicted_ridge"].copy()
    del adata.obsm["X_own"]
    where.rename(elsewhere)
    with pytest.raises(FileNotFoundError, match=r"not where they were in training.*embed_patches\(.*key_added='X_own'"):
        sp.tl.predict_expression(adata, model=tmp_path / "model", **KEY)
    sp.tl.embed_patches(adata, weights=elsewhere, **embed)
    sp.tl.predict_expression(adata, model=tmp_path / "model", **KEY)
    np.testing.assert_allclose(adata.obsm["predicted_ridge"], expected, rtol=1e-5)
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), elsewhere)  # others, from another seed
    sp.tl.embed_patches(adata, weights=elsewhere, **embed)
    with pytest.raises(ValueError, match="is not what the model was fitted on.*parameters"):
        sp.tl.predict_expression(adata, model=tmp_path / "model", **KEY)
