"""tl.fit_predictor."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.models import card_of, put_arrays, put_card, weights_of
from helpers.prediction import SECTIONS, embed, refused
from spared_sc._models.prediction.histogene import HisToGene


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_the_gene_mean_of_a_saved_model_is_that_of_detected_entries(adata):
    """Scores are on detected entries: a mean with zeros in it would be a straw man, and every skill too high."""
    train = adata[adata.obs["library_id"] != "library_4"].copy()
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    for loss in ("all", "detected"):
        fitted = sp.tl.fit_predictor(train, target="log2tpm", use_rep="X_test", loss=loss, **KEY)
        genes = train[:, fitted.genes]
        known = genes.layers["detected"].toarray()
        expected = [genes.layers["log2tpm"].toarray()[known[:, i], i].mean() for i in range(12)]
        np.testing.assert_allclose(fitted.gene_mean, expected, rtol=1e-5)
        sp.tl.predict_expression(new, model=fitted, key_added=loss)
    scores = sp.tl.score_prediction(new, protocol="spared")
    assert {"all", "detected", "gene_mean"} <= set(scores["prediction"])
    # Another model's training is another mean to beat.
    fewer = sp.tl.fit_predictor(
        train[train.obs["library_id"] != "library_1"].copy(), target="log2tpm", use_rep="X_test", **KEY
    )
    sp.tl.predict_expression(new, model=fewer, key_added="fewer")
    with pytest.raises(ValueError, match="fitted to different data"):
        sp.tl.score_prediction(new, protocol="spared")
    # Where the train sections are at hand only in part, the recorded mean still counts.
    some = adata[adata.obs["library_id"].isin(["library_1", "library_4"])].copy()
    sp.tl.predict_expression(some, model=fitted, key_added="detected", **KEY)
    again = sp.tl.score_prediction(some, "detected", **KEY, protocol="spared")
    mse = [
        t[(t["prediction"] == "gene_mean") & (t["metric"] == "mse") & (t["library"] == "all")] for t in (scores, again)
    ]
    np.testing.assert_allclose(mse[0]["value"], mse[1]["value"], rtol=1e-5)


def test_a_saved_model_gives_the_same(adata, tmp_path):
    train, new = (
        adata[adata.obs["library_id"].isin(names)].copy() for names in (["library_1", "library_2"], ["library_3"])
    )
    fitted = sp.tl.fit_predictor(train, use_rep="X_test", **KEY)
    fitted.save(tmp_path / "model")
    for model, key in ((fitted, "before"), (tmp_path / "model", "path"), (str(tmp_path / "model"), "text")):
        sp.tl.predict_expression(new, model=model, key_added=key)
    assert new.obsm["before"].equals(new.obsm["path"])
    assert new.obsm["before"].equals(new.obsm["text"])
    card = json.loads((tmp_path / "model" / "card.json").read_text())["predictor"]
    assert card["genes"] == fitted.genes
    assert card["data"]["target"] == "expression"
    assert {name for name, library in card["libraries"].items() if library["role"] == "train"} == {
        "library_1",
        "library_2",
    }
    # Only the mean of training is at hand as an anchor, and it is that of the train sections.
    scores = sp.tl.score_prediction(new, "path", protocol="spared")
    assert {"path", "gene_mean"} <= set(scores["prediction"])
    assert "depth_only" not in set(scores["prediction"])


def test_genes_are_matched_by_id_before_name(adata):
    """The new slide has other names, one of which belongs to another gene in training."""
    adata.var["gene_ids"] = [f"ENSG{i:011d}.1" for i in range(adata.n_vars)]
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    first, second = fitted.genes[:2]
    expected = fitted.predict(adata, **KEY)
    new = adata.copy()
    new.var_names = pd.Index(new.var_names).map(lambda name: {first: second, second: "new"}.get(name, name))
    new.var["gene_ids"] = new.var["gene_ids"].str.replace(".1", ".2")  # another version
    found = fitted.predict(new, **KEY)
    assert found.columns.tolist() == [second, "new", *fitted.genes[2:]]
    assert np.array_equal(found, expected)
    # A gene of that name that is another one
    other = adata.copy()
    other.var.loc[second, "gene_ids"] = "ENSG00000999999"
    trained = adata.var.loc[second, "gene_ids"].partition(".")[0]
    assert fitted.predict(other, **KEY).columns.tolist() == [first, trained, *fitted.genes[2:]]
    other.var.loc[second, "gene_ids"] = "unknown"  # by name
    assert fitted.predict(other, **KEY).columns.tolist() == fitted.genes


def test_a_slide_without_expression(adata, tmp_path):
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    new = ad.AnnData(obs=adata.obs[["library_id"]].copy(), obsm={n: adata.obsm[n] for n in ("spatial", "X_test")})
    sp.tl.predict_expression(new, model=fitted, **KEY)
    expression = sp.get.predicted(new)
    assert expression.var_names.tolist() == fitted.genes
    expression.write_h5ad(tmp_path / "a.h5ad")
    new.write_h5ad(tmp_path / "b.h5ad")
    back = ad.read_h5ad(tmp_path / "b.h5ad")
    assert np.array_equal(back.obsm["predicted_ridge"], new.obsm["predicted_ridge"])


def test_spots_unlike_training_are_flagged(adata):
    train = adata[adata.obs["library_id"] != "library_4"].copy()
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    new.obsm["X_test"][:10] += 100  # more than the section's own spread takes in
    with pytest.warns(UserWarning, match="mean embedding of a section lies"):
        sp.tl.predict_expression(new, model=sp.tl.fit_predictor(train, use_rep="X_test", **KEY))
    assert not [name for name in new.obs if "out_of_distribution" in name]  # nobody asked for it
    with pytest.warns(UserWarning, match="mean embedding of a section lies"):
        sp.tl.predict_expression(new, model=sp.tl.fit_predictor(train, use_rep="X_test", novelty=True, **KEY))
    flag = new.obs["predicted_ridge_out_of_distribution"].to_numpy()
    assert flag[:10].all()
    assert flag[10:].mean() < 0.1


def test_embeddings_of_another_width_are_refused(adata):
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    adata.obsm["X_test"] = adata.obsm["X_test"][:, :5]
    refused(
        lambda adata: sp.tl.predict_expression(adata, model=fitted, **KEY),
        adata,
        ValueError,
        "has 5 features.*fitted on 12",
    )


FIELDS = {"model": "oracle", "genes": ["a", "a"], "libraries": None, "n_spots": "many", "data": {}}
# Of the data, and of a library: a value that the field cannot hold.
OF_DATA = {
    "no embedding": ("embeddings", {}),
    "encoder": ("embeddings", {"X_test": {"encoder": {"name": "classical"}, "params": None, "patches": None}}),
    "loss": ("loss", "detected"),
    "fingerprint_source": ("fingerprint_source", "ids"),
    "patches": (
        "patches",
        {"size": 1.0, "unit": "um", "output_size": 10**6, "patch_px": 9.0, "um_per_px": None, "stain": None},
    ),
}
OF_LIBRARY = {"role": "held out", "code": 2**64, "sketch": ["1"]}


@pytest.mark.parametrize(
    "what",
    ["cut", "pickled", "edited", "NaN", "another width", "another kind", "nothing", *FIELDS, *OF_DATA, *OF_LIBRARY]
    + ["another order", "missing", "no card"],
)
def test_broken_models(adata, tmp_path, what):
    folder = tmp_path / "model"
    sp.tl.fit_predictor(adata, use_rep="X_test", **KEY).save(folder)
    weights = weights_of(folder)
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
        match = "damaged or cut short"
    elif what == "pickled":
        weights.write_bytes(b"\x80\x04\x95whatever.")
        match = "damaged or cut short"
    elif what == "edited":  # other genes under the same weights
        card = card_of(folder)
        card["predictor"]["genes"].reverse()
        (folder / "card.json").write_text(json.dumps(card))
        match = "is damaged or cut short: weights-.* or card.json is not what was saved"
    elif what == "NaN":
        put_arrays(folder, lambda arrays: arrays | {"model.weights": np.full_like(arrays["model.weights"], np.nan)})
        match = "values of 'model.weights' are NaN or infinite"
    elif what == "another width":
        put_arrays(folder, lambda arrays: arrays | {"gene_mean": arrays["gene_mean"][:-1]})
        match = "is damaged: weights and card do not fit .*gene_mean has the shape"
    elif what == "another kind":
        put_card(folder, {**card_of(folder), "kind": "spackle"})
        match = "kind 'spackle', expected 'predictor'"
    elif what != "nothing":
        card = card_of(folder)
        if what == "no card":
            del card["predictor"]
        elif what == "missing":
            del card["predictor"]["data"]["patches"]
        elif what == "another order":
            card["predictor"]["genes"].reverse()
        elif what in OF_DATA:
            field, value = OF_DATA[what]
            card["predictor"]["data"][field] = value
        elif what in OF_LIBRARY:
            card["predictor"]["libraries"]["library_2"][what] = OF_LIBRARY[what]
        else:
            card["predictor"][what] = FIELDS[what]
        put_card(folder, card)
        match = "is damaged: weights and card do not fit"
    else:
        (folder / "card.json").unlink()
        match = "no saved model"
    error = FileNotFoundError if what == "nothing" else ValueError
    refused(lambda adata: sp.tl.predict_expression(adata, model=folder, **KEY), adata, error, match)


def test_features_that_do_not_vary_are_saved(tmp_path):
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=8, shape=(6, 6), depth=300)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    sp.tl.embed_patches(adata, library_key="library_id")
    adata.obsm["X_classical"][:, 3] = 0.25
    model = sp.tl.fit_predictor(adata, library_key="library_id", target="log2tpm", device="cpu")
    model.save(tmp_path / "m")
    loaded = sp.tl.load_predictor(tmp_path / "m")
    first, second = (one.predict(adata, library_key="library_id").to_numpy() for one in (model, loaded))
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("params", [np.array("text"), [("n_components", 3)], "n_components"])
def test_parameters_are_a_dictionary(adata, params):
    with pytest.raises(TypeError, match="model_params=.*give a dictionary"):
        sp.tl.fit_predictor(adata, use_rep="X_test", model_params=params, **KEY)


KILLED = """
import os, signal, sys
import anndata as ad
import spared_sc as sp
from spared_sc._models import training
from spared_sc._models.prediction.histogene import HisToGene

