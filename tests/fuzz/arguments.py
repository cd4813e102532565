"""Arguments of every public function: right ones by name, and wrong ones of every kind."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

import spared_sc as sp
from fuzz.sections import KEY

if TYPE_CHECKING:
    from collections.abc import Callable

LAYERS = ["log2tpm", "log2tpm", "median", "kernel", "spackle", "spackle_denoised", "log2tpm_delta"]
GENES = ["Gene001", "Gene002", "Gene003", "Gene006"]

# What most functions share: parameter -> right values.
SHARED: dict[str, list[Any]] = {
    "layer": LAYERS,
    "mask_var": [None, "spared_selected", "spared_keep"],
    "split_key": [None, "split"],
    "subject_key": [None, "donor", "library_id"],
    "batch_key": [None, "library_id", "batch"],
    "spatial_key": ["spatial"],
    "key_added": ["mine", "new one"],
    "n_jobs": [1, 2, None],
    "random_state": [0, 3, np.int64(4), 2**32 - 1],
    "batch_size": [None, 1, 7],
    "figsize": [(9, 7), (12.5, 10.0)],
    "libraries": [None],
    "img": [True, False],
    "img_key": ["hires", None],
    "crop": [True, False],
    "size": [0.5, 1],
    "alpha": [0, 0.5, 1.0],
    "vmin": [None, 0],
    "vmax": [None, 12.5],
    "cmap": ["magma"],
    "gene": GENES,
    "gene_lengths": [None],
    "n_genes": [1, 4],
    "n_rings": [1, 2, 3],
    "fractions": [(0.5, 0.25, 0.25), (1, 0, 0), [0.7, 0.0, 0.3]],
    "novelty": [True, False],
    "force": [True, False],
    "loss": ["all", "detected", "mse"],
    "stain": ["macenko"],
    "unit": ["spot", "pixel", "um"],
    "output_size": [8, 16],
    "mpp": [0.5, 1.0],
    "assay": ["visium", "st"],
    "protocol": ["expression", "spared", "hest"],
}

# function -> parameter -> right values, where they differ from the shared ones
OWN: dict[str, dict[str, list[Any]]] = {
    "pp.spared_filter": {
        "layer": [None],
        "spot_counts": [(0, 1e9), (10, 1e6)],
        "gene_counts": [(0, 1e9)],
        "min_expressed_fraction": [0.0, 0.1],
        "min_library_expressed_fraction": [0.0, 0.1],
        "real_data_share": [0.1, 0.5],
        "genes": [GENES],
        "subset_spots": [True, False],
        "subset_genes": [True, False],
    },
    "pp.normalize_tpm": {"layer": [None], "target_sum": [1e4, 1e6, 1], "key_added": ["log2tpm", "mine"]},
    "pp.recipe_spared": {"moran_layer": ["median", "log2tpm"], "subset_genes": [True, False]},
    "pp.select_genes": {"score": ["moran_i", "expressed_fraction"], "subset_genes": [True, False]},
    "pp.moran": {
        "median_completed": [True, False],
        "connectivity_key": [None, "spatial_connectivities"],
        "key_added": ["mine"],
    },
    "pp.lattice_neighbors": {"kind": ["auto", "hex", "grid", "grid4"]},
    "pp.find_duplicate_libraries": {"layer": [None, "log2tpm"]},
    "pp.split_libraries": {
        "intra_subject": [True, False],
        "key_added": ["mine", "split"],
        "fractions": [(0.5, 0, 0.5), (1, 0, 0)],
    },
    "pp.uncenter": {"layer": ["log2tpm_delta"], "mean": [None, "log2tpm_mean"]},
    "pp.extract_patches": {"size": [0.5, 1, 20], "overwrite": [True, False]},
    "pl.patches": {"size": [0.5, 1, 20], "n_spots": [1, 5], "n_cols": [1, 3], "spots": [None]},
    "pl.lattice": {"connectivity_key": [None, "spatial_connectivities"]},
    "pl.missing": {"n_genes_labelled": [0, 3]},
    "pl.moran_ranking": {"key": ["moran_i"], "n_labelled": [0, 4], "selected": [None, "spared_selected"]},
    "pl.audit": {"key": [None, "audit"], "genes": [None, GENES[:1]]},
    "pl.batch_effect": {"layers": ["log2tpm", ["log2tpm", "median"]], "n_spots": [10, 2000]},
    "pl.completion_scatter": {"key": ["median", "kernel"]},
    "pl.predicted": {"key": ["predicted_ridge", "predicted_knn"], "panels": [None]},
    "pl.prediction_scatter": {"key": ["predicted_ridge"], "genes": [None]},
    "pl.spatial_compare": {"layers": [None, "median", ["log2tpm", "kernel"]], "mark_filled": [True, False]},
    "pl.training_curve": {"key": [None, "paper"]},
    "pl.completion_curve": {"metric": ["mse", "pcc"], "regime": ["detected", "released"], "methods": [None, "median"]},
    "pl.completion_scores": {"metric": ["mse", "pcc"], "regime": ["detected", None], "methods": [None, ["kernel"]]},
    "pl.gene_scores": {"metric": ["pcc", None], "n_names": [0, 3]},
    "get.audit": {"key": [None, "audit"]},
    "get.predicted": {"key": ["predicted_ridge", "predicted_knn"]},
    "get.compare_completions": {"method": ["kernel"], "baselines": [["median"]], "metric": ["mse"]},
    "tl.complete": {
        "method": ["kernel", "median", "gene_mean", "additive", "neighbor_mean", "soft_impute", "diffusion"]
    },
    "tl.spackle_complete": {"key_added": ["spackle", "mine"], "write": [None, "denoised", ["rate", "sd"]]},
    "tl.median_complete": {"key_added": ["median", "mine"]},
    "tl.audit_completion": {"method": ["soft_impute_kernel", "kernel"], "n_splits": [2, 3]},
    "tl.evaluate_completion": {
        "methods": ["median", ["median", "kernel"]],
        "regimes": ["detected", "released"],
        "shares": [[0.1], [0.3]],
    },
    "tl.hide_entries": {"share": [0.1, 0.5, None], "regime": ["detected", "released"]},
    "tl.embed_patches": {"encoder": ["classical"]},
    "tl.predict_expression": {
        "model": ["ridge", "knn", "gene_mean", "depth_only", "position_only"],
        "target": ["log2tpm", "median", "expression"],
    },
    "tl.fit_predictor": {
        "use_rep": ["X_classical"],
        "model": ["ridge", "knn", "gene_mean"],
        "target": ["log2tpm", "median"],
    },
    "tl.score_prediction": {"keys": [None, "predicted_ridge", ["predicted_ridge", "predicted_knn"]]},
    "tl.compare_targets": {"model": ["ridge", "gene_mean"]},
    "tl.completers": {"method": [None, "kernel"]},
    "tl.predictors": {"name": [None, "ridge"]},
    "pp.tile_slide": {
        "mpp": [1.0, 0.5],
        "pitch": [20.0, 40],
        "spot_diameter": [10.0, 15],
        "kind": ["hex", "grid"],
        "min_tissue": [0, 0.5],
        "library_id": ["A", "größe 1"],
        "library_key": ["library_id", "slide"],
    },
}

OF_BENCHMARKS = (
    *(f"pl.benchmark_{what}" for what in ("categories", "data_sets", "methods", "parameters", "wins")),
    "benchmark.compare",
)
OWN |= {name: {"metric": ["mse", "pcc"], "loss": [None], "alpha": [0.05]} for name in OF_BENCHMARKS}

# Always given, so that a call takes moments.
FIXED: dict[str, dict[str, Any]] = {
    "pp.tile_slide": {"mpp": 1.0, "pitch": 20.0, "spot_diameter": 10.0},
    "pp.normalize_tpm": {"gene_lengths": None},
    "pp.recipe_spared": {"gene_lengths": None},
    "tl.complete": {"method": "kernel"},
    "pp.split_libraries": {"intra_subject": True, "fractions": (1, 0, 0)},
    "get.compare_completions": {"method": "kernel"},
    "pl.completion_scatter": {"key": "median"},
    "tl.spackle_complete": {"model_params": {"n_iterations": 1}},
    "tl.audit_completion": {"method": "soft_impute_kernel", "quick": True},
    "tl.evaluate_completion": {"methods": ["median"], "n_masks": 1},
    "tl.hide_entries": {"share": 0.2},
    "tl.predict_expression": {"target": "log2tpm"},
    "tl.fit_predictor": {"target": "log2tpm"},
    "pl.predicted": {"gene": "Gene002"},
    "pl.spatial_compare": {"gene": "Gene002"},
    **{name: {"published": True, "metric": "mse"} for name in OF_BENCHMARKS},
}

NETWORK = {"backbone": "torchvision:shufflenet_v2_x0_5", "weights": "random", "n_steps": 2, "train_batch_size": 4}

WRONG: list[Any] = [
    None, np.nan, np.inf, -1, 0, 2**64, 10**400, 1e300, -0.5, 1.5, "", "no such", "a/b", "\0", "x" * 300, b"bytes", True, [], {}, (),
    ["log2tpm", 3], {"a": 1}, object, np.array([1.0, 2.0]), np.int64(3), np.float32("nan"), pd.Series([1]), print, {1, 2},
    1 + 2j, pd.NA, [None], [[]], "log2tpm", "library_id", "Gene001", "array_row", "spatial", (1, 2, 3), (2, 1),
    {"A": None}, np.array("text"), Path("no such folder"),
]  # fmt: skip

# Not drawn wrong: truth values show figures and bars; a number of repetitions is work, and is refused when it is no number.
KEPT = {"show", "show_progress_bar", "copy", "device", "quick"}
HUGE = (2**64, 10**400, 1e300)
WORK = {"n_masks", "n_splits", "n_jobs", "figsize", "pitch", "output_size"}


@dataclass
class Arguments:
    """Keyword arguments of a call, and the name of the one that is drawn among the wrong ones, if there is one."""

    values: dict[str, Any]
    wrong: str | None


def function(name: str) -> Callable:
    module, _, short = name.partition(".")
    return getattr(getattr(sp, module), short)


def parameters(name: str) -> dict[str, inspect.Parameter]:
    return dict(list(inspect.signature(function(name)).parameters.items()))


def draw(name: str, rng: np.random.Generator) -> Arguments:
    """Arguments of a call of that function, beside the first one."""
    known = parameters(name)
    known = {one: known[one] for one in list(known)[1:]} if next(iter(known), "") in FIRST else known
    pools = {one: OWN.get(name, {}).get(one, SHARED.get(one)) for one in known}
    values = dict(FIXED.get(name, {}))
    if "library_key" in known and name != "pp.tile_slide":
        values |= KEY
    values |= {one: value for one, value in QUIET.items() if one in known}
    for one, pool in pools.items():
        if pool and rng.random() < 0.25:
            values[one] = pool[rng.integers(len(pool))]
    wrong = None
    if rng.random() < 0.3:
        allowed = [one for one, what in known.items() if one not in KEPT and what.kind is not what.VAR_KEYWORD]
        if allowed:
            wrong = allowed[rng.integers(len(allowed))]
            values[wrong] = WRONG[rng.integers(len(WRONG))]
            if wrong in WORK and isinstance(values[wrong], int | float) and values[wrong] in HUGE:
                values[wrong] = -1
    return Arguments(values, wrong)


FIRST = ("adata", "scores", "table", "comparison", "image", "folder")
QUIET = {"device": "cpu", "show_progress_bar": False}
