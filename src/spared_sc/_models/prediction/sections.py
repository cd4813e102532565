"""What the predictors share that attend to a whole section, and those that also learn from counts and from copies."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._kernels.lattice import nearest_on_grids
from spared_sc._models.prediction.networks import GeneNetwork, SectionPredictor
from spared_sc._models.prediction.section_layers import (
    PlaceEmbedding,
    SectionHeads,
    SectionTransformer,
    augmented,
    size_factors,
)
from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    import numpy as np

    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.spots import Spots


class SectionNetwork(GeneNetwork):
    """Expression (m, g) from patches (m, 3, side, side) or an embedding (m, d), places (m, 2) and edges (2, e)."""

    place: PlaceEmbedding

    def of(self, batch: Batch) -> torch.Tensor:
        """Expression of all spots of a batch."""
        return self(batch.tokens, present(batch.place, "place"), present(batch.edges, "lattice"))


class CountNetwork(SectionNetwork):
    """A network with more to say of a spot than its expression: see `SectionHeads`."""

    heads: SectionHeads

    @abstractmethod
    def hidden(self, tokens: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Hidden values (m, width) of the spots of a section."""

    def forward(self, tokens: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Expression (m, g)."""
        return self.heads.expression(self.hidden(tokens, place, edges))


SectionNet = TypeVar("SectionNet", bound=SectionNetwork)
CountNet = TypeVar("CountNet", bound=CountNetwork)


@dataclass(kw_only=True, eq=False)
class AttentionPredictor(SectionPredictor[SectionNet]):
    """A transformer over the spots of a section.

    Parameters
    ----------
    width
        Width of the transformer.
    depth
        Blocks of a transformer.
    n_heads
        Attention heads of a block, each of width 64.
    feedforward
        Hidden units of a block's feed-forward network.
    dropout
        Dropout in the transformer and before it.
    n_places
        Entries of the tables of array rows and array columns. Training sections with more are scaled to fit.
    gradient_checkpointing
        Whether training computes inner values twice instead of storing them: slower, with less memory, to the same result.
    """

    smaller: ClassVar[str] = "train with `gradient_checkpointing=True`, or lower `most_spots` (it changes the result)"
    image_size: int = parameter(112, least=1, whole=True)
    width: int = parameter(1024, least=1, whole=True)
    depth: int = parameter(8, least=1, whole=True)
    n_heads: int = parameter(16, least=1, whole=True)
    feedforward: int = parameter(1024, least=1, whole=True)
    dropout: float = parameter(0.2, least=0, most=1)
    n_places: int = parameter(64, least=1, whole=True)
    gradient_checkpointing: bool = parameter(False, choices=(False, True))

    def transformer(self) -> SectionTransformer:
        """A transformer of these sizes."""
        return SectionTransformer(
            self.depth,
            self.width,
            self.n_heads,
            self.feedforward,
            self.dropout,
            recompute=self.gradient_checkpointing,
        )

    def prepare(self, network: SectionNet, train: Spots) -> None:
        """Take the range of places from the training spots."""
        network.place.cover(torch.as_tensor(present(train.place, "place")))

    def output(self, network: SectionNet, batch: Batch) -> torch.Tensor:
        """Expression of the predicted spots."""
        return network.of(batch)[batch.predicted]


def channels_of(sizes: AttentionPredictor, n_positions: int) -> int:
    """Channels at each of the positions of a patch that together make up the width."""
    if not n_positions or sizes.width % n_positions:
        raise ValueError(
            f"width={sizes.width!r} is no multiple of {n_positions}, the number of positions that {sizes.name} sees in a "
            f"patch of image_size={sizes.image_size!r}: change one of the two."
        )
    return sizes.width // n_positions


@dataclass(kw_only=True, eq=False)
class CountPredictor(AttentionPredictor[CountNet]):
    """A network that also learns the distribution of counts, and from augmented copies of a section.

    Parameters
    ----------
    zinb_weight
        Weight in the loss of the negative log-likelihood of the raw counts, zero-inflated negative binomial.
    distillation_weight
        Weight in the loss of the squared difference of the section's expression from that of its copies.
    n_copies
        Copies of a section. Patches are turned, mirrored or turned to grey; with an embedding copies differ by dropout.
    """

    n_nearest: ClassVar[int]  # neighbours of a spot on a square array
    zinb_weight: float = parameter(0.25, least=0)
    distillation_weight: float = parameter(0.5, least=0)
    n_copies: int = parameter(5, least=1, whole=True)

    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Learn from `train`; on square arrays the neighbours are those that the authors take."""
        super().fit(self._joined(train), None if validation is None else self._joined(validation), compute)

    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        return super().predict(self._joined(spots), compute, own_library=own_library)

    def _joined(self, spots: Spots) -> Spots:
        place, lattice = present(spots.place, "place"), present(spots.lattice, "lattice")
        return replace(spots, lattice=nearest_on_grids(lattice, place, spots.library, self.n_nearest))

    def loss(self, network: CountNet, batch: Batch) -> torch.Tensor:
        """Loss of the target, and of counts and copies."""
        place, edges = present(batch.place, "place"), present(batch.edges, "lattice")

        def hidden(tokens: torch.Tensor) -> torch.Tensor:
            return network.hidden(tokens, place, edges)[batch.predicted]

        values = hidden(batch.tokens)
        expression = network.heads.expression(values)
        loss = present(batch.targets, "target").loss(expression)
        if self.zinb_weight:
            counts = present(batch.counts, "counts")
            size = size_factors(counts)[batch.predicted]
            loss = loss + self.zinb_weight * network.heads.count_loss(values, counts[batch.predicted], size)
        if self.distillation_weight:
            change = augmented if batch.embedding is None else _unchanged
            copies = [hidden(change(batch.tokens)) for _ in range(self.n_copies)]
            distance = functional.mse_loss(network.heads.distilled(copies), expression)
            loss = loss + self.distillation_weight * distance
        return loss


def _unchanged(tokens: torch.Tensor) -> torch.Tensor:
    return tokens