section, checkpoint, after = sys.argv[1:]
training._SAVE_EVERY = 0.0
plain, calls = HisToGene.loss, []

def counted(self, network, batch):
    calls.append(batch)
    if len(calls) > int(after):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(self, network, batch)

HisToGene.loss = counted
sp.tl.fit_predictor(ad.read_h5ad(section), checkpoint=checkpoint, **OPTIONS)
"""
SECTION_MODEL = {
    "model": "histogene",
    "model_params": {"width": 16, "depth": 1, "n_heads": 1, "feedforward": 16, "n_steps": 24, "validate_every": 4},
    "target": "log2tpm",
    "loss": "all",
    "use_rep": "X_test",
    "device": "cpu",
    "show_progress_bar": False,
    **KEY,
}


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_section_model_that_is_killed_goes_on_to_the_same_bytes(adata, tmp_path, monkeypatch):
    steps: list[int] = []
    plain = HisToGene.loss
    monkeypatch.setattr(HisToGene, "loss", lambda self, *given: (steps.append(1), plain(self, *given))[1])
    sp.tl.fit_predictor(adata, **SECTION_MODEL).save(tmp_path / "undisturbed")
    undisturbed = len(steps)
    adata.write_h5ad(tmp_path / "section.h5ad")
    code = KILLED.replace("OPTIONS", repr(SECTION_MODEL))
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "section.h5ad", tmp_path / "state", "14"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    steps.clear()
    sp.tl.fit_predictor(ad.read_h5ad(tmp_path / "section.h5ad"), checkpoint=tmp_path / "state", **SECTION_MODEL).save(
        tmp_path / "resumed"
    )
    assert 0 < len(steps) < undisturbed - 8
    one, other = (weights_of(tmp_path / name).read_bytes() for name in ("undisturbed", "resumed"))
    assert one == other
