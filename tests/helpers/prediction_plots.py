"""Predictions that are drawn, and what of them was drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData

import spared_sc as sp
from helpers import shuffled

if TYPE_CHECKING:
    from anndata import AnnData

KEY = "predicted_position_only"


def with_split(adata: AnnData, parts: str, **keywords) -> list[str]:
    """Predict again with a split; the names of the libraries."""
    names = sorted(set(adata.obs["library_id"]))
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(dict(zip(names, parts.split(), strict=True)))
    options = {"target": "log2tpm", "library_key": "library_id", "key_added": "split", **keywords}
    sp.tl.predict_expression(adata, model="position_only", **options)
    return names


def column(adata: AnnData, gene: str, key: str = KEY) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured values, whether detected, and predicted ones."""
    at = adata.var_names.get_loc(gene)
    measured = adata.layers["log2tpm"].toarray()[:, at].astype(float)
    return measured, adata.X.toarray()[:, at] > 0, adata.obsm[key][gene].to_numpy(dtype=float)


def a_gene(adata: AnnData) -> str:
    """A gene that some spots of every section miss."""
    genes = adata.obsm[KEY].columns
    share = (adata[:, genes].X.toarray() > 0).mean(axis=0)
    return genes[np.argmin(np.abs(share - 0.5))]


SECTIONS = {"n_libraries": 4, "shape": (9, 8), "n_genes": 40, "depth": 400, "recipe": {"n_genes": 12}}


def predict(adata: AnnData) -> AnnData:
    adata = shuffled(adata)
    sp.tl.predict_expression(adata, model="position_only", target="log2tpm", library_key="library_id")
    return adata
