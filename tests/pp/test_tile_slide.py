"""pp.tile_slide."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers.images import PINK, factors, pyramid, resolve, slide, smooth, tiff
from spared_sc._images.measures import spot_pitch
from spared_sc._images.tissue import share_within


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


def test_tile_slide_lays_a_lattice_on_the_tissue(tmp_path):
    image, tissue = slide()
    path = tiff(tmp_path / "a.tif", image, tile=(64, 64))
    adata = sp.pp.tile_slide(path, mpp=5.0, library_id="new")
    assert adata.n_vars == 0
    assert set(adata.obs["in_tissue"]) == {1}
    assert spot_pitch(adata.obsm["spatial"], adata.obs[["array_row", "array_col"]].to_numpy()) == (
        "hex",
        pytest.approx(20),
    )
    assert share_within(tissue, adata.obsm["spatial"], 13).min() > 0.3
    # and nowhere else: all tissue lies near a spot
    y, x = np.nonzero(tissue)
    nearest = np.sqrt(((adata.obsm["spatial"][None] - np.column_stack([x, y])[::37, None]) ** 2).sum(-1).min(axis=1))
    assert np.quantile(nearest, 0.95) < 14
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    patches = resolve(back, output_size=16)
    source = patches.recipe["sources"]["new"]
    assert (source["source"], source["patch_px"], source["um_per_px"]) == ("file", 13, 5)
    assert np.abs(patches.read(np.arange(len(patches))).mean(axis=(0, 1, 2)) - PINK).max() < 25


def test_tile_slide_of_an_array_on_a_grid():
    image, _ = slide()
    adata = sp.pp.tile_slide(image, mpp=5.0, kind="grid", pitch=200, spot_diameter=100, min_tissue=0)
    assert adata.n_obs == 14 * 12
    assert adata.obsm["spatial"].min(axis=0).tolist() == [20, 20]
    assert adata.obs_names[0] == "0x0"
    assert resolve(adata).recipe["sources"]["slide"]["source"] == "hires"
    assert "source_image_path" not in adata.uns["spatial"]["slide"]["metadata"]


def test_tile_slide_scale_and_errors(tmp_path, image):
    path = pyramid(tmp_path / "a.ome.tif", np.broadcast_to(np.array(PINK, np.uint8), (600, 600, 3)).copy())
    adata = sp.pp.tile_slide(path)
    assert factors(adata, "slide")["microns_per_pixel"] == 0.5
    for arguments, text in (
        ((image, {}), "give micrometres per pixel, `mpp`"),
        ((image[:40, :40], {"mpp": 1, "min_tissue": 0}), "40 x 40 pixels, too few for one"),
        ((np.full((200, 200, 3), 240, np.uint8), {"mpp": 5}), "no spot lies on tissue"),
        ((image, {"mpp": 500}), "closer than the pixels"),
        ((image, {"mpp": -1}), "mpp=-1"),
        ((image, {"mpp": 1, "kind": "round"}), "kind='round'"),
        ((image, {"mpp": 1, "min_tissue": 2}), "min_tissue=2"),
    ):
        with pytest.raises(ValueError, match=text):
            sp.pp.tile_slide(arguments[0], **arguments[1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"library_id": ""}, "'' cannot be a library name"),
        ({"library_id": "a/b"}, "'a/b' cannot be a library name"),
        ({"library_id": 5}, "library_id=5 cannot be used: give text"),
        ({"library_id": None}, "library_id=None cannot be used: give text"),
        ({"library_id": ".."}, "cannot be a library name"),
        ({"library_id": "x" * 300}, "cannot be a library name"),
        ({"library_key": "in_tissue"}, "library_key='in_tissue' is the name of another column"),
        ({"library_key": "array_row"}, "library_key='array_row' is the name of another column"),
        ({"library_key": "a/b"}, "library_key='a/b'"),
        ({"library_key": ""}, "library_key=''"),
        ({"library_key": None}, "library_key=None"),
        ({"library_key": 3}, "library_key=3"),
        ({"spot_diameter": np.inf}, "spots of inf um are inf pixels wide"),
        ({"spot_diameter": 1e30}, "check `mpp` and `spot_diameter`"),
        ({"pitch": 0.01, "mpp": 1e-3}, "spots of 65 um are 6.5e.04 pixels wide"),
        ({"pitch": 0.01}, "closer than the pixels"),
        ({"pitch": np.inf}, "too few for one"),
        ({"mpp": np.inf}, "mpp=inf"),
        ({"mpp": np.nan}, "mpp=nan"),
    ],
)
def test_names_and_measures_that_files_or_memory_cannot_hold(image, options, text):
    with pytest.raises((ValueError, TypeError), match=text):
        sp.pp.tile_slide(image, **{"mpp": 4.1, **options})


@pytest.mark.parametrize("diameter", [1, 5, 8, 20, 64, 65, 131, 200])
def test_the_share_of_tissue_of_a_circle_of_any_size(diameter):
    """Against all pixels of the circle, of which large ones are sampled."""
    _, tissue = slide()
    y, x = np.mgrid[: tissue.shape[0], : tissue.shape[1]]
    for centre in ([200.0, 180.0], [131.5, 301.25], [330.0, 350.0]):
        column, row = np.floor(centre)
        circle = np.hypot(x - column, y - row) <= diameter / 2
        assert share_within(tissue, np.array([centre]), diameter)[0] == pytest.approx(tissue[circle].mean(), abs=0.03)


@pytest.mark.parametrize(
    ("matrix", "plain"),
    [
        ([[2.5, 0, 0.5], [0, 2.5, 0]], True),
        ([[2.5, 0, 300], [0, 2.5, 0]], False),
        ([[0, -2, 1300], [2, 0, 0]], False),
        ([[2.5, 0, 0], [0, 2, 0]], False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tile_slide_of_a_spatialdata_image(matrix, plain):
    """The same spots of the same tissue as of the image alone, in the coordinates of the object."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    image, _ = slide()
    matrix = np.array([*matrix, [0, 0, 1]], dtype=float)
    element = Image2DModel.parse(
        np.moveaxis(image, 2, 0),
        dims=("c", "y", "x"),
        transformations={"global": Affine(matrix, ("x", "y"), ("x", "y")), "other": Identity()},
    )
    expected = sp.pp.tile_slide(image, mpp=5.0)
    adata = sp.pp.tile_slide(element, mpp=5.0)
    moved = expected.obsm["spatial"] @ matrix[:2, :2].T + matrix[:2, 2]
    assert adata.obs_names.equals(expected.obs_names)
    np.testing.assert_allclose(adata.obsm["spatial"], moved)
    options = {"output_size": 13, "follow": False}
    wanted = resolve(expected, image=image, **options)
    got = resolve(adata, image=element, **options)
    source, other = (one.recipe["sources"]["slide"] for one in (got, wanted))
    assert (source["patch_px"], source["um_per_px"]) == pytest.approx((other["patch_px"], other["um_per_px"]))
    rows = np.arange(len(got))
    assert np.abs(got.read(rows).astype(int) - wanted.read(rows)).max() <= 1
    assert ("hires" in adata.uns["spatial"]["slide"]["images"]) == plain
    if plain:  # moved by less than a pixel
        assert np.abs(resolve(adata, **options).read(rows).astype(int) - wanted.read(rows)).mean() < 3
