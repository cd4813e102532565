"""Sections, completers and references that tests of completion share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from helpers import KEY
from spared_sc._core.compute import Compute
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Estimate, Sections

WITH_RATE = {
    "gene_mean", "library_gene_mean", "depth_only", "counts_at_depth", "additive", "neighbor_mean", "kernel", "soft_impute",
    "soft_impute_kernel", "stack",
}  # fmt: skip


SECTIONS = {
    "n_libraries": 2,
    "n_genes": 60,
    "shape": (9, 8),
    "depth": 150,
    "missing_spots": 0.1,
    "image": False,
    "recipe": {"n_genes": 14, "real_data_share": 0.4},
}


def sections_of(adata: AnnData) -> Sections:
    found = resolve(
        adata, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", use_rep="programs", **KEY
    ).sections
    assert 0.3 < found.known.mean() < 0.95
    return found


def residual_of(sections: Sections) -> np.ndarray:
    """Known values around each gene's mean, zero elsewhere."""
    mean = sections.values.sum(axis=0) / sections.known.sum(axis=0)
    return np.where(sections.known, sections.values - mean, 0).astype(np.float32)


def estimate_of(name: str, sections: Sections, *, seed: int = 0, **params) -> Estimate:
    """Estimate of a registered method."""
    compute = Compute(device="cpu", seed=seed, show_progress_bar=False)
    return COMPLETERS.make(name, params).complete(sections, compute)
