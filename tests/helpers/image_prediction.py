"""Sections with images, and slides without expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import spared_sc as sp
from helpers import KEY, moved

if TYPE_CHECKING:
    from anndata import AnnData


def of_libraries(adata, *numbers):
    return adata[adata.obs["library_id"].isin([f"library_{number}" for number in numbers])].copy()


SECTIONS = {
    "n_libraries": 4,
    "shape": (8, 8),
    "n_genes": 50,
    "depth": 400,
    "recipe": {"n_genes": 12, "gene_lengths": None},
}


def cut(adata: AnnData) -> AnnData:
    """Patches of sections that do not lie at the same pixels."""
    moved(adata, 3.1)
    sp.pp.extract_patches(adata, size=2, output_size=32, **KEY)
    return adata


def embed(adata: AnnData) -> AnnData:
    adata = cut(adata)
    sp.tl.embed_patches(adata, encoder="classical", **KEY)
    return adata
