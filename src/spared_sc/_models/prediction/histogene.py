"""HisToGene (Pang et al. 2021): a transformer over the patches of a section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import Normalise
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.section_layers import PlaceEmbedding
from spared_sc._models.prediction.sections import AttentionPredictor, SectionNetwork
from spared_sc._models.training import mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.networks import Shape


class HisToGeneNet(SectionNetwork):
    """Linear map of the pixels, embedding of the place, transformer, linear map to genes."""

    def __init__(self, shape: Shape, sizes: HisToGene) -> None:
        super().__init__()
        width = sizes.width
        self.n_genes = shape.n_genes
        self.embed = (
            nn.Sequential(Normalise(), nn.Flatten(), nn.Linear(3 * sizes.image_size**2, width))
            if shape.n_features is None
            else nn.Linear(shape.n_features, width)
        )
        self.place = PlaceEmbedding(sizes.n_places, width)
        self.dropout = nn.Dropout(sizes.dropout)
        self.transformer = sizes.transformer()
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, shape.n_genes))

    def forward(self, tokens: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Expression (m, g) of the spots of a section, from patches (m, 3, side, side) or an embedding (m, d)."""
        with mixed_precision(tokens.device):
            hidden = self.transformer(self.dropout(self.embed(tokens) + self.place(place)))
        return self.head(hidden.float())


@dataclass(kw_only=True, eq=False)
class HisToGene(AttentionPredictor[HisToGeneNet]):
    """Transformer over the spots of a section, trained from scratch.

    Notes
    -----
    Pixels are normalised as ImageNet's; the released code takes 0 to 255. Its table of places raises an error beyond the
    last one, and it takes the last weights. Predictions of half-overlapping patches are not included.
    """

    about: ClassVar[About] = PREDICTORS["histogene"]
    feedforward: int = parameter(2048, least=1, whole=True)
    dropout: float = parameter(0.1, least=0, most=1)

    def make_network(self, shape: Shape, weights: str | Path) -> HisToGeneNet:
        """The network before training; there are no other `weights` than random ones."""
        return HisToGeneNet(shape, self)
