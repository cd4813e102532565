"""pp.combat."""

from __future__ import annotations

import json

import anndata as ad
import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY
from helpers.models import card_of, put_arrays, put_card


@pytest.fixture
def batches():
    """Expression with a shift and a spread per batch, and the batch of each spot."""
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b", "c"], [70, 90, 40])
    values = rng.normal(size=(200, 40)) * rng.gamma(3, size=40) + 3 * rng.normal(size=40)
    for i, name in enumerate("abc"):
        rows = batch == name
        values[rows] = values[rows] * rng.gamma(20, 1 / 20, size=40) + rng.normal(0.5 * i, 0.3, size=40)
    return values, batch


@pytest.fixture
def collection(collection):
    return collection(n_libraries=3, shape=(9, 9), n_genes=60, library_effect=0.5, image=False, recipe={"n_genes": 24})


def test_combat_learns_from_train_libraries_only(collection):
    collection.obs["split"] = collection.obs["library_id"].map(
        {"library_1": "train", "library_2": "train", "library_3": "test"}
    )
    sp.pp.combat(collection, **KEY)
    before = collection.layers["log2tpm_combat"].copy()
    changed = collection.copy()
    test = (changed.obs["library_id"] == "library_3").to_numpy()
    scale = sps.diags_array(np.where(test, 2.0, 1.0))
    changed.layers["log2tpm"] = sps.csr_matrix(scale @ changed.layers["log2tpm"]).astype(np.float32)
    sp.pp.combat(changed, **KEY)
    after = changed.layers["log2tpm_combat"]
    assert np.array_equal(before[~test].toarray(), after[~test].toarray())
    assert not np.array_equal(before[test].toarray(), after[test].toarray())
    record = collection.uns["spared_sc"]["log2tpm_combat"]
    assert list(record["batches"]) == ["library_1", "library_2"]
    assert list(record["new_batches"]) == ["library_3"]


def test_combat_touches_the_selected_genes_only(collection):
    sp.pp.combat(collection, **KEY)
    others = ~collection.var["spared_selected"].to_numpy()
    assert (collection.layers["log2tpm_combat"][:, others] != collection.layers["log2tpm"][:, others]).nnz == 0
    assert isinstance(collection.layers["log2tpm_combat"], sps.csr_matrix)


def test_saved_combat_gives_the_same(collection, tmp_path):
    sp.pp.combat(collection, **KEY, save_model=tmp_path / "model")
    expected = collection.layers["log2tpm_combat"].toarray()
    genes = collection.var_names[::-1]
    new = collection[:, genes].copy()
    del new.layers["log2tpm_combat"]
    del new.uns["spared_sc"]["log2tpm_combat"]
    sp.pp.combat(new, **KEY, model=tmp_path / "model")
    assert np.array_equal(new[:, collection.var_names].layers["log2tpm_combat"].toarray(), expected)

    selected = collection.var_names[collection.var["spared_selected"]]
    fewer = collection[:, collection.var_names != selected[0]].copy()
    sp.pp.combat(fewer, **KEY, model=tmp_path / "model", key_added="again")
    assert np.array_equal(
        fewer.layers["again"].toarray(), collection[:, fewer.var_names].layers["log2tpm_combat"].toarray()
    )
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["genes"] == selected.tolist()


def test_genes_of_a_saved_combat_are_found_by_their_ids(collection, tmp_path):
    collection.var["gene_ids"] = [f"ENSG{number:011d}.2" for number in range(collection.n_vars)]
    new = collection.copy()
    sp.pp.combat(collection, **KEY, save_model=tmp_path / "model")
    new.var_names = np.roll(new.var_names.to_numpy(), 1)
    new.var["gene_ids"] = [f"ENSG{number:011d}.7" for number in range(new.n_vars)]
    sp.pp.combat(new, **KEY, model=tmp_path / "model")
    assert (new.layers["log2tpm_combat"] != collection.layers["log2tpm_combat"]).nnz == 0


