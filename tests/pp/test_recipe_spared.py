"""pp.recipe_spared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import dense
from helpers.pp import SECTIONS, with_holes

if TYPE_CHECKING:
    from anndata import AnnData

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


def same(first: AnnData, second: AnnData) -> None:
    """Equal in every part, records apart."""
    np.testing.assert_array_equal(dense(first.X), dense(second.X))
    pd.testing.assert_frame_equal(first.obs, second.obs)
    pd.testing.assert_frame_equal(first.var, second.var)
    for attr in ("layers", "obsm", "obsp", "varm"):
        ours, theirs = getattr(first, attr), getattr(second, attr)
        assert set(ours) == set(theirs)
        for name in ours:
            np.testing.assert_array_equal(dense(ours[name]), dense(theirs[name]))


@pytest.fixture
def collection(collection) -> AnnData:
    """Three libraries with sparse and dense genes, holes, and spots of too few counts."""
    return collection(**SECTIONS, then=with_holes)


@pytest.mark.parametrize("moran_layer", ["median", "log2tpm"])
@pytest.mark.parametrize("split", [False, True])
def test_recipe_is_its_four_steps(collection, moran_layer, split):
    if split:
        collection.obs["split"] = collection.obs["library_id"].map(
            {"library_1": "test", "library_2": "train", "library_3": "train"}
        )
    by_hand = collection.copy()
    sp.pp.spared_filter(by_hand, library_key="library_id", real_data_share=0.6)
    sp.pp.normalize_tpm(by_hand)
    sp.pp.moran(by_hand, library_key="library_id", median_completed=moran_layer == "median")
    sp.pp.select_genes(by_hand, n_genes=9)
    before = collection.copy()
    options = {"library_key": "library_id", "real_data_share": 0.6, "n_genes": 9, "moran_layer": moran_layer}
    copied = sp.pp.recipe_spared(collection, copy=True, **options)
    same(collection, before)
    assert sp.pp.recipe_spared(collection, **options) is None
    same(collection, by_hand)
    same(copied, by_hand)
    assert set(collection.uns["spared_sc"]) >= {"spared_filter", "log2tpm", "moran_i", "spared_selected"}
    assert collection.n_obs < before.n_obs
    assert not collection.is_view


def test_recipe_subsets_genes_only_when_told(collection):
    whole = sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9, copy=True)
    cut = sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9, subset_genes=True, copy=True)
    assert whole.n_vars == collection.n_vars
    same(cut, whole[:, whole.var["spared_selected"]].copy())


@pytest.mark.parametrize("step", ["spared_filter", "normalize_tpm", "moran", "select_genes"])
def test_recipe_changes_nothing_when_a_step_fails(collection, monkeypatch, step):
    import importlib

    recipe = importlib.import_module("spared_sc.pp._recipe_spared")
    run = getattr(recipe, step)

    def run_and_fail(*args, **kwargs):
        run(*args, **kwargs)
        raise RuntimeError("interrupted")

    collection.raw = collection.copy()
    before = collection.copy()
    matrix = collection.X
    monkeypatch.setattr(recipe, step, run_and_fail)
    with pytest.raises(RuntimeError, match="interrupted"):
        sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9)
    same(collection, before)
    assert collection.X is matrix
    assert set(collection.uns) == set(before.uns)
    assert set(collection.uns["spared_sc"]) == set(before.uns["spared_sc"])


def test_recipe_keeps_raw(collection):
    collection.raw = collection.copy()
    names = collection.obs_names
    sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9)
    assert collection.raw.shape == collection.shape
    kept = names.isin(collection.obs_names)
    assert 0 < kept.sum() < len(names)
    np.testing.assert_array_equal(collection.raw.X.toarray(), collection.X.toarray())


def test_recipe_reads_the_layer_it_is_told(collection):
    other = collection.copy()
    other.layers["raw"] = other.X.copy()
    other.X = np.log1p(other.X.toarray())
    sp.pp.recipe_spared(other, library_key="library_id", n_genes=9, layer="raw")
    sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9)
    pd.testing.assert_frame_equal(other.var, collection.var)
    for name in ("detected", "log2tpm"):
        np.testing.assert_array_equal(other.layers[name].toarray(), collection.layers[name].toarray())


def test_mitochondrial_genes_take_part_where_asked(collection):
    """With TPM they are not kept, as in SpaRED, unless asked for; with CPM they are."""
    name = collection.var_names[np.asarray((collection.X > 0).mean(axis=0)).ravel().argmax()]
    collection.var_names = ["MT-CO1" if gene == name else gene for gene in collection.var_names]
    for options, kept in (({}, False), ({"mitochondrial": True}, True), ({"gene_lengths": None}, True)):
        done = sp.pp.recipe_spared(collection, library_key="library_id", n_genes=9, copy=True, **options)
        assert done.var["spared_keep"]["MT-CO1"] == kept
        sums = (2.0 ** done.layers["log2tpm"].toarray() - 1)[:, done.var["spared_keep"]].sum(axis=1)
        np.testing.assert_allclose(sums, 1e6, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:[12] of .* genes have no length .*'MTRNR2L12'")  # no longer annotated
@pytest.mark.parametrize(
    ("folder", "n_spots", "before", "after"),
    [("lung_organoid", 1832, 0.90, 0.26), ("kidney_organoid", 1355, 0.92, 0.33)],
)
def test_recipe_reproduces_table_1_of_the_paper(data_dir, folder, n_spots, before, after):
    paths = sorted((data_dir / "villacampa" / folder).glob("V19*"))
    adata = sp.datasets.read_visium(paths, load_images=False, library_key="library_id")
    sp.pp.recipe_spared(adata, library_key="library_id")
    selected = adata.var["spared_selected"].to_numpy()
    mitochondrial = adata.var_names.str.startswith("MT-")
    assert (adata.layers["log2tpm"].toarray()[:, mitochondrial] > 0).any()
    assert not adata.var["spared_keep"][mitochondrial].any()
    assert adata.n_obs == n_spots
    assert selected.sum() == 128
    summary = adata.uns["spared_sc"]["spared_filter"]["summary"]
    assert summary["missing_share_before"] == pytest.approx(before, abs=0.01)
    missing = adata[:, selected].X.toarray() == 0
    assert missing.mean() == pytest.approx(after, abs=0.04)
    assert missing.any(axis=1).mean() >= 0.99
