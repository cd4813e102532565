from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.completions import completed_layers, describe_layer
from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, dense, gene_mask, get_detected, get_layer, listing
from spared_sc._kernels.metrics import FLOORS, HIGHER_IS_BETTER
from spared_sc.pl._spots import (
    LEGEND_WIDTH,
    OKABE_ITO,
    PANEL_WIDTH,
    add_legend,
    agreement,
    check_panels,
    draw_pairs,
    pick,
    unit,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BLUE, _, _, _, _, _VERMILION, _ = OKABE_ITO
_COLUMNS = ("regime", "share", "mask", "method", "library", "genes", "metric", "value")
_FLOOR_STYLE = {"color": "0.85", "linewidth": 0, "zorder": 0, "label": "noise floor (range)"}  # no method is grey
_DOT = {"color": _BLUE, "alpha": 0.5, "markeredgewidth": 0}
_MEAN = {"color": _VERMILION, "markersize": 15, "markeredgewidth": 2.5}
_METRICS = {
    "mse": "mean squared error\n(squared units of the layer)",
    "mae": "mean absolute error\n(units of the layer)",
    "r2": "R2 over the gene's mean",
    "pcc": "Pearson correlation per gene",
    "pcc_pooled": "Pearson correlation per gene, sections together",
    "moran_change": "change of Moran's I",
    "correlation_error": "mean error of correlations between genes",
    "crps": "CRPS\n(units of the layer)",
    "crps_constant": "CRPS at constant width\n(units of the layer)",
    "coverage_90": "hidden values inside the 90 % interval",
    "deviance": "Poisson deviance per entry",
    "calibration": "held-out over expected counts",
}
_IDEALS = {"moran_change": 0, "coverage_90": 0.9, "calibration": 1}  # best is what comes next; else less is better
_TOGETHER = "all"  # the library of values that are of all libraries together
_REGIMES = {  # what `share` is a share of
    "paper": "{} of detected entries hidden",
    "released": "{} of all entries hidden",
    "spots": "{} of spots hidden",
    "blocks": "{} of spots hidden, in blocks",
    "thinning": "counts split, scored on the other part",
}
_SHARE = 0.3  # the hidden share of the paper
_WIDE = 4  # largest over smallest value from which a linear axis squeezes the differences between the good methods
_ROW = 0.27  # inches for a method
_MARKERS = "osD^vPX"  # with each of them, every colour
_N_BINS = 60


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
    """Methods of completion, best first: a dot for every section, the mean of the sections, and the noise floor.

    The masks of a section are averaged first. Every regime has a panel of its own, and so has every data set where the
    table has a column `"set"`; the methods are in one order for all panels, by their mean rank. The shaded band is the
    range of the noise floor, mean of the sections: the error that stays with perfect knowledge of the expected counts.

    Parameters
    ----------
    scores
        Table as `sp.tl.evaluate_completion` returns it; several of them can be concatenated, with a column `"set"` that
        names the data set.
    metric
        Value of the column `"metric"`.
    regime
        Regimes to draw, from left to right; by default all that have the metric.
    share
        Hidden share, where a regime was run with several; by default the one next to 0.3, that of the paper.
    genes
        Value of the column `"genes"`: `"all"`, or a group.
    methods
        Methods to draw; by default all.
    ax
        Axes to draw into, for one regime and one data set only.
    figsize
        Width and height of the new figure in inches; by default it grows with methods and panels.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given. Means stand at the right of each panel, with the number of sections behind
    them where a method has no value for some, and in red where the table flags a value as below the noise floor. The
    dashed line is the ideal of metrics that have one, such as 0.9 for the coverage of the 90 % interval. The axis is
    logarithmic when the largest value is at least four times the smallest.

    Raises
    ------
    KeyError
        If a column of the table is missing.
    TypeError
        If `scores` is no table.
    ValueError
        If the table has no rows for what was asked for, or if `ax` is given with several panels.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), depth=300, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> methods = ["gene_mean", "additive", "soft_impute"]
    >>> scores = sp.tl.evaluate_completion(adata, methods=methods, n_masks=2, library_key="library_id")
    >>> fig = sp.pl.completion_scores(scores)
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    table = _sections(scores, metric, regime, genes, methods)
    table = table[table["share"] == _one_share(table, share)]
    order = _ranked(table, _loss(metric))
    sets = list(dict.fromkeys(table["set"]))
    regimes = list(dict.fromkeys(table["regime"] if regime is None or isinstance(regime, str) else regime))
    check_panels(ax, len(sets) * len(regimes), f"{len(sets)} data sets x {len(regimes)} regimes", "`regime=`")
    if ax is None:
        width = 1.6 + PANEL_WIDTH * len(regimes)
        height = (0.8 if width >= LEGEND_WIDTH else 1.2) + (1.1 + _ROW * len(order)) * len(sets)
        fig, axes = plt.subplots(
            len(sets),
            len(regimes),
            squeeze=False,
            sharey=True,
            figsize=figsize or (width, height),
            layout="constrained",
        )
    else:
        fig, axes = ax.figure, np.array([[ax]])

    for name, row in zip(sets, axes, strict=True):
        for which, panel in zip(regimes, row, strict=True):
            part = table[(table["set"] == name) & (table["regime"] == which)]
            _draw_methods(panel, part, order, _IDEALS.get(_base(metric)))
            panel.set_title(_title(str(name), which, part), fontsize="medium")
    for panel in axes[-1]:
        panel.set_xlabel(_label(metric, genes))
    add_legend(fig, ax, axes)
    if show:
        plt.show()
    return fig if ax is None else ax


def completion_curve(
    scores: pd.DataFrame,
    *,
    metric: str = "mse",
    regime: str = "paper",
    genes: str = "all",
    methods: str | Sequence[str] | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """How completion worsens as more is hidden: a line for every method, and the noise floor.

    The lines are means of the sections, each of them averaged over its masks; the bands around them hold the middle half
    of the sections. Data sets have panels of their own where the table has a column `"set"`. On a large table, name the
    methods to compare.

    Parameters
    ----------
    scores
        Table as `sp.tl.evaluate_completion` returns it, with several hidden shares; several tables can be concatenated,
        with a column `"set"` that names the data set.
    metric
        Value of the column `"metric"`.
    regime
        Value of the column `"regime"`.
    genes
        Value of the column `"genes"`: `"all"`, or a group.
    methods
        Methods to draw; by default all.
    ax
        Axes to draw into, for one data set only.
    figsize
        Width and height of the new figure in inches; by default it grows with the data sets.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given. The legend goes from the highest line to the lowest. The axis is logarithmic
    when the largest value is at least four times the smallest.

    Raises
    ------
    KeyError
        If a column of the table is missing.
    TypeError
        If `scores` is no table.
    ValueError
        If the table has no rows for what was asked for, or only one hidden share, or if `ax` is given with several data
        sets.

    Notes
    -----
    The line plot of Figure 4 of the SpaRED paper (Ruiz et al. 2025) on the data at hand.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), depth=300, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> arguments = {"methods": ["additive", "median"], "regimes": "paper", "n_masks": 2, "library_key": "library_id"}
    >>> scores = sp.tl.evaluate_completion(adata, shares=(0.1, 0.3, 0.5, 0.7), **arguments)
    >>> fig = sp.pl.completion_curve(scores)
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    from matplotlib.ticker import PercentFormatter

    table = _sections(scores, metric, regime, genes, methods)
    shares = np.unique(table["share"])
    if shares.size == 1:
        raise ValueError(
            f"the table has only the hidden share {shares[0]:g} in the regime {regime!r}, and a curve needs several: run "
            "`sp.tl.evaluate_completion` with more, or draw it with `sp.pl.completion_scores`."
        )
    sets = list(dict.fromkeys(table["set"]))
    check_panels(ax, len(sets), f"{len(sets)} data sets", "rows of one data set")
    order = _ranked(table, lambda value: -value)
    styles = dict(zip(order, map(_style, range(len(order))), strict=True))
    if ax is None:
        size = figsize or (2.2 + 4 * len(sets), max(3.8, 0.6 + 0.22 * len(order)))
        fig, axes = plt.subplots(1, len(sets), squeeze=False, figsize=size, layout="constrained")
        axes = axes[0]
    else:
        fig, axes = ax.figure, [ax]

    for name, panel in zip(sets, axes, strict=True):
        part = table[table["set"] == name]
        low, high = (_line(part, method).mean(axis=1) for method in FLOORS)
        if len(low) and len(high):
            panel.fill_between(low.index, low, high, **_FLOOR_STYLE)
        for method, style in styles.items():
            values = _line(part, method)
            panel.plot(values.index, values.mean(axis=1), label=method, **style)
            if values.shape[1] > 1:
                quarters = values.quantile([0.25, 0.75], axis=1)
                panel.fill_between(values.index, *quarters.to_numpy(), color=style["color"], alpha=0.15, linewidth=0)
        _scale(panel, "y", part["value"])
        panel.set_title(str(name))
        panel.set_xticks(shares)
        panel.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0, symbol=""))
        panel.set_xlabel(_hidden(regime, None) + " (%)")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(_label(metric, genes))
    marks = {text: mark for panel in axes for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    names = [*styles, *(name for name in marks if name not in styles)]
    handles = [marks[name] for name in names]
    if ax is None:
        fig.legend(handles, names, loc="outside right upper", frameon=False)
    else:
        ax.legend(handles, names, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, frameon=False)
    if show:
        plt.show()
    return fig if ax is None else ax


def completion_scatter(
    adata: AnnData,
    *,
    key: str | Sequence[str] | None = None,
    layer: str = Key.layers.log2tpm,
    hidden: str = "hidden",
    mask_var: str | None = Key.var.selected,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Filled against measured values, at entries that were hidden from the completion.

    A two-dimensional histogram for every completed layer, on common axes, with the line of equality; its title gives the
    mean squared error, Pearson's correlation over all entries (the gene's level included, as the paper counts it), and
    the number of entries. This draws values that are there and completes nothing: hide entries in a copy, complete the
    copy, and bring the layer back, as in the example.

    Parameters
    ----------
    adata
        Spots x genes, with the layers.
    key
        Layers that were completed with the entries hidden; each one has a panel. By default all completed layers.
    layer
        Layer with the measured values.
    hidden
        Boolean layer that is true at the entries that were hidden. Entries that were not detected have no measured value
        and are left out.
    mask_var
        Boolean column of `adata.var` with the genes that were completed. The default column is used where it exists;
        `None` means all genes.
    ax
        Axes to draw into, for one layer only.
    figsize
        Width and height of the new figure in inches; by default it grows with the layers.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given.

    Raises
    ------
    KeyError
        If a layer or `mask_var` does not exist.
    TypeError
        If the layer `hidden` is not boolean.
    ValueError
        If `hidden` marks no detected entry of the genes, if a completed layer repeats the measured value at half of
        the hidden entries or more (it was made while they were visible), or if `ax` is given with several layers.

    Notes
    -----
    The scatter plots of Figure 5 of the SpaRED paper (Ruiz et al. 2025), for all genes at once.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import numpy as np
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_genes=50, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=20)
    >>> detected = adata.layers["detected"].toarray()
    >>> hidden = detected & (np.random.default_rng(0).random(adata.shape) < 0.3)
    >>> rest = adata.copy()
    >>> for layer in ["log2tpm", "detected"]:
    ...     rest.layers[layer] = rest.layers[layer].multiply(~hidden).tocsr()
    >>> sp.tl.median_complete(rest, library_key="library_id")
    >>> adata.layers["hidden"] = hidden
    >>> adata.layers["median"] = rest.layers["median"]
    >>> fig = sp.pl.completion_scatter(adata)
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    check_adata(adata)
    keys = completed_layers(adata) if key is None else [key] if isinstance(key, str) else list(key)
    check_panels(ax, max(len(keys), 1), f"{len(keys)} layers", "one with `key=`")
    measured, filled = _hidden_values(adata, keys, layer, hidden, mask_var)
    edges = np.histogram_bin_edges(np.concatenate([measured, *filled]), bins=_N_BINS)
    counts = [np.histogram2d(measured, values, bins=edges)[0].T for values in filled]

    if ax is None:
        size = figsize or (PANEL_WIDTH * len(keys) + 1.3, PANEL_WIDTH + 0.8)
        # As for all panels of fixed aspect.
        fig, axes = plt.subplots(1, len(keys), squeeze=False, figsize=size, layout="compressed")
        axes = axes[0]
    else:
        fig, axes = ax.figure, [ax]
    norm = LogNorm(1, max(2, max(count.max() for count in counts)))
    for name, panel, values, count in zip(keys, axes, filled, counts, strict=True):
        mesh = draw_pairs(panel, edges, count, norm, "filled = measured")
        panel.set_title(f"{describe_layer(adata, name)}\n{_agreement(measured, values)}", fontsize="medium")
        panel.set_xlabel(f"measured, {unit(adata, layer)}")
    axes[0].set_ylabel(f"filled in, {unit(adata, layer)}")
    fig.colorbar(mesh, ax=axes, label="hidden entries", shrink=0.8, aspect=25)
    if show:
        plt.show()
    return fig if ax is None else ax


