"""_kernels/counts."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sps

from spared_sc._kernels.counts import column_statistics, inspect, log2_scaled, row_sums


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
    assert inspect(np.array([3.0, 0.0]))[:2] == (True, 0.0)
    assert np.isnan(inspect(np.array([3.0, 0.0]))[2])
    assert inspect(np.array([3.0, -2.0, 0.5])) == (True, -2.0, 0.5)
    assert not inspect(np.array([np.inf, 1.0]))[0]
