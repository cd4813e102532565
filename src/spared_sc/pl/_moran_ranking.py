from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, check_number, gene_mask, get_numbers
from spared_sc.pl._marks import BLUE, finish, height_in_points, labelled, make_axes, width_in_points

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

_SELECTED, _OTHER = BLUE, "0.6"
_LABEL_SIZE = 8  # points
_WINDOW = 0.1  # of the genes, for the running median of the expressed fraction


@accepts_spatialdata
@docs.fill()
def moran_ranking(
    adata: AnnData,
    *,
    key: str = Key.var.moran_i,
    mask_var: str | None = Key.var.keep,
    selected: str | None = Key.var.selected,
    n_labelled: int = 10,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Plot genes by rank of their mean Moran's I, with the selected ones in colour.

    Below, on the same ranks, stands the share of spots in which each gene was detected (where `pp.spared_filter` left
    it), with its running median: it shows whether the ranking favours well or poorly detected genes.

    Parameters
    ----------
    {adata}
    key
        Column of `var` with Moran's I from `pp.moran`.
    mask_var
        Boolean column of `var` with the genes to rank. `"spared_keep"` is used where it exists, all genes otherwise;
        `None` ranks all genes. Genes without a score are left out.
    selected
        Boolean column of `var` with the selected genes. `"spared_selected"` is used where it exists; `None` marks none.
        The cut-off is marked if the selected genes are exactly the best ones.
    n_labelled
        Number of best genes to name.
    {others}

    Returns
    -------
    The axes of the ranking. Those below, which take a part of `ax`, have the label `"<expressed fraction>"`.

    Raises
    ------
    KeyError, TypeError
        If `key`, `mask_var` or `selected` names no column, or one of another type.
    ValueError
        If no gene has a score.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id")
    >>> ax = sp.pl.moran_ranking(adata)
    """
    check_number("n_labelled", n_labelled, 0, whole=True)
    genes, score, n_unscored = _ranked(adata, key, mask_var)
    chosen = _chosen(adata, selected)[genes]
    rank = np.arange(1, genes.size + 1)
    ax = make_axes(ax, figsize or (7, 5))

    panels = [ax]
    if Key.var.expressed_fraction in adata.var:
        panels.append(_add_panel_below(ax))
        _draw_fraction(panels[1], rank, adata.var[Key.var.expressed_fraction].to_numpy(dtype=float)[genes], chosen)
    _draw_points(ax, rank, score, chosen)
    n_chosen = int(chosen.sum())
    cut_off = n_chosen + 0.5 if 0 < n_chosen < genes.size and chosen[:n_chosen].all() else None
    for panel in panels:
        if cut_off is not None:
            panel.axvline(cut_off, color="black", linestyle="--", linewidth=0.8, label="cut-off")
        panel.spines[["top", "right"]].set_visible(False)
        panel.set_xlim(1 - 0.015 * genes.size, 1.015 * genes.size)
    _name_genes(ax, rank, score, adata.var_names[genes[:n_labelled]], cut_off)
    ax.set_ylabel("mean Moran's I")
    without = f" ({n_unscored} without a score left out)" if n_unscored else ""
    panels[-1].set_xlabel(f"rank of the gene by Moran's I{without}")
    marks = labelled(panels)
    if marks:
        ax.legend(list(marks.values()), list(marks), loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return finish(ax, show)


def _ranked(adata: AnnData, key: str, mask_var: str | None) -> tuple[np.ndarray, np.ndarray, int]:
    """The genes with a score, highest first, their scores, and how many others there are."""
    check_adata(adata)
    remedy = "run `sp.pp.moran(adata)` or `sp.pp.recipe_spared(adata)` first, or name the column with `key=`"
    score = get_numbers(adata, key, remedy=remedy)
    mask = gene_mask(adata, mask_var, optional=Key.var.keep)
    genes = np.flatnonzero(mask & np.isfinite(score))
    if not genes.size:
        raise ValueError(f"no gene of `mask_var` has a finite {key!r}: run `sp.pp.moran(adata)` on these genes.")
    # Ties go to the name, as when genes are selected.
    names = adata.var_names.to_numpy(dtype=str)[genes]
    genes = genes[np.lexsort((names, -score[genes]))]
    return genes, score[genes], int(mask.sum()) - genes.size


def _chosen(adata: AnnData, selected: str | None) -> np.ndarray:
    if selected is None or (selected == Key.var.selected and selected not in adata.var):
        return np.zeros(adata.n_vars, dtype=bool)
    return gene_mask(adata, selected, optional=Key.var.selected)


def _add_panel_below(ax: Axes) -> Axes:
    """Axes under the given ones, which shrink to make room as they do for a colour bar."""
    spec = ax.get_subplotspec()
    if spec is not None:
        grid = spec.subgridspec(2, 1, height_ratios=(2.5, 1), hspace=0.1)
        ax.set_subplotspec(grid[0])
        added = ax.figure.add_subplot(grid[1], sharex=ax)
    else:  # axes that were placed by hand
        left, bottom, width, height = ax.get_position().bounds
        ax.set_position((left, bottom + 0.32 * height, width, 0.68 * height))
        added = ax.figure.add_axes((left, bottom, width, 0.27 * height), sharex=ax)
    ax.tick_params(labelbottom=False)
    added.set_label("<expressed fraction>")
    return added


def _draw_fraction(ax: Axes, rank: np.ndarray, fraction: np.ndarray, chosen: np.ndarray) -> None:
    """The share of spots that detected each gene, and its running median."""
    _draw_points(ax, rank, 100 * fraction, chosen)
    ax.plot(rank, _running_median(100 * fraction), color="black", linewidth=1.5, label="running median")
    ax.set(ylim=(0, 104), yticks=[0, 50, 100], ylabel="expressed in\n(% of spots)")


def _draw_points(ax: Axes, rank: np.ndarray, value: np.ndarray, chosen: np.ndarray) -> None:
    for label, mask, colour in (("selected", chosen, _SELECTED), ("not selected", ~chosen, _OTHER)):
        if mask.any():
            text = f"{label} ({mask.sum()} genes)" if chosen.any() else None
            ax.scatter(rank[mask], value[mask], s=14, color=colour, linewidths=0, label=text)


def _running_median(value: np.ndarray) -> np.ndarray:
    """Median over a tenth of the genes around each rank, fewer at the ends."""
    half = max(1, round(_WINDOW * value.size / 2))
    return np.array([np.median(value[max(0, i - half) : i + half + 1]) for i in range(value.size)])


def _name_genes(ax: Axes, rank: np.ndarray, score: np.ndarray, names: pd.Index, cut_off: float | None) -> None:
    """A column of names beside the points, the best at the top, with lines to the points."""
    from matplotlib.transforms import ScaledTranslation

    step = 1.35 * _LABEL_SIZE / 72  # inches
    # The points fall from left to right: the names stand where these have come down below the last name.
    low, high = ax.get_ylim()
    lowest = high - (high - low) * (len(names) + 1) * 72 * step / height_in_points(ax)
    left, right = ax.get_xlim()
    passed = rank[min(int((score > lowest).sum()), rank.size - 1)]
    x = np.clip((passed - left) / (right - left) + 0.02, 0.09, 0.85)
    if cut_off is not None:  # no name lies across its line
        line = (cut_off - left) / (right - left)
        width = 0.65 * _LABEL_SIZE * max(map(len, names), default=0) / width_in_points(ax)
        x = min(line + 0.02, 0.85) if x <= line <= x + width else x
    style: dict[str, Any] = {
        "fontsize": _LABEL_SIZE,
        "fontstyle": "italic",
        "bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5},  # over the line of the cut-off
        "arrowprops": {"arrowstyle": "-", "color": "0.5", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2},
    }
    for i, name in enumerate(names):
        # Steps in points from the top: the names are apart at any size of the axes, and their lines do not cross.
        down = ScaledTranslation(0, -(i + 0.5) * step, ax.figure.dpi_scale_trans)
        ax.annotate(name, (rank[i], score[i]), xytext=(x, 1), textcoords=ax.transAxes + down, va="center", **style)
