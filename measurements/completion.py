"""Completion on real sections: accuracy of every method, and what each costs.

    python measurements/completion.py                     accuracy on all sets; a set takes minutes to a quarter of an hour
    python measurements/completion.py --update                    the scores of the models anew, those of the others as they are
    python measurements/completion.py --tables            result tables from the scores so far
    python measurements/completion.py --others SET ...    MAGIC, ALRA and SME beside the default
    python measurements/completion.py --speed             seconds and memory of every method, 2,000 spots x 128 genes
    python measurements/completion.py --growth            the same of the default, 1,000 to 100,000 spots, 32 to 5,000 genes
    python measurements/completion.py --paper-steps       10,000 training steps of the paper's model on the device at hand

Scores go to one CSV file per set and regime in `--out`; existing files are not computed again. The default completer was
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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import _results
import numpy as np
import pandas as pd
from sections import SETS, TITLES, read

import spared_sc as sp

TUNED_ON = ("VKO", "HER2_C", "prostate")
REGIMES = ("detected", "released", "spots", "blocks", "thinning", "thinning_90")
SHARES = (0.1, 0.3, 0.5, 0.7)
MODELS = ("counts", "factor")
SHOWN = (
    "median",
    "gene_mean",
    "depth_only",
    "counts_at_depth",
    "additive",
    "soft_impute_kernel",
    "ridge",
    "stack",
    "counts",
)

WITH_RATES = ("gene_mean", "counts_at_depth", "neighbor_mean", "kernel", "soft_impute_kernel", "stack", "counts")
CONTROLS = ("no_denoising", "perfect_denoising")
AGREEMENT = ("deviance", "pcc_depth", "moran_error", "correlation_error")
LOSSES = ("mse_log", "poisson_loss")


def score(name: str, regime: str, n_masks: int, out: Path, *, update: bool = False) -> None:
    """Scores of one set in one regime; an `update` replaces those of the models."""
    file = out / f"{name}_{regime}.csv"
    if file.exists() != update:
        return
    adata = read(name)
    methods = [*MODELS] if update else [*_baselines(), *MODELS]
    start = time.perf_counter()
    scores = sp.tl.evaluate_completion(
        adata, methods=methods, regimes=regime, n_masks=n_masks, library_key="library_id", subject_key="subject"
    )
    scores.insert(0, "set", name)
    if update:
        before = pd.read_csv(file)
        scores = pd.concat([before[~before["method"].isin(MODELS)], scores[scores["method"].isin(MODELS)]])
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
    sp.tl.embed_patches(adata, encoder="classical", size=1, library_key="library_id")
    scores = sp.tl.evaluate_completion(
        adata,
        methods=["gene_mean", "stack", "alra", "magic", "sme", "counts"],
        regimes="detected",
        n_masks=n_masks,
        use_rep="X_classical",
        library_key="library_id",
        subject_key="subject",
    )
    scores.insert(0, "set", name)
    scores.to_csv(file, index=False)


def curve(name: str, n_masks: int, out: Path) -> None:
    """Scores of one set at hidden shares from 10 to 70 %."""
    file = out / f"curve_{name}.csv"
    if file.exists():
        return
    scores = sp.tl.evaluate_completion(
        read(name),
        methods=["gene_mean", "stack", "counts"],
        regimes="detected",
        shares=SHARES,
        n_masks=n_masks,
        library_key="library_id",
        subject_key="subject",
    )
    scores.insert(0, "set", name)
    scores.to_csv(file, index=False)


def tables(out: Path) -> None:
    """Result tables from the scores so far."""
    if (scores := _read(out, "others_")) is not None:
        _results.write("completion.others", _others(scores))
    if (scores := _read(out, "curve_")) is not None:
        _results.write("completion.curve", _curve(scores))
    if (scores := _read(out, "")) is None:
        return
    for name, regimes in {"errors": ("detected", "released"), "holes": ("spots", "blocks")}.items():
        part = scores[scores["regime"].isin(regimes)]
        if len(part):
            _results.write(f"completion.{name}", _errors(part))
            _results.write(f"completion.{name}_overall", _overall(part))
    if (scores["regime"] == "detected").any():
        _results.write("completion.count_model", _count_model(scores[scores["regime"] == "detected"]))
        hidden_entries = scores["regime"].isin(("detected", "released"))
        _results.write("completion.uncertainty", _uncertainty(scores[hidden_entries]))
    if (scores["regime"] == "thinning").any():
        halves = scores[scores["regime"] == "thinning"]
        _results.write("completion.expected_counts", _expected_counts(halves))
        _results.write("completion.agreement", _by_method(halves, AGREEMENT, WITH_RATES))
    if (scores["regime"] == "thinning_90").any():
        tenth = scores[scores["regime"] == "thinning_90"]
        _results.write("completion.open_problems", _by_method(tenth, LOSSES, (*CONTROLS, *WITH_RATES)))


def _read(out: Path, prefix: str) -> pd.DataFrame | None:
    """Scores of all files of a kind."""
    files = sorted(out.glob(f"{prefix}*.csv"))
    if not prefix:
        files = [file for file in files if not file.name.startswith(("curve_", "others_"))]
    return pd.concat([pd.read_csv(file) for file in files]) if files else None


def _others(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean squared error of the methods of other packages."""
    errors = _mean(scores, "mse").reset_index()
    return errors[["set", "magic", "alra", "sme", "gene_mean", "stack", "counts"]].to_dict("records")


