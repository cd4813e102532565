"""SpaCKLE, the adaptive median and the gene mean on hidden entries of the two organoid sets.

Needs the sections of Gracia Villacampa et al. (2021) in `$SPARED_SC_DATA_DIR/villacampa`.

    python measurements/completion_first_look.py                  the table, about ten minutes on two cores
    python measurements/completion_first_look.py --feedforward    width of the feed-forward part against time
"""

from __future__ import annotations

import argparse
import time

import _results
from sections import ORGANOIDS, read

import spared_sc as sp


def table() -> None:
    """Error on hidden entries, with and without SpaRED's split."""
    rows = []
    for name in ORGANOIDS:
        for with_split in (False, True):
            adata = read(name, with_split=with_split)
            start = time.perf_counter()
            sp.tl.spackle_complete(adata, model="paper", library_key="library_id")
            seconds = time.perf_counter() - start
            record = adata.uns["spared_sc"]["spackle"]
            score = record["score"]
            held_out = "test section" if "test" in set(adata.obs.get("split", [])) else "validation section"
            where = ("train sections", held_out) if with_split else ("all sections",) * 2
            training = record["training"]
            row = {"set": name, "trained_on": where[0], "scored_on": where[1], "n_entries": score["n_entries"]}
            row |= {"spackle": score["paper"], "median": score["median"], "gene_mean": score["gene_mean"]}
            row |= {"removed": 1 - score["paper"] / score["median"], "best_step": training["best_step"]}
            rows.append({**row, "steps": training["step"][-1], "seconds": seconds})
    _results.write("completion_first_look.table", rows)


def feedforward(n_steps: int = 100) -> None:
    """Cost and error of a wider feed-forward part, over a hundred steps on VLO."""
    adata = read("VLO")
    rows = []
    for width in (128, 256, 512, 2048):
        start = time.perf_counter()
        params = {"n_steps": n_steps, "feedforward": width}
        done = sp.tl.spackle_complete(adata, model="paper", model_params=params, library_key="library_id", copy=True)
        seconds = (time.perf_counter() - start) / n_steps
        record = done.uns["spared_sc"]["spackle"]
        training = record["training"]
        row = {"width": width, "weights": record["n_parameters"], "seconds_per_step": seconds}
        errors = {"validation_mse": training["validation_mse"].min(), "train_mse": training["train_mse"][-1]}
        rows.append({**row, **errors})
    _results.write("completion_first_look.feedforward", rows)


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feedforward", action="store_true", help="vary the width of the feed-forward part")
    options = parser.parse_args()
    feedforward() if options.feedforward else table()


if __name__ == "__main__":
    main()
