"""Colours, panels and legends that all plots share."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.record import records_of
from spared_sc._core.validate import listing

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    Drawn = TypeVar("Drawn", bound=Axes | Figure)

# Okabe and Ito (2008): colour-blind readers can tell them apart. Their yellow is left out: it vanishes on white.
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000")
BLUE, ORANGE, GREEN, PURPLE, _, VERMILION, BLACK = OKABE_ITO
PANEL_WIDTH = 3.6  # inches
_LARGEST = 1000  # inches of a figure; files hold fewer than 2 ** 16 pixels
LEGEND_WIDTH = 7  # inches, for a legend below the panels in one line
_MARKERS = "o^sDvPX*"  # each in every colour: 56 series can be told apart


@dataclass(frozen=True)
class Panels:
    """The axes of a plot, and what the plot returns: a new figure, or the axes that the user passed."""

    axes: np.ndarray  # of Axes: (n_rows, n_columns), or (n_panels,) of a grid
    figure: Figure
    result: Figure | Axes

    @property
    def is_new(self) -> bool:
        return self.result is self.figure

    def add_legend(
        self,
        marks: Mapping[str, Any] | None = None,
        *,
        at_right: bool = False,
        ncols: int | None = None,
        placed: Mapping[str, Any] | None = None,
    ) -> None:
        """A legend of all labelled marks, or of these, below the panels or at their right; in given axes as `placed`."""
        marks = labelled(self.axes.flat) if marks is None else marks
        if ncols is None:  # one line where there is room
            width = self.figure.bbox.width / self.figure.dpi
            ncols = len(marks) if width >= LEGEND_WIDTH and not at_right else 1
        handles, names = list(marks.values()), list(marks)
        if marks and not self.is_new:
            self.axes.flat[0].legend(handles, names, ncols=ncols, **(placed or {}))
        elif marks:
            loc: Any = "outside right upper" if at_right else "outside lower center"
            self.figure.legend(handles, names, ncols=ncols, frameon=False, loc=loc)


def check_size(size: tuple[float, float]) -> None:
    """Refuse a size in inches that no figure has."""
    if not all(0 < length <= _LARGEST for length in size):
        raise ValueError(f"figsize={tuple(size)!r} cannot be used: give width and height in inches, up to {_LARGEST}.")


def make_panels(
    ax: Axes | None,
    n_rows: int,
    n_columns: int,
    size: tuple[float, float],
    *,
    layout: str = "compressed",
    **options: Any,
) -> Panels:
    """Panels of a new figure, made with further options of `plt.subplots`, or the given axes as the only one.

    "compressed" is the constrained layout for panels of fixed aspect; the plain one cuts off their labels.
    """
    import matplotlib.pyplot as plt

    if ax is not None:
        return Panels(np.array([[ax]]), cast("Figure", ax.figure), ax)
    check_size(size)
    figure, axes = plt.subplots(n_rows, n_columns, squeeze=False, figsize=size, layout=layout, **options)
    return Panels(axes, figure, figure)


def make_grid(ax: Axes | None, n_panels: int, n_columns: int, size: tuple[float, float], **options: Any) -> Panels:
    """As many panels as needed, row by row."""
    panels = make_panels(ax, -(-n_panels // n_columns), n_columns, size, **options)
    for unused in panels.axes.flat[n_panels:]:
        unused.remove()
    return Panels(panels.axes.ravel()[:n_panels], panels.figure, panels.result)


def make_axes(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """The given axes, or those of a new figure."""
    return make_panels(ax, 1, 1, size, layout="constrained").axes[0, 0]


def finish(drawn: Drawn, show: bool | None) -> Drawn:
    """Show the plot if asked to, and return it."""
    import matplotlib.pyplot as plt

    if show:
        plt.show()
    return drawn


def check_panels(ax: Axes | None, n_panels: int, asked: str, remedy: str) -> None:
    """Refuse given axes for more than one panel."""
    if ax is not None and n_panels != 1:
        raise ValueError(f"`ax` holds one panel, but {asked} were asked for: pass {remedy}, or leave `ax` out.")


def labelled(axes: Iterable[Axes]) -> dict[str, Any]:
    """The labelled marks of all panels, each label once."""
    return {text: mark for panel in axes for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}


def name_rows(ax: Axes, names: Sequence[str], **style: Any) -> None:
    """Rows by name, from top to bottom."""
    ax.set_yticks(range(len(names)), names, **style)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)


def series_style(i: int) -> tuple[str, str]:
    """Colour and marker of the i-th series."""
    return OKABE_ITO[i % len(OKABE_ITO)], _MARKERS[i // len(OKABE_ITO) % len(_MARKERS)]


def spot_mark(face: Any, edge: Any = "none", *, size: float = 8, marker: str = "o") -> Line2D:
    """A spot for a legend."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="", marker=marker, markersize=size, color=face, markeredgecolor=edge)


