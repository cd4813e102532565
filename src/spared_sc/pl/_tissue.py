"""Drawing spots on tissue: sections, their images, and circles of true size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.slides import entry_of
from spared_sc._core.validate import (
    Libraries,
    check_number,
    dense,
    get_detected,
    get_layer,
    get_libraries,
    get_positions,
    listing,
)
from spared_sc._images.measures import factor
from spared_sc.pl._marks import PANEL_WIDTH, Panels, check_names, make_panels, spot_mark, width_in_points

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, Normalize

    Window = tuple[float, float, float, float]  # left, right, top, bottom: y grows downward

_DIAMETER_OF_PITCH = 0.55  # Visium: spots of 55 um, 100 um from centre to centre
_MOST = 1e30  # ends of a colour scale, far beyond all values and within the numbers that can be drawn
_PALE, _PALE_EDGE = "0.88", "0.55"  # light grey with an edge, visible on pale and on dark tissue
_OUTLINE, _OUTLINE_DIAMETER = "black", 1.3  # the second as a multiple of the spot's


@dataclass(frozen=True)
class Section:
    """One library to draw, in pixels of its image (of the full-resolution image where it has none)."""

    name: str
    rows: np.ndarray  # (n_spots,) rows of the AnnData
    xy: np.ndarray  # (n_spots, 2)
    diameter: float
    window: Window
    image: np.ndarray | None

    @property
    def width(self) -> float:
        return self.window[1] - self.window[0]

    @property
    def height(self) -> float:
        return self.window[3] - self.window[2]


@dataclass(frozen=True)
class Colours:
    """A colour scale that panels share."""

    norm: Normalize
    cmap: Colormap
    extend: str = "neither"  # ends at which values lie beyond it, as colour bars take them

    def of(self, values: np.ndarray) -> dict[str, Any]:
        """The values of a collection, in these colours."""
        return {"array": values, "norm": self.norm, "cmap": self.cmap}


def choose_libraries(known: Libraries, libraries: str | Sequence[str] | None) -> list[str]:
    """The libraries to draw, in the order asked for, or all."""
    if libraries is None:
        return known.names
    return check_names(libraries, known.names, "library", "libraries", remedy=", or None for all")


def get_sections(
    adata: AnnData,
    library_key: str | None,
    libraries: str | Sequence[str] | None,
    spatial_key: str,
    *,
    img: bool,
    img_key: str | None,
    crop: bool,
) -> list[Section]:
    """The libraries to draw, each with its spots and its image."""
    from spared_sc._kernels.lattice import nearest_distance

    known = get_libraries(adata, library_key)
    names = choose_libraries(known, libraries)
    position = get_positions(adata, spatial_key)
    rows = dict(zip(known.names, known.rows(), strict=True))
    sections = []
    for name in names:
        slide, xy = entry_of(adata, name), position[rows[name]]
        factors = slide["scalefactors"]
        image, scale = _image(name, slide["images"], factors, img_key) if img else (None, 1.0)
        diameter = factor(name, factors, "spot_diameter_fullres")
        diameter = scale * (_DIAMETER_OF_PITCH * nearest_distance(xy) if np.isnan(diameter) else diameter)
        window = _window(name, scale * xy, 1.5 * diameter, image, crop=crop)
        sections.append(Section(name, rows[name], scale * xy, diameter, window, image))
    return sections


def _window(name: str, xy: np.ndarray, margin: float, image: np.ndarray | None, *, crop: bool) -> Window:
    """The part of the image to show: around the spots, or all of it."""
    (left, top), (right, bottom) = xy.min(axis=0) - margin, xy.max(axis=0) + margin
    if image is None:
        return left, right, top, bottom
    height, width = image.shape[:2]
    if right < 0 or bottom < 0 or left > width or top > height:
        raise ValueError(
            f"the spots of library {name!r} lie outside its image (x {left:.0f} to {right:.0f}, y {top:.0f} to "
            f"{bottom:.0f}; image {width} x {height}): check the scale factors and positions, or pass img=False."
        )
    return (left, right, top, bottom) if crop else whole_image(image)


def whole_image(image: np.ndarray) -> Window:
    """The window of all pixels, as imshow draws it: whole numbers are the middles of pixels."""
    height, width = image.shape[:2]
    return -0.5, width - 0.5, -0.5, height - 0.5


def _image(
    name: str, images: Mapping[str, Any], factors: Mapping[str, Any], img_key: str | None
) -> tuple[np.ndarray | None, float]:
    """The image to draw and its pixels per pixel of the full-resolution image."""
    key = img_key or next((key for key in ("hires", "lowres") if key in images), None)
    if key is None:
        return None, 1.0
    if key not in images:
        raise KeyError(
            f"library {name!r} has no image {key!r} (images: {listing(images)}): pass one of those as `img_key=`, "
            "or img=False to draw none."
        )
    if f"tissue_{key}_scalef" not in factors:
        raise KeyError(
            f'uns["spatial"][{name!r}]["scalefactors"] has no "tissue_{key}_scalef" (it has {listing(factors)}): '
            "add the scale of that image, name another one with `img_key=`, or pass img=False."
        )
    return _pixels(name, key, images[key]), factor(name, factors, f"tissue_{key}_scalef")


def _pixels(name: str, key: str, image: Any) -> np.ndarray:
    """The image as an array, (y, x, channels), refused where it cannot be drawn."""
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or not pixels.size or pixels.dtype.kind not in "buif":
        raise ValueError(
            f'uns["spatial"][{name!r}]["images"][{key!r}] is {type(image).__name__} {pixels.shape} of {pixels.dtype}: expected '
            "numbers, (y, x) or (y, x, channels) with 1, 3 or 4 of them. Replace it, or pass img=False."
        )
    if pixels.dtype.kind in "if" and not (np.isfinite(pixels).all() and pixels.min() >= 0):
        raise ValueError(
            f'uns["spatial"][{name!r}]["images"][{key!r}] holds negative, NaN or infinite values: expected 0 to 255, or 0 to '
            "1. Replace it, or pass img=False."
        )
    return pixels.astype(np.uint8) * 255 if pixels.dtype == bool else pixels


def section_panels(
    ax: Axes | None,
    sections: Sequence[Section],
    titles: Sequence[str],
    figsize: tuple[float, float] | None,
    gene: str,
    margins: tuple[float, float],
) -> Panels:
    """The sections' tissue, a row each under the gene's name, in columns with these titles; margins in inches."""
    heights = [section.height / section.width for section in sections]
    size = figsize or (PANEL_WIDTH * len(titles) + margins[0], PANEL_WIDTH * sum(heights) + margins[1])
    panels = make_panels(ax, len(sections), len(titles), size, height_ratios=heights)
    if panels.is_new:
        panels.figure.suptitle(gene, fontstyle="italic")
    for panel, title in zip(panels.axes[0], titles, strict=True):
        panel.set_title(title if panels.is_new else f"{gene}, {title}")
    for section, row in zip(sections, panels.axes, strict=True):
        for panel in row:
            draw_tissue(panel, section)
    return panels


def draw_tissue(ax: Axes, section: Section) -> None:
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


def in_points(ax: Axes, section: Section, length: float) -> float:
    """A length on the tissue at its present size in the figure, for line widths."""
    return length * width_in_points(ax) / section.width


def _lighten(image: np.ndarray) -> np.ndarray:
    """Paler and greyer, so that the spots' colours stand out and the tissue's structure stays readable."""
    if image.dtype.kind in "ui":
        image = image / np.float32(np.iinfo(image.dtype).max)
    image = image / max(np.percentile(image, 95), 1 / 255)  # the bare slide becomes white
    grey = image.mean(axis=2, keepdims=True)
    return np.clip(0.35 + 0.65 * (0.5 * image + 0.5 * grey), 0, 1)


def add_circles(ax: Axes, xy: np.ndarray, diameter: float | np.ndarray, **style: Any) -> None:
    """One collection of circles whose diameter is a length on the tissue: one for all, or one for each."""
    from matplotlib.collections import EllipseCollection

    circles = EllipseCollection(diameter, diameter, 0, units="xy", offsets=xy, offset_transform=ax.transData, **style)
    ax.add_collection(circles, autolim=False)


def read_gene(adata: AnnData, gene: str, layers: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """A gene's values, spots x layers, and whether each spot detected it."""
    at = [adata.var_names.get_loc(gene)]
    values = [dense(get_layer(adata, layer)[:, at]) for layer in layers]
    return np.hstack(values), dense(get_detected(adata)[:, at]).ravel()


