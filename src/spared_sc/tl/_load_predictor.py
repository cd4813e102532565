"""A saved predictor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc.tl._fitted import FittedPredictor

if TYPE_CHECKING:
    from pathlib import Path


def load_predictor(folder: str | Path) -> FittedPredictor:
    """Load a predictor that `FittedPredictor.save` wrote.

    Parameters
    ----------
    folder
        Folder of the saved predictor.

    Returns
    -------
    The fitted predictor: `fitted.predict(adata)` returns the table for another slide, and
    :func:`spared_sc.tl.predict_expression` with `model=fitted` writes it.

    Raises
    ------
    FileNotFoundError
        If there is no saved predictor.
    ValueError
        If the files are damaged, or hold something else.

    Examples
    --------
    >>> import tempfile
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> fitted = sp.tl.fit_predictor(adata, model="gene_mean", library_key="library_id")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     fitted.save(folder)
    ...     sp.tl.load_predictor(folder).name
    'gene_mean'
    """
    return FittedPredictor.load(folder)
