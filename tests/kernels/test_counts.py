"""_kernels/counts."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sps

from spared_sc._kernels.counts import column_statistics, doubt, inspect, log2_scaled, row_sums
from spared_sc._kernels.jit import compiled


@pytest.fixture
def counts() -> np.ndarray:
    return np.random.default_rng(0).poisson(0.7, (13, 9)).astype(np.float32)


@pytest.mark.parametrize("container", [np.asarray, sps.csr_matrix])
def test_sums_and_logs_are_the_formula(counts, container):
    row, column = np.linspace(0, 3, 13), np.linspace(0.5, 2, 9)
    np.testing.assert_allclose(row_sums(container(counts)), counts.sum(axis=1))
    np.testing.assert_allclose(row_sums(container(counts), column), counts @ column)
    values = log2_scaled(container(counts), row, column)
    assert values.dtype == np.float32
    values = values if container is np.asarray else values.toarray()
    np.testing.assert_allclose(values, np.log2(1 + counts * row[:, None] * column), rtol=1e-6)


def test_statistics_of_groups(counts):
    sparse = sps.csr_matrix(counts)
    group = np.arange(13) % 4 - 1
    total, n_detected = column_statistics(sparse.indptr, sparse.indices, sparse.data, group, 3, 9)
    np.testing.assert_array_equal(total, counts[group >= 0].sum(axis=0))
    np.testing.assert_array_equal(n_detected, [(counts[group == g] > 0).sum(axis=0) for g in range(3)])


def test_inspection():
    assert inspect(np.array([3.0, 0.0]))[:3] == (True, 0.0, 3.0)
    assert np.isnan(inspect(np.array([3.0, 0.0]))[3])
    assert inspect(np.array([3.0, -2.0, 0.5])) == (True, -2.0, 3.0, 0.5)
    assert not inspect(np.array([np.inf, 1.0]))[0]


def molecules(seed=0, n_spots=120, n_genes=60):
    rng = np.random.default_rng(seed)
    depth, share = rng.lognormal(0, 0.5, (n_spots, 1)), rng.gamma(1.0, 3.0, n_genes)
    return rng.poisson(depth * share * rng.gamma(3, 1 / 3, (n_spots, n_genes))).astype(np.float32)


@pytest.mark.parametrize("container", [np.asarray, sps.csr_matrix, sps.csc_matrix])
def test_counts_of_molecules_are_not_doubted(container):
    assert all(doubt(container(molecules(seed))) is None for seed in range(20))
    assert doubt(container(np.full((5, 5), 7.0))) is None  # too few to tell


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: np.rint(1e5 * x / x.sum(axis=1, keepdims=True)), "every spot has the same total"),
        (lambda x: 10 * x, "every value is a multiple of 10"),
        (lambda x: np.rint(np.log2(x + 1)), "vary less than counts of molecules do"),
    ],
)
def test_whole_numbers_that_are_no_counts_are_doubted(change, reason):
    for seed in range(5):
        assert re.search(reason, doubt(change(molecules(seed))))


def test_kernels_are_compiled_without_a_cache_where_none_can_be_written(monkeypatch, caplog):
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    total = compiled(lambda values: values.sum())
    assert total(np.arange(5.0)) == 10
    assert "NUMBA_CACHE_DIR" in caplog.text
