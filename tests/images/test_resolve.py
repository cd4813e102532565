"""_images/resolve."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers import shuffled
from helpers.images import SECTIONS, WRITERS, factors, one_section, patches_of, resolve, smooth
from spared_sc._core.validate import get_libraries
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.source import open_image


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


@pytest.fixture
def adata(collection) -> ad.AnnData:
    return collection(**SECTIONS, then=shuffled)


def test_patches_are_the_squares_around_the_spots(adata):
    patches = resolve(adata, size=21, unit="pixel", output_size=21)
    assert len(patches) == adata.n_obs
    assert (patches.side, patches.recipe["output_size"]) == (21, 21)
    pixels = patches.read(np.arange(adata.n_obs))
    for row in (0, 5, 60):
        library = adata.obs["library_id"].iloc[row]
        slide = adata.uns["spatial"][library]
        centre = adata.obsm["spatial"][row] * slide["scalefactors"]["tissue_hires_scalef"]
        expected = patches_of(slide["images"]["hires"], [centre], 21, 21).read([0])[0]
        assert np.array_equal(pixels[row], expected)
        assert patches.recipe["sources"][library]["source"] == "hires"


def test_libraries_in_any_order_and_alone(adata):
    whole = resolve(adata, output_size=32).read(np.arange(adata.n_obs))
    rows = np.flatnonzero(adata.obs["library_id"] == "library_2")
    alone = adata[rows].copy()
    assert np.array_equal(resolve(alone, output_size=32).read(np.arange(len(rows))), whole[rows])


def test_which_image_is_taken(adata, tmp_path):
    slide = adata.uns["spatial"]["library_1"]
    slide["images"]["lowres"] = slide["images"]["hires"][::3, ::3]
    adata.uns["spatial"]["library_2"]["images"] = {"lowres": slide["images"]["lowres"]}
    assert [s["source"] for s in resolve(adata).recipe["sources"].values()] == ["hires", "lowres"]
    assert {s["source"] for s in resolve(adata, image="lowres").recipe["sources"].values()} == {"lowres"}
    full = smooth(1400, 1400)
    slide["metadata"]["source_image_path"] = str(WRITERS["png"](tmp_path, full))
    sources = resolve(adata).recipe["sources"]
    assert sources["library_1"]["source"] == "file"
    assert sources["library_1"]["patch_px"] == factors(adata)["spot_diameter_fullres"]
    both = resolve(adata, image={"library_1": full, "library_2": tmp_path / "a.png"}, size=10, unit="pixel").recipe
    assert [s["source"] for s in both["sources"].values()] == ["array", "file"]
    (tmp_path / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"image='hires'"):
        resolve(adata)
    with pytest.raises(ValueError, match="dictionary"):
        resolve(adata, image=full)
    with pytest.raises(KeyError, match="no entry for library 'library_2'"):
        resolve(adata, image={"library_1": full, "library_3": full})
    with pytest.raises(KeyError, match="no image 'hires'"):
        resolve(adata, image="hires")
    adata.uns["spatial"]["library_2"]["images"] = {}
    with pytest.raises(ValueError, match="library 'library_2' has no image"):
        resolve(adata, image={"library_1": "hires"})


def test_units():
    adata = one_section(diameter=130.0)
    factors(adata, "A")["tissue_hires_scalef"] = 0.5
    libraries = get_libraries(adata, None)

    def side(**options):
        return resolve_patches(adata, libraries, **options).recipe["sources"]["A"]["patch_px"]

    assert side(size=2, unit="spot") == 130
    assert side(size=40, unit="pixel") == 40
    assert side(size=65, unit="um") == pytest.approx(65)  # 1 um per pixel of the hires image
    with pytest.warns(UserWarning, match=r"mpp=2 was given, but the spot diameter of assay 'visium' gives 1"):
        assert side(size=65, unit="um", mpp=2.0) == 32.5
    nothing = one_section("dense")
    for unit, remedy in (("um", r"mpp=.*assay="), ("spot", r"assay=.*unit='pixel'")):
        with pytest.raises(ValueError, match=remedy):
            resolve_patches(nothing, libraries, unit=unit)
    assert resolve_patches(nothing, libraries, size=65, unit="um", mpp=0.5).recipe["sources"]["A"]["patch_px"] == 130
    for options, text in (
        ({"unit": "mm"}, "unit='mm'"),
        ({"size": 0}, "size=0"),
        ({"output_size": 2.5}, "output_size=2.5"),
        ({"size": 5000, "unit": "pixel"}, "more than its image"),
    ):
        with pytest.raises(ValueError, match=text):
            resolve_patches(adata, libraries, **options)


def test_spots_outside_of_the_image(adata, tmp_path):
    libraries = get_libraries(adata, "library_id")
    hires = {n: adata.uns["spatial"][n]["images"]["hires"] for n in libraries.names}
    with pytest.raises(ValueError, match=r"Pass image='hires'"):
        resolve(adata, image=hires)
    flat = one_section()
    flat.uns["spatial"]["A"]["images"]["hires"] = np.full((1600, 2100, 3), 200, np.uint8)
    flat.obsm["swapped"] = flat.obsm["spatial"][:, ::-1]
    flat.obsm["moved"] = flat.obsm["spatial"] + [0, 3000]
    with pytest.raises(ValueError, match="x and y exchanged all lie inside"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="swapped")
    flat.obsm["moved"][0] = -1
    with pytest.raises(ValueError, match=r"'0'.* outside"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="moved")
    flat.obsm["moved"][0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="moved")
    with pytest.raises(KeyError, match="spatial_key="):
        resolve_patches(flat, get_libraries(flat, None), spatial_key="none")


@pytest.mark.parametrize("multiscale", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_spatialdata_image(image, multiscale):
    pytest.importorskip("spatialdata")
    import dask.array as da
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Affine, Identity

    # Pixels become spots' coordinates by a quarter turn, a factor 2 and a shift.
    matrix = np.array([[0, -2.0, 700], [2, 0, 30], [0, 0, 1]])
    turned = Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))
    element = Image2DModel.parse(
        da.from_array(np.moveaxis(image, 2, 0), chunks=(3, 70, 90)),
        dims=("c", "y", "x"),
        transformations={"global": turned, "other": Identity()},
        **({"scale_factors": [2]} if multiscale else {}),
    )
    pixels = np.array([[100.0, 50], [200, 80], [30, 250]])
    adata = ad.AnnData(np.ones((3, 1), np.float32))
    adata.obsm["spatial"] = pixels @ matrix[:2, :2].T + matrix[:2, 2]
    adata.obsm["pixels"] = pixels
    libraries = get_libraries(adata, None)
    options = {"image": element, "size": 24, "unit": "pixel", "output_size": 24}
    expected = patches_of(image, pixels, 24, 24).read([0, 1, 2])
    patches = resolve_patches(adata, libraries, **options)
    assert np.array_equal(patches.read([0, 1, 2]), expected)
    assert patches.recipe["sources"]["library"]["source"] == "spatialdata"
    adata.uns["spatial"] = {"library": {"metadata": {"coordinate_system": "other"}}}  # as a SpatialData object lends it
    other = resolve_patches(adata, libraries, **options, spatial_key="pixels")
    assert np.array_equal(other.read([0, 1, 2]), expected)
    adata.uns["spatial"]["library"]["metadata"]["coordinate_system"] = "none"
    with pytest.raises(KeyError, match="none.*it lies in .*global.*other"):
        resolve_patches(adata, libraries, **options)


@pytest.mark.filterwarnings("ignore")
def test_spatialdata_image_of_fractions():
    import dask.array as da
    from spatialdata.models import Image2DModel

    element = Image2DModel.parse(da.zeros((3, 40, 40), dtype=np.float64), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match=r"64 bits per channel \(float64\)"):
        open_image(element)


def test_many_undivided_images_warn(adata, tmp_path, caplog, monkeypatch):
    from spared_sc._images import resolve as module

    path = WRITERS["png"](tmp_path, smooth(1400, 1400))
    images = {"library_1": path, "library_2": path}
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        resolve(adata, image=images)
        assert not caplog.text
        monkeypatch.setattr(module, "CACHE_BYTES", 10**6)
        resolve(adata, image=images)
    assert "store=" in caplog.text


def test_real_section_from_its_full_image(data_dir):
    adata = sp.datasets.her2st("C2", images=True)
    patches = resolve(adata, size=1.0, output_size=64)
    source = patches.recipe["sources"]["C2"]
    assert source["source"] == "file"
    assert source["um_per_px"] == pytest.approx(0.69, abs=0.01)  # 6.4 mm of 9,274 pixels
    pixels = patches.read(np.arange(0, len(patches), 20))
    assert 60 < pixels.mean() < 200
    # The same tissue as in the hires image.
    small = resolve(adata, image="hires", size=1.0, output_size=64).read(np.arange(0, len(patches), 20))
    one, other = (p.reshape(len(p), 8, 8, 8, 8, 3).mean(axis=(2, 4)).ravel() for p in (pixels, small))
    assert np.corrcoef(one, other)[0, 1] > 0.95
