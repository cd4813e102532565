"""Layers on an embedding: what remains of image regression where features are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import nn

from spared_sc._core.params import parameter
from spared_sc._models.prediction.networks import GeneNetwork, SpotPredictor, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape


class HeadNet(GeneNetwork):
    """A linear layer, or one hidden layer and a linear one."""

    def __init__(self, n_features: int, n_genes: int, hidden: int | None, dropout: float) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.layers = (
            nn.Linear(n_features, n_genes)
            if hidden is None
            else nn.Sequential(
                nn.Linear(n_features, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, n_genes)
            )
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layers(features)


@dataclass(kw_only=True, eq=False)
class Head(SpotPredictor[HeadNet]):
    """Layers on an embedding, trained by gradient descent.

    ShuffleNet, ViT-B and STNet are a network for patches and a linear layer: on an embedding, the layer alone remains.

    Parameters
    ----------
    hidden
        Units of a hidden layer; `None` for a linear layer alone.
    dropout
        Share of the hidden units that a training step leaves out.
    """

    about: ClassVar[About] = PREDICTORS["head"]
    delta: bool = parameter(True, choices=(False, True))
    hidden: int | None = parameter(None, least=1, whole=True)
    dropout: float = parameter(0.0, least=0, most=0.95)
    learning_rate: float | str = rate(1e-3)

    def make_network(self, shape: Shape, weights: str | Path) -> HeadNet:
        """The network before training."""
        return HeadNet(present(shape.n_features, "embedding"), shape.n_genes, self.hidden, self.dropout)

    def output(self, network: HeadNet, batch: Batch) -> torch.Tensor:
        """Expression of the spots."""
        return network(batch.tokens)
