"""Small encoders and the patches for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from spared_sc._models import encoder_weights
from spared_sc._models.encoder_cards import EncoderCard
from spared_sc._models.encoder_networks import NetworkEncoder
from spared_sc._models.encoders import load_encoder

if TYPE_CHECKING:
    from spared_sc._models.encoder_base import Encoder

CPU = torch.device("cpu")


TINY = EncoderCard(
    name="tiny",
    source="hub",
    dim=32,
    input_size=32,
    hub="somebody/tiny",
    architecture="vit_tiny_patch16_224",
    options={"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.1},
    licence="none",
    citation="none",
)


def smooth(n: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    fine = [np.asarray(Image.fromarray(patch).resize((side, side), Image.Resampling.BICUBIC)) for patch in coarse]
    return np.stack(fine)


def small(name: str = "vit_tiny_patch16_224") -> Encoder:
    return load_encoder(name, weights="random", device="cpu")


def tiny(card: EncoderCard = TINY, seed: int = 0) -> Encoder:
    torch.manual_seed(seed)
    return NetworkEncoder(card, encoder_weights.build(card), dim=card.dim, device=CPU, weights="")
