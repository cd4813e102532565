"""Image embeddings of spots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record
from spared_sc._core.report import logger
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._images.resolve import resolve_patches
from spared_sc._images.scale import recorded_recipe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from anndata import AnnData

    from spared_sc._core.compute import Compute
    from spared_sc._core.validate import Libraries
    from spared_sc._images.patches import AnyPatches
    from spared_sc._models.encoder_base import Encoder

_KIND = "embedding"


@accepts_spatialdata
@docs.fill()
def embed_patches(
    adata: AnnData,
    *,
    encoder: str = "classical",
    weights: str | Path = "pretrained",
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    key_added: str | None = None,
    checkpoint: str | Path | None = None,
    force: bool = False,
    device: str | None = None,
    batch_size: int | None = None,
    random_state: int = 0,
    show_progress_bar: bool | None = None,
    copy: bool = False,
) -> AnnData | None:
    """Embed the image around every spot.

    The patches are those that :func:`spared_sc.pp.extract_patches` recorded; otherwise squares of one spot diameter from
    the full-resolution image if its file is known, and from the hires image if not.

    Parameters
    ----------
    {adata}
    encoder
        `"classical"` (colours and textures, no weights needed), `"efficientnet-lite0"` (ImageNet, weights from a
        package), any timm model by its name, or a pathology foundation model by its short name. :func:`spared_sc.tl.encoders` lists the registered ones.
    weights
        `"pretrained"` takes the encoder's weights from its package or the local cache, or downloads them; a path names a `.safetensors` or
        `.pth` file; `"random"` leaves the encoder untrained.
    {library_key}
    spatial_key
        Key in `obsm` of the spots' positions in pixels of the full-resolution image; by default the one that
        `extract_patches` recorded, or `"spatial"`.
    key_added
        Name of the embedding; `"X_<encoder>"` by default.
    checkpoint
        Folder in which finished sections are kept. The same call after a crash or an interrupt does not embed them again.
    force
        Embed with a foundation model even if the patches have far fewer pixels than it was trained on.
    {device}
    {batch_size}
    random_state
        Seed of untrained weights.
    {show_progress_bar}
    {copy}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obsm["X_classical"]`
        Embedding, spots x features, float32; usable as `use_rep` in scanpy.
    `uns["spared_sc"]["X_classical"]`
        Parameters, the encoder (name, weights, licence) and the patches (size, source, resolution).

    Raises
    ------
    KeyError
        If a named column does not exist, or there is no such encoder.
    FileNotFoundError
        If an image or a file of weights is missing.
    ImportError
        If the package with an encoder's weights is not installed.
    ConnectionError
        If weights can neither be found nor downloaded; the message says which and where to put them.
    ValueError
        If image and spots do not match, a file is damaged, the store of patches has changed since it was recorded, or the
        patches are too coarse for a foundation model.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> adata.obsm["X_classical"].shape[0] == adata.n_obs
    True
    """
    from spared_sc._models.encoders import check_resolution, get_card, load_encoder

    adata = validate.check_adata(adata, genes=False)
    key_added = f"X_{encoder.rpartition('/')[2]}" if key_added is None else key_added
    check_key(adata, key_added, attr="obsm")
    libraries = validate.get_libraries(adata, library_key)
    compute = make_compute(
        random_state=random_state,
        device=device,
        batch_size=batch_size,
        show_progress_bar=show_progress_bar,
        checkpoint=checkpoint,
    )
    card = get_card(encoder)
    patches = resolve_patches(adata, libraries, spatial_key=spatial_key)
    sources = patches.recipe["sources"].values()
    scales = [source["um_per_px"] for source in sources if source["um_per_px"] > 0]  # NaN where unknown
    check_resolution(card, min(source["patch_px"] for source in sources), max(scales, default=np.nan), force=force)
    model = load_encoder(encoder, weights=weights, device=compute.device, random_state=compute.seed)
    embedding = _embed_libraries(model, patches, libraries, compute)
    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.embed_patches",
        params={
            "encoder": encoder,
            "weights": weights,
            "library_key": libraries.key,
            "random_state": random_state,
            "force": force,
        },
        slots={"obsm": {key_added: embedding}},
        encoder=model.identity(),
        patches=recorded_recipe(patches.recipe),
    )
    return adata if copy else None


def _embed_libraries(model: Encoder, patches: AnyPatches, libraries: Libraries, compute: Compute) -> np.ndarray:
    """The embedding of all spots, library by library; finished ones are kept in the checkpoint."""
    from spared_sc._models import checkpoint

    embedding = np.empty((len(patches), model.dim), dtype=np.float32)
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        folder = compute.below(name).checkpoint
        with checkpoint.reserved(folder):
            embedding[rows] = _embed_library(model, patches, rows, name, folder, compute)
    return embedding


def _embed_library(
    model: Encoder, patches: AnyPatches, rows: np.ndarray, name: str, folder: Path | None, compute: Compute
) -> np.ndarray:
    """The embedding of one library, from the checkpoint if it is there."""
    from spared_sc._models import checkpoint, encoders
    from spared_sc._models.prediction.spots import PatchSubset

    identity = {"encoder": model.identity(), "patches": patches.fingerprint(rows)}
    values = None if folder is None else _finished(folder, identity, (len(rows), model.dim))
    if values is None:
        values = encoders.embed_all(
            model,
            PatchSubset(patches, rows),
            batch_size=compute.batch_size,
            show_progress_bar=compute.show_progress_bar,
            n_threads=compute.n_threads,
            desc=f"embedding {name}",
        )
        if folder is not None:
            checkpoint.save(folder, _KIND, {"embedding": values}, {"identity": identity})
    return values


def _finished(folder: Path, identity: Mapping[str, Any], shape: tuple[int, int]) -> np.ndarray | None:
    """The embedding of a section from an earlier call, if it has the same encoder and patches."""
    from spared_sc._models import checkpoint

    if not checkpoint.exists(folder):
        return None
    arrays, card = checkpoint.load(folder, _KIND)
    if card.get("identity") != identity:
        raise ValueError(
            f"{folder} holds the embedding of other patches or by another encoder: remove it, or choose another folder "
            "with `checkpoint=`."
        )
    values = arrays.get("embedding")
    if values is None or values.shape != shape or values.dtype != np.float32:
        raise ValueError(f"{folder} holds no embedding of {shape[0]} spots x {shape[1]} features: remove it.")
    logger.info("took the embedding of %d spots from %s", len(values), folder)
    return values