def _sections(
    scores: pd.DataFrame,
    metric: str,
    regime: str | Sequence[str] | None,
    genes: str,
    methods: str | Sequence[str] | None,
) -> pd.DataFrame:
    """The rows asked for, masks averaged: a value for each data set, regime, share, method and library."""
    import pandas as pd

    if not isinstance(scores, pd.DataFrame):
        raise TypeError(
            f"expected the table of `sp.tl.evaluate_completion(adata)`, found {type(scores).__name__}: pass that table."
        )
    missing = [column for column in _COLUMNS if column not in scores]
    if missing:
        raise KeyError(
            f"the table has no column {missing[0]!r} (columns: {listing(scores.columns)}): pass the table that "
            "`sp.tl.evaluate_completion(adata)` returns."
        )
    table = scores if "set" in scores else scores.assign(set="")
    table = pick(table, "metric", metric)
    table = pick(table, "genes", genes)
    is_floor = table["method"].isin(FLOORS)
    if is_floor.all():
        raise ValueError(f"the table has no method with metric={metric!r} and genes={genes!r}, only the noise floor.")
    chosen = table[~is_floor] if methods is None else pick(table[~is_floor], "method", methods, "methods")
    chosen = chosen if regime is None else pick(chosen, "regime", regime)
    table = pd.concat([chosen, table[is_floor & table["regime"].isin(chosen["regime"])]])
    table = table.assign(share=table["share"].fillna(0))  # a regime may have none
    # Categories without rows would come back as groups.
    by = ["set", "regime", "share", "method", "library"]
    flagged = table["flag"].ne("") if "flag" in table else False
    groups = table.assign(flagged=flagged).groupby(by, observed=True, sort=False)
    return groups.agg(value=("value", "mean"), flagged=("flagged", "any")).reset_index()


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


