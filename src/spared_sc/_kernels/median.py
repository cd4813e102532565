"""Adaptive median filter of SEPAL (Mejia et al. 2023): fill undetected entries from growing neighbourhoods."""

from __future__ import annotations

from functools import partial

import numpy as np

from spared_sc._kernels.jit import compiled
from spared_sc._kernels.lattice import Lattice
from spared_sc._kernels.threads import run_chunks

_SPOTS, _GENES = 32, 16  # of a chunk


def adaptive_median(
    values: np.ndarray, detected: np.ndarray, lattice: Lattice, library: np.ndarray, *, n_rings: int = 4, n_threads: int
) -> np.ndarray:
    """Fill the undetected entries of a dense block of genes, (n_spots, n_genes).

    For an undetected entry and h = 1, ..., `n_rings`: the median over the spot itself and all spots within
    h hops, undetected entries counting as zero. The first median that is not zero is taken; where there is
    none, the median of the gene's non-zero values in the library, and zero where there are none of those.

    A new array, equal to `values` where detected; integers and half-precision floats become wider floats. Undetected
    values are read as zero, whatever they hold. `library` (n_spots,) is 0, 1, ...
    """
    dtype = np.result_type(values.dtype, np.float32)
    values = np.where(detected, values, values.dtype.type(0)).astype(dtype, copy=False)
    n_rings = min(n_rings, lattice.n_spots)  # no spot is farther away
    indptr, indices, hops = lattice.hops(n_rings)
    most = int(np.diff(indptr).max(initial=0)) + 1
    filled, found = values.copy(), detected.copy()
    from_rings = partial(_fill, values, detected, indptr, indices, hops, n_rings, most, filled, found)
    run_chunks(from_rings, values.shape[0], _SPOTS, n_threads)
    by_library = np.argsort(library, kind="stable")
    starts = np.r_[0, np.cumsum(np.bincount(library))]
    from_library = partial(_fill_from_library, values, filled, found, by_library, starts)
    run_chunks(from_library, values.shape[1], _GENES, n_threads)
    return filled


@compiled
def _fill(values, detected, indptr, indices, hops, n_rings, most, filled, found, start, stop):
    """Fill from the rings, and mark what was found there besides the detected entries."""
    ordered = np.empty(most, dtype=np.float64)
    for spot in range(start, stop):
        for gene in range(values.shape[1]):
            if detected[spot, gene]:
                continue
            n, n_zero, n_negative = 1, 1, 0  # the spot itself is a zero
            edge = indptr[spot]
            for ring in range(1, n_rings + 1):
                while edge < indptr[spot + 1] and hops[edge] <= ring:
                    value = values[indices[edge], gene]
                    n += 1
                    n_zero += value == 0
                    n_negative += value < 0
                    edge += 1
                if n_negative <= (n - 1) // 2 and n // 2 < n_negative + n_zero:
                    continue  # zeros hold the middle, no need to sort
                ordered[0] = 0.0
                for k in range(1, n):
                    value = np.float64(values[indices[indptr[spot] + k - 1], gene])
                    place = k
                    while place > 0 and ordered[place - 1] > value:
                        ordered[place] = ordered[place - 1]
                        place -= 1
                    ordered[place] = value
                median = ordered[n // 2] if n % 2 else (ordered[n // 2 - 1] + ordered[n // 2]) / 2
                if median != 0:
                    filled[spot, gene] = median
                    found[spot, gene] = True
                    break


@compiled
def _fill_from_library(values, filled, found, by_library, starts, start, stop):
    """Fill what the rings left open with the median of the gene's non-zero values in the library."""
    nonzero = np.empty(values.shape[0], dtype=np.float64)
    for gene in range(start, stop):
        for code in range(starts.size - 1):
            spots = by_library[starts[code] : starts[code + 1]]
            n, n_open = 0, 0
            for spot in spots:
                n_open += not found[spot, gene]
                if values[spot, gene] != 0:
                    nonzero[n] = values[spot, gene]
                    n += 1
            if n and n_open:
                median = np.median(nonzero[:n])
                for spot in spots:
                    if not found[spot, gene]:
                        filled[spot, gene] = median
