"""Interrupts at lines of a call, and what they leave of an object."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata as ad

import spared_sc as sp
from helpers.sdata import as_spatialdata
from properties.calls import snapshot

if TYPE_CHECKING:
    import random

TRACED = (str(Path(sp.__file__).parent), str(Path(ad.__file__).parent))
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

SDATA_CALLS = {
    "spared_filter": lambda sdata, _: sp.pp.spared_filter(sdata, spot_counts=(340, 1e6)),
    "embed_patches": lambda sdata, _: sp.tl.embed_patches(sdata),
}


def ready() -> ad.AnnData:
    """An object that holds what the calls write, from other calls."""
    adata = sections()
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    sp.pp.moran(adata, **LIBRARY)
    sp.tl.embed_patches(adata, **LIBRARY)
    sp.tl.complete(adata, method="additive", key_added="kernel", **LIBRARY)
    sp.tl.predict_expression(adata, model="knn", key_added="predicted_ridge", target="log2tpm", **LIBRARY, **QUICK)
    return adata


def sections() -> ad.AnnData:
    return sp.datasets.synthetic(n_libraries=2, n_genes=30, shape=(6, 6), depth=300)


def makers(adata: ad.AnnData) -> dict[str, tuple[dict[str, Callable], Callable[[], Any]]]:
    """The calls, and an object to begin with, for each kind of object."""
    plain = sections()
    return {
        "AnnData": (CALLS, adata.copy),
        "view": (CALLS, lambda: adata[[True] * adata.n_obs]),
        "SpatialData": (SDATA_CALLS, lambda: as_spatialdata(plain)),
    }


def state(thing: Any) -> Any:
    if isinstance(thing, ad.AnnData):
        thing.copy()  # nothing in it is broken
        return snapshot(thing)
    return snapshot(thing.tables["table"]), {name: shapes.index.tolist() for name, shapes in thing.shapes.items()}


def run(call: Callable, thing: Any, path: Path, stop: int | None = None) -> int:
    """Lines that the call executes in the package and in anndata; before the one of number `stop` it is interrupted."""
    n_lines = 0
    shutil.rmtree(path, ignore_errors=True)

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
        call(thing, path)
    finally:
        sys.settrace(before)
    return n_lines


def outcomes(call: Callable, make: Callable[[], Any], path: Path, n: int, rng: random.Random) -> Iterator[str]:
    """Interrupt `n` calls, half of them among the last lines, where they write, and say what is left."""
    run(call, make(), path)  # compiles, and fills caches
    complete = make()
    n_lines = run(call, complete, path)
    known = {"as before": state(make()), "complete": state(complete)}
    for i in range(n):
        moment = n_lines - rng.randrange(min(400, n_lines)) if i < (n + 1) // 2 else rng.randint(1, n_lines)
        thing = make()
        try:
            run(call, thing, path, stop=moment)
        except KeyboardInterrupt:
            pass
        left = state(thing)
        yield next(
            (word for word, wanted in known.items() if left == wanted), f"half written (line {moment} of {n_lines})"
        )
