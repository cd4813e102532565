from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, Means, data_set_means
from spared_sc.pl._benchmark_tables import ROW, ROWS, label_of, n_of, squeeze, tidy, title
from spared_sc.pl._completion_tables import scale_axis
from spared_sc.pl._marks import OKABE_ITO, finish, make_panels, name_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checks_arguments
@docs.fill(rows=ROWS)
def benchmark_data_sets(
    scores: pd.DataFrame,
    metric: str = "pcc",
    *,
    models: Sequence[str] | None = None,
    target: str | None = None,
    loss: str | None = None,
    protocol: str | None = None,
    regime: str | None = None,
    share: float | None = None,
    published: bool = False,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot a row for every data set, the easiest first: the best model for each target, and all others.

    Parameters
    ----------
    {rows}
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. Every target (and loss) has its colour and its line within the row; the large
    point is its best model, the small ones are the others. At the right stands the model that is the best of all.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several kinds that must not be mixed.

    Notes
    -----
    Figure 6 of the SpaRED paper (Ruiz et al. 2025), models that learned raw and completed values, for the data at hand.
    Scores of different targets can be compared only if they were measured on the same values, as those of the protocol
    `"expression"` are. The best of many models is optimistic.

    Examples
    --------
    >>> import spared_sc as sp
    >>> fig = sp.pl.benchmark_data_sets(sp.benchmark.reference_external(), "pcc", published=True)
    """
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    groups = _targets(means)
    best = (means.loss.min(axis=1)).sort_values(kind="stable")
    order = best.index.tolist()
    panels = make_panels(
        ax, 1, 1, figsize or (8.5, 2 + max(ROW, 0.16 * len(groups)) * len(order)), layout="constrained"
    )
    panel = panels.axes.item()
    for k, (name, methods) in enumerate(groups.items()):
        offset = 0.5 * ((k + 0.5) / len(groups) - 0.5)
        _draw_target(panel, means, methods, order, offset, OKABE_ITO[k % len(OKABE_ITO)], name)
    for at, data_set in enumerate(order):
        found = means.loss.loc[data_set].dropna()
        text = str(found.idxmin()) if len(found) else "no value"
        panel.text(1.02, at, text, transform=panel.get_yaxis_transform(), va="center", fontsize="small")
    name_rows(panel, order)
    panel.set_xlabel(label_of(metric))
    tidy(panel)
    if not means.higher_is_better:
        scale_axis(panel, "x", means.values.stack())
    beyond = squeeze(panel, [means.values.loc[data_set].to_numpy() for data_set in order])
    panel.set_title(title(f"{n_of(means)}; best model at the right", beyond, means.missing()), fontsize="medium")
    if len(groups) > 1:
        panels.add_legend()
    return finish(panels.result, show)


def _targets(means: Means) -> dict[str, list[str]]:
    """Methods of every target and loss."""
    table = means.methods.reindex(means.values.columns)
    parts = [name for name in ("target", "loss") if table[name].nunique() > 1]
    names = table[parts].apply(", ".join, axis=1) if parts else table["target"]
    return {str(name): names.index[names == name].tolist() for name in dict.fromkeys(names)}


def _draw_target(
    ax: Axes, means: Means, methods: list[str], order: list[str], offset: float, colour: str, name: str
) -> None:
    """All models of a target as small points, and the best of each data set as a large one."""
    values, losses = means.values.loc[order, methods], means.loss.loc[order, methods]
    at = np.arange(len(order)) + offset
    for method in methods:
        ax.plot(values[method], at, "o", color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
    best = [values.loc[one, losses.loc[one].idxmin()] if losses.loc[one].notna().any() else np.nan for one in order]
    ax.plot(best, at, "o", color=colour, markersize=7, markeredgewidth=0, label=name or "best model")
