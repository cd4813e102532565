"""Saved completers: applied as they were, to other sections too, and refused where files or data do not fit."""

from __future__ import annotations

import json
import pickle
import shutil
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps
import torch
from safetensors.numpy import load_file

import spared_sc as sp
from helpers import KEY, dense
from helpers.counts_model import synthetic
from helpers.models import card_of, put_arrays, put_card, weights_of
from helpers.spackle import complete
from spared_sc._models.completion.files import load_completer, save_completer
from spared_sc._models.completion.paper import SpaCKLE
from spared_sc._models.completion.registry import COMPLETERS

if TYPE_CHECKING:
    from anndata import AnnData

MODELS = ("counts", "paper")
WRITTEN = {"counts": ("spackle", "spackle_rate", "spackle_sd"), "paper": ("spackle",)}


class Saved:
    """A model fitted on two libraries, these with their layers, and a third library."""

    def __init__(self, model: str, folder) -> None:
        adata = synthetic(n_libraries=3)
        last = (adata.obs["library_id"] == "library_3").to_numpy()
        self.model, self.folder, self.layers = model, folder, WRITTEN[model]
        self.two = complete(adata[~last].copy(), model, save_model=folder)
        self.third = adata[last].copy()


@pytest.fixture(scope="module", params=MODELS)
def saved(request, tmp_path_factory) -> Saved:
    return Saved(request.param, tmp_path_factory.mktemp("models") / request.param)


def load(adata, folder, **options) -> AnnData:
    return sp.tl.spackle_complete(adata, **{**KEY, "model": folder, "device": "cpu", "copy": True, **options})


def test_a_saved_model_gives_the_same_layers(saved):
    for folder in (saved.folder, str(saved.folder)):
        again = load(saved.two, folder)
        for name in saved.layers:
            np.testing.assert_array_equal(dense(again.layers[name]), dense(saved.two.layers[name]))
    other = sp.tl.complete(saved.two, method=saved.folder, copy=True, device="cpu", **KEY)
    key = "spackle" if saved.model == "counts" else saved.model
    np.testing.assert_array_equal(dense(other.layers[key]), dense(saved.two.layers["spackle"]))
    record, before = (adata.uns["spared_sc"]["spackle"] for adata in (again, saved.two))
    assert record["params"]["method"] == before["params"]["method"] == saved.model
    assert record["params"]["method_params"] == before["params"]["method_params"]
    assert (before["params"]["fitted"], record["params"]["fitted"]) == ("here", "before")
    assert record["data"] == before["data"]
    assert record["genes"].tolist() == before["genes"].tolist()
    assert record["model_version"] == sp.__version__
    assert "score" not in record


def with_ids(adata, numbers, names) -> AnnData:
    """The object with Ensembl ids of these numbers, and other names."""
    adata = adata.copy()
    adata.var["gene_ids"] = [f"ENSG{number:011d}" for number in numbers]
    adata.var_names = names
    return adata


def test_genes_are_found_by_their_ids(tmp_path):
    adata = synthetic(n_libraries=2)
    names, numbers = adata.var_names.to_numpy(), np.arange(adata.n_vars)
    folder = tmp_path / "model"
    first = complete(with_ids(adata, numbers, names), "counts", save_model=folder)
    # Symbols that moved to other genes, as between two annotations or where repeated names were made unique.
    again = load(with_ids(adata, numbers, np.roll(names, 1)), folder)
    np.testing.assert_array_equal(dense(again.layers["spackle"]), dense(first.layers["spackle"]))
    with pytest.raises(ValueError, match=r"of the model's \d+ genes are missing from the data"):
        load(with_ids(adata, numbers + adata.n_vars, names), folder)


def test_what_is_saved_is_what_was_learned(saved, tmp_path):
    found = load_completer(saved.folder)
    record = saved.two.uns["spared_sc"]["spackle"]
    assert type(found.completer) is COMPLETERS.load(saved.model)
    assert found.completer.fitted
    assert found.completer.params() == record["params"]["method_params"]
    assert found.completer.learned.score == record["score"]
    assert (found.genes, found.layer, found.data) == (record["genes"].tolist(), "log2tpm", record["data"])
    save_completer(
        tmp_path / "again",
        found.completer,
        genes=found.genes,
        gene_ids=found.gene_ids,
        layer=found.layer,
        data=found.data,
    )
    arrays, others = (weights_of(folder).read_bytes() for folder in (saved.folder, tmp_path / "again"))
    assert arrays == others
    assert card_of(saved.folder) == card_of(tmp_path / "again")


