"""All predictors on real sections, on the same features: scores, seconds and memory.

    python measurements/zoo.py                       every set and model, on embeddings; an hour on one core
    python measurements/zoo.py --sets VLO --models ridge histogene
    python measurements/zoo.py --patches             HER2+ C2 to C5, from patches with an EfficientNet; an hour on one core

Sections are predicted by fits to the other sections of a set, networks choose their step on one of these. B4 is a section of
another patient than C2 to C5, which are trained on. Each half of the colon is predicted by a fit to the other. The
sizes of the networks are those of `SMALL`: published ones are for a GPU. Nothing was chosen by these scores.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _results
import anndata as ad
import numpy as np
from prediction import colon, her2
from sections import ORGANOIDS, _raw

import spared_sc as sp

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = {"library_key": "library_id"}
SIZES = (1, 3, 6)  # of a patch, in spot diameters
REPS = {"classical": "X_classical", "efficientnet-lite0": "X_efficientnet-lite0"}
STEPS = {"n_steps": 300, "validate_every": 20, "learning_rate": 1e-3, "delta": True}
SIZE = {"width": 128, "depth": 2, "n_heads": 2, "feedforward": 256}
SMALL: dict[str, dict[str, Any]] = {
    "gene_mean": {},
    "position_only": {},
    "ridge": {},
    "knn": {},
    "head": {**STEPS},
    "bleep": {**STEPS},
    "egn": {**STEPS, **SIZE, "warmup_steps": 30},
    "eggn": {**STEPS, "width": 128},
    "sepal": {**STEPS, "first_steps": 300, "first_rate": 1e-3, "first_width": 128, "width": 128},
    "histogene": {**STEPS, **SIZE},
    "hist2st": {**STEPS, **SIZE},
    "hggep": {**STEPS, **SIZE},
}
SHORT = {"HER2+ C2-C5": "c", "HER2+ B4": "b4", "VLO": "vlo", "VKO": "vko", "MOB": "mob", "mouse colon": "colon"}
DEFAULT = ("ridge", "classical")
WITHOUT = ("gene_mean", "position_only")  # features
LITE = "timm:tf_efficientnet_lite0"
PATCH = {"size": 3, "output_size": 112}  # in spot diameters, and in pixels
FEW = {"n_steps": 60, "validate_every": 10, "learning_rate": 1e-3, "delta": True}
ON_PATCHES: dict[str, dict[str, Any]] = {
    "ridge": {},
    "shufflenet": {**FEW, "backbone": LITE, "train_batch_size": 32},
    "stnet": {**FEW, "backbone": LITE, "train_batch_size": 32},
    "bleep": {**FEW, "backbone": LITE, "train_batch_size": 64, "loss_chunk": 64},
    "egn": {**FEW, **SIZE, "encoder": LITE, "image_size": 128, "train_batch_size": 32, "warmup_steps": 6},
    "eggn": {**FEW, "encoder": LITE, "image_size": 128, "width": 128},
    "sepal": {
        **{**FEW, "n_steps": 300, "image_size": 112, "backbone": LITE, "width": 128},
        **{"first_steps": 60, "first_rate": 1e-3, "first_width": 128, "train_batch_size": 32},
    },
    "histogene": {**FEW, **SIZE, "n_steps": 300},
    "hist2st": {**FEW, **SIZE, "width": 512, "channels": 8, "n_copies": 2},
    "hggep": {**FEW, **SIZE, "depth": 1, "n_copies": 2, "weights": "random"},
}
PATCHES = "EfficientNet-Lite0"  # in place of the features' name


def her2_other() -> ad.AnnData:
    """A section of patient B, predicted by those of patient C."""
    adata = sp.datasets.her2st(["B4", "C2", "C3", "C4", "C5"], images=True)
    part = {"B4": "test", "C5": "val"}
    adata.obs["split"] = [part.get(str(name), "train") for name in adata.obs["library_id"]]
    sp.pp.recipe_spared(adata, **KEY)
    return adata


def others(name: str) -> ad.AnnData:
    """All sections of a set, each predicted by the others."""
    adata = _raw(name)
    sp.pp.recipe_spared(adata, **KEY)
    return adata


def halves() -> ad.AnnData:
    """The colon, with the 128 genes that most spots of the left half detect."""
    adata = colon()
    adata.obs["library_id"] = adata.obs["half"]
    del adata.obs["split"]
    detected = np.asarray((adata[adata.obs["half"] == "left"].X > 0).sum(axis=0)).ravel()
    adata.var["spared_selected"] = np.isin(np.arange(adata.n_vars), np.argsort(-detected, kind="stable")[:128])
    return adata


SETS: dict[str, Callable[[], ad.AnnData]] = {
    "HER2+ C2-C5": her2,
    "HER2+ B4": her2_other,
    **{name: lambda name=name: others(name) for name in (*ORGANOIDS, "MOB")},
    "mouse colon": halves,
}


def prepare(name: str, folder: Path) -> None:
    """Write a set with both embeddings."""
    adata = SETS[name]()
    for encoder, key in REPS.items():
        sp.tl.embed_patches(adata, encoder=encoder, size=SIZES, key_added=key, **KEY)
    adata.write_h5ad(folder / f"{name}.h5ad")


def one(folder: Path, name: str, model: str, features: str) -> dict[str, Any]:
    """Scores, CPU seconds and memory of a model on a set, in this process."""
    adata = ad.read_h5ad(folder / f"{name}.h5ad")
    if features == PATCHES:
        sp.pp.extract_patches(adata, **PATCH, **KEY)
    if features == PATCHES and model == "ridge":
        sp.tl.embed_patches(adata, encoder="efficientnet-lite0", key_added=PATCHES, **KEY)
    start = time.process_time()
    sp.tl.predict_expression(
        adata,
        model=model,
        use_rep=PATCHES if features == PATCHES and model == "ridge" else REPS.get(features),
        model_params=(ON_PATCHES if features == PATCHES else SMALL)[model],
        key_added="predicted",
        show_progress_bar=False,
        subject_key="subject" if name == "MOB" else None,
        **KEY,
    )
    row = {"set": name, "model": model, "features": features, "cpu": time.process_time() - start}
    scores = sp.get.prediction_summary(sp.tl.score_prediction(adata, "predicted", **KEY)).loc["predicted"]
    spared = sp.get.prediction_summary(sp.tl.score_prediction(adata, "predicted", protocol="spared", **KEY))
    row |= {metric: scores.get(metric) for metric in ("d2", "pcc_given_depth", "pcc")}
    row |= {f"spared_{metric}": spared.loc["predicted", metric] for metric in ("mse", "pcc")}
    return row | {"gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def kept(table: str) -> list[dict[str, Any]]:
    """Rows so far."""
    try:
        return _results.read(table)
    except (FileNotFoundError, KeyError):
        return []


def main() -> None:
    """Each model in a process of its own; what is there already stays."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--models", nargs="+", choices=sorted({*SMALL, *ON_PATCHES}))
    parser.add_argument("--features", nargs="+", default=list(REPS), choices=list(REPS))
    parser.add_argument("--patches", action="store_true", help="networks on patches, of the first set")
    parser.add_argument("--folder", type=Path, help="where prepared sets are kept")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(one(Path(options.one[0]), *options.one[1:])))
        return
    table, models = ("zoo.patches", ON_PATCHES) if options.patches else ("zoo.embeddings", SMALL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        for name in list(SETS)[:1] if options.patches else options.sets:
            if not (folder / f"{name}.h5ad").exists():
                prepare(name, folder)
            for model in options.models or models:
                for features in [PATCHES] if options.patches else ["none"] if model in WITHOUT else options.features:
                    add(table, folder, name, model, features)
    if not options.patches:
        summarise()


def summarise() -> None:
    """A row per model and features over all sets; and for every set the model that is best on the other sets."""
    import pandas as pd

    rows = pd.DataFrame(kept("zoo.embeddings"))
    pcc, d2 = (
        rows.pivot_table(index=["model", "features"], columns="set", values=metric, dropna=False).dropna()
        for metric in ("pcc_given_depth", "d2")
    )
    models = []
    for key in sorted(pcc.index, key=lambda key: -pcc.loc[key].mean()):
        row = {"model": key[0], "features": key[1], "pcc_given_depth": pcc.loc[key].mean(), "d2": d2.loc[key].mean()}
        ridge = ("ridge", key[1])
        if ridge in pcc.index and key != ridge:
            row |= {"above_pcc": int((pcc.loc[key] > pcc.loc[ridge]).sum())}
            row |= {"above_d2": int((d2.loc[key] > d2.loc[ridge]).sum()), "sets": pcc.shape[1]}
        row["cpu"] = rows.set_index(["model", "features"]).loc[key, "cpu"].sum()
        models.append(row | {f"pcc_{SHORT[name]}": pcc.loc[key, name] for name in pcc})
    _results.write("zoo.models", models)
    chosen = []
    for name in pcc:
        best = pcc.drop(columns=name).rank().mean(axis=1).idxmax()
        row = {"set": name, "model": best[0], "features": best[1]}
        row |= {"pcc_given_depth": pcc.loc[best, name], "d2": d2.loc[best, name]}
        chosen.append(row | {"ridge_pcc": pcc.loc[DEFAULT, name], "ridge_d2": d2.loc[DEFAULT, name]})
    _results.write("zoo.chosen", chosen)


def add(table: str, folder: Path, *what: str) -> None:
    """Add the row of a set, model and features, from a process of its own."""
    command = [sys.executable, __file__, "--one", str(folder), *what]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row = json.loads(ran.stdout.splitlines()[-1])
    print({key: f"{x:.3g}" if isinstance(x, float) else x for key, x in row.items()}, flush=True)
    others = [old for old in kept(table) if (old["set"], old["model"], old["features"]) != what]
    _results.write(table, [*others, row])


if __name__ == "__main__":
    main()
