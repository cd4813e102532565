"""Completion on real sections: accuracy of every method, and what each costs.

    python measurements/completion.py                     accuracy on all sets; a set takes minutes to a quarter of an hour
    python measurements/completion.py --tables            the tables of the documentation from the scores so far
    python measurements/completion.py --others SET ...    MAGIC, ALRA and SME beside the default
    python measurements/completion.py --speed             seconds and memory of every method, 2,000 spots x 128 genes
    python measurements/completion.py --growth            the same of the default, 1,000 to 100,000 spots, 32 to 5,000 genes
    python measurements/completion.py --paper-steps       10,000 training steps of the paper's model on the device at hand

Scores go to one CSV file per set and regime in `--out`; what is there is not computed again. The default completer was
tuned on the sets VKO, HER2_C and prostate; the others had no part in it.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sections import SETS, read

import spared_sc as sp

TUNED_ON = ("VKO", "HER2_C", "prostate")
REGIMES = ("paper", "released", "spots", "blocks", "thinning")
MODELS = ("residual", "factor")
SHOWN = ("median", "gene_mean", "depth_only", "additive", "soft_impute_kernel", "ridge", "stack", "factor", "residual")


def score(name: str, regime: str, n_masks: int, out: Path) -> None:
    """Scores of one set in one regime."""
    file = out / f"{name}_{regime}.csv"
    if file.exists():
        return
    adata = read(name)
    methods = [*_baselines(), *MODELS]
    start = time.perf_counter()
    scores = sp.tl.evaluate_completion(
        adata, methods=methods, regimes=regime, n_masks=n_masks, library_key="library_id", subject_key="subject"
    )
    scores.insert(0, "set", name)
    out.mkdir(parents=True, exist_ok=True)
    scores.to_csv(file.with_suffix(".part"), index=False)
    file.with_suffix(".part").rename(file)
    print(f"{name} {regime}: {time.perf_counter() - start:.0f} s", flush=True)


def others(name: str, n_masks: int, out: Path) -> None:
    """Scores of the methods of other packages, SME on classical features of the image, beside the best simple one."""
    file = out / f"others_{name}.csv"
    if file.exists():
        return
    adata = read(name)
    sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    scores = sp.tl.evaluate_completion(
        adata,
        methods=["gene_mean", "stack", "alra", "magic", "sme", "residual"],
        regimes="paper",
        n_masks=n_masks,
        use_rep="X_classical",
        library_key="library_id",
        subject_key="subject",
    )
    scores.insert(0, "set", name)
    scores.to_csv(file, index=False)
    print(_mean(scores, "mse").round(3).to_string(), flush=True)


def curve(name: str, n_masks: int, out: Path) -> None:
    """Scores of one set at hidden shares from 10 to 70 %."""
    file = out / f"curve_{name}.csv"
    if file.exists():
        return
    scores = sp.tl.evaluate_completion(
        read(name),
        methods=list(SHOWN),
        regimes="paper",
        shares=(0.1, 0.3, 0.5, 0.7),
        n_masks=n_masks,
        library_key="library_id",
        subject_key="subject",
    )
    scores.insert(0, "set", name)
    scores.to_csv(file, index=False)


def tables(out: Path) -> None:
    """Markdown from the scores."""
    scores = pd.concat(
        [pd.read_csv(file) for file in sorted(out.glob("*.csv")) if not file.name.startswith(("curve_", "others_"))]
    )
    _error_table(scores)
    _comparison(scores[scores["regime"] != "thinning"], "mse")
    held_out = scores[(scores["regime"] != "thinning") & ~scores["set"].isin(TUNED_ON)]
    print("\nOn sets that had no part in tuning:")
    _comparison(held_out, "mse", only_all=True)
    _comparison(scores[scores["regime"] == "thinning"], "deviance")
    _calibration(scores)
    _intervals(scores)


def _mean(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means over masks, then over libraries."""
    part = scores[(scores["metric"] == metric) & (scores["genes"] == "all") & (scores["library"] != "all")]
    by = ["regime", "set", "method"]
    return part.groupby([*by, "library"])["value"].mean().groupby(by).mean().unstack("method")