def test_a_new_section_in_any_order_of_spots_and_genes(saved):
    new, rng = saved.third, np.random.default_rng(0)
    expected = load(new, saved.folder)
    result = load(new[rng.permutation(new.n_obs), rng.permutation(new.n_vars)].copy(), saved.folder)
    for name in saved.layers:
        values = dense(expected.layers[name])
        assert np.isfinite(values).all()
        found = dense(result[new.obs_names, new.var_names].layers[name])
        np.testing.assert_allclose(found, values, rtol=0, atol=0 if saved.model == "counts" else 1e-5)
    assert (dense(expected.layers["spackle"]) != 0).all()


def test_genes_that_the_model_does_not_have_stay_as_they_are(saved):
    new = saved.third.copy()
    new.var_names = [*new.var_names[:-1], "OTHER"]
    with pytest.warns(UserWarning, match="1 of the model's 20 genes are missing"):
        result = load(new, saved.folder)
    np.testing.assert_array_equal(dense(result.layers["spackle"])[:, -1], dense(new.layers["log2tpm"])[:, -1])
    assert (dense(result.layers["spackle"])[:, :-1] != 0).all()
    assert result.uns["spared_sc"]["spackle"]["genes"].tolist() == new.var_names[:-1].tolist()


def test_missing_genes_count_as_undetected(saved):
    new, genes = saved.third, saved.two.uns["spared_sc"]["spackle"]["genes"]
    assert len(genes) == 20
    without = new[:, ~new.var_names.isin(genes[:2])].copy()
    with pytest.warns(UserWarning, match="2 of the model's 20 genes are missing .* undetected"):
        result = load(without, saved.folder)
    blank = new.copy()
    at = blank.var_names.get_indexer(genes[:2])
    for name in ("X", "log2tpm"):
        matrix = dense(blank.X if name == "X" else blank.layers[name]).copy()
        matrix[:, at] = 0
        if name == "X":
            blank.X = sps.csr_matrix(matrix)
        else:
            blank.layers[name] = sps.csr_matrix(matrix)
    expected = load(blank, saved.folder)[:, without.var_names]
    for name in saved.layers:
        np.testing.assert_allclose(dense(result.layers[name]), dense(expected.layers[name]), rtol=1e-4, atol=1e-4)
    few = new[:, ~new.var_names.isin(genes[:3])].copy()
    with pytest.raises(ValueError, match="3 of the model's 20 genes are missing .* fit a model to these data"):
        sp.tl.spackle_complete(few, model=saved.folder, **KEY)
    assert "spackle" not in few.layers


def test_another_layer_is_refused(saved):
    new = saved.third.copy()
    new.layers["other"] = new.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="layer 'log2tpm', not 'other'"):
        load(new, saved.folder, layer="other")


@pytest.mark.parametrize("option", ["save_model", "checkpoint"])
def test_a_saved_model_is_not_fitted_again(saved, tmp_path, option):
    with pytest.raises(ValueError, match=f"{saved.model!r} is not fitted here.*`{option}`"):
        load(saved.third, saved.folder, **{option: tmp_path / "new"})
    with pytest.raises(TypeError, match="method_params"):
        load(saved.third, saved.folder, model_params={"n_steps": 3})
    assert not (tmp_path / "new").exists()


def test_a_model_of_counts_needs_counts_and_the_other_way_round(tmp_path):
    both = Saved("counts", tmp_path / "counts")
    blind = both.third.copy()
    blind.layers["detected"] = blind.X > 0
    blind.X = None
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="expected counts are not estimated")
        with pytest.raises(ValueError, match="fitted with raw counts, .*: fit a model to these data"):
            load(blind, both.folder)
        complete(blind, "counts", save_model=tmp_path / "blind")
        assert "spackle" in load(blind, tmp_path / "blind").layers
    with pytest.raises(ValueError, match="fitted without raw counts, .*: fit a model to these data"):
        load(both.third, tmp_path / "blind")


