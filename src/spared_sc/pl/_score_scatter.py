"""Scores of predictions gene by gene: correlation against correlation given depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._kernels.metrics import CEILING
from spared_sc.pl._marks import BLUE, VERMILION, check_panels, make_grid
from spared_sc.pl._score_tables import choose_models, need_whole, overall_and_genes, rows_of, title_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS, _UPWARD = "pcc_given_depth", "pcc"
_DEPTH = "depth_only"
_MOST = 4  # predictions
_N_COLUMNS = 2
_SIDE, _LEGEND = 3.9, 2.8  # inches of a panel, and for the legend at the right
_LINE = 0.055  # height of a name, of that of the axis


@dataclass(frozen=True)
class _Both:
    """Correlation and correlation given depth."""

    overall: dict[str, pd.DataFrame]  # of either, one row per prediction: value, lower, upper
    genes: dict[str, pd.DataFrame]  # of either, genes x predictions
    ends: tuple[float, float]  # of both axes

    def of_genes(self, name: str) -> pd.DataFrame:
        """Both values of every gene of a prediction, best given depth first."""
        import pandas as pd

        table = pd.DataFrame({metric: values[name] for metric, values in self.genes.items()}).dropna()
        return table.sort_values(_ACROSS, ascending=False, kind="stable")

    def mean(self, name: str) -> tuple[float, float]:
        """Both values of a prediction over all genes."""
        across, upward = (self.overall[metric]["value"].get(name, np.nan) for metric in (_ACROSS, _UPWARD))
        return across, upward


def draw_scatter(
    scores: pd.DataFrame,
    *,
    predictions: str | Sequence[str] | None,
    library: str,
    n_names: int,
    ax: Axes | None,
    figsize: tuple[float, float] | None,
) -> Figure | Axes:
    """A panel for each prediction, best first."""
    tables = {metric: rows_of(scores, metric, library) for metric in (_ACROSS, _UPWARD)}
    parts = {metric: overall_and_genes(table) for metric, table in tables.items()}
    overall = {metric: part[0] for metric, part in parts.items()}
    names, n_left_out = choose_models(overall[_ACROSS], _ACROSS, predictions, 1 if ax is not None else _MOST)
    genes = {metric: part[1] for metric, part in parts.items()}
    shown = [*names, *(name for name in (_DEPTH,) if name in genes[_UPWARD])]
    for metric in tables:
        need_whole(names and shown, overall[metric], genes[metric])
    ceiling = [table["value"].get(CEILING, np.nan) for table in overall.values()]
    both = _Both(overall, genes, _ends([*(values[shown].to_numpy() for values in genes.values()), np.array(ceiling)]))
    check_panels(ax, len(names), f"{len(names)} predictions", "one with `predictions=`")
    n_columns = min(len(names), _N_COLUMNS)
    n_rows = -(-len(names) // n_columns)
    size = figsize or (_SIDE * n_columns + _LEGEND, _SIDE * n_rows + 0.8)
    panels = make_grid(ax, len(names), n_columns, size)
    for panel, name in zip(panels.axes, names, strict=True):
        _draw_panel(panel, name, both, n_names)
    for panel in panels.axes[::n_columns]:
        panel.set_ylabel("correlation with log1p(CP10K)")
    for panel in panels.axes[-n_columns:]:
        panel.set_xlabel("correlation given depth")
    title = title_of(tables[_ACROSS], scores, library, n_left_out)
    if panels.is_new:
        panels.figure.suptitle(title, fontsize="medium", x=0.01, horizontalalignment="left")
    panels.add_legend(at_right=True, placed={"loc": "lower right", "fontsize": "x-small"})
    if panels.is_new:
        panels.figure.draw_without_rendering()  # the layout of square panels beside a legend takes two rounds
    return panels.result


def _ends(values: list[np.ndarray]) -> tuple[float, float]:
    """Ends of both axes: of all values and zero."""
    finite = np.concatenate([part[np.isfinite(part)] for part in values] + [np.zeros(1)])
    pad = 0.05 * np.ptp(finite) or 0.5
    return float(finite.min() - pad), float(finite.max() + pad)


def _draw_panel(ax: Axes, name: str, both: _Both, n_names: int) -> None:
    """The genes of a prediction beside those of depth alone, and means."""
    for line in (ax.axhline, ax.axvline):
        line(0, color="black", linewidth=0.8, zorder=1)
    ax.plot(both.ends, both.ends, color="0.4", linewidth=0.8, linestyle="--", label="equal scores", zorder=1)
    if _DEPTH in both.genes[_UPWARD]:
        depth = both.of_genes(_DEPTH)
        ax.plot(depth[_ACROSS], depth[_UPWARD], "_", color="0.6", markersize=9, label=f"genes of {_DEPTH}", zorder=2)
    genes = both.of_genes(name)
    style: dict[str, Any] = {"markeredgewidth": 0, "alpha": 0.7, "rasterized": True, "label": "genes of the prediction"}
    ax.plot(genes[_ACROSS], genes[_UPWARD], "o", color=BLUE, markersize=4, zorder=3, **style)
    _draw_mean(ax, name, both)
    if CEILING in both.overall[_UPWARD].index:
        style = {"markersize": 8, "markerfacecolor": "none", "markeredgecolor": "black"}
        ax.plot(*both.mean(CEILING), "D", label="ceiling, mean of the genes", zorder=4, **style)
    _name_best(ax, genes[:n_names], both.ends)
    ax.set(xlim=both.ends, ylim=both.ends, box_aspect=1)
    across, upward = both.mean(name)
    ax.set_title(f"{name}\nPCC {upward:.3f}, given depth {across:.3f}", fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)


def _draw_mean(ax: Axes, name: str, both: _Both) -> None:
    """The mean over genes, with both intervals where there are some."""
    across, upward = (both.overall[metric].loc[name] for metric in (_ACROSS, _UPWARD))
    style: dict[str, Any] = {"color": VERMILION, "linewidth": 2, "zorder": 5, "label": "95 % interval"}
    if np.isfinite([across["lower"], across["upper"], upward["lower"], upward["upper"]]).all():
        ax.plot([across["lower"], across["upper"]], [upward["value"]] * 2, **style)
        ax.plot([across["value"]] * 2, [upward["lower"], upward["upper"]], **style)
    ax.plot(
        *both.mean(name), "+", color=VERMILION, markersize=14, markeredgewidth=2.5, label="mean of the genes", zorder=5
    )


def _name_best(ax: Axes, best: pd.DataFrame, ends: tuple[float, float]) -> None:
    """Ring the best genes and name them at their lower right, where points are rare."""
    if best.empty:
        return
    label = "best genes given depth, named"
    style: dict[str, Any] = {"markersize": 7, "markerfacecolor": "none", "markeredgecolor": "black"}
    ax.plot(best[_ACROSS], best[_UPWARD], "o", label=label, zorder=4, **style)
    line = _LINE * (ends[1] - ends[0])
    link: dict[str, Any] = {"arrowstyle": "-", "linewidth": 0.6, "color": "0.4", "shrinkB": 3}
    style = {"va": "center", "fontsize": "small", "fontstyle": "italic", "arrowprops": link}
    left, height = best[_ACROSS].max() + line, best[_UPWARD].max()
    for gene, place in best.sort_values(_UPWARD, ascending=False).iterrows():
        height = min(place[_UPWARD], height) - line
        ax.annotate(str(gene), (place[_ACROSS], place[_UPWARD]), xytext=(left, height), **style)
