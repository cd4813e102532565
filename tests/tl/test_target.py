"""tl._target: what predictors learn."""

from __future__ import annotations

import re
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.prediction import SECTIONS, embed, predict, refused, with_split
from spared_sc.tl._target import CompletedTarget

EXPRESSION = {"target": "expression"}


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def true_log_share(adata):
    """Of the genes to model, as the sections were made."""
    rate = np.asarray(adata.layers["rate"])
    return np.log(rate / rate.sum(axis=1, keepdims=True))[:, adata.var["spared_selected"]]


def shuffled(adata, library):
    """The same with the counts of a library in another order, and everything that was made of them."""
    rows = np.flatnonzero(adata.obs["library_id"] == library)
    order = np.arange(adata.n_obs)
    order[rows] = rows[::-1]
    other = adata.copy()
    other.X = adata.X[order]
    for name in ("log2tpm", "detected"):
        other.layers[name] = adata.layers[name][order]
    return other, rows


@pytest.mark.parametrize("target", ["expression", "given_detection"])
def test_no_count_of_a_section_has_a_part_in_its_prediction(adata, target):
    predict(adata, target=target)
    other, rows = shuffled(adata, "library_2")
    predict(other, target=target)
    one, two = (data.obsm["predicted_ridge"].to_numpy() for data in (adata, other))
    np.testing.assert_array_equal(one[rows], two[rows])
    assert not np.allclose(np.delete(one, rows, 0), np.delete(two, rows, 0))


def test_with_a_split_the_labels_come_from_the_train_sections(adata):
    with_split(adata, l1="train", l2="train", l3="train", l4="test")
    predict(adata, **EXPRESSION)
    train = adata[adata.obs["split"] == "train"].copy()
    fitted = sp.tl.fit_predictor(train, use_rep="X_test", split_key=None, **KEY)
    np.testing.assert_allclose(fitted.predict(adata, **KEY), adata.obsm["predicted_ridge"], atol=1e-4)


def test_the_labels_are_denoised_values(adata):
    """The mean of the denoised values that the same count model gives the other sections, where patterns do not count."""
    predict(adata, "ridge", model_params={"n_components": 1}, **EXPRESSION)
    others = adata[adata.obs["library_id"] != "library_1"].copy()
    fitted = sp.tl.fit_predictor(others, model="gene_mean", use_rep="X_test", **KEY)
    sp.tl.complete(others, method="factor", write=["denoised"], **KEY)
    expected = others[:, fitted.genes].layers["factor_denoised"].toarray().mean(axis=0)
    np.testing.assert_allclose(fitted.predictor.offset, expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:the mean embedding of a section lies")  # simulated sections differ as donors do
def test_it_follows_expression_and_not_depth(collection):
    """Genes that most spots do not detect: values given detection fall with depth, and expression does not."""
    options = {"n_libraries": 3, "shape": (14, 14), "n_genes": 100, "depth": 100, "image": False}
    adata = collection(**options, recipe={"n_genes": 30, "gene_lengths": None})
    adata.var["spared_selected"] = np.asarray((adata.X > 0).mean(axis=0)).ravel() < 0.5
    rng = np.random.default_rng(0)
    depth = np.log(np.asarray(adata.X.sum(axis=1)))
    truth = true_log_share(adata)
    components = np.linalg.svd(truth - truth.mean(axis=0), full_matrices=False)[0][:, :5]
    adata.obsm["X_test"] = np.column_stack([30 * components, 3 * depth]) + rng.normal(0, 0.2, (adata.n_obs, 6))
    predict(adata, **EXPRESSION, key_added="expression")
    predict(adata, key_added="detected")

    def agreement(key):
        values = adata.obsm[key].to_numpy()
        return np.mean(
            [
                [np.corrcoef(truth[rows, gene], values[rows, gene])[0, 1] for gene in range(truth.shape[1])]
                for rows in (
                    np.flatnonzero(adata.obs["library_id"] == name) for name in adata.obs["library_id"].unique()
                )
            ],
            axis=0,
        )

    expression, detected = agreement("expression"), agreement("detected")
    assert (expression > 0).mean() > 0.95
    assert np.median(expression) > 0.8
    assert np.median(detected) < np.median(expression) - 0.2
    assert (adata.obsm["expression"].to_numpy() >= 0).all()


def test_an_image_that_says_nothing_gives_constants(adata):
    adata.obsm["X_test"] = np.random.default_rng(5).normal(size=(adata.n_obs, 10)).astype(np.float32)
    predict(adata, **EXPRESSION)
    table = adata.obsm["predicted_ridge"].to_numpy()
    for name in adata.obs["library_id"].unique():
        assert np.ptp(table[adata.obs["library_id"] == name], axis=0).max() < 1e-6
    # The constant is the gene's share in the other sections, in the unit of the layer.
    genes = adata[:, adata.obsm["predicted_ridge"].columns]
    train = (adata.obs["library_id"] != "library_1").to_numpy()
    share = genes.X[train].sum(axis=0) / adata.X[train].sum()
    np.testing.assert_allclose(table[~train][0], np.log2(1 + 1e6 * np.asarray(share).ravel()), rtol=1e-4)
    scores = sp.tl.score_prediction(adata, **KEY)
    pcc = scores[(scores["prediction"] == "predicted_ridge") & (scores["metric"] == "pcc")]["value"]
    assert (pcc == 0).all()


def test_the_skill_is_written_and_saved(adata, tmp_path):
    predict(adata, **EXPRESSION)
    selected = adata.var["spared_selected"]
    skill = adata.var["predicted_ridge_skill"]
    assert skill[selected].notna().all()
    assert skill[~selected].isna().all()
    assert skill[selected].max() > 0.05
    np.testing.assert_allclose(adata.uns["spared_sc"]["predicted_ridge"]["skill"], skill[selected], rtol=1e-6)
    adata.write_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_series_equal(ad.read_h5ad(tmp_path / "a.h5ad").var["predicted_ridge_skill"], skill)
    predict(adata, target="log2tpm")  # has none
    assert "predicted_ridge_skill" not in adata.var
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    fitted.save(tmp_path / "model")
    again = sp.tl.load_predictor(tmp_path / "model")
    np.testing.assert_array_equal(again.support.weight, fitted.support.weight)
    pd.testing.assert_frame_equal(again.predict(adata, **KEY), fitted.predict(adata, **KEY))


def test_row_order_does_not_matter(adata):
    predict(adata, **EXPRESSION)
    order = np.random.default_rng(3).permutation(adata.n_obs)
    other = adata[order].copy()
    predict(other, **EXPRESSION)
    np.testing.assert_allclose(other.obsm["predicted_ridge"], adata.obsm["predicted_ridge"].iloc[order], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"loss": "detected"}, "loss='detected' is unknown for target='expression': choose 'mse', 'poisson', 'nb'"),
        (
            {"target": "log2tpm", "loss": "poisson"},
            "loss='poisson' is unknown for target='log2tpm': choose 'detected', 'all'",
        ),
        ({"target": "given_detection", "loss": "all"}, "loss='all' is unknown for target='given_detection'"),
        (
            {"loss": "nb"},
            "'ridge' cannot be fitted to counts: choose loss='mse', or a predictor that can: 'head', 'shufflenet'",
        ),
        ({"layer": "sqrt"}, r"needs a layer that is log2\(1 \+ scaled count\), unlike 'sqrt'"),
    ],
)
def test_what_cannot_be_learned_is_refused(adata, options, match):
    adata.layers["sqrt"] = np.sqrt(adata.X)
    refused(lambda adata: predict(adata, **{**EXPRESSION, **options}), adata, ValueError, match)


