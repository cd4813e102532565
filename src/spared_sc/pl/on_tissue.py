from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, get_libraries, listing
from spared_sc._images.alignment import align_libraries
from spared_sc.pl._spots import OKABE_ITO, Section, add_circles, check_panels, draw_tissue, in_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH = 4.6  # inches
_COLOURS = {"on tissue": OKABE_ITO[0], "off tissue": OKABE_ITO[5]}
_SMALLEST = 1 / 300  # diameter of the circles, as a share of the image: a spot of a large slide could not be seen


def alignment(
    adata: AnnData,
    *,
    image: Any = None,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Spots on the whole image, coloured by whether there is tissue under them, one panel per section.

    The outline is that of what was taken for tissue. The title says which share of the spots is on it, and the likely
    mistake where spots and tissue do not agree (:func:`spared_sc.pp.check_alignment`). Spots whose `obs["in_tissue"]` is 0
    are drawn, and left out of that share.

    Parameters
    ----------
    adata
        Spots x genes, with positions.
    image
        As in :func:`spared_sc.pp.extract_patches`.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.
    libraries
        Libraries to show, in this order; `None` shows all.
    spatial_key
        Slot of `adata.obsm` with positions (x, y) in pixels of the full-resolution image.
    ax
        Axes to draw into, for one library only.
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
        If a library, the positions or the image does not exist.
    FileNotFoundError
        If the image is not where it was.
    ValueError
        If `ax` is given with several libraries, or an image cannot be read.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> fig = sp.pl.alignment(adata, library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    check_adata(adata, genes=False)
    known = get_libraries(adata, library_key)
    names = known.names if libraries is None else [libraries] if isinstance(libraries, str) else list(libraries)
    unknown = [name for name in names if name not in known.names]
    if unknown or not names:
        raise KeyError(
            f"libraries={libraries!r}: there is no such library; pass names out of {listing(known.names)}, or None."
        )
    check_panels(ax, len(names), f"{len(names)} libraries", "one with `libraries=`")
    if libraries is not None:  # the images of the others need not be there
        adata = adata[np.isin(np.asarray(known.names)[known.codes], names)]
        known = get_libraries(adata, library_key)
    found = align_libraries(adata, known, image, spatial_key)
    if ax is None:
        n_cols = int(np.ceil(np.sqrt(len(names))))
        n_rows = -(-len(names) // n_cols)
        size = figsize or (_PANEL_WIDTH * n_cols, 1.1 * _PANEL_WIDTH * n_rows)
        fig, axes = plt.subplots(n_rows, n_cols, squeeze=False, figsize=size, layout="compressed")
        for unused in axes.flat[len(names) :]:
            unused.remove()
        panels = list(axes.flat[: len(names)])
    else:
        fig, panels = ax.figure, [ax]
    for panel, name in zip(panels, names, strict=True):
        one = found[name]
        height, width = one.tissue.shape
        window = (-0.5, width - 0.5, -0.5, height - 0.5)  # as imshow draws it: whole numbers are the middles of pixels
        section = Section(name, np.arange(len(one.centres)), one.centres - 0.5, one.diameter, window, one.thumbnail)
        draw_tissue(panel, section)
        if one.tissue.any() and not one.tissue.all():
            panel.contour(one.tissue, levels=[0.5], colors="black", linewidths=0.8)
        smallest = _SMALLEST * max(height, width)
        diameter = smallest if np.isnan(one.diameter) else max(one.diameter, smallest)
        edge = {"edgecolors": "white", "linewidths": in_points(panel, section, 0.1 * diameter)}
        for kind, spots in (("on tissue", one.on_tissue), ("off tissue", ~one.on_tissue)):
            add_circles(panel, section.xy[spots], diameter, label=kind, facecolors=_COLOURS[kind], **edge)
        verdict = f"{one.verdict}: {one.cause}" if one.cause else one.verdict
        share = f"{100 * one.share:.0f} % of {one.counted.sum()} spots on tissue"
        panel.set_title(f"{name}\n{share}\n{verdict}", fontsize=9, wrap=True)
    _add_legend(fig, ax)
    if show:
        plt.show()
    return fig if ax is None else ax


def _add_legend(fig: Figure, ax: Axes | None) -> None:
    from matplotlib.lines import Line2D

    style = {"linestyle": "", "marker": "o", "markersize": 8, "markeredgecolor": "white"}
    marks = [Line2D([], [], markerfacecolor=colour, label=kind, **style) for kind, colour in _COLOURS.items()]
    if ax is None:
        fig.legend(handles=marks, loc="outside lower center", ncols=2, frameon=False)
    else:
        ax.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False)
