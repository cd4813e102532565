"""Comparison of completers over masks, libraries and subjects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_number, listing
from spared_sc._kernels.bootstrap import library_weights
from spared_sc._kernels.metrics import FLOORS, HIGHER_IS_BETTER

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

_COMPARED = ("mse", "mae", "deviance", "crps", "correlation_error", "pcc", "r2")
_COLUMNS = ("regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value")
_QUANTITIES = ("ratio", "difference", "excess_removed_floor_low", "excess_removed_floor_high")
_EVERY_SET = "all"


def compare_completions(
    scores: pd.DataFrame,
    *,
    method: str = "residual",
    baselines: Sequence[str] | None = None,
    metric: str = "mse",
    n_bootstrap: int = 2000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Compare one completer with the best baseline, with intervals over libraries.

    Masks are averaged first, since those of one library are no independent observations. The best baseline is the one
    with the best mean over the libraries. Libraries are then resampled within subjects.

    Parameters
    ----------
    scores
        Table from `sp.tl.evaluate_completion`. Tables of several data sets can be put one below the other with a column
        `set` that tells them apart.
    method
        Method to compare.
    baselines
        Methods to compare with; by default all in the table apart from `method`, the noise floor and the models of this
        package.
    metric
        `"mse"`, `"mae"`, `"deviance"`, `"crps"`, `"correlation_error"`, `"pcc"` or `"r2"`; of the last two more is
        better.
    n_bootstrap
        Resamples of the libraries.
    random_state
        Seed of the resampling.

    Returns
    -------
    A table with one row per set (where there is the column), regime and share, and the columns

    - `method`, `baseline` (the best one), `method_value`, `baseline_value`: means over libraries
    - `ratio`: method / baseline, and `difference`: method - baseline
    - `excess_removed_floor_low`, `excess_removed_floor_high`: (baseline - method) / (baseline - floor) at both ends of
      the noise floor, the share of the baseline's excess over the floor that the method removes; NaN where there is no
      floor of the metric, or the baseline is at or below it
    - `_lower` and `_upper` after each of these four: 95 % interval
    - `n_libraries`, and `descriptive`: there is only one library, and so no interval

    With several sets, rows of the set `"all"` follow: the ratio is the geometric mean over the sets, the rest their
    mean, and every set counts the same.

    Raises
    ------
    KeyError
        If the table lacks a column, or a method or metric is not in it or cannot be compared.
    ValueError
        If the table has nothing to compare, or a parameter is out of range.

    Notes
    -----
    Subjects with several libraries are strata of the bootstrap: their libraries are drawn with replacement from their
    own, so each subject weighs what it weighs in the data. The libraries of all subjects with one library make one
    stratum together. The interval is the percentile interval, and the baseline is not chosen anew in the resamples.

    Examples
    --------
    >>> import pandas as pd
    >>> import spared_sc as sp
    >>> values = {"additive": (0.9, 1.1), "residual": (0.7, 0.9), "floor_low": (0.4, 0.4), "floor_high": (0.6, 0.6)}
    >>> scores = pd.DataFrame(
    ...     [
    ...         ("paper", 0.3, 0, method, library, library, "all", "mse", value)
    ...         for method, both in values.items()
    ...         for library, value in zip(("A1", "A2"), both)
    ...     ],
    ...     columns=["regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value"],
    ... )
    >>> best = sp.get.compare_completions(scores).loc[0]
    >>> best["baseline"], round(float(best["ratio"]), 3), round(float(best["excess_removed_floor_low"]), 3)
    ('additive', 0.8, 0.333)
    """
    import pandas as pd

    values, sets = _averaged(scores, method, baselines, metric)
    check_number("n_bootstrap", n_bootstrap, 1, whole=True)
    check_number("random_state", random_state, 0, whole=True)
    rng = np.random.default_rng(random_state)
    rows, samples = [], {}
    for key, part in values.groupby(level=["set", "regime", "share"], sort=True):
        found = _compare(part.droplevel(["set", "regime", "share"]), method, metric, n_bootstrap, rng)
        if found is not None:
            rows.append({**dict(zip(("set", "regime", "share"), key, strict=True)), "metric": metric, **found[0]})
            samples[key] = found[1]
    if not rows:
        raise ValueError(f"no set and regime has {metric!r} of {method!r} and of a baseline in the same libraries.")
    table = pd.DataFrame(rows)
    if not sets:
        return table.drop(columns="set")
    together = [
        _over_sets(part, [samples[key, regime, share] for key in part["set"]])
        for (regime, share), part in table.groupby(["regime", "share"], sort=True)
        if table["set"].nunique() > 1
    ]
    return pd.concat([table, pd.DataFrame(together)], ignore_index=True) if together else table


