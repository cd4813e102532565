"""Adaptive median: the compiled kernel against plain Python loops over the definition, on VLO's shape, in one run.

    python measurements/median_speed.py [--share 0.02]

The loops run on a random share of the undetected entries, and their time is scaled up to all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time

import _results
import numpy as np

from spared_sc._kernels.lattice import from_array
from spared_sc._kernels.median import adaptive_median

N_SPOTS, N_GENES, N_RINGS = 1832, 128, 4  # VLO after the recipe
MISSING = np.linspace(0.02, 0.5, N_GENES)  # per gene, as in `sp.get.missing_share` of VLO


def plain_loops(values, neighbours, entries, library_values) -> list[float]:
    """The definition, entry by entry."""
    result = []
    for spot, gene in entries:
        filled = 0.0
        reached, ring = {spot}, {spot}
        for _ in range(N_RINGS):
            ring = {other for one in ring for other in neighbours[one]} - reached
            reached |= ring
            filled = statistics.median(values[one][gene] for one in reached)
            if filled != 0:
                break
        if filled == 0:
            column = [row[gene] for row in library_values if row[gene] != 0]
            filled = statistics.median(column) if column else 0.0
        result.append(filled)
    return result


def main() -> None:
    """Measure seconds and ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.02, help="share of the undetected entries that the loops do")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(N_SPOTS), 43)
    position = np.column_stack([row, 2 * col + row % 2])
    library = np.zeros(N_SPOTS, dtype=int)
    depth = rng.lognormal(sigma=0.5, size=(N_SPOTS, 1))  # shallow spots lack many genes at once
    detected = rng.random((N_SPOTS, N_GENES)) > np.minimum(MISSING * depth, 0.95)
    values = np.where(detected, rng.gamma(9, size=(N_SPOTS, N_GENES)), 0.0)
    lattice = from_array(position, library)
    adaptive_median(values, detected, lattice, library, n_threads=options.threads)  # compile
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        filled = adaptive_median(values, detected, lattice, library, n_threads=options.threads)
        seconds.append(time.perf_counter() - start)
    kernel = statistics.median(seconds)

    entries = np.argwhere(~detected)
    some = entries[rng.random(len(entries)) < options.share]
    neighbours = [lattice.indices[lattice.indptr[i] : lattice.indptr[i + 1]].tolist() for i in range(N_SPOTS)]
    rows = values.tolist()
    start = time.perf_counter()
    expected = plain_loops(rows, neighbours, some.tolist(), rows)
    loops = (time.perf_counter() - start) * len(entries) / len(some)
    if not np.array_equal(filled[some[:, 0], some[:, 1]], expected):
        raise SystemExit("the kernel and the loops disagree")
    row = {"spots": N_SPOTS, "genes": N_GENES, "undetected": len(entries), "threads": options.threads}
    _results.write("median_speed.table", [{**row, "loops": loops, "kernel": kernel, "ratio": loops / kernel}])


if __name__ == "__main__":
    main()
