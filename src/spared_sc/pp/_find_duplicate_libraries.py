"""Libraries that are copies of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spared_sc._core import docs, validate
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData

_COPY = 0.95  # correlation of the spots' totals; consecutive sections of one block reach about 0.6
_FEWEST_SHARED = 20  # spots at the same place, below which a correlation says nothing


@accepts_spatialdata
@docs.fill(counts_layer=docs.COUNTS_LAYER)
def find_duplicate_libraries(
    adata: AnnData, *, library_key: str | None = None, layer: str | None = None
) -> pd.DataFrame:
    """Pairs of libraries that are the same section, such as one that was processed twice.

    Two libraries are compared at the places of the array that both have: the correlation of the logarithms of the
    spots' total counts. Independent sections, consecutive ones included, stay well below 0.95.

    Parameters
    ----------
    adata
        Spots x genes with raw counts and `obs["array_row"]`, `obs["array_col"]`.
    {library_key}
    {counts_layer}

    Returns
    -------
    One row per pair: `library`, `other`, `n_shared` (spots compared) and `correlation`; empty where there is none.

    Raises
    ------
    ValueError
        If the counts are no raw counts, or several libraries come without `library_key`.

    Notes
    -----
    A copy that was shifted or rotated on the array is not found. Without array coordinates nothing is compared.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(image=False)
    >>> len(sp.pp.find_duplicate_libraries(adata, library_key="library_id"))
    0
    """
    validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    columns = ["library", "other", "n_shared", "correlation"]
    places = validate.array_places(adata, libraries)
    if places is None:
        return pd.DataFrame(columns=columns)
    counts, _ = validate.get_counts(adata, layer=layer)
    total = np.log1p(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel())
    by_place = [pd.Series(total[rows], index=pd.MultiIndex.from_arrays(places[rows].T)) for rows in libraries.rows()]
    pairs = []
    for i, totals in enumerate(by_place):
        for j in range(i):
            n_shared, correlation = _compare(totals, by_place[j])
            if correlation > _COPY:
                pairs.append((libraries.names[j], libraries.names[i], n_shared, correlation))
    return pd.DataFrame(pairs, columns=columns)


def _compare(totals: pd.Series, other: pd.Series) -> tuple[int, float]:
    """Number of places that two libraries share, and the correlation of their totals there; 0 for too few places."""
    shared = totals.index.intersection(other.index)
    if len(shared) < max(3, min(_FEWEST_SHARED, len(totals), len(other))):
        return len(shared), 0.0
    a, b = totals[shared].to_numpy(), other[shared].to_numpy()
    if np.ptp(a) > 0 and np.ptp(b) > 0:
        return len(shared), float(np.corrcoef(a, b)[0, 1])
    return len(shared), float(np.array_equal(a, b))
