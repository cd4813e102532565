"""tl.load_predictor, and the table that a fitted predictor returns for another slide."""

from __future__ import annotations

import subprocess
import sys
import warnings

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_the_table_is_what_predict_expression_writes(adata, tmp_path):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), novelty=True, **KEY)
    fitted.save(tmp_path / "model")
    loaded = sp.tl.load_predictor(tmp_path / "model")
    assert repr(loaded) == repr(fitted)
    assert (loaded.name, loaded.genes, loaded.card) == (fitted.name, fitted.genes, fitted.card)
    np.testing.assert_array_equal(loaded.gene_mean, fitted.gene_mean)
    new = of_libraries(adata, 4)
    del new.obsm["X_classical"]  # it is made with the encoder of the training
    before = new.copy()
    table = loaded.predict(new)
    assert set(new.obsm) == set(before.obsm)
    assert new.obs.equals(before.obs)
    assert new.uns["spared_sc"].keys() == before.uns["spared_sc"].keys()
    sp.tl.predict_expression(new, model=loaded)
    assert new.obsm["predicted_ridge"].equals(table)
    assert table.index.equals(new.obs_names)
    assert "predicted_ridge_out_of_distribution" in new.obs


def test_patches_of_another_scale_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    new = of_libraries(adata, 4)
    del new.obsm["X_classical"]
    sp.pp.extract_patches(new, size=4, output_size=32)
    with pytest.raises(ValueError, match="those of training"):
        fitted.predict(new)
    with pytest.warns(UserWarning, match="mean embedding of a section lies"):
        assert fitted.predict(new, force=True).shape == (new.n_obs, len(fitted.genes))


def test_what_is_no_predictor(tmp_path):
    with pytest.raises(FileNotFoundError, match="no saved model"):
        sp.tl.load_predictor(tmp_path / "nothing")


@pytest.mark.parametrize("model", ["ridge", "knn", "gene_mean"])
def test_predictors_without_a_network_load_no_torch(adata, tmp_path, model):
    adata.write_h5ad(tmp_path / "a.h5ad")
    code = f"""
        import sys
        import anndata as ad
        import spared_sc as sp
        adata = ad.read_h5ad({str(tmp_path / "a.h5ad")!r})
        key = {{"library_key": "library_id"}}
        sp.tl.predictors(), sp.tl.predictors("ridge"), sp.tl.encoders()
        sp.tl.embed_patches(adata, encoder="classical", **key)
        key = {{**key, "target": "log2tpm"}}
        sp.tl.predict_expression(adata, model={model!r}, novelty=True, **key)
        sp.tl.fit_predictor(adata, model={model!r}, **key).save({str(tmp_path / "model")!r})
        sp.tl.load_predictor({str(tmp_path / "model")!r}).predict(adata, library_key="library_id")
        sp.tl.score_prediction(adata, library_key="library_id")
        heavy = {{"torch", "torchvision", "timm", "huggingface_hub", "spatialdata"}}
        print(sorted(heavy & set(sys.modules)))
    """
    script = "\n".join(line.strip() for line in code.splitlines())
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.fixture
def stained(adata):
    """Patches with the colours of the reference, from larger sections than those that are cropped."""
    sp.pp.extract_patches(adata, size=2, output_size=32, stain="macenko", **KEY)
    sp.tl.embed_patches(adata, **KEY)
    return adata


def test_a_saved_model_brings_a_new_slide_to_its_colours(stained, tmp_path):
    sp.tl.fit_predictor(of_libraries(stained, 1, 2, 3), **KEY).save(tmp_path / "model")
    new = of_libraries(stained, 4)
    expected = sp.tl.load_predictor(tmp_path / "model").predict(new)
    del new.obsm["X_classical"], new.uns["spared_sc"]
    assert sp.tl.load_predictor(tmp_path / "model").predict(new).equals(expected)


@pytest.mark.parametrize("model", ["ridge", "knn"])
def test_cropping_a_slide_changes_no_prediction(stained, model):
    fitted = sp.tl.fit_predictor(of_libraries(stained, 1, 2, 3), model=model, **KEY)
    new = of_libraries(stained, 4)
    whole = fitted.predict(new)
    del new.obsm["X_classical"]
    crop = new[new.obsm["spatial"][:, 0] < np.median(new.obsm["spatial"][:, 0])].copy()
    np.testing.assert_allclose(fitted.predict(crop), whole.loc[crop.obs_names], atol=1e-6)


def test_another_staining_changes_predictions_little(adata):
    """Twice the haematoxylin, half the eosin, and a warmer light, by the stain vectors of Ruifrok and Johnston."""
    change = {}
    for stain in (None, "macenko"):
        sp.pp.extract_patches(adata, size=2, output_size=32, stain=stain, **KEY)
        sp.tl.embed_patches(adata, **KEY)
        fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), target="log2tpm", loss="all", **KEY)
        new = of_libraries(adata, 4)
        before = fitted.predict(new)
        del new.obsm["X_classical"]
        image = new.uns["spatial"]["library_4"]["images"]
        stains = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
        mix = np.linalg.inv(stains) @ np.diag([2, 0.5, 1]) @ stains
        light = np.exp(np.log((image["hires"] + 1.0) / 256) @ mix) * (256, 246, 236) - 1
        image["hires"] = np.clip(np.rint(light), 0, 255).astype(np.uint8)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="the mean embedding of a section lies")
            change[stain] = float(np.sqrt(((fitted.predict(new) - before) ** 2).to_numpy().mean()))
    assert change["macenko"] < change[None] / 2
