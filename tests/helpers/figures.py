"""What tests of plots look at in a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panels(fig: Figure) -> list[Axes]:
    return [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]


def colour_bars(fig: Figure) -> list[Axes]:
    return [ax for ax in fig.axes if ax.get_label() == "<colorbar>"]


def assert_nothing_is_cut_off(fig: Figure) -> None:
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    for ax in fig.axes:
        texts = [text for text in [ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts] if text.get_text()]
        for text in [*texts, *filter(None, [ax.get_legend()]), *fig.legends]:
            box = text.get_window_extent()
            assert box.x0 >= -1, text
            assert box.y0 >= -1, text
            assert box.x1 <= width + 1, text
            assert box.y1 <= height + 1, text


def circles(ax: Axes) -> dict:
    return {c.get_label(): c for c in ax.collections}


def legend_texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]
