"""Scores of a benchmark for plots: relative to the best of each data set, labels, and what is missing in words."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from spared_sc.pl._completion_tables import metric_label
from spared_sc.pl._marks import BLUE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from spared_sc._core.benchmark_tables import Means

# Parameters that the plots of benchmarks share
ROWS = """
scores
    Table from :func:`spared_sc.benchmark.results` or :func:`spared_sc.benchmark.reference_external`.
metric
    Value of the column `"metric"`.
models
    Labels of the models to draw. `None` draws all.
target, loss
    What the models learned. `None` draws every combination that the table has.
protocol, regime, share
    Protocol of scoring, and for completion what is hidden and how much. Needed where the table has several.
published
    Draw published scores, and nothing else. By default they are left out.
"""
ROW = 0.3  # inches for a method or data set
_LINE = 78  # characters of a title
_FAR = 6  # times the range of the middle half beyond it, from which a value would squeeze all others
_LEAST_VIOLIN = 5  # values, below which points say all
_METRICS = {
    "d2": "share of the Poisson deviance explained (d2)",
    "d2_own": "share of the Poisson deviance explained, pattern alone (d2_own)",
    "pcc_given_depth": "correlation given depth",
    "pcc": "Pearson correlation",
}


def label_of(metric: str) -> str:
    """The metric in words, in one line."""
    return _METRICS.get(metric) or metric_label(metric, "all").replace("\n", " ")


def relative(means: Means) -> tuple[pd.DataFrame, str]:
    """Values relative to the best of each data set, and what they are: a ratio of errors, else a difference."""
    values = means.values
    best = values.max(axis=1) if means.higher_is_better else values.min(axis=1)
    if not means.higher_is_better and (values.fillna(1) > 0).all(axis=None):
        return values.div(best, axis=0), f"{means.choice.metric} over the lowest of the data set"
    return values.sub(best, axis=0), f"{means.choice.metric} minus the best of the data set"


def by_mean(values: pd.DataFrame, higher_is_better: bool) -> list[str]:
    """Columns by their mean, the best first, those without a value last."""
    return values.mean().sort_values(ascending=not higher_is_better, kind="stable").index.tolist()


def title(*parts: str) -> str:
    """A title of several lines, long ones wrapped."""
    return "\n".join(line for part in parts if part for line in textwrap.wrap(part, _LINE))


def n_of(means: Means) -> str:
    """The number of data sets and sources."""
    n, sources = len(means.values), means.facts["source"].nunique()
    return f"{n} data set{'s' * (n != 1)} of {sources} source{'s' * (sources != 1)}"


def draw_rows(ax: Axes, columns: Sequence[np.ndarray], colour: str = BLUE) -> None:
    """A row for every group of values: a point each, a violin where there are enough, and their mean as a bar."""
    from scipy.stats import gaussian_kde

    for at, values in enumerate(columns):
        if len(values) >= _LEAST_VIOLIN and np.ptp(values) > 0:
            grid = np.linspace(values.min(), values.max(), 100)
            density = gaussian_kde(values)(grid)
            half = 0.4 * density / density.max()
            ax.fill_between(grid, at - half, at + half, color=colour, alpha=0.2, linewidth=0)
        ax.plot(values, np.full(len(values), at), "o", color=colour, markersize=5, alpha=0.6, markeredgewidth=0)
        if len(values) > 1:
            ax.plot(values.mean(), at, "|", color="black", markersize=14, markeredgewidth=2)


def squeeze(ax: Axes, rows: Sequence[np.ndarray], colour: str = BLUE) -> str:
    """End the axis before values that are far from all others, draw arrows for them, and say how many there are."""
    values = np.concatenate([np.zeros(0), *(row[np.isfinite(row)] for row in rows)])
    if not len(values) or ax.get_xscale() == "log":
        return ""
    low, high = np.quantile(values, [0.25, 0.75])
    margin = _FAR * (high - low)
    inside = (values >= low - margin) & (values <= high + margin)
    if inside.all() or not margin:
        return ""
    left, right = values[inside].min(), values[inside].max()
    pad = 0.05 * (right - left)
    ends = float(left - pad), float(right + pad)
    ax.set_xlim(*ends)
    for marker, end, beyond in (("<", ends[0], np.less), (">", ends[1], np.greater)):
        at = [i for i, row in enumerate(rows) if beyond(row, end).any()]
        ax.plot(np.full(len(at), end), at, marker, color=colour, markersize=6, clip_on=False, zorder=3)
    return f"{int((~inside).sum())} values lie beyond the axis (arrows)"


def tidy(ax: Axes, axis: Literal["x", "y", "both"] = "y") -> None:
    """A light grid along one axis, and no frame at the top and right."""
    ax.grid(axis=axis, color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
