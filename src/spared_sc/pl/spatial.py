from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.completions import completed_layers, describe_layer, measured_layers
from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, get_detected, get_layer, listing
from spared_sc.pl._spots import (
    PANEL_WIDTH,
    add_spot_legend,
    check_layers,
    colour_scale,
    column,
    draw_spots,
    draw_tissue,
    get_sections,
    normalised_unit,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


def spatial_compare(
    adata: AnnData,
    gene: str,
    *,
    layers: str | Sequence[str] | None = None,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    img: bool = True,
    img_key: str | None = None,
    mark_filled: bool = False,
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
    """One gene in several layers, side by side on the tissue: sections are rows, layers are columns.

    All panels share one colour scale. In a layer that is not completed, spots in which the gene was not detected are
    grey; in a completed one every spot has its colour. The share of spots in which the gene was detected stands beside
    each section.

    Parameters
    ----------
    adata
        Spots x genes, with the layers, `layers["detected"]` or raw counts, and positions.
    gene
        Name in `adata.var_names`.
    layers
        Layers to compare, from left to right. By default the measured layer, `"log2tpm"`, and every completed one.
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
    mark_filled
        Whether to outline, in completed layers, the spots whose value was filled in.
    size
        Diameter of the circles, as a multiple of the spots' own (`spot_diameter_fullres`; without it, 0.55 of the
        distance between neighbouring spots).
    cmap
        Colour map.
    vmin, vmax
        Ends of the colour scale; by default the 1st and the 99th percentile of the detected values shown.
    alpha
        Opacity of the circles.
    crop
        Whether to show only the part of the image that holds spots.
    ax
        Axes to draw into, for one library and one layer only.
    figsize
        Width and height of the new figure in inches; by default it grows with the panels.
    show
        Whether to call `plt.show()`; `None` means no.

    Returns
    -------
    The figure, or `ax` where it was given.

    Raises
    ------
    KeyError
        If the gene, a layer, a library, the positions or the image does not exist.
    ValueError
        If `ax` is given with several panels, if there are several libraries and no `library_key`, if positions are not
        finite or off the image, or if `vmin` is not below `vmax`.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic()
    >>> sp.pp.recipe_spared(adata, library_key="library_id")
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> gene = adata.var_names[adata.var["spared_selected"]][0]
    >>> fig = sp.pl.spatial_compare(adata, gene, library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    check_adata(adata)
    layers = check_layers(adata, [*measured_layers(adata), *completed_layers(adata)] if layers is None else layers)
    sections = get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    if ax is not None and len(sections) * len(layers) != 1:
        raise ValueError(
            f"`ax` holds one panel, but {len(sections)} libraries x {len(layers)} layers were asked for: "
            "name one with `libraries=` and one with `layers=`, or leave `ax` out."
        )
    values, detected = _gene_values(adata, gene, layers)
    shown = np.concatenate([section.rows for section in sections])
    norm, extend = colour_scale(values[shown], detected[shown], vmin, vmax)
    cmap = plt.get_cmap(cmap)

    if ax is None:
        heights = [section.height / section.width for section in sections]
        size_inches = figsize or (PANEL_WIDTH * len(layers) + 1.2, PANEL_WIDTH * sum(heights) + 0.9)
        # "compressed" is the constrained layout for panels of fixed aspect; the plain one cuts labels off.
        fig, axes = plt.subplots(
            len(sections), len(layers), squeeze=False, figsize=size_inches, layout="compressed", height_ratios=heights
        )
        fig.suptitle(gene, fontstyle="italic")
    else:
        fig, axes = ax.figure, np.array([[ax]])
    drawn = set()
    for section, row in zip(sections, axes, strict=True):
        for j, panel in enumerate(row):
            draw_tissue(panel, section)
            drawn |= draw_spots(
                panel, section, values[section.rows, j], detected[section.rows], norm, cmap, mark_filled, size, alpha
            )
        row[0].set_ylabel(f"{section.name}\n{100 * detected[section.rows].mean():.0f} % detected")
    for panel, layer in zip(axes[0], layers, strict=True):
        title = describe_layer(adata, layer)
        panel.set_title(title if ax is None else f"{gene}, {title}")

    colours = plt.cm.ScalarMappable(norm=norm, cmap=cmap)
    label = _scale_label(adata, gene, layers, values, detected)
    fig.colorbar(
        colours, ax=axes if ax is None else ax, label=label, extend=extend, shrink=0.7 / len(sections), aspect=20
    )
    add_spot_legend(fig, ax, drawn, cmap, mark_filled)
    if show:
        plt.show()
    return fig if ax is None else ax


def _gene_values(adata: AnnData, gene: str, layers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The gene's values, spots x layers, and whether each spot detected it."""
    if gene not in adata.var_names:
        lower = {name.lower(): name for name in adata.var_names}
        close = [lower[name] for name in difflib.get_close_matches(str(gene).lower(), lower, n=5)]
        hint = f"did you mean {listing(close)}?" if close else f"names look like {listing(adata.var_names, 3)}."
        raise KeyError(f"there is no gene {gene!r} in adata.var_names: {hint}")
    at = adata.var_names.get_loc(gene)
    values = np.column_stack([column(get_layer(adata, layer), at) for layer in layers])
    return values, column(get_detected(adata), at)


def _scale_label(adata: AnnData, gene: str, layers: list[str], values: np.ndarray, detected: np.ndarray) -> str:
    """The unit, when all layers repeat the log2(TPM + 1) of detected entries; their names otherwise."""
    if Key.layers.log2tpm in adata.layers:
        log2tpm = column(get_layer(adata, Key.layers.log2tpm), adata.var_names.get_loc(gene))
        if np.allclose(values[detected], log2tpm[detected, None], atol=1e-3):
            return normalised_unit(adata)
    return ", ".join(layers)
