"""Preprocessing against plain-Python readings of its rules, dense formulas and squidpy, on made-up and real sections."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData

import spared_sc as sp

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


def small(counts, library=None, *, container=sps.csr_matrix, **obs) -> AnnData:
    counts = np.asarray(counts, dtype=np.float32)
    n_spots, n_genes = counts.shape
    obs = pd.DataFrame(
        {"library_id": ["A"] * n_spots if library is None else library, **obs}, index=[f"s{i}" for i in range(n_spots)]
    )
    return AnnData(container(counts), obs=obs, var=pd.DataFrame(index=[f"g{i:03d}" for i in range(n_genes)]))


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


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
def collection() -> AnnData:
    """Three libraries with sparse and dense genes, holes, and spots of too few counts."""
    adata = sp.datasets.synthetic(n_libraries=3, n_genes=80, shape=(9, 8), depth=150, missing_spots=0.2, image=False)
    counts = adata.X.toarray()
    rng = np.random.default_rng(0)
    counts[rng.random(adata.n_obs) < 0.05] = 0
    counts[:, 7] = 0
    adata.X = sps.csr_matrix(counts)
    return adata[rng.permutation(adata.n_obs)].copy()


# --- spared_filter ---------------------------------------------------------------------------------------------------


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


# --- normalize_tpm ---------------------------------------------------------------------------------------------------


def log2tpm(counts, lengths=None, mask=None, target_sum=1e6) -> np.ndarray:
    rate = np.asarray(counts, dtype=float)
    if lengths is not None:
        known = np.isfinite(lengths)
        rate = np.where(known, rate / np.where(known, lengths, 1), 0)
    total = rate[:, slice(None) if mask is None else mask].sum(axis=1, keepdims=True)
    return np.log2(1 + target_sum * np.divide(rate, total, out=np.zeros_like(rate), where=total > 0))


@pytest.fixture
def counts() -> AnnData:
    adata = sp.datasets.synthetic(n_libraries=1, n_genes=40, shape=(6, 6), depth=300, image=False)
    del adata.var["gene_length"]
    return adata


@pytest.mark.parametrize("container", [sps.csr_matrix, sps.csc_matrix, np.asarray], ids=["csr", "csc", "dense"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint16])
def test_tpm_is_the_formula(counts, container, dtype):
    raw = counts.X.toarray()
    counts.X = container(raw.astype(dtype))
    lengths = pd.Series(np.linspace(200, 9000, 40), index=counts.var_names)
    sp.pp.normalize_tpm(counts, gene_lengths=lengths.sample(frac=1, random_state=0))
    layer = counts.layers["log2tpm"]
    assert sps.issparse(layer) == (container is not np.asarray)
    assert layer.dtype == np.float32
    np.testing.assert_allclose(dense(layer), log2tpm(raw, lengths.to_numpy()), rtol=1e-6)
    np.testing.assert_array_equal(counts.var["gene_length"], lengths)
    np.testing.assert_array_equal(dense(counts.X), raw)
    assert counts.X.dtype == dtype


def test_cpm_leaves_the_lengths_out(counts):
    sp.pp.normalize_tpm(counts, gene_lengths=None, target_sum=1e4, key_added="log2cpm")
    np.testing.assert_allclose(
        counts.layers["log2cpm"].toarray(), log2tpm(counts.X.toarray(), target_sum=1e4), rtol=1e-6
    )
    assert "gene_length" not in counts.var


def test_tpm_takes_lengths_from_the_column_or_a_dictionary(counts):
    lengths = np.linspace(200, 9000, 40)
    by_dict = sp.pp.normalize_tpm(counts, gene_lengths=dict(zip(counts.var_names, lengths, strict=True)), copy=True)
    counts.var["gene_length"] = lengths
    sp.pp.normalize_tpm(counts)
    np.testing.assert_array_equal(counts.layers["log2tpm"].toarray(), by_dict.layers["log2tpm"].toarray())


def test_genes_without_a_length_have_no_value_and_no_share(counts):
    lengths = pd.Series(np.linspace(200, 9000, 40), index=counts.var_names)
    with pytest.warns(UserWarning, match=r"2 of 40 genes have no length.*'Gene005', 'Gene010'.*gene_lengths=None"):
        sp.pp.normalize_tpm(counts, gene_lengths=lengths.drop(["Gene005", "Gene010"]))
    known = ~counts.var_names.isin(["Gene005", "Gene010"])
    values = counts.layers["log2tpm"].toarray()
    np.testing.assert_allclose(values, log2tpm(counts.X.toarray(), lengths.where(known).to_numpy()), rtol=1e-6)
    assert (values[:, ~known] == 0).all()
    np.testing.assert_allclose((2.0**values - 1).sum(axis=1), 1e6, rtol=1e-5)
    assert counts.var["gene_length"].isna().to_numpy().tolist() == (~known).tolist()


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_tpm_is_scaled_over_the_masked_genes(counts, container):
    raw = counts.X.toarray()
    counts.X = container(raw)
    mask = np.arange(40) % 3 > 0
    lengths = np.linspace(200, 9000, 40)
    counts.var["gene_length"] = lengths
    whole = sp.pp.normalize_tpm(counts, copy=True)  # no column "spared_keep": all genes
    np.testing.assert_allclose(dense(whole.layers["log2tpm"]), log2tpm(raw, lengths), rtol=1e-6)
    counts.var["spared_keep"], counts.var["mine"] = mask, ~mask
    for name, genes in (("spared_keep", mask), ("mine", ~mask), (None, None)):
        options = {} if name == "spared_keep" else {"mask_var": name}
        result = sp.pp.normalize_tpm(counts, copy=True, **options)
        np.testing.assert_allclose(dense(result.layers["log2tpm"]), log2tpm(raw, lengths, genes), rtol=1e-6)


def test_tpm_of_stored_zeros_and_repeated_entries(counts):
    raw = counts.X.toarray()
    row, col = np.nonzero(raw)
    zero = np.argwhere(raw == 0)[:20]
    # every count above one is stored as 1 + the rest; some zeros are stored as well
    many = raw[row, col] > 1
    data = np.concatenate([np.where(many, 1, raw[row, col]), (raw[row, col] - 1)[many], np.zeros(20)])
    rows, cols = np.concatenate([row, row[many], zero[:, 0]]), np.concatenate([col, col[many], zero[:, 1]])
    order = np.lexsort((-cols, rows))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=len(raw)))])
    odd = sps.csr_matrix((data[order].astype(np.float32), cols[order], indptr), shape=raw.shape)
    assert odd.nnz > (raw > 0).sum()
    counts.X = odd.copy()
    stored = counts.X.data.copy(), counts.X.indices.copy()
    lengths = np.linspace(200, 9000, 40)
    counts.var["gene_length"] = lengths
    sp.pp.normalize_tpm(counts)
    sp.pp.spared_filter(counts, subset_spots=False)
    np.testing.assert_allclose(counts.layers["log2tpm"].toarray(), log2tpm(raw, lengths), rtol=1e-6)
    assert (counts.layers["log2tpm"].data != 0).all()
    np.testing.assert_array_equal(counts.layers["detected"].toarray(), raw > 0)
    np.testing.assert_array_equal(counts.X.data, stored[0])
    np.testing.assert_array_equal(counts.X.indices, stored[1])


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray], ids=["sparse", "dense"])
def test_new_layers_share_no_memory_with_the_counts(counts, container):
    counts.X = container(counts.X.toarray())
    counts.var["gene_length"] = 1000.0
    sp.pp.spared_filter(counts, subset_spots=False)
    sp.pp.normalize_tpm(counts)
    sp.pp.moran(counts)
    sp.tl.median_complete(counts)
    before = {name: dense(counts.layers[name]).copy() for name in ("detected", "log2tpm", "median")}
    if container is np.asarray:
        counts.X[:] = -1
    else:
        counts.X.data[:] = -1
        counts.X.indices[:] = 0
        counts.X.indptr[:] = 0
    for name in ("detected", "log2tpm"):
        np.testing.assert_array_equal(dense(counts.layers[name]), before[name])
    layer = counts.layers["log2tpm"]
    (layer if container is np.asarray else layer.data)[:] = -1
    np.testing.assert_array_equal(dense(counts.layers["median"]), before["median"])


# --- lattice_neighbors -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lattice", "n_most"), [("hex", 6), ("grid", 8)])
def test_lattice_graph_is_one_that_squidpy_reads(lattice, n_most):
    import squidpy as sq

    adata = sp.datasets.synthetic(
        n_libraries=2, n_genes=12, shape=(8, 8), lattice=lattice, missing_spots=0.3, image=False
    )
    sp.pp.normalize_tpm(adata)
    adata.obs["cluster"] = pd.Categorical(np.where(adata.obsm["programs"][:, 0] > 0.2, "a", "b"))
    sp.pp.lattice_neighbors(adata, library_key="library_id")
    graph = adata.obsp["spatial_connectivities"]
    assert (graph != graph.T).nnz == 0
    assert graph.diagonal().sum() == 0
    assert graph.sum(axis=1).max() == n_most
    library = adata.obs["library_id"].to_numpy()
    row, col = graph.nonzero()
    assert (library[row] == library[col]).all()
    table = sq.gr.spatial_autocorr(adata, layer="log2tpm", copy=True, show_progress_bar=False, n_jobs=1)
    assert np.isfinite(table["I"]).all()
    sq.gr.nhood_enrichment(adata, cluster_key="cluster", n_perms=5, seed=0, n_jobs=1, show_progress_bar=False)
    pairs = adata.uns["cluster_nhood_enrichment"]["count"]
    of = (adata.obs["cluster"] == "b").to_numpy().astype(int)
    np.testing.assert_array_equal(pairs, [[((of[row] == i) & (of[col] == j)).sum() for j in (0, 1)] for i in (0, 1)])


def test_lattice_distances_count_hops_and_names_follow_the_key():
    adata = sp.datasets.synthetic(n_libraries=1, n_genes=5, shape=(7, 7), missing_spots=0.3, image=False)
    result = sp.pp.lattice_neighbors(adata, n_rings=3, key_added="wide", copy=True)
    assert not adata.obsp
    connected, hops = result.obsp["wide_connectivities"], result.obsp["wide_distances"]
    one = sp.pp.lattice_neighbors(adata, copy=True).obsp["spatial_connectivities"]
    expected = sps.csgraph.shortest_path(one, unweighted=True)
    expected[expected > 3] = 0
    np.testing.assert_array_equal(hops.toarray(), expected)
    np.testing.assert_array_equal(connected.toarray(), expected > 0)
    assert result.uns["wide_neighbors"]["connectivities_key"] == "wide_connectivities"
    assert result.uns["wide_neighbors"]["distances_key"] == "wide_distances"


def test_lattice_falls_back_on_pixels():
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=5, shape=(7, 7), missing_spots=0.3, image=False)
    from_array = sp.pp.lattice_neighbors(adata, library_key="library_id", copy=True)
    del adata.obs["array_row"], adata.obs["array_col"]
    adata.obsm["pixels"] = adata.obsm.pop("spatial")
    sp.pp.lattice_neighbors(adata, library_key="library_id", spatial_key="pixels")
    assert (adata.obsp["spatial_connectivities"] != from_array.obsp["spatial_connectivities"]).nnz == 0


# --- moran and select_genes ------------------------------------------------------------------------------------------


def squidpys_moran(adata: AnnData, layer: str) -> pd.Series:
    import squidpy as sq

    # squidpy divides by the row sums in the type of the graph
    adata.obsp["spatial_connectivities"] = adata.obsp["spatial_connectivities"].astype(np.float64)
    return sq.gr.spatial_autocorr(adata, layer=layer, copy=True, show_progress_bar=False, n_jobs=1)["I"][
        adata.var_names
    ]


@pytest.fixture
def normalised(collection) -> AnnData:
    sp.pp.spared_filter(collection, library_key="library_id")
    sp.pp.normalize_tpm(collection)
    collection.layers["log2tpm"] = collection.layers["log2tpm"].astype(np.float64)
    return collection


def test_moran_is_squidpys_averaged_over_libraries(normalised):
    sp.pp.moran(normalised, mask_var=None, library_key="library_id", key_added="all")
    sp.pp.moran(normalised, library_key="library_id")
    parts = []
    for name in normalised.obs["library_id"].unique():
        part = normalised[normalised.obs["library_id"] == name].copy()
        sp.pp.lattice_neighbors(part)
        varying = part.layers["log2tpm"].toarray().std(axis=0) > 0
        parts.append(squidpys_moran(part[:, varying].copy(), "log2tpm").reindex(part.var_names))
    expected = pd.concat(parts, axis=1).mean(axis=1)
    np.testing.assert_allclose(normalised.var["all"], expected, rtol=0, atol=1e-10)
    assert np.isnan(normalised.var.loc["Gene008", "all"])  # never detected
    keep = normalised.var["spared_keep"]
    np.testing.assert_array_equal(normalised.var["moran_i"][keep], normalised.var["all"][keep])
    assert normalised.var["moran_i"][~keep].isna().all()


def test_moran_of_completed_values_and_of_a_split(normalised):
    normalised.obs["split"] = normalised.obs["library_id"].map(
        {"library_1": "train", "library_2": "val", "library_3": "test"}
    )
    sp.pp.moran(normalised, library_key="library_id", median_completed=True)
    part = normalised[normalised.obs["split"] == "train", normalised.var["spared_keep"]].copy()
    sp.tl.median_complete(part)
    sp.pp.lattice_neighbors(part)
    expected = squidpys_moran(part, "median")
    np.testing.assert_allclose(normalised.var["moran_i"][expected.index], expected, rtol=0, atol=1e-10)
    assert "median" not in normalised.layers


def test_moran_on_another_graph(normalised):
    one = normalised[normalised.obs["library_id"] == "library_1", normalised.var["spared_keep"]].copy()
    sp.pp.lattice_neighbors(one, n_rings=2, key_added="spatial")
    sp.pp.moran(one, connectivity_key="spatial_connectivities")
    np.testing.assert_allclose(one.var["moran_i"], squidpys_moran(one, "log2tpm"), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("n_scored", "n_genes", "expected"), [(321, None, 128), (320, None, 32), (33, None, 32), (500, 7, 7), (500, 1, 1)]
)
def test_number_of_selected_genes(n_scored, n_genes, expected):
    rng = np.random.default_rng(0)
    adata = small(np.ones((2, 600)))
    score = rng.normal(size=600)
    score[rng.permutation(600)[n_scored:]] = np.nan
    adata.var["moran_i"] = score
    sp.pp.select_genes(adata, n_genes=n_genes)
    best = sorted(np.flatnonzero(np.isfinite(score)), key=lambda gene: -score[gene])[:expected]
    assert set(np.flatnonzero(adata.var["spared_selected"])) == set(best)


def test_selection_breaks_ties_by_name_and_follows_the_mask():
    adata = small(np.ones((2, 6)))
    adata.var["moran_i"] = [0.5, 0.5, 0.9, 0.5, 0.5, 0.1]
    adata = adata[:, [3, 5, 1, 0, 2, 4]].copy()
    adata.var["spared_keep"] = adata.var_names != "g002"
    sp.pp.select_genes(adata, n_genes=2)
    assert set(adata.var_names[adata.var["spared_selected"]]) == {"g000", "g001"}
    sp.pp.select_genes(adata, n_genes=2, mask_var=None, subset_genes=True)
    assert adata.var_names.tolist() == ["g000", "g002"]


def test_fewer_genes_than_asked_for_are_all_selected():
    adata = small(np.ones((2, 6)))
    adata.var["moran_i"] = [0.5, np.nan, 0.9, 0.5, np.nan, 0.1]
    with pytest.warns(UserWarning, match="4 genes have a score, 5 were asked for.*real_data_share"):
        sp.pp.select_genes(adata, n_genes=5)
    assert adata.var["spared_selected"].tolist() == [True, False, True, True, False, True]


# --- recipe_spared ---------------------------------------------------------------------------------------------------


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

    recipe = importlib.import_module("spared_sc.pp.recipe")
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


@pytest.mark.parametrize(
    ("folder", "n_spots", "before", "after"),
    [("lung_organoid", 1832, 0.90, 0.26), ("kidney_organoid", 1355, 0.92, 0.33)],
)
def test_recipe_reproduces_table_1_of_the_paper(data_dir, folder, n_spots, before, after):
    paths = sorted((data_dir / "villacampa" / folder).glob("V19*"))
    adata = sp.datasets.read_visium(paths, load_images=False, library_key="library_id")
    with sp.settings.override(data_dir=data_dir), pytest.warns(UserWarning, match="genes have no length") as caught:
        sp.pp.recipe_spared(adata, library_key="library_id", gene_lengths="human")
    assert len(caught) == 1
    selected = adata.var["spared_selected"].to_numpy()
    assert adata.n_obs == n_spots
    assert selected.sum() == 128
    summary = adata.uns["spared_sc"]["spared_filter"]["summary"]
    assert summary["missing_share_before"] == pytest.approx(before, abs=0.01)
    missing = adata[:, selected].X.toarray() == 0
    assert missing.mean() == pytest.approx(after, abs=0.04)
    assert missing.any(axis=1).mean() >= 0.99