def _base(metric: str) -> str:
    """The metric without its decile."""
    return re.sub(r"_d\d+$", "", metric)


def _loss(metric: str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """What makes less of a metric the better."""
    if metric in HIGHER_IS_BETTER:
        return lambda value: -value
    if _base(metric) in _IDEALS:
        return lambda value: (value - _IDEALS[_base(metric)]).abs()
    return lambda value: value


def _ranked(table: pd.DataFrame, loss: Callable[[pd.DataFrame], pd.DataFrame]) -> list[str]:
    """Methods by their mean rank over data sets, regimes and shares; those without any value last."""
    table = table[~table["method"].isin(FLOORS)]
    by = ["set", "regime", "share", "method"]
    means = table.groupby(by, observed=True, sort=False)["value"].mean().unstack("method")
    return loss(means).rank(axis=1).mean().sort_values(kind="stable").index.tolist()


def _draw_methods(ax: Axes, table: pd.DataFrame, order: list[str], ideal: float | None) -> None:
    """A row for every method: its sections, and their mean in the plot and as a number beside it."""
    low, high = (table.loc[table["method"] == method, "value"].mean() for method in FLOORS)
    if np.isfinite([low, high]).all():
        ax.axvspan(low, high, **_FLOOR_STYLE)
    if ideal is not None:
        ax.axvline(ideal, color="black", linewidth=1, linestyle="--", label="ideal")
    table = table[~table["method"].isin(FLOORS)]
    n_libraries = table["library"].nunique()
    together = set(table["library"]) == {_TOGETHER}
    mean = "all sections together" if together else "mean of the sections"
    right = ax.get_yaxis_transform()
    for row, method in enumerate(order):
        part = table[table["method"] == method]
        values, flagged = part["value"].dropna().to_numpy(), bool(part["flagged"].any())
        text = "no value"
        if values.size:
            if not together:
                ax.plot(values, np.full(values.size, row), "o", label="a section, its masks averaged", **_DOT)
            ax.plot(values.mean(), row, "|", label=mean, **_MEAN)
            text = f"{values.mean():#.3g}".rstrip(".")
            text += f" ({values.size} of {n_libraries})" if values.size < n_libraries else ""
            text += "\nbelow the floor" if flagged else ""
        colour = _VERMILION if flagged else "black"
        ax.text(1.02, row, text, transform=right, va="center", fontsize="small", color=colour)
    ax.set_yticks(range(len(order)), order)
    ax.set_ylim(len(order) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", color="0.9", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    _scale(ax, "x", table["value"])


def _scale(ax: Axes, which: str, values: pd.Series) -> None:
    """A logarithmic axis with plain numbers where a linear one would squeeze the small values."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    values = values[np.isfinite(values)]
    if values.empty or values.min() <= 0 or values.max() < _WIDE * values.min():
        return
    getattr(ax, f"set_{which}scale")("log")
    axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _label(metric: str, genes: str) -> str:
    base = _base(metric)
    label = _METRICS.get(base, base)
    label += f", decile {metric.removeprefix(f'{base}_d')} of the prediction" if base != metric else ""
    return label + ("" if genes == "all" else f", {genes} genes")


def _title(name: str, regime: str, table: pd.DataFrame) -> str:
    """Data set and regime, what was hidden, and a warning where one section is all there is."""
    if table.empty:
        return f"{name}: {regime}\nnot run"
    one = set(table["library"])
    one = "\none section only: descriptive" if len(one) == 1 and one != {_TOGETHER} else ""
    return ": ".join(filter(None, [name, regime])) + "\n" + _hidden(regime, table["share"].iloc[0]) + one


def _hidden(regime: str, share: float | None) -> str:
    """What was hidden, in words: so much of what, or the share of what."""
    return _REGIMES.get(regime, "{} hidden").format("share" if share is None else f"{100 * share:.3g} %")


def _style(i: int) -> dict[str, str | float]:
    """Colour and marker of the i-th line."""
    colour, marker = OKABE_ITO[i % len(OKABE_ITO)], _MARKERS[i // len(OKABE_ITO) % len(_MARKERS)]
    return {"color": colour, "marker": marker, "markersize": 5, "linestyle": ["-", "--", ":"][i // len(OKABE_ITO) % 3]}


def _line(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Values of a method, shares x libraries."""
    return table[table["method"] == method].pivot(index="share", columns="library", values="value").sort_index()


def _hidden_values(
    adata: AnnData, keys: list[str], layer: str, hidden: str, mask_var: str | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Measured values at the hidden entries, and the filled ones of each layer."""
    for name, argument in [*((key, "key") for key in keys), (layer, "layer"), (hidden, "hidden")]:
        if name not in adata.layers:
            made = {
                "key": "a layer completed with the entries hidden",
                "layer": "the layer with the measured values",
                "hidden": "a boolean layer that marks the entries that were hidden from the completion",
            }
            raise KeyError(
                f"there is no layer {name!r} (layers: {listing(adata.layers)}): pass {made[argument]} as `{argument}=`."
            )
    if not keys:
        raise ValueError(
            f"there is no completed layer to draw, `key` is empty: pass some of {listing(adata.layers)}, or complete a copy "
            "in which the entries are hidden and bring its layer back."
        )
    if adata.layers[hidden].dtype != bool:
        raise TypeError(
            f"layers[{hidden!r}] has the type {adata.layers[hidden].dtype}: a boolean layer is needed, true at the "
            "entries that were hidden."
        )
    genes = np.flatnonzero(gene_mask(adata, mask_var, optional=Key.var.selected))
    detected = dense(get_detected(adata)[:, genes])
    entries = dense(get_layer(adata, hidden)[:, genes]) & detected
    if not entries.any():
        raise ValueError(
            f"layers[{hidden!r}] marks no detected entry of the {genes.size} genes: mark the entries that were hidden "
            "from the completion, or choose other genes with `mask_var=`."
        )
    measured = dense(get_layer(adata, layer)[:, genes])[entries].astype(np.float64)
    filled = [dense(get_layer(adata, key)[:, genes])[entries].astype(np.float64) for key in keys]
    for key, values in zip(keys, filled, strict=True):
        same = int((values == measured).sum())
        if 2 * same >= measured.size:
            raise ValueError(
                f"layers[{key!r}] repeats the measured value at {same} of {measured.size} hidden entries: it was made "
                "while they were visible. Hide them in a copy, complete the copy, and bring its layer back."
            )
    return measured, filled


def _agreement(measured: np.ndarray, filled: np.ndarray) -> str:
    """The title of a panel: over all entries, the gene's level included."""
    varies = np.ptp(measured) > 0 and np.ptp(filled) > 0
    pcc = np.corrcoef(measured, filled)[0, 1] if varies else np.nan
    return agreement(np.mean((measured - filled) ** 2), pcc, measured.size)
