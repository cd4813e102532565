"""Section models on whole sections, on tiles with a rim of context, and on plain quarters: memory, time and difference.

    python measurements/tiles.py                       VLO, and made-up sections of 5,000 and 20,000 spots; half an hour on one core
    python measurements/tiles.py --sets VLO --models histogene

Each model is trained for a few steps on an embedding in each of the three ways, in a process of its own: the memory is the
highest of that process, less that before. The difference is that of predictions by one model, trained on whole sections:
its root mean square over the standard deviation of the gene in the whole-section prediction, median over genes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from typing import TYPE_CHECKING, Any

import _results
import numpy as np
from sections import read

import spared_sc as sp

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots

MADE_UP = {"5,000": (71, 71), "20,000": (142, 142)}  # rows and columns
SETS = ("VLO", *MADE_UP)
HALO = 4
SMALL: dict[str, Any] = {"width": 128, "depth": 2, "n_heads": 2, "feedforward": 256}
MODELS: dict[str, dict[str, Any]] = {
    "histogene": SMALL,
    "hist2st": SMALL,
    "hggep": SMALL,
    "eggn": {"width": 128},
}
STEPS = 20
COLUMNS = ("set", "model", "way", "spots", "train_cpu", "gib", "predict_cpu", "gap_tiles", "gap_quarters")


def spots_of(name: str) -> tuple[Spots, Spots]:
    """Two training sections and one to predict."""
    from dataclasses import replace

    from spared_sc._core.validate import get_libraries
    from spared_sc.tl._task import get_spots

    if name == "VLO":
        adata = read("VLO")
        sp.tl.embed_patches(adata, encoder="classical", library_key="library_id", show_progress_bar=False)
    else:
        adata = sp.datasets.synthetic(3, 128, shape=MADE_UP[name], image=False)
        sp.pp.normalize_tpm(adata, gene_lengths=None)
        rng = np.random.default_rng(0)
        adata.obsm["X_classical"] = adata.obsm["programs"] @ rng.normal(size=(adata.obsm["programs"].shape[1], 64))
        adata.var["spared_selected"] = True
    genes = adata.var["spared_selected"].to_numpy()
    libraries = get_libraries(adata, "library_id")
    needs = ("embedding", "place", "lattice")
    spots = get_spots(adata, libraries, needs, spatial_key="spatial", use_rep="X_classical")
    block = {"target": adata.layers["log2tpm"][:, genes], "counts": adata.X[:, genes]}
    spots = replace(spots, **{key: value.toarray().astype(np.float32) for key, value in block.items()})
    return spots.take(np.flatnonzero(spots.library < 2)), spots.take(np.flatnonzero(spots.library == 2))


def ways(n_spots: int) -> dict[str, dict[str, Any]]:
    """How a section is cut."""
    quarter = -(-n_spots // 4) + 1
    return {
        "whole": {"most_spots": None},
        "tiles": {"most_spots": quarter, "halo": HALO},
        "quarters": {"most_spots": quarter, "halo": 0},
    }


def one(name: str, model: str, way: str) -> dict[str, Any]:
    """Cost of training and prediction in one of the ways, and how far the others are from the whole section."""
    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.registry import PREDICTORS

    train, test = spots_of(name)
    compute = Compute(device="cpu", show_progress_bar=False)
    cut = ways(max(np.bincount(train.library).max(), len(test)))
    predictor = PREDICTORS.make(model, {**MODELS[model], **cut[way], "n_steps": STEPS, "validate_every": STEPS})
    row: dict[str, Any] = dict.fromkeys(COLUMNS) | {"set": name, "model": model, "way": way, "spots": len(test)}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.process_time()
    predictor.fit(train, None, compute)
    row |= {"train_cpu": (time.process_time() - start) / STEPS, "gib": _more(before)}
    start = time.process_time()
    whole = predictor.predict(test, compute)
    row["predict_cpu"] = time.process_time() - start
    if way == "whole":
        for other in ("tiles", "quarters"):
            predictor.most_spots, predictor.halo = cut[other]["most_spots"], cut[other]["halo"]
            gap = predictor.predict(test, compute) - whole
            row[f"gap_{other}"] = float(np.median(np.sqrt((gap**2).mean(axis=0)) / whole.std(axis=0)))
    return row


def _more(before: int) -> float:
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20


def main() -> None:
    """Every set, model and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.one:
        print(json.dumps(one(*options.one)))
        return
    rows = []
    for name in options.sets:
        for model in options.models:
            for way in ways(1):
                command = [sys.executable, __file__, "--one", name, model, way]
                ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
                failed = dict.fromkeys(COLUMNS) | {"set": name, "model": model, "way": way}
                rows.append(json.loads(ran.stdout.splitlines()[-1]) if ran.returncode == 0 else failed)
                print(rows[-1], flush=True)
            _results.write("tiles.embeddings", rows)


if __name__ == "__main__":
    main()
