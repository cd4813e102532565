from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.completions import describe_layer
from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, listing
from spared_sc.pl._spots import OKABE_ITO

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes

_BLUE, _, _GREEN, _PURPLE, _, _VERMILION, _ = OKABE_ITO
_WIDE = 10  # largest over smallest value from which a linear axis hides the end of the curve


def training_curve(
    adata: AnnData,
    *,
    key: str | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Axes:
    """Training and validation error of a completion model against the training step.

    The best step, whose weights were kept, is marked. Where the record holds the errors of simpler methods on hidden
    entries (for the paper's model the adaptive median and the gene's mean, for the default the stack that its network
    starts from and the gene's mean in the section), they are drawn as horizontal lines: a model is worth using when
    its validation error ends below them.

    Parameters
    ----------
    adata
        Object that a model was trained on.
    key
        Name of the record in `uns["spared_sc"]`: the `key_added` of the training call. Not needed where there is one.
    ax
        Axes to draw into; a new figure by default.
    figsize
        Width and height of the new figure in inches.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The axes. The error axis is logarithmic when the largest error is at least ten times the smallest.

    Raises
    ------
    KeyError
        If there is no training curve, or none under `key`.
    ValueError
        If there are several and no `key`.

    Examples
    --------
    `sp.tl.spackle_complete` writes the record; here it is written by hand, to be quick.

    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_genes=20)
    >>> training = {"step": [10, 20], "train_mse": [4.0, 2.0], "validation_mse": [5.0, 3.0], "best_step": 20}
    >>> adata.uns["spared_sc"] = {"spackle": {"training": training}}
    >>> ax = sp.pl.training_curve(adata)
    >>> plt.close(ax.figure)
    """
    import matplotlib.pyplot as plt

    key = _trained(adata, key)
    record = adata.uns[Key.uns.records][key]
    training, score = record["training"], record.get("score", {})
    step = np.asarray(training["step"])
    if ax is None:
        _, ax = plt.subplots(figsize=figsize or (6, 4), layout="constrained")

    curves = {
        "training": (np.asarray(training["train_mse"], dtype=float), _BLUE),
        "validation": (np.asarray(training["validation_mse"], dtype=float), _VERMILION),
    }
    for label, (mse, colour) in curves.items():
        measured = np.isfinite(mse)  # validation may be rarer than training
        ax.plot(step[measured], mse[measured], color=colour, label=label)
    best = np.flatnonzero(step == training["best_step"])
    validation = curves["validation"][0]
    ax.plot(
        step[best],
        validation[best],
        linestyle="",
        marker="o",
        markersize=8,
        markerfacecolor="white",
        markeredgecolor=_VERMILION,
        markeredgewidth=2,
        label=f"best step ({int(training['best_step'])})",
    )
    baselines = {
        "median": ("adaptive median", "--", _GREEN),
        "gene_mean": ("mean of the gene", ":", _PURPLE),
        "stack": ("stack of simple estimates", "--", _GREEN),
        "library_gene_mean": ("mean of the gene in the section", ":", _PURPLE),
    }
    for name, (label, style, colour) in baselines.items():
        if name in score:
            ax.axhline(score[name], linestyle=style, color=colour, label=f"{label} ({score[name]:.3g})")

    drawn = np.concatenate([line.get_ydata() for line in ax.get_lines()])
    if drawn.min() > 0 and drawn.max() >= _WIDE * drawn.min():
        ax.set_yscale("log")
    ax.margins(y=0.1)  # a baseline at the bottom must not hide behind the axis
    ax.set_xlabel("training step")
    ax.set_ylabel("mean squared error")
    ax.set_title(describe_layer(adata, key))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False)
    if show:
        plt.show()
    return ax


def _trained(adata: AnnData, key: str | None) -> str:
    """The record that is asked for, or the only one with a training curve."""
    check_adata(adata)
    trained = [name for name, record in adata.uns.get(Key.uns.records, {}).items() if "training" in record]
    if not trained or (key is not None and key not in trained):
        raise KeyError(
            f'there is no training curve in uns["spared_sc"]{"" if key is None else f"[{key!r}]"} (records with one: '
            f"{listing(trained)}): pass one of those as `key=`, or call `sp.tl.spackle_complete(adata)`, which writes one."
        )
    if key is None and len(trained) > 1:
        raise ValueError(f"there are several training curves ({listing(trained)}): pass one of them as `key=`.")
    return trained[0] if key is None else key
