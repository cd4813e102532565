"""EGGN (Yang et al. 2024): a graph of the spots of a section and of training spots whose patches look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.bank import nearest
from spared_sc._models.prediction.exemplars import GuidedNetwork, GuidedPredictor
from spared_sc._models.prediction.graph_layers import SAGEConv
from spared_sc._models.prediction.networks import SectionPredictor
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.bank import Bank
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape

_SLOPE = 0.2  # of the rectifiers between layers, below zero
_GATE_SHARE = 4  # features that share a gate
_POOL_TEMPERATURE, _POOL_SHARE = 0.1, 0.1  # the second one where training starts


@dataclass(frozen=True)
class Exemplars:
    """Training spots that the spots of a section look like."""

    feature: torch.Tensor  # (e, d)
    expression: torch.Tensor  # (e, g)
    of_spot: torch.Tensor  # (m, k) which ones each spot looks like
    edges: torch.Tensor  # (2, ...) from each one's nearest in features and expression to it

    @classmethod
    def gather(cls, bank: Bank, retrieved: torch.Tensor, n_alike: int) -> Exemplars:
        """The `retrieved` (m, k) spots of the bank, each with an edge from the `n_alike` nearest of them."""
        rows, of_spot = retrieved.unique(return_inverse=True)
        feature, expression = bank.feature[rows], bank.expression[rows]
        edges = torch.empty(2, 0, dtype=torch.int64, device=rows.device)
        if len(rows) > 1:
            joined, one = torch.cat([feature, expression], dim=1), torch.arange(len(rows), device=rows.device)
            alike = nearest(joined, joined, n_alike, one, one)  # each but itself
            edges = torch.stack([alike.flatten(), one.repeat_interleave(alike.shape[1])])
        return cls(feature, expression, of_spot, edges)


class ExemplarBridge(nn.Module):
    """Passes messages between spots and their exemplars, and the expression of these, through gates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        n_gates = width // _GATE_SHARE
        self.spot = nn.Linear(width, width)
        self.exemplar = nn.Linear(width, width)
        self.expression = nn.Linear(width, width)
        self.compare = nn.Linear(width, n_gates)
        self.gates = nn.Linear(n_gates, 2 * n_gates)
        self.bias = nn.Parameter(torch.zeros(width))
        self.to_spot = nn.Linear(width, width)
        self.to_exemplar = nn.Linear(width, width)

    def forward(
        self, spots: torch.Tensor, exemplars: torch.Tensor, expression: torch.Tensor, of_spot: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Messages to spots (m, width) and to exemplars (e, width)."""
        spots, exemplars = self.spot(spots), self.exemplar(exemplars)
        difference = self._compared(exemplars)[of_spot] - self._compared(spots)[:, None]
        for_spot, for_exemplar = self.gates(functional.leaky_relu(difference)).sigmoid().chunk(2, dim=2)
        message = ((exemplars + self.expression(expression))[of_spot] + spots[:, None]) / 3
        to_spot = self._gated(message, for_spot).mean(dim=1)
        back = self._gated(message, for_exemplar).flatten(0, 1)
        to_exemplar = torch.zeros_like(exemplars).index_add(0, of_spot.flatten(), back)
        count = torch.bincount(of_spot.flatten(), minlength=len(exemplars))
        return self.to_spot(to_spot + self.bias), self.to_exemplar(to_exemplar / count[:, None] + self.bias)

    def _compared(self, features: torch.Tensor) -> torch.Tensor:
        return self.compare(functional.leaky_relu(features))

    @staticmethod
    def _gated(message: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        return message * gate.repeat(1, 1, _GATE_SHARE)


class Layer(nn.Module):
    """Means of what a spot is told by adjacent spots and by its exemplars, and an exemplar by like ones and its spots."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.adjacent = SAGEConv(width, width)
        self.alike = SAGEConv(width, width)
        self.bridge = ExemplarBridge(width)

    def forward(
        self,
        spots: torch.Tensor,
        exemplars: torch.Tensor,
        expression: torch.Tensor,
        edges: torch.Tensor,
        found: Exemplars,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        to_spots, to_exemplars = self.bridge(spots, exemplars, expression, found.of_spot)
        spots = (self.adjacent(spots, edges) + to_spots) / 2
        exemplars = (self.alike(exemplars, found.edges) + to_exemplars) / 2
        return functional.leaky_relu(spots, _SLOPE), functional.leaky_relu(exemplars, _SLOPE)


class Readout(nn.Module):
    """Adds to each spot the sum of its exemplars, weighted feature by feature by how far they exceed the spot."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spot = nn.Linear(width, width)
        self.share = nn.Parameter(torch.tensor(_POOL_SHARE))

    def forward(self, spots: torch.Tensor, exemplars: torch.Tensor, of_spot: torch.Tensor) -> torch.Tensor:
        spots, own = self.spot(spots), exemplars[of_spot]
        weight = (_POOL_TEMPERATURE * (own - spots[:, None])).softmax(dim=1)
        return spots + self.share * (weight * own).sum(dim=1)


class EggnNet(GuidedNetwork):
    """Graph network over the spots of a section and their exemplars."""

    def __init__(self, shape: Shape, *, width: int, n_layers: int) -> None:
        super().__init__(shape)
        n_genes, n_features = shape.n_genes, present(shape.n_features, "embedding")
        self.spot = nn.Linear(n_features, width, bias=False)
        self.exemplar = nn.Linear(n_features + n_genes, width, bias=False)
        self.shared = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.Linear(width, width), nn.LeakyReLU())
        self.expression = nn.Linear(n_genes, width)
        self.layers = nn.ModuleList(Layer(width) for _ in range(n_layers))
        self.readout = Readout(width)
        self.head = nn.Linear(width, n_genes)

    def forward(self, feature: torch.Tensor, edges: torch.Tensor, found: Exemplars) -> torch.Tensor:
        """Expression (m, g) from features (m, d) of the spots of a section, its lattice edges (2, e), and exemplars."""
        spots = self.shared(self.spot(feature))
        exemplars = self.shared(self.exemplar(torch.cat([found.feature, found.expression], dim=1)))
        expression = self.expression(found.expression)
        for layer in self.layers:
            spots, exemplars = layer(spots, exemplars, expression, edges, found)
        return self.head(self.readout(spots, exemplars, found.of_spot))


@dataclass(kw_only=True, eq=False)
class Eggn(GuidedPredictor[EggnNet], SectionPredictor[EggnNet]):
    """Graph network over a section and its exemplars.

    Parameters
    ----------
    n_alike
        Exemplars from which each one gets messages: the nearest in features and expression.
    width
        Width of the network, a multiple of 4.
    n_layers
        Rounds of messages.

    Notes
    -----
    Exemplars pass messages across the section, so that tiles (`most_spots`) change predictions. Kept from the released code:
    features of ResNet-18 that stay as they are, exemplars by the sum of absolute differences, the mean over the kinds of
    messages, the weight of the correlation. Mended: the expression of the exemplars reaches the branch that is named after
    it (theirs cuts a slice out of hidden features); spots are joined where they touch on the lattice (theirs joins up to
    five whose centres, in whole tiles of 256 pixels, are at most the square root of 2 apart; on Visium two spots may
    share a tile); the best step is chosen on validation sections (theirs on the test fold).
    """

    about: ClassVar[About] = PREDICTORS["eggn"]
    metric: ClassVar[str] = "l1"
    encoder: str = "torchvision:resnet18"
    augment: bool = parameter(False, choices=(False,))  # the features are those of the patches as they are
    n_alike: int = parameter(3, least=1, whole=True)
    width: int = parameter(512, least=_GATE_SHARE, whole=True)
    n_layers: int = parameter(4, least=1, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width % _GATE_SHARE:
            raise ValueError(
                f"width={self.width!r}: expected a multiple of {_GATE_SHARE}, as so many features share a gate."
            )

    def make_network(self, shape: Shape, weights: str | Path) -> EggnNet:
        """The network before training; `weights` are those of the encoder, which is not part of it."""
        return EggnNet(shape, width=self.width, n_layers=self.n_layers)

    def guided(self, network: EggnNet, batch: Batch, exemplars: torch.Tensor) -> torch.Tensor:
        """Expression of the predicted spots, on the scale 0 to 1."""
        found = Exemplars.gather(network.bank, exemplars, self.n_alike)
        feature, edges = present(batch.embedding, "embedding"), present(batch.edges, "lattice")
        return network(feature, edges, found)[batch.predicted]
