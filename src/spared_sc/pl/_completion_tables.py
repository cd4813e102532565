"""Tables of completion scores for plots: the rows to draw, the order of the methods, and labels in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spared_sc._core.validate import check_table
from spared_sc._kernels.metrics import FLOORS, HIGHER_IS_BETTER
from spared_sc.pl._marks import pick

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOGETHER = "all"  # the library of values that are of all libraries together
_COLUMNS = ("regime", "share", "mask", "method", "library", "genes", "metric", "value")
_METRICS = {
    "mse": "mean squared error\n(squared units of the layer)",
    "mae": "mean absolute error\n(units of the layer)",
    "r2": "R2 over the gene's mean",
    "pcc": "Pearson correlation per gene",
    "pcc_pooled": "Pearson correlation per gene, sections together",
    "moran_change": "change of Moran's I",
    "correlation_error": "mean error of correlations between genes",
    "crps": "CRPS\n(units of the layer)",
    "crps_constant": "CRPS at constant width\n(units of the layer)",
    "coverage_90": "hidden values inside the 90 % interval",
    "deviance": "Poisson deviance per entry",
    "pcc_depth": "correlation with held-out counts, given depth",
    "moran_error": "mean error of Moran's I",
    "mse_log": "mean squared error of log(1 + count per 10,000)",
    "poisson_loss": "Poisson loss per entry",
    "calibration": "held-out over expected counts",
}
_IDEALS = {"moran_change": 0, "coverage_90": 0.9, "calibration": 1}  # the nearest to it is the best
_REGIMES = {  # the quantity that `share` is a share of
    "detected": "{} of detected entries hidden",
    "released": "{} of all entries hidden",
    "spots": "{} of spots hidden",
    "blocks": "{} of spots hidden, in blocks",
    "thinning": "counts split, scored on the other part",
    "thinning_90": "{} of counts held out",
}
_WIDE = 4  # largest over smallest value from which a linear axis squeezes the differences between the good methods


def section_scores(
    scores: pd.DataFrame,
    metric: str,
    regime: str | Sequence[str] | None,
    genes: str,
    methods: str | Sequence[str] | None,
) -> pd.DataFrame:
    """The rows asked for, masks averaged: a value for each data set, regime, share, method and library."""
    check_table(scores, _COLUMNS, "sp.tl.evaluate_completion(adata)")
    table = scores if "set" in scores else scores.assign(set="")
    table = pick(table, "metric", metric)
    table = pick(table, "genes", genes)
    is_floor = table["method"].isin(FLOORS)
    if is_floor.all():
        raise ValueError(
            f"the table has no method with metric={metric!r} and genes={genes!r}, only the noise floor: pass a table with methods."
        )
    chosen = table[~is_floor] if methods is None else pick(table[~is_floor], "method", methods, "methods")
    chosen = chosen if regime is None else pick(chosen, "regime", regime)
    table = pd.concat([chosen, table[is_floor & table["regime"].isin(chosen["regime"])]])
    table = table.assign(share=table["share"].fillna(0))  # a regime may have none
    # Categories without rows would come back as groups.
    by = ["set", "regime", "share", "method", "library"]
    flagged = table["flag"].ne("") if "flag" in table else False
    groups = table.assign(flagged=flagged).groupby(by, observed=True, sort=False)
    return groups.agg(value=("value", "mean"), flagged=("flagged", "any")).reset_index()


def ideal(metric: str) -> float | None:
    """The best value of a metric, where neither more nor less is better."""
    return _IDEALS.get(_base(metric))


def ranked(table: pd.DataFrame, metric: str | None) -> list[str]:
    """Methods by their mean rank over data sets, regimes and shares; without a metric, the highest values first."""
    table = table[~table["method"].isin(FLOORS)]
    by = ["set", "regime", "share", "method"]
    loss = table.groupby(by, observed=True, sort=False)["value"].mean().unstack("method")
    if metric is None or metric in HIGHER_IS_BETTER:
        loss = -loss
    elif (best := ideal(metric)) is not None:
        loss = (loss - best).abs()
    return loss.rank(axis=1).mean().sort_values(kind="stable").index.tolist()


def scale_axis(ax: Axes, which: str, values: pd.Series) -> None:
    """A logarithmic axis with plain numbers where a linear one would squeeze the small values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = values[np.isfinite(values)]
    if values.empty or values.min() <= 0 or values.max() < _WIDE * values.min():
        return
    ax.set(**{f"{which}scale": "log"})
    axis = ax.xaxis if which == "x" else ax.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def metric_label(metric: str, genes: str) -> str:
    """The metric and its genes in words."""
    base = _base(metric)
    label = _METRICS.get(base, base)
    label += f", decile {metric.removeprefix(f'{base}_d')} of the prediction" if base != metric else ""
    return label + ("" if genes == "all" else f", {genes} genes")


def hidden_label(regime: str, share: float | None) -> str:
    """The hidden part in words: so much of it, or the share of it."""
    return _REGIMES.get(regime, "{} hidden").format("share" if share is None else f"{100 * share:.3g} %")


def _base(metric: str) -> str:
    """The metric without its decile."""
    return re.sub(r"_d\d+$", "", metric)
