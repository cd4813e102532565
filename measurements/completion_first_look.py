"""SpaCKLE, the adaptive median and the gene mean on hidden entries of the two organoid sets.

Needs the sections of Gracia Villacampa et al. (2021) in `$SPARED_SC_DATA_DIR/villacampa`.

    python measurements/completion_first_look.py                  the table, about ten minutes on two cores
    python measurements/completion_first_look.py --feedforward    width of the feed-forward part against time
"""

from __future__ import annotations

import argparse
import time

import torch
from sections import ORGANOIDS, read

import spared_sc as sp


def table() -> None:
    """Error on hidden entries, with and without SpaRED's split."""
    print("| set | trained on | scored on | hidden entries | SpaCKLE | adaptive median | gene mean | steps | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
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
            print(
                f"| {name} | {where[0]} | {where[1]} | {score['n_entries']:,} | {score['spackle']:.3f} "
                f"| {score['median']:.3f} | {score['gene_mean']:.3f} "
                f"| {training['step'][-1]:,} (best {training['best_step']}) | {seconds:.0f} |",
                flush=True,
            )


def feedforward(n_steps: int = 100) -> None:
    """What a wider feed-forward part costs and gives."""
    adata = read("VLO")
    print(f"VLO, {n_steps} steps")
    print("| feed-forward width | weights | seconds per step | lowest validation MSE | training MSE at the end |")
    print("|---|---|---|---|---|")
    for width in (128, 256, 512, 2048):
        start = time.perf_counter()
        done = sp.tl.spackle_complete(
            adata, model="paper", library_key="library_id", n_steps=n_steps, feedforward=width, copy=True
        )
        seconds = (time.perf_counter() - start) / n_steps
        record = done.uns["spared_sc"]["spackle"]
        training = record["training"]
        print(
            f"| {width} | {record['n_parameters']:,} | {seconds:.3f} | {training['validation_mse'].min():.3f} "
            f"| {training['train_mse'][-1]:.3f} |",
            flush=True,
        )


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--feedforward", action="store_true", help="vary the width of the feed-forward part")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, cuda: {torch.cuda.is_available()}")
    feedforward() if options.feedforward else table()


if __name__ == "__main__":
    main()
