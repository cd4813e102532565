from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.validate import check_numbers, check_table
from spared_sc.pl._benchmark_tables import ROW
from spared_sc.pl._marks import OKABE_ITO, finish, make_panels, name_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = ("organism", "tissue", "n_sections", "spots")


@checks_arguments
@docs.fill()
def catalogue(table: pd.DataFrame, *, figsize: tuple[float, float] | None = None, show: bool | None = None) -> Figure:
    """Plot how many data sets, sections and spots of each tissue a catalogue has, by organism.

    Parameters
    ----------
    table
        Table from :func:`spared_sc.datasets.catalogue`, or some of its rows.
    {others}

    Returns
    -------
    The figure: a row for each tissue, those with most data sets first. The title says for how many data sets the number of
    spots is not known; they count as sets and sections, not as spots.

    Raises
    ------
    KeyError, TypeError
        If `table` is no such table.
    ValueError
        If it has no rows.

    Notes
    -----
    Figure 2 of the SpaRED paper (Ruiz et al. 2025), for the rows at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.datasets.catalogue()
    >>> fig = sp.pl.catalogue(table[table["collection"] == "SpaRED"])
    """
    check_table(table, _COLUMNS, "sp.datasets.catalogue()")
    if table.empty:
        raise ValueError("the table has no data set: pass the table of `sp.datasets.catalogue()`.")
    check_numbers(table, ("n_sections", "spots"), "sp.datasets.catalogue()")
    numbers = _numbers(table)
    tissues = numbers.groupby("tissue")[["sets", "sections", "spots"]].sum()
    order = tissues.sort_values(["sets", "spots"], ascending=False, kind="stable").index.tolist()
    panels = make_panels(None, 1, 3, figsize or (10.5, 1.8 + ROW * len(order)), layout="constrained", sharey=True)
    organisms = sorted(set(numbers["organism"]))
    for what, panel in zip(("sets", "sections", "spots"), panels.axes[0], strict=True):
        wide = numbers.pivot_table(index="tissue", columns="organism", values=what, aggfunc="sum").fillna(0)
        _draw_bars(panel, wide.reindex(index=order, columns=organisms))
        panel.set_xlabel({"sets": "data sets"}.get(what, what))
    name_rows(panels.axes[0, 0], order)
    panels.figure.suptitle(_title(numbers), fontsize="medium")
    panels.add_legend()
    return finish(panels.figure, show)


def _numbers(table: pd.DataFrame) -> pd.DataFrame:
    """Organism, tissue, and the numbers of sets, sections and spots of every data set; NaN where one is not known."""
    import pandas as pd

    return pd.DataFrame({
        "organism": table["organism"].astype(str),
        "tissue": table["tissue"].astype(str),
        "sets": 1.0,
        "sections": table["n_sections"].astype(float),
        "spots": table["spots"].astype(float),
    })  # fmt: skip


def _draw_bars(ax: Axes, wide: pd.DataFrame) -> None:
    """Stacked bars, a colour for each organism, with their total."""
    from matplotlib.ticker import MaxNLocator

    left = np.zeros(len(wide))
    for i, name in enumerate(wide.columns):
        ax.barh(
            np.arange(len(wide)), wide[name], left=left, height=0.7, color=OKABE_ITO[i % len(OKABE_ITO)], label=name
        )
        left += wide[name].to_numpy()
    for at, total in enumerate(left):
        ax.text(total, at, f" {total:,.0f}" if total else " not known", va="center", fontsize="small")
    ax.set_xlim(0, 1.3 * max(left.max(), 1))
    ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    ax.spines[["top", "right"]].set_visible(False)


def _title(numbers: pd.DataFrame) -> str:
    sums, unknown = numbers[["sections", "spots"]].sum(), int(numbers["spots"].isna().sum())
    text = f"{len(numbers)} data sets, {sums['sections']:,.0f} sections, {sums['spots']:,.0f} spots"
    return text + (f"\nspots of {unknown} data sets are not known" if unknown else "")
