"""Good sections to start from, with what the functions of the package have written into them."""

from __future__ import annotations

import functools
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import spared_sc as sp

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

KEY = {"library_key": "library_id"}
QUICK = {"device": "cpu", "show_progress_bar": False}
N_KINDS = 6
NAMES = ["A 1", "größe", "10", "9", "b.c", "基因", "nan", "-", "x" * 60]


@functools.cache
def ready(kind: int) -> AnnData:
    """One to three libraries that went through the whole package."""
    rng = np.random.default_rng([kind, 7])
    adata = sp.datasets.synthetic(
        n_libraries=1 + kind % 3,
        n_genes=10,
        shape=[(5, 6), (4, 9), (6, 6)][kind % 3],
        lattice=["hex", "grid"][kind % 2],
        depth=[300, 60][kind // 3],
        missing_spots=0.1,
        random_state=kind,
    )
    adata.obs["donor"] = adata.obs["library_id"].astype(str)
    adata.obs["batch"] = pd.Categorical(rng.choice(["one", "two"], adata.n_obs))
    adata.var["symbol"] = [f"SYM{i}" for i in range(adata.n_vars)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _write_all(adata)
    return adata


def _write_all(adata: AnnData) -> None:
    sp.pp.recipe_spared(adata, gene_lengths=None, n_genes=6, spot_counts=(0, 1e9), gene_counts=(0, 1e9), **KEY)
    sp.pp.lattice_neighbors(adata, **KEY)
    sp.tl.median_complete(adata, **KEY)
    sp.pp.center(adata, **KEY)
    sp.tl.complete(adata, method="kernel", **KEY)
    sp.tl.spackle_complete(adata, model_params={"n_iterations": 1}, **KEY, **QUICK)
    params = {"n_steps": 2, "n_layers": 1, "feedforward": 8, "train_batch_size": 8}
    sp.tl.complete(adata, method="paper", method_params=params, **KEY, **QUICK)
    sp.tl.audit_completion(adata, method="soft_impute_kernel", quick=True, **KEY, **QUICK)
    sp.tl.embed_patches(adata, **KEY, **QUICK)
    if adata.obs["library_id"].nunique() > 1:
        sp.pp.combat(adata, **KEY)
        for model in ("ridge", "knn"):
            sp.tl.predict_expression(adata, model=model, target="log2tpm", **KEY, **QUICK)


def tables(kind: int) -> dict[str, pd.DataFrame]:
    """Tables of scores: of completions and of predictions."""
    return _tables(kind % 2 + 1)  # two libraries or three


@functools.cache
def _tables(kind: int) -> dict[str, pd.DataFrame]:
    adata = ready(kind)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        completion = sp.tl.evaluate_completion(
            adata, methods=["median", "kernel"], n_masks=2, shares=[0.2, 0.4], **KEY, **QUICK
        )
        prediction = sp.tl.score_prediction(adata, **KEY)
    published = sp.benchmark.reference_external()
    return {
        "completion": completion,
        "prediction": prediction,
        "benchmark": published,
        "catalogue": sp.datasets.catalogue(),
    }


@functools.cache
def comparison() -> Any:
    """Published scores, compared."""
    return sp.benchmark.compare(sp.benchmark.reference_external(), "mse", published=True)


@functools.cache
def hidden(kind: int) -> AnnData:
    adata = sp.tl.hide_entries(ready(kind), 0.2, **KEY)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sp.tl.median_complete(adata, **KEY)
        sp.tl.complete(adata, method="kernel", **KEY)
    return adata


@functools.cache
def fitted(kind: int):
    """A predictor of a collection of two libraries."""
    return sp.tl.fit_predictor(ready(kind), model="ridge", target="log2tpm", split_key=None, **KEY, **QUICK)


@functools.cache
def saved(kind: int, folder: Path) -> Path:
    fitted(kind).save(folder / f"predictor {kind}")
    return folder / f"predictor {kind}"


def rename_libraries(adata: AnnData, names: dict[str, str]) -> None:
    """Other names of the libraries, wherever they stand."""
    adata.obs["library_id"] = pd.Categorical(adata.obs["library_id"].astype(str).map(names))
    adata.uns["spatial"] = {names.get(name, name): slide for name, slide in adata.uns["spatial"].items()}
