"""Encoders that are networks: weights on a device, batches halved where memory does not suffice."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from spared_sc._core.report import logger
from spared_sc._models.encoder_base import Encoder
from spared_sc._models.encoder_weights import build, pretrained, with_weights
from spared_sc._models.training import local_seed, mixed_precision, resolve_device

if TYPE_CHECKING:
    from spared_sc._models.encoder_cards import EncoderCard

_CUDA_BATCH = 256  # patches per forward pass
_CPU_CHUNK = 4  # patches that a thread embeds at a time


class NetworkEncoder(Encoder):
    """A frozen network."""

    def __init__(self, card: EncoderCard, network: torch.nn.Module, *, dim: int, device: torch.device, weights: str):
        super().__init__(card, dim=dim, weights=weights)
        self.network: Any = network.eval().requires_grad_(False).to(device)  # timm's attributes are not typed
        if device.type == "cuda":
            self.network = network.to(memory_format=torch.channels_last)
            self.batch_size = _CUDA_BATCH
        if device.type == "cpu":
            self.chunk = _CPU_CHUNK
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
        size, on_gpu = self.card.input_size or 0, self.device.type == "cuda"
        # Bytes travel, and are scaled where that is fast and known to every device.
        values = (pixels.to(self.device) if on_gpu else pixels).permute(0, 3, 1, 2).float()
        if size and tuple(values.shape[2:]) != (size, size):
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


def load_network(card: EncoderCard, weights: str, device: str | None, random_state: int) -> NetworkEncoder:
    """The network of a card, as `load_encoder` describes it."""
    where = resolve_device(device)
    with local_seed(random_state, torch.device("cpu")):
        if weights == "random":
            network, origin = build(card), f"random, seed {random_state}"
        elif weights == "pretrained":
            network, origin = pretrained(card)
        else:
            network, origin = with_weights(card, Path(weights).expanduser()), Path(weights).name
    made: Any = network
    dim = card.dim or getattr(made, "head_hidden_size", None) or made.num_features
    return NetworkEncoder(card, network, dim=dim, device=where, weights=origin)
