"""The default completion beside an earlier version of it: accuracy and cost in one run, one thread each.

    git worktree add ../before COMMIT
    python measurements/count_model.py --before ../before           nine sets: error on hidden entries, deviance, CPU seconds
    python measurements/count_model.py --before ../before --costs   CPU seconds and memory at 2,000 and 44,000 spots
    python measurements/count_model.py --seeds                      agreement of five seeds, and of shuffled data
    python measurements/count_model.py --busy                       seconds beside a busy process, with and without limits

Each version runs in a process of its own, the two in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import _results
import numpy as np
from sections import SETS, TITLES, read

import spared_sc as sp

NINE = tuple(name for name in SETS if name != "embryo")
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
HERE = Path(__file__).parent


def score(name: str, seed: int) -> dict[str, Any]:
    """Accuracy and CPU seconds of the default in this process, on masks that depend on the data alone."""
    from spared_sc._core.compute import Compute
    from spared_sc._kernels.hidden_entries import Mask, Truth
    from spared_sc._kernels.masking import REGIMES
    from spared_sc._models.completion.registry import COMPLETERS

    truth = Truth(_sections(read(name)), np.random.default_rng([0, len(REGIMES)]))
    result: dict[str, float] = {"cpu": 0.0}
    for regime in (next(iter(REGIMES)), "thinning"):  # detected entries, whatever the version calls that
        mask = Mask(regime, REGIMES[regime], 0)
        task = truth.hide(regime, mask.share, mask.generator(0))
        start = time.process_time()
        estimate = COMPLETERS.make("counts", {}).complete(
            task.visible, Compute(device="cpu", seed=seed, show_progress_bar=False)
        )
        result["cpu"] += (time.process_time() - start) / 2
        scores = [score for score in task.scores(estimate) if score.genes == "all" and score.library >= 0]
        for metric in ("mse", "crps", "coverage_90", "deviance"):
            values = [score.value for score in scores if score.metric == metric]
            if values:
                result[metric] = float(np.mean(values))
    return result


def _sections(adata: Any) -> Any:
    """Sections with the genes in the order of the data, whatever order the version takes, so that all hide the same."""
    from dataclasses import replace

    from spared_sc.tl._resolve import resolve

    found = resolve(adata, layer="log2tpm", mask_var="spared_selected", library_key="library_id", spatial_key="spatial")
    order, sections = np.argsort(found.genes), found.sections
    counts = replace(sections.counts, values=sections.counts.values[:, order].copy())
    values, known = sections.values[:, order].copy(), sections.known[:, order].copy()
    return replace(sections, values=values, known=known, counts=counts)


def run(source: Path, *arguments: str, limits: bool = True, script: str = "count_model.py") -> dict[str, Any]:
    """A part of this script, or of another, with the package of a checkout."""
    environment = {key: value for key, value in os.environ.items() if key not in THREADS}
    environment |= dict.fromkeys(THREADS, "1") if limits else {}
    environment["PYTHONPATH"] = str(source / "src")
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def compare(before: Path, names: list[str], kept: Path) -> None:
    """Both versions on every set, the new one with three seeds; rows of other sets stay.

    What the earlier version gave is kept in a file, and not measured again.
    """
    rows = [row for row in _results.read("count_model.sets") if row["set"] not in names]
    earlier = json.loads(kept.read_text()) if kept.exists() else {}
    for name in names:
        if name not in earlier:
            earlier[name] = run(before, "--score", name, "0")
            kept.write_text(json.dumps(earlier))
        old, new = earlier[name], [run(HERE.parent, "--score", name, str(seed)) for seed in range(3)]
        row = {"set": name, "title": TITLES[name]}
        row |= {f"{key}_before": value for key, value in old.items()} | new[0]
        row |= {f"{key}_ratio": new[0][key] / old[key] for key in ("mse", "crps", "deviance")}
        row |= {f"{key}_spread": float(np.std([one[key] for one in new]) / old[key]) for key in ("mse", "deviance")}
        row["speed"] = old["cpu"] / new[0]["cpu"]
        rows = sorted([*rows, row], key=lambda row: NINE.index(row["set"]))
        _results.write("count_model.sets", rows)  # an interrupted run keeps what it has
    means = {key: float(np.exp(np.mean(np.log([row[key] for row in rows])))) for key in (
        "mse_ratio", "crps_ratio", "deviance_ratio", "speed"
    )}  # fmt: skip
    _results.write("count_model.mean", [means])


def costs(before: Path, kept: Path) -> None:
    """Both versions on made-up sections; what the earlier one took is kept."""
    rows = []
    earlier = json.loads(kept.read_text()) if kept.exists() else {}
    for n_spots, n_genes in ((2_000, 128), (44_000, 128)):
        arguments = "--one", "counts", str(n_spots), str(n_genes)
        if f"{n_spots} x {n_genes}" not in earlier:
            earlier[f"{n_spots} x {n_genes}"] = run(before, *arguments, script="completion.py")
            kept.write_text(json.dumps(earlier))
        old, new = earlier[f"{n_spots} x {n_genes}"], run(HERE.parent, *arguments, script="completion.py")
        row = {"spots": new["spots"], "genes": n_genes, "cpu": new["cpu"], "cpu_before": old["cpu"]}
        rows.append(row | {"speed": old["cpu"] / new["cpu"], "peak_gib": new["peak_gib"]})
        print(rows[-1], flush=True)
    _results.write("count_model.costs", rows)


def seeds(names: list[str]) -> None:
    """Correlation within genes of the logarithms of expected counts over depth, between seeds and after shuffling."""
    rows = []
    for name in names:
        adata = read(name)
        first, *others = (_log_share(adata, seed) for seed in range(5))
        rng = np.random.default_rng(0)
        shuffled = adata[rng.permutation(adata.n_obs), rng.permutation(adata.n_vars)].copy()
        names_first = adata.var_names[adata.var["spared_selected"]]
        order = shuffled.var_names[shuffled.var["spared_selected"]].get_indexer(names_first)
        back = _log_share(shuffled, 0)[shuffled.obs_names.get_indexer(adata.obs_names)][:, order]
        between = np.min([_within_genes(first, other) for other in others], axis=0)
        moved = _within_genes(first, back)
        row = {"set": name, "seeds_median": np.median(between), "seeds_worst": between.min()}
        rows.append(row | {"shuffled_median": np.median(moved), "shuffled_worst": moved.min()})
        print(rows[-1], flush=True)
    _results.write("count_model.seeds", rows)


def _log_share(adata: Any, seed: int) -> np.ndarray:
    result = sp.tl.complete(
        adata,
        method="counts",
        library_key="library_id",
        random_state=seed,
        n_jobs=1,
        show_progress_bar=False,
        copy=True,
    )
    rate = result.layers["spackle_rate"][:, result.var["spared_selected"].to_numpy()].toarray()
    return np.log(rate / np.asarray(result.X.sum(axis=1)).reshape(-1, 1))


def _within_genes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one - one.mean(axis=0), other - other.mean(axis=0)
    return (one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))


def busy(names: list[str]) -> None:
    """Wall seconds of a completion with default settings beside one busy process: medians of four runs, in turn."""
    rows = []
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        for name in names:
            run(HERE.parent, "--time", name)  # compiles what is not in the cache yet
            pairs = [
                {column: run(HERE.parent, "--time", name, limits=column == "one")["seconds"] for column in order}
                for order in (("unset", "one"), ("one", "unset")) * 2
            ]
            times = {column: float(np.median([pair[column] for pair in pairs])) for column in ("unset", "one")}
            rows.append({"set": name, **times})
            print(rows[-1], flush=True)
    finally:
        loop.kill()
    _results.write("count_model.busy", rows)


def main() -> None:
    """Run what is asked for."""
    warnings.simplefilter("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier version")
    parser.add_argument("--kept", type=Path, default=Path("count_model_before.json"), help="scores of that version")
    parser.add_argument("--sets", nargs="+", default=list(NINE))
    for flag in ("costs", "seeds", "busy"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--score", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--time", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.score:
        print(json.dumps(score(options.score[0], int(options.score[1]))))
    elif options.time:
        adata = read(options.time)
        start = time.perf_counter()
        sp.tl.complete(adata, method="counts", library_key="library_id", show_progress_bar=False)
        print(json.dumps({"seconds": time.perf_counter() - start}))
    elif options.seeds:
        seeds(options.sets)
    elif options.busy:
        busy(options.sets)
    elif options.before is None:
        parser.error("--before is needed: a checkout of the version to compare with")
    elif options.costs:
        costs(options.before.resolve(), options.kept)
    else:
        compare(options.before.resolve(), options.sets, options.kept)


if __name__ == "__main__":
    main()
