"""Libraries that hold the same section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core import validate
from spared_sc._kernels.fingerprint import hashed, same_section, sketch

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.validate import Libraries

_COPY = 0.95  # correlation of the spots' totals; consecutive sections of one block reach about 0.6
_FEWEST_SHARED = 20  # spots at the same place, below which a correlation says nothing
_FEWEST_GENES = 10  # detected in a spot whose counts identify it


def copies_of(adata: AnnData, libraries: Libraries, *, layer: str | None = None) -> list[tuple[int, int, int, float]]:
    """Pairs of libraries that are copies: both numbers, the number of spots compared and the correlation of their totals.

    Two libraries are copies if most spots of one are in the other with the same counts, wherever they lie and whatever
    they are called, or if the totals at the places of the array that both have are nearly the same, as of a section that
    was processed twice. Without counts nothing is compared.
    """
    try:
        counts, _ = validate.get_counts(adata, layer=layer)
    except (TypeError, ValueError):
        if layer is not None:
            raise
        return []
    rows = libraries.rows()
    sketches = [sketch(_hashes(counts[here])) for here in rows]  # one by one: hashes take more memory than counts
    totals = np.log1p(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    places = validate.array_places(adata, libraries)
    by_place = []
    if places is not None:
        by_place = [pd.Series(totals[here], index=pd.MultiIndex.from_arrays(places[here].T)) for here in rows]
    pairs = []
    for i in range(len(rows)):
        for j in range(i):
            n, correlation = _compare(by_place[i], by_place[j]) if by_place else (0, 0.0)
            if correlation <= _COPY and sketches[i] and sketches[j] and same_section(sketches[i], sketches[j]):
                n, correlation = min(len(rows[i]), len(rows[j])), 1.0
            if correlation > _COPY:
                pairs.append((j, i, n, correlation))
    return pairs


def _hashes(counts: np.ndarray | sps.csr_matrix) -> np.ndarray:
    """A hash of the counts of every spot that has enough of them to be known by."""
    matrix = sps.csr_matrix(counts)
    of_entry = hashed(np.column_stack([matrix.indices, np.rint(matrix.data)]).astype(np.int64))
    of_entry[matrix.data == 0] = 0
    sums = np.concatenate([[0], np.cumsum(of_entry)])  # whatever the order of the entries
    of_spot = sums[matrix.indptr[1:]] - sums[matrix.indptr[:-1]]
    detected = np.concatenate([[0], np.cumsum(matrix.data != 0)])
    return of_spot[detected[matrix.indptr[1:]] - detected[matrix.indptr[:-1]] >= _FEWEST_GENES]


def _compare(totals: pd.Series, other: pd.Series) -> tuple[int, float]:
    """Number of places that two libraries share, and the correlation of their totals there; 0 where it says nothing."""
    shared = totals.index.intersection(other.index)
    a, b = totals[shared].to_numpy(), other[shared].to_numpy()
    if len(shared) < _FEWEST_SHARED or np.ptp(a) == 0 or np.ptp(b) == 0:  # such as totals that were made equal
        return len(shared), 0.0
    return len(shared), float(np.corrcoef(a, b)[0, 1])
