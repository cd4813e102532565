"""Adaptive median filter of SEPAL (Mejia et al. 2023): fill undetected entries from growing neighbourhoods."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice


def adaptive_median(
    values: np.ndarray,
    detected: np.ndarray,
    lattice: Lattice,
    library: np.ndarray,
    *,
    n_rings: int = 4,
    n_threads: int,
) -> np.ndarray:
    """Fill the undetected entries of a dense block of genes.

    For an undetected entry and h = 1, ..., `n_rings`: the median over the spot itself and all spots within
    h hops, undetected entries counting as zero. The first median that is not zero is taken; where there is
    none, the median of the gene's non-zero values in the library, and zero where there are none of those.

    Parameters
    ----------
    values
        (n_spots, n_genes) floats; undetected entries are read as zero, whatever they hold.
    detected
        (n_spots, n_genes) booleans.
    lattice
        Neighbours of the spots.
    library
        (n_spots,) library of each spot as 0, 1, ...
    n_rings
        Largest neighbourhood, in hops.
    n_threads
        Threads to use; the result does not depend on it.

    Returns
    -------
    A new array of the same shape and type, equal to `values` where detected.
    """
    values = np.where(detected, values, values.dtype.type(0))
    indptr, indices, hops = lattice.hops(n_rings)
    before = numba.get_num_threads()
    numba.set_num_threads(n_threads)
    try:
        fallback = _library_medians(np.ascontiguousarray(values.T), library, int(library.max()) + 1)
        most = int(np.diff(indptr).max(initial=0)) + 1
        return _fill(values, detected, indptr, indices, hops, library, fallback, n_rings, most)
    finally:
        numba.set_num_threads(before)


@numba.njit(cache=True)
def _middle(ordered, n):
    """Median of the first n of an ascending buffer."""
    if n % 2:
        return ordered[n // 2]
    return (ordered[n // 2 - 1] + ordered[n // 2]) / 2


@numba.njit(cache=True, parallel=True)
def _library_medians(values_t, library, n_libraries):
    n_genes, n_spots = values_t.shape
    result = np.zeros((n_libraries, n_genes), dtype=np.float64)
    for gene in numba.prange(n_genes):
        buffer = np.empty(n_spots, dtype=np.float64)
        for code in range(n_libraries):
            n = 0
            for spot in range(n_spots):
                if library[spot] == code and values_t[gene, spot] != 0:
                    buffer[n] = values_t[gene, spot]
                    n += 1
            if n:
                buffer[:n].sort()
                result[code, gene] = _middle(buffer, n)
    return result


@numba.njit(cache=True, parallel=True)
def _fill(values, detected, indptr, indices, hops, library, fallback, n_rings, most):
    n_spots, n_genes = values.shape
    filled = values.copy()
    for spot in numba.prange(n_spots):
        ordered = np.empty(most, dtype=np.float64)
        for gene in range(n_genes):
            if detected[spot, gene]:
                continue
            ordered[0] = 0.0  # the spot itself
            n = 1
            median = 0.0
            edge = indptr[spot]
            for ring in range(1, n_rings + 1):
                while edge < indptr[spot + 1] and hops[edge] <= ring:
                    value = np.float64(values[indices[edge], gene])
                    place = n
                    while place > 0 and ordered[place - 1] > value:
                        ordered[place] = ordered[place - 1]
                        place -= 1
                    ordered[place] = value
                    n += 1
                    edge += 1
                median = _middle(ordered, n)
                if median != 0:
                    break
            filled[spot, gene] = median if median != 0 else fallback[library[spot], gene]
    return filled
