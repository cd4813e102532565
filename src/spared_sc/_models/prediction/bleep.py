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
from spared_sc._models.prediction.networks import GeneNetwork, NetworkPredictor, Targets, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.retrieval import nearest
from spared_sc._models.training import OPTIMIZERS, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.compute import Compute
    from spared_sc._core.registry import About
    from spared_sc._models.prediction.base import Spots

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

    def __init__(self, backbone: str, weights: str | Path, n_genes: int) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.body = Backbone(backbone, weights)
        self.image_head = ProjectionHead(self.body.n_features)
        self.expression = ProjectionHead(n_genes)

    def image(self, images: torch.Tensor) -> torch.Tensor:
        with mixed_precision(images.device):
            features = self.body(images)
        return self.image_head(features.float())


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
class Bleep(NetworkPredictor[BleepNet]):
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

    def make_network(self, n_genes: int, weights: str | Path) -> BleepNet:
        """The network before training."""
        return BleepNet(self.backbone, weights, n_genes)

    def _prepare(self, train: Spots, compute: Compute, device: torch.device) -> None:
        target, known = train.targets()
        mean = train.gene_means()
        self.reference = {
            "expression": torch.as_tensor(np.where(known, target, mean), dtype=torch.float32),
            "known": torch.as_tensor(known),
            "mean": torch.as_tensor(mean),
            "library": torch.as_tensor(train.library, dtype=torch.int64),
        }

    def _loss(self, network: BleepNet, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        values = self.reference["expression"][rows]
        expression, image = network.expression(values), network.image(images)
        chunks = zip(expression.split(self.loss_chunk), image.split(self.loss_chunk), strict=True)
        losses = [len(e) * contrastive_loss(e, i, self.temperature) for e, i in chunks]
        return sum(losses[1:], start=losses[0]) / len(rows)

    def _before_output(self, network: BleepNet) -> None:
        self._embedding = torch.cat([network.expression(part) for part in self.reference["expression"].split(_ROWS)])
        self._direction = functional.normalize(self._embedding, dim=1)

    def _output(self, network: BleepNet, images: torch.Tensor, spots: Spots, own: torch.Tensor | None) -> torch.Tensor:
        query = network.image(images)
        k = 1 if self.retrieval == "simple" else self.n_neighbours
        # At unit length, the nearest are those of the largest cosine.
        spot = nearest(functional.normalize(query, dim=1), self._direction, k, own, self.reference["library"])
        weight = torch.ones(spot.shape, device=spot.device)
        if self.retrieval == "weighted":
            weight = (-(query[:, None] - self._embedding[spot]).square().sum(dim=2)).softmax(dim=1)
        weight = weight[:, :, None] * self.reference["known"][spot]
        total = weight.sum(dim=1)
        average = (weight * self.reference["expression"][spot]).sum(dim=1) / total
        return torch.where(total > 0, average, self.reference["mean"])
