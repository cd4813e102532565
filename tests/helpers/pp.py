"""Small counts, and comparisons, that tests of preprocessing share."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData


def small(counts, library=None, *, container=sps.csr_matrix, **obs) -> AnnData:
    counts = np.asarray(counts, dtype=np.float32)
    n_spots, n_genes = counts.shape
    obs = pd.DataFrame(
        {"library_id": ["A"] * n_spots if library is None else library, **obs}, index=[f"s{i}" for i in range(n_spots)]
    )
    return AnnData(container(counts), obs=obs, var=pd.DataFrame(index=[f"g{i:03d}" for i in range(n_genes)]))


SECTIONS = {
    "n_libraries": 3,
    "n_genes": 80,
    "shape": (9, 8),
    "depth": 150,
    "missing_spots": 0.2,
    "image": False,
}


def with_holes(adata: AnnData) -> AnnData:
    """Spots and a gene without counts, in any order."""
    counts = adata.X.toarray()
    rng = np.random.default_rng(0)
    counts[rng.random(adata.n_obs) < 0.05] = 0
    counts[:, 7] = 0
    adata.X = sps.csr_matrix(counts)
    return adata[rng.permutation(adata.n_obs)].copy()
