"""Sections with images, and slides without expression."""

from __future__ import annotations


def of_libraries(adata, *numbers):
    return adata[adata.obs["library_id"].isin([f"library_{number}" for number in numbers])].copy()