def _curve(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean squared error by hidden share."""
    by_share = {f"hidden_{100 * share:.0f}": _mean(part, "mse") for share, part in scores.groupby("share")}
    table = pd.concat({name: errors.droplevel("regime").stack() for name, errors in by_share.items()}, axis=1)
    table = table.drop(index=["floor_low", "floor_high"], level=1, errors="ignore")
    return [
        {"set": name, "tuned": "*" if name in TUNED_ON else None, "method": method, **row}
        for (name, method), row in zip(table.index, table.to_dict("records"), strict=True)
    ]


def _mean(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Means over masks, then over libraries."""
    part = scores[(scores["metric"] == metric) & (scores["genes"] == "all") & (scores["library"] != "all")]
    by = ["regime", "set", "method"]
    return part.groupby([*by, "library"])["value"].mean().groupby(by).mean().unstack("method")


def _compared(scores: pd.DataFrame, metric: str) -> list[dict[str, Any]]:
    """The default beside the best simple method, by regime and set."""
    table = sp.get.compare_completions(scores, metric=metric, method="counts")
    return [
        {
            "regime": row.regime,
            "set": row.set,
            "tuned": "*" if row.set in TUNED_ON else None,
            "best": row.baseline,
            "best_value": row.baseline_value,
            "ratio": row.ratio,
            "units": f"{row.n_units} {row.unit}",
            "lower": row.ratio_lower,
            "upper": row.ratio_upper,
            "excess_low": row.excess_removed_floor_low,
            "excess_high": row.excess_removed_floor_high,
        }
        for row in table.itertuples()
    ]


def _errors(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Mean squared error of every method, the noise floor, and the comparison."""
    errors = _mean(scores, "mse")
    columns = (*SHOWN, "floor_low", "floor_high")
    rows = []
    for row in _compared(scores, "mse"):
        if row["set"] != "all":
            values = errors.loc[(row["regime"], row["set"])]
            rows.append({**row, "title": TITLES[row["set"]], **{name: values.get(name) for name in columns}})
    return rows


def _overall(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """The comparison over all sets, and over those that had no part in tuning."""
    untouched = scores[~scores["set"].isin(TUNED_ON)]
    return [
        {**row, "sets": sets}
        for sets, part in {"all": scores, "untouched": untouched}.items()
        for row in _compared(part, "mse")
        if row["set"] == "all"
    ]


def _count_model(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Error of the count model alone, and the share of it that stack and network remove."""
    errors = _mean(scores, "mse")
    return [
        {"regime": regime, "set": name, "factor": row["factor"], "gain": 1 - row["counts"] / row["factor"]}
        for (regime, name), row in errors.iterrows()
    ]


def _uncertainty(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Gain in CRPS over the best constant width, and coverage of 90 % intervals."""
    crps, constant, coverage = (_mean(scores, metric)["counts"] for metric in ("crps", "crps_constant", "coverage_90"))
    return [
        {"regime": regime, "set": name, "crps_gain": 1 - crps[place] / constant[place], "coverage_90": coverage[place]}
        for place in crps.dropna().index
        for regime, name in [place]
    ]


def _expected_counts(scores: pd.DataFrame) -> list[dict[str, Any]]:
    """Deviance of the other half of the molecules, and held-out over expected counts by deciles of the latter."""
    deviance = _mean(scores, "deviance")
    part = scores[(scores["method"] == "counts") & scores["metric"].str.startswith("calibration")]
    part = part[part["genes"] == "all"]
    decile = part["metric"].str.extract(r"(\d+)$")[0].astype(int)
    by_decile = part.groupby(["set", decile])["value"].mean().unstack()
    rows = []
    for row in _compared(scores, "deviance"):
        if row["set"] != "all":
            values, calibration = deviance.loc[("thinning", row["set"])], by_decile.loc[row["set"]].to_numpy()
            inner = calibration[1:-1]
            row |= {"gene_mean": values["gene_mean"], "kernel": values["kernel"], "counts": values["counts"]}
            row |= {"lowest_tenth": calibration[0], "highest_tenth": calibration[-1]}
            row |= {"worst_other_tenth": inner[np.argmax(np.abs(np.log(inner)))]}
        rows.append(row)
    return rows


def _by_method(scores: pd.DataFrame, metrics: Sequence[str], methods: Sequence[str]) -> list[dict[str, Any]]:
    """A row for every set and method, with a column for every metric."""
    means = {metric: _mean(scores, metric).droplevel("regime") for metric in metrics}
    return [
        {
            "set": name,
            "tuned": "*" if name in TUNED_ON else None,
            "method": method,
            **{metric: table.loc[name].get(method) for metric, table in means.items()},
        }
        for name in means[metrics[0]].index
        for method in methods
    ]


def _baselines() -> list[str]:
    """The simple methods of this package."""
    return [name for name in sp.tl.completers().index if name not in (*MODELS, "paper", "sme", "magic", "alra")]


# --- costs ------------------------------------------------------------------------------------------------------------


def one(method: str, n_spots: int, n_genes: int) -> None:
    """Time and peak memory of one method in this process, as JSON."""
    warnings.simplefilter("ignore")
    side = int(np.ceil(np.sqrt(min(n_spots, 2_000))))

    def collection(n_libraries: int, side: int, n_genes: int):
        adata = sp.datasets.synthetic(n_libraries, n_genes, shape=(side, side), depth=5.0 * n_genes, image=False)
        sp.pp.normalize_tpm(adata, gene_lengths=None)
        return adata

    def complete(adata) -> None:
        sp.tl.complete(adata, method=method, library_key="library_id", show_progress_bar=False)

    complete(collection(1, 8, 16))  # numba compiles once per machine; that is not what is measured
    adata = collection(max(1, round(n_spots / side**2)), side, n_genes)
    before = _peak()
    start, start_cpu = time.perf_counter(), time.process_time()
    complete(adata)
    seconds = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - start_cpu}
    print(json.dumps({"spots": adata.n_obs, **seconds, "before_gib": before, "peak_gib": _peak()}))


def _peak() -> float:
    """Highest resident memory of this process so far, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def costs(name: str, methods: list[str], sizes: list[tuple[int, int]]) -> None:
    """A row per method and size, each in a process of its own."""
    rows = []
    for n_spots, n_genes in sizes:
        for method in methods:
            command = [sys.executable, __file__, "--one", method, str(n_spots), str(n_genes)]
            done = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rows.append({"method": method, "genes": n_genes, **done})
            print(rows[-1], flush=True)
    _results.write(f"completion.{name}", rows)


def paper_steps(n_steps: int = 10_000) -> None:
    """The training steps of the paper, without early stopping; on a processor a tenth of them, scaled."""
    import torch

    n_steps = n_steps if torch.cuda.is_available() else n_steps // 100
    adata = read("VLO")
    start = time.perf_counter()
    params = {"n_steps": n_steps, "patience": n_steps}
    sp.tl.spackle_complete(adata, model="paper", model_params=params, library_key="library_id")
    seconds = (time.perf_counter() - start) * 10_000 / n_steps
    device = adata.uns["spared_sc"]["spackle"]["device"]
    _results.write("completion.paper_steps", [{"steps": n_steps, "device": device, "seconds_10000_steps": seconds}])


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=list(SETS))
    parser.add_argument("--regimes", nargs="+", default=list(REGIMES))
    parser.add_argument("--masks", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("completion_scores"))
    parser.add_argument("--others", nargs="+", default=[], metavar="SET", help="methods of other packages instead")
    parser.add_argument("--curve", nargs="+", default=[], metavar="SET", help="hidden shares from 10 to 70 %% instead")
    for flag in ("update", "tables", "speed", "growth", "paper-steps"):
        parser.add_argument(f"--{flag}", action="store_true")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], int(options.one[1]), int(options.one[2]))
    elif options.speed:
        costs("speed", [*_baselines(), *MODELS, "paper"], [(2_000, 128)])
    elif options.growth:
        spots = [(n, 128) for n in (1_000, 4_000, 16_000, 44_000, 100_000)]
        costs("growth", ["counts"], spots + [(1_000, n) for n in (32, 128, 512, 2_000, 5_000)])
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
                score(name, regime, options.masks, options.out, update=options.update)


if __name__ == "__main__":
    main()
