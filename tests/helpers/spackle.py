"""Short fits of completion models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import spared_sc as sp
from helpers import KEY

if TYPE_CHECKING:
    from anndata import AnnData

PARAMS: dict[str, dict[str, Any]] = {
    "counts": {"n_iterations": 1},
    "paper": {"n_steps": 25, "train_batch_size": 32, "feedforward": 64, "n_layers": 1},
    "median": {},
}
LAYERS = {"median": "median", "paper": "spackle", "counts": "spackle"}  # of each model

SECTIONS = {
    "n_libraries": 3,
    "n_genes": 40,
    "shape": (7, 6),
    "depth": 100,
    "missing_spots": 0.15,
    "image": False,
    "recipe": {"n_genes": 12, "real_data_share": 0.5},
}


def complete(adata: AnnData, model: str = "paper", *, params: dict[str, Any] | None = None, **options) -> AnnData:
    """A completed copy, by default of the shortest fit that does; `params` are parameters of the model."""
    options = {**KEY, "copy": True, **options}
    params = PARAMS[model] | (params or {})
    if model == "median":
        return sp.tl.median_complete(adata, **params, **options)
    options = {"device": "cpu", "show_progress_bar": False, **options}
    return sp.tl.spackle_complete(adata, model=model, model_params=params, **options)
