"""Image embeddings of spots."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import check_key, record
from spared_sc._core.report import logger
from spared_sc.tl import _prediction as of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


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

    The patches are those that :func:`spared_sc.pp.extract_patches` recorded; without it, squares of one spot diameter
    from the full-resolution image where its file is known, and from the hires image otherwise.

    Parameters
    ----------
    adata
        Spots x genes.
    encoder
        `"classical"` (colours and textures, no weights needed), `"shufflenet_v2_x0_5"`, any model of timm by its name, or
        a pathology foundation model by its short name. :func:`spared_sc.tl.encoders` lists the registered ones.
    weights
        `"pretrained"` takes the encoder's weights from the local cache, or downloads them. A path: a `.safetensors` or
        `.pth` file. `"random"`: untrained ones.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the spots' positions in pixels of the full-resolution image; by default the one that
        `extract_patches` recorded, or `"spatial"`.
    key_added
        Name of the embedding; `"X_<encoder>"` by default.
    checkpoint
        Folder to keep finished sections in. A call that finds sections of its own there, after a crash or an interrupt,
        does not embed them again.
    force
        Embed with a foundation model although the patches have far fewer pixels than it was trained on.
    device
        Torch device; `None` asks `sp.settings`.
    batch_size
        Patches per forward pass; it changes memory and speed, not the result.
    random_state
        Seed of untrained weights.
    show_progress_bar
        `None` asks `sp.settings`.
    copy
        Return a changed copy instead of changing `adata`.

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
    ConnectionError
        If weights can neither be found nor downloaded; the message says which and where to put them.
    ValueError
        If image and spots do not fit, a file is damaged, the store of patches is no longer what was recorded, or the
        patches are too coarse for a foundation model.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> adata.obsm["X_classical"].shape[0] == adata.n_obs
    True
    """
    from spared_sc._models.encoders import check_resolution, embed_all, get_card, load_encoder
    from spared_sc._models.prediction.base import Rows

    adata = validate.check_adata(adata, genes=False)
    key_added = Key.embedding(encoder) if key_added is None else key_added
    check_key(adata, key_added, attr="obsm")
    libraries = validate.get_libraries(adata, library_key)
    validate.check_number("random_state", random_state, 0, whole=True)
    if batch_size is not None:
        validate.check_number("batch_size", batch_size, 1, whole=True)
    card = get_card(encoder)
    patches = of.get_patches(adata, libraries, spatial_key)
    sources = patches.recipe["sources"].values()
    scales = [one["um_per_px"] for one in sources if one["um_per_px"] > 0]  # NaN where unknown
    check_resolution(card, min(one["patch_px"] for one in sources), max(scales, default=np.nan), force=force)
    model = load_encoder(encoder, weights=weights, device=device, random_state=random_state)
    identity = model.identity()
    embedding = np.empty((adata.n_obs, model.dim), dtype=np.float32)
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        part = Rows(patches, rows)
        folder = None if checkpoint is None else Path(checkpoint) / name
        what = {"encoder": identity, "patches": patches.fingerprint(rows)}
        found = None if folder is None else _finished(folder, what)
        if found is None:
            found = embed_all(
                model, part, batch_size=batch_size, show_progress_bar=show_progress_bar, desc=f"embedding {name}"
            )
            if folder is not None:
                _keep(folder, what, found)
        embedding[rows] = found
    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="tl.embed_patches",
        params={
            "encoder": encoder,
            "weights": weights,
            "library_key": library_key,
            "random_state": random_state,
            "force": force,
        },
        slots={"obsm": {key_added: embedding}},
        encoder=identity,
        patches=patches.recipe,
    )
    return adata if copy else None


def encoders() -> pd.DataFrame:
    """Encoders that :func:`spared_sc.tl.embed_patches` knows by a name of their own; any model of timm works as well.

    Returns
    -------
    A table with one row per encoder: `source`, `dim` (features), `input_size` (pixels a side), `mpp` (um per pixel that it
    was trained at), `licence`, `gated` (whether access must be asked for), `hub` (where the weights are) and `citation`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> bool(sp.tl.encoders().loc["uni", "gated"])
    True
    """
    import pandas as pd

    from spared_sc._models.encoder_cards import list_encoders

    return pd.DataFrame(list_encoders()).set_index("name")


def _finished(folder: Path, identity: dict[str, str]) -> np.ndarray | None:
    """The embedding of a section from an earlier call, if it is of the same encoder and patches."""
    from spared_sc._models import checkpoint as files

    if not files.exists(folder):
        return None
    arrays, card = files.load(folder, "embedding")
    if card["identity"] != identity:
        raise ValueError(
            f"{folder} holds the embedding of other patches or by another encoder: remove it, or choose another folder "
            "with `checkpoint=`."
        )
    logger.info("took the embedding of %d spots from %s", len(arrays["embedding"]), folder)
    return arrays["embedding"]


def _keep(folder: Path, identity: dict[str, str], embedding: np.ndarray) -> None:
    from spared_sc._models import checkpoint as files

    files.save(folder, "embedding", {"embedding": embedding}, {"identity": identity})
