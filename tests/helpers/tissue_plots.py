"""Sections that are drawn, and what of them was drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData

SCALE = {"hires": 0.2, "lowres": 0.05}


DIAMETER = 70.0


PITCH = 100.0


def hex_positions(rows: int, cols: int) -> np.ndarray:
    row, col = np.meshgrid(np.arange(rows), np.arange(cols), indexing="ij")
    x = (col + 0.5 * (row % 2)) * PITCH
    y = row * PITCH * np.sqrt(3) / 2
    return np.column_stack([x.ravel(), y.ravel()]) + 300


def collection(libraries=("B", "A"), *, sparse=True, images=("hires", "lowres"), rows=6) -> AnnData:
    """Sections of `rows` x 5, `rows` + 1 x 5, ... spots with counts, completed layers and, where asked for, images."""
    rng = np.random.default_rng(0)
    xy = [hex_positions(rows + i, 5) + 40 * i for i in range(len(libraries))]
    library = np.repeat(libraries, [len(part) for part in xy])
    order = rng.permutation(len(library))  # rows of a library need not be together
    n, genes = len(library), [f"GENE{i}" for i in range(6)]
    counts = rng.poisson([0.4, 0.8, 1.5, 3.0, 0.6, 1.0], size=(n, len(genes))).astype(np.float32)
    detected = counts > 0
    log2tpm = np.where(detected, np.log2(1 + 1000 * counts * rng.uniform(0.5, 2, size=(n, 1))), 0).astype(np.float32)
    fill = rng.uniform(2, 8, size=(2, *counts.shape)).astype(np.float32)
    box = sps.csr_matrix if sparse else np.asarray
    adata = AnnData(
        sps.csr_matrix(counts),
        obs=pd.DataFrame({"section": pd.Categorical(library[order])}, index=[f"spot{i}" for i in range(n)]),
        var=pd.DataFrame({"spared_selected": [True] * 5 + [False]}, index=genes),
        layers={
            "log2tpm": box(log2tpm),
            "detected": sps.csr_matrix(detected),
            "median": box(np.where(detected, log2tpm, fill[0])),
            "spackle": box(np.where(detected, log2tpm, fill[1])),
        },
        obsm={"spatial": np.concatenate(xy)[order]},
    )
    adata.uns["spatial"] = {
        name: {
            "images": {
                key: rng.integers(100, 255, size=(int(1500 * SCALE[key]), int(1200 * SCALE[key]), 3), dtype=np.uint8)
                for key in images
            },
            "scalefactors": {
                **{f"tissue_{key}_scalef": scale for key, scale in SCALE.items()},
                "spot_diameter_fullres": DIAMETER,
            },
        }
        for name in libraries
    }
    return adata


def spots_of(adata: AnnData, library: str) -> np.ndarray:
    return np.flatnonzero(adata.obs["section"].to_numpy() == library)


def trained(adata: AnnData, **training) -> AnnData:
    step = np.arange(10, 110, 10)
    adata.uns["spared_sc"] = {
        "median": {"function": "tl.complete", "params": {"method": "median"}},
        "spackle": {
            "function": "tl.spackle_complete",
            "params": {},
            "training": {
                "step": step,
                "train_mse": 5 * np.exp(-step / 80),
                "validation_mse": 5 * np.exp(-step / 80) + (step / 100) ** 2,
                "best_step": 60,
                **training,
            },
            "score": {"paper": 2.0, "median": 3.5, "gene_mean": 2.75, "n_entries": 900},
        },
    }
    return adata
