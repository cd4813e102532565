"""Scores of predictions gene by gene: a strip of points for each prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._kernels.metrics import CEILING, FLOORS
from spared_sc.pl._marks import BLUE, VERMILION, make_panels, name_rows
from spared_sc.pl._score_tables import (
    ERRORS,
    METRICS,
    best_first,
    choose_models,
    need_whole,
    overall_and_genes,
    rows_of,
    title_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NO_ERROR = "no error"  # the row of a perfect prediction
_MOST = 12  # readable number of predictions
_ROW = 0.6  # inches for a prediction
_STRIP = 0.36  # distance of the worst and the best gene from the middle of their row
_MODEL, _ANCHOR, _CEILING = BLUE, "0.35", "0.65"
_FAR = 2  # times the range of the middle 98 %: a few genes further off would squeeze all others


def draw_strips(
    scores: pd.DataFrame,
    metric: str,
    *,
    predictions: str | Sequence[str] | None,
    library: str,
    n_names: int,
    ax: Axes | None,
    figsize: tuple[float, float] | None,
) -> Axes:
    """A row for each prediction, best first, then the anchors and the score without any error."""
    table = rows_of(scores, metric, library)
    drawn = _choose(table, metric, predictions)
    panels = make_panels(ax, 1, 1, figsize or (8.5, 1.9 + _ROW * len(drawn.rows)), layout="constrained")
    ax = panels.axes.item()
    _draw_limits(ax, drawn)
    for at, name in enumerate(drawn.rows):
        height = _draw_strip(ax, at, name, drawn)
        if name != _NO_ERROR:
            _draw_overall(ax, at, drawn.overall.loc[name], metric)
        if name in drawn.models:
            _name_best(ax, at, height, drawn.sorted_genes(name)[::-1][:n_names], drawn.ends)
    ax.axhline(len(drawn.models) - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    name_rows(ax, drawn.rows)
    ax.set(xlim=drawn.ends, xlabel=METRICS[metric][0])
    ax.set_title(title_of(table, scores, library, drawn.n_left_out), fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    panels.add_legend(ncols=2)
    return ax


@dataclass(frozen=True)
class _Drawn:
    """The scores to draw."""

    metric: str
    models: list[str]  # predictions, best first
    anchors: list[str]  # best first
    rows: list[str]  # of the plot, from top to bottom
    limits: list[str]  # rows of the table with the score without error
    genes: pd.DataFrame  # genes x predictions
    overall: pd.DataFrame  # one row per prediction: value, lower, upper
    ends: tuple[float, float]  # of the axis
    n_left_out: int  # predictions without a row for want of room

    def sorted_genes(self, name: str) -> pd.Series:
        """The scores of a row, worst gene first."""
        return self.genes[name].dropna().sort_values(ascending=self.metric not in ERRORS, kind="stable")


def _choose(table: pd.DataFrame, metric: str, predictions: str | Sequence[str] | None) -> _Drawn:
    """Predictions and anchors, best first, and the scores of their genes."""
    from spared_sc._models.prediction.registry import ANCHORS

    overall, genes = overall_and_genes(table)
    models, n_left_out = choose_models(overall, metric, predictions, _MOST)
    anchors = best_first(overall[overall.index.isin(ANCHORS)], metric)
    rows = [*models, *anchors]
    need_whole(rows, overall, genes)
    limits = next((list(names) for names in (FLOORS, (CEILING,)) if set(names) <= set(overall.index)), [])
    if limits and set(limits) <= set(genes):
        genes[_NO_ERROR] = genes[limits].mean(axis=1)
        rows.append(_NO_ERROR)
    zero = [] if metric in ERRORS else [0]
    ends = _ends(np.concatenate([genes[rows].to_numpy().ravel(), overall["value"].reindex([*rows, *limits]), zero]))
    return _Drawn(metric, models, anchors, rows, limits, genes, overall, ends, n_left_out)


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: of all values, or without the few that would squeeze all others."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = values.min(), values.max()
    inner = np.percentile(values, [1, 99])
    if high - low > _FAR * np.ptp(inner) > 0:
        low, high = inner
    pad = 0.04 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def _draw_limits(ax: Axes, drawn: _Drawn) -> None:
    """The score without error, and zero where it says that a prediction is worthless."""
    values = np.sort(drawn.overall.loc[drawn.limits, "value"])
    label = f"no error, {METRICS[drawn.metric][1]}"
    if len(values) > 1:
        ax.axvspan(*values, label=f"{label} (range)", color="0.88", linewidth=0, zorder=0)
    elif len(values):
        ax.axvline(values[0], label=label, color=_CEILING, linewidth=1.5, linestyle="--", zorder=0)
    if drawn.metric not in ERRORS:
        ax.axvline(0, color="black", linewidth=0.8)


def _draw_strip(ax: Axes, at: int, name: str, drawn: _Drawn) -> np.ndarray:
    """A point for every gene, arrows at the ends of the axis for those beyond; returns their heights."""
    values = drawn.sorted_genes(name).to_numpy()
    height = at + _STRIP * (np.linspace(1, -1, len(values)) if len(values) > 1 else np.zeros(len(values)))
    colour = _MODEL if name in drawn.models else _ANCHOR if name in drawn.anchors else _CEILING
    left, right = drawn.ends
    inside = (values >= left) & (values <= right)
    style: dict[str, Any] = {"color": colour, "markeredgewidth": 0, "rasterized": True}
    ax.plot(values[inside], height[inside], "o", markersize=3.5, alpha=0.7, **style)
    for marker, beyond, edge in (("<", values < left, left), (">", values > right, right)):
        if beyond.any():
            x = np.full(int(beyond.sum()), edge)
            ax.plot(x, height[beyond], marker, markersize=5, clip_on=False, label="beyond the axis", **style)
    return height


def _draw_overall(ax: Axes, at: int, score: pd.Series, metric: str) -> None:
    """The score over all genes with its interval, and both as numbers beside the row."""
    digits = ".3g" if metric in ERRORS else ".3f"
    text = "no value"
    if np.isfinite(score["value"]):
        text = f"{score['value']:{digits}}"
        label = METRICS[metric][1]
        ax.plot(score["value"], at, "|", color=VERMILION, markersize=18, markeredgewidth=2.5, label=label)
    if np.isfinite([score["lower"], score["upper"]]).all():
        text += f" ({score['lower']:{digits}} to {score['upper']:{digits}})"
        ax.plot([score["lower"], score["upper"]], [at, at], color=VERMILION, linewidth=2, label="95 % interval")
    ax.text(1.02, at, text, transform=ax.get_yaxis_transform(), va="bottom", fontsize="small")


def _name_best(ax: Axes, at: int, height: np.ndarray, best: pd.Series, ends: tuple[float, float]) -> None:
    """Ring the best genes of a row and name them beside it."""
    if best.empty:
        return
    x, y = np.clip(best.to_numpy(), *ends), height[::-1][: len(best)]
    ax.plot(x, y, "o", markersize=6, markerfacecolor="none", markeredgecolor="black", label="best genes, named")
    text = ", ".join(map(str, best.index))
    ax.text(1.02, at + 0.05, text, transform=ax.get_yaxis_transform(), va="top", fontsize="small", fontstyle="italic")
