"""pl.patches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, shuffled
from helpers.images import SECTIONS, resolve
from spared_sc._images.raster import ArraySource

if TYPE_CHECKING:
    import anndata as ad


@pytest.fixture
def adata(collection) -> ad.AnnData:
    return collection(**SECTIONS, then=shuffled)


def test_plot_of_patches(adata):
    fig = sp.pl.patches(adata, n_spots=7, n_cols=4, output_size=32, **KEY)
    assert len(fig.axes) == 7
    titles = [ax.get_title().split("\n") for ax in fig.axes]
    assert {title[1] for title in titles} == {"library_1", "library_2"}
    again = sp.pl.patches(adata, n_spots=7, n_cols=4, output_size=32, **KEY)
    assert [ax.get_title() for ax in again.axes] == [ax.get_title() for ax in fig.axes]
    sp.pp.extract_patches(adata, size=3, output_size=40, **KEY)
    spots = adata.obs_names[[9, 3]].tolist()
    fig = sp.pl.patches(adata, spots, **KEY)
    expected = resolve(adata).read([9, 3])
    assert all(np.array_equal(ax.images[0].get_array(), patch) for ax, patch in zip(fig.axes, expected, strict=True))
    assert "3 spot diameters" in fig.get_suptitle()
    with pytest.raises(KeyError, match="'nobody'"):
        sp.pl.patches(adata, ["nobody"], **KEY)
    assert ArraySource(expected[0], "x").shape == (40, 40)
