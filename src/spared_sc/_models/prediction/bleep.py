"""BLEEP (Xie et al. 2023): patches and expression embedded together; a patch takes the expression of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import Backbone
from spared_sc._models.prediction.bank import Bank
from spared_sc._models.prediction.networks import GeneNetwork, SpotPredictor, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present
from spared_sc._models.training import OPTIMIZERS, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape
    from spared_sc._models.prediction.spots import Spots

_WIDTH = 256
_DROPOUT = 0.1
_ROWS = 4096  # reference spots embedded at a time
RETRIEVALS = ("average", "simple", "weighted")


class ProjectionHead(nn.Module):
    """A linear map into the common space, and a small residual network there."""

    def __init__(self, n_features: int) -> None:
        super().__init__()
        self.project = nn.Linear(n_features, _WIDTH)
        self.layer = nn.Linear(_WIDTH, _WIDTH)
        self.dropout = nn.Dropout(_DROPOUT)
        self.norm = nn.LayerNorm(_WIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        projected = self.project(features)
        return self.norm(projected + self.dropout(self.layer(functional.gelu(projected))))


class BleepNet(GeneNetwork):
    """Embeddings of patches, `image`, and of expression, `expression`, in one space."""

    mean: torch.Tensor

    def __init__(self, backbone: str, weights: str | Path, shape: Shape) -> None:
        super().__init__()
        self.n_genes = shape.n_genes
        self.body = Backbone(backbone, weights) if shape.n_features is None else None
        self.image_head = ProjectionHead(shape.n_features or present(self.body, "backbone").n_features)
        self.expression = ProjectionHead(shape.n_genes)
        self.bank = Bank(shape.n_train, _WIDTH, shape.n_genes)
        self.register_buffer("mean", torch.zeros(shape.n_genes))

    def image(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embedding (n, width) of patches, or of their features."""
        if self.body is None:
            return self.image_head(tokens)
        with mixed_precision(tokens.device):
            features = self.body(tokens)
        return self.image_head(features.float())

    def train(self, mode: bool = True) -> BleepNet:
        """Where training pauses or ends, embed what is looked up; at unit length, the nearest have the largest cosine."""
        super().train(mode)
        if not mode:
            with torch.no_grad():
                parts = [functional.normalize(self.expression(x), dim=1) for x in self.bank.expression.split(_ROWS)]
                self.bank.feature.copy_(torch.cat(parts))
        return self


def contrastive_loss(expression: torch.Tensor, image: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Cross-entropy of the similarities across the two kinds of embedding (n, d) with those within them.

    Equations 1 to 4 of the paper; the embeddings are not normalised and gradients flow through the targets.
    """
    logits = expression @ image.T / temperature
    alike = (image @ image.T + expression @ expression.T) / 2 / temperature
    targets = alike.softmax(dim=1)
    by_row = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    by_column = -(targets * logits.log_softmax(dim=0)).sum(dim=0)
    return (by_row + by_column).mean() / 2


@dataclass(kw_only=True, eq=False)
class Bleep(SpotPredictor[BleepNet]):
    """Contrastive embeddings and retrieval from the training spots.

    Parameters
    ----------
    backbone
        Network of the patches: `"torchvision:<model>"` or `"timm:<model>"`.
    loss_chunk
        Spots of a batch that are compared with one another. The authors' batch of 512 was four such chunks, and one chunk
        of 512 is reported not to learn.
    temperature
        Temperature of the loss.
    n_neighbours
        Training spots retrieved per prediction.
    retrieval
        `"average"`, their mean; `"simple"`, the nearest one alone; `"weighted"`, weights exp(-squared distance).

    Notes
    -----
    Unknown entries of the training spots are the gene's mean in the input of the network, and do not enter a prediction.
    """

    about: ClassVar[About] = PREDICTORS["bleep"]
    backbone: str = "timm:resnet50.a1_in1k"
    loss_chunk: int = parameter(128, least=1, whole=True)
    temperature: float = parameter(1.0, least=1e-6)
    n_neighbours: int = parameter(50, least=1, whole=True)
    retrieval: str = parameter("average", choices=RETRIEVALS)
    learning_rate: float | str = rate(1e-3)
    optimizer: str = parameter("adamw", choices=OPTIMIZERS)
    weight_decay: float = parameter(1e-3, least=0)

    def make_network(self, shape: Shape, weights: str | Path) -> BleepNet:
        """The network before training."""
        return BleepNet(self.backbone, weights, shape)

    def prepare(self, network: BleepNet, train: Spots) -> None:
        """Keep the expression of the training spots."""
        target, known = train.targets()
        mean = train.gene_means()
        network.bank.fill(np.where(known, target, mean), train.library, known)
        network.mean.copy_(torch.as_tensor(mean))

    def loss(self, network: BleepNet, batch: Batch) -> torch.Tensor:
        """Contrastive loss, within chunks of the batch."""
        expression, image = network.expression(network.bank.expression[batch.rows]), network.image(batch.tokens)
        chunks = zip(expression.split(self.loss_chunk), image.split(self.loss_chunk), strict=True)
        losses = [len(e) * contrastive_loss(e, i, self.temperature) for e, i in chunks]
        return sum(losses[1:], start=losses[0]) / len(batch)

    def output(self, network: BleepNet, batch: Batch) -> torch.Tensor:
        """Mean expression of the training spots that are retrieved."""
        query, bank = network.image(batch.tokens), network.bank
        k = 1 if self.retrieval == "simple" else self.n_neighbours
        spot = bank.nearest(functional.normalize(query, dim=1), k, batch.own)
        weight = torch.ones(spot.shape, device=spot.device)
        if self.retrieval == "weighted":
            found = network.expression(bank.expression[spot])
            weight = (-(query[:, None] - found).square().sum(dim=2)).softmax(dim=1)
        weight = weight[:, :, None] * bank.known[spot]
        total = weight.sum(dim=1)
        average = (weight * bank.expression[spot]).sum(dim=1) / total
        return torch.where(total > 0, average, network.mean)
