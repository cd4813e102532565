"""_images/resolution."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from helpers.images import one_section, resolve, smooth, tiff
from spared_sc._images.resolution import unit_in_um
from spared_sc._images.source import open_image

IMAGE = smooth(40, 50)


def ome(x, y, unit, *, unit_y=None) -> dict:
    sizes = {"PhysicalSizeX": x, "PhysicalSizeXUnit": unit, "PhysicalSizeY": y, "PhysicalSizeYUnit": unit_y or unit}
    return {"axes": "YXS", **{name: value for name, value in sizes.items() if value is not None}}


def write(path, **options):
    plain = {} if "imagej" in options else {"photometric": "rgb"}
    tifffile.imwrite(path, IMAGE, **plain, **options)
    return path


@pytest.mark.parametrize(
    ("unit", "um"),
    [
        ("m", 5e-7),
        ("cm", 5e-5),
        ("mm", 5e-4),
        ("µm", 0.5),
        ("μm", 0.5),  # the Greek letter, not the micro sign
        ("um", 0.5),
        ("nm", 500),
        ("pm", 5e5),
        ("Å", 5000),
        ("in", 0.5 / 25400),
        ("pt", 0.5 / (25400 / 72)),
        ("mil", 0.5 / 25.4),
    ],
)
def test_ome_in_every_unit(unit, um, tmp_path):
    source = open_image(write(tmp_path / "a.ome.tif", metadata=ome(um, um, unit)))
    assert source.um_per_px == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("unit", "per_unit"),
    [
        ("um", 2),
        ("\\u00B5m", 2),
        ("micron", 2),
        ("microns", 2),
        ("micrometer", 2),
        ("nm", 0.002),
        ("mm", 2000),
        ("cm", 20000),
        ("inch", 50800),
    ],
)
def test_imagej_in_every_unit(unit, per_unit, tmp_path):
    path = write(
        tmp_path / "a.tif", imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit, "axes": "YXS"}
    )
    assert open_image(path).um_per_px == pytest.approx(0.5)


@pytest.mark.parametrize(("unit", "per_unit"), [(2, 50800), (3, 20000), (4, 2000), (5, 2)])
def test_tags_in_every_unit(unit, per_unit, tmp_path):
    path = tiff(tmp_path / "a.tif", IMAGE, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert open_image(path).um_per_px == pytest.approx(0.5)


def test_other_places_of_a_resolution(tmp_path):
    path = tiff(tmp_path / "a.tif", IMAGE, description="Aperio Image Library|AppMag = 40|MPP = 0.2525", metadata=None)
    assert open_image(path).um_per_px == 0.2525
    for name in ("a.png", "a.jpg"):
        Image.fromarray(IMAGE).save(tmp_path / name, dpi=(50800, 50800))
        assert open_image(tmp_path / name).um_per_px == pytest.approx(0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": (72, 72), "resolutionunit": 2},
        {"resolution": (300, 300), "resolutionunit": 2},
        {"resolution": (2, 2), "resolutionunit": 1},
        {"metadata": ome(0.5, 0.5, "pixel")},
        {"metadata": ome(0.0, 0.0, "µm")},
        {"metadata": ome(5000.0, 5000.0, "µm")},
        {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "pixel", "axes": "YXS"}},
        {"imagej": True, "metadata": {"axes": "YXS"}},
    ],
)
def test_what_is_no_resolution_of_a_microscope(options, tmp_path):
    source = open_image(write(tmp_path / ("a.ome.tif" if "PhysicalSizeX" in str(options) else "a.tif"), **options))
    assert (source.um_per_px, source.scale_fault) == (None, "")


def test_a_fraction_of_zero_is_none(tmp_path):
    path = tiff(tmp_path / "a.tif", IMAGE, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        for name in ("XResolution", "YResolution"):
            place = file.pages[0].tags[name].valueoffset
            content[place + 4 : place + 8] = bytes(4)
    path.write_bytes(content)
    assert open_image(path).um_per_px is None


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": ome(0.5, 1.0, "µm")},
        {"metadata": ome(0.5, 0.5, "µm", unit_y="nm") | {"PhysicalSizeY": 900.0}},
        {"resolution": (20000, 10000), "resolutionunit": 3},
        {"imagej": True, "resolution": (2, 1), "metadata": {"unit": "um", "axes": "YXS"}},
    ],
)
def test_oblong_pixels_are_told_and_give_no_scale(options, tmp_path):
    path = write(tmp_path / ("a.ome.tif" if "PhysicalSizeX" in str(options) else "a.tif"), **options)
    source = open_image(path)
    assert source.um_per_px is None
    assert "0.5 um wide" in source.scale_fault
    with pytest.raises(ValueError, match=r"pixels are 0.5 um wide and .* um high: give micrometres per pixel, `mpp`"):
        sp.pp.tile_slide(path)
    adata = one_section("grid", diameter=40.0)
    adata.obs["library_id"] = "A"
    adata.obsm["spatial"] = adata.obsm["spatial"] / adata.obsm["spatial"].max() * 30
    options = {"image": path, "size": 4, "unit": "pixel"}
    with pytest.warns(UserWarning, match=r"'A': the image file says that its pixels are 0.5 um wide"):
        assert np.isnan(resolve(adata, **options).recipe["sources"]["A"]["um_per_px"])
    assert resolve(adata, mpp=0.5, **options).recipe["sources"]["A"]["um_per_px"] == 0.5


def test_statements_of_one_file_that_disagree_are_told(tmp_path, caplog):
    path = write(tmp_path / "a.ome.tif", metadata=ome(0.5, 0.5, "µm"), resolution=(10000, 10000), resolutionunit=3)
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        assert open_image(path).um_per_px == 0.5
    assert "0.5 um per pixel, its resolution tags 1;" in caplog.text


def test_mpp_beside_the_resolution_of_a_file(tmp_path):
    image = np.kron(IMAGE, np.ones((4, 4, 1), np.uint8))
    path = tiff(tmp_path / "a.tif", image, resolution=(20000, 20000), resolutionunit=3)
    options = {"pitch": 10, "spot_diameter": 5, "min_tissue": 0}
    with pytest.warns(UserWarning, match=r"mpp=0.25 was given, but .* says 0.5 um per pixel; 0.25 is used"):
        sp.pp.tile_slide(path, mpp=0.25, **options)
    sp.pp.tile_slide(path, mpp=0.52, **options)


def test_units_of_other_things():
    assert unit_in_um("reference frame") is None
    assert unit_in_um(None) is None
    assert unit_in_um("&#181;m") == 1
