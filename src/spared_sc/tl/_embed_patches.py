"""Image embeddings of spots."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import make_compute
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record, records_of
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
_CLASSICAL_SIZES = (1.0, 3.0, 6.0)  # spot diameters: the spot, and what surrounds it


@accepts_spatialdata
@docs.fill()
def embed_patches(
    adata: AnnData,
    *,
    encoder: str = "classical",
    weights: str | Path = "pretrained",
    size: float | Sequence[float] | None = None,
    n_rings: int = 0,
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

    The patches are those that :func:`spared_sc.pp.extract_patches` recorded; otherwise squares of `size` from the
    full-resolution image if its file is known, and from the hires image if not.

    Parameters
    ----------
    {adata}
    encoder
        `"classical"` (colours and textures, no weights needed), `"efficientnet-lite0"` (ImageNet, weights from a
        package), any timm model by its name, or a pathology foundation model by its short name. :func:`spared_sc.tl.encoders` lists the registered ones.
    weights
        `"pretrained"` takes the encoder's weights from its package or the local cache, or downloads them; a path names a `.safetensors` or
        `.pth` file; `"random"` leaves the encoder untrained.
    size
        Side of the patches, in the unit that `extract_patches` recorded, or in spot diameters. The features of several sizes
        are joined. By default the recorded size; without a record, `(1, 3, 6)` for `"classical"`, so that the features
        describe the spot and what surrounds it, and 1 for other encoders.
    n_rings
        Average the features over the spots at most this many hops away on the lattice of the library, and the spot itself;
        0 leaves them as they are.
    {library_key}
    spatial_key
        Key in `obsm` of the spots' positions in pixels of the full-resolution image; by default the one that
        `extract_patches` recorded, or `"spatial"`.
    key_added
        Name of the embedding; by default `"X_<encoder>"`, or `"X_<encoder>_mean<n_rings>"` of means.
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
        If a size is not positive or occurs twice, a patch is larger than the image, image and spots do not match, a file is
        damaged, the store of patches has changed since it was recorded, or the patches are too coarse for a foundation model.

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
    sizes = _sizes_of(adata, size, encoder)
    validate.check_number("n_rings", n_rings, 0, whole=True)
    if key_added is None:
        key_added = f"X_{encoder.rpartition('/')[2]}" + (f"_mean{n_rings}" if n_rings else "")
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
    patches = [resolve_patches(adata, libraries, size=one, spatial_key=spatial_key) for one in sizes]
    recipes = [one.recipe for one in patches]
    sources = [source for recipe in recipes for source in recipe["sources"].values()]
    scales = [source["um_per_px"] for source in sources if source["um_per_px"] > 0]  # NaN where unknown
    check_resolution(card, min(source["patch_px"] for source in sources), max(scales, default=np.nan), force=force)
    model = load_encoder(encoder, weights=weights, device=compute.device, random_state=compute.seed)
    parts = []
    for i in range(len(sizes)):
        here = compute.below(f"size-{i}") if len(sizes) > 1 else compute
        parts.append(_embed_libraries(model, patches.pop(0), libraries, here))  # each keeps its images in memory
    embedding = neighborhood_mean(np.hstack(parts), adata, libraries, spatial_key, n_rings)
    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.embed_patches",
        params={
            "encoder": encoder,
            "weights": weights,
            "size": [recipe["size"] for recipe in recipes],
            "n_rings": n_rings,
            "library_key": libraries.key,
            "random_state": random_state,
            "force": force,
        },
        slots={"obsm": {key_added: embedding}},
        encoder=model.identity(),
        patches=recorded_recipe(recipes[0]),
    )
    return adata if copy else None


def _sizes_of(adata: AnnData, size: float | Sequence[float] | None, encoder: str) -> list[float | None]:
    """The sizes of patches; `None` for the recorded one, or that of `extract_patches`."""
    if size is None:
        several = encoder == "classical" and Key.uns.patches not in records_of(adata)
        return list(_CLASSICAL_SIZES) if several else [None]
    sizes = list(size) if isinstance(size, Sequence | np.ndarray) and not isinstance(size, str) else [size]
    for one in sizes:
        validate.check_number("size", one, 1e-9)
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(f"size={size!r} cannot be used: give a number, or several different ones such as (1, 3, 6).")
    return [float(one) for one in sizes]


def neighborhood_mean(
    embedding: np.ndarray, adata: AnnData, libraries: Libraries, spatial_key: str, n_rings: int
) -> np.ndarray:
    """Mean of an embedding (n_spots, d) over each spot and those at most `n_rings` hops away, float32."""
    if not n_rings:
        return embedding
    from spared_sc._kernels.smoothing import rings

    weights = rings(validate.get_lattice(adata, libraries, spatial_key), n_rings)
    total = 1 + np.asarray(weights.sum(axis=1)).reshape(-1, 1)
    return ((weights @ embedding + embedding) / total).astype(np.float32)


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
