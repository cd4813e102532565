from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.completions import denoised_layers, describe_layer, layers_for_maps, measured_layers
from spared_sc._core.keys import Key
from spared_sc._core.lineage import unit_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata
from spared_sc.pl import _tissue
from spared_sc.pl._marks import check_genes, check_layers, check_panels, finish, unit

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure


@accepts_spatialdata
@docs.fill()
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
    """Compare one gene across layers on the tissue: sections are rows, layers are columns.

    All panels share one colour scale. Spots in which the gene was not detected are grey in a measured layer; in a
    completed or denoised layer every spot is coloured. The title of such a layer names the model that made it. The share
    of spots in which the gene was detected stands beside each section.

    Parameters
    ----------
    adata
        Spots x genes, with layers, positions, and `layers["detected"]` or raw counts.
    gene
        Name in `adata.var_names`.
    layers
        Layers to compare, from left to right. `None` draws the measured layer, `"log2tpm"`, and of every completion its
        denoised layer, such as `"spackle_denoised"`, or its completed layer if it has no denoised one.
    mark_filled
        Outline the spots that did not detect the gene, in completed and denoised layers.
    vmin
        Lower end of the colour scale. `None` takes the 1st percentile of the values shown, over spots that detected the
        gene, and in denoised layers over all spots (over all where none did).
    {others}

    Returns
    -------
    The figure, or `ax` if it was given.

    Raises
    ------
    KeyError
        If the gene, a layer, a library, the positions or the image does not exist.
    ValueError
        If there is no layer to draw, if `ax` is given for several panels, if there are several libraries and no
        `library_key`, if spots lie off the image, or if `vmin` is not below `vmax`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic()
    >>> sp.pp.recipe_spared(adata, library_key="library_id")
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> gene = adata.var_names[adata.var["spared_selected"]][0]
    >>> fig = sp.pl.spatial_compare(adata, gene, library_key="library_id")
    """
    check_adata(adata)
    layers = check_layers(adata, [*measured_layers(adata), *layers_for_maps(adata)] if layers is None else layers)
    sections = _tissue.get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    asked = f"{len(sections)} libraries x {len(layers)} layers"
    check_panels(ax, len(sections) * len(layers), asked, "one with `libraries=` and one with `layers=`")
    check_genes(gene, adata.var_names, "adata.var_names")
    values, detected = _tissue.read_gene(adata, gene, layers)
    shown = np.concatenate([section.rows for section in sections])
    is_denoised = np.isin(layers, denoised_layers(adata))
    counted = detected[shown, None] | is_denoised
    _tissue.check_style(size, alpha)
    colours = _tissue.colour_scale(values[shown], counted, cmap, vmin, vmax)

    titles = [describe_layer(adata, layer).replace(": ", "\n") for layer in layers]
    panels = _tissue.section_panels(ax, sections, titles, figsize, gene, margins=(1.2, 0.9))
    drawn: set[str] = set()
    for section, row in zip(sections, panels.axes, strict=True):
        known = detected[section.rows]
        for panel, of_layer in zip(row, values[section.rows].T, strict=True):
            drawn |= _tissue.draw_spots(panel, section, of_layer, known, colours, size, alpha, mark_filled=mark_filled)
        row[0].set_ylabel(f"{section.name}\n{100 * known.mean():.0f} % detected")
    _tissue.add_colour_bar(panels, panels.axes, colours, _scale_label(adata, gene, layers, values, detected))
    _tissue.add_spot_legend(panels, drawn, colours, mark_filled=mark_filled)
    return finish(panels.result, show)


def _scale_label(adata: AnnData, gene: str, layers: list[str], values: np.ndarray, detected: np.ndarray) -> str:
    """The unit, when all layers repeat the log2(TPM + 1) of detected entries or are its estimates; their names otherwise."""
    if Key.layers.log2tpm in adata.layers:
        log2tpm, _ = _tissue.read_gene(adata, gene, [Key.layers.log2tpm])
        denoised = [name for name in denoised_layers(adata) if unit_of(adata, name) == Key.layers.log2tpm]
        repeats = values[:, ~np.isin(layers, denoised)]
        if np.allclose(repeats[detected], log2tpm[detected], atol=1e-3):
            return unit(adata)
    return ", ".join(layers)
