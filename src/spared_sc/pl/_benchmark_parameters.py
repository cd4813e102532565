from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, data_set_means
from spared_sc._core.validate import listing
from spared_sc.pl._benchmark_tables import ROWS, n_of, relative, tidy, title
from spared_sc.pl._marks import finish, make_panels, series_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checks_arguments
@docs.fill(rows=ROWS)
def benchmark_parameters(
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
) -> Figure | Axes:
    """Plot the mean score of every method, relative to the best of each data set, against its number of parameters.

    Parameters
    ----------
    {rows}
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. The numbers are medians over the cells of a method, whose outputs differ with the
    number of genes. The title names the methods without a number.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If no method has parameters or a score.

    Notes
    -----
    Figure 8b of the SpaRED paper (Ruiz et al. 2025), for the data at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> scores = sp.benchmark.results("benchmark_output")  # doctest: +SKIP
    >>> fig = sp.pl.benchmark_parameters(scores, "mse")  # doctest: +SKIP
    """
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    values, label = relative(means)
    numbers, mean = means.methods["n_parameters"].reindex(values.columns), values.mean()
    drawn = [name for name in means.best_first if numbers[name] > 0 and mean[name] == mean[name]]
    if not drawn:
        raise ValueError(
            "no method has a number of parameters and a score: pass a table of networks from `sp.benchmark.results(out)`."
        )
    panels = make_panels(ax, 1, 1, figsize or (8.5, max(4.5, 1 + 0.22 * len(drawn))), layout="constrained")
    panel = panels.axes.item()
    for i, name in enumerate(drawn):
        colour, marker = series_style(i)
        panel.plot(numbers[name], mean[name], marker, color=colour, markersize=9, label=name)
    panel.set(xscale="log", xlabel="fitted parameters", ylabel=f"mean of {label}")
    tidy(panel, "both")
    without = [str(name) for name in values.columns if name not in drawn]
    panel.set_title(
        title(n_of(means), f"no parameters, or no score: {listing(without, 8)}" if without else "", means.missing()),
        fontsize="medium",
    )
    placed = {"loc": "upper left", "bbox_to_anchor": (1.02, 1), "borderaxespad": 0, "frameon": False}
    panels.add_legend(at_right=True, placed=placed)
    return finish(panels.result, show)
