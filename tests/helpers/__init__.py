"""What tests of several areas share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

if TYPE_CHECKING:
    from anndata import AnnData

KEY = {"library_key": "library_id"}


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


def shuffled(adata: AnnData) -> AnnData:
    """Rows of a library need not be together."""
    return adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()


def moved(adata: AnnData, step: float) -> None:
    """As on real slides, no two sections have their spots at the same pixels."""
    adata.obsm["spatial"] = adata.obsm["spatial"] + step * adata.obs["library_id"].cat.codes.to_numpy()[:, None]
