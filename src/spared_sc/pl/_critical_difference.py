from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.comparisons import Comparison
from spared_sc.pl._benchmark_tables import title
from spared_sc.pl._marks import BLUE, VERMILION, finish, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_GROUPS = 0.45  # of a row, between two bars of methods that do not differ


@checks_arguments
@docs.fill()
def critical_difference(
    comparison: Comparison,
    *,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Plot the mean ranks of methods, with bars that join those that do not differ by Nemenyi's test.

    Parameters
    ----------
    comparison
        Result of :func:`spared_sc.benchmark.compare`.
    {others}

    Returns
    -------
    The axes. The best method is at the left; the bar at the top is as long as the critical difference. The title names the
    omnibus test, and what is left out.

    Raises
    ------
    TypeError
        If `comparison` is something else.

    Notes
    -----
    The diagram of Demsar (2006).

    Examples
    --------
    >>> import spared_sc as sp
    >>> comparison = sp.benchmark.compare(sp.benchmark.reference_external(), "mse", published=True)
    >>> ax = sp.pl.critical_difference(comparison)
    """
    if not isinstance(comparison, Comparison):
        raise TypeError(
            f"expected the result of `sp.benchmark.compare(scores)`, found {type(comparison).__name__}: pass that."
        )
    ranks, n = comparison.ranks, len(comparison.ranks)
    n_left = -(-n // 2)
    groups = _groups(ranks.to_numpy(), comparison.critical_difference)
    first_row = 1 + _GROUPS * len(groups)
    ax = make_axes(ax, figsize or (8, 1.8 + 0.3 * (first_row + n_left) + 0.17 * len(comparison.left_out)))
    low, high = min(1.0, np.floor(ranks.iloc[0])), max(float(n), np.ceil(ranks.iloc[-1]))
    ends = (low - 0.04 * (high - low), high + 0.04 * (high - low))
    ax.set(xlim=ends, ylim=(first_row + n_left - 0.5, -2.2))
    _draw_names(ax, comparison, n_left, first_row, ends)
    for at, (start, stop) in enumerate(groups):
        ax.plot(ranks.iloc[[start, stop]] + [-0.05, 0.05], [0.5 + _GROUPS * at] * 2, color=BLUE, linewidth=4)
    _draw_scale(ax, comparison.critical_difference, low, high)
    ax.set_title(_title(comparison), fontsize="medium")
    return finish(ax, show)


def _groups(ranks: np.ndarray, difference: float) -> list[tuple[int, int]]:
    """First and last of every longest run of methods that do not differ, sorted by rank."""
    last = [int(np.flatnonzero(ranks - rank < difference)[-1]) for rank in ranks] if np.isfinite(difference) else []
    return [(i, j) for i, j in enumerate(last) if j > i and (i == 0 or last[i - 1] < j)]


def _draw_names(ax: Axes, comparison: Comparison, n_left: int, first_row: float, ends: tuple[float, float]) -> None:
    """A line from the rank of every method to its name, the better half at the left."""
    names = [f"{name}  {rank:.2f}" for name, rank in comparison.ranks.items()]
    n = len(names)
    rows = [first_row + (i if i < n_left else n - 1 - i) for i in range(n)]
    for i, (rank, row) in enumerate(zip(comparison.ranks, rows, strict=True)):
        ax.plot([rank, rank, ends[0] if i < n_left else ends[1]], [0, row, row], color="0.4", linewidth=0.9, zorder=0)
        ax.plot(rank, 0, "o", color="black", markersize=4)
    ax.set_yticks(rows[:n_left], names[:n_left])
    right = ax.secondary_yaxis("right")
    right.set_yticks(rows[n_left:], names[n_left:])
    for one in (ax, right):
        one.tick_params(axis="y", length=0)
        one.spines[:].set_visible(False)


def _draw_scale(ax: Axes, difference: float, low: float, high: float) -> None:
    """The axis of ranks, and the critical difference above it."""
    ax.set_xticks([])
    ax.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in np.arange(np.ceil(low), high + 0.5):
        ax.plot([tick, tick], [0, -0.15], color="black", linewidth=1)
        ax.text(tick, -0.22, f"{tick:g}", ha="center", va="bottom", fontsize="small")
    if np.isfinite(difference):
        end = min(low + difference, high)
        ax.plot([low, end], [-1.6, -1.6], color=VERMILION, linewidth=2)
        text = f"critical difference {difference:.2f}" + (", longer than the axis" if end < low + difference else "")
        ax.text(low, -1.7, text, ha="left", va="bottom", fontsize="small", color=VERMILION)
    ax.text(high, -0.75, "mean rank (1 is best)", ha="right", va="bottom", fontsize="small")


def _title(found: Comparison) -> str:
    unit = "data sets" if found.blocks == "dataset" else "sources"
    test = found.friedman
    omnibus = f"Friedman p = {test.p_chi_squared:.2g}"
    if np.isfinite(test.p_f):
        omnibus = f"Friedman (Iman-Davenport) p = {test.p_f:.2g}"
    elif not np.isfinite(test.chi_squared):
        omnibus = "no omnibus test: all ranks are tied"
    further = ""
    if found.blocks == "dataset" and "sources" in found.sensitivity.index:
        row = found.sensitivity.loc["sources"]
        if np.isfinite(row["nemenyi"]):
            n_pairs = int((found.pairs["nemenyi"] < found.alpha).sum())
            further = f"{n_pairs} of {len(found.pairs)} pairs differ; {row['nemenyi']:.0f} with the {row['n_blocks']} sources as blocks"
    left_out = [f"{name}, {why}" for name, why in found.left_out.items()]
    return title(
        f"{found.metric} over {len(found.values)} {unit}; {omnibus}",
        further,
        f"left out: {'; '.join(left_out)}" if left_out else "",
    )
