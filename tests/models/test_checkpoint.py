"""Files for what was learned, and fits that were interrupted."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import scipy.sparse as sps
import torch

from helpers import dense
from helpers.models import card_of, put_arrays, put_card
from helpers.spackle import complete
from spared_sc._models import checkpoint, training
from spared_sc._models.completion.files import KIND


@pytest.fixture(scope="module")
def sections(collection):
    return collection(n_libraries=3, shape=(8, 8), n_genes=50, depth=500, image=False, recipe={"n_genes": 20})


SHORT = {"n_layers": 1, "feedforward": 32, "train_batch_size": 16}  # parameters of SpaCKLE


def layer(adata):
    return dense(adata.layers["spackle"])


def test_a_full_disk_leaves_the_old_model(tmp_path, monkeypatch):
    folder = tmp_path / "model"
    checkpoint.save(folder, "k", {"x": np.arange(6.0), "y": np.ones((2, 3))}, {"name": "old"})
    before = checkpoint.load(folder, "k")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device\): free some space .* unchanged"):
        checkpoint.save(folder, "k", {"x": np.zeros(3)}, {})
    monkeypatch.undo()
    after = checkpoint.load(folder, "k")
    assert before[1] == after[1]
    assert all(np.array_equal(before[0][name], after[0][name]) for name in before[0])
    assert not list(folder.glob("*.part"))


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        checkpoint.save(tmp_path / "file", "k", {}, {})
    with pytest.raises(OSError, match="cannot be written"):
        checkpoint.save(tmp_path / "file" / "model", "k", {}, {})


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
    params = {**SHORT, "n_steps": 200, "dropout": 0.2}
    expected = complete(sections, params=params)
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
        result = complete(sections, params=params, checkpoint=tmp_path / "state")
    assert len(calls) == 100  # of 200; 50 steps were kept from each of the two long runs
    np.testing.assert_array_equal(layer(result), layer(expected))
    one, other = (a.uns["spared_sc"]["spackle"] for a in (result, expected))
    for name in ("step", "train_mse", "validation_mse"):
        np.testing.assert_array_equal(one["training"][name], other["training"][name])
    assert one["score"] == other["score"]
    # finished: nothing is left to do
    calls.clear()
    once_more = complete(sections, params=params, checkpoint=tmp_path / "state")
    assert not calls
    np.testing.assert_array_equal(layer(once_more), layer(expected))


def test_the_checkpoint_of_another_fit_is_refused(sections, tmp_path):
    folder, adata = tmp_path / "state", sections.copy()

    def fit(adata, *, random_state=0, **params):
        params = {**SHORT, "n_steps": 10, **params}
        return complete(adata, params=params, checkpoint=folder, random_state=random_state)

    fit(adata)
    for change, name in (({"mask_share": 0.4}, "mask_share"), ({"random_state": 1}, "seed")):
        with pytest.raises(ValueError, match=f"another fit, which differs in {name}: remove that folder"):
            fit(adata, **change)
    adata.layers["log2tpm"] = sps.csr_matrix(adata.layers["log2tpm"] * np.float32(1.5))
    with pytest.raises(ValueError, match="differs in data"):
        fit(adata)
    weights = next(folder.glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        fit(sections)


SCRIPT = """
import sys
import torch
import spared_sc as sp
from spared_sc._models import training

