"""pp.extract_patches."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, shuffled
from helpers.files import through_a_file
from helpers.images import SECTIONS, WRITERS, cut_short, pillow, resolve, smooth
from spared_sc._images.scale import recipe_of, scale_of
from spared_sc._images.tissue import tissue_mask
from spared_sc._kernels.stain import to_reference

SOURCES = {"sources": {"library_1": {"patch_px": 1.0, "um_per_px": 1.0}}}


@pytest.fixture
def adata(collection) -> ad.AnnData:
    return collection(**SECTIONS, then=shuffled)


def test_extract_patches_records_what_is_read_later(adata, tmp_path):
    assert sp.pp.extract_patches(adata, size=2, output_size=48, **KEY) is None
    record = adata.uns["spared_sc"]["patches"]
    assert record["fingerprint"] == resolve(adata).fingerprint()
    assert resolve(adata).recipe == resolve(adata, image="hires", size=2.0, output_size=48).recipe
    assert resolve(adata, output_size=32).recipe["size"] == 2  # what is not asked for stays
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    assert resolve(ad.read_h5ad(path)).fingerprint() == record["fingerprint"]
    result = sp.pp.extract_patches(adata, size=3, copy=True, **KEY)
    assert resolve(adata).recipe["size"] == 2
    assert resolve(result).recipe["size"] == 3
    assert resolve(result, follow=False).recipe["size"] == 1


@pytest.mark.parametrize("lost", ["sources", "fingerprint", "mpp", "assay", "size"])
def test_a_record_with_a_piece_missing_is_not_followed(adata, lost):
    sp.pp.extract_patches(adata, output_size=16, **KEY)
    past = adata.uns["spared_sc"]["patches"]
    del (past if lost in past else past["params"])[lost]
    with pytest.raises(ValueError, match=r"\['patches'\] cannot be followed .*extract_patches\(adata, \.\.\.\)` again"):
        resolve(adata)
    sp.pp.extract_patches(adata, output_size=16, **KEY)
    assert resolve(adata).recipe["output_size"] == 16


def test_recorded_positions_are_the_ones_that_are_used(adata):
    expected = resolve(adata, output_size=32).read(np.arange(adata.n_obs))
    adata.obsm["good"] = adata.obsm["spatial"].copy()
    adata.obsm["spatial"] = 0.7 * adata.obsm["spatial"][::-1]
    sp.pp.extract_patches(adata, output_size=32, spatial_key="good", **KEY)
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), expected)
    adata.obsm["moved"] = adata.obsm["good"] + 5
    assert not np.array_equal(resolve(adata, spatial_key="moved").read(np.arange(adata.n_obs)), expected)
    result = sp.tl.embed_patches(adata, copy=True, **KEY)
    adata.obsm["spatial"] = adata.obsm["good"]
    sp.tl.embed_patches(adata, **KEY)
    assert np.array_equal(result.obsm["X_classical"], adata.obsm["X_classical"])


def test_a_recorded_scale_is_that_of_the_recorded_image(adata, tmp_path):
    path = WRITERS["png"](tmp_path, smooth(1400, 1400))
    options = {"mpp": 0.5, "size": 60, "unit": "um", "output_size": 16}
    with pytest.warns(UserWarning, match=r"mpp=0.5 was given, but the spot diameter of assay 'visium' gives 1"):
        sp.pp.extract_patches(adata, image={"library_1": path, "library_2": path}, **options, **KEY)
    assert {one["um_per_px"] for one in resolve(adata).recipe["sources"].values()} == {0.5}
    hires = resolve(adata, image="hires").recipe
    assert hires == resolve(adata, image="hires", size=60, unit="um", output_size=16, follow=False).recipe
    assert hires["sources"]["library_1"]["scale_from"] != "given"


def test_libraries_that_are_gone_do_not_matter(adata):
    full = smooth(1400, 1400)
    sp.pp.extract_patches(adata, image={"library_1": full, "library_2": "hires"}, size=40, unit="pixel", **KEY)
    rest = adata[adata.obs["library_id"] == "library_2"].copy()
    assert resolve(rest).recipe["sources"]["library_2"]["source"] == "hires"
    with pytest.raises(ValueError, match="pass it again"):
        resolve(adata)


@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_names_with_a_slash_survive_files(adata, tmp_path, form):
    paths = {}
    for name, slide in adata.uns["spatial"].items():
        paths[name.replace("_", "/")] = tmp_path / f"{name}.png"
        pillow(tmp_path / f"{name}.png", np.kron(slide["images"]["hires"], np.ones((3, 3, 1), np.uint8)))
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    del adata.uns["spatial"]
    sp.pp.extract_patches(adata, image=paths, size=2, output_size=32, **KEY)
    sp.tl.embed_patches(adata, **KEY)
    back = through_a_file(adata, tmp_path / f"a.{form}")
    assert resolve(back).recipe == resolve(adata).recipe
    assert resolve(back).fingerprint() == adata.uns["spared_sc"]["patches"]["fingerprint"]
    # As predictors compare it
    assert recipe_of(back.uns["spared_sc"]["X_classical"]["patches"]) == resolve(adata).recipe


def test_the_recorded_image_is_the_one_that_is_used(adata, tmp_path):
    full = smooth(1400, 1400)
    path = WRITERS["tiled"](tmp_path, full)
    sp.pp.extract_patches(adata, image={"library_1": path, "library_2": "hires"}, size=40, unit="pixel", **KEY)
    assert [one["source"] for one in resolve(adata).recipe["sources"].values()] == ["file", "hires"]
    sp.pp.extract_patches(adata, image={"library_1": full, "library_2": full}, size=40, unit="pixel", **KEY)
    with pytest.raises(ValueError, match="pass it again"):
        resolve(adata)
    assert resolve(adata, image={"library_1": full, "library_2": full}).recipe["size"] == 40


def test_a_broken_image_changes_nothing(adata, tmp_path):
    path = cut_short(pillow(tmp_path / "a.jpg", smooth(1400, 1400)))
    records = dict(adata.uns["spared_sc"])
    with pytest.raises(ValueError, match="cut short"):
        sp.pp.extract_patches(adata, image={"library_1": path, "library_2": path}, store=tmp_path / "p.zarr", **KEY)
    assert adata.uns["spared_sc"] == records
    assert not (tmp_path / "p.zarr").exists()


def test_macenko_is_measured_on_the_image_and_not_on_the_spots(adata, tmp_path):
    sp.pp.extract_patches(adata, size=2, output_size=32, **KEY)
    plain = resolve(adata).read(np.arange(adata.n_obs))
    sp.pp.extract_patches(adata, size=2, output_size=32, stain="macenko", **KEY)
    assert resolve(adata).recipe["stain"] == "macenko"
    found = resolve(adata).read(np.arange(adata.n_obs))
    for name in adata.obs["library_id"].unique():
        rows = np.flatnonzero(adata.obs["library_id"] == name)
        image = adata.uns["spatial"][name]["images"]["hires"]
        recolour, measured = to_reference(image, tissue_mask(image))
        assert measured
        assert np.array_equal(found[rows], recolour(plain[rows]))
    few = np.arange(0, adata.n_obs, 7)
    assert np.array_equal(resolve(adata[few].copy()).read(np.arange(len(few))), found[few])
    adata.write_h5ad(tmp_path / "a.h5ad")
    assert (
        scale_of(ad.read_h5ad(tmp_path / "a.h5ad").uns["spared_sc"]["patches"]["params"] | SOURCES).stain == "macenko"
    )


def test_stained_patches_are_kept_in_a_store(adata, tmp_path):
    sp.pp.extract_patches(adata, output_size=24, stain="macenko", store=tmp_path / "a.zarr", **KEY)
    stored = resolve(adata)
    assert stored.recipe["stain"] == "macenko"
    expected = resolve(adata, follow=False, output_size=24, stain="macenko")
    assert np.array_equal(stored.read(np.arange(9)), expected.read(np.arange(9)))
    plain = adata.copy()
    with pytest.raises(FileExistsError, match="other patches"):
        sp.pp.extract_patches(plain, output_size=24, store=tmp_path / "a.zarr", **KEY)


def test_stains_that_cannot_be_measured_are_named(adata):
    grey = np.full_like(adata.uns["spatial"]["library_2"]["images"]["hires"], 200)
    adata.uns["spatial"]["library_2"]["images"]["hires"] = grey
    with pytest.warns(UserWarning, match="library 'library_2': the stains of the hires image .* cannot be told apart"):
        sp.pp.extract_patches(adata, stain="macenko", **KEY)
    with pytest.raises(ValueError, match="stain='reinhard' is unknown: choose 'macenko'"):
        sp.pp.extract_patches(adata, stain="reinhard", **KEY)