@pytest.mark.parametrize("name", ["nowhere", "papier"])
def test_no_model_of_that_name(saved, name):
    with pytest.raises(KeyError, match=f"no completion method and no folder '{name}'.*'counts'.*'paper'.*folder"):
        sp.tl.spackle_complete(saved.third.copy(), model=name, **KEY)


def test_a_folder_without_a_model(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no saved model \(no card.json in it\)"):
        sp.tl.spackle_complete(saved.third.copy(), model=tmp_path, **KEY)


def test_a_folder_of_other_files_is_not_written_to(saved, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    adata = saved.third.copy()
    with pytest.raises(ValueError, match="holds other files"):
        complete(adata, saved.model, save_model=tmp_path, copy=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "spackle" not in adata.layers


def edit(folder, **changes):
    content = card_of(folder) | changes
    put_card(folder, {name: value for name, value in content.items() if value is not None})


def edit_values(folder, **changes):
    content = card_of(folder)["values"] | changes
    edit(folder, values={name: value for name, value in content.items() if value is not None})


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def put_pickle(folder):
    weights_of(folder).write_bytes(pickle.dumps({"stack": [1.0], "adapter_in.weight": [1.0]}))
    put_card(folder, card_of(folder))


def spoil(value):
    def change(arrays):
        # Not those that hold NaN for genes too rare to be judged; safetensors gives them in any order.
        gaps = ("skill", "skill_se", "pattern", "given_detection")
        first = next(name for name in sorted(arrays) if arrays[name].size and name not in (*gaps, "genes"))
        return arrays | {first: np.full_like(arrays[first], value)}

    return change


def put_genes(folder):
    genes = card_of(folder)["genes"]
    edit(folder, genes=[*genes[:-1], genes[0]])


DAMAGE = {
    "weights cut short": (lambda folder: cut(weights_of(folder)), "damaged or cut short.*Copy the whole folder again"),
    "weights missing": (lambda folder: weights_of(folder).unlink(), "is missing from .*save or fit again"),
    "pickled weights": (put_pickle, "is no safetensors file .*save or fit again"),
    "card cut short": (lambda folder: cut(folder / "card.json"), "card.json cannot be read"),
    "card binary": (lambda folder: (folder / "card.json").write_bytes(b"\x80\x04\x95"), "card.json cannot be read"),
    "card cut to nothing": (lambda folder: (folder / "card.json").write_text(""), "card.json cannot be read"),
    "a deep card": (lambda folder: (folder / "card.json").write_text("[" * 100_000), "card.json cannot be read"),
    "a card that is edited": (
        lambda folder: (folder / "card.json").write_text(
            json.dumps(card_of(folder) | {"genes": card_of(folder)["genes"][::-1]})
        ),
        "is damaged or cut short: weights-.* or card.json is not what was saved",
    ),
    "weights of NaN": (lambda folder: put_arrays(folder, spoil(np.nan)), "values of .* are NaN or infinite"),
    "infinite weights": (lambda folder: put_arrays(folder, spoil(np.inf)), "values of .* are NaN or infinite"),
    "weights elsewhere": (lambda folder: edit(folder, weights="../../weights"), "it names the weights '../../weights'"),
    "weights that are a folder": (
        lambda folder: (weights := weights_of(folder), weights.unlink(), weights.mkdir()),
        "is missing from",
    ),
    "genes that are numbers": (lambda folder: edit(folder, genes=[1, 2]), "is no list of genes"),
    "foreign card": (lambda folder: (folder / "card.json").write_text("{}"), "format None"),
    "a list": (lambda folder: (folder / "card.json").write_text("[1]"), "no table of names"),
    "another kind": (lambda folder: edit(folder, kind="combat"), "kind 'combat', expected 'completer'"),
    "no values": (lambda folder: edit(folder, values=None), "weights and card do not fit"),
    "no parameters": (lambda folder: edit_values(folder, params=None), "weights and card do not fit"),
    "foreign parameters": (lambda folder: edit_values(folder, params={"depth": 3}), "weights and card do not fit"),
    "no score": (lambda folder: edit_values(folder, score=None), "weights and card do not fit"),
    "no method": (lambda folder: edit(folder, method=None), "weights and card do not fit"),
    "unknown method": (lambda folder: edit(folder, method="oracle"), "do not fit .*'oracle'"),
    "method that is not fitted": (lambda folder: edit(folder, method="ridge"), "do not fit .*'ridge'"),
    "method of another model": (
        lambda folder: edit(folder, method=MODELS[card_of(folder)["method"] == MODELS[0]]),
        "weights and card do not fit",
    ),
    "a gene twice": (put_genes, "a gene is named twice"),
    "genes in another order": (
        lambda folder: edit(folder, genes=card_of(folder)["genes"][::-1]),
        "do not fit .*for other genes, or for the same in another order",
    ),
    "another gene": (
        lambda folder: edit(folder, genes=["another", *card_of(folder)["genes"][1:]]),
        "do not fit .*for other genes, or for the same in another order",
    ),
    "ids of other genes": (
        lambda folder: edit(folder, gene_ids=[f"ENSG{i:011d}" for i, _ in enumerate(card_of(folder)["genes"])]),
        "do not fit .*for other genes, or for the same in another order",
    ),
    "no hash of the genes": (
        lambda folder: put_arrays(folder, lambda arrays: {n: a for n, a in arrays.items() if n != "genes"}),
        "weights and card do not fit",
    ),
    "no layer": (lambda folder: edit(folder, layer=None), "weights and card do not fit"),
}
DAMAGE_OF_MODEL = {
    "counts": {
        "nothing tuned": (lambda folder: edit_values(folder, tuned=None), "weights and card do not fit"),
        "no stack": (lambda f: put_arrays(f, lambda a: {n: v for n, v in a.items() if n != "stack"}), "do not fit"),
        "another stack": (lambda f: put_arrays(f, lambda a: a | {"stack": a["stack"][:-1]}), "do not fit"),
        "another width": (lambda f: put_arrays(f, lambda a: a | {"width": a["width"][:1]}), "do not fit"),
        "parameters out of range": (
            lambda f: edit_values(f, params={"hidden_share": 3}),
            "do not fit .*hidden_share=3",
        ),
    },
    "paper": {
        "other genes": (lambda folder: edit(folder, genes=["a", "b"]), "weights and card do not fit .*other genes"),
        "parameters out of range": (lambda f: edit_values(f, params={"dropout": 3}), "do not fit .*dropout=3"),
        "another network": (lambda folder: edit_values(folder, n_genes=7), "weights and card do not fit"),
    },
}


@pytest.mark.parametrize(
    ("saved", "damage"),
    [(model, damage) for model in MODELS for damage in (*DAMAGE, *DAMAGE_OF_MODEL[model])],
    indirect=["saved"],
)
def test_damaged_models_are_refused(saved, tmp_path, damage):
    folder, new = tmp_path / "copy", saved.third.copy()
    folder.mkdir()
    for path in saved.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    harm, message = (DAMAGE | DAMAGE_OF_MODEL[saved.model])[damage]
    harm(folder)
    slots = set(new.layers)
    with pytest.raises(ValueError, match=message):
        sp.tl.spackle_complete(new, model=folder, **KEY)
    assert set(new.layers) == slots


@pytest.mark.parametrize("saved", ["paper"], indirect=True)
def test_spackle_is_for_as_many_genes_as_it_was_fitted_to(saved):
    completer = load_completer(saved.folder).completer
    assert isinstance(completer, SpaCKLE)
    new = saved.third.copy()
    new.var["few"] = np.arange(new.n_vars) < 7
    with pytest.raises(ValueError, match="20 genes.*7"):
        sp.tl.complete(new, method=completer, mask_var="few", **KEY)


def test_a_saved_model_leaves_the_random_state_of_torch_as_it_is(saved):
    before = torch.get_rng_state()
    load(saved.two, saved.folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_no_array_of_a_model_may_be_infinite(saved, tmp_path):
    names = [name for name in load_file(weights_of(saved.folder)) if name != "genes"]  # the hash, of whole numbers
    for i, name in enumerate(names):
        folder = tmp_path / str(i)
        shutil.copytree(saved.folder, folder)
        put_arrays(folder, lambda arrays, name=name: arrays | {name: np.full_like(arrays[name], np.inf)})
        with pytest.raises(ValueError, match=f"values of '{name}' are NaN or infinite"):
            load(saved.third, folder)
