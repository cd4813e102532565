"""The result of an audit as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.audits import audit_key, audit_table
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@accepts_spatialdata
def audit(adata: AnnData, key: str | None = None) -> pd.DataFrame:
    """Verdict and numbers of every audited gene, the best genes first.

    Parameters
    ----------
    adata
        Spots x genes, with the results of :func:`spared_sc.tl.audit_completion`.
    key
        The `key_added` of that call; not needed where there is one audit.

    Returns
    -------
    A table with one row per audited gene, sorted by verdict and skill (by gain, for a method without expected counts),
    and the columns of :func:`spared_sc.tl.audit_completion` without their prefix: `verdict` (ordered: `"complete"`,
    `"denoise"`, `"undecided"`), `skill` and `gain` with their intervals (`_low`, `_high`), `missing` and `n_molecules`.

    Raises
    ------
    KeyError
        If there is no such audit, or one of its columns is missing.
    ValueError
        If there are several audits and no `key`, or if no gene was audited.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), n_genes=20, depth=300, image=False)
    >>> sp.pp.normalize_tpm(adata)
    >>> sp.tl.audit_completion(adata, method="kernel", quick=True, library_key="library_id")  # doctest: +ELLIPSIS
    audit of 'kernel': ...
    >>> sp.get.audit(adata).shape
    (20, 9)
    """
    return audit_table(adata, audit_key(check_adata(adata), key))
