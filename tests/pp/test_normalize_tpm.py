"""pp.normalize_tpm."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import dense

if TYPE_CHECKING:
    from anndata import AnnData

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


def log2tpm(counts, lengths=None, mask=None, target_sum=1e6) -> np.ndarray:
    rate = np.asarray(counts, dtype=float)
    if lengths is not None:
        known = np.isfinite(lengths)
        rate = np.where(known, rate / np.where(known, lengths, 1), 0)
    total = rate[:, slice(None) if mask is None else mask].sum(axis=1, keepdims=True)
    return np.log2(1 + target_sum * np.divide(rate, total, out=np.zeros_like(rate), where=total > 0))


@pytest.fixture
def counts(collection) -> AnnData:
    adata = collection(n_libraries=1, n_genes=40, shape=(6, 6), depth=300, image=False)
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
