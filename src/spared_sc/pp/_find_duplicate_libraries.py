"""Libraries that are copies of each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from spared_sc._core import docs, validate
from spared_sc._core.copies import copies_of
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill(counts_layer=docs.COUNTS_LAYER)
def find_duplicate_libraries(
    adata: AnnData, *, library_key: str | None = None, layer: str | None = None
) -> pd.DataFrame:
    """Pairs of libraries that are the same section, such as one that was processed twice.

    Two libraries are the same section if most spots of one have the counts of a spot of the other, wherever these lie and
    whatever they are called, or if the logarithms of the spots' total counts correlate above 0.95 at the places of the
    array that both have. Independent sections, consecutive ones included, stay well below that.

    Parameters
    ----------
    adata
        Spots x genes with raw counts, and `obs["array_row"]`, `obs["array_col"]` where sections were processed twice.
    {library_key}
    {counts_layer}

    Returns
    -------
    One row per pair: `library`, `other`, `n_shared` (spots compared) and `correlation` (1 where the counts of spots are
    equal); empty where there is none.

    Raises
    ------
    ValueError
        If the counts are no raw counts, or several libraries come without `library_key`.

    Notes
    -----
    A copy that was both processed again and moved on the array is not found.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(image=False)
    >>> len(sp.pp.find_duplicate_libraries(adata, library_key="library_id"))
    0
    """
    validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    if validate.array_places(adata, libraries) is not None:
        validate.get_counts(adata, layer=layer)  # an error, where there are places to compare and no counts
    pairs = copies_of(adata, libraries, layer=layer)
    rows = [(libraries.names[one], libraries.names[other], n, correlation) for one, other, n, correlation in pairs]
    return pd.DataFrame(rows, columns=["library", "other", "n_shared", "correlation"])