def test_a_loss_that_is_refused_imports_no_network(tmp_path):
    """The registry says which predictors take counts."""
    code = (
        "import sys, spared_sc as sp\n"
        "adata = sp.datasets.synthetic(n_libraries=2, n_genes=8, shape=(4, 4))\n"
        "sp.pp.normalize_tpm(adata, gene_lengths=None)\n"
        "try:\n"
        "    sp.tl.predict_expression(adata, model='ridge', loss='nb', library_key='library_id')\n"
        "except ValueError as error:\n"
        "    print(error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, said, loaded = done.stdout.splitlines()
    assert "'ridge' cannot be fitted to counts" in said
    images, sections = (
        ["shufflenet", "vit_b", "vit_b_delta", "stnet", "stnet_he"],
        ["histogene", "hist2st", "hggep", "sepal"],
    )
    assert re.findall(r"'(\w+)'", said.partition("that can: ")[2]) == ["head", *images, *sections]
    assert loaded == "False"


def test_a_layer_of_the_same_name_is_no_target(adata):
    adata.layers["expression"] = adata.layers["log2tpm"].copy()
    refused(lambda adata: predict(adata, **EXPRESSION), adata, ValueError, "there is a layer of that name: rename")


def test_expression_needs_raw_counts(adata):
    adata.X = adata.X * 0.5
    refused(lambda adata: predict(adata, **EXPRESSION), adata, ValueError, "raw counts are needed")


@pytest.mark.parametrize("target", ["expression", "given_detection"])
def test_labels_are_completed_once_for_all_models(adata, target, tmp_path, monkeypatch):
    predict(adata, target=target)
    expected = adata.obsm["predicted_ridge"].copy()
    fits = []
    completed = CompletedTarget._completed
    monkeypatch.setattr(CompletedTarget, "_completed", lambda *given: fits.append(1) or completed(*given))
    with sp.settings.override(labels_dir=tmp_path / "labels"):
        predict(adata, target=target)
        first = len(fits)
        assert first == len(list((tmp_path / "labels").glob("*.npy"))) > 0
        np.testing.assert_array_equal(adata.obsm["predicted_ridge"], expected)
        predict(adata, target=target)
        np.testing.assert_array_equal(adata.obsm["predicted_ridge"], expected)
        predict(adata, target=target, model="knn")
        assert len(fits) == first  # the folds of both models are the same
        other, _ = shuffled(adata, "library_2")
        predict(other, target=target)
        assert len(fits) > first
