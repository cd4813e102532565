"""Networks that are guided by exemplars: training spots of other libraries that look like a spot."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import torch
from torch import nn

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import Backbone, Normalise
from spared_sc._models.prediction.bank import Bank
from spared_sc._models.prediction.batch import Targets
from spared_sc._models.prediction.networks import GeneNetwork, NetworkPredictor, rate
from spared_sc._models.prediction.spots import present
from spared_sc._models.training import OPTIMIZERS

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape
    from spared_sc._models.prediction.spots import Spots

_CENTRE = (0.5, 0.5, 0.5)  # of the encoder's images: mean, and standard deviation too
_LEAST_VARIANCE = 1e-8  # of a gene in a batch, below which it has no correlation


class GuidedNetwork(GeneNetwork):
    """A network that looks up training spots; every gene is on the scale 0 to 1 of its known training values."""

    low: torch.Tensor
    span: torch.Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.n_genes = shape.n_genes
        self.bank = Bank(shape.n_train, present(shape.n_features, "embedding"), shape.n_genes)
        self.register_buffer("low", torch.zeros(shape.n_genes))
        self.register_buffer("span", torch.ones(shape.n_genes))


Net = TypeVar("Net", bound=GuidedNetwork)


def mean_correlation(estimate: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Mean over genes of the Pearson correlation over the known spots; of genes that vary there, 0 if none does."""
    known = torch.ones_like(targets.values) if targets.known is None else targets.known.to(targets.values.dtype)
    n = known.sum(dim=0).clamp(min=1)

    def centred(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        deviation = (values - (values * known).sum(dim=0) / n) * known
        return deviation, (deviation**2).sum(dim=0) / n

    estimated, variance = centred(estimate)
    target, target_variance = centred(targets.values)
    varies = target_variance > _LEAST_VARIANCE
    spread = (variance.clamp(min=_LEAST_VARIANCE) * target_variance.clamp(min=_LEAST_VARIANCE)).sqrt()
    correlation = (estimated * target).sum(dim=0) / n / spread
    return (correlation * varies).sum() / varies.sum().clamp(min=1)


@dataclass(kw_only=True, eq=False)
class GuidedPredictor(NetworkPredictor[Net]):
    """A network that is guided by exemplars.

    Parameters
    ----------
    encoder
        Frozen network whose features find the exemplars: the nearest training spots of *other* libraries. Its weights are
        `weights`.
    n_exemplars
        Exemplars per spot.
    correlation_weight
        Weight of 1 - mean correlation over the genes of a batch, beside the mean squared error.
    """

    least_train: ClassVar[int] = 2
    metric: ClassVar[str]  # of the features' distance, "l1" or "l2"
    encoder: str
    n_exemplars: int = parameter(6, least=1, whole=True)
    correlation_weight: float = parameter(0.5, least=0)
    image_size: int = parameter(256, least=1, whole=True)
    augment: bool = parameter(False, choices=(False, True))
    learning_rate: float | str = rate(5e-4)
    optimizer: str = parameter("adamw", choices=OPTIMIZERS)
    weight_decay: float = parameter(1e-4, least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._found: dict[bytes, torch.Tensor] | None = None  # exemplars by the spots they are of, during a fit

    @abstractmethod
    def guided(self, network: Net, batch: Batch, exemplars: torch.Tensor) -> torch.Tensor:
        """Expression (n, g) of the predicted spots, on the scale 0 to 1, from exemplars: rows (m, k) of the bank."""

    def make_front(self, shape: Shape, weights: str | Path) -> nn.Module | None:
        """The frozen encoder, which sees pixels on the authors' scale; an embedding needs none."""
        return Backbone(self.encoder, weights, Normalise(_CENTRE, _CENTRE)) if shape.n_features is None else None

    def prepare(self, network: Net, train: Spots) -> None:
        """Keep features and expression of the training spots."""
        # A copy of the spot's section would give the spot itself as its exemplar.
        library = train.library if train.section is None else train.section
        if len(np.unique(library)) < 2:
            raise ValueError(
                "all training spots are of one library, and exemplars come from libraries other than the spot's own: "
                f"train {self.name} on two or more, or use another model."
            )
        target, known = train.targets()
        known = known | ~known.any(axis=0)
        low = np.where(known, target, np.inf).min(axis=0)
        span = np.where(known, target, -np.inf).max(axis=0) - low
        span = np.where(span > 0, span, 1)
        network.bank.fill((np.where(known, target, train.gene_means()) - low) / span, library)
        network.bank.feature.copy_(torch.as_tensor(present(train.embedding, "embedding")))
        network.low.copy_(torch.as_tensor(low))
        network.span.copy_(torch.as_tensor(span))

    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Learn from `train`; the features are fixed, so that exemplars are looked up once for all steps."""
        self._found = {}
        try:
            super().fit(train, validation, compute)
        finally:
            self._found = None

    def _nearest(
        self, network: Net, feature: torch.Tensor, own: torch.Tensor | None, rows: torch.Tensor | None
    ) -> torch.Tensor:
        """Rows of the bank nearest to features: of some validation spots or, where `rows` is `None`, of all training spots."""
        key = b"" if rows is None else rows.cpu().numpy().tobytes()
        known = None if self._found is None else self._found.get(key)
        if known is None:
            known = network.bank.nearest(feature, self.n_exemplars, own, metric=self.metric)
            if self._found is not None:
                self._found[key] = known
        return known

    def loss(self, network: Net, batch: Batch) -> torch.Tensor:
        """Squared error, and what the correlation of the genes lacks to one."""
        exemplars = self._nearest(network, network.bank.feature, network.bank.library, None)
        targets = present(batch.targets, "target")
        estimate = self.guided(network, batch, exemplars[batch.rows])
        scaled = Targets((targets.values - network.low) / network.span, targets.known)
        return scaled.loss(estimate) + self.correlation_weight * (1 - mean_correlation(estimate, scaled))

    def output(self, network: Net, batch: Batch) -> torch.Tensor:
        """Expression, on the scale of the target."""
        exemplars = self._nearest(network, present(batch.embedding, "embedding"), batch.own, batch.rows)
        return network.low + network.span * self.guided(network, batch, exemplars)
