"""datasets.synthetic."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pytest

from helpers.files import assert_same
from spared_sc.datasets import synthetic

if TYPE_CHECKING:
    from pathlib import Path


# squidpy's docstring machinery warns when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore:.* is not a valid key:SyntaxWarning")


def test_synthetic_survives_h5ad(tmp_path: Path):
    adata = synthetic(n_libraries=2, n_genes=20, shape=(6, 6))
    adata.write_h5ad(tmp_path / "x.h5ad")
    again = ad.read_h5ad(tmp_path / "x.h5ad")
    assert_same(adata, again)
    np.testing.assert_array_equal(adata.layers["rate"], again.layers["rate"])
    np.testing.assert_array_equal(adata.varm["programs"], again.varm["programs"])


@pytest.fixture(scope="module")
def collection() -> ad.AnnData:
    return synthetic()


def test_counts_follow_the_rate(collection: ad.AnnData):
    counts, rate = collection.X.toarray(), collection.layers["rate"].astype(float)
    assert collection.X.format == "csr"
    assert collection.X.dtype == np.float32
    assert (counts == np.rint(counts)).all()
    # Poisson: standardised sums over spots and over genes are standard normal, and so is the dispersion near 1.
    for axis in (0, 1):
        z = (counts - rate).sum(axis) / np.sqrt(rate.sum(axis))
        assert abs(z.mean()) < 0.25
        assert 0.85 < z.std() < 1.15
    assert abs(((counts - rate) ** 2 / rate).mean() - 1) < 0.03


def test_rate_is_the_stated_model():
    adata = synthetic(library_effect=0.0)
    mixture = adata.obsm["programs"] @ adata.varm["programs"].T
    rate = adata.layers["rate"].astype(float)
    np.testing.assert_allclose(adata.obsm["programs"].sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        rate / rate.sum(axis=1, keepdims=True), mixture / mixture.sum(axis=1, keepdims=True), rtol=1e-4
    )
    assert 0.85 < np.median(rate.sum(axis=1)) / 2000 < 1.15


def test_library_effect_is_gene_wise():
    """Gene-wise log ratios between libraries spread as asked, once the programmes are divided out."""
    adata = synthetic(library_effect=0.5, n_genes=400, image=False)
    mixture = adata.obsm["programs"] @ adata.varm["programs"].T
    effect = np.log(adata.layers["rate"] / mixture)
    by_library = [effect[(adata.obs["library_id"] == name).to_numpy()] for name in adata.uns["spatial"]]
    means = [(block - block.mean(axis=1, keepdims=True)) for block in by_library]
    for block in means:
        assert block.std(axis=0).max() < 1e-3  # the same in all spots of a library
        assert 0.42 < block.mean(axis=0).std() < 0.58


def test_detection_and_lengths_are_wide(collection: ad.AnnData):
    detected = collection.X.toarray() > 0
    overall = detected.mean(axis=0)
    assert overall.min() < 0.35
    assert overall.max() > 0.99
    for name in collection.uns["spatial"]:
        assert (detected[(collection.obs["library_id"] == name).to_numpy()].mean(axis=0) >= 0.7).sum() > 40
    length = collection.var["gene_length"]
    assert length.between(300, 10000).all()
    assert length.max() / length.min() > 10


@pytest.mark.parametrize("lattice", ["hex", "grid"])
def test_lattice_and_smooth_programs(lattice: str):
    adata = synthetic(n_libraries=2, n_genes=10, lattice=lattice, shape=(12, 14), image=False)
    assert adata.n_obs == 2 * 12 * 14
    for name in adata.uns["spatial"]:
        spots = adata[(adata.obs["library_id"] == name).to_numpy()]
        distance = np.linalg.norm(spots.obsm["spatial"][:, None] - spots.obsm["spatial"][None], axis=2)
        step = spots.obs[["array_row", "array_col"]].to_numpy()
        step = np.abs(step[:, None] - step[None])
        near = np.isclose(distance, 100, atol=0.01)
        if lattice == "hex":
            expected = (step == (0, 2)).all(axis=2) | (step == (1, 1)).all(axis=2)
            assert (spots.obs[["array_row", "array_col"]].sum(axis=1) % 2 == 0).all()
        else:
            expected = step.sum(axis=2) == 1
        np.testing.assert_array_equal(near, expected)
        assert distance[distance > 0].min() > 99.9
        # Moran's I by its definition, rows of the weights standardised.
        weights = near / near.sum(axis=1, keepdims=True)
        z = spots.obsm["programs"] - spots.obsm["programs"].mean(axis=0)
        moran = np.einsum("ik,ij,jk->k", z, weights, z) / (z**2).sum(axis=0)
        assert moran.min() > 0.8


def test_image_tells_about_programs(collection: ad.AnnData):
    for name, slot in collection.uns["spatial"].items():
        image, scale = slot["images"]["hires"], slot["scalefactors"]["tissue_hires_scalef"]
        assert image.dtype == np.uint8
        assert max(image.shape[:2]) <= 600
        rows = (collection.obs["library_id"] == name).to_numpy()
        centre = np.rint(collection.obsm["spatial"][rows] * scale).astype(int)
        radius = round(slot["scalefactors"]["spot_diameter_fullres"] * scale)
        colour = np.array(
            [image[y - radius : y + radius + 1, x - radius : x + radius + 1].mean(axis=(0, 1)) for x, y in centre]
        )
        together = np.corrcoef(colour.T, collection.obsm["programs"][rows].T)[:3, 3:]
        assert np.abs(together).max() > 0.5
        # Stained where there are spots (green is what both stains take), white on the glass around them.
        assert colour[:, 1].max() < 215
        assert np.concatenate([image[:8].ravel(), image[:, :8].ravel()]).mean() > 240


def test_same_seed_same_result():
    first, second = synthetic(n_libraries=2, shape=(8, 8)), synthetic(n_libraries=2, shape=(8, 8))
    assert_same(first, second)
    np.testing.assert_array_equal(first.layers["rate"], second.layers["rate"])
    assert (first.X != synthetic(n_libraries=2, shape=(8, 8), random_state=1).X).nnz > 0


def test_one_more_library_changes_no_other():
    two, three = synthetic(n_libraries=2, shape=(8, 8)), synthetic(n_libraries=3, shape=(8, 8))
    assert (three[:128].X != two.X).nnz == 0
    np.testing.assert_array_equal(
        three.uns["spatial"]["library_2"]["images"]["hires"], two.uns["spatial"]["library_2"]["images"]["hires"]
    )
    assert (three[128:].X != two[64:].X).nnz > 0


def test_global_random_state_is_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthetic(n_libraries=1, n_genes=5, shape=(4, 4))
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_missing_spots_and_no_image():
    full = synthetic(n_libraries=2, shape=(10, 10))
    part = synthetic(n_libraries=2, shape=(10, 10), missing_spots=0.3, image=False)
    assert part.n_obs == 140
    same = full[part.obs_names]
    assert (same.X != part.X).nnz == 0
    np.testing.assert_array_equal(same.obsm["spatial"], part.obsm["spatial"])
    assert all(slot["images"] == {} for slot in part.uns["spatial"].values())


@pytest.mark.parametrize(
    "argument",
    [
        {"n_libraries": 0},
        {"n_genes": 1},
        {"n_programs": 1.5},
        {"lattice": "square"},
        {"shape": (20,)},
        {"shape": 20},
        {"shape": (1, 20)},
        {"depth": 0},
        {"depth": float("nan")},
        {"library_effect": -1},
        {"missing_spots": 1.0},
        {"library_key": "in_tissue"},
    ],
)
def test_bad_arguments(argument: dict):
    with pytest.raises(ValueError, match=rf"{next(iter(argument))}="):
        synthetic(**argument)
