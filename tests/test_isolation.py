"""Nothing that runs beside a call changes its result, and a call changes nothing of the process."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import spared_sc as sp
from helpers import dense

LIBRARY = {"library_key": "library_id", "copy": True}
QUICK = {"device": "cpu", "show_progress_bar": False}


def data(seed: int):
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=12, shape=(4, 4), depth=300, random_state=seed)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    return adata


def paper(adata):
    params = {"n_steps": 15, "n_layers": 1, "feedforward": 16, "train_batch_size": 8}
    result = sp.tl.complete(adata, method="paper", method_params=params, **QUICK, **LIBRARY)
    return dense(result.layers["paper"])


def default(adata):
    return dense(sp.tl.spackle_complete(adata, **QUICK, **LIBRARY).layers["spackle"])


def random_encoder(adata):
    result = sp.tl.embed_patches(adata, encoder="shufflenet_v2_x0_5", weights="random", **QUICK, **LIBRARY)
    return result.obsm["X_shufflenet_v2_x0_5"]


def network(adata):
    params = {"backbone": "torchvision:shufflenet_v2_x0_5", "weights": "random", "n_steps": 2, "train_batch_size": 4}
    result = sp.tl.predict_expression(adata, model="bleep", model_params=params, target="log2tpm", **QUICK, **LIBRARY)
    return result.obsm["predicted_bleep"]


def ridge(adata):
    adata = sp.tl.embed_patches(adata, **LIBRARY)
    result = sp.tl.predict_expression(adata, model="ridge", **QUICK, **LIBRARY)
    return result.obsm["predicted_ridge"]


CALLS = {"default": default, "paper": paper, "random_encoder": random_encoder, "network": network}


@pytest.mark.filterwarnings("ignore:a patch has")
@pytest.mark.parametrize("name", CALLS)
def test_threads_get_what_each_would_get_alone(name):
    call, sections = CALLS[name], [data(1), data(2)]
    alone = [call(adata) for adata in sections]
    before = torch.get_rng_state()
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(call, sections * 2))
    for got, wanted in zip(together, alone * 2, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert torch.equal(torch.get_rng_state(), before)


def layers(adata):
    result = sp.tl.spackle_complete(adata, **QUICK, **LIBRARY)
    names = ("spackle", "spackle_denoised", "spackle_denoised_sd", "spackle_rate", "spackle_sd")
    return {name: result.to_df(name) for name in names} | {"verdict": result.var[["spackle_verdict"]].T}


def paper_layer(adata):
    return {"paper": pd.DataFrame(paper(adata), adata.obs_names, adata.var_names)}


@pytest.mark.parametrize(
    "call", [layers, paper_layer, lambda a: {"ridge": ridge(a)}, lambda a: {"network": network(a)}]
)
def test_no_order_matters(call):
    adata = data(4)
    adata.var_names = np.random.default_rng(1).permutation(adata.var_names)  # not in the order of their names
    rng = np.random.default_rng(0)
    shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
    shuffled.obs["library_id"] = shuffled.obs["library_id"].cat.reorder_categories(["library_2", "library_1"])
    found = call(shuffled)
    for name, wanted in call(adata).items():
        pd.testing.assert_frame_equal(found[name].loc[wanted.index, wanted.columns], wanted, check_exact=True)


def in_fork(name):
    try:
        return (
            CALLS[name](data(3)) if name in CALLS else dense(sp.tl.median_complete(data(3), **LIBRARY).layers["median"])
        )
    except ChildProcessError as error:
        return str(error)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("name", ["median", "default", "paper", "network"])
def test_a_forked_process_works_or_is_told_to_spawn(name):
    wanted = in_fork(name)  # the parent has used threads by now
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads
        with multiprocessing.get_context("fork").Pool(1) as pool:
            got = pool.apply_async(in_fork, (name,)).get(timeout=120)
    if name in ("paper", "network"):
        assert 'multiprocessing.get_context("spawn")' in got
    else:
        np.testing.assert_array_equal(got, wanted)


GLOBAL = """
import os, random, warnings, logging, threading, locale, signal
import numpy, torch, matplotlib, scanpy, squidpy, spatialdata  # what they change is theirs

THEIRS = ("KMP_", "TORCHINDUCTOR_")  # scikit-learn and torch set them when a part of them is imported

def state():
    return {
        "environment": {name: value for name, value in os.environ.items() if not name.startswith(THEIRS)}, "numpy": numpy.random.get_state()[1].tolist(), "python": random.getstate(),
        "torch": torch.get_rng_state().tolist(), "torch threads": torch.get_num_threads(), "folder": os.getcwd(),
        "warnings": list(warnings.filters), "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level, "settings": dict(matplotlib.rcParams), "numpy errors": numpy.geterr(),
        "torch types": torch.get_default_dtype(), "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": sorted(t.name for t in threading.enumerate() if t.name != "tqdm_monitor"), "signals": [signal.getsignal(s) for s in (2, 15)], "mask": os.umask(os.umask(0)),
        "locale": locale.setlocale(locale.LC_ALL),
    }
"""


def test_a_call_changes_nothing_of_the_process():
    script = GLOBAL + (
        f"\nbefore = state()\nimport sys; sys.path[:0] = {[str(Path(__file__).parent)]!r}\n"
        "from test_isolation import CALLS, data\nimport spared_sc as sp\n"
        "for call in CALLS.values(): call(data(1))\n"
        "adata = data(1)\nsp.pp.recipe_spared(adata, gene_lengths=None, n_genes=4, library_key='library_id')\n"
        "sp.tl.embed_patches(adata, library_key='library_id')\nimport matplotlib.pyplot\n"
        "after = state()\n"
        "print([(name, after[name]) for name in before if before[name] != after[name] and name != 'warnings'])\n"
        "added = [f for f in after['warnings'] if f not in before['warnings']]\nprint([f for f in added if 'sympy' not in str(f[2])])"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-2:] == ["[]", "[]"], done.stdout