def _averaged(
    scores: pd.DataFrame, method: str, baselines: Sequence[str] | None, metric: str
) -> tuple[pd.DataFrame, bool]:
    """Means over masks, libraries x methods, and whether the table has sets; other methods are left out."""
    missing = [column for column in _COLUMNS if column not in scores]
    if missing:
        raise KeyError(
            f"the table has no column {missing[0]!r} (columns: {listing(scores.columns)}): pass the table that "
            "`sp.tl.evaluate_completion` returns."
        )
    if metric not in _COMPARED:
        raise KeyError(f"the metric {metric!r} cannot be compared: choose among {listing(_COMPARED)}.")
    sets = "set" in scores
    table = scores if sets else scores.assign(set="")
    present = table["method"].unique().tolist()
    if baselines is None:
        baselines = [name for name in present if name not in (method, *Key.models, *FLOORS)]
    baselines = [baselines] if isinstance(baselines, str) else list(baselines)
    unknown = [name for name in (method, *baselines) if name not in present]
    if unknown:
        raise KeyError(f"there are no scores of {listing(unknown)} (methods: {listing(present, 30)}).")
    if not baselines or method in baselines:
        raise ValueError(f"there is no baseline to compare {method!r} with: evaluate others too, or name them.")
    table = table[
        (table["metric"] == metric)
        & (table["genes"] == "all")
        & (table["library"] != "all")
        & table["method"].isin([method, *baselines, *FLOORS])
    ]
    by = ["set", "regime", "share", "subject", "library", "method"]
    means = table.groupby(by, observed=True)["value"].mean().unstack("method")
    return means.reindex(columns=[method, *baselines, *FLOORS]), sets


def _compare(
    part: pd.DataFrame, method: str, metric: str, n_bootstrap: int, rng: np.random.Generator
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """One row of the table, and the resampled quantities; `None` where there is nothing to compare."""
    part = part[part[method].notna()]
    means = part.drop(columns=[method, *FLOORS]).dropna(axis=1).mean()
    if part.empty or means.empty:
        return None
    best = means.idxmax() if metric in HIGHER_IS_BETTER else means.idxmin()
    values = part[[method, best, *FLOORS]].to_numpy(dtype=float)
    samples = _quantities(library_weights(part.index.get_level_values("subject"), n_bootstrap, rng) @ values)
    row = {"method": method, "baseline": best, "method_value": part[method].mean(), "baseline_value": means[best]}
    estimates = _quantities(values.mean(axis=0))
    n = len(part)
    row |= _with_intervals(estimates, samples, descriptive=n == 1)
    return {**row, "n_libraries": n, "descriptive": n == 1}, samples


def _over_sets(part: pd.DataFrame, samples: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """The row of all sets of a regime and share."""

    def combined(values: dict[str, Any]) -> dict[str, Any]:
        # Of the ratio the geometric mean, so that sets with large errors do not decide it.
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.exp(np.mean(np.log(values["ratio"]), axis=0))
        return {name: ratio if name == "ratio" else np.mean(value, axis=0) for name, value in values.items()}

    descriptive = bool(part["descriptive"].all())
    estimates = combined({name: part[name].to_numpy() for name in _QUANTITIES})
    resampled = combined({name: np.array([sample[name] for sample in samples]) for name in _QUANTITIES})
    same = part[["regime", "share", "metric", "method"]].iloc[0].to_dict()
    return {
        "set": _EVERY_SET,
        **same,
        "baseline": "best of each set",
        **part[["method_value", "baseline_value"]].mean().to_dict(),
        **_with_intervals(estimates, resampled, descriptive=descriptive),
        "n_libraries": int(part["n_libraries"].sum()),
        "descriptive": descriptive,
    }


def _quantities(means: np.ndarray) -> dict[str, np.ndarray]:
    """What is reported, from means (..., 4) of method, baseline and the two ends of the floor."""
    method, baseline = means[..., 0], means[..., 1]
    result = {"ratio": method / baseline, "difference": method - baseline}
    for end, name in enumerate(FLOORS):
        excess = baseline - means[..., 2 + end]
        removed = np.divide(baseline - method, excess, out=np.full_like(excess, np.nan), where=excess > 0)
        result[f"excess_removed_{name}"] = removed
    return result


def _with_intervals(
    estimates: dict[str, Any], samples: dict[str, np.ndarray], *, descriptive: bool
) -> dict[str, float]:
    """Every quantity, followed by the ends of its interval."""
    row = {}
    for name in _QUANTITIES:
        low, high = (np.nan, np.nan) if descriptive else np.quantile(samples[name], (0.025, 0.975))
        row |= {name: float(estimates[name]), f"{name}_lower": float(low), f"{name}_upper": float(high)}
    return row