def _error_table(scores: pd.DataFrame) -> None:
    errors = _mean(scores[scores["regime"] != "thinning"], "mse")
    columns = [name for name in (*SHOWN, "floor_low", "floor_high") if name in errors]
    print(f"\n| regime | set | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    for (regime, name), row in errors[columns].iterrows():
        print(f"| {regime} | {name} | {' | '.join(f'{value:.3f}' for value in row)} |")


def _comparison(scores: pd.DataFrame, metric: str, *, only_all: bool = False) -> None:
    table = sp.get.compare_completions(scores, metric=metric)
    print(f"\n| regime | set | best baseline | {metric} ratio | 95 % interval | excess removed, floor low to high |")
    print("|---|---|---|---|---|---|")
    for row in table.itertuples():
        if only_all and row.set != "all":
            continue
        interval = "one section" if row.descriptive else f"{row.ratio_lower:.3f} to {row.ratio_upper:.3f}"
        low, high = row.excess_removed_floor_low, row.excess_removed_floor_high
        excess = "" if np.isnan(low) else f"{low:.0%} to {high:.0%}"
        print(f"| {row.regime} | {row.set} | {row.baseline} | {row.ratio:.3f} | {interval} | {excess} |")


def _calibration(scores: pd.DataFrame) -> None:
    part = scores[(scores["method"] == "residual") & scores["metric"].str.startswith("calibration")]
    part = part[part["genes"] == "all"]
    if part.empty:
        return
    print("\n| set | held-out / expected counts, deciles 1 to 10 |\n|---|---|")
    for name, group in part.groupby("set"):
        by_decile = group.groupby(group["metric"].str.extract(r"(\d+)$")[0].astype(int))["value"].mean()
        print(f"| {name} | {' '.join(f'{value:.2f}' for value in by_decile)} |")


def _intervals(scores: pd.DataFrame) -> None:
    crps, constant, coverage = (_mean(scores, metric) for metric in ("crps", "crps_constant", "coverage_90"))
    if "residual" not in crps:
        return
    print("\n| regime | set | CRPS | with the best constant width | coverage of 90 % |\n|---|---|---|---|---|")
    for place in crps["residual"].dropna().index:
        values = [table.loc[place, "residual"] for table in (crps, constant, coverage)]
        print(f"| {place[0]} | {place[1]} | {values[0]:.3f} | {values[1]:.3f} | {values[2]:.1%} |")


def _baselines() -> list[str]:
    from spared_sc._kernels.baselines import BASELINES

    return [name for name in BASELINES if name not in ("sme", "magic", "alra")]


# --- costs ------------------------------------------------------------------------------------------------------------


def one(method: str, n_spots: int, n_genes: int) -> None:
    """Time and peak memory of one method in this process, as JSON."""
    from spared_sc.tl._completers import complete, make_run
    from spared_sc.tl._sections import resolve

    warnings.simplefilter("ignore")
    side = int(np.ceil(np.sqrt(min(n_spots, 2_000))))
    run = make_run(0, show_progress_bar=False)

    def sections(n_libraries: int, side: int, n_genes: int):
        adata = sp.datasets.synthetic(n_libraries, n_genes, shape=(side, side), depth=5.0 * n_genes, image=False)
        sp.pp.normalize_tpm(adata, gene_lengths=None)
        where = {"layer": "log2tpm", "mask_var": None, "library_key": "library_id", "spatial_key": "spatial"}
        return resolve(adata, **where).sections

    complete(method, sections(1, 8, 16), run)  # numba compiles once per machine; that is not what is measured
    given = sections(max(1, round(n_spots / side**2)), side, n_genes)
    before = _peak()
    start, start_cpu = time.perf_counter(), time.process_time()
    complete(method, given, run)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    print(json.dumps({"spots": len(given.known), **seconds, "before": before, "peak": _peak()}))


def _peak() -> float:
    """Highest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def costs(methods: list[str], sizes: list[tuple[int, int]]) -> None:
    """A line per method and size, each in a process of its own."""
    print(
        "| method | spots | genes | seconds | CPU seconds | peak GiB | of that before |\n|---|---|---|---|---|---|---|",
        flush=True,
    )
    for n_spots, n_genes in sizes:
        for method in methods:
            command = [sys.executable, __file__, "--one", method, str(n_spots), str(n_genes)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            print(
                f"| {method} | {done['spots']:,} | {n_genes:,} | {done['seconds']:.1f} | {done['cpu']:.1f} "
                f"| {done['peak']:.2f} "
                f"| {done['before']:.2f} |",
                flush=True,
            )


def paper_steps(n_steps: int = 10_000) -> None:
    """The training steps of the paper, without early stopping; on a processor a tenth of them, scaled."""
    import torch

    n_steps = n_steps if torch.cuda.is_available() else n_steps // 100
    adata = read("VLO")
    start = time.perf_counter()
    sp.tl.spackle_complete(adata, model="paper", library_key="library_id", n_steps=n_steps, patience=n_steps)
    seconds = (time.perf_counter() - start) * 10_000 / n_steps
    device = adata.uns["spared_sc"]["spackle"]["device"]
    print(f"{n_steps:,} steps at batch 256 on {device}: 10,000 take {seconds:,.0f} s")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES))
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("completion_scores"))
    parser.add_argument("--others", nargs="+", default=[], metavar="SET", help="methods of other packages instead")
    parser.add_argument("--curve", nargs="+", default=[], metavar="SET", help="hidden shares from 10 to 70 %% instead")
    for flag in ("tables", "speed", "growth", "paper-steps"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]), int(options.one[2]))
    elif options.speed:
        costs([*_baselines(), *MODELS, "paper"], [(2_000, 128)])
    elif options.growth:
        spots = [(n, 128) for n in (1_000, 4_000, 16_000, 44_000, 100_000)]
        costs(["residual"], spots + [(1_000, n) for n in (32, 128, 512, 2_000, 5_000)])
    elif options.paper_steps:
        paper_steps()
    elif options.tables:
        tables(options.out)
    elif options.curve or options.others:
        options.out.mkdir(parents=True, exist_ok=True)
        for name in options.others:
            others(name, options.masks, options.out)
        for name in options.curve:
            curve(name, options.masks, options.out)
    else:
        for regime in options.regimes:
            for name in options.sets:
                score(name, regime, options.masks, options.out)


if __name__ == "__main__":
    main()
