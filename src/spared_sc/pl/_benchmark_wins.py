from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, data_set_means
from spared_sc.pl._benchmark_tables import ROW, ROWS, n_of, title
from spared_sc.pl._marks import BLUE, finish, make_axes, name_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@checks_arguments
@docs.fill(rows=ROWS)
def benchmark_wins(
    scores: pd.DataFrame,
    metric: str = "mse",
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
) -> Axes:
    """Plot how many data sets each method is the best on.

    Parameters
    ----------
    {rows}
    {others}

    Returns
    -------
    The axes, with a bar for every method that has a value. Methods that tie share the data set. A method that is slightly
    the best wins as much as one that is so by far: see :func:`spared_sc.pl.benchmark_methods` for how far.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several kinds that must not be mixed.

    Notes
    -----
    The shares of the pie chart in Figure 8a of the SpaRED paper (Ruiz et al. 2025), for the data at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> ax = sp.pl.benchmark_wins(sp.benchmark.reference_external(), "mse", published=True)
    """
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    is_best = means.loss.eq(means.loss.min(axis=1), axis=0)
    wins = is_best.div(is_best.sum(axis=1), axis=0).sum().sort_values(ascending=False, kind="stable")
    n = int(is_best.any(axis=1).sum())
    ax = make_axes(ax, figsize or (7, 1.7 + ROW * len(wins)))
    ax.barh(np.arange(len(wins)), wins, color=BLUE, height=0.7)
    for at, value in enumerate(wins):
        ax.text(value, at, f" {value:.3g} ({value / max(n, 1):.0%})", va="center", fontsize="small")
    name_rows(ax, wins.index.tolist())
    ax.set(xlabel=f"data sets with the best {metric}", xlim=(0, 1.25 * max(wins.max(), 1)))
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_title(title(n_of(means), means.missing()), fontsize="medium")
    return finish(ax, show)
