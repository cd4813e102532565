"""_images/measures and _images/assay."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers.images import factors, one_section, pillow, resolve, tiff
from spared_sc._core.validate import get_libraries
from spared_sc._images.assay import ASSAYS, stated_assay
from spared_sc._images.measures import spot_pitch
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import recipe_of


def source_of(adata, **options) -> dict:
    return resolve_patches(adata, get_libraries(adata, None), **options).recipe["sources"]["A"]


@pytest.mark.parametrize(
    ("made", "extra", "um", "origin", "patch_px"),
    [
        ({"diameter": 130.0}, {}, 0.5, "spot diameter", 130),  # Space Ranger's circle of 65 um
        ({"diameter": 130.0}, {"microns_per_pixel": 0.51}, 0.51, "microns_per_pixel", 130),
        ({"diameter": 110.0}, {}, 0.5, "spot diameter", 110),  # the spot itself, 55 um
        ({}, {}, 0.5, "spot pitch", 130),
        ({"places": False, "diameter": 130.0}, {}, 0.5, "spot diameter", 130),
        ({"places": False, "diameter": 50.0}, {}, np.nan, "unknown", 50),  # hexagons of anything
        ({"places": False}, {}, np.nan, "unknown", 130),
        ({"kind": "grid", "jitter": 4.0, "diameter": 200.0}, {}, np.nan, "unknown", 200),
        ({"kind": "grid", "diameter": 32.0}, {"bin_size_um": 200.0}, 0.5, "spot pitch", 32),
        ({"kind": "dense", "diameter": 100.0}, {}, np.nan, "unknown", 100),
    ],
)
@pytest.mark.filterwarnings("ignore:library 'A'. the spot")
def test_scale(made, extra, um, origin, patch_px):
    adata = one_section(**made)
    factors(adata, "A").update(extra)
    source = source_of(adata)
    assert source["um_per_px"] == pytest.approx(um, rel=0.01, nan_ok=True)
    assert source["scale_from"] == origin
    assert source["patch_px"] == pytest.approx(patch_px, rel=0.01)


@pytest.mark.parametrize(
    ("assay", "made", "extra", "um", "patch_px"),
    [
        ("st", {"kind": "grid", "jitter": 4.0}, {}, 0.5, 200),
        ("st", {"kind": "grid", "places": False}, {}, 0.5, 200),
        ("ST", {"kind": "grid", "diameter": 200.0}, {}, 0.5, 200),
        ("st", {"kind": "dense", "diameter": 100.0}, {}, np.nan, 100),
        ("visium", {"places": False}, {}, 0.5, 130),
        ("Visium HD", {"kind": "grid"}, {"bin_size_um": 8.0}, 0.02, 400),
        ("visium_hd", {"kind": "grid"}, {}, np.nan, 400),  # bins of which width?
        ("dbit", {"kind": "grid", "diameter": 200.0}, {}, np.nan, 200),
        ("DBiT-seq", {"kind": "grid", "diameter": 200.0}, {"microns_per_pixel": 0.3}, 0.3, 200),
        ("other", {"diameter": 130.0}, {}, np.nan, 130),
    ],
)
@pytest.mark.parametrize("how", ["argument", "metadata"])
def test_a_named_assay_gives_the_scale(assay, made, extra, um, patch_px, how):
    adata = one_section(**made)
    factors(adata, "A").update(extra)
    if how == "metadata":
        adata.uns["spatial"]["A"]["metadata"]["assay"] = assay
    source = source_of(adata, **({"assay": assay} if how == "argument" else {}))
    assert source["um_per_px"] == pytest.approx(um, rel=0.01, nan_ok=True)
    assert source["patch_px"] == pytest.approx(patch_px, rel=0.01)
    assert source["assay"] in ASSAYS


@pytest.mark.parametrize(
    ("metadata", "bins", "name"),
    [
        ({}, False, None),
        ({"assay": "Xenium"}, False, "other"),
        ({"assay": "spatial transcriptomics", "chemistry_description": "Visium HD v1"}, False, "st"),
        ({"chemistry_description": "Visium V4 Slide - FFPE v2"}, False, "visium"),
        ({"chemistry_description": "Spatial 3' v1"}, False, "visium"),
        ({"chemistry_description": "Visium HD v1"}, False, "visium_hd"),
        ({"chemistry_description": "Flex"}, False, None),
        ({"chemistry_description": "Flex"}, True, "visium_hd"),
    ],
)
def test_what_names_an_assay(metadata, bins, name):
    found = stated_assay(metadata, bins)
    assert (found and found.name) == name


def test_an_assay_with_another_array_is_refused_or_told():
    square = one_section("grid")
    with pytest.raises(ValueError, match=r"'visium', with a hexagonal array, but its spots lie on a square one.*mpp="):
        source_of(square, assay="visium")
    with pytest.raises(ValueError, match=r"assay='slideseq' is unknown: choose one of 'visium'"):
        source_of(square, assay="slideseq")
    square.uns["spatial"]["A"]["metadata"]["chemistry_description"] = "Visium V1 Slide"
    with pytest.warns(UserWarning, match=r"hexagonal array, but its spots lie on a square one; the assay is not used"):
        assert np.isnan(source_of(square, size=100, unit="pixel")["um_per_px"])


@pytest.mark.parametrize(("pitch", "spot", "n"), [(100, 55, 12), (50, 50, 12), (16, 16, 30), (8, 8, 40), (200, 100, 8)])
def test_a_square_array_alone_says_nothing(pitch, spot, n, tmp_path):
    """Pseudo-spots, DBiT-seq, bins and the arrays before Visium look alike: the file says the scale, or nobody."""
    row, column = (index.ravel() for index in np.indices((n, n)))
    adata = ad.AnnData(
        np.ones((n * n, 2), np.float32), obsm={"spatial": 2.0 * pitch * np.column_stack([column + 1, row + 1])}
    )
    adata.obs["array_row"], adata.obs["array_col"] = row, column
    side = 2 * (n + 2) * pitch
    image = np.full((side, side, 3), 200, np.uint8)
    stated = tiff(tmp_path / "stated.tif", image, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    silent = pillow(tmp_path / "silent.png", image)
    adata.uns["spatial"] = {"A": {"images": {}, "scalefactors": {"spot_diameter_fullres": 2.0 * spot}, "metadata": {}}}
    source = source_of(adata, image=stated, size=56, unit="um")
    assert (source["um_per_px"], source["patch_px"], source["scale_from"]) == (0.5, 112, "image file")
    with pytest.raises(ValueError, match=r"scale of the image of library 'A' is unknown.*mpp=.*assay="):
        source_of(adata, image=silent, size=56, unit="um")
    assert source_of(adata, image=silent, size=56, unit="um", mpp=0.5)["patch_px"] == 112


@pytest.mark.parametrize(
    ("extra", "options", "um", "origin", "told"),
    [
        ({}, {}, 0.5, "image file", ""),
        ({"microns_per_pixel": 0.54}, {}, 0.54, "microns_per_pixel", ""),  # within a tenth
        ({"microns_per_pixel": 0.7}, {}, 0.7, "microns_per_pixel", r"gives 0.7, but the image file gives 0.5"),
        ({}, {"mpp": 0.5}, 0.5, "given", ""),
        ({}, {"mpp": 0.25}, 0.25, "given", r"mpp=0.25 was given, but the image file gives 0.5"),
        (
            {},
            {"assay": "st"},
            0.5,
            "image file",
            r"file gives 0.5, but the spot pitch of assay 'st' gives 2, .* gives 1 um .*; 0.5 is used",
        ),
        ({"bin_size_um": 16}, {}, 0.5, "image file", "gives 0.16 um per pixel of the image; 0.5 is used"),
    ],
)
def test_statements_that_disagree_are_told(extra, options, um, origin, told, tmp_path, recwarn):
    adata = one_section("grid", scale=0.5, diameter=100.0)  # squares 100 px apart
    image = adata.uns["spatial"]["A"]["images"]["hires"]
    path = tiff(tmp_path / "a.tif", image, resolution=(20000, 20000), resolutionunit="CENTIMETER")
    factors(adata, "A").update(extra)
    source = source_of(adata, image=path, **options)
    assert (source["um_per_px"], source["scale_from"]) == (um, origin)
    messages = [str(one.message) for one in recwarn]
    assert len(messages) == bool(told)
    assert all(re.search(told, message) for message in messages)


def test_what_was_recorded_is_told_once(tmp_path, recwarn):
    adata = one_section("grid", scale=0.5, diameter=100.0)
    path = tiff(
        tmp_path / "a.tif", adata.uns["spatial"]["A"]["images"]["hires"], resolution=(2e4, 2e4), resolutionunit=3
    )
    sp.pp.extract_patches(adata, image=path, mpp=0.5, size=1, output_size=16)
    recorded = recipe_of(adata.uns["spared_sc"]["patches"])["sources"]["A"]
    assert len(recwarn) == 0
    factors(adata, "A")["microns_per_pixel"] = 0.8
    assert source_of(adata) == recorded  # follows the record
    assert len(recwarn) == 0


def test_every_library_has_its_own_scale_and_assay(tmp_path):
    parts = {"A": one_section("grid", diameter=200.0), "B": one_section("hex", scale=4.0, diameter=260.0)}
    for name, part in parts.items():
        part.uns["spatial"] = {name: part.uns["spatial"]["A"]}
        part.obs["library_id"] = name
    adata = ad.concat(parts, uns_merge="unique", index_unique="-")
    um = {"size": 50, "unit": "um"}

    def found(**options):
        sources = resolve(adata, **options).recipe["sources"]
        return [(round(one["um_per_px"], 6), one["scale_from"], one["assay"]) for one in sources.values()]

    assert found(assay={"A": "st"}, **um) == [(0.5, "spot pitch", "st"), (0.25, "spot diameter", "visium")]
    assert found(mpp={"A": 0.3}, **um)[0] == (0.3, "given", "unknown")
    assert found(mpp={"A": 0.3}, **um)[1] == (0.25, "spot diameter", "visium")
    options = {"mpp": {"A": 0.3}, "assay": {"B": "visium"}, "output_size": 16, **um}
    sp.pp.extract_patches(adata, library_key="library_id", **options)
    adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    expected = resolve(adata, follow=False, **options)
    assert resolve(back).recipe == expected.recipe
    alone = back[back.obs["library_id"] == "A"].copy()
    assert resolve(alone).recipe["sources"]["A"] == expected.recipe["sources"]["A"]
    with pytest.raises(KeyError, match=r"`mpp` has no entry for library 'B'; its entries are 'A', 'C'"):
        found(mpp={"A": 0.3, "C": 1.0})
    with pytest.raises(ValueError, match="mpp=5000"):
        found(mpp=5000.0)


def test_patches_of_several_sizes_are_told():
    parts = {"A": one_section("grid", diameter=200.0), "B": one_section("hex", scale=4.0, diameter=260.0)}
    for name, part in parts.items():
        part.uns["spatial"] = {name: part.uns["spatial"]["A"]}
        part.obs["library_id"] = name
    adata = ad.concat(parts, uns_merge="unique", index_unique="-")
    with pytest.warns(UserWarning, match=r"65 um in library 'B' and 100 um in library 'A'.*unit='um'"):
        resolve(adata, assay={"A": "st"})


@pytest.mark.parametrize("value", [None, 0, -1.0, "wide", np.nan, np.inf, [1.0, 2.0]])
@pytest.mark.parametrize("key", ["spot_diameter_fullres", "tissue_hires_scalef", "microns_per_pixel", "bin_size_um"])
def test_scale_factors_that_are_no_scale(key, value):
    adata = one_section(diameter=130.0)
    factors(adata, "A")[key] = value
    with pytest.raises(ValueError, match=rf"\['{key}'\] is .*: expected a positive number"):
        source_of(adata)


@pytest.mark.parametrize(
    ("spatial", "text"),
    [
        (["A"], r"adata.uns\['spatial'\] is a list"),
        ({"A": ["hires"]}, r"\['A'\] is a list"),
        ({"A": {"images": {}, "scalefactors": [1.0]}}, r"\['scalefactors'\] is a list"),
    ],
)
def test_entries_of_another_type(spatial, text):
    adata = one_section()
    adata.obs["library_id"] = "A"
    adata.uns["spatial"] = spatial
    with pytest.raises(TypeError, match=text):
        resolve(adata, image=np.full((2000, 2400, 3), 9, np.uint8))


def test_images_under_other_names_are_listed():
    adata = one_section(diameter=130.0)
    adata.obs["sample"] = "A"
    adata.obs["donor"] = "p"
    with pytest.raises(ValueError, match=r"uns\['spatial'\] has entries of 'A'.*library_key='sample'"):
        resolve_patches(adata, get_libraries(adata, "donor"))


@pytest.mark.parametrize("turn", [0.0, 0.3])
def test_pitch_of_a_turned_lattice_with_gaps(turn):
    adata = one_section(scale=3.0)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    keep = np.random.default_rng(0).random(adata.n_obs) < 0.7
    places = adata.obs[["array_row", "array_col"]].to_numpy()[keep]
    kind, pitch = spot_pitch(adata.obsm["spatial"][keep] @ rotation, places)
    assert kind == "hex"
    assert pitch == pytest.approx(300)
