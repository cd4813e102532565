"""_models/checkpoint."""

from __future__ import annotations

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sps
import torch

import spared_sc as sp
from helpers.saved import QUICK, layer
from spared_sc._models import checkpoint, training


@pytest.fixture(scope="module")
def sections(collection):
    return collection(n_libraries=3, shape=(8, 8), n_genes=50, depth=500, image=False, recipe={"n_genes": 20})


@pytest.fixture(scope="module")
def saved(sections, tmp_path_factory):
    """A model fitted on two of the sections, and these."""
    folder = tmp_path_factory.mktemp("models") / "spackle"
    two = sections[sections.obs["library_id"] != "library_3"].copy()
    sp.tl.spackle_complete(two, **QUICK, n_steps=60, save_model=folder)
    return folder, two


@pytest.fixture
def new(sections):
    return sections[sections.obs["library_id"] == "library_3"].copy()


def test_a_saved_model_gives_the_same_values(saved):
    folder, two = saved
    again = two.copy()
    sp.tl.spackle_complete(again, library_key="library_id", model=folder, key_added="again")
    np.testing.assert_array_equal(layer(again, "again"), layer(two))
    record = again.uns["spared_sc"]["again"]
    assert record["params"]["fitted"] == "before"
    assert record["params"]["model"] == "paper"
    assert record["hyperparameters"]["n_layers"] == 1
    assert record["data"] == two.uns["spared_sc"]["spackle"]["data"]
    assert "score" not in record


def test_a_new_section_in_any_order_of_genes(saved, new):
    folder, _ = saved
    rng = np.random.default_rng(0)
    shuffled = new[rng.permutation(new.n_obs), rng.permutation(new.n_vars)].copy()
    for adata in (new, shuffled):
        sp.tl.spackle_complete(adata, library_key="library_id", model=str(folder))
    back = shuffled[new.obs_names, new.var_names]
    np.testing.assert_allclose(layer(back), layer(new), atol=1e-5)
    selected = new.var["spared_selected"].to_numpy()
    assert (layer(new)[:, selected] != 0).all()
    assert (layer(new)[:, ~selected] == new.layers["log2tpm"].toarray()[:, ~selected]).all()


def test_missing_genes_count_as_undetected(saved, new):
    folder, two = saved
    genes = list(two.uns["spared_sc"]["spackle"]["genes"])
    without = new[:, ~new.var_names.isin(genes[:2])].copy()
    with pytest.warns(UserWarning, match="2 of the model's 20 genes are missing .* count as undetected"):
        sp.tl.spackle_complete(without, library_key="library_id", model=folder)
    blank = new.copy()
    at = blank.var_names.get_indexer(genes[:2])
    for name in ("log2tpm", "detected"):
        matrix = blank.layers[name].tolil()
        matrix[:, at] = 0
        blank.layers[name] = matrix.tocsr()
    sp.tl.spackle_complete(blank, library_key="library_id", model=folder)
    np.testing.assert_allclose(layer(without), layer(blank[:, without.var_names]), atol=1e-5)
    few = new[:, ~new.var_names.isin(genes[:3])].copy()
    with pytest.raises(ValueError, match="3 of the model's 20 genes are missing .* fit a model to these data"):
        sp.tl.spackle_complete(few, library_key="library_id", model=folder)
    assert "spackle" not in few.layers


def test_another_layer_is_refused(saved, new):
    new.layers["other"] = new.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="completes layer 'log2tpm', not 'other'"):
        sp.tl.spackle_complete(new, library_key="library_id", layer="other", model=saved[0])


@pytest.mark.parametrize("name", ["nowhere", "papier"])
def test_no_model(new, name):
    with pytest.raises(FileNotFoundError, match=f"'{name}' is neither 'residual', nor 'paper', nor the folder"):
        sp.tl.spackle_complete(new, library_key="library_id", model=name)


def copied(folder, tmp_path):
    target = tmp_path / "copy"
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target, target / "card.json", next(target.glob("weights-*.safetensors"))


