from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs
from spared_sc._core.validate import check_number, check_table, listing
from spared_sc._kernels.metrics import FLOORS
from spared_sc.pl._marks import BLUE, VERMILION, finish, make_panels, name_rows, pick

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_COLUMNS = ("prediction", "library", "subject", "role", "gene", "metric", "value", "lower", "upper", "unit")
_ALL = "all"
_METRICS = {  # metric -> label of the axis, meaning of the bar
    "pcc": ("Pearson correlation of a gene within sections", "mean of the genes"),
    "mse": ("mean squared error of a gene (squared units of the layer)", "all genes together"),
    "mae": ("mean absolute error of a gene (units of the layer)", "all genes together"),
    "r2": ("R2 of a gene over its mean in the section", "all genes together"),
    "skill": ("skill of a gene: share of the error of gene_mean removed", "all genes together"),
}
_ERRORS = ("mse", "mae")  # less is better; the others have a zero, at which a prediction says nothing
_NO_ERROR = "no error"  # the row of a perfect prediction
_MOST = 12  # readable number of predictions
_ROW = 0.6  # inches for a prediction
_STRIP = 0.36  # distance of the worst and the best gene from the middle of their row
_MODEL, _ANCHOR, _CEILING = BLUE, "0.35", "0.65"
_FAR = 2  # times the range of the middle 98 %: a few genes further off would squeeze all others


