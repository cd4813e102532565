"""pp.check_alignment."""

from __future__ import annotations

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import KEY
from helpers.images import PINK, pillow, section, slide

MISTAKES = {
    "x and y are exchanged": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"][:, ::-1].copy()),
    "mirrored left to right": lambda a, s: s["images"].update(hires=s["images"]["hires"][:, ::-1]),
    "mirrored top to bottom": lambda a, s: s["images"].update(hires=s["images"]["hires"][::-1]),
    "rotated by 90 degrees clockwise": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"], -1)),
    "rotated by 180 degrees": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"], 2)),
    "rotated by 90 degrees counterclockwise": lambda a, s: s["images"].update(hires=np.rot90(s["images"]["hires"])),
    "positions are in pixels of the hires image": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"] / 4),
    "positions are in pixels of the lowres image": lambda a, s: a.obsm.update(spatial=a.obsm["spatial"] * 0.075),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_check_alignment_names_the_mistake(mistake, caplog):
    adata = section()
    good = sp.pp.check_alignment(adata).loc["A"]
    assert (good["verdict"], good["likely_cause"]) == ("aligned", "")
    assert good["on_tissue"] > 0.95
    MISTAKES[mistake](adata, adata.uns["spatial"]["A"])
    with caplog.at_level(logging.WARNING, logger="spared_sc"):
        found = sp.pp.check_alignment(adata).loc["A"]
    assert found["verdict"] == "misaligned"
    assert mistake in found["likely_cause"]
    assert " or " not in found["likely_cause"]
    assert mistake in caplog.text


def test_check_alignment_of_the_small_image_taken_for_the_full_one(tmp_path):
    adata = section()
    path = pillow(tmp_path / "hires.png", slide()[0])
    found = sp.pp.check_alignment(adata, image=path).loc["A"]
    assert found["verdict"] == "misaligned"
    assert found["likely_cause"] == "the image is the hires one, the positions are in pixels of the full resolution"


def test_check_alignment_does_not_guess():
    adata = section()
    y, x = np.mgrid[:500, :560]
    disc = np.full((500, 560, 3), 240, np.uint8)
    disc[np.hypot(x - 280, y - 250) < 200] = PINK
    adata.uns["spatial"]["A"]["images"]["hires"] = disc
    row, column = (index.ravel() for index in np.indices((23, 50)))
    xy = np.column_stack([280 + (column - 24.5) * 20, 250 + (row - 11) * 20])
    round_ = ad.AnnData(np.ones(((keep := np.hypot(*(xy - (280, 250)).T) < 200).sum(), 2), np.float32))
    round_.obsm["spatial"] = 4 * xy[keep]
    round_.uns = adata.uns
    found = sp.pp.check_alignment(round_).loc["A"]
    assert found["verdict"] == "ambiguous"
    assert "rotated by 180 degrees" in found["likely_cause"]
    adata.uns["spatial"]["A"]["images"]["hires"] = np.full((500, 560, 3), PINK, np.uint8)
    assert sp.pp.check_alignment(adata).loc["A", "verdict"] == "unclear"


def test_check_alignment_of_several_libraries_and_all_spots():
    both = ad.concat([section("A"), section("B", 1)], uns_merge="unique")
    MISTAKES["x and y are exchanged"](both, None)
    both.obsm["spatial"][both.obs["library_id"] == "A"] = section("A").obsm["spatial"]
    both = both[np.random.default_rng(0).permutation(both.n_obs)].copy()
    table = sp.pp.check_alignment(both, **KEY)
    assert table["verdict"].to_dict() == {"A": "aligned", "B": "misaligned"}
    # Spots off the tissue are left out where it is known which they are.
    one = section()
    glass = one[:40].copy()
    glass.obs_names = [f"glass{i}" for i in range(40)]
    glass.obs["array_row"] += 1000
    glass.obsm["spatial"] = np.random.default_rng(0).uniform(1600, 1900, (40, 2))
    one.obs["in_tissue"], glass.obs["in_tissue"] = 1, 0
    joined = ad.concat([one, glass], uns_merge="first")
    alone = sp.pp.check_alignment(one)
    pd.testing.assert_frame_equal(sp.pp.check_alignment(joined), alone)
    said = joined.obs["in_tissue"]
    for column in (
        said == 1,
        said.astype(str),
        said.astype(str).astype("category"),
        said.astype(float),
        (said == 1).astype(str),
    ):
        joined.obs["in_tissue"] = column
        pd.testing.assert_frame_equal(sp.pp.check_alignment(joined), alone)
    joined.obs["in_tissue"] = np.where(said == 1, "yes", "no")
    with pytest.raises(ValueError, match="holds 'yes', 'no': expected 1"):
        sp.pp.check_alignment(joined)


REAL = ("villacampa/lung_organoid/V19D02-088_B1", "villacampa/kidney_organoid/V19D02-085_C1", "mouse_embryo_cytassist")


@pytest.mark.parametrize("folder", REAL)
def test_check_alignment_of_real_sections(folder, data_dir):
    adata = sp.datasets.read_visium(data_dir / folder)
    found = sp.pp.check_alignment(adata).iloc[0]
    assert found["verdict"] == "aligned"
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    found = sp.pp.check_alignment(adata).iloc[0]
    assert (found["verdict"], found["likely_cause"]) == ("misaligned", "x and y are exchanged")
