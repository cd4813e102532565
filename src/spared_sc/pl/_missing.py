from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.missing import missing_table
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_number
from spared_sc.pl._marks import finish, make_axes, width_in_points

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes

_LABEL_SIZE = 7  # points: gene names stand upright, so this is also the width that one takes


@accepts_spatialdata
@docs.fill()
def missing(
    adata: AnnData,
    *,
    mask_var: str | None = Key.var.selected,
    library_key: str | None = None,
    n_genes_labelled: int | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Plot the share of spots in which each gene was not detected, per section.

    A heat map of genes (most complete first) x sections, with the mean of every section beside it.
    `sp.get.missing_share` gives the numbers.

    Parameters
    ----------
    adata
        Spots x genes, with `layers["detected"]` or raw counts.
    n_genes_labelled
        Number of genes to name, evenly spaced. `None` names as many as fit.
    {others}

    Returns
    -------
    The axes of the heat map.

    Raises
    ------
    KeyError, TypeError
        If `mask_var` or `library_key` names no column, or `mask_var` one that is not boolean.
    ValueError
        If there are several libraries and no `library_key`, or if `mask_var` selects no gene.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_genes=50)
    >>> ax = sp.pl.missing(adata, library_key="library_id")
    """
    check_number("n_genes_labelled", n_genes_labelled or 0, 0, whole=True)
    share = missing_table(adata, mask_var, library_key)
    share = share.loc[share.mean(axis=1).sort_values(kind="stable").index]
    n_genes, n_libraries = share.shape
    ax = make_axes(ax, figsize or (min(2.5 + 0.14 * n_genes, 14), 2.2 + 0.32 * n_libraries))
    percent = 100 * share.to_numpy().T
    image = ax.imshow(percent, cmap="magma_r", vmin=0, vmax=100, aspect="auto", interpolation="nearest")
    # Above the map: names of genes and means of sections take the other sides.
    ax.figure.colorbar(image, ax=ax, location="top", shrink=0.4, aspect=30, label="spots without a count (%)")
    _name_sections(ax, share)
    labelled = _labelled_genes(ax, n_genes, n_genes_labelled)
    ax.set_xticks(labelled, share.index[labelled], rotation=90, fontsize=_LABEL_SIZE, fontstyle="italic")
    some = f", {len(labelled)} of them named" if len(labelled) < n_genes else ""
    ax.set_xlabel(f"{n_genes} genes, most complete first{some}")
    return finish(ax, show)


def _name_sections(ax: Axes, share: pd.DataFrame) -> None:
    """Names at the left, means at the right, and lines between the sections."""
    ax.set_yticks(range(share.shape[1]), share.columns)
    ax.set_yticks(np.arange(1, share.shape[1]) - 0.5, minor=True)
    ax.grid(which="minor", axis="y", color="white", linewidth=1.5)
    ax.tick_params(axis="y", which="both", length=0)
    right = ax.get_yaxis_transform()
    ax.text(1.01, -0.6, "mean", transform=right, va="bottom", fontstyle="italic")
    for row, mean in enumerate(share.mean()):
        ax.text(1.01, row, f"{100 * mean:.0f} %", transform=right, va="center")


def _labelled_genes(ax: Axes, n_genes: int, n_labelled: int | None) -> np.ndarray:
    """Evenly spaced columns of the map to name."""
    if n_labelled is None:
        # A constant step, so that the eye can count on from a named gene to one that is not.
        step = max(1, int(np.ceil(n_genes * 1.25 * _LABEL_SIZE / width_in_points(ax))))
        return np.arange(0, n_genes, step)
    return np.unique(np.linspace(0, n_genes - 1, min(n_labelled, n_genes)).round().astype(int))
