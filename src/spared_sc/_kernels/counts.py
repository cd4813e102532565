"""Sums over sparse counts without a copy of them: by spot, by gene, and detections by library."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sps

from spared_sc._kernels.jit import compiled

# Below these numbers nothing is said of a matrix: a small one may look like anything.
_ENOUGH, _ENOUGH_SPOTS, _ENOUGH_GENES = 1000, 50, 10
_LEAST_VARIANCE = 0.7  # of its mean, for the median gene; counts of molecules have at least 1


def row_sums(matrix: np.ndarray | sps.csr_matrix, weights: np.ndarray | None = None) -> np.ndarray:
    """Sum of every row, (n_spots,), in double precision without a copy; each column counts with its weight, if given."""
    if isinstance(matrix, np.ndarray):
        return matrix.sum(axis=1, dtype=np.float64) if weights is None else matrix @ weights
    if weights is None:
        weights = np.ones(matrix.shape[1])
    return _weighted_row_sums(matrix.indptr, matrix.indices, matrix.data, weights)


@compiled
def _weighted_row_sums(indptr, indices, data, weights):
    """Sum over the genes of count times weight, (n_spots,) float64."""
    n = indptr.size - 1
    total = np.zeros(n)
    for row in range(n):
        for k in range(indptr[row], indptr[row + 1]):
            total[row] += data[k] * weights[indices[k]]
    return total


@compiled
def column_statistics(indptr, indices, data, group, n_groups, n_genes):
    """Total count (n_genes,) and number of spots with a count (n_groups, n_genes), over spots with a group >= 0."""
    total = np.zeros(n_genes)
    n_detected = np.zeros((n_groups, n_genes), dtype=np.int64)
    for row in range(indptr.size - 1):
        if group[row] < 0:
            continue
        for k in range(indptr[row], indptr[row + 1]):
            if data[k] > 0:
                total[indices[k]] += data[k]
                n_detected[group[row], indices[k]] += 1
    return total, n_detected


def log2_scaled(
    counts: np.ndarray | sps.csr_matrix, row_scale: np.ndarray, column_scale: np.ndarray
) -> np.ndarray | sps.csr_matrix:
    """log2(1 + count * scale of the spot * scale of the gene), float32, sparse or dense as the counts are."""
    if isinstance(counts, np.ndarray):
        return np.log2(1 + counts * row_scale[:, None] * column_scale).astype(np.float32)
    data = _log2_scaled(counts.indptr, counts.indices, counts.data, row_scale, column_scale)
    # Own indices: shared ones would be corrupted by any in-place change of the counts.
    values = sps.csr_matrix((data, counts.indices.copy(), counts.indptr.copy()), shape=counts.shape)
    values.eliminate_zeros()
    return values


@compiled
def _log2_scaled(indptr, indices, data, row_scale, column_scale):
    """Of the stored counts."""
    result = np.empty(data.size, dtype=np.float32)
    for row in range(indptr.size - 1):
        for k in range(indptr[row], indptr[row + 1]):
            result[k] = np.log2(1 + data[k] * row_scale[row] * column_scale[indices[k]])
    return result


def doubt(matrix: np.ndarray | sps.csr_matrix) -> str | None:
    """Why whole numbers are unlikely to be raw counts, if so: what counting molecules does not give.

    Totals of spots differ, counts have no common divisor, and those of a gene vary as much as their mean or more.
    """
    counts = sps.csr_matrix(matrix)
    values = counts.data[counts.data > 0]
    total = row_sums(counts)
    if values.size < _ENOUGH or total.size < _ENOUGH_SPOTS:
        return None
    if np.std(total) < 1e-3 * np.mean(total):
        return f"every spot has the same total ({np.mean(total):.4g}), as after normalisation"
    divisor = np.gcd.reduce(values.astype(np.int64))
    if divisor > 1:
        return f"every value is a multiple of {divisor}, as after scaling"
    mean = np.asarray(counts.mean(axis=0, dtype=np.float64)).ravel()
    square = np.asarray(counts.multiply(counts).mean(axis=0, dtype=np.float64)).ravel()
    judged = mean > 1
    if judged.sum() >= _ENOUGH_GENES and np.median((square - mean**2)[judged] / mean[judged]) < _LEAST_VARIANCE:
        return "the values of a gene vary less than counts of molecules do, as after a logarithm"
    return None


@compiled
def inspect(values):
    """Whether all values are finite, the smallest and the largest, and one that is no integer (NaN: there is none)."""
    finite, smallest, largest, broken = True, np.inf, -np.inf, np.nan
    for value in values:
        finite = finite and np.isfinite(value)
        smallest, largest = min(smallest, value), max(largest, value)
        if value != np.rint(value):
            broken = value
    return finite, smallest, largest, broken
