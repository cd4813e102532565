"""Predictions that are made in a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from helpers import KEY, moved

if TYPE_CHECKING:
    from anndata import AnnData

LINEAR = ("gene_mean", "depth_only", "position_only", "ridge", "knn")


def predict(adata, model="ridge", **options):
    """Of a layer, unless the target is given: a completion for every fit would take long."""
    return sp.tl.predict_expression(
        adata, **{"model": model, "target": "log2tpm", "use_rep": "X_test", **KEY, **options}
    )


def with_split(adata, **roles):
    adata.obs["split"] = adata.obs["library_id"].astype(str).map({f"library_{k[-1]}": v for k, v in roles.items()})
    return adata


def refused(call, adata, error, match):
    before = adata.copy()
    with pytest.raises(error, match=match):
        call(adata)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns) == set(before.uns)
    assert adata.obs.equals(before.obs)


SECTIONS = {
    "n_libraries": 4,
    "shape": (9, 9),
    "n_genes": 60,
    "depth": 500,
    "image": False,
    "recipe": {"n_genes": 12, "gene_lengths": None},
}


def embed(adata: AnnData) -> AnnData:
    """An embedding of which one column follows expression."""
    level = adata[:, adata.var["spared_selected"]].layers["log2tpm"].toarray()
    moved(adata, 13.7)
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(adata.n_obs, 8))
    adata.obsm["X_test"] = np.column_stack([level[:, :4] + rng.normal(size=(adata.n_obs, 4)), noise]).astype(np.float32)
    return adata