def width_in_points(ax: Axes) -> float:
    return 72 * ax.get_window_extent().width / ax.figure.dpi


def height_in_points(ax: Axes) -> float:
    return 72 * ax.get_window_extent().height / ax.figure.dpi


def unit(adata: AnnData, layer: str = Key.layers.log2tpm) -> str:
    """Unit of the normalised layer (CPM where `pp.normalize_tpm` had no gene lengths), the name of any other."""
    if layer != Key.layers.log2tpm:
        return layer
    made = records_of(adata).get(layer, {})
    return "log2(CPM + 1)" if str(made.get("match", "")).startswith("CPM") else "log2(TPM + 1)"


def pcc_text(pcc: float) -> str:
    """A correlation, or that there is none."""
    return f"{pcc:.3f}" if np.isfinite(pcc) else "none"


def as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def check_names(
    wanted: str | Sequence[str],
    known: Iterable[str],
    kind: str,
    argument: str,
    *,
    remedy: str = "",
    error: type[Exception] = KeyError,
) -> list[str]:
    """The names as a list, at least one, all of them known; an unknown one is an `error`."""
    wanted, known = as_list(wanted), list(known)
    unknown = [name for name in wanted if name not in known]
    if wanted and not unknown:
        return wanted
    problem = f"there is no {kind} {unknown[0]!r}" if unknown else f"there is no {kind} to draw, `{argument}` is empty"
    raise (error if unknown else ValueError)(f"{problem}: pass some of {listing(known, 20)} as `{argument}=`{remedy}.")


def check_layers(adata: AnnData, layers: str | Sequence[str]) -> list[str]:
    """The layers as a list, at least one, all of them there."""
    writers = "`sp.pp.normalize_tpm`, `sp.pp.combat`, `sp.tl.median_complete` or `sp.tl.spackle_complete`"
    return check_names(layers, adata.layers, "layer", "layers", remedy=f", or write it first with {writers}")


def check_genes(genes: str | Sequence[str], known: Iterable[str], where: str, argument: str = "gene") -> list[str]:
    """The genes as a list; the error about one that is not there names similar ones."""
    genes = as_list(genes)
    for gene in genes:
        if gene not in known:
            lower = {str(name).lower(): str(name) for name in known}
            close = [lower[name] for name in difflib.get_close_matches(str(gene).lower(), lower, n=5)]
            hint = f"did you mean {listing(close)}?" if close else f"names look like {listing(list(known)[:3])}."
            raise KeyError(f"there is no gene {gene!r} in {where}: {hint} Pass another name as `{argument}=`.")
    return genes


def pick(table: pd.DataFrame, column: str, wanted: str | Sequence[str], argument: str | None = None) -> pd.DataFrame:
    """Rows with one of the values, each of which must occur."""
    known = dict.fromkeys(table[column])
    return table[table[column].isin(check_names(wanted, known, column, argument or column, error=ValueError))]
