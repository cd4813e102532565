from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, check_number, get_lattice, get_libraries, listing
from spared_sc.pl import _tissue
from spared_sc.pl._marks import VERMILION, Panels, check_panels, finish, make_grid
from spared_sc.pl._tissue import Colours, Section

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DIAMETER = 0.75  # of the spot's own, so that the edges between spots stay visible
_DIAMETER_ALONE = 1.5
_EDGE_WIDTH = 0.12  # of the spot's own diameter
_PANEL_WIDTH = 4.6  # inches
_ALONE = VERMILION  # not in the scale of the other spots
_TOUCHING = {"hex": 6, "grid": 8, "grid4": 4}  # neighbours of a spot in the middle of the tissue


@accepts_spatialdata
@docs.fill()
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
    """Show the graph of neighbouring spots on the tissue, one panel per section.

    Spots are coloured by their number of neighbours; those without any are drawn larger, so that holes and isolated
    spots stand out.

    Parameters
    ----------
    {adata}
    n_rings
        Connect spots up to this many hops apart. Not used with `connectivity_key`.
    connectivity_key
        Name in `adata.obsp` of the graph to draw. `None` draws the exact lattice (`pp.lattice_neighbors`), whether or
        not it has been written. Two spots are connected if the graph has an entry for them in either direction.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given.

    Raises
    ------
    KeyError
        If a library, the positions, the graph or the image does not exist.
    ValueError
        If `ax` is given for several libraries, if there are several libraries and no `library_key`, if the graph joins
        spots of different libraries, or if spots lie off the image.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(missing_spots=0.2)
    >>> fig = sp.pl.lattice(adata, library_key="library_id")
    """
    check_adata(adata)
    check_number("n_rings", n_rings, 1, whole=True)
    sections = _tissue.get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    check_panels(ax, len(sections), f"{len(sections)} libraries", "one with `libraries=`")
    graph, most = _graph(adata, library_key, spatial_key, int(n_rings), connectivity_key)

    panels = _make_panels(ax, sections, figsize)
    colours = _colours(most)
    for panel, section in zip(panels.axes, sections, strict=True):
        _tissue.draw_tissue(panel, section)
        _draw_edges(panel, section, graph[section.rows][:, section.rows])
        _draw_spots(panel, section, np.diff(graph.indptr)[section.rows], colours)
    within = f" within {n_rings} hops" if connectivity_key is None and n_rings > 1 else ""
    bar = _tissue.add_colour_bar(panels, panels.axes, colours, f"neighbours of the spot{within}", shrink=0.6)
    bar.set_ticks(list(range(0, most + 1, 1 + most // 10)), minor=False)  # at most ten numbers, however many neighbours
    bar.ax.tick_params(which="both", length=0)
    return finish(panels.result, show)


def _graph(
    adata: AnnData, library_key: str | None, spatial_key: str, n_rings: int, connectivity_key: str | None
) -> tuple[sps.csr_matrix, int]:
    """The graph in both directions, and the largest number of neighbours to expect."""
    libraries = get_libraries(adata, library_key)
    if connectivity_key is None:
        exact = get_lattice(adata, libraries, spatial_key)
        indptr, indices, hops = exact.hops(n_rings)
        graph = sps.csr_matrix((hops > 0, indices, indptr), shape=(adata.n_obs, adata.n_obs))
        # Ring r of a lattice holds r times as many places as the first one.
        full = max(_TOUCHING.get(kind, 0) for kind in set(exact.kinds)) * n_rings * (n_rings + 1) // 2
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


def _make_panels(ax: Axes | None, sections: list[Section], figsize: tuple[float, float] | None) -> Panels:
    """The sections in about as many rows as columns."""
    n_columns = int(np.ceil(np.sqrt(len(sections))))
    rows = [sections[i : i + n_columns] for i in range(0, len(sections), n_columns)]
    heights = [max(section.height / section.width for section in row) for row in rows]
    size = figsize or (_PANEL_WIDTH * n_columns + 1.2, _PANEL_WIDTH * sum(heights) + 0.5 * len(rows))
    return make_grid(ax, len(sections), n_columns, size, height_ratios=heights)


def _colours(most: int) -> Colours:
    """One colour per number of neighbours: from dark to light, and one apart for spots without any."""
    import matplotlib as mpl
    from matplotlib.colors import BoundaryNorm, ListedColormap

    cmap = ListedColormap([_ALONE, *mpl.colormaps["viridis"](np.linspace(0, 1, most))])
    return Colours(BoundaryNorm(np.arange(most + 2) - 0.5, cmap.N), cmap)


def _draw_edges(ax: Axes, section: Section, graph: sps.csr_matrix) -> None:
    from matplotlib.collections import LineCollection

    source, target = sps.triu(graph, k=1).nonzero()  # each edge once
    segments = list(np.stack([section.xy[source], section.xy[target]], axis=1))
    width = _tissue.in_points(ax, section, _EDGE_WIDTH * section.diameter)
    # Between the image (0) and the circles (1); lines would lie over both.
    lines = LineCollection(segments, colors="0.2", linewidths=width, label="edges", zorder=0.9)
    ax.add_collection(lines, autolim=False)


def _draw_spots(ax: Axes, section: Section, number: np.ndarray, colours: Colours) -> None:
    """Spots in the colour of their number of neighbours, which the title sums up."""
    # An isolated spot is easily missed on a whole slide; around it, there is room.
    diameter = section.diameter * np.where(number == 0, _DIAMETER_ALONE, _DIAMETER)
    edge = {"edgecolors": "0.25", "linewidths": _tissue.in_points(ax, section, 0.04 * section.diameter)}
    _tissue.add_circles(ax, section.xy, diameter, label="spots", **edge, **colours.of(number))
    ax.set_title(f"{section.name}\n{number.size} spots, {(number == 0).sum()} without a neighbour", fontsize=10)
