from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, gene_mask, get_detected, get_libraries

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def missing_share(
    adata: AnnData, *, mask_var: str | None = Key.var.selected, library_key: str | None = None
) -> pd.DataFrame:
    """Share of spots in which a gene was not detected, per gene and library.

    An undetected entry has a raw count of zero: it may be dropout or a true zero.

    Parameters
    ----------
    adata
        Spots x genes, with `layers["detected"]` or raw counts.
    mask_var
        Boolean column of `adata.var` with the genes to report. The default column is used where it exists; `None` means
        all genes.
    library_key
        Column of `adata.obs` that tells the libraries apart; `None` only where there is one library.

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
    import pandas as pd

    check_adata(adata)
    genes = gene_mask(adata, mask_var, optional=Key.var.selected)
    libraries = get_libraries(adata, library_key)
    detected = get_detected(adata)[:, genes]
    share = [1 - np.asarray(detected[rows].sum(axis=0)).ravel() / rows.size for rows in libraries.rows()]
    return pd.DataFrame(
        np.column_stack(share), index=adata.var_names[genes], columns=pd.Index(libraries.names, name="library")
    )
