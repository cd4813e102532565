from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, data_set_means
from spared_sc.pl._benchmark_tables import ROWS, draw_rows, label_of, n_of, tidy, title
from spared_sc.pl._marks import as_list, check_names, check_panels, finish, make_panels, name_rows

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CATEGORIES = {"organism": "organism", "n_genes": "genes", "generalisation": "generalisation", "tissue": "tissue"}


@checks_arguments
@docs.fill(rows=ROWS)
def benchmark_categories(
    scores: pd.DataFrame,
    metric: str = "pcc",
    *,
    by: str | Sequence[str] = tuple(_CATEGORIES),
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
    """Plot the best score on every data set by organism, number of genes, generalisation and tissue.

    Parameters
    ----------
    {rows}
    by
        Categories, a panel each: any of `"organism"`, `"n_genes"`, `"generalisation"` and `"tissue"`.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. A point is the best model on a data set; bars are means of several. Categories differ in
    sources, depth and much else: a difference between them has no cause that this plot could name.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or if `ax` is given for several panels.

    Notes
    -----
    Figure 7 of the SpaRED paper (Ruiz et al. 2025), for the data at hand.

    Examples
    --------
    >>> import spared_sc as sp
    >>> fig = sp.pl.benchmark_categories(sp.benchmark.reference_external(), "pcc", published=True)
    """
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    wanted = check_names(as_list(by), _CATEGORIES, "category", "by", error=ValueError)
    check_panels(ax, len(wanted), f"{len(wanted)} categories", "one of them as `by=`")
    best = means.values.max(axis=1) if means.higher_is_better else means.values.min(axis=1)
    groups = {name: _groups(means.facts.reindex(best.index), best, name) for name in wanted}
    heights = [len(groups[name]) for name in wanted]
    size = figsize or (7, 1.2 + 0.32 * sum(heights) + 0.55 * len(wanted))
    ratios = {"height_ratios": [height + 0.6 for height in heights]}
    panels = make_panels(ax, len(wanted), 1, size, layout="constrained", sharex=True, gridspec_kw=ratios)
    for name, panel in zip(wanted, panels.axes[:, 0], strict=True):
        draw_rows(panel, list(groups[name].values()))
        name_rows(panel, [f"{value} ({len(found)})" for value, found in groups[name].items()])
        panel.set_ylabel(_CATEGORIES[name], fontsize="small")
        tidy(panel, "x")
    panels.axes[-1, 0].set_xlabel(f"{label_of(metric)}, best model")
    lost = int(best.isna().sum())
    text = title(n_of(means), f"{lost} data sets without a value" if lost else "")
    panels.axes[0, 0].set_title(text, fontsize="medium")
    return finish(panels.result, show)


def _groups(facts: pd.DataFrame, best: pd.Series, name: str) -> dict[str, np.ndarray]:
    """Values of every category, the highest mean first; what is not known is a category of its own."""
    import pandas as pd

    known = facts[name] if name in facts else pd.Series("", index=best.index)
    texts = known.map(lambda value: "" if pd.isna(value) else str(value).removesuffix(".0").lower()).astype(object)
    texts = texts.replace("", "not known")
    found = {str(value): best[texts == value].dropna().to_numpy() for value in dict.fromkeys(texts)}
    found = {value: values for value, values in found.items() if len(values)}
    return dict(sorted(found.items(), key=lambda item: -item[1].mean()))
