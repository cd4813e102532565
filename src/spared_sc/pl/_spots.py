"""What plots share: on the tissue, sections, their images and circles of true size; elsewhere, tables, pairs and marks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sps

from spared_sc._core.keys import Key
from spared_sc._core.validate import get_libraries, get_positions, listing

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.figure import Figure

# Okabe and Ito (2008): told apart by the colour-blind. Without their yellow, which is lost on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
PANEL_WIDTH = 3.6  # inches
LEGEND_WIDTH = 7  # inches, for a legend below the panels in one line
_DIAMETER_OF_PITCH = 0.55  # Visium: spots of 55 um, 100 um from centre to centre
_PALE, _PALE_EDGE = "0.88", "0.55"  # light grey with an edge, to be seen on pale and on dark tissue
_OUTLINE, _OUTLINE_DIAMETER = "black", 1.3  # the second as a multiple of the spot's


def check_layers(adata: AnnData, layers: str | Sequence[str]) -> list[str]:
    """The layers as a list, at least one, all of them there."""
    layers = [layers] if isinstance(layers, str) else list(layers)
    if not layers:
        raise ValueError(
            f"there is no layer to draw, `layers` is empty: pass some of {listing(adata.layers)}, or write one first with "
            "`sp.pp.normalize_tpm` or `sp.tl.spackle_complete`."
        )
    missing = [layer for layer in layers if layer not in adata.layers]
    if missing:
        raise KeyError(
            f"there is no layer {missing[0]!r} (layers: {listing(adata.layers)}): pass some of those as `layers=`, or "
            "write it first with `sp.pp.normalize_tpm`, `sp.pp.combat`, `sp.tl.median_complete` or "
            "`sp.tl.spackle_complete`."
        )
    return layers


@dataclass(frozen=True)
class Section:
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
    """What to draw of the libraries asked for, in their order, or of all."""
    known = get_libraries(adata, library_key)
    names = known.names if libraries is None else [libraries] if isinstance(libraries, str) else list(libraries)
    if not names:
        raise ValueError(f"`libraries` is empty: pass some of {listing(known.names)}, or None for all.")
    unknown = [name for name in names if name not in known.names]
    if unknown:
        raise KeyError(f"there is no library {unknown[0]!r}: pass names out of {listing(known.names)} as `libraries=`.")
    position = get_positions(adata, spatial_key)
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
) -> Section:
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
    return Section(name, rows, xy, diameter, (left, right, top, bottom), image)


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
    """A length on the tissue as it is drawn now, for line widths."""
    return 72 * length * ax.get_window_extent().width / (section.width * ax.figure.dpi)


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


def normalised_unit(adata: AnnData) -> str:
    """Unit of `layers["log2tpm"]`: without lengths, `pp.normalize_tpm` makes it CPM."""
    made = adata.uns.get(Key.uns.records, {}).get(Key.layers.log2tpm, {})
    return "log2(CPM + 1)" if str(made.get("match", "")).startswith("CPM") else "log2(TPM + 1)"


def unit(adata: AnnData, layer: str) -> str:
    """Unit of the normalised layer, the name of any other."""
    return layer if layer != Key.layers.log2tpm else normalised_unit(adata)


def check_panels(ax: Axes | None, n_panels: int, what: str, remedy: str) -> None:
    if ax is not None and n_panels != 1:
        raise ValueError(f"`ax` holds one panel, but {what} were asked for: pass {remedy}, or leave `ax` out.")


def pick(table: pd.DataFrame, column: str, wanted: str | Sequence[str], argument: str | None = None) -> pd.DataFrame:
    """Rows with one of the values, each of which must occur."""
    wanted = [wanted] if isinstance(wanted, str) else list(wanted)
    known = list(dict.fromkeys(table[column]))
    unknown = [value for value in wanted if value not in known]
    argument = argument or column
    if unknown or not wanted:
        what = f"there is no {column} {unknown[0]!r} in the rows" if unknown else f"`{argument}` is empty"
        raise ValueError(f"{what}: pass some of {listing(known, 20)} as `{argument}=`.")
    return table[table[column].isin(wanted)]


def draw_pairs(ax: Axes, edges: np.ndarray, count: np.ndarray, norm: Normalize, equality: str) -> QuadMesh:
    """How many entries lie where, measured to the right, and the line of equality; both axes alike."""
    from matplotlib.ticker import MaxNLocator

    ticks = MaxNLocator(6).tick_values(*edges[[0, -1]])[1:-1]
    mesh = ax.pcolormesh(edges, edges, np.ma.masked_equal(count, 0), norm=norm, cmap="viridis", rasterized=True)
    ax.plot(edges[[0, -1]], edges[[0, -1]], color="black", linewidth=1, linestyle="--", label=equality)
    ax.set(aspect="equal", xticks=ticks, yticks=ticks)
    ax.spines[["top", "right"]].set_visible(False)
    return mesh


def agreement(mse: float, pcc: float, n_entries: int) -> str:
    """Error, correlation and number of entries, as the title of a panel."""
    return f"MSE {mse:.3g}, PCC {pcc_text(pcc)}, {n_entries:,} entries"


def pcc_text(pcc: float) -> str:
    """A correlation, or that there is none."""
    return f"{pcc:.3f}" if np.isfinite(pcc) else "none"


def add_legend(fig: Figure, ax: Axes | None, axes: np.ndarray, ncols: int | None = None) -> None:
    """What labelled marks mean, once for all panels; below them in one line where there is room, unless told."""
    marks = {text: mark for panel in axes.flat for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    if ax is None:
        ncols = ncols or (len(marks) if fig.get_figwidth() >= LEGEND_WIDTH else 1)
        fig.legend(marks.values(), marks, loc="outside lower center", ncols=ncols, frameon=False)
    else:
        ax.legend(marks.values(), marks, loc="best")


def column(matrix: np.ndarray | sps.csr_matrix, at: int) -> np.ndarray:
    """One column of a layer as an array."""
    return matrix[:, [at]].toarray().ravel() if sps.issparse(matrix) else matrix[:, at]


def colour_scale(
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


def draw_spots(
    ax: Axes,
    section: Section,
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
    points = in_points(ax, section, diameter)
    pale = {"facecolors": _PALE, "edgecolors": _PALE_EDGE, "linewidths": 0.08 * points}
    outline = {"facecolors": "white", "edgecolors": _OUTLINE, "linewidths": 0.1 * points}
    for kind, spots in kinds.items():
        xy = section.xy[spots]
        if kind == "filled in" and mark_filled:
            # White between colour and outline: on the dark colours a dark outline alone could not be seen.
            add_circles(ax, xy, _OUTLINE_DIAMETER * diameter, label="outline", alpha=alpha, **outline)
        coloured = {"array": values[spots], "norm": norm, "cmap": cmap, "edgecolors": "none"}
        add_circles(ax, xy, diameter, label=kind, alpha=alpha, **(pale if kind == "not detected" else coloured))
    return {kind for kind, spots in kinds.items() if spots.any()}


def add_spot_legend(fig: Figure, ax: Axes | None, drawn: set[str], cmap: Colormap, mark_filled: bool) -> None:
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