def colour_scale(
    values: np.ndarray, detected: np.ndarray, cmap: str | Colormap, vmin: float | None, vmax: float | None
) -> Colours:
    """Colours from the 1st to the 99th percentile of detected values (of all, where none is), or between given ends.

    `detected` is a mask of the spots, or of the entries.
    """
    from matplotlib.colors import Normalize

    for name, end in (("vmin", vmin), ("vmax", vmax)):
        if end is not None:
            check_number(name, end, -_MOST, _MOST)
    measured = values[detected] if detected.any() else values
    low, high = np.percentile(measured, [1, 99])
    if low == high:
        low -= 1
    low, high = low if vmin is None else vmin, high if vmax is None else vmax
    if low >= high:
        raise ValueError(f"vmin={low:g} is not below vmax={high:g}: change one of them, or leave both out.")
    coloured = values[detected.reshape(len(values), -1) | (values != 0)]
    beyond = bool((coloured < low).any()), bool((coloured > high).any())
    extend = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}[beyond]
    return Colours(Normalize(low, high), _colour_map(cmap), extend)


def _colour_map(cmap: str | Colormap) -> Colormap:
    import matplotlib as mpl
    from matplotlib.colors import Colormap

    if isinstance(cmap, Colormap):
        return cmap
    if not isinstance(cmap, str) or cmap not in mpl.colormaps:
        raise ValueError(
            f"there is no colour map {cmap!r}: pass a name of `matplotlib.colormaps`, such as 'viridis', or a `Colormap`."
        )
    return mpl.colormaps[cmap]


