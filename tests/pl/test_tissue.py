"""What plots of tissue refuse to draw."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY

if TYPE_CHECKING:
    from anndata import AnnData

ODD = [True, "text", [], 1.5, {"images": "text"}, {"scalefactors": 3}, {"scalefactors": {"tissue_hires_scalef": None}}]
IMAGES = [
    np.zeros((0, 9, 3)),
    np.full((9, 9, 3), np.nan),
    np.full((9, 9, 3), -1),
    np.ones((9, 9, 2)),
    np.ones((1, 9, 9, 3)),
    np.full((9, 9, 3), "a"),
    "image.png",
]
DRAWING = {
    "lattice": lambda adata: sp.pl.lattice(adata, **KEY),
    "spatial_compare": lambda adata: sp.pl.spatial_compare(adata, adata.var_names[0], layers="log2tpm", **KEY),
}


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(n_libraries=1, n_genes=4, shape=(4, 4), recipe={"gene_lengths": None, "n_genes": 2})


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_no_plot_draws_what_is_no_slide(adata, draw, odd):
    slide = adata.uns["spatial"]["library_1"]
    adata.uns["spatial"]["library_1"] = {**slide, **odd} if isinstance(odd, dict) else odd
    with pytest.raises((TypeError, ValueError), match="expected a (dictionary|positive number)"):
        draw(adata)


@pytest.mark.parametrize("draw", DRAWING.values(), ids=DRAWING)
@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{np.shape(image)} {np.asarray(image).dtype}")
def test_no_plot_draws_what_is_no_image(adata, draw, image):
    adata.uns["spatial"]["library_1"]["images"] = {"hires": image}
    with pytest.raises(ValueError, match="Replace it, or pass img=False"):
        draw(adata)


@pytest.mark.parametrize(
    "make", [lambda a: a[..., 0], lambda a: a / 255, lambda a: a.astype(np.uint16) * 257, lambda a: a > 99]
)
def test_images_of_other_kinds_are_drawn(adata, make):
    image = adata.uns["spatial"]["library_1"]["images"]["hires"]
    adata.uns["spatial"]["library_1"]["images"]["hires"] = make(image)
    sp.pl.lattice(adata, **KEY).figure.canvas.draw()


@pytest.mark.parametrize("size", [(0, 1), (1, -2), (np.nan, 1), (1, np.inf), (1e9, 1)])
def test_no_figure_has_such_a_size(adata, size):
    with pytest.raises(ValueError, match=r"figsize=.* cannot be used: give width and height in inches"):
        sp.pl.lattice(adata, figsize=size, **KEY)


@pytest.mark.parametrize(
    "wrong",
    [
        {"vmin": "low"},
        {"vmax": np.nan},
        {"vmin": 1e300},
        {"cmap": "no such"},
        {"cmap": 3},
        {"alpha": 2},
        {"alpha": None},
    ]
    + [{"size": -1}, {"size": np.inf}, {"size": "big"}, {"vmin": 3, "vmax": 3}],
    ids=repr,
)
def test_no_plot_draws_such_circles(adata, wrong):
    with pytest.raises(ValueError, match="cannot be used|there is no colour map|is not below"):
        sp.pl.spatial_compare(adata, adata.var_names[0], layers="log2tpm", **wrong, **KEY)
