from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, get_libraries
from spared_sc._images.alignment import Alignment, align_libraries
from spared_sc.pl import _tissue
from spared_sc.pl._marks import BLUE, VERMILION, check_panels, finish, make_grid, spot_mark, width_in_points

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PANEL_WIDTH = 4.6  # inches
_TITLE_SIZE = 9  # points
_COLOURS = {"on tissue": BLUE, "off tissue": VERMILION}
_SMALLEST = 1 / 300  # diameter of the circles as a share of the image: spots of a large slide would be invisible


@accepts_spatialdata
@docs.fill()
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
    """Show spots on the whole image, coloured by whether they lie on tissue, one panel per section.

    The outline surrounds the detected tissue. The title gives the share of spots on it and, if spots and tissue do not
    agree, the likely mistake (:func:`spared_sc.pp.check_alignment`). Spots with `obs["in_tissue"]` 0 are drawn but left
    out of that share.

    Parameters
    ----------
    {adata}
    image
        As in :func:`spared_sc.pp.extract_patches`.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given.

    Raises
    ------
    KeyError
        If a library, the positions or the image does not exist.
    FileNotFoundError
        If the image file is not where it was.
    ValueError
        If `ax` is given for several libraries, or an image cannot be read.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> fig = sp.pl.alignment(adata, library_key="library_id")
    """
    check_adata(adata, genes=False)
    known = get_libraries(adata, library_key)
    names = _tissue.choose_libraries(known, libraries)
    check_panels(ax, len(names), f"{len(names)} libraries", "one with `libraries=`")
    if libraries is not None:  # the images of the others need not be there
        adata = adata[np.isin(np.asarray(known.names)[known.codes], names)]
        known = get_libraries(adata, library_key)
    alignments = align_libraries(adata, known, image, spatial_key)
    n_columns = int(np.ceil(np.sqrt(len(names))))
    size = figsize or (_PANEL_WIDTH * n_columns, 1.1 * _PANEL_WIDTH * -(-len(names) // n_columns))
    panels = make_grid(ax, len(names), n_columns, size)
    for panel, name in zip(panels.axes, names, strict=True):
        _draw(panel, name, alignments[name])
    _tissue.add_legend_below(panels, {kind: spot_mark(colour, "white") for kind, colour in _COLOURS.items()})
    return finish(panels.result, show)


def _draw(ax: Axes, name: str, of_library: Alignment) -> None:
    """A library's image, the outline of the tissue, and the spots."""
    image, xy = of_library.thumbnail, of_library.centres - 0.5
    window = _tissue.whole_image(image)
    section = _tissue.Section(name, np.arange(len(xy)), xy, of_library.diameter, window, image)
    _tissue.draw_tissue(ax, section)
    if of_library.tissue.any() and not of_library.tissue.all():
        ax.contour(of_library.tissue, levels=[0.5], colors="black", linewidths=0.8)
    diameter = np.fmax(of_library.diameter, _SMALLEST * max(image.shape[:2]))  # the smallest where it is NaN
    edge = {"edgecolors": "white", "linewidths": _tissue.in_points(ax, section, 0.1 * diameter)}
    for spots, (kind, colour) in zip((of_library.on_tissue, ~of_library.on_tissue), _COLOURS.items(), strict=True):
        _tissue.add_circles(ax, xy[spots], diameter, label=kind, facecolors=colour, **edge)
    verdict = f"{of_library.verdict}: {of_library.cause}" if of_library.cause else of_library.verdict
    share = f"{100 * of_library.share:.0f} % of {of_library.counted.sum()} spots on tissue"
    # Wrapped here: the layout makes no room for lines that matplotlib wraps.
    wrapped = textwrap.fill(verdict, max(20, int(width_in_points(ax) / (0.5 * _TITLE_SIZE))))
    ax.set_title(f"{name}\n{share}\n{wrapped}", fontsize=_TITLE_SIZE)