def check_style(size: float, alpha: float) -> None:
    """Refuse circles that cannot be drawn."""
    check_number("size", size, 0, 1e6)
    check_number("alpha", alpha, 0, 1)


def draw_spots(
    ax: Axes,
    section: Section,
    values: np.ndarray,
    detected: np.ndarray,
    colours: Colours,
    size: float,
    alpha: float,
    *,
    mark_filled: bool = False,
) -> set[str]:
    """Circles of true size, one collection per kind of spot; returns the kinds."""
    completed = (values[~detected] != 0).any()
    kinds = {"detected": detected, ("filled in" if completed else "not detected"): ~detected}
    diameter = size * section.diameter
    points = in_points(ax, section, diameter)
    # White between colour and outline: on dark colours, a dark outline alone is invisible.
    outline = {"facecolors": "white", "edgecolors": _OUTLINE, "linewidths": 0.1 * points}
    pale = {"facecolors": _PALE, "edgecolors": _PALE_EDGE, "linewidths": 0.08 * points}
    for kind, spots in kinds.items():
        if kind == "filled in" and mark_filled:
            add_circles(ax, section.xy[spots], _OUTLINE_DIAMETER * diameter, label="outline", alpha=alpha, **outline)
        style = pale if kind == "not detected" else {"edgecolors": "none", **colours.of(values[spots])}
        add_circles(ax, section.xy[spots], diameter, label=kind, alpha=alpha, **style)
    return {kind for kind, spots in kinds.items() if spots.any()}


def add_spot_legend(panels: Panels, drawn: set[str], colours: Colours, *, mark_filled: bool = False) -> None:
    """Explain grey spots, and outlines where they were asked for, below the panels."""
    marks: dict[str, Any] = {}
    if "not detected" in drawn:
        marks["not detected"] = spot_mark(_PALE, _PALE_EDGE)
    if mark_filled and "filled in" in drawn:
        marks["detected"] = spot_mark(colours.cmap(0.6))
        marks["filled in"] = spot_mark("white", _OUTLINE, size=8 * _OUTLINE_DIAMETER), spot_mark(colours.cmap(0.6))
    add_legend_below(panels, marks)


def add_legend_below(panels: Panels, marks: dict[str, Any]) -> None:
    """A legend in one line below the panels, also of given axes."""
    placed = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "frameon": False}
    panels.add_legend(marks, ncols=len(marks), placed=placed)


def add_colour_bar(
    panels: Panels, axes: np.ndarray, colours: Colours, label: str, shrink: float | None = None
) -> Colorbar:
    """A colour bar beside some of the panels."""
    from matplotlib.cm import ScalarMappable

    mappable, shrink = ScalarMappable(norm=colours.norm, cmap=colours.cmap), shrink or 0.7 / len(panels.axes)
    beside = list(axes.flat)
    return panels.figure.colorbar(mappable, ax=beside, label=label, extend=colours.extend, shrink=shrink, aspect=20)
