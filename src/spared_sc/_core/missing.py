"""Undetected entries, counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.keys import Key
from spared_sc._core.validate import check_adata, gene_mask, get_detected, get_libraries

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def missing_table(adata: AnnData, mask_var: str | None, library_key: str | None) -> pd.DataFrame:
    """Share of spots in which a gene was not detected, genes x libraries."""
    import pandas as pd

    check_adata(adata)
    genes = gene_mask(adata, mask_var, optional=Key.var.selected)
    libraries = get_libraries(adata, library_key)
    detected = get_detected(adata)[:, genes]
    share = [1 - np.asarray(detected[rows].sum(axis=0)).ravel() / rows.size for rows in libraries.rows()]
    columns = pd.Index(libraries.names, name="library")
    return pd.DataFrame(np.column_stack(share), index=adata.var_names[genes], columns=columns)