training._SAVE_EVERY = 0.0
torch.set_num_threads(1)
adata = sp.datasets.synthetic(n_libraries=2, shape=(7, 7), n_genes=40, depth=500, image=False)
sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
print("ready", flush=True)
sp.tl.spackle_complete(
    adata, library_key="library_id", model="paper",
    model_params=dict(n_steps=1200, patience=1200, n_layers=1, feedforward=32, train_batch_size=8),
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
    (whole, one), (resumed, other) = (checkpoint.load(tmp_path / n, KIND) for n in ("whole", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(np.array_equal(whole[name], resumed[name]) for name in whole)
    assert one["values"]["score"] == other["values"]["score"]


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


@pytest.mark.parametrize(
    ("folder", "message"), [("", "not empty"), ("a\0b", "zero bytes"), ("x" * 300, "a shorter path")]
)
def test_what_cannot_be_a_folder_of_a_model(folder, message):
    for call in (lambda: checkpoint.save(folder, "k", {}, {}), lambda: checkpoint.load(folder, "k")):
        with pytest.raises(ValueError, match=f"the folder of a model cannot be .*{message}"):
            call()


@pytest.mark.parametrize("name", ["notes.part", "weights-mine.safetensors", "thesis.txt"])
def test_files_of_the_user_stay(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match=f"holds other files \\('{name}'\\) and no card.json"):
        checkpoint.save(tmp_path, "k", {"x": np.ones(3)}, {})
    assert [path.name for path in tmp_path.iterdir()] == [name]
    checkpoint.save(tmp_path / "m", "k", {"x": np.ones(3)}, {})
    (tmp_path / "m" / name).write_text("mine")  # beside a model
    checkpoint.save(tmp_path / "m", "k", {"x": np.zeros(3)}, {})
    assert (tmp_path / "m" / name).read_text() == "mine"
    assert len(list((tmp_path / "m").iterdir())) == 3


@pytest.mark.parametrize("content", ['{"format": "datacard"}', "[1]", "", '{"format": 5}'])
def test_a_card_of_another_program_is_not_replaced(tmp_path, content):
    (tmp_path / "card.json").write_text(content)
    with pytest.raises(ValueError, match="is not the card of a model of spared-sc: remove it"):
        checkpoint.save(tmp_path, "k", {"x": np.ones(3)}, {})
    assert (tmp_path / "card.json").read_text() == content


def test_remains_of_a_killed_save_are_removed_by_the_next(tmp_path):
    for name in ("weights-0123456789abcdef.safetensors", "weights-0123456789abcdef.safetensors.part", "card.json.part"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / ".card.json.lock").touch()
    checkpoint.save(tmp_path, "k", {"x": np.ones(3)}, {})
    assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["card.json", "weights"]


def test_every_byte_of_a_model_counts(tmp_path):
    checkpoint.save(tmp_path, "k", {"x": np.arange(4.0)}, {"genes": ["a", "b"], "score": 0.25, "n": 3})
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    rng = np.random.default_rng(0)
    for path, content in before.items():
        for place in rng.choice(len(content), 60, replace=False):
            harmed = bytearray(content)
            harmed[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(harmed)
            try:
                arrays, card = checkpoint.load(tmp_path, "k")
            except ValueError:
                continue
            assert np.array_equal(arrays["x"], np.arange(4.0))  # white space, in the card alone
            assert (card["genes"], card["score"], card["n"]) == (["a", "b"], 0.25, 3)
        path.write_bytes(content)
    checkpoint.load(tmp_path, "k")


def test_values_that_are_not_finite_are_not_saved(tmp_path):
    for value in (np.nan, np.inf):
        with pytest.raises(ValueError, match="1 of 3 values of 'x' are NaN or infinite .* nothing was saved"):
            checkpoint.save(tmp_path / "m", "k", {"x": np.array([1, value, 2])}, {})
    assert not (tmp_path / "m").exists()
    arrays = {"x.of_genes": np.array([1, np.nan])}
    checkpoint.save(tmp_path / "m", "k", arrays, {}, gaps=("x.",))
    assert np.isnan(checkpoint.load(tmp_path / "m", "k", gaps=("x.",))[0]["x.of_genes"][1])
    with pytest.raises(ValueError, match="is damaged: 1 of 2 values"):
        checkpoint.load(tmp_path / "m", "k")


def test_a_card_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    from spared_sc._core import files

    checkpoint.save(tmp_path, "k", {}, {})
    monkeypatch.setattr(files, "_MOST_JSON", 50)
    with pytest.raises(
        ValueError, match="card.json cannot be read .*at most 50 are expected.*remove it and save or fit"
    ):
        checkpoint.load(tmp_path, "k")


def test_a_model_is_whole_while_another_process_saves(tmp_path):
    script = f"""
import numpy as np
from spared_sc._models import checkpoint
for value in range(300):
    checkpoint.save({str(tmp_path)!r}, "k", {{"x": np.full(50, float(value))}}, {{"value": value}})
"""
    checkpoint.save(tmp_path, "k", {"x": np.full(50, -1.0)}, {"value": -1})
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(2)]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        arrays, card = checkpoint.load(tmp_path, "k")
        assert set(arrays["x"]) == {card["value"]}
        seen.add(card["value"])
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(seen) > 2
    assert len(list(tmp_path.iterdir())) == 2


def test_two_fits_with_one_checkpoint(sections, tmp_path, monkeypatch):
    from spared_sc._core import locks

    monkeypatch.setattr(locks, "_WAIT", 0.2)
    code = f"""
import time
from spared_sc._models import checkpoint
with checkpoint.reserved({str(tmp_path / "state")!r}):
    print("fits", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "fits\n"
    params = {**SHORT, "n_steps": 10}
    try:
        with pytest.raises(TimeoutError, match=f"is being written by process {other.pid}"):
            complete(sections, params=params, checkpoint=tmp_path / "state")
    finally:
        other.kill()
        other.communicate()
    result = complete(sections, params=params, checkpoint=tmp_path / "state")
    np.testing.assert_array_equal(layer(result), layer(complete(sections, params=params)))


@pytest.mark.parametrize("harm", ["another network", "no progress", "foreign array"])
def test_a_checkpoint_that_does_not_fit_is_refused(sections, tmp_path, harm):
    params = {**SHORT, "n_steps": 10}
    folder = tmp_path / "state"
    complete(sections, params=params, checkpoint=folder)
    if harm == "no progress":
        put_card(folder, {name: value for name, value in card_of(folder).items() if name != "progress"})
    elif harm == "foreign array":
        put_arrays(folder, lambda arrays: arrays | {"surprise": np.ones(2)})
    else:
        put_arrays(folder, lambda arrays: {name: array.reshape(-1)[:1] for name, array in arrays.items()})
    with pytest.raises(
        ValueError, match="the checkpoint in .* is damaged: .* remove that folder, or choose another one"
    ):
        complete(sections, params=params, checkpoint=folder)
