from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import docs
from spared_sc._core.completions import describe_layer
from spared_sc._core.keys import Key
from spared_sc._core.record import records_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import (
    check_adata,
    check_number,
    check_seed,
    dense,
    gene_mask,
    get_layer,
    get_libraries,
    listing,
)
from spared_sc.pl._marks import PANEL_WIDTH, check_layers, finish, make_panels, series_style, spot_mark

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_BINS = 30
_LEGEND_ROWS = 20  # that fit the height of the figure


@accepts_spatialdata
@docs.fill()
def batch_effect(
    adata: AnnData,
    *,
    layers: str | Sequence[str] | None = None,
    mask_var: str | None = Key.var.selected,
    batch_key: str | None = None,
    library_key: str | None = None,
    n_spots: int = 2000,
    random_state: int = 0,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure:
    r"""Plot how much of the expression the batch explains, layer by layer: before and after ComBat.

    Above, spots on the first two principal components of each layer, coloured by batch. Below, the share of each gene's
    variance that the batch explains, over all spots,

    .. math:: R^2_g = \frac{\sum_b n_b (\bar x_{bg} - \bar x_g)^2}{\sum_s (x_{sg} - \bar x_g)^2}

    with its mean over the genes. Batches of different tissue differ for good reasons, too: a low share is not an aim in
    itself.

    Parameters
    ----------
    {adata}
    layers
        Layers to compare, from left to right. `None` draws every layer that `pp.combat` wrote, after the one that it
        corrected; without such a layer, `"log2tpm"`.
    batch_key
        Column of `obs` with the batch of each spot. `None` takes every library as a batch.
    library_key
        Column of `obs` with the library (section) of each spot. Not used with `batch_key`.
    n_spots
        Largest number of spots to compute and draw components of, chosen at random; the same in all layers.
    random_state
        Seed of the choice. The choice does not depend on the order of the rows.
    {others}

    Returns
    -------
    The figure. A component's sign is such that the gene with the largest weight has a positive one.

    Raises
    ------
    KeyError, TypeError
        If a layer or a column does not exist, or `mask_var` is not boolean.
    ValueError
        If there is no layer to draw, if there are fewer than two batches or two genes, or if a layer does not vary.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(library_effect=1.0, image=False)
    >>> sp.pp.recipe_spared(adata, library_key="library_id")
    >>> sp.pp.combat(adata, library_key="library_id")
    >>> fig = sp.pl.batch_effect(adata, library_key="library_id")
    """
    check_adata(adata)
    check_number("n_spots", n_spots, 3, whole=True)
    layers = check_layers(adata, _before_and_after(adata) if layers is None else layers)
    genes = np.flatnonzero(gene_mask(adata, mask_var, optional=Key.var.selected))
    batches = get_libraries(adata, library_key if batch_key is None else batch_key)
    if len(batches.names) < 2:
        raise ValueError(
            f"all spots are of one batch ({listing(batches.names)}): name the column of adata.obs that tells batches "
            "apart with `batch_key=`."
        )
    spots = _choose(adata, n_spots, random_state)
    blocks = [get_layer(adata, layer)[:, genes] for layer in layers]
    shares = [_explained(block, batches.codes, layer) for block, layer in zip(blocks, layers, strict=True)]
    components = [_components(dense(block[spots]), layer) for block, layer in zip(blocks, layers, strict=True)]

    ncols = -(-len(batches.names) // _LEGEND_ROWS)
    size = figsize or (PANEL_WIDTH * len(layers) + 0.3 + 1.5 * ncols, 5.4)
    panels = make_panels(None, 2, len(layers), size, layout="constrained", height_ratios=(3, 1))
    for panel, layer, (scores, variance) in zip(panels.axes[0], layers, components, strict=True):
        _draw_spots(panel, scores, batches.codes[spots])
        first, second = 100 * variance
        panel.set(xlabel=f"component 1 ({first:.0f} % of variance)", ylabel=f"component 2 ({second:.0f} %)")
        panel.set(title=describe_layer(adata, layer), xticks=[], yticks=[])
    _draw_shares(panels.axes[1], shares)
    styles = [series_style(code) for code in range(len(batches.names))]
    handles = [spot_mark(colour, size=6, marker=marker) for colour, marker in styles]
    title = batch_key or library_key
    panels.figure.legend(handles, batches.names, loc="outside right upper", ncols=ncols, title=title, frameon=False)
    return finish(panels.figure, show)


def _before_and_after(adata: AnnData) -> list[str]:
    """The layers that `pp.combat` corrected, each followed by the results; the normalised one where it was not run."""
    records = records_of(adata)
    corrected = [name for name in adata.layers if records.get(name, {}).get("function") == "pp.combat"]
    both = [layer for name in corrected for layer in (str(records[name]["params"]["layer"]), name)]
    return [layer for layer in dict.fromkeys([*both] or [Key.layers.log2tpm]) if layer in adata.layers]


def _choose(adata: AnnData, n_spots: int, random_state: int) -> np.ndarray:
    """Rows of the spots to draw, in random order, so that no batch is drawn over all others."""
    by_name = np.argsort(adata.obs_names.to_numpy(dtype=str))
    return by_name[np.random.default_rng(check_seed(random_state)).permutation(adata.n_obs)[:n_spots]]


def _explained(values: np.ndarray | sps.csr_matrix, batch: np.ndarray, layer: str) -> np.ndarray:
    """Share of the variance of each gene that lies between the batches; genes that do not vary are left out."""
    values = values.astype(np.float64)  # sums of squares are subtracted below
    n_spots = np.bincount(batch)[:, None]
    member = sps.csr_matrix((np.ones(batch.size), (batch, np.arange(batch.size))))
    batch_means = dense(member @ values) / n_spots
    mean = (n_spots * batch_means).sum(axis=0) / batch.size
    between = (n_spots * (batch_means - mean) ** 2).sum(axis=0)
    squares = values**2 if isinstance(values, np.ndarray) else values.multiply(values)
    square_sum = np.asarray(squares.sum(axis=0)).ravel()
    total = square_sum - batch.size * mean**2
    varies = total > 1e-9 * square_sum  # below, it is rounding
    if not varies.any():
        raise ValueError(
            f"no gene varies in layers[{layer!r}]: pass other genes with `mask_var`, or leave the layer out."
        )
    return between[varies] / total[varies]


def _components(values: np.ndarray, layer: str) -> tuple[np.ndarray, np.ndarray]:
    """The spots on the first two principal components (n_spots, 2), and the components' shares of the variance."""
    centred = values - values.mean(axis=0, dtype=np.float64)
    if min(centred.shape) < 2 or not centred.any():
        raise ValueError(
            f"layers[{layer!r}] has no two principal components ({centred.shape[0]} spots x {centred.shape[1]} genes"
            "): pass more genes with `mask_var`, or leave the layer out."
        )
    left, size, weights = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(weights[:2]).argmax(axis=1)
    sign = np.sign(weights[[0, 1], largest])
    return left[:, :2] * size[:2] * sign, size[:2] ** 2 / (size**2).sum()


def _draw_spots(ax: Axes, scores: np.ndarray, batch: np.ndarray) -> None:
    colours, markers = np.array([series_style(code) for code in batch]).T
    for marker in dict.fromkeys(markers):
        mask = markers == marker
        x, y = scores[mask].T
        ax.scatter(x, y, s=9, marker=marker, c=colours[mask], alpha=0.7, linewidths=0)


def _draw_shares(axes: np.ndarray, shares: list[np.ndarray]) -> None:
    """Histograms of the explained shares, with their means; shares on a common axis."""
    bins = np.linspace(0, 100 * max(0.01, *(share.max() for share in shares)), _N_BINS + 1)
    for ax, share in zip(axes, shares, strict=True):
        mean = 100 * share.mean()
        ax.hist(100 * share, bins=bins, color="0.7")
        ax.axvline(mean, color="black", linewidth=1)
        label = f"variance explained by batch (%), mean {mean:.{1 if mean >= 1 else 2}f}"
        ax.set(xlim=(-0.02 * bins[-1], 1.02 * bins[-1]), xlabel=label)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("genes")
