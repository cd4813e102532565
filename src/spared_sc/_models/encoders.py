"""Image encoders: patches in, features out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.report import progress_bar, warn
from spared_sc._core.settings import settings
from spared_sc._core.validate import listing
from spared_sc._kernels.threads import limited_threads, run_chunks
from spared_sc._models.encoder_base import Encoder
from spared_sc._models.encoder_cards import CARDS, EncoderCard
from spared_sc._models.prediction.spots import Reading, present

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from spared_sc._models.prediction.spots import PatchReader

_FEWEST = 4  # a patch with less than a fourth of the encoder's pixels a side is mostly interpolation
_COARSEST = 2  # times the coarsest scale that a foundation encoder was made for: nuclei are gone beyond


class FunctionEncoder(Encoder):
    """An encoder that is computed, not learned."""

    def __init__(self, card: EncoderCard, function: Callable[[np.ndarray], np.ndarray]):
        super().__init__(card, dim=function(np.zeros((1, 32, 32, 3), dtype=np.uint8)).shape[1], weights="none")
        self._function = function

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        return self._function(batch)


def embed_all(
    encoder: Encoder,
    patches: PatchReader,
    *,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
    n_threads: int = 1,
    desc: str = "embedding",
) -> np.ndarray:
    """Features of all patches, float32 (n, d); while one batch is computed, a thread reads the next.

    An exception, or an interrupt, in either of them ends both. The result does not depend on the number of threads.
    ValueError: features are not finite.
    """
    features = np.empty((len(patches), encoder.dim), dtype=np.float32)
    with (
        limited_threads(1),
        Reading(patches) as reading,
        progress_bar(total=len(patches), desc=desc, show=show_progress_bar, unit="patch") as bar,
    ):
        size = batch_size or settings.batch_size or encoder.batch_size
        parts = (np.arange(start, min(start + size, len(patches))) for start in range(0, len(patches), size))
        for rows, batch in reading.ahead(parts, lambda rows: rows):
            found = features[rows[0] : rows[-1] + 1]
            _embed(encoder, present(batch, "patches"), found, n_threads)
            n_bad = int((~np.isfinite(found)).any(axis=1).sum())
            if n_bad:
                raise ValueError(
                    f"the encoder {encoder.name!r} gives NaN or infinite features for {n_bad} of {len(rows)} patches: its "
                    "weights are not those of a trained network. Give another file as `weights=`, or another encoder."
                )
            bar.update(len(rows))
    return features


def _embed(encoder: Encoder, batch: np.ndarray, features: np.ndarray, n_threads: int) -> None:
    """Features of a batch, into an array; on the CPU in several threads, each of which computes alone."""

    @limited_threads(1)  # OpenMP's number is each thread's own
    def part(start: int, stop: int) -> None:
        features[start:stop] = encoder.embed(batch[start:stop])

    run_chunks(part, len(batch), encoder.chunk or len(batch), n_threads)


def check_resolution(
    card: EncoderCard, patch_px_in_image: float, um_per_px: float = float("nan"), *, force: bool = False
) -> None:
    """Refuse an image that is too coarse for a foundation encoder, unless `force`; warn of it for other encoders.

    A patch is too coarse if it has fewer than a fourth of the encoder's pixels a side in the image, before any scaling
    (below 56 for 224: of 16 input pixels, 15 are interpolated), as spots of a hires image do. For a foundation encoder,
    an image is too coarse beyond twice the coarsest scale of its training (1 um a pixel for most), where nuclei cannot
    be separated. Patches that are scaled up less, or down, pass, and so does an unknown scale, NaN.
    """
    if card.input_size is None:
        return
    problems = []
    if patch_px_in_image * _FEWEST < card.input_size:
        problems.append(f"a patch has {patch_px_in_image:.3g} pixels a side in the image")
    if card.mpp and um_per_px > _COARSEST * max(card.mpp):
        problems.append(f"a pixel of the image is {um_per_px:.3g} um wide")
    if not problems:
        return
    expects = f"{card.input_size} pixels a side"
    expects += f" of {' or '.join(f'{scale:g}' for scale in card.mpp)} um each" if card.mpp else ""
    message = (
        f"{' and '.join(problems)}, while the encoder {card.name!r} expects {expects}: use the full-resolution image, "
        "larger patches, or the encoder 'classical'"
    )
    if card.foundation and not force:
        raise ValueError(f"{message}. Pass force=True to use it anyway.")
    warn(f"{message}.")


def get_card(name: str) -> EncoderCard:
    """The entry of an encoder: our own names in any case, then timm's, which must be installed for them."""
    if not isinstance(name, str):
        raise ValueError(f"encoder={name!r} cannot be used: give a name, such as {listing(CARDS)}.")
    if name.lower() in CARDS:
        return CARDS[name.lower()]
    from spared_sc._models.encoder_weights import need_timm

    timm = need_timm(name)
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # it knows the model, but not the weights behind the dot
        config = None
    if config is None:
        raise ValueError(
            f"there is no encoder {name!r}: choose {listing(CARDS, len(CARDS))}, or a model that "
            "`timm.list_models(pretrained=True)` names, such as 'resnet18'."
        )
    data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    channels, height, width = data["input_size"]
    if channels != 3 or height != width:
        raise ValueError(f"{name!r} expects images of shape {data['input_size']}: choose one for square colour images.")
    return EncoderCard(
        name=name,
        source="timm",
        dim=None,
        input_size=height,
        mean=tuple(data["mean"]),
        std=tuple(data["std"]),
        interpolation="bilinear" if data["interpolation"] == "bilinear" else "bicubic",
        hub=config.hf_hub_id or "",
        architecture=name,
        licence=config.license or "see its page on the hub",
        citation=f"timm, {config.origin_url or config.paper_ids or 'github.com/huggingface/pytorch-image-models'}",
    )


def load_encoder(
    name: str, *, weights: str | Path = "pretrained", device: str | None = None, random_state: int = 0
) -> Encoder:
    """An encoder, ready to embed: one with a card, or any model of timm.

    `weights="pretrained"` takes the weights from the hub's cache or the network; `"random"` leaves the network
    untrained, by the seed `random_state`; anything else is a file: .safetensors, or one of torch's that holds nothing
    but tensors. The network is the same for all. ValueError: no such encoder, or a file that is damaged or of another
    network. FileNotFoundError: no such file. ConnectionError: weights neither here nor to be downloaded.
    PermissionError: the hub gives them only to those who were granted access.
    """
    card = get_card(name)
    if card.source == "classical":
        if str(weights) != "pretrained":
            raise ValueError(f"the encoder {card.name!r} has no weights: leave out weights={str(weights)!r}.")
        from spared_sc._images.features import classical

        return FunctionEncoder(card, classical)
    from spared_sc._models.encoder_networks import load_network

    return load_network(card, str(weights), device, random_state)
