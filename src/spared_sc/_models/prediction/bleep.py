"""BLEEP (Xie et al. 2023): patches and expression embedded together; a patch takes the expression of its neighbours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.validate import check_number
from spared_sc._models.prediction.backbones import Backbone
from spared_sc._models.prediction.networks import NetworkPredictor, Targets
from spared_sc._models.prediction.retrieval import nearest
from spared_sc._models.training import mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._models.prediction.base import How, Spots

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


class BleepNet(nn.Module):
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
    """Cross-entropy between who is like whom across the two kinds of embedding (n, d) and within them.

    Equations 1 to 4 of the paper; the embeddings are not normalised and gradients flow through the targets.
    """
    logits = expression @ image.T / temperature
    alike = (image @ image.T + expression @ expression.T) / 2 / temperature
    targets = alike.softmax(dim=1)
    by_row = -(targets * logits.log_softmax(dim=1)).sum(dim=1)
    by_column = -(targets * logits.log_softmax(dim=0)).sum(dim=0)
    return (by_row + by_column).mean() / 2


@dataclass(kw_only=True, eq=False)
class Bleep(NetworkPredictor):
    """Contrastive embeddings and retrieval from the training spots; other parameters as `NetworkPredictor`.

    Parameters
    ----------
    backbone
        Of the patches.
    loss_chunk
        Spots of a batch that are compared with one another. The authors' batch of 512 was four such chunks, and one chunk
        of 512 is reported not to learn.
    temperature
        Of the loss.
    n_neighbours
        Training spots that a prediction is made of.
    retrieval
        `"average"`, their mean; `"simple"`, the nearest one alone; `"weighted"`, weights exp(-squared distance).

    Notes
    -----
    Entries of the training spots that are not known are the gene's mean where the network takes expression in, and do not
    enter a prediction.
    """

    name: ClassVar[str] = "bleep"
    paper: ClassVar[str] = "Xie et al. (2023)"
    pretrained: ClassVar[str] = "timm resnet50.a1_in1k (Apache-2.0)"
    backbone: str = "timm:resnet50.a1_in1k"
    loss_chunk: int = 128
    temperature: float = 1.0
    n_neighbours: int = 50
    retrieval: str = "average"
    learning_rate: float | str = 1e-3
    optimizer: str = "adamw"
    weight_decay: float = 1e-3

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.retrieval not in RETRIEVALS:
            raise ValueError(f"retrieval={self.retrieval!r}: expected one of {', '.join(RETRIEVALS)}.")
        check_number("loss_chunk", self.loss_chunk, 1, whole=True)
        check_number("n_neighbours", self.n_neighbours, 1, whole=True)
        check_number("temperature", self.temperature, 1e-6)

    def make_network(self, n_genes: int, weights: str | Path) -> BleepNet:
        """The network before training."""
        return BleepNet(self.backbone, weights, n_genes)

    def _prepare(self, train: Spots, how: How) -> None:
        known = np.ones(train.target.shape, bool) if train.known is None else train.known
        mean = train.gene_means()
        self.reference = {
            "expression": torch.as_tensor(np.where(known, train.target, mean), dtype=torch.float32),
            "known": torch.as_tensor(known),
            "mean": torch.as_tensor(mean),
            "library": torch.as_tensor(train.library, dtype=torch.int64),
        }

    def _loss(self, network: BleepNet, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        values = self.reference["expression"][rows]
        expression, image = network.expression(values), network.image(images)
        chunks = zip(expression.split(self.loss_chunk), image.split(self.loss_chunk), strict=True)
        return sum(len(one) * contrastive_loss(one, other, self.temperature) for one, other in chunks) / len(rows)

    def _before_output(self, network: BleepNet) -> None:
        self._embedding = torch.cat([network.expression(part) for part in self.reference["expression"].split(_ROWS)])
        self._direction = functional.normalize(self._embedding, dim=1)

    def _output(self, network: BleepNet, images: torch.Tensor, spots: Spots, own: torch.Tensor | None) -> torch.Tensor:
        query = network.image(images)
        k = 1 if self.retrieval == "simple" else self.n_neighbours
        # At unit length, the nearest are those of the largest cosine.
        found = nearest(functional.normalize(query, dim=1), self._direction, k, own, self.reference["library"])
        weight = torch.ones(found.shape, device=found.device)
        if self.retrieval == "weighted":
            weight = (-(query[:, None] - self._embedding[found]).square().sum(dim=2)).softmax(dim=1)
        weight = weight[:, :, None] * self.reference["known"][found]
        total = weight.sum(dim=1)
        average = (weight * self.reference["expression"][found]).sum(dim=1) / total
        return torch.where(total > 0, average, self.reference["mean"])