def edit(card, **changes):
    content = json.loads(card.read_text())
    card.write_text(json.dumps({k: v for k, v in (content | changes).items() if v is not None}))


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def put_pickle(card, weights):
    content = pickle.dumps({"adapter_in.weight": [1.0]})
    import hashlib

    weights.write_bytes(content)
    edit(card, sha256=hashlib.sha256(content).hexdigest())


DAMAGE = {
    "weights cut short": (lambda card, weights: cut(weights), "damaged or cut short"),
    "weights missing": (lambda card, weights: weights.unlink(), "is missing from"),
    "card cut short": (lambda card, weights: cut(card), "card.json cannot be read"),
    "card binary": (lambda card, weights: card.write_bytes(b"\x80\x04\x95"), "card.json cannot be read"),
    "foreign card": (lambda card, weights: card.write_text("{}"), "says format None"),
    "a list": (lambda card, weights: card.write_text("[1]"), "no table of names"),
    "another kind": (
        lambda card, weights: edit(card, kind="combat"),
        "of kind 'combat', expected 'residual' or 'spackle'",
    ),
    "pickled weights": (put_pickle, "is no safetensors file"),
    "other genes": (lambda card, weights: edit(card, genes=["a", "b"]), "weights and card do not fit"),
    "a gene twice": (
        lambda card, weights: edit(card, genes=(g := json.loads(card.read_text())["genes"])[:-1] + g[:1]),
        "names a gene twice",
    ),
    "no parameters": (lambda card, weights: edit(card, params=None), "weights and card do not fit"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_models_are_refused(saved, new, tmp_path, damage):
    folder, card, weights = copied(saved[0], tmp_path)
    harm, message = DAMAGE[damage]
    harm(card, weights)
    slots = set(new.layers)
    with pytest.raises(ValueError, match=message):
        sp.tl.spackle_complete(new, library_key="library_id", model=folder)
    assert set(new.layers) == slots


def test_a_folder_of_other_files_is_not_written_to(sections, tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    adata = sections.copy()
    with pytest.raises(ValueError, match="holds other files"):
        sp.tl.spackle_complete(adata, **QUICK, n_steps=5, save_model=tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]
    assert "spackle" not in adata.layers


def test_a_full_disk_leaves_the_old_model(saved, tmp_path, monkeypatch):
    folder, _, _ = copied(saved[0], tmp_path)
    before = checkpoint.load(folder, "spackle")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device\): free some space .* unchanged"):
        checkpoint.save(folder, "spackle", {"x": np.zeros(3)}, {})
    monkeypatch.undo()
    after = checkpoint.load(folder, "spackle")
    assert before[1] == after[1]
    assert all(np.array_equal(before[0][name], after[0][name]) for name in before[0])
    assert not list(folder.glob("*.part"))


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        checkpoint.save(tmp_path / "file", "spackle", {}, {})
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "model", "spackle", {}, {})


def test_saving_again_replaces(tmp_path):
    for value in (1.0, 2.0, 2.0):
        checkpoint.save(tmp_path / "m", "k", {"x": np.full((2, 3), value), "scalar": np.array(value)}, {"v": value})
        arrays, card = checkpoint.load(tmp_path / "m", "k")
        assert (arrays["x"] == value).all()
        assert arrays["x"].shape == (2, 3)
        assert arrays["scalar"].shape == ()
        assert card["v"] == value
        assert len(list((tmp_path / "m").iterdir())) == 2


@pytest.mark.filterwarnings("ignore:training interrupted:UserWarning")
def test_a_resumed_fit_ends_as_an_uninterrupted_one(sections, tmp_path, monkeypatch):
    options = {**QUICK, "n_steps": 200, "dropout": 0.2, "copy": True}
    expected = sp.tl.spackle_complete(sections, **options)
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    draw = torch.randint
    for stop_at in (70, 1, 60, 0):  # steps of each run before somebody interrupts it
        calls = []

        def interrupt(*args, stop_at=stop_at, calls=calls, **kwargs):
            calls.append(1)
            if len(calls) == stop_at:
                raise KeyboardInterrupt
            return draw(*args, **kwargs)

        monkeypatch.setattr(torch, "randint", interrupt)
        result = sp.tl.spackle_complete(sections, **options, checkpoint=tmp_path / "state")
    assert len(calls) == 100  # of 200; 50 steps were kept from each of the two long runs
    np.testing.assert_array_equal(layer(result), layer(expected))
    one, other = (a.uns["spared_sc"]["spackle"] for a in (result, expected))
    for name in ("step", "train_mse", "validation_mse"):
        np.testing.assert_array_equal(one["training"][name], other["training"][name])
    assert one["score"] == other["score"]
    # finished: nothing is left to do
    calls.clear()
    once_more = sp.tl.spackle_complete(sections, **options, checkpoint=tmp_path / "state")
    assert not calls
    np.testing.assert_array_equal(layer(once_more), layer(expected))


def test_the_checkpoint_of_another_fit_is_refused(sections, tmp_path):
    adata = sections.copy()
    folder = tmp_path / "state"
    sp.tl.spackle_complete(adata, **QUICK, n_steps=10, checkpoint=folder, copy=True)
    for change, name in (({"mask_share": 0.4}, "mask_share"), ({"random_state": 1}, "seed")):
        with pytest.raises(ValueError, match=f"another fit, which differs in {name}: remove that folder"):
            sp.tl.spackle_complete(adata, **QUICK, n_steps=10, checkpoint=folder, **change)
    adata.layers["log2tpm"] = sps.csr_matrix(adata.layers["log2tpm"] * np.float32(1.5))
    with pytest.raises(ValueError, match="differs in data"):
        sp.tl.spackle_complete(adata, **QUICK, n_steps=10, checkpoint=folder)
    cut(next(folder.glob("weights-*")))
    with pytest.raises(ValueError, match="damaged or cut short"):
        sp.tl.spackle_complete(sections.copy(), **QUICK, n_steps=10, checkpoint=folder)


SCRIPT = """
import sys
import torch
import spared_sc as sp
from spared_sc._models import training

training._SAVE_EVERY = 0.0
import numba
numba.get_num_threads()
torch.set_num_threads(1)
adata = sp.datasets.synthetic(n_libraries=2, shape=(7, 7), n_genes=40, depth=500, image=False)
sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
print("ready", flush=True)
sp.tl.spackle_complete(
    adata, library_key="library_id", model="paper", n_steps=1200, patience=1200, n_layers=1, feedforward=32,
    train_batch_size=8,
    show_progress_bar=False, device="cpu", checkpoint=sys.argv[1] or None, save_model=sys.argv[2],
)
"""


@pytest.mark.slow
def test_a_killed_fit_resumes_to_the_same_weights(tmp_path):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT]
    subprocess.run([*command, "", tmp_path / "whole"], check=True, env=environment, capture_output=True)
    rng = random.Random(0)
    kills = 0
    for attempt in range(30):
        process = subprocess.Popen(
            [*command, tmp_path / "state", tmp_path / "resumed"], env=environment, stdout=subprocess.PIPE, text=True
        )
        process.stdout.readline()
        try:
            process.wait(timeout=rng.uniform(0.2, 2.5) if attempt < 4 else 120)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        process.stdout.close()
        if process.returncode == 0:
            break
        kills += 1
        if (tmp_path / "state" / "card.json").exists():
            checkpoint.load(tmp_path / "state", "training")  # whole, whenever the kill came
    assert kills >= 3
    assert process.returncode == 0
    (whole, one), (resumed, other) = (checkpoint.load(tmp_path / n, "spackle") for n in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert one["score"] == other["score"]


SAVER = """
import sys
import numpy as np
from spared_sc._models import checkpoint

for version in range(100000):
    arrays = {f"w{i}": np.full(20000, version, dtype=np.float32) for i in range(5)}
    checkpoint.save(sys.argv[1], "test", arrays, {"number": version})
    print(version, flush=True)
"""


def test_a_killed_save_leaves_a_whole_model(tmp_path):
    rng = random.Random(1)
    for i in range(12):
        folder = tmp_path / str(i % 3)
        process = subprocess.Popen([sys.executable, "-c", SAVER, folder], stdout=subprocess.PIPE, text=True)
        process.stdout.readline()
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        done = process.communicate()[0].split()
        arrays, card = checkpoint.load(folder, "test")
        assert all((array == card["number"]).all() for array in arrays.values())
        assert card["number"] >= int(done[-1] if done else 0)
