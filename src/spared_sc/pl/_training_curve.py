from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs
from spared_sc._core.completions import describe_layer
from spared_sc._core.record import records_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, choose_key
from spared_sc.pl._marks import BLUE, GREEN, PURPLE, VERMILION, finish, make_axes

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_WIDE = 10  # largest over smallest value from which a linear axis hides the end of the curve
_SIMPLER = {  # method in the record's score -> label, line, colour
    "median": ("adaptive median", "--", GREEN),
    "gene_mean": ("mean of the gene", ":", PURPLE),
}


@accepts_spatialdata
@docs.fill()
def training_curve(
    adata: AnnData,
    *,
    key: str | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Plot training and validation error of a completion network against the training step.

    `sp.tl.spackle_complete(adata, model="paper")` writes a curve. The default model is not trained in steps and has none.

    The best step, whose weights were kept, is marked. Horizontal lines are the errors of simpler methods on hidden
    entries, where the record holds them: a model is worth using if its validation error ends below them.

    Parameters
    ----------
    {adata}
    key
        Name of the record in `uns["spared_sc"]`: the `key_added` of the training call. Needed when there are several.
    {others}

    Returns
    -------
    The axes. The title names the model. The error axis is logarithmic if the largest error is at least ten times the
    smallest.

    Raises
    ------
    KeyError
        If there is no training curve, or none under `key`.
    ValueError
        If there are several and no `key`.

    Examples
    --------
    `sp.tl.spackle_complete(adata, model="paper")` writes the record; here it is written by hand, to be quick.

    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_genes=20)
    >>> training = {"step": [10, 20], "train_mse": [4.0, 2.0], "validation_mse": [5.0, 3.0], "best_step": 20}
    >>> made = {"function": "tl.complete", "params": {"method": "paper"}, "training": training}
    >>> adata.uns["spared_sc"] = {"spackle": made}
    >>> ax = sp.pl.training_curve(adata)
    """
    records = records_of(check_adata(adata))
    trained = [name for name, record in records.items() if "training" in record]
    key = choose_key(
        key, trained, "training curve", "call `sp.tl.spackle_complete(adata, model='paper')`, which writes one"
    )
    record = records[key]
    ax = make_axes(ax, figsize or (6, 4))
    _draw_curves(ax, record["training"])
    for name, (label, style, colour) in _SIMPLER.items():
        if name in record.get("score", {}):
            mse = record["score"][name]
            ax.axhline(mse, linestyle=style, color=colour, label=f"{label} ({mse:.3g})")
    drawn = np.concatenate([np.asarray(line.get_ydata()) for line in ax.get_lines()])
    if drawn.min() > 0 and drawn.max() >= _WIDE * drawn.min():
        ax.set_yscale("log")
    ax.margins(y=0.1)  # a line at the bottom must not hide behind the axis
    ax.set(xlabel="training step", ylabel="mean squared error")
    ax.set_title(describe_layer(adata, key), fontsize="medium")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    return finish(ax, show)


def _draw_curves(ax: Axes, training: dict[str, Any]) -> None:
    """Errors in training and in validation, and the step that was kept."""
    step = np.asarray(training["step"])
    train, validation = (np.asarray(training[f"{part}_mse"], dtype=float) for part in ("train", "validation"))
    for label, mse, colour in (("training", train, BLUE), ("validation", validation, VERMILION)):
        measured = np.isfinite(mse)  # validation may be rarer than training
        ax.plot(step[measured], mse[measured], color=colour, label=label)
    best = np.flatnonzero(step == training["best_step"])
    label = f"best step ({int(training['best_step'])})"
    ring: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": VERMILION, "markeredgewidth": 2}
    ax.plot(step[best], validation[best], "o", markersize=8, label=label, **ring)
