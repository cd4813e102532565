"""Image encoders: patches in, features out."""

from __future__ import annotations

import hashlib
import sys
from abc import ABC, abstractmethod
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from spared_sc._core.report import logger, progress_bar, warn
from spared_sc._core.settings import settings
from spared_sc._core.validate import listing
from spared_sc._models.encoder_cards import CARDS, EncoderCard
from spared_sc._models.encoder_weights import build, need_timm, pretrained, with_weights
from spared_sc._models.training import local_seed, mixed_precision, resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from spared_sc._models.prediction.base import PatchReader

_BATCH = {"cuda": 256}  # patches per forward pass; 32 elsewhere
_FEWEST = 4  # a patch with less than a fourth of the encoder's pixels a side is mostly interpolation
_COARSEST = 2  # times the coarsest scale that a foundation encoder was made for: nuclei are gone beyond


class Encoder(ABC):
    """A fixed map from patches to features.

    Attributes
    ----------
    card
        Source, licence, citation and expected input; `name`, `input_size` (pixels a side), `mpp` (um per pixel) and
        `foundation` are its own.
    dim
        Features of a patch.
    weights
        Where the weights are from: `"random, seed 0"`, a file's name, a repository and its revision.
    """

    def __init__(self, card: EncoderCard, *, dim: int, weights: str):
        self.card = card
        self.name = card.name
        self.input_size = card.input_size
        self.mpp = card.mpp
        self.foundation = card.foundation
        self.dim = dim
        self.weights = weights

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Features of some patches.

        Parameters
        ----------
        batch
            uint8 (n, h, w, 3), red green blue. A side that differs from the encoder's is scaled to it, whole: no
            margin is cut off.

        Returns
        -------
        float32 (n, d).
        """
        batch = np.asarray(batch)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[-1] != 3 or 0 in batch.shape[1:]:
            raise ValueError(
                f"patches of shape {batch.shape} and type {batch.dtype} cannot be embedded: give uint8 pixels of shape "
                "(patches, height, width, 3), red green blue."
            )
        if not len(batch):
            return np.empty((0, self.dim), dtype=np.float32)
        return self._embed(batch)

    @abstractmethod
    def _embed(self, batch: np.ndarray) -> np.ndarray:
        """Features of at least one patch, float32 (n, d)."""

    def identity(self) -> dict[str, Any]:
        """Plain values that name this encoder exactly, for a record."""
        return {
            "name": self.name,
            "source": self.card.source,
            "weights": self.weights,
            "parameters": self._fingerprint(),
            "input_size": self.input_size,
            "dim": self.dim,
            "licence": self.card.licence,
        }

    def _fingerprint(self) -> str:
        return ""


class _Function(Encoder):
    """An encoder that is computed, not learned."""

    def __init__(self, card: EncoderCard, function: Callable[[np.ndarray], np.ndarray]):
        super().__init__(card, dim=function(np.zeros((1, 32, 32, 3), dtype=np.uint8)).shape[1], weights="none")
        self._function = function

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        return self._function(batch)


class _Network(Encoder):
    def __init__(self, card: EncoderCard, network: torch.nn.Module, *, dim: int, device: torch.device, weights: str):
        super().__init__(card, dim=dim, weights=weights)
        layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
        self.network = network.eval().requires_grad_(False).to(device=device, memory_format=layout)
        self.device = device
        self._most = sys.maxsize  # patches that are known to fit into the device's memory
        self._hash = ""
        self._mean, self._std = (
            torch.tensor(values, device=device)[:, None, None] * 255 for values in (card.mean, card.std)
        )

    @torch.inference_mode()
    def _embed(self, batch: np.ndarray) -> np.ndarray:
        parts, start = [], 0
        while start < len(batch):
            size = min(self._most, len(batch) - start)
            try:
                parts.append(self._forward(batch[start : start + size]))
                start += size
                continue
            except torch.cuda.OutOfMemoryError as error:
                if size == 1:
                    raise MemoryError(
                        f"not even one patch fits into the memory of {self.device} with the encoder {self.name!r}: "
                        "free the device's memory, or choose device='cpu' or a smaller encoder."
                    ) from error
            # Outside of the handler, which still holds on to the tensors of the attempt.
            self._most = size // 2
            logger.info("%s: out of memory with %d patches at a time; going on with %d", self.name, size, self._most)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        return np.concatenate(parts)

    def _forward(self, batch: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        with mixed_precision(self.device):
            features = self._pooled(self._prepared(pixels))
        return features.float().cpu().numpy()

    def _prepared(self, pixels: torch.Tensor) -> torch.Tensor:
        """Scaled and normalised (n, 3, side, side) on the device."""
        size, on_gpu = self.input_size, self.device.type == "cuda"
        # Bytes travel, and are scaled where that is fast and known to every device.
        values = (pixels.to(self.device) if on_gpu else pixels).permute(0, 3, 1, 2).float()
        if tuple(values.shape[2:]) != (size, size):
            values = functional.interpolate(
                values.contiguous(), (size, size), mode=self.card.interpolation, antialias=True
            ).clamp_(0, 255)
        layout = torch.channels_last if on_gpu else torch.contiguous_format
        return ((values.to(self.device) - self._mean) / self._std).contiguous(memory_format=layout)

    def _pooled(self, values: torch.Tensor) -> torch.Tensor:
        if self.card.pooling == "model":
            return self.network(values)
        tokens = self.network.forward_features(values)
        return torch.cat([tokens[:, 0], tokens[:, self.network.num_prefix_tokens :].mean(dim=1)], dim=1)

    def _fingerprint(self) -> str:
        if not self._hash:
            digest = hashlib.sha256()
            for name, value in sorted(self.network.state_dict().items()):
                digest.update(name.encode())
                digest.update(np.ascontiguousarray(value.cpu().numpy()).data)
            self._hash = digest.hexdigest()[:16]
        return self._hash


def embed_all(
    encoder: Encoder,
    patches: PatchReader,
    *,
    batch_size: int | None = None,
    show_progress_bar: bool | None = None,
    desc: str = "embedding",
) -> np.ndarray:
    """Features of all patches, float32 (n, d); while one batch is computed, a thread reads the next.

    An exception, or an interrupt, in either of them ends both.
    """
    device = encoder.device.type if isinstance(encoder, _Network) else "cpu"
    size = batch_size or settings.batch_size or _BATCH.get(device, 32)
    blocks = [np.arange(start, min(start + size, len(patches))) for start in range(0, len(patches), size)]
    features = np.empty((len(patches), encoder.dim), dtype=np.float32)
    with (
        ThreadPoolExecutor(1, thread_name_prefix="patches") as reader,
        progress_bar(total=len(patches), desc=desc, show=show_progress_bar, unit="patch") as bar,
    ):
        pending = reader.submit(patches.read, blocks[0]) if blocks else None
        for i, rows in enumerate(blocks):
            batch = pending.result()
            if i + 1 < len(blocks):
                pending = reader.submit(patches.read, blocks[i + 1])
            features[rows] = encoder.embed(batch)
            bar.update(len(rows))
    return features


class _Expects(Protocol):
    """What an `Encoder` and an `EncoderCard` both say of the input."""

    name: str
    input_size: int | None
    mpp: tuple[float, ...]
    foundation: bool


def check_resolution(
    encoder: _Expects, patch_px_in_image: float, um_per_px: float = float("nan"), *, force: bool = False
) -> None:
    """Compare what the image holds with what the encoder was made for.

    Too coarse is a patch that has fewer than a fourth of the encoder's pixels a side in the image (below 56 for 224: of
    16 input pixels, 15 are interpolated), as spots of a hires image have; and, for a foundation encoder, an image of
    more than twice the coarsest scale that it was made for (1 um a pixel for most), in which nuclei cannot be told
    apart. A patch that is scaled up less, or down, passes.

    Parameters
    ----------
    encoder
        An `Encoder`, or its card before weights are loaded.
    patch_px_in_image
        Side of a patch in pixels of the image it is cut from, before any scaling.
    um_per_px
        Scale of that image; NaN where unknown.
    force
        Warn where a foundation encoder would refuse.

    Raises
    ------
    ValueError
        If the image is too coarse for a foundation encoder. Other encoders warn.
    """
    if encoder.input_size is None:
        return
    found = []
    if patch_px_in_image * _FEWEST < encoder.input_size:
        found.append(f"a patch has {patch_px_in_image:.3g} pixels a side in the image")
    if encoder.mpp and um_per_px > _COARSEST * max(encoder.mpp):
        found.append(f"a pixel of the image is {um_per_px:.3g} um wide")
    if not found:
        return
    expects = f"{encoder.input_size} pixels a side"
    expects += f" of {' or '.join(f'{scale:g}' for scale in encoder.mpp)} um each" if encoder.mpp else ""
    message = (
        f"{' and '.join(found)}, while the encoder {encoder.name!r} expects {expects}: use the full-resolution image, "
        "larger patches, or the encoder 'classical'"
    )
    if encoder.foundation and not force:
        raise ValueError(f"{message}. With force=True it is used all the same.")
    warn(f"{message}.")


def get_card(name: str) -> EncoderCard:
    """The entry of an encoder: our own names in any case, then timm's.

    Raises
    ------
    ValueError
        If there is no such encoder, or it is not for square colour images.
    ImportError
        If the name is none of ours and timm is not installed.
    """
    if not isinstance(name, str):
        raise ValueError(f"encoder={name!r} cannot be used: give a name, such as {listing(CARDS)}.")
    if name.lower() in CARDS:
        return CARDS[name.lower()]
    timm = need_timm(name)
    try:
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # it knows the model, and not the weights that the name goes on with
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
    name: str,
    *,
    weights: str | Path = "pretrained",
    device: str | torch.device | None = None,
    random_state: int = 0,
) -> Encoder:
    """An encoder, ready to embed.

    Parameters
    ----------
    name
        One of `list_encoders()`, or any model of timm.
    weights
        `"pretrained"` takes them from the hub's cache or the network; `"random"` leaves the network untrained; anything
        else is a file: .safetensors, or one of torch's that holds nothing but tensors. The network is the same for all.
    device
        Where to compute. `None` asks the settings, then takes cuda, mps or cpu, in that order.
    random_state
        Seed of `"random"`.

    Raises
    ------
    ValueError
        If there is no such encoder, or the file is damaged or of another network.
    FileNotFoundError
        If the file does not exist.
    ConnectionError
        If the weights are neither on this machine nor can be downloaded.
    PermissionError
        If the hub gives them only to those who were granted access.
    ImportError
        If timm or torchvision is needed and not installed.
    """
    card = get_card(name)
    if card.source == "classical":
        if str(weights) != "pretrained":
            raise ValueError(f"the encoder {card.name!r} has no weights: leave out weights={str(weights)!r}.")
        from spared_sc._images.features import classical

        return _Function(card, classical)
    device = resolve_device(device)
    weights = str(weights)
    with local_seed(random_state, torch.device("cpu")):
        if weights == "random":
            network, origin = build(card), f"random, seed {random_state}"
        elif weights == "pretrained":
            network, origin = pretrained(card)
        else:
            network, origin = with_weights(card, Path(weights).expanduser()), Path(weights).name
    dim = card.dim or getattr(network, "head_hidden_size", None) or network.num_features
    return _Network(card, network, dim=dim, device=device, weights=origin)
