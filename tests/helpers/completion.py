"""Sections, completers and references that tests of completion share."""

from __future__ import annotations

WITH_RATE = {
    "gene_mean", "library_gene_mean", "depth_only", "additive", "neighbor_mean", "kernel", "soft_impute",
    "soft_impute_kernel", "stack",
}  # fmt: skip
