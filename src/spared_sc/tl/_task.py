"""From an AnnData to the data of a fit: spots, targets, and where both come from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import fingerprint_source, fingerprints, leak, unit_of
from spared_sc._core.record import from_record
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import scale_of
from spared_sc._models.prediction.base import Spots
from spared_sc._models.prediction.card import DataCard
from spared_sc._models.prediction.registry import PREDICTORS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData

    from spared_sc._core.validate import Libraries
    from spared_sc._images.patches import AnyPatches
    from spared_sc._models.prediction.base import Predictor

CLASSICAL = "X_classical"  # default embedding
LOSSES = ("detected", "all")


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data and parameters that all fits of a predictor share."""

    predictor: type[Predictor]
    model: str
    params: dict[str, Any]
    spots: Spots
    genes: list[str]
    detected: np.ndarray  # (n_spots, n_genes)
    order: np.ndarray  # of the rows, independent of the user's
    novelty_features: np.ndarray | None  # (n_spots, d) where novelty was asked for
    split: np.ndarray | None  # of the libraries
    sketches: dict[str, list[int]]  # fingerprints of the libraries
    data: DataCard


def make_task(
    adata: AnnData,
    libraries: Libraries,
    model: str,
    *,
    layer: str,
    loss: str,
    use_rep: str,
    mask_var: str | None,
    spatial_key: str,
    split_key: str | None,
    params: Mapping[str, Any] | None,
    novelty: bool,
) -> Task:
    """Find spots, targets and their lineage; refuse a split, a loss or parameters that cannot be used."""
    params = dict(params or {})
    predictor, needs = PREDICTORS.load(model), PREDICTORS[model].needs
    PREDICTORS.make(model, params)  # wrong parameters show before any work is done
    split = validate.get_split(adata, split_key, libraries)
    if split is not None and predictor.validates and "val" not in split:
        raise ValueError(
            f"{model!r} chooses its best step on validation libraries, and adata.obs[{split_key!r}] has none: set some to "
            "'val', as `sp.pp.split_libraries(adata)` does, or pass split_key=None."
        )
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r} is unknown: choose {validate.listing(LOSSES)}.")
    genes = np.flatnonzero(validate.gene_mask(adata, mask_var, optional=Key.var.selected))
    patches = resolve_patches(adata, libraries, spatial_key=spatial_key) if "patches" in needs else None
    spots = get_spots(adata, libraries, needs, spatial_key=spatial_key, use_rep=use_rep, patches=patches)
    target, detected = validate.get_block(adata, layer, genes)
    embedded = adata.uns.get(Key.uns.records, {}).get(use_rep, {}) if "embedding" in needs else {}
    recipe = embedded.get("patches") if patches is None else patches.recipe
    source = fingerprint_source(adata, libraries, spatial_key)
    return Task(
        predictor=predictor,
        model=model,
        params=params,
        spots=replace(spots, target=target, known=detected if loss == "detected" else None),
        genes=adata.var_names[genes].tolist(),
        detected=detected,
        order=validate.canonical_order(adata, libraries, spatial_key),
        novelty_features=novelty_features(spots) if novelty else None,
        split=split,
        sketches=fingerprints(adata, libraries, spatial_key, source),
        data=DataCard(
            layer=layer,
            unit=unit_of(adata, layer),
            loss=loss,
            leak=leak(adata, layer, libraries, split_key, split),
            use_rep=use_rep if "embedding" in needs else None,
            encoder=from_record(embedded.get("encoder")),
            embed_params=from_record(embedded.get("params")),
            patches=None if recipe is None else scale_of(recipe),
            fingerprint_source=source,
        ),
    )


def get_spots(
    adata: AnnData,
    libraries: Libraries,
    needs: tuple[str, ...],
    *,
    spatial_key: str,
    use_rep: str | None = None,
    patches: AnyPatches | None = None,
) -> Spots:
    """The spots with everything that a predictor needs but targets; an embedding if `use_rep` names one."""
    from spared_sc._kernels.counts import row_sums

    position = log_depth = embedding = None
    if "position" in needs or (needs and spatial_key in adata.obsm):
        position = validate.get_positions(adata, spatial_key)
    if "log_depth" in needs:
        counts, _ = validate.get_counts(adata)
        log_depth = np.log1p(row_sums(counts))
    if "embedding" in needs and use_rep is not None:
        embedding = validate.get_embedding(adata, use_rep)
    return Spots(library=libraries.codes, position=position, patches=patches, embedding=embedding, log_depth=log_depth)


def novelty_features(spots: Spots) -> np.ndarray | None:
    """Features by which unusual spots are found: the embedding, or colours and textures of the patches."""
    if spots.embedding is not None or spots.patches is None:
        return spots.embedding
    from spared_sc._models.encoders import embed_all, load_encoder

    return embed_all(load_encoder("classical"), spots.patches, show_progress_bar=False)
