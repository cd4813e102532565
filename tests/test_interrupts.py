"""An interrupt at any line leaves the object as it was, or as after the whole call."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import spared_sc as sp
from helpers.fuzz import FIRST, how_many
from helpers.sdata import as_spatialdata
from properties.calls import snapshot

TRACED = (str(Path(sp.__file__).parent), str(Path(sys.modules["anndata"].__file__).parent))
MOMENTS = how_many(4)  # for each function, half of them near its end, where it writes
LIBRARY = {"library_key": "library_id"}
QUICK = {"show_progress_bar": False, "device": "cpu"}

CALLS = {
    "spared_filter": lambda adata, _: sp.pp.spared_filter(adata, subset_genes=True, **LIBRARY),
    "recipe_spared": lambda adata, _: sp.pp.recipe_spared(adata, gene_lengths=None, n_genes=8, **LIBRARY),
    "normalize_tpm": lambda adata, _: sp.pp.normalize_tpm(adata, gene_lengths=None),
    "lattice_neighbors": lambda adata, _: sp.pp.lattice_neighbors(adata, **LIBRARY),
    "moran": lambda adata, _: sp.pp.moran(adata, **LIBRARY),
    "select_genes": lambda adata, _: sp.pp.select_genes(adata, n_genes=3, subset_genes=True),
    "split_libraries": lambda adata, _: sp.pp.split_libraries(
        adata, intra_subject=True, fractions=(0.5, 0, 0.5), **LIBRARY
    ),
    "combat": lambda adata, _: sp.pp.combat(adata, **LIBRARY),
    "center": lambda adata, _: sp.pp.center(adata, **LIBRARY),
    "median_complete": lambda adata, _: sp.tl.median_complete(adata, **LIBRARY),
    "complete": lambda adata, _: sp.tl.complete(adata, method="kernel", key_added="kernel", **LIBRARY),
    "hide_entries": lambda adata, _: sp.tl.hide_entries(adata, **LIBRARY),
    "extract_patches": lambda adata, path: sp.pp.extract_patches(adata, output_size=16, store=path, **LIBRARY),
    "embed_patches": lambda adata, _: sp.tl.embed_patches(adata, **LIBRARY),
    "predict_expression": lambda adata, _: sp.tl.predict_expression(
        adata, model="ridge", target="log2tpm", **LIBRARY, **QUICK
    ),
}


@pytest.fixture(scope="module")
def ready():
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=30, shape=(6, 6), depth=300)
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    sp.pp.moran(adata, **LIBRARY)
    sp.tl.embed_patches(adata, **LIBRARY)
    sp.tl.complete(adata, method="additive", key_added="kernel", **LIBRARY)
    sp.tl.predict_expression(adata, model="knn", key_added="predicted_ridge", target="log2tpm", **LIBRARY, **QUICK)
    return adata


def run(call, adata, path, stop=None) -> int:
    """Lines that the call executes in the package and in anndata; before the one of number `stop` it is interrupted."""
    n_lines = 0

    def trace(frame, event, _):
        nonlocal n_lines
        if not frame.f_code.co_filename.startswith(TRACED):
            return None
        if event == "line":
            n_lines += 1
            if n_lines == stop:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call(adata, path)
    finally:
        sys.settrace(before)
    return n_lines


def start(ready, *, view: bool):
    return ready[np.arange(ready.n_obs)] if view else ready.copy()


@pytest.mark.parametrize("view", [False, True], ids=["whole", "view"])
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.filterwarnings("ignore:training interrupted")
def test_an_interrupt_leaves_the_object_as_before_or_complete(ready, tmp_path, name, view):
    call, rng = CALLS[name], random.Random(f"{name} {view} {FIRST}")
    run(call, start(ready, view=view), tmp_path / "first")  # compiles, and fills caches
    complete = start(ready, view=view)
    n_lines = run(call, complete, tmp_path / "p.zarr")
    outcomes = [snapshot(start(ready, view=view)), snapshot(complete)]
    moments = [n_lines - rng.randrange(min(400, n_lines)) for _ in range(MOMENTS // 2)]
    moments += [rng.randint(1, n_lines) for _ in range(MOMENTS - len(moments))]
    for moment in moments:
        adata = start(ready, view=view)
        shutil.rmtree(tmp_path / "p.zarr", ignore_errors=True)
        try:
            run(call, adata, tmp_path / "p.zarr", stop=moment)
        except KeyboardInterrupt:
            pass
        assert snapshot(adata) in outcomes, f"interrupted at line {moment} of {n_lines}"
        adata.copy()  # nothing in it is broken


SDATA_CALLS = {
    "spared_filter": lambda sdata, _: sp.pp.spared_filter(sdata, spot_counts=(340, 1e6)),
    "embed_patches": lambda sdata, _: sp.tl.embed_patches(sdata),
}


@pytest.mark.parametrize("name", SDATA_CALLS)
@pytest.mark.filterwarnings("ignore")
def test_an_interrupt_leaves_a_spatialdata_object_as_before_or_complete(name):
    call, rng = SDATA_CALLS[name], random.Random(name)
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=30, shape=(6, 6), depth=300)

    def state(sdata):
        shapes = {name: shapes.index.tolist() for name, shapes in sdata.shapes.items()}
        return snapshot(sdata.tables["table"]), shapes

    complete = as_spatialdata(adata)
    run(call, as_spatialdata(adata), None)
    n_lines = run(call, complete, None)
    outcomes = [state(as_spatialdata(adata)), state(complete)]
    for moment in [n_lines - rng.randrange(min(200, n_lines)) for _ in range(MOMENTS)]:
        sdata = as_spatialdata(adata)
        try:
            run(call, sdata, None, stop=moment)
        except KeyboardInterrupt:
            pass
        assert state(sdata) in outcomes, f"interrupted at line {moment} of {n_lines}"
