"""Graphs and genes that are drawn, and what of them was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def labelled(ax: Axes) -> dict:
    return {artist.get_label(): artist for artist in [*ax.collections, *ax.lines]}
