"""Short fits of completion networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import spared_sc as sp

if TYPE_CHECKING:
    from anndata import AnnData

QUICK = {
    "model": "paper",
    "n_steps": 25,
    "train_batch_size": 32,
    "feedforward": 64,
    "n_layers": 1,
    "device": "cpu",
}


def complete(adata: AnnData, method: str = "paper", **options) -> AnnData:
    run = sp.tl.median_complete if method == "median" else sp.tl.spackle_complete
    quick = {"median": {}, "paper": QUICK, "residual": {"n_steps": 4, "device": "cpu"}}[method]
    return run(adata, library_key="library_id", copy=True, **{**quick, **options})


SECTIONS = {
    "n_libraries": 3,
    "n_genes": 40,
    "shape": (7, 6),
    "depth": 100,
    "missing_spots": 0.15,
    "image": False,
    "recipe": {"n_genes": 12, "real_data_share": 0.5},
}
