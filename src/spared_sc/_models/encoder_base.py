"""Interface of an image encoder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from spared_sc._models.encoder_cards import EncoderCard


class Encoder(ABC):
    """A fixed map from patches to features."""

    batch_size = 32  # patches per forward pass, if the user asks for none
    chunk: int | None = None  # patches of a pass that one thread embeds at a time; `None`: it is not divided

    def __init__(self, card: EncoderCard, *, dim: int, weights: str):
        self.card = card
        self.dim = dim
        self.weights = weights  # their origin: "random, seed 0", a file's name, a repository and its revision

    @property
    def name(self) -> str:
        """Name of the encoder."""
        return self.card.name

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Features, float32 (n, d), of patches, uint8 (n, h, w, 3), red green blue.

        A side that differs from the encoder's is scaled to it, whole: no margin is cut off.
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
        """Plain values that identify this encoder, for a record."""
        return {
            "name": self.name,
            "source": self.card.source,
            "weights": self.weights,
            "parameters": self._fingerprint(),
            "input_size": self.card.input_size,
            "dim": self.dim,
            "licence": self.card.licence,
        }

    def _fingerprint(self) -> str:
        return ""
