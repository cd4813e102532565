from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.completions import completed_layers, describe_layer
from spared_sc._core.keys import Key
from spared_sc._core.record import records_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, dense, gene_mask, get_detected, get_layer
from spared_sc.pl._marks import PANEL_WIDTH, check_names, check_panels, finish, make_panels, unit
from spared_sc.pl._pairs import agreement, bin_edges, draw_pairs

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_BINS = 60


@accepts_spatialdata
@docs.fill()
def completion_scatter(
    adata: AnnData,
    *,
    key: str | Sequence[str] | None = None,
    layer: str = Key.layers.log2tpm,
    hidden: str = Key.layers.hidden,
    mask_var: str | None = Key.var.selected,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot filled-in against measured values, at entries that were hidden from the completion.

    Each completed layer gets a two-dimensional histogram, on common axes, with the line of equality. Titles name the
    model, and give the mean squared error, Pearson's correlation over all entries (differences between genes included,
    as in the paper) and the number of entries. Hide entries with :func:`spared_sc.tl.hide_entries` and complete the
    result first.

    Parameters
    ----------
    adata
        Spots x genes, from :func:`spared_sc.tl.hide_entries`; or any with a layer `hidden` and layers that were completed
        without those entries.
    key
        Completed layers, one panel each. `None` draws all. (Denoised layers are not given detection, so they do not
        compare with detected values.)
    layer
        Measured layer. Of an object from `tl.hide_entries`, its hidden values are read.
    hidden
        Boolean layer, true at the entries that were hidden. Undetected entries have no measured value and are left out.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given.

    Raises
    ------
    KeyError, TypeError
        If a layer or `mask_var` does not exist, or `hidden` is not boolean.
    ValueError
        If there is no completed layer, if `hidden` marks no detected entry of the genes, if a layer was completed while
        the entries were visible, or if `ax` is given for several layers.

    Notes
    -----
    The scatter plots of Figure 5 of the SpaRED paper (Ruiz et al. 2025), for all genes at once.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_genes=50, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=20)
    >>> trial = sp.tl.hide_entries(adata, library_key="library_id")
    >>> sp.tl.median_complete(trial, library_key="library_id")
    >>> fig = sp.pl.completion_scatter(trial)
    """
    check_adata(adata)
    trial = ", or complete the result of `sp.tl.hide_entries(adata)`"
    keys = check_names(completed_layers(adata) if key is None else key, adata.layers, "layer", "key", remedy=trial)
    check_names(layer, adata.layers, "layer", "layer")
    check_names(hidden, adata.layers, "layer", "hidden", remedy=trial)
    check_panels(ax, len(keys), f"{len(keys)} layers", "one with `key=`")
    measured, filled = _hidden_values(adata, keys, layer, hidden, mask_var)

    pairs = [(measured, values) for values in filled]
    size = figsize or (PANEL_WIDTH * len(keys) + 1.3, PANEL_WIDTH + 0.8)
    panels = make_panels(ax, 1, len(keys), size)
    draw_pairs(panels, pairs, [bin_edges(pairs, _N_BINS)] * len(pairs), "filled = measured", "hidden entries")
    for name, panel, values in zip(keys, panels.axes[0], filled, strict=True):
        title = agreement(np.mean((measured - values) ** 2), _pearson(measured, values), measured.size)
        panel.set_title(f"{describe_layer(adata, name)}\n{title}", fontsize="medium")
        panel.set_xlabel(f"measured, {unit(adata, layer)}")
    panels.axes[0, 0].set_ylabel(f"filled in, {unit(adata, layer)}")
    return finish(panels.result, show)


def _hidden_values(
    adata: AnnData, keys: list[str], layer: str, hidden: str, mask_var: str | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Measured values at the hidden entries, and the filled-in values of each layer."""
    genes = np.flatnonzero(gene_mask(adata, mask_var, optional=Key.var.selected))
    if adata.layers[hidden].dtype != bool:
        kind = adata.layers[hidden].dtype
        raise TypeError(f"layers[{hidden!r}] has the type {kind}: a boolean layer is needed, true where it was hidden.")
    entries = dense(get_layer(adata, hidden)[:, genes])
    if records_of(adata).get(hidden, {}).get("function") == "tl.hide_entries":
        layer = Key.hidden(layer)  # in the layer itself, hidden entries are zero and count as undetected
    else:
        entries &= dense(get_detected(adata)[:, genes])
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
                "while they were visible. Hide them with `sp.tl.hide_entries(adata)`, and complete its result."
            )
    return measured, filled


def _pearson(measured: np.ndarray, filled: np.ndarray) -> float:
    """Correlation over all entries; NaN where one side is constant."""
    return np.corrcoef(measured, filled)[0, 1] if np.ptp(measured) > 0 and np.ptp(filled) > 0 else np.nan
