"""pp.spared_filter."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import dense
from helpers.pp import SECTIONS, small, with_holes

if TYPE_CHECKING:
    from anndata import AnnData

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.fixture
def collection(collection) -> AnnData:
    """Three libraries with sparse and dense genes, holes, and spots of too few counts."""
    return collection(**SECTIONS, then=with_holes)


def filter_by_hand(
    adata, *, spot_counts=(10, 1e6), gene_counts=(10, 1e6), globally=0.0, per_library=0.0, share=0.7, train=None
):
    """The rule in exact arithmetic: kept spots, kept genes, expressed fractions."""
    counts = dense(adata.X).astype(int).tolist()
    library = adata.obs["library_id"].astype(str).tolist()
    passing = [spot for spot, row in enumerate(counts) if spot_counts[0] < sum(row) < spot_counts[1]]
    judged = [spot for spot in passing if train is None or library[spot] in train]
    names = sorted({library[spot] for spot in judged})
    expressed, least, candidates = {}, {}, []
    for gene in range(adata.n_vars):
        found = [counts[spot][gene] > 0 for spot in judged]
        expressed[gene] = Fraction(sum(found), len(judged))
        shares = []
        for name in names:
            here = [counts[spot][gene] > 0 for spot in judged if library[spot] == name]
            shares.append(Fraction(sum(here), len(here)))
        least[gene] = min(shares)
        total = sum(counts[spot][gene] for spot in judged)
        if gene_counts[0] < total < gene_counts[1] and expressed[gene] >= globally and least[gene] >= per_library:
            candidates.append(gene)
    candidates.sort(key=lambda gene: (-least[gene], -expressed[gene], adata.var_names[gene]))
    last = 0
    for n in range(1, len(candidates) + 1):
        if sum(expressed[gene] for gene in candidates[:n]) / n >= Fraction(str(share)):
            last = n
    kept = set(candidates[:last])
    spots = [spot for spot in passing if any(counts[spot][gene] > 0 for gene in kept)]
    return spots, kept, expressed, least


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"spot_counts": (100, 180)},
        {"gene_counts": (40, 900)},
        {"min_expressed_fraction": 0.5},
        {"min_library_expressed_fraction": 0.6},
        {"real_data_share": 0.9},
        {"real_data_share": 0.0},
    ],
    ids=str,
)
def test_filter_is_the_rule(collection, options, container):
    collection.X = container(collection.X.toarray()) if container is np.asarray else collection.X
    names = {
        "min_expressed_fraction": "globally",
        "min_library_expressed_fraction": "per_library",
        "real_data_share": "share",
    }
    spots, genes, expressed, least = filter_by_hand(
        collection, **{names.get(name, name): value for name, value in options.items()}
    )
    result = sp.pp.spared_filter(collection, library_key="library_id", copy=True, **options)
    assert result.obs_names.tolist() == collection.obs_names[spots].tolist()
    assert result.obs["spared_keep"].all()
    assert 0 < len(genes) < collection.n_vars
    assert set(np.flatnonzero(result.var["spared_keep"])) == genes
    np.testing.assert_allclose(result.var["expressed_fraction"], [float(value) for value in expressed.values()])
    np.testing.assert_allclose(result.var["min_expressed_fraction"], [float(value) for value in least.values()])
    np.testing.assert_array_equal(dense(result.layers["detected"]), dense(collection.X)[spots] > 0)
    assert result.layers["detected"].dtype == bool
    assert sps.issparse(result.layers["detected"])
    summary = result.uns["spared_sc"]["spared_filter"]["summary"]
    assert (summary["n_spots"], summary["n_genes"]) == (len(spots), len(genes))


def test_filter_bounds_are_strict():
    counts = np.full((6, 4), 5.0)
    counts[0], counts[1], counts[2] = [4, 3, 3, 0], [4, 3, 3, 1], [5, 5, 5, 5]
    adata = small(counts)
    sp.pp.spared_filter(adata, spot_counts=(10, 20), gene_counts=(0, 1e6), subset_spots=False)
    assert adata.obs["spared_keep"].tolist() == [False, True, False, False, False, False]
    adata = small([[10, 11, 20, 19]] * 1)
    sp.pp.spared_filter(adata, gene_counts=(10, 20))
    assert adata.var["spared_keep"].tolist() == [False, True, False, True]


def test_filter_stops_where_the_share_is_lost():
    detected = np.zeros((20, 5), dtype=int)
    detected[:, 0] = 1
    detected[:6, 1] = detected[10:16, 1] = 1  # 0.6 in both
    detected[:5, 2] = detected[10:15, 2] = 1  # 0.5 in both: the running mean is 0.7 exactly
    detected[:4, 3] = detected[10:14, 3] = 1  # 0.4: 0.625
    detected[:3, 4] = detected[10:, 4] = 1  # 0.3 and 1: 0.63
    adata = small(detected * 20, ["A"] * 10 + ["B"] * 10)
    sp.pp.spared_filter(adata, library_key="library_id", subset_spots=False)
    assert adata.var["spared_keep"].tolist() == [True, True, True, False, False]


def test_filter_comes_back_above_the_share():
    detected = np.zeros((20, 3), dtype=int)
    detected[:13, 0] = 1  # A: 10 of 10, B: 3 of 10
    detected[:4, 1] = detected[10:18, 1] = 1  # 4 and 8 of 10: ranked first, 0.6
    detected[:2, 2] = detected[10:, 2] = 1  # 2 and 10 of 10
    order = [1, 0, 2]
    running = np.cumsum(detected[:, order].mean(axis=0)) / np.arange(1, 4)
    share = float(running[1])
    assert running[0] < share > running[2]
    adata = small(detected * 30, ["A"] * 10 + ["B"] * 10)
    sp.pp.spared_filter(adata, library_key="library_id", real_data_share=share, subset_spots=False)
    assert adata.var["spared_keep"].tolist() == [True, True, False]


@pytest.mark.parametrize(("n_detected", "share"), [(7, 0.7), (3, 0.3), (6, 0.6), (1, 0.1), (9, 0.9)])
def test_filter_sees_a_share_that_is_just_reached(n_detected, share):
    detected = np.zeros((10, 40), dtype=int)
    detected[:n_detected] = 1
    adata = small(detected * 20)
    sp.pp.spared_filter(adata, real_data_share=share, spot_counts=(-1, 1e6), subset_spots=False)
    assert adata.var["spared_keep"].all()


def test_filter_does_not_depend_on_the_order_of_genes_spots_or_libraries(collection):
    rng = np.random.default_rng(3)
    counts = np.zeros((40, 30))
    counts[:, :4] = 20
    for gene in range(4, 30):  # the cut falls among genes that tie
        counts[rng.permutation(20)[:12], gene] = counts[20 + rng.permutation(20)[:12], gene] = 20
    adata = small(counts, np.repeat(["A", "B"], 20))
    shuffled = adata[rng.permutation(40), rng.permutation(30)].copy()
    shuffled.obs["library_id"] = shuffled.obs["library_id"].map({"A": "Z", "B": "B"})
    for each in (adata, shuffled):
        sp.pp.spared_filter(each, library_key="library_id")
    assert 0 < adata.var["spared_keep"].sum() < 30
    columns = ["spared_keep", "expressed_fraction", "min_expressed_fraction"]
    pd.testing.assert_frame_equal(adata.var[columns], shuffled.var.loc[adata.var_names, columns])


def test_filter_drops_spots_without_a_kept_gene():
    counts = np.full((10, 3), 5.0)
    counts[:, 2] = 0
    counts[3] = [0, 0, 30]
    adata = small(counts)
    sp.pp.spared_filter(adata, spot_counts=(5, 1e6))
    assert adata.obs_names.tolist() == [f"s{i}" for i in range(10) if i != 3]
    assert adata.var["spared_keep"].tolist() == [True, True, False]


def test_filter_with_own_genes(collection):
    genes = ["Gene050", "Gene003", "Gene070"]
    result = sp.pp.spared_filter(collection, library_key="library_id", genes=genes, copy=True)
    assert set(result.var_names[result.var["spared_keep"]]) == set(genes)
    totals = dense(collection.X).sum(axis=1)
    own = dense(collection[:, genes].X).sum(axis=1)
    assert result.obs_names.tolist() == collection.obs_names[(totals > 10) & (own > 0)].tolist()
    by_rule = sp.pp.spared_filter(collection, library_key="library_id", copy=True)
    np.testing.assert_array_equal(result.var["expressed_fraction"], by_rule.var["expressed_fraction"])


@pytest.mark.parametrize("by", ["symbol", "id"])
def test_mitochondrial_genes_can_be_left_out(collection, by, caplog):
    """After the rule, as in SpaRED: the other genes are kept as with them. Genes that are named are kept."""
    best = collection.var_names[np.argsort(-dense(collection.X > 0).mean(axis=0))[:2]]
    symbols = {best[0]: "MT-CO1", best[1]: "MT-ND1"}
    if by == "symbol":
        collection.var_names = [symbols.get(name, name) for name in collection.var_names]
        best = list(symbols.values())
    else:
        ids = dict(zip(best, ["ENSG00000198804.2", "ENSG00000198888"], strict=True))
        collection.var["gene_ids"] = [ids.get(name, "") for name in collection.var_names]
    options = {"library_key": "library_id", "copy": True}
    kept = {
        value: sp.pp.spared_filter(collection, mitochondrial=value, **options).var["spared_keep"]
        for value in (True, False)
    }
    assert kept[True][best].all()
    assert not kept[False][best].any()
    pd.testing.assert_series_equal(kept[False].drop(best), kept[True].drop(best))
    assert kept[False].sum() > 0
    named = sp.pp.spared_filter(collection, mitochondrial=False, genes=list(best), **options)
    assert set(named.var_names[named.var["spared_keep"]]) == set(best)


def test_filter_judges_genes_on_train_libraries_only(collection):
    split = {"library_1": "train", "library_2": "test", "library_3": "train"}
    collection.obs["split"] = collection.obs["library_id"].map(split)
    _, genes, expressed, least = filter_by_hand(collection, train=("library_1", "library_3"))
    with_split = sp.pp.spared_filter(collection, library_key="library_id", copy=True)
    assert set(np.flatnonzero(with_split.var["spared_keep"])) == genes
    np.testing.assert_allclose(with_split.var["expressed_fraction"], [float(v) for v in expressed.values()])
    np.testing.assert_allclose(with_split.var["min_expressed_fraction"], [float(v) for v in least.values()])
    # what the test library holds does not matter
    changed = collection.copy()
    test = (changed.obs["split"] == "test").to_numpy()
    counts = changed.X.toarray()
    counts[test] = counts[test][:, ::-1]
    changed.X = sps.csr_matrix(counts)
    sp.pp.spared_filter(changed, library_key="library_id")
    pd.testing.assert_frame_equal(changed.var, with_split.var)
    without = sp.pp.spared_filter(collection, library_key="library_id", split_key=None, copy=True)
    assert set(np.flatnonzero(without.var["spared_keep"])) == filter_by_hand(collection)[1] != genes


def test_filter_subset_flags(collection):
    full = collection.copy()
    sp.pp.spared_filter(full, library_key="library_id", subset_spots=False)
    assert full.shape == collection.shape
    keep_spot, keep_gene = full.obs["spared_keep"], full.var["spared_keep"]
    assert 0 < keep_spot.sum() < full.n_obs
    cut = sp.pp.spared_filter(collection, library_key="library_id", subset_genes=True, copy=True)
    assert cut.obs_names.tolist() == full.obs_names[keep_spot].tolist()
    assert cut.var_names.tolist() == full.var_names[keep_gene].tolist()
    np.testing.assert_array_equal(cut.X.toarray(), full[keep_spot, keep_gene].X.toarray())
    assert not cut.is_view


def test_filter_reads_the_layer_it_is_told(collection):
    other = collection.copy()
    other.layers["raw"] = other.X.copy()
    other.X = np.log1p(other.X.toarray())
    sp.pp.spared_filter(other, library_key="library_id", layer="raw")
    sp.pp.spared_filter(collection, library_key="library_id")
    pd.testing.assert_frame_equal(other.var, collection.var)
    assert other.obs_names.equals(collection.obs_names)


def test_filter_prefers_the_counts_layer(collection):
    other = collection.copy()
    other.layers["counts"] = other.X.copy()
    other.X = np.log1p(other.X.toarray())
    sp.pp.spared_filter(other, library_key="library_id")
    sp.pp.spared_filter(collection, library_key="library_id")
    pd.testing.assert_frame_equal(other.var, collection.var)


def test_filter_warns_of_a_library_that_is_lost(collection):
    counts = collection.X.toarray()
    counts[(collection.obs["library_id"] == "library_2").to_numpy()] = 0
    collection.X = sps.csr_matrix(counts)
    with pytest.warns(UserWarning, match="no spot is left of 'library_2'.*spot_counts"):
        sp.pp.spared_filter(collection, library_key="library_id")
    assert set(collection.obs["library_id"]) == {"library_1", "library_3"}


@pytest.fixture
def counts(collection) -> AnnData:
    adata = collection(n_libraries=1, n_genes=40, shape=(6, 6), depth=300, image=False)
    del adata.var["gene_length"]
    return adata
