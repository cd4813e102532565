"""Share of undetected entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.missing import missing_table
from spared_sc._core.sdata import accepts_spatialdata

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def missing_share(
    adata: AnnData, *, mask_var: str | None = Key.var.selected, library_key: str | None = None
) -> pd.DataFrame:
    """Share of spots in which a gene was not detected, per gene and library.

    An undetected entry has a raw count of zero: it may be dropout or a true zero.

    Parameters
    ----------
    adata
        Spots x genes, with `layers["detected"]` or raw counts.
    {mask_var}
    {library_key}

    Returns
    -------
    Table of genes x libraries with shares between 0 (detected in every spot of the library) and 1 (in none).

    Raises
    ------
    KeyError
        If `mask_var` or `library_key` names no column.
    TypeError
        If the column `mask_var` is not boolean.
    ValueError
        If there are several libraries and no `library_key`, or if `mask_var` selects no gene.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic()
    >>> share = sp.get.missing_share(adata, library_key="library_id")
    >>> share.shape
    (200, 3)
    """
    return missing_table(adata, mask_var, library_key)
