"""tl.complete."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from spared_sc._kernels.baselines import BASELINES
from spared_sc.tl._sections import resolve

import spared_sc as sp
from helpers import KEY, dense
from helpers.completion import SECTIONS, WITH_RATE, sections_of
from spared_sc._kernels import baselines

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


COMPLETERS = {
    "gene_mean": lambda a, **k: sp.tl.gene_mean_complete(a, **k),
    "library_gene_mean": lambda a, **k: sp.tl.library_gene_mean_complete(a, **k),
    "depth_only": lambda a, **k: sp.tl.depth_only_complete(a, **k),
    "additive": lambda a, **k: sp.tl.additive_complete(a, **k),
    "neighbor_mean": lambda a, **k: sp.tl.neighbor_mean_complete(a, **k),
    "kernel": lambda a, **k: sp.tl.kernel_complete(a, **k),
    "diffusion": lambda a, **k: sp.tl.diffusion_complete(a, **k),
    "soft_impute": lambda a, **k: sp.tl.soft_impute_complete(a, **k),
    "soft_impute_kernel": lambda a, **k: sp.tl.soft_impute_kernel_complete(a, **k),
    "ridge": lambda a, **k: sp.tl.ridge_complete(a, **k),
    "stack": lambda a, **k: sp.tl.stack_complete(a, **k),
    "sme": lambda a, **k: sp.tl.sme_complete(a, use_rep="programs", **k),
    "magic": lambda a, **k: sp.tl.magic_complete(a, **k),
    "alra": lambda a, **k: sp.tl.alra_complete(a, **k),
}


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


def test_every_baseline_is_public():
    assert set(BASELINES) == {*COMPLETERS, "median"}
    assert {f"{name}_complete" for name in BASELINES} <= set(sp.tl.__all__)


@pytest.mark.parametrize("name", COMPLETERS)
def test_docstrings_are_filled_in(name):
    lines = getattr(sp.tl, f"{name}_complete").__doc__.split("\n")
    assert not [line for line in lines if re.fullmatch(r"\s*\{\w+\}", line)]
    assert max(map(len, lines)) <= 120
    assert "random_state" in lines
    tuned = [line for line in lines if line.strip().startswith("`None` chooses it")]
    assert all(line.startswith("    `") for line in tuned)
    assert len(tuned) == len(baselines._GRIDS.get(name, {})) + (name == "soft_impute_kernel")


@pytest.mark.parametrize("name", COMPLETERS)
def test_layers_hold_the_estimate(ready, sections, name):
    if name == "magic":
        pytest.importorskip("magic")
    adata = COMPLETERS[name](ready, copy=True, key_added="result", random_state=2, **KEY)
    place = resolve(ready, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", **KEY)
    estimate = BASELINES[name](sections, seed=2, n_threads=1)
    known = place.to_rows(sections.known)
    before, after = dense(ready.layers["log2tpm"]), dense(adata.layers["result"])
    filled = np.where(known, before[:, place.genes], place.to_rows(estimate.values))
    np.testing.assert_array_equal(after[:, place.genes], filled)
    others = np.setdiff1d(np.arange(ready.n_vars), place.genes)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    assert ("result_rate" in adata.layers) == (name in WITH_RATE)
    if name in WITH_RATE:
        rate = dense(adata.layers["result_rate"])
        np.testing.assert_allclose(rate[:, place.genes], place.to_rows(estimate.rate), rtol=1e-6)
    record = adata.uns["spared_sc"]["result"]
    assert record["function"] == f"tl.{name}_complete"
    assert record["params"]["random_state"] == 2
    for parameter, value in estimate.params.items():
        if not isinstance(value, dict):
            assert record["params"][parameter] == value


@pytest.mark.parametrize("name", COMPLETERS)
def test_order_of_spots_and_threads_do_not_matter(ready, name):
    if name == "magic":
        pytest.importorskip("magic")
    first = COMPLETERS[name](ready, copy=True, n_jobs=1, **KEY)
    order = np.random.default_rng(0).permutation(ready.n_obs)
    second = COMPLETERS[name](ready[order].copy(), copy=True, n_jobs=2, **KEY)
    for layer in (name, f"{name}_rate"):
        if layer in first.layers:
            np.testing.assert_array_equal(dense(second.layers[layer]), dense(first.layers[layer])[order])


@pytest.mark.parametrize("name", [n for n in COMPLETERS if n not in ("depth_only", "magic")])
def test_without_raw_counts_there_is_no_rate(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    COMPLETERS[name](adata, **KEY)
    assert f"{name}_rate" not in adata.layers
    detected = dense(ready.layers["detected"])
    np.testing.assert_array_equal(dense(adata.layers[name])[detected], dense(ready.layers["log2tpm"])[detected])


@pytest.mark.parametrize("name", ["depth_only", "magic"])
def test_counts_are_asked_for_where_they_are_needed(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match=r"sp\.tl\.additive_complete"):
        COMPLETERS[name](adata, **KEY)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: sp.tl.kernel_complete(a, bandwidth=0, **KEY), "bandwidth=0 cannot be used: give a number from 0.1"),
        (lambda a: sp.tl.kernel_complete(a, shrinkage=-1, **KEY), "shrinkage=-1 cannot be used"),
        (lambda a: sp.tl.neighbor_mean_complete(a, n_rings=1.5, **KEY), "n_rings=1.5 cannot be used: give a whole"),
        (lambda a: sp.tl.soft_impute_complete(a, rank=0, **KEY), "rank=0 cannot be used"),
        (lambda a: sp.tl.soft_impute_complete(a, rank=None, **KEY), "rank=None cannot be used"),
        (lambda a: sp.tl.stack_complete(a, n_folds=1, **KEY), "n_folds=1 cannot be used"),
        (lambda a: sp.tl.ridge_complete(a, penalty=np.nan, **KEY), "penalty=nan cannot be used"),
        (lambda a: sp.tl.diffusion_complete(a, random_state=-1, **KEY), "random_state=-1 cannot be used"),
        (lambda a: sp.tl.alra_complete(a), "library_key="),
        (lambda a: sp.tl.gene_mean_complete(a, key_added="log2tpm", **KEY), "is the layer that is read"),
    ],
)
def test_wrong_parameters_are_named(ready, call, message):
    slots = set(ready.layers)
    with pytest.raises(ValueError, match=message):
        call(ready)
    assert set(ready.layers) == slots


def test_an_absent_embedding_is_named(ready):
    with pytest.raises(KeyError, match=r"there is no obsm\['X_none'\]"):
        sp.tl.sme_complete(ready, use_rep="X_none", **KEY)
    with pytest.raises(TypeError, match="use_rep"):
        sp.tl.sme_complete(ready, **KEY)


def test_values_too_large_to_square_are_an_error(ready):
    adata = ready.copy()
    adata.layers["huge"] = adata.layers["log2tpm"] * np.float32(1e30)
    with pytest.raises(FloatingPointError, match="extreme values"):
        sp.tl.additive_complete(adata, layer="huge", **KEY)
