from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.predictions import by_library, prediction_key, scored_libraries
from spared_sc._core.validate import (
    check_adata,
    check_number,
    dense,
    get_detected,
    get_layer,
    get_libraries,
    listing,
)
from spared_sc._kernels import prediction_scores as kernel
from spared_sc._kernels.metrics import FLOORS
from spared_sc.pl._spots import (
    OKABE_ITO,
    PANEL_WIDTH,
    add_circles,
    add_legend,
    add_spot_legend,
    agreement,
    check_panels,
    colour_scale,
    column,
    draw_pairs,
    draw_spots,
    draw_tissue,
    get_sections,
    in_points,
    pcc_text,
    pick,
    unit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

    from spared_sc._core.validate import Libraries
    from spared_sc.pl._spots import Section

_BLUE, _, _, _, _, _VERMILION, _ = OKABE_ITO
_PANELS = ("measured", "predicted", "difference")
_DIVERGING = "RdBu_r"
_FITTED = {"train": "fitted to {}", "val": "fit chosen on {}", "seen": "target layer made with {}"}

_COLUMNS = ("prediction", "library", "role", "gene", "metric", "value", "lower", "upper")
_ALL = "all"
_METRICS = {  # what is on the axis, and what the bar is
    "pcc": ("Pearson correlation of a gene within sections", "mean of the genes"),
    "mse": ("mean squared error of a gene (squared units of the layer)", "all genes together"),
    "mae": ("mean absolute error of a gene (units of the layer)", "all genes together"),
    "r2": ("R2 of a gene over its mean in the section", "all genes together"),
    "skill": ("skill of a gene: share of the error of gene_mean removed", "all genes together"),
}
_ERRORS = ("mse", "mae")  # less is better; the others have a zero, at which a prediction says nothing
_NO_ERROR = "no error"  # the row of what a prediction without error would score
_MOST = 12  # predictions that can be read
_ROW = 0.6  # inches for a prediction
_STRIP = 0.36  # how far the worst and the best gene lie off the middle of their row
_MODEL, _ANCHOR, _CEILING = _BLUE, "0.35", "0.65"
_BAND = {"color": "0.88", "linewidth": 0, "zorder": 0}
_BAR = {"color": _VERMILION, "markersize": 18, "markeredgewidth": 2.5}
_RING = {"marker": "o", "linestyle": "", "markersize": 6, "markerfacecolor": "none", "markeredgecolor": "black"}
_FAR = 2  # times the range of the middle 98 %: a few genes further off would squeeze all others

_N_BINS = 40
_N_COLUMNS = 4


def predicted(
    adata: AnnData,
    gene: str,
    *,
    key: str | None = None,
    layer: str = Key.layers.log2tpm,
    panels: str | Sequence[str] | None = None,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    img: bool = True,
    img_key: str | None = None,
    size: float = 1.0,
    cmap: str | Colormap = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 1.0,
    crop: bool = True,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """One gene as it was measured, as it was predicted, and the difference, on the tissue; sections are rows.

    Measured and predicted expression share one colour scale. Spots in which the gene was not detected are grey in
    the measured panel, and left out of the difference, which is predicted - measured. Beside each section stand the share of spots in which
    the gene was detected and the Pearson correlation over those, and whether the section had a part in fitting: there,
    the correlation says nothing about the predictor. On a slide without measured expression, only the prediction is
    drawn.

    Parameters
    ----------
    adata
        Spots x genes, with a table from :func:`spared_sc.tl.predict_expression` and positions.
    gene
        One of the predicted genes.
    key
        Name of the table in `obsm`; not needed where there is one.
    layer
        Measured expression.
    panels
        Panels to draw, out of `"measured"`, `"predicted"` and `"difference"`; by default all that can be drawn.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.
    libraries
        Libraries to show, from top to bottom; `None` shows all.
    spatial_key
        Slot of `adata.obsm` with positions (x, y) in pixels of the full-resolution image.
    img
        Whether to draw the tissue image, lightened, where there is one.
    img_key
        Name of the image in `uns["spatial"][library]["images"]`; `None` takes `"hires"`, else `"lowres"`.
    size
        Diameter of the circles, as a multiple of the spots' own.
    cmap
        Colour map of measured and predicted expression.
    vmin, vmax
        Ends of its scale; by default the 1st and the 99th percentile of the measured and predicted values of the spots
        shown in which the gene was detected, or of all predicted ones where there are no measured ones.
    alpha
        Opacity of the circles.
    crop
        Whether to show only the part of the image that holds spots.
    ax
        Axes to draw into, for one library and one panel only.
    figsize
        Width and height of the new figure in inches; by default it grows with the panels.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given. The scale of the differences is centred at zero and ends at the 99th
    percentile of their absolute values.

    Raises
    ------
    KeyError
        If the table, the gene, the layer, a library, the positions or the image does not exist.
    ValueError
        If `ax` is given with several panels, if a panel is unknown or needs measured expression and there is none, if
        there are several tables and no `key`, or several libraries and no `library_key`.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> gene = adata.var_names[adata.var["spared_selected"]][0]
    >>> fig = sp.pl.predicted(adata, gene, library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    check_adata(adata, genes=False)
    key = prediction_key(adata, key)
    values = adata.obsm[key][_check_gene(gene, adata.obsm[key], key)].to_numpy(dtype=float)
    measured = _measured_values(adata, gene, layer)
    panels = _chosen_panels(panels, gene, measured is not None)
    sections = get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    what = f"{len(sections)} libraries x {len(panels)} panels"
    check_panels(ax, len(sections) * len(panels), what, "one with `libraries=` and one with `panels=`")
    truth, detected = (np.zeros_like(values), np.zeros(len(values), dtype=bool)) if measured is None else measured
    of_call, roles = _fitting(adata, key)
    parts = np.array([roles.get(name, "") for name in of_call.names])[of_call.codes]

    shown = np.concatenate([section.rows for section in sections])
    both = values[:, None] if measured is None else np.column_stack([truth, values])
    scale = *colour_scale(both[shown], detected[shown], vmin, vmax), plt.get_cmap(cmap)
    difference = np.where(detected, values - truth, 0)
    around_zero = *_difference_scale(difference[shown]), plt.get_cmap(_DIVERGING)
    if ax is None:
        heights = [section.height / section.width for section in sections]
        size_inches = figsize or (PANEL_WIDTH * len(panels) + 1.6, PANEL_WIDTH * sum(heights) + 1.1)
        # As for all panels of fixed aspect.
        fig, axes = plt.subplots(
            len(sections), len(panels), squeeze=False, figsize=size_inches, layout="compressed", height_ratios=heights
        )
        fig.suptitle(gene, fontstyle="italic")
    else:
        fig, axes = ax.figure, np.array([[ax]])
    drawn = set()
    for section, row in zip(sections, axes, strict=True):
        for panel, name in zip(row, panels, strict=True):
            draw_tissue(panel, section)
            if name == "difference":
                _draw_difference(panel, section, difference, detected, around_zero, size, alpha)
                continue
            spots = (truth, detected) if name == "measured" else (values, np.ones_like(detected))
            spots = [one[section.rows] for one in spots]
            drawn |= draw_spots(panel, section, *spots, *scale[::2], mark_filled=False, size=size, alpha=alpha)
        one = None if measured is None else (truth[section.rows], detected[section.rows], values[section.rows])
        _label_section(row[0], section.name, one, set(parts[section.rows]))
    for panel, name in zip(axes[0], panels, strict=True):
        title = f"predicted ({key.removeprefix(Key.predicted(''))})" if name == "predicted" else name
        panel.set_title(title if ax is None else f"{gene}, {title}")

    label = _target_scale(adata, key) if measured is None else unit(adata, layer)
    is_difference = np.array([name == "difference" for name in panels])
    for columns, (norm, extend, colours), text in (
        (~is_difference, scale, label),
        (is_difference, around_zero, f"predicted - measured, {label}"),
    ):
        if columns.any():
            fig.colorbar(
                plt.cm.ScalarMappable(norm=norm, cmap=colours),
                ax=axes[:, columns] if ax is None else ax,
                label=text,
                extend=extend,
                shrink=0.7 / len(sections),
                aspect=20,
            )
    add_spot_legend(fig, ax, drawn, plt.get_cmap(cmap), mark_filled=False)
    if show:
        plt.show()
    return fig if ax is None else ax


def gene_scores(
    scores: pd.DataFrame,
    *,
    metric: str = "pcc",
    predictions: str | Sequence[str] | None = None,
    library: str = _ALL,
    n_names: int = 3,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Scores of predictions gene by gene, beside the anchors and what noise allows.

    A row for every prediction, best first, with a point for every gene: from the worst gene at the lower edge of the row
    to the best one at the upper. The bar is the score of all genes, with its interval over libraries. The genes that are
    predicted best are ringed and named beside the row. Below the predictions stand the anchors, which use no image, and
    the score of a prediction without any error, where the table has it.

    Parameters
    ----------
    scores
        Table as :func:`spared_sc.tl.score_prediction` returns it.
    metric
        `"pcc"`, `"mse"`, `"mae"`, `"r2"` or `"skill"`.
    predictions
        Predictions to draw; by default the best twelve.
    library
        Library to draw; by default the mean over libraries.
    n_names
        Genes to name for every prediction.
    ax
        Axes to draw into; a new figure by default.
    figsize
        Width and height of the new figure in inches; by default it grows with the predictions.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The axes. The shaded band is the range of the score without any error (two estimates of the sampling noise), over all
    genes. Where few genes are far off all others, the axis ends before them, and arrows stand for them.

    Raises
    ------
    KeyError
        If a column of the table is missing.
    TypeError
        If `scores` is no table.
    ValueError
        If the table has no rows for what was asked for, or several for one gene and prediction.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> scores = sp.tl.score_prediction(adata, library_key="library_id")
    >>> ax = sp.pl.gene_scores(scores)
    >>> plt.close(ax.figure)
    """
    import matplotlib.pyplot as plt

    from spared_sc._models.prediction.registry import ANCHORS

    check_number("n_names", n_names, 0, whole=True)
    is_error = metric in _ERRORS
    table = _scored_genes(scores, metric, library)
    overall = table[table["gene"] == _ALL].set_index("prediction")
    genes = table[table["gene"] != _ALL].pivot(index="gene", columns="prediction", values="value")
    models, n_left_out = _models(overall, metric, predictions, ANCHORS)
    anchors = _best_first(overall[overall.index.isin(ANCHORS)], metric)
    rows = [*models, *anchors]
    if set(FLOORS) <= set(genes):
        genes[_NO_ERROR] = genes[list(FLOORS)].mean(axis=1)
        rows.append(_NO_ERROR)

    new = ax is None
    if new:
        _, ax = plt.subplots(figsize=figsize or (8.5, 1.9 + _ROW * len(rows)), layout="constrained")
    bar = _METRICS[metric][1]
    if set(FLOORS) <= set(overall.index):
        ax.axvspan(*overall.loc[list(FLOORS), "value"].sort_values(), label=f"no error, {bar} (range)", **_BAND)
    if not is_error:
        ax.axvline(0, color="black", linewidth=0.8)
    drawn = [genes[rows].to_numpy().ravel(), overall["value"].reindex([*rows, *FLOORS]), [] if is_error else [0]]
    ends = _ends(np.concatenate(drawn))
    for at, name in enumerate(rows):
        values = genes[name].dropna().sort_values(ascending=not is_error, kind="stable")
        colour = _MODEL if name in models else _ANCHOR if name in anchors else _CEILING
        height = at + _STRIP * np.linspace(1, -1, len(values)) if len(values) > 1 else np.full(len(values), at)
        _draw_strip(ax, values.to_numpy(), height, ends, colour)
        if name == _NO_ERROR:
            continue
        _draw_overall(ax, at, overall.loc[name], bar, ".3g" if is_error else ".3f")
        best = values.index[::-1][: n_names if name in models else 0]
        if len(best):
            top = slice(None, -len(best) - 1, -1)
            ax.plot(np.clip(values.to_numpy()[top], *ends), height[top], label="best genes, named", **_RING)
            text = ", ".join(map(str, best))
            place = {"transform": ax.get_yaxis_transform(), "va": "top"}
            ax.text(1.02, at + 0.05, text, fontsize="small", fontstyle="italic", **place)
    ax.axhline(len(models) - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(rows)), rows)
    ax.set(xlim=ends, ylim=(len(rows) - 0.5, -0.5), xlabel=_METRICS[metric][0])
    ax.tick_params(axis="y", length=0)
    ax.set_title(_what_is_shown(table, scores, library, n_left_out), fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    add_legend(ax.figure, None if new else ax, np.array([ax]), ncols=2)
    if show:
        plt.show()
    return ax


def prediction_scatter(
    adata: AnnData,
    *,
    key: str | None = None,
    genes: str | Sequence[str] | None = None,
    n_genes: int = 4,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Predicted against measured expression of a few genes, where they were detected.

    A two-dimensional histogram for every gene, with the line of equality, over the libraries that had no part in
    fitting; where there are none, over those on which the fit was chosen. The title of each gene gives the mean squared
    error and Pearson's correlation, means over libraries as in :func:`spared_sc.tl.score_prediction`, and the number of
    entries. Without `genes`, those with the highest correlation are drawn: they are the best ones, and no sample of all.

    Parameters
    ----------
    adata
        Spots x genes, with a table from :func:`spared_sc.tl.predict_expression`.
    key
        Name of the table in `obsm`; not needed where there is one.
    genes
        Genes to draw.
    n_genes
        How many of the best to draw where `genes` names none.
    layer
        Measured expression.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.
    ax
        Axes to draw into, for one gene only.
    figsize
        Width and height of the new figure in inches; by default it grows with the genes.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given.

    Raises
    ------
    KeyError
        If the table, a gene or the layer does not exist.
    ValueError
        If all libraries had a part in fitting, if a gene was detected nowhere else, if `ax` is given with several genes,
        if there are several tables and no `key`, or several libraries and no `library_key`.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> fig = sp.pl.prediction_scatter(adata, library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import LogLocator

    check_adata(adata)
    check_number("n_genes", n_genes, 1, whole=True)
    key = prediction_key(adata, key)
    table = adata.obsm[key]
    genes = None if genes is None else [genes] if isinstance(genes, str) else list(genes)
    names = list(table.columns) if genes is None else [_check_gene(gene, table, key) for gene in genes]
    if not names:
        raise ValueError(f"`genes` is empty: pass some of {listing(table.columns)}, or None for the best ones.")
    n_panels = min(n_genes, len(names)) if genes is None else len(names)
    check_panels(ax, n_panels, f"{n_panels} genes", "one with `genes=`, or n_genes=1")
    of_call, roles = _fitting(adata, key)
    scored, role = scored_libraries(roles, of_call.names)
    rows = np.flatnonzero(scored[of_call.codes])
    truth, known, values, library, n_libraries = _pairs(adata, table[names], layer, library_key, rows)
    scores = kernel.by_gene(truth, known, values, library, n_libraries)
    mse, pcc = (_mean(scores[name]) for name in ("mse", "pcc"))
    detected = known.any(axis=0)
    shown = np.arange(len(names))
    if genes is None:  # best first; those without a correlation last
        order = np.argsort(-np.nan_to_num(pcc, nan=-np.inf), kind="stable")
        shown = order[detected[order]][:n_genes]
    if not detected[shown].all() or not shown.size:
        which = [name for name, found in zip(names, detected, strict=True) if not found]
        raise ValueError(
            f"no spot of the {role} sections has a count of {listing(which, 3)}: there is nothing to compare with; pass "
            "other genes as `genes=`."
        )

    pairs = [(truth[known[:, i], i], values[known[:, i], i]) for i in shown]
    edges = [np.histogram_bin_edges(np.concatenate(pair), bins=_N_BINS) for pair in pairs]
    counts = [np.histogram2d(*pair, bins=edge)[0].T for pair, edge in zip(pairs, edges, strict=True)]
    if ax is None:
        n_columns = min(len(shown), _N_COLUMNS)
        n_rows = -(-len(shown) // n_columns)
        size = figsize or (PANEL_WIDTH * n_columns + 1.3, (PANEL_WIDTH + 0.3) * n_rows + 0.5)
        # As for all panels of fixed aspect.
        fig, axes = plt.subplots(n_rows, n_columns, squeeze=False, figsize=size, layout="compressed")
        best = "" if genes is not None else f", best {len(shown)} of {len(names)} genes"
        fig.suptitle(f"{key}: {n_libraries} {role} section{'s' if n_libraries > 1 else ''}{best}")
    else:
        fig, axes = ax.figure, np.array([[ax]])
    norm = LogNorm(1, max(2, max(count.max() for count in counts)))
    for i, panel, edge, count in zip(shown, axes.flat, edges, counts, strict=False):
        mesh = draw_pairs(panel, edge, count, norm, "predicted = measured")
        panel.set_title(f"{names[i]}\n{agreement(mse[i], pcc[i], int(known[:, i].sum()))}", fontsize="medium")
        panel.set_xlabel(f"measured, {unit(adata, layer)}")
    for panel in axes.flat[len(shown) :]:
        panel.remove()
    for panel in axes[:, 0]:
        panel.set_ylabel(f"predicted, {unit(adata, layer)}")
    scale = {"ticks": LogLocator(subs=(1, 2, 5)), "format": "%d", "shrink": 0.8 / len(axes), "aspect": 25}
    fig.colorbar(mesh, ax=list(axes.flat[: len(shown)]), label="detected entries", **scale).minorticks_off()
    if show:
        plt.show()
    return fig if ax is None else ax


def _check_gene(gene: str, table: pd.DataFrame, key: str) -> str:
    if gene not in table:
        lower = {name.lower(): name for name in table}
        close = [lower[name] for name in difflib.get_close_matches(str(gene).lower(), lower, n=5)]
        hint = f"did you mean {listing(close)}?" if close else f"it predicts genes such as {listing(table, 3)}."
        raise KeyError(f"there is no gene {gene!r} in adata.obsm[{key!r}]: {hint}")
    return gene


def _measured_values(adata: AnnData, gene: str, layer: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The gene's values and whether each spot detected it; `None` on a slide without."""
    if gene not in adata.var_names or (layer == Key.layers.log2tpm and layer not in adata.layers):
        return None
    at = adata.var_names.get_loc(gene)
    return column(get_layer(adata, layer), at).astype(float), column(get_detected(adata), at)


def _chosen_panels(panels: str | Sequence[str] | None, gene: str, is_measured: bool) -> list[str]:
    """The panels asked for, in their one order."""
    possible = _PANELS if is_measured else ("predicted",)
    wanted = possible if panels is None else [panels] if isinstance(panels, str) else list(panels)
    unknown = [name for name in wanted if name not in _PANELS]
    if unknown or not wanted:
        what = f"there is no panel {unknown[0]!r}" if unknown else "`panels` is empty"
        raise ValueError(f"{what}: pass some of {listing(_PANELS)} as `panels=`.")
    lacking = [name for name in wanted if name not in possible]
    if lacking:
        raise ValueError(
            f"the panel {lacking[0]!r} needs measured expression of {gene!r}: run `sp.pp.normalize_tpm(adata)` where there "
            "are counts, or pass panels='predicted'."
        )
    return [name for name in _PANELS if name in wanted]


def _fitting(adata: AnnData, key: str) -> tuple[Libraries, dict[str, str]]:
    """The libraries of the call that predicted, and the part in fitting that each had."""
    record = adata.uns[Key.uns.records][key]
    column = record["params"]["library_key"]
    return get_libraries(adata, None if column == "None" else column), by_library(record["roles"])


def _difference_scale(difference: np.ndarray) -> tuple[Normalize, str]:
    """Colours centred at zero, and whether values lie beyond them."""
    from matplotlib.colors import Normalize

    size = np.abs(difference[difference != 0])
    end = np.percentile(size, 99) if size.size else 1.0
    return Normalize(-end, end), "both" if (size > end).any() else "neither"


def _draw_difference(
    ax: Axes,
    section: Section,
    difference: np.ndarray,
    detected: np.ndarray,
    scale: tuple[Normalize, str, Colormap],
    size: float,
    alpha: float,
) -> None:
    """The spots in which the gene was detected, with an edge: around zero the colours are as pale as the slide."""
    rows, diameter = section.rows[detected[section.rows]], size * section.diameter
    style = {"edgecolors": "0.5", "linewidths": 0.06 * in_points(ax, section, diameter), "alpha": alpha}
    norm, _, cmap = scale
    xy = section.xy[detected[section.rows]]
    add_circles(ax, xy, diameter, array=difference[rows], norm=norm, cmap=cmap, label="difference", **style)


def _label_section(
    ax: Axes, name: str, pair: tuple[np.ndarray, np.ndarray, np.ndarray] | None, parts: set[str]
) -> None:
    """Name of the section, how often the gene was detected, the agreement there, and whether the fit has seen it."""
    lines = [name]
    if pair is not None:
        truth, detected, values = (one[:, None] for one in pair)
        pcc = kernel.by_gene(truth, detected, values, np.zeros(len(truth), dtype=int), 1)["pcc"][0, 0]
        lines.append(f"{100 * detected.mean():.0f} % detected, PCC {pcc_text(pcc)}")
    which = "this section" if len(parts) == 1 else "part of this section"
    seen = [words.format(which) for part, words in _FITTED.items() if part in parts]
    ax.set_ylabel("\n".join([*lines, *seen]))
    if seen:
        ax.yaxis.label.set_color(_VERMILION)


def _target_scale(adata: AnnData, key: str) -> str:
    """The scale of a prediction without a measurement to compare it with."""
    target = adata.uns[Key.uns.records][key].get("card", {}).get("layer", "the target")
    return f"predicted, scale of layer {target!r} in training"


def _scored_genes(scores: pd.DataFrame, metric: str, library: str) -> pd.DataFrame:
    """The rows of a metric and a library, one for each gene and prediction."""
    import pandas as pd

    call = "`sp.tl.score_prediction(adata)`"
    if not isinstance(scores, pd.DataFrame):
        raise TypeError(f"expected the table of {call}, found {type(scores).__name__}: pass that table.")
    missing = [column for column in _COLUMNS if column not in scores]
    if missing:
        raise KeyError(
            f"the table has no column {missing[0]!r} (columns: {listing(scores.columns)}): pass the table that {call} "
            "returns."
        )
    if metric not in _METRICS:
        raise ValueError(f"metric={metric!r} has no value for every gene: choose {listing(_METRICS)}.")
    table = pick(pick(scores, "metric", metric), "library", library)
    twice = table[table.duplicated(["prediction", "gene"])]
    if len(twice):
        raise ValueError(
            f"{len(twice)} rows repeat a prediction and a gene (such as {twice['prediction'].iloc[0]!r} and "
            f"{twice['gene'].iloc[0]!r}): pass the table of one call of {call}, or give each its own names."
        )
    return table


def _models(
    overall: pd.DataFrame, metric: str, predictions: str | Sequence[str] | None, anchors: Sequence[str]
) -> tuple[list[str], int]:
    """Predictions to draw, best first, and how many of the others are left out for want of room."""
    models = overall[~overall.index.isin([*anchors, *FLOORS])]
    if predictions is not None:
        chosen = pick(models.reset_index(), "prediction", predictions, "predictions")["prediction"]
        return _best_first(models.loc[chosen], metric), 0
    ranked = _best_first(models, metric)
    return ranked[:_MOST], len(ranked[_MOST:])


def _best_first(overall: pd.DataFrame, metric: str) -> list[str]:
    """Names by their score over all genes; those without one last."""
    return overall["value"].sort_values(ascending=metric in _ERRORS, kind="stable", na_position="last").index.tolist()


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: all that is there, or without the few that would squeeze all others."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = values.min(), values.max()
    inner = np.percentile(values, [1, 99])
    if high - low > _FAR * np.ptp(inner) > 0:
        low, high = inner
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad


def _draw_strip(ax: Axes, values: np.ndarray, height: np.ndarray, ends: tuple[float, float], colour: str) -> None:
    """A point for every gene; arrows at the ends of the axis for those beyond."""
    left, right = ends
    inside = (values >= left) & (values <= right)
    style = {"linestyle": "", "color": colour, "markeredgewidth": 0, "rasterized": True}
    ax.plot(values[inside], height[inside], marker="o", markersize=3.5, alpha=0.7, **style)
    for marker, beyond, edge in (("<", values < left, left), (">", values > right, right)):
        if beyond.any():
            at = np.full(int(beyond.sum()), edge)
            ax.plot(at, height[beyond], marker=marker, markersize=5, clip_on=False, label="beyond the axis", **style)


def _draw_overall(ax: Axes, at: int, score: pd.Series, bar: str, digits: str) -> None:
    """The score over all genes with its interval, and both as numbers beside the row."""
    text = "no value"
    if np.isfinite(score["value"]):
        text = f"{score['value']:{digits}}"
        ax.plot(score["value"], at, marker="|", linestyle="", label=bar, **_BAR)
    if np.isfinite([score["lower"], score["upper"]]).all():
        text += f" ({score['lower']:{digits}} to {score['upper']:{digits}})"
        ax.plot([score["lower"], score["upper"]], [at, at], color=_VERMILION, linewidth=2, label="95 % interval")
    ax.text(1.02, at, text, transform=ax.get_yaxis_transform(), va="bottom", fontsize="small")


def _what_is_shown(table: pd.DataFrame, scores: pd.DataFrame, library: str, n_left_out: int) -> str:
    """Genes, sections and what is missing, as the title."""
    sections = scores[scores["library"] != _ALL].drop_duplicates("library")
    n = len(sections)
    where = f"section {library}" if library != _ALL else f"mean of {n} sections" if n != 1 else "one section only"
    lines = [f"{table.loc[table['gene'] != _ALL, 'gene'].nunique():,} genes, {where}"]
    if (sections["role"] == "val").any():
        lines.append("validation sections: the fits were chosen on them")
    if n_left_out:
        lines.append(f"{n_left_out} weaker predictions are not shown: name them with `predictions=`")
    return "\n".join(lines)


def _pairs(
    adata: AnnData, table: pd.DataFrame, layer: str, library_key: str | None, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
    """Measured values, where they were detected, predicted ones, and the library of every spot; of some rows."""
    genes = adata.var_names.get_indexer(table.columns)
    if (genes < 0).any():
        raise KeyError(
            f"adata has no genes {listing(table.columns[genes < 0], 5)}, which were predicted: name others with `genes=`."
        )
    truth = dense(get_layer(adata, layer)[:, genes]).astype(np.float32)[rows]
    known = dense(get_detected(adata)[:, genes])[rows]
    names, library = np.unique(get_libraries(adata, library_key).codes[rows], return_inverse=True)
    return truth, known, table.to_numpy(dtype=np.float32)[rows], library, len(names)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over libraries of what is defined, (n_genes,)."""
    n = np.isfinite(values).sum(axis=0)
    return np.where(n > 0, np.nansum(values, axis=0) / np.maximum(n, 1), np.nan)
