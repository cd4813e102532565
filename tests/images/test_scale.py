"""Patches of another scale than those that were learned from."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries
from helpers.images import smooth, tiff
from spared_sc._core.validate import get_libraries
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import check_scale, scale_of
from spared_sc.tl import _embed_patches


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_patches_of_another_size_or_resolution_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    new = of_libraries(adata, 4)
    del new.obsm["X_classical"]
    sp.pp.extract_patches(new, size=3, output_size=32)
    with pytest.raises(
        ValueError, match=r"the patches of library 'library_4' are .* um .*those of training.*extract_patches"
    ):
        sp.tl.predict_expression(new, model=fitted)
    assert "predicted_ridge" not in new.obsm
    with pytest.warns(UserWarning, match="mean embedding of a section lies"):
        sp.tl.predict_expression(new, model=fitted, force=True)
    coarse = of_libraries(adata, 4)
    del coarse.obsm["X_classical"]
    slide = coarse.uns["spatial"]["library_4"]
    slide["images"]["hires"] = slide["images"]["hires"][::4, ::4]
    slide["scalefactors"]["tissue_hires_scalef"] /= 4
    sp.pp.extract_patches(coarse, size=2, output_size=32)
    with pytest.raises(ValueError, match="um per pixel"):
        sp.tl.predict_expression(coarse, model=fitted)


def test_one_library_of_another_resolution_is_found_among_others(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1), **KEY)
    new = of_libraries(adata, 2, 3, 4)
    del new.obsm["X_classical"]
    slide = new.uns["spatial"]["library_3"]
    slide["images"]["hires"] = slide["images"]["hires"][::4, ::4]
    slide["scalefactors"]["tissue_hires_scalef"] /= 4
    with pytest.raises(ValueError, match="the patches of library 'library_3' are"):
        sp.tl.predict_expression(new, model=fitted, **KEY)


def test_an_unknown_scale_hides_no_coarse_image(adata, monkeypatch):
    from spared_sc._models import encoders

    found = []
    monkeypatch.setattr(encoders, "check_resolution", lambda card, px, um, **more: found.append(um))
    patches = resolve_patches(adata, get_libraries(adata, "library_id"))
    patches.recipe["sources"]["library_1"]["um_per_px"] = np.nan
    monkeypatch.setattr(_embed_patches, "resolve_patches", lambda *args, **options: patches)
    sp.tl.embed_patches(adata, **KEY)
    assert found == [max(patches.recipe["sources"][f"library_{i}"]["um_per_px"] for i in (2, 3, 4))]


def test_patches_of_other_colours_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), **KEY)
    new = of_libraries(adata, 4)
    sp.pp.extract_patches(new, size=2, output_size=32, stain="macenko")
    sp.tl.embed_patches(new)
    with pytest.raises(ValueError, match=r"have stain='macenko', those of training stain=None.*stain=None\)"):
        fitted.predict(new)


def squares(folder, name="A", seed=0, *, stated=True) -> ad.AnnData:
    """Squares 100 um apart at 0.5 um per pixel, which the image file states or not."""
    row, column = (index.ravel() for index in np.indices((7, 7)))
    xy = 200.0 * np.column_stack([column + 1, row + 1])
    counts = np.random.default_rng(seed).poisson(5, (49, 8)).astype(np.float32)
    obs = pd.DataFrame(
        {"array_row": row, "array_col": column, "library_id": name}, index=[f"{name}{i}" for i in range(49)]
    )
    adata = ad.AnnData(counts, obs=obs, obsm={"spatial": xy})
    image = np.kron(smooth(200, 200, seed), np.ones((8, 8, 1), np.uint8))
    options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"} if stated else {}
    path = tiff(folder / f"{name}{stated}.tif", image, tile=(256, 256), **options)
    slide = {
        "images": {},
        "scalefactors": {"spot_diameter_fullres": 110.0},
        "metadata": {"source_image_path": str(path)},
    }
    adata.uns["spatial"] = {name: slide}
    return adata


def test_a_saved_predictor_cuts_the_patches_that_it_was_trained_on_or_refuses(tmp_path):
    two = ad.concat([squares(tmp_path), squares(tmp_path, "B", 1)], uns_merge="unique")
    sp.pp.normalize_tpm(two, gene_lengths=None)
    sp.pp.extract_patches(two, output_size=32, **KEY)
    sp.tl.embed_patches(two, **KEY)
    sp.tl.fit_predictor(two, mask_var=None, **KEY).save(tmp_path / "model")
    model = sp.tl.load_predictor(tmp_path / "model")
    assert model.card.data.embeddings["X_classical"].patches.side_um == pytest.approx(55)
    slide = sp.pp.tile_slide(tmp_path / "ATrue.tif", spot_diameter=65, min_tissue=0)
    patches = resolve_patches(
        slide, get_libraries(slide, "library_id"), like=model.card.data.embeddings["X_classical"].patches
    )
    assert patches.recipe["sources"]["slide"]["patch_px"] == pytest.approx(110)
    sp.tl.predict_expression(slide, model=model)
    unknown = squares(tmp_path, "C", 2, stated=False)
    with pytest.raises(ValueError, match=r"scale of the image of library 'C' is unknown.*mpp=.*assay="):
        sp.tl.predict_expression(unknown, model=model)
    sp.pp.extract_patches(unknown, output_size=32)
    with pytest.raises(
        ValueError, match=r"library 'C' are .* of unknown scale, those of training 55.0 um.*mpp=.*assay="
    ):
        sp.tl.predict_expression(unknown, model=model)
    sp.pp.extract_patches(unknown, output_size=32, mpp=0.5)
    sp.tl.predict_expression(unknown, model=model)


def test_a_model_that_does_not_know_its_scale_says_so():
    recipe = {"size": 1, "unit": "spot", "output_size": 32, "stain": None}
    unknown, known = ({**recipe, "sources": {"A": {"patch_px": 110.0, "um_per_px": um}}} for um in (np.nan, 0.5))
    check_scale(scale_of(unknown), unknown, force=False)
    with pytest.warns(UserWarning, match=r"training \(1 spot of 110 pixels\) is unknown: .* 55.0 um"):
        check_scale(scale_of(unknown), known, force=False)
    with pytest.raises(ValueError, match="of unknown scale, those of training 55.0 um"):
        check_scale(scale_of(known), unknown, force=False)


def test_libraries_of_several_resolutions_have_one_size():
    sources = {"A": (110.0, 0.5), "B": (220.0, 0.25), "C": (90.0, np.nan)}
    recipe = {"size": 1, "unit": "spot", "output_size": 32, "stain": None}
    recipe["sources"] = {name: {"patch_px": px, "um_per_px": um} for name, (px, um) in sources.items()}
    assert scale_of(recipe).side_um == pytest.approx(55)
