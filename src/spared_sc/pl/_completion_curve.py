from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.completions import describe_method
from spared_sc._kernels.metrics import FLOORS
from spared_sc.pl import _completion_tables as tables
from spared_sc.pl._marks import check_panels, finish, labelled, make_panels, series_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = ("-", "--", ":")  # with each, every colour


@checks_arguments
@docs.fill()
def completion_curve(
    scores: pd.DataFrame,
    *,
    metric: str = "mse",
    regime: str = "detected",
    genes: str = "all",
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot how completion worsens as more is hidden: a line for every method, and the noise floor.

    Lines are means over the sections, each averaged over its masks; bands hold the middle half of the sections. Each
    data set has its own panel if the table has a column `"set"`. On a large table, name the methods to compare.

    Parameters
    ----------
    {scores}
    {metric}
    regime
        Value of the column `"regime"`.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. The legend lists the highest line first. The axis is logarithmic if the largest
    value is at least four times the smallest.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or only one hidden share, or if `ax` is given for several data sets.

    Notes
    -----
    The line plot of Figure 4 of the SpaRED paper (Ruiz et al. 2025) for the data at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), depth=300, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> arguments = {
    ...     "methods": ["additive", "median"],
    ...     "regimes": "detected",
    ...     "n_masks": 2,
    ...     "library_key": "library_id",
    ... }
    >>> scores = sp.tl.evaluate_completion(adata, shares=(0.1, 0.3, 0.5, 0.7), **arguments)
    >>> fig = sp.pl.completion_curve(scores)
    """
    from matplotlib.ticker import PercentFormatter

    table = tables.section_scores(scores, metric, regime, genes, methods)
    shares = np.unique(table["share"])
    if shares.size == 1:
        raise ValueError(
            f"the table has only the hidden share {shares[0]:g} in the regime {regime!r}, and a curve needs several: run "
            "`sp.tl.evaluate_completion` with more, or draw it with `sp.pl.completion_scores`."
        )
    sets = list(dict.fromkeys(table["set"]))
    check_panels(ax, len(sets), f"{len(sets)} data sets", "rows of one data set")
    order = tables.ranked(table, None)

    size = figsize or (2.2 + 4 * len(sets), max(3.8, 0.6 + 0.22 * len(order)))
    panels = make_panels(ax, 1, len(sets), size, layout="constrained")
    for name, panel in zip(sets, panels.axes[0], strict=True):
        part = table[table["set"] == name]
        _draw_curves(panel, part, order)
        tables.scale_axis(panel, "y", part["value"])
        panel.set(title=str(name), xticks=shares, xlabel=tables.hidden_label(regime, None) + " (%)")
        panel.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=""))
        panel.spines[["top", "right"]].set_visible(False)
    panels.axes[0, 0].set_ylabel(tables.metric_label(metric, genes))
    marks = labelled(panels.axes.flat)
    names = sorted(marks, key=[*map(describe_method, order), *marks].index)  # the noise floor last
    placed = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0, "frameon": False}
    panels.add_legend({name: marks[name] for name in names}, at_right=True, placed=placed)
    return finish(panels.result, show)


def _draw_curves(ax: Axes, table: pd.DataFrame, order: list[str]) -> None:
    """The methods' lines, the bands around them, and the noise floor."""
    low, high = (_by_library(table, end).mean(axis=1) for end in FLOORS)
    if len(low) and len(high):
        ax.fill_between(low.index, low, high, color="0.85", linewidth=0, zorder=0, label="noise floor (range)")
    for i, method in enumerate(order):
        colour, marker = series_style(i)
        values, line, label = _by_library(table, method), _LINES[i // 7 % len(_LINES)], describe_method(method)
        ax.plot(values.index, values.mean(axis=1), line, color=colour, marker=marker, markersize=5, label=label)
        if values.shape[1] > 1:
            quarters = values.quantile([0.25, 0.75], axis=1)
            ax.fill_between(values.index, *quarters.to_numpy(), color=colour, alpha=0.15, linewidth=0)


def _by_library(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Values of a method, shares x libraries."""
    return table[table["method"] == method].pivot(index="share", columns="library", values="value").sort_index()
