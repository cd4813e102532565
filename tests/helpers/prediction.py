"""Predictions that are made in a moment."""

from __future__ import annotations

import pytest

import spared_sc as sp
from helpers import KEY

LINEAR = ("gene_mean", "depth_only", "position_only", "ridge", "knn")


def predict(adata, model="ridge", **options):
    return sp.tl.predict_expression(adata, **{"model": model, "use_rep": "X_test", **KEY, **options})


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
