from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.completions import describe_method
from spared_sc._core.validate import listing
from spared_sc._kernels.metrics import FLOORS
from spared_sc.pl import _completion_tables as tables
from spared_sc.pl._marks import BLUE, LEGEND_WIDTH, PANEL_WIDTH, VERMILION, check_panels, finish, make_panels, name_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = 0.3  # the hidden share of the paper
_ROW = 0.27  # inches for a method


@checks_arguments
@docs.fill()
def completion_scores(
    scores: pd.DataFrame,
    *,
    metric: str = "mse",
    regime: str | Sequence[str] | None = None,
    share: float | None = None,
    genes: str = "all",
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot scores of completion methods, best first: a dot for every section, their mean, and the noise floor.

    The masks of a section are averaged first. Each regime has its own panel, as has each data set if the table has a
    column `"set"`; all panels list the methods in one order, by mean rank. The shaded band is the range of the noise
    floor, averaged over the sections: the error that remains with perfect knowledge of the expected counts.

    Parameters
    ----------
    {scores}
    {metric}
    regime
        Regimes to draw, from left to right. `None` draws all that have the metric.
    share
        Hidden share, for regimes with several. `None` takes the one closest to 0.3, that of the paper.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. Means stand at the right of each panel, with the number of sections behind
    them if a method lacks a value for some, and in red if the table flags a value as below the noise floor. The dashed
    line is the ideal of metrics that have one, such as 0.9 for the coverage of the 90 % interval. The axis is
    logarithmic if the largest value is at least four times the smallest.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or if `ax` is given for several panels.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), depth=300, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> methods = ["gene_mean", "additive", "soft_impute"]
    >>> scores = sp.tl.evaluate_completion(adata, methods=methods, n_masks=2, library_key="library_id")
    >>> fig = sp.pl.completion_scores(scores)
    """
    table = tables.section_scores(scores, metric, regime, genes, methods)
    table = table[table["share"] == _one_share(table, share)]
    order = tables.ranked(table, metric)
    if not order:
        raise ValueError(
            "the table has no score of a method that can be drawn: pass the table that `sp.tl.evaluate_completion` returns, whole."
        )
    sets = list(dict.fromkeys(table["set"]))
    regimes = list(dict.fromkeys(table["regime"] if regime is None or isinstance(regime, str) else regime))
    check_panels(ax, len(sets) * len(regimes), f"{len(sets)} data sets x {len(regimes)} regimes", "`regime=`")

    width = 1.6 + PANEL_WIDTH * len(regimes)
    height = (0.8 if width >= LEGEND_WIDTH else 1.2) + (1.1 + _ROW * len(order)) * len(sets)
    size = figsize or (width, height)
    panels = make_panels(ax, len(sets), len(regimes), size, layout="constrained", sharey=True)
    for name, row in zip(sets, panels.axes, strict=True):
        for of_regime, panel in zip(regimes, row, strict=True):
            part = table[(table["set"] == name) & (table["regime"] == of_regime)]
            _draw_methods(panel, part, order, tables.ideal(metric))
            panel.set_title(_title(str(name), of_regime, part), fontsize="medium")
    for panel in panels.axes[-1]:
        panel.set_xlabel(tables.metric_label(metric, genes))
    panels.add_legend()
    return finish(panels.result, show)


def _one_share(table: pd.DataFrame, share: float | None) -> pd.Series:
    """The hidden share to draw, for every row."""
    if share is None:
        nearest = table.groupby("regime", observed=True)["share"].agg(lambda s: s.iloc[(s - _SHARE).abs().argmin()])
        return table["regime"].map(nearest).astype(float)
    asked = table["share"].where(np.isclose(table["share"], share))
    if asked.isna().all():
        raise ValueError(
            f"the table has no hidden share {share!r}: pass one of {listing(np.unique(table['share']))} as `share=`."
        )
    return asked


def _draw_methods(ax: Axes, table: pd.DataFrame, order: list[str], best: float | None) -> None:
    """A row for every method, the noise floor, and the ideal."""
    low, high = (table.loc[table["method"] == end, "value"].mean() for end in FLOORS)
    if np.isfinite([low, high]).all():
        ax.axvspan(low, high, color="0.85", linewidth=0, zorder=0, label="noise floor (range)")  # no method is grey
    if best is not None:
        ax.axvline(best, color="black", linewidth=1, linestyle="--", label="ideal")
    table = table[~table["method"].isin(FLOORS)]
    n_libraries = table["library"].nunique()
    for row, method in enumerate(order):
        _draw_method(ax, row, table[table["method"] == method], n_libraries, set(table["library"]) == {tables.TOGETHER})
    name_rows(ax, [describe_method(method) for method in order])
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    tables.scale_axis(ax, "x", table["value"])


def _draw_method(ax: Axes, row: int, scores: pd.DataFrame, n_libraries: int, is_together: bool) -> None:
    """The sections of a method, and their mean in the plot and as a number beside it."""
    values, is_flagged = scores["value"].dropna().to_numpy(), bool(scores["flagged"].any())
    text = "no value"
    if values.size:
        if not is_together:
            label = "a section, its masks averaged"
            ax.plot(values, np.full(values.size, row), "o", color=BLUE, alpha=0.5, markeredgewidth=0, label=label)
        label = "all sections together" if is_together else "mean of the sections"
        ax.plot(values.mean(), row, "|", color=VERMILION, markersize=15, markeredgewidth=2.5, label=label)
        text = f"{values.mean():#.3g}".rstrip(".")
        text += f" ({values.size} of {n_libraries})" if values.size < n_libraries else ""
        text += "\nbelow the floor" if is_flagged else ""
    colour = VERMILION if is_flagged else "black"
    ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small", color=colour)


def _title(name: str, regime: str, table: pd.DataFrame) -> str:
    """Data set, regime and hidden part, and a warning where there is one section only."""
    if table.empty:
        return f"{name}: {regime}\nnot run"
    lines = [": ".join(filter(None, [name, regime])), tables.hidden_label(regime, table["share"].iloc[0])]
    libraries = set(table["library"])
    if len(libraries) == 1 and libraries != {tables.TOGETHER}:
        lines.append("one section only: descriptive")
    return "\n".join(lines)
