"""How to compute: what is checked, and what the settings say."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import numba
import numpy as np
import pytest

import spared_sc as sp
from spared_sc._core.compute import Compute, make_compute


def test_arguments_are_passed_on():
    compute = make_compute(
        random_state=np.int64(3), device="cpu", batch_size=7, n_jobs=1, show_progress_bar=False, checkpoint="state"
    )
    assert compute == Compute(
        device="cpu", seed=3, batch_size=7, n_threads=1, show_progress_bar=False, checkpoint=Path.cwd() / "state"
    )
    assert type(compute.seed) is int
    with pytest.raises(FrozenInstanceError):
        compute.seed = 4


def test_what_is_not_given_comes_from_the_settings():
    assert make_compute(n_jobs=1) == Compute()
    with sp.settings.override(device="cuda:1", batch_size=5, n_jobs=1):
        assert make_compute() == Compute(device="cuda:1", batch_size=5)
        assert make_compute(device="cpu", batch_size=2) == Compute(device="cpu", batch_size=2)


def test_networks_have_more_than_one_thread_only_if_asked(monkeypatch):
    monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", 8)
    assert (make_compute().n_threads, make_compute().network_threads) == (8, 1)
    assert (make_compute(n_jobs=3).n_threads, make_compute(n_jobs=3).network_threads) == (3, 3)
    with sp.settings.override(n_jobs=5):
        assert (make_compute().n_threads, make_compute().network_threads) == (5, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"random_state": -1}, "random_state=-1"),
        ({"random_state": 0.5}, "random_state=0.5"),
        ({"random_state": None}, "random_state=None"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "batch_size=2.5"),
        ({"n_jobs": 0}, "n_jobs=0"),
        ({"n_jobs": -1}, "n_jobs=-1"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"{message} cannot be used"):
        make_compute(**options)


@pytest.mark.parametrize("checkpoint", ["", "a\0b", "x" * 300, "a/" * 3000])
def test_checkpoints_that_no_folder_can_be(checkpoint):
    with pytest.raises(ValueError, match="checkpoint cannot be .*: give a|checkpoint cannot be .* Give a shorter path"):
        make_compute(checkpoint=checkpoint)
    with pytest.raises(TypeError, match="checkpoint is a int: give a path"):
        make_compute(checkpoint=3)


def test_the_device_is_any_that_torch_names():
    import torch

    assert make_compute(device=torch.device("cpu")).device == "cpu"


def test_the_same_below_and_without_a_bar(capsys):
    compute = make_compute(n_jobs=1, checkpoint="state", show_progress_bar=True)
    below = make_compute(n_jobs=1, checkpoint=Path("state/a"), show_progress_bar=True)
    assert compute.below("a") == below
    for name in ("a/b", "..", "", "x" * 300, "a\0b", "/etc"):  # of libraries
        assert compute.below(name).checkpoint.parent == compute.checkpoint
        assert compute.below(name) != below
    assert Compute().below("a") == Compute()
    quiet = compute.without_bar()
    assert (quiet.show_progress_bar, quiet.checkpoint) == (False, compute.checkpoint)
    for each, shown in ((compute, True), (quiet, False)):
        with each.bar(2, "sawing", unit="board") as bar:
            bar.update()
        assert ("sawing" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("write", [[], ["values"], ["rate", "values"], 3, "all"])
def test_blocks_that_are_none(write):
    with pytest.raises(ValueError, match="write=.*'completed', 'denoised', 'rate', 'sd'"):
        make_compute(write=write)


def test_blocks_that_are_wanted():
    assert make_compute().write == {"completed", "denoised", "rate", "sd", "denoised_sd"}
    assert make_compute(write="rate").write == {"rate"}
    assert make_compute(write=["sd", "rate"]).write == {"rate", "sd"}
