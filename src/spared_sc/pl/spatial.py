from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, get_detected, get_layer, get_libraries, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

_PALE, _PALE_EDGE = "0.88", "0.55"  # light grey with an edge, to be seen on pale and on dark tissue
_OUTLINE, _OUTLINE_DIAMETER = "black", 1.3  # the second as a multiple of the spot's
_DIAMETER_OF_PITCH = 0.55  # Visium: spots of 55 um, 100 um from centre to centre
_PANEL_WIDTH = 3.6  # inches
_LOG2TPM_LABEL = "log2(TPM + 1)"


def spatial_compare(
    adata: AnnData,
    gene: str,
    *,
    layers: str | Sequence[str] = (Key.layers.log2tpm, Key.layers.median, Key.layers.spackle),
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
        Layers to compare, from left to right.
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
    >>> fig = sp.pl.spatial_compare(adata, gene, layers=["log2tpm", "median"], library_key="library_id")
    >>> plt.close(fig)
    """
    import matplotlib.pyplot as plt

    check_adata(adata)
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers:
        raise ValueError(f"`layers` is empty: pass some of {listing(adata.layers)}.")
    sections = _sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    if ax is not None and len(sections) * len(layers) != 1:
        raise ValueError(
            f"`ax` holds one panel, but {len(sections)} libraries x {len(layers)} layers were asked for: "
            "name one with `libraries=` and one with `layers=`, or leave `ax` out."
        )
    values, detected = _gene_values(adata, gene, layers)
    shown = np.concatenate([section.rows for section in sections])
    norm, extend = _colour_scale(values[shown], detected[shown], vmin, vmax)
    cmap = plt.get_cmap(cmap)

    if ax is None:
        heights = [section.height / section.width for section in sections]
        size_inches = figsize or (_PANEL_WIDTH * len(layers) + 1.2, _PANEL_WIDTH * sum(heights) + 0.9)
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
            _draw_tissue(panel, section)
            drawn |= _draw_spots(
                panel, section, values[section.rows, j], detected[section.rows], norm, cmap, mark_filled, size, alpha
            )
        row[0].set_ylabel(f"{section.name}\n{100 * detected[section.rows].mean():.0f} % detected")
    for panel, layer in zip(axes[0], layers, strict=True):
        panel.set_title(layer if ax is None else f"{gene}, {layer}")

    colours = plt.cm.ScalarMappable(norm=norm, cmap=cmap)
    label = _scale_label(adata, gene, layers, values, detected)
    fig.colorbar(
        colours, ax=axes if ax is None else ax, label=label, extend=extend, shrink=0.7 / len(sections), aspect=20
    )
    _add_legend(fig, ax, drawn, cmap, mark_filled)
    if show:
        plt.show()
    return fig if ax is None else ax


@dataclass(frozen=True)
class _Section:
    """What is needed to draw one library, in pixels of its image (of the full-resolution image without one)."""

    name: str
    rows: np.ndarray  # (n_spots,) rows of the AnnData
    xy: np.ndarray  # (n_spots, 2)
    diameter: float
    window: tuple[float, float, float, float]  # left, right, top, bottom: y grows downward
    image: np.ndarray | None

    @property
    def width(self) -> float:
        return self.window[1] - self.window[0]

    @property
    def height(self) -> float:
        return self.window[3] - self.window[2]


def _sections(
    adata: AnnData,
    library_key: str | None,
    libraries: str | Sequence[str] | None,
    spatial_key: str,
    *,
    img: bool,
    img_key: str | None,
    crop: bool,
) -> list[_Section]:
    known = get_libraries(adata, library_key)
    names = known.names if libraries is None else [libraries] if isinstance(libraries, str) else list(libraries)
    unknown = [name for name in names if name not in known.names]
    if unknown:
        raise KeyError(f"there is no library {unknown[0]!r}: pass names out of {listing(known.names)} as `libraries=`.")
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"the spots have no positions: there is no adata.obsm[{spatial_key!r}] (obsm: {listing(adata.obsm)}). "
            "Name the slot with `spatial_key=`; `sp.datasets.read_visium` reads positions."
        )
    position = np.asarray(adata.obsm[spatial_key], dtype=float)[:, :2]
    if not np.isfinite(position).all():
        raise ValueError(f"adata.obsm[{spatial_key!r}] holds NaN or infinite positions: drop those spots first.")
    rows = dict(zip(known.names, known.rows(), strict=True))
    slides = adata.uns.get(Key.uns.spatial, {})
    return [
        _section(name, rows[name], position[rows[name]], slides.get(name, {}), img=img, img_key=img_key, crop=crop)
        for name in names
    ]


def _section(
    name: str,
    rows: np.ndarray,
    position: np.ndarray,
    slide: dict[str, Any],
    *,
    img: bool,
    img_key: str | None,
    crop: bool,
) -> _Section:
    factors = slide.get("scalefactors", {})
    image, scale = None, 1.0
    if img:
        key = _image_key(name, slide.get("images", {}), img_key)
        if key is not None:
            if f"tissue_{key}_scalef" not in factors:
                raise KeyError(
                    f'uns["spatial"][{name!r}]["scalefactors"] has no "tissue_{key}_scalef" (it has {listing(factors)}): '
                    "add the scale of that image, name another one with `img_key=`, or pass img=False."
                )
            image, scale = np.asarray(slide["images"][key]), float(factors[f"tissue_{key}_scalef"])
    xy = position * scale
    diameter = scale * float(factors.get("spot_diameter_fullres", _DIAMETER_OF_PITCH * _pitch(position)))
    left, top = xy.min(axis=0) - 1.5 * diameter
    right, bottom = xy.max(axis=0) + 1.5 * diameter
    if image is not None:
        height, width = image.shape[:2]
        if right < 0 or bottom < 0 or left > width or top > height:
            raise ValueError(
                f"the spots of library {name!r} lie outside its image (x {left:.0f} to {right:.0f}, y {top:.0f} to "
                f"{bottom:.0f}; image {width} x {height}): check the scale factors and positions, or pass img=False."
            )
        if not crop:
            # As imshow draws it: whole numbers are the middles of pixels.
            left, right, top, bottom = -0.5, width - 0.5, -0.5, height - 0.5
    return _Section(name, rows, xy, diameter, (left, right, top, bottom), image)


def _image_key(name: str, images: dict[str, Any], img_key: str | None) -> str | None:
    if img_key is None:
        return next((key for key in ("hires", "lowres") if key in images), None)
    if img_key not in images:
        raise KeyError(
            f"library {name!r} has no image {img_key!r} (images: {listing(images)}): pass one of those as `img_key=`, "
            "or img=False to draw none."
        )
    return img_key


def _pitch(position: np.ndarray) -> float:
    """Median distance from a spot to its nearest neighbour."""
    from scipy.spatial import cKDTree

    if len(position) == 1:
        return 1.0
    distance, _ = cKDTree(position).query(position, k=2)
    return float(np.median(distance[:, 1]))


def _gene_values(adata: AnnData, gene: str, layers: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The gene's values, spots x layers, and whether each spot detected it."""
    if gene not in adata.var_names:
        lower = {name.lower(): name for name in adata.var_names}
        close = [lower[name] for name in difflib.get_close_matches(str(gene).lower(), lower, n=5)]
        hint = f"did you mean {listing(close)}?" if close else f"names look like {listing(adata.var_names, 3)}."
        raise KeyError(f"there is no gene {gene!r} in adata.var_names: {hint}")
    missing = [layer for layer in layers if layer not in adata.layers]
    if missing:
        raise KeyError(
            f"there is no layer {missing[0]!r} (layers: {listing(adata.layers)}): pass some of those as `layers=`, or "
            "write it first with `sp.pp.normalize_tpm`, `sp.tl.median_complete` or `sp.tl.spackle_complete`."
        )
    at = adata.var_names.get_loc(gene)
    values = np.column_stack([_column(get_layer(adata, layer), at) for layer in layers])
    return values, _column(get_detected(adata), at)


def _column(matrix: np.ndarray | sps.csr_matrix, at: int) -> np.ndarray:
    return matrix[:, [at]].toarray().ravel() if sps.issparse(matrix) else matrix[:, at]


def _colour_scale(
    values: np.ndarray, detected: np.ndarray, vmin: float | None, vmax: float | None
) -> tuple[Normalize, str]:
    """One scale for all panels, and at which ends values lie beyond it."""
    from matplotlib.colors import Normalize

    measured = values[detected] if detected.any() else values
    low, high = np.percentile(measured, [1, 99])
    if low == high:
        low -= 1
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    if low >= high:
        raise ValueError(f"vmin={low:g} is not below vmax={high:g}: change one of them, or leave both out.")
    coloured = values[detected[:, None] | (values != 0)]
    below, above = (coloured < low).any(), (coloured > high).any()
    return Normalize(low, high), {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _scale_label(adata: AnnData, gene: str, layers: list[str], values: np.ndarray, detected: np.ndarray) -> str:
    """The unit, when all layers repeat the log2(TPM + 1) of detected entries; their names otherwise."""
    if Key.layers.log2tpm in adata.layers:
        log2tpm = _column(get_layer(adata, Key.layers.log2tpm), adata.var_names.get_loc(gene))
        if np.allclose(values[detected], log2tpm[detected, None], atol=1e-3):
            return _LOG2TPM_LABEL
    return ", ".join(layers)


def _draw_tissue(ax: Axes, section: _Section) -> None:
    """The lightened image within the section's window, and axes without ticks."""
    left, right, top, bottom = section.window
    if section.image is not None:
        height, width = section.image.shape[:2]
        x0, x1 = max(int(left), 0), min(int(np.ceil(right)) + 1, width)
        y0, y1 = max(int(top), 0), min(int(np.ceil(bottom)) + 1, height)
        # Only the visible part: every panel keeps a copy of what it is given.
        ax.imshow(_lighten(section.image[y0:y1, x0:x1, :3]), extent=(x0 - 0.5, x1 - 0.5, y1 - 0.5, y0 - 0.5))
    ax.set(xlim=(left, right), ylim=(bottom, top), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _lighten(image: np.ndarray) -> np.ndarray:
    """Paler and greyer, so that the spots' colours stand out and the tissue's structure stays readable."""
    if image.dtype.kind in "ui":
        image = image / np.float32(np.iinfo(image.dtype).max)
    image = image / max(np.percentile(image, 95), 1 / 255)  # the bare slide becomes white
    grey = image.mean(axis=2, keepdims=True)
    return np.clip(0.35 + 0.65 * (0.5 * image + 0.5 * grey), 0, 1)


def _draw_spots(
    ax: Axes,
    section: _Section,
    values: np.ndarray,
    detected: np.ndarray,
    norm: Normalize,
    cmap: Colormap,
    mark_filled: bool,
    size: float,
    alpha: float,
) -> set[str]:
    """Circles of true size, one collection per kind of spot; returns the kinds."""
    completed = (values[~detected] != 0).any()
    kinds = {"detected": detected, ("filled in" if completed else "not detected"): ~detected}
    diameter = size * section.diameter
    points = 72 * diameter * ax.get_window_extent().width / (section.width * ax.figure.dpi)
    pale = {"facecolors": _PALE, "edgecolors": _PALE_EDGE, "linewidths": 0.08 * points}
    outline = {"facecolors": "white", "edgecolors": _OUTLINE, "linewidths": 0.1 * points}
    for kind, spots in kinds.items():
        xy = section.xy[spots]
        if kind == "filled in" and mark_filled:
            # White between colour and outline: on the dark colours a dark outline alone could not be seen.
            _add_circles(ax, xy, _OUTLINE_DIAMETER * diameter, label="outline", alpha=alpha, **outline)
        coloured = {"array": values[spots], "norm": norm, "cmap": cmap, "edgecolors": "none"}
        _add_circles(ax, xy, diameter, label=kind, alpha=alpha, **(pale if kind == "not detected" else coloured))
    return {kind for kind, spots in kinds.items() if spots.any()}


def _add_circles(ax: Axes, xy: np.ndarray, diameter: float, **style: Any) -> None:
    from matplotlib.collections import EllipseCollection

    circles = EllipseCollection(diameter, diameter, 0, units="xy", offsets=xy, offset_transform=ax.transData, **style)
    ax.add_collection(circles, autolim=False)


def _add_legend(fig: Figure, ax: Axes | None, drawn: set[str], cmap: Colormap, mark_filled: bool) -> None:
    """Below the panels, what needs explaining: grey spots, and the outlines where they were asked for."""
    from matplotlib.lines import Line2D

    def mark(face: Any, edge: str = "none", size: float = 8) -> Line2D:
        return Line2D([], [], linestyle="", marker="o", markersize=size, markerfacecolor=face, markeredgecolor=edge)

    marks = {}
    if "not detected" in drawn:
        marks["not detected"] = mark(_PALE, _PALE_EDGE)
    if mark_filled and "filled in" in drawn:
        colour = mark(cmap(0.6))
        marks["detected"] = colour
        marks["filled in"] = (mark("white", _OUTLINE, 8 * _OUTLINE_DIAMETER), colour)
    legend = {"handles": list(marks.values()), "labels": list(marks), "ncols": len(marks), "frameon": False}
    if marks and ax is None:
        fig.legend(loc="outside lower center", **legend)
    elif marks:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, 0), **legend)