@docs.fill()
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
    """Plot the scores of predictions gene by gene, beside the anchors and the limit set by noise.

    Each prediction is a row, best first, with a point for every gene: the worst gene at the lower edge of the row, the
    best at the upper. The bar is the score of all genes, with its interval where the table has one. The best-predicted genes are
    ringed and named beside the row. Below stand the anchors, which use no image, and the score of a prediction without
    any error, where the table has it.

    Parameters
    ----------
    scores
        Table from :func:`spared_sc.tl.score_prediction`.
    metric
        `"pcc"`, `"mse"`, `"mae"`, `"r2"` or `"skill"`.
    predictions
        Predictions to draw. `None` draws the best twelve.
    library
        Library to draw, or `"all"` for the mean over libraries or donors.
    n_names
        Number of genes to name for each prediction.
    {others}

    Returns
    -------
    The axes. The shaded band is the range of the score without any error (two estimates of the sampling noise), over all
    genes. If a few genes lie far from all others, the axis ends before them and arrows stand for them.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several for one gene and prediction.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> scores = sp.tl.score_prediction(adata, library_key="library_id")
    >>> ax = sp.pl.gene_scores(scores)
    """
    check_number("n_names", n_names, 0, whole=True)
    table = _rows(scores, metric, library)
    drawn = _choose(table, metric, predictions)
    panels = make_panels(ax, 1, 1, figsize or (8.5, 1.9 + _ROW * len(drawn.rows)), layout="constrained")
    ax = panels.axes.item()
    _draw_band(ax, drawn)
    for at, name in enumerate(drawn.rows):
        height = _draw_strip(ax, at, name, drawn)
        if name != _NO_ERROR:
            _draw_overall(ax, at, drawn.overall.loc[name], metric)
        if name in drawn.models:
            _name_best(ax, at, height, drawn.sorted_genes(name)[::-1][:n_names], drawn.ends)
    ax.axhline(len(drawn.models) - 0.5, color="0.6", linewidth=0.8, linestyle=":")
    name_rows(ax, drawn.rows)
    ax.set(xlim=drawn.ends, xlabel=_METRICS[metric][0])
    ax.set_title(_title(table, scores, library, drawn.n_left_out), fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    panels.add_legend(ncols=2)
    return finish(ax, show)


@dataclass(frozen=True)
class _Drawn:
    """The scores to draw."""

    metric: str
    models: list[str]  # predictions, best first
    anchors: list[str]  # best first
    rows: list[str]  # of the plot, from top to bottom
    genes: pd.DataFrame  # genes x predictions
    overall: pd.DataFrame  # one row per prediction: value, lower, upper
    ends: tuple[float, float]  # of the axis
    n_left_out: int  # predictions without a row for want of room

    def sorted_genes(self, name: str) -> pd.Series:
        """The scores of a row, worst gene first."""
        return self.genes[name].dropna().sort_values(ascending=self.metric not in _ERRORS, kind="stable")


def _rows(scores: pd.DataFrame, metric: str, library: str) -> pd.DataFrame:
    """The rows of a metric and a library, one for each gene and prediction."""
    call = "sp.tl.score_prediction(adata)"
    check_table(scores, _COLUMNS, call)
    if metric not in _METRICS:
        raise ValueError(f"metric={metric!r} has no value for every gene: choose {listing(_METRICS)}.")
    table = pick(pick(scores, "metric", metric), "library", library)
    twice = table[table.duplicated(["prediction", "gene"])]
    if len(twice):
        raise ValueError(
            f"{len(twice)} rows repeat a prediction and a gene (such as {twice['prediction'].iloc[0]!r} and "
            f"{twice['gene'].iloc[0]!r}): pass the table of one call of `{call}`, or give each its own names."
        )
    return table


def _choose(table: pd.DataFrame, metric: str, predictions: str | Sequence[str] | None) -> _Drawn:
    """Predictions and anchors, best first, and the scores of their genes."""
    from spared_sc._models.prediction.registry import ANCHORS

    overall = table[table["gene"] == _ALL].set_index("prediction")
    genes = table[table["gene"] != _ALL].pivot(index="gene", columns="prediction", values="value")
    candidates = overall[~overall.index.isin([*ANCHORS, *FLOORS])]
    if predictions is not None:
        candidates = pick(candidates.reset_index(), "prediction", predictions, "predictions").set_index("prediction")
    ranked = _best_first(candidates, metric)
    models = ranked if predictions is not None else ranked[:_MOST]
    anchors = _best_first(overall[overall.index.isin(ANCHORS)], metric)
    rows = [*models, *anchors]
    if set(FLOORS) <= set(genes):
        genes[_NO_ERROR] = genes[list(FLOORS)].mean(axis=1)
        rows.append(_NO_ERROR)
    zero = [] if metric in _ERRORS else [0]
    ends = _ends(np.concatenate([genes[rows].to_numpy().ravel(), overall["value"].reindex([*rows, *FLOORS]), zero]))
    return _Drawn(metric, models, anchors, rows, genes, overall, ends, len(ranked) - len(models))


def _best_first(overall: pd.DataFrame, metric: str) -> list[str]:
    """Names by their score over all genes; those without one last."""
    return overall["value"].sort_values(ascending=metric in _ERRORS, kind="stable", na_position="last").index.tolist()


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: of all values, or without the few that would squeeze all others."""
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = values.min(), values.max()
    inner = np.percentile(values, [1, 99])
    if high - low > _FAR * np.ptp(inner) > 0:
        low, high = inner
    pad = 0.04 * (high - low) or 0.5
    return float(low - pad), float(high + pad)


def _draw_band(ax: Axes, drawn: _Drawn) -> None:
    """The range of the score without error, and zero where it says that a prediction is worthless."""
    if set(FLOORS) <= set(drawn.overall.index):
        low, high = np.sort(drawn.overall.loc[list(FLOORS), "value"])
        label = f"no error, {_METRICS[drawn.metric][1]} (range)"
        ax.axvspan(low, high, label=label, color="0.88", linewidth=0, zorder=0)
    if drawn.metric not in _ERRORS:
        ax.axvline(0, color="black", linewidth=0.8)


def _draw_strip(ax: Axes, at: int, name: str, drawn: _Drawn) -> np.ndarray:
    """A point for every gene, arrows at the ends of the axis for those beyond; returns their heights."""
    values = drawn.sorted_genes(name).to_numpy()
    height = at + _STRIP * (np.linspace(1, -1, len(values)) if len(values) > 1 else np.zeros(len(values)))
    colour = _MODEL if name in drawn.models else _ANCHOR if name in drawn.anchors else _CEILING
    left, right = drawn.ends
    inside = (values >= left) & (values <= right)
    style: dict[str, Any] = {"color": colour, "markeredgewidth": 0, "rasterized": True}
    ax.plot(values[inside], height[inside], "o", markersize=3.5, alpha=0.7, **style)
    for marker, beyond, edge in (("<", values < left, left), (">", values > right, right)):
        if beyond.any():
            x = np.full(int(beyond.sum()), edge)
            ax.plot(x, height[beyond], marker, markersize=5, clip_on=False, label="beyond the axis", **style)
    return height


def _draw_overall(ax: Axes, at: int, score: pd.Series, metric: str) -> None:
    """The score over all genes with its interval, and both as numbers beside the row."""
    digits = ".3g" if metric in _ERRORS else ".3f"
    text = "no value"
    if np.isfinite(score["value"]):
        text = f"{score['value']:{digits}}"
        label = _METRICS[metric][1]
        ax.plot(score["value"], at, "|", color=VERMILION, markersize=18, markeredgewidth=2.5, label=label)
    if np.isfinite([score["lower"], score["upper"]]).all():
        text += f" ({score['lower']:{digits}} to {score['upper']:{digits}})"
        ax.plot([score["lower"], score["upper"]], [at, at], color=VERMILION, linewidth=2, label="95 % interval")
    ax.text(1.02, at, text, transform=ax.get_yaxis_transform(), va="bottom", fontsize="small")


def _name_best(ax: Axes, at: int, height: np.ndarray, best: pd.Series, ends: tuple[float, float]) -> None:
    """Ring the best genes of a row and name them beside it."""
    if best.empty:
        return
    x, y = np.clip(best.to_numpy(), *ends), height[::-1][: len(best)]
    ax.plot(x, y, "o", markersize=6, markerfacecolor="none", markeredgecolor="black", label="best genes, named")
    text = ", ".join(map(str, best.index))
    ax.text(1.02, at + 0.05, text, transform=ax.get_yaxis_transform(), va="top", fontsize="small", fontstyle="italic")


def _title(table: pd.DataFrame, scores: pd.DataFrame, library: str, n_left_out: int) -> str:
    """Genes and sections, and what is missing."""
    sections = scores[scores["library"] != _ALL].drop_duplicates("library")
    n = len(sections)
    where = f"mean of {n} sections" if n != 1 else "one section only"
    if library != _ALL:
        where = f"section {library}"
    elif (table["unit"] == "subject").all():
        where = f"mean of {sections['subject'].nunique()} donors ({n} sections)"
    lines = [f"{table.loc[table['gene'] != _ALL, 'gene'].nunique():,} genes, {where}"]
    if (sections["role"] == "val").any():
        lines.append("validation sections: the fits were chosen on them")
    if n_left_out:
        lines.append(f"{n_left_out} weaker predictions are not shown: name them with `predictions=`")
    return "\n".join(lines)