def test_combat_refuses(collection, tmp_path):
    one = collection[collection.obs["library_id"] == "library_1"].copy()
    before = set(one.layers)
    with pytest.raises(ValueError, match="fewer than two to learn from .* leave ComBat out"):
        sp.pp.combat(one, **KEY)
    with pytest.raises(KeyError, match="no column 'donor'"):
        sp.pp.combat(collection, **KEY, batch_key="donor")
    with pytest.raises(FileNotFoundError, match="is no saved model"):
        sp.pp.combat(one, **KEY, model=tmp_path / "nothing")
    assert set(one.layers) == before
    sp.pp.combat(collection, **KEY, save_model=tmp_path / "model")
    collection.layers["other"] = collection.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="corrects layer 'log2tpm', not 'other'"):
        sp.pp.combat(collection, **KEY, layer="other", model=tmp_path / "model")
    foreign = ad.AnnData(collection.X.copy(), obs=collection.obs)
    foreign.layers["log2tpm"] = collection.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="none of the model's genes"):
        sp.pp.combat(foreign, **KEY, model=tmp_path / "model")


@pytest.mark.parametrize(
    "harm",
    ["other order", "other order, signed", "other ids", "a gene twice", "no batches", "NaN", "other shape", "no prior"],
)
def test_damaged_combat_is_refused(collection, tmp_path, harm):
    folder = tmp_path / "model"
    sp.pp.combat(collection, **KEY, save_model=folder, copy=True)
    card, message = card_of(folder), "is damaged: weights and card do not fit"
    if harm == "other order":  # by hand, without a new hash
        (folder / "card.json").write_text(json.dumps(card | {"genes": card["genes"][::-1]}))
        message = "is damaged or cut short"
    elif harm == "other order, signed":
        put_card(folder, card | {"genes": card["genes"][::-1]})
        message += ".*for other genes, or for the same in another order"
    elif harm == "other ids":
        put_card(folder, card | {"gene_ids": [f"ENSG{number:011d}" for number, _ in enumerate(card["genes"])]})
        message += ".*for other genes, or for the same in another order"
    elif harm == "a gene twice":
        put_card(folder, card | {"genes": [*card["genes"][:-1], card["genes"][0]]})
    elif harm == "no batches":
        put_card(folder, card | {"batches": None})
    elif harm == "no prior":
        put_card(folder, card | {"scale_prior": [1.0]})
    elif harm == "NaN":
        put_arrays(folder, lambda arrays: arrays | {"location": arrays["location"] * np.nan})
        message = "values of 'location' are NaN or infinite"
    else:
        put_arrays(folder, lambda arrays: arrays | {"location": arrays["location"].T.copy()})
    layers = set(collection.layers)
    with pytest.raises(ValueError, match=message):
        sp.pp.combat(collection, **KEY, model=folder)
    assert set(collection.layers) == layers


def test_a_place_for_the_model_is_checked_before_the_fit(collection, tmp_path, monkeypatch):
    from spared_sc._kernels import combat

    monkeypatch.setattr(combat, "fit_combat", lambda *_: pytest.fail("the fit was made"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        sp.pp.combat(collection, **KEY, save_model=tmp_path / "file")
    with pytest.raises(OSError, match="cannot be written .*: choose a place that can be written"):
        sp.pp.combat(collection, **KEY, save_model=tmp_path / "file" / "model")


def test_combat_warns_of_what_it_leaves(collection):
    adata = collection.copy()
    adata.obs["batch"] = adata.obs["library_id"].astype(str)
    adata.obs.iloc[0, adata.obs.columns.get_loc("batch")] = "alone"
    with pytest.warns(UserWarning, match="one batches have|1 batches have one spot"):
        sp.pp.combat(adata, **KEY, batch_key="batch")
    constant = collection.copy()
    gene = np.flatnonzero(constant.var["spared_selected"])[0]
    layer = constant.layers["log2tpm"].tolil()
    layer[:, gene] = 2.0
    constant.layers["log2tpm"] = layer.tocsr()
    with pytest.warns(UserWarning, match="1 genes do not vary"):
        sp.pp.combat(constant, **KEY)
    assert (constant.layers["log2tpm_combat"][:, [gene]].toarray() == 2).all()
