"""Moran's I of many genes at once, in closed form on row-standardised weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import scipy.sparse as sps

from spared_sc._kernels.jit import compiled
from spared_sc._kernels.lattice import Lattice
from spared_sc._kernels.threads import run_chunks

_BLOCK = 1 << 26  # values held as a dense array at once, so that memory does not grow with the number of genes
_GENES = 16  # of a chunk


def lattice_weights(lattice: Lattice) -> sps.csr_matrix:
    """The lattice as weights of one, not yet row-standardised."""
    n = lattice.n_spots
    return sps.csr_matrix((np.ones(lattice.indices.size), lattice.indices, lattice.indptr), shape=(n, n))


def mean_morans_i(
    read: Callable[[np.ndarray], np.ndarray | sps.csr_matrix],
    genes: np.ndarray,
    weights: sps.csr_matrix,
    libraries: list[np.ndarray],
    *,
    n_threads: int,
) -> np.ndarray:
    """Mean over the libraries of Moran's I per gene, (n_genes,) float64, read in blocks of genes.

    `read` gives the values (n_spots, k) of k of the `genes`; `libraries` are the spots of each. A library in which the
    gene is constant does not count; NaN where it is constant in all.
    """
    library_weights = [weights[spots][:, spots] for spots in libraries]
    scores = np.full((len(libraries), genes.size), np.nan)
    step = max(1, _BLOCK // weights.shape[0])
    for start in range(0, genes.size, step):
        block = read(genes[start : start + step])
        for i, (spots, within) in enumerate(zip(libraries, library_weights, strict=True)):
            scores[i, start : start + step] = morans_i(within, block[spots], n_threads=n_threads)
    n = np.isfinite(scores).sum(axis=0)
    return np.divide(np.nansum(scores, axis=0), n, out=np.full(n.size, np.nan), where=n > 0)


def morans_i(weights: sps.csr_matrix, values: np.ndarray | sps.spmatrix, *, n_threads: int) -> np.ndarray:
    """Moran's I per column, with weights divided by their row sums (squidpy's convention).

    I = n / S0 * sum_ij w_ij z_i z_j / sum_i z_i^2, with z the values minus their mean and S0 the sum of all
    weights. Spots without neighbours have no weights but count in n and in the mean.

    (n_genes,) float64, NaN where a gene is constant or no spot has a neighbour. The weights, (n_spots, n_spots), are not
    negative; the result does not depend on the threads.

    Where most values are zero, the products are multiplied out so that only the others are visited; the mean is
    below the standard deviation then, so nothing cancels. Other genes are centred first.
    """
    row_sum = np.asarray(weights.sum(axis=1)).ravel()
    scale = np.divide(1.0, row_sum, out=np.zeros_like(row_sum, dtype=float), where=row_sum > 0)
    weights = sps.csr_matrix(sps.diags_array(scale) @ weights)
    columns = sps.csc_matrix(values)  # by gene; zeros need not be visited
    # Spots by their incoming weights: for one gene, sum_ij w_ij x_i x_j visits only the non-zero j.
    incoming = sps.csc_matrix(weights)
    row_weight = np.asarray(weights.sum(axis=1)).ravel()
    col_weight = np.asarray(weights.sum(axis=0)).ravel()
    by_gene = columns.indptr, columns.indices, columns.data
    by_target = incoming.indptr, incoming.indices, incoming.data
    result = np.full(values.shape[1], np.nan)
    run_chunks(partial(_morans_i, by_gene, by_target, row_weight, col_weight, result), result.size, _GENES, n_threads)
    return result


@compiled
def _morans_i(by_gene, by_target, row_weight, col_weight, result, start, stop):
    x_ptr, x_idx, x_val = by_gene
    w_ptr, w_idx, w_val = by_target
    n = row_weight.size
    total_weight = row_weight.sum()
    for gene in range(start, stop):
        stored = x_ptr[gene + 1] - x_ptr[gene]
        x = np.zeros(n)
        mean = 0.0
        for k in range(x_ptr[gene], x_ptr[gene + 1]):
            x[x_idx[k]] = x_val[k]
            mean += x_val[k]
        mean /= n
        constant = True
        for i in range(n):
            constant = constant and x[i] == x[0]
        sparse = 2 * stored < n
        visited = stored if sparse else n
        if not sparse:
            x -= mean
            mean = 0.0
        # sum_ij w_ij (x_i - m)(x_j - m)
        cross = 0.0
        by_row = 0.0
        by_col = 0.0
        squares = (n - visited) * mean * mean
        for k in range(visited):
            j = x_idx[x_ptr[gene] + k] if sparse else k
            incoming = 0.0
            for e in range(w_ptr[j], w_ptr[j + 1]):
                incoming += w_val[e] * x[w_idx[e]]
            cross += incoming * x[j]
            by_row += row_weight[j] * x[j]
            by_col += col_weight[j] * x[j]
            squares += (x[j] - mean) ** 2
        cross += mean * mean * total_weight - mean * (by_row + by_col)
        if total_weight > 0 and not constant:
            result[gene] = n / total_weight * cross / squares
