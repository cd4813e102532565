"""Graphs and genes that are drawn, and what of them was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import spared_sc as sp
from helpers import KEY, shuffled

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes


def labelled(ax: Axes) -> dict:
    return {artist.get_label(): artist for artist in [*ax.collections, *ax.lines]}


SECTIONS = {"n_libraries": 3, "shape": (10, 10), "n_genes": 60, "library_effect": 1.0, "missing_spots": 0.3}


def correct(adata: AnnData) -> AnnData:
    adata = shuffled(adata)
    sp.pp.recipe_spared(adata, n_genes=20, **KEY)
    sp.pp.combat(adata, **KEY)
    return adata
