from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, data_set_means
from spared_sc.pl._benchmark_tables import ROW, ROWS, by_mean, draw_rows, label_of, n_of, relative, squeeze, tidy, title
from spared_sc.pl._completion_tables import scale_axis
from spared_sc.pl._marks import finish, make_axes, name_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@checks_arguments
@docs.fill(rows=ROWS)
def benchmark_methods(
    scores: pd.DataFrame,
    metric: str = "mse",
    *,
    to_best: bool = True,
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
    """Plot a row for every method, best first: a point for each data set, their distribution and mean.

    Parameters
    ----------
    {rows}
    to_best
        Divide errors by the lowest of the data set, and subtract the best from other metrics, so that data sets of
        different difficulty can be put together. `False` draws the values as they are.
    {others}

    Returns
    -------
    The axes. Mean and standard deviation over data sets stand at the right of each row. There is no violin below five
    values. The axis ends before values that are far from all others; arrows stand for them. The title says what has no
    value.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several kinds that must not be mixed.

    Notes
    -----
    The violins of Figure 8a of the SpaRED paper (Ruiz et al. 2025), and with `to_best=False` those of Figure 4, for the data
    at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> ax = sp.pl.benchmark_methods(sp.benchmark.reference_external(), "mse", published=True)
    """
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    values, label = relative(means) if to_best else (means.values, label_of(metric))
    order = by_mean(values, means.higher_is_better)
    ax = make_axes(ax, figsize or (8, 1.8 + ROW * len(order)))
    columns = [values[name].dropna().to_numpy() for name in order]
    draw_rows(ax, columns)
    for at, found in enumerate(columns):
        text = "no value"
        if len(found):
            text = f"{found.mean():#.3g}" + (f" ± {found.std(ddof=1):#.2g}" if len(found) > 1 else "")
            text += f" ({len(found)})" if len(found) < len(values) else ""
        ax.text(1.02, at, text, transform=ax.get_yaxis_transform(), va="center", fontsize="small")
    name_rows(ax, order)
    ax.set_xlabel(label)
    tidy(ax)
    scale_axis(ax, "x", values.stack())
    beyond = squeeze(ax, columns)
    ax.set_title(title(f"{n_of(means)}: mean ± standard deviation", beyond, means.missing()), fontsize="medium")
    return finish(ax, show)
