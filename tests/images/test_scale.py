"""Patches of another scale than those that were learned from."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.image_prediction import SECTIONS, embed, of_libraries
from spared_sc._core.validate import get_libraries
from spared_sc._images.resolve import resolve_patches
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
