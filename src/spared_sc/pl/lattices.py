from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, check_number, get_lattice, get_libraries, listing
from spared_sc.pl._spots import add_circles, check_panels, draw_tissue, get_sections, in_points

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    from spared_sc.pl._spots import Section

_DIAMETER = 0.75  # of the spot's own, so that the edges between spots are seen
_DIAMETER_ALONE = 1.5
_EDGE_WIDTH = 0.12  # of the spot's own diameter
_PANEL_WIDTH = 4.6  # inches
_ALONE = "#D55E00"  # Okabe and Ito's vermilion, which is not in the scale of the other spots
_TOUCHING = {"hex": 6, "grid": 8, "grid4": 4}  # neighbours of a spot in the middle of the tissue


def lattice(
    adata: AnnData,
    *,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    img: bool = True,
    img_key: str | None = None,
    n_rings: int = 1,
    connectivity_key: str | None = None,
    crop: bool = True,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """The graph of neighbouring spots on the tissue, one panel per section.

    Spots are coloured by their number of neighbours, so that holes and spots without a neighbour (larger circles) are seen.

    Parameters
    ----------
    adata
        Spots x genes, with positions.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.
    libraries
        Libraries to show, in this order; `None` shows all.
    spatial_key
        Slot of `adata.obsm` with positions (x, y) in pixels of the full-resolution image.
    img
        Whether to draw the tissue image, lightened, where there is one.
    img_key
        Name of the image in `uns["spatial"][library]["images"]`; `None` takes `"hires"`, else `"lowres"`.
    n_rings
        Connect spots up to this many hops apart. Not used with `connectivity_key`.
    connectivity_key
        Name in `adata.obsp` of the graph to draw. By default the exact lattice (`pp.lattice_neighbors`), whether or not
        it was written before. Two spots are connected where the graph has an entry for them in either direction.
    crop
        Whether to show only the part of the image that holds spots.
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
        If a library, the positions, the graph or the image does not exist.
    ValueError
        If `ax` is given with several libraries, if there are several libraries and no `library_key`, if the graph
        joins spots of different libraries, if positions are not finite or off the image, or if `n_rings` is no whole
        number from 1 upwards.

    Examples
    --------
    >>> import matplotlib.pyplot as plt
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(missing_spots=0.2)
    >>> fig = sp.pl.lattice(adata, library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import BoundaryNorm

    check_adata(adata)
    check_number("n_rings", n_rings, 1, whole=True)
    sections = get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    check_panels(ax, len(sections), f"{len(sections)} libraries", "one with `libraries=`")
    graph, most = _graph(adata, library_key, spatial_key, int(n_rings), connectivity_key)
    n_neighbours = np.diff(graph.indptr)

    fig, panels = _panels(sections, figsize) if ax is None else (ax.figure, [ax])
    cmap = _colours(most)
    norm = BoundaryNorm(np.arange(most + 2) - 0.5, cmap.N)
    for panel, section in zip(panels, sections, strict=True):
        draw_tissue(panel, section)
        _draw_edges(panel, section, graph[section.rows][:, section.rows])
        number = n_neighbours[section.rows]
        edge = {"edgecolors": "0.25", "linewidths": in_points(panel, section, 0.04 * section.diameter)}
        # A spot alone is easily missed on a whole slide; around it, there is room.
        diameter = section.diameter * np.where(number == 0, _DIAMETER_ALONE, _DIAMETER)
        add_circles(panel, section.xy, diameter, array=number, norm=norm, cmap=cmap, label="spots", **edge)
        panel.set_title(f"{section.name}\n{number.size} spots, {(number == 0).sum()} without a neighbour", fontsize=10)
    several = f" within {n_rings} hops" if connectivity_key is None and n_rings > 1 else ""
    label = f"neighbours of the spot{several}"
    colours = plt.cm.ScalarMappable(norm=norm, cmap=cmap)
    bar = fig.colorbar(colours, ax=panels, label=label, shrink=0.6, aspect=20)
    # At most ten numbers beside the bar, however many neighbours a spot may have.
    bar.set_ticks(np.arange(0, most + 1, 1 + most // 10), minor=False)
    bar.ax.tick_params(which="both", length=0)
    if show:
        plt.show()
    return fig if ax is None else ax


def _graph(
    adata: AnnData, library_key: str | None, spatial_key: str, n_rings: int, connectivity_key: str | None
) -> tuple[sps.csr_matrix, int]:
    """Which spots are neighbours, in both directions, and the largest number of neighbours to expect."""
    libraries = get_libraries(adata, library_key)
    if connectivity_key is None:
        exact = get_lattice(adata, libraries, spatial_key)
        indptr, indices, hops = exact.hops(n_rings)
        graph = sps.csr_matrix((hops > 0, indices, indptr), shape=(adata.n_obs, adata.n_obs))
        # Ring r of a lattice holds r times as many places as the first one.
        full = _TOUCHING.get(exact.kind, 0) * n_rings * (n_rings + 1) // 2
    elif connectivity_key in adata.obsp:
        graph = sps.csr_matrix(adata.obsp[connectivity_key]) != 0
        upper = sps.triu(graph + graph.T, k=1)
        graph = sps.csr_matrix(upper + upper.T)
        full = 0
    else:
        raise KeyError(
            f"there is no graph {connectivity_key!r} in adata.obsp (graphs: {listing(adata.obsp)}): "
            "leave `connectivity_key` out to draw the lattice."
        )
    source, target = graph.nonzero()
    n_across = int((libraries.codes[source] != libraries.codes[target]).sum()) // 2
    if n_across:
        raise ValueError(
            f"the graph adata.obsp[{connectivity_key!r}] joins {n_across} pairs of spots of different libraries: "
            f"build it library by library with `sp.pp.lattice_neighbors(adata, library_key={library_key!r})`."
        )
    return graph, max(full, int(np.diff(graph.indptr).max()))


def _panels(sections: list[Section], figsize: tuple[float, float] | None) -> tuple[Figure, list[Axes]]:
    """A new figure with the sections in rows, as many of them as columns."""
    import matplotlib.pyplot as plt

    n_cols = int(np.ceil(np.sqrt(len(sections))))
    rows = [sections[i : i + n_cols] for i in range(0, len(sections), n_cols)]
    heights = [max(section.height / section.width for section in row) for row in rows]
    size = figsize or (_PANEL_WIDTH * n_cols + 1.2, _PANEL_WIDTH * sum(heights) + 0.5 * len(rows))
    fig, axes = plt.subplots(len(rows), n_cols, squeeze=False, figsize=size, layout="compressed", height_ratios=heights)
    for unused in axes.flat[len(sections) :]:
        unused.remove()
    return fig, list(axes.flat[: len(sections)])


def _colours(most: int) -> ListedColormap:
    """One colour per number of neighbours: from dark to light, and one apart for spots without any."""
    import matplotlib as mpl
    from matplotlib.colors import ListedColormap

    return ListedColormap([_ALONE, *mpl.colormaps["viridis"](np.linspace(0, 1, most))])


def _draw_edges(ax: Axes, section: Section, graph: sps.csr_matrix) -> None:
    from matplotlib.collections import LineCollection

    source, target = sps.triu(graph, k=1).nonzero()  # each edge once
    segments = np.stack([section.xy[source], section.xy[target]], axis=1)
    width = in_points(ax, section, _EDGE_WIDTH * section.diameter)
    # Between the image (0) and the circles (1); lines would lie over both.
    ax.add_collection(
        LineCollection(segments, colors="0.2", linewidths=width, label="edges", zorder=0.9), autolim=False
    )
