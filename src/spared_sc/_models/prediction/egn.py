"""EGN (Yang et al. 2023): a transformer over a patch, guided by training spots whose patches look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.attention import Attention, feedforward
from spared_sc._models.prediction.backbones import Backbone, Normalise
from spared_sc._models.prediction.bank import Bank
from spared_sc._models.prediction.batch import Targets
from spared_sc._models.prediction.networks import GeneNetwork, SpotPredictor, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present
from spared_sc._models.training import OPTIMIZERS, SCHEDULES, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape
    from spared_sc._models.prediction.spots import Spots

_MEAN, _SD = (0.5476, 0.5218, 0.6881), (0.2461, 0.2101, 0.1649)  # of the authors' patches
_CENTRE = (0.5, 0.5, 0.5)  # of the encoder's images: mean, and standard deviation too
_HEAD_WIDTH = 64  # of the bridge
_BRIDGE_HEADS = 8
_GATE_WIDTH = 256
_POOL_TEMPERATURE, _POOL_SHARE = 0.1, 0.5
_LEAST_VARIANCE = 1e-8  # of a gene in a batch, below which it has no correlation


class Bridge(nn.Module):
    """Passes information from the exemplars to the view of the whole patch, and between that and its tokens."""

    def __init__(self, width: int, n_tokens: int) -> None:
        super().__init__()
        inner = _BRIDGE_HEADS * _HEAD_WIDTH
        self.gates = nn.Sequential(nn.Linear(2 * width, _GATE_WIDTH), nn.SiLU(), nn.Linear(_GATE_WIDTH, 2 * width))
        self.value = nn.Linear(width, width)
        self.exemplar_norm = nn.LayerNorm(width)
        self.token_value = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, inner))
        self.token_gate = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_tokens * _BRIDGE_HEADS))
        self.to_tokens = nn.Linear(inner, width, bias=False)
        self.to_view = nn.Linear(inner, width, bias=False)
        # The published model has this layer and never calls it: it keeps the number of parameters as published.
        self.idle = nn.Linear(inner, width)

    def forward(
        self, tokens: torch.Tensor, view: torch.Tensor, exemplars: torch.Tensor, values: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens (n, t, width), view (n, width) and exemplars (n, k, width), updated from these and the exemplars' values."""
        gates = self.gates(torch.cat([view[:, None] - exemplars, exemplars], dim=2)).sigmoid()
        for_view, for_exemplars = gates.chunk(2, dim=2)
        value = self.value(values)
        view = view + (for_view * value).mean(dim=1)
        exemplars = self.exemplar_norm(exemplars + for_exemplars * value)
        gate = self.token_gate(view).sigmoid().unflatten(1, (-1, _BRIDGE_HEADS, 1))
        passed = (self.token_value(tokens).unflatten(2, (_BRIDGE_HEADS, -1)) * gate).flatten(2)
        return tokens + self.to_tokens(passed), view + self.to_view(passed.mean(dim=1)), exemplars


class EgnNet(GeneNetwork):
    """Transformer over the tokens of a patch, with bridges to exemplars in every second block.

    On an embedding, that is the only token.
    """

    low: torch.Tensor
    span: torch.Tensor

    def __init__(self, shape: Shape, sizes: Egn, *, on_patches: bool) -> None:
        super().__init__()
        width, depth, n_genes = sizes.width, sizes.depth, shape.n_genes
        n_features = present(shape.n_features, "embedding")
        self.n_genes = n_genes
        self.token_size = sizes.token_size
        n_tokens = (sizes.image_size // sizes.token_size) ** 2 if on_patches else 1
        self.normalise = Normalise(_MEAN, _SD)
        self.embed = nn.Linear(3 * sizes.token_size**2 if on_patches else n_features, width)
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.view = nn.Linear(n_features, width)
        self.exemplar = nn.Linear(n_features + n_genes, width)
        self.player = nn.ModuleList(feedforward(width, width) for _ in range(2))
        self.value = nn.Linear(n_genes, width)
        self.attention = nn.ModuleList(Attention(width, sizes.n_heads) for _ in range(depth))
        self.bridge = nn.ModuleList(Bridge(width, n_tokens) for _ in range(depth // 2))
        self.feedforward = nn.ModuleList(feedforward(width, sizes.feedforward) for _ in range(depth))
        self.score = nn.Linear(width, width)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, n_genes))
        self.bank = Bank(shape.n_train, n_features, n_genes)
        self.register_buffer("low", torch.zeros(n_genes))
        self.register_buffer("span", torch.ones(n_genes))

    def forward(self, images: torch.Tensor | None, feature: torch.Tensor, exemplars: torch.Tensor) -> torch.Tensor:
        """Expression (n, g), between 0 and 1, from images, their features (n, d), and rows (n, k) of exemplars."""
        with mixed_precision(feature.device):
            if images is None:
                tokens = feature[:, None]
            else:
                tokens = functional.unfold(self.normalise(images), self.token_size, stride=self.token_size)
                tokens = tokens.transpose(1, 2)
            joined = self._joined(tokens, feature, self.bank.feature[exemplars], self.bank.expression[exemplars])
        return self.head(joined.float())

    def _joined(
        self, tokens: torch.Tensor, feature: torch.Tensor, alike: torch.Tensor, expression: torch.Tensor
    ) -> torch.Tensor:
        tokens = self.embed(tokens) + self.position
        seen = torch.cat([self.view(feature)[:, None], self.exemplar(torch.cat([alike, expression], dim=2))], dim=1)
        for layer in self.player:
            seen = seen + layer(seen)
        view, exemplars, values = seen[:, 0], seen[:, 1:], self.value(expression)
        for i, (attention, perceptron) in enumerate(zip(self.attention, self.feedforward, strict=True)):
            tokens = tokens + attention(tokens + self.position)
            if i % 2:
                tokens, view, exemplars = self.bridge[i // 2](tokens, view, exemplars, values)
            tokens = tokens + perceptron(tokens)
        score = self.score(tokens)
        attended = ((_POOL_TEMPERATURE * score).softmax(dim=1) * score).sum(dim=1)
        return torch.cat([score.mean(dim=1) + _POOL_SHARE * attended, view], dim=1)


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
class Egn(SpotPredictor[EgnNet]):
    """Exemplar-guided network, trained from scratch.

    Parameters
    ----------
    encoder
        Frozen network whose features find the exemplars: the nearest training spots of *other* libraries. Its weights are
        `weights`.
    n_exemplars
        Exemplars per spot.
    correlation_weight
        Weight of 1 - mean correlation over the genes of a batch, beside the mean squared error.
    token_size
        Side of a token in pixels.
    width
        Width of the transformer.
    depth
        Blocks of the transformer.
    n_heads
        Attention heads of a block.
    feedforward
        Hidden units of a block's feed-forward network.

    Notes
    -----
    The network reads and predicts every gene on the scale 0 to 1 of its known training values. The encoder sees pixels on
    the scale -1 to 1, as the authors' does. They restart the cosine schedule twice per epoch; here it runs once.
    """

    about: ClassVar[About] = PREDICTORS["egn"]
    least_train: ClassVar[int] = 2
    sees_patches: ClassVar[bool] = True
    encoder: str = "torchvision:resnet50"
    n_exemplars: int = parameter(6, least=1, whole=True)
    correlation_weight: float = parameter(0.5, least=0)
    token_size: int = parameter(32, least=1, whole=True)
    width: int = parameter(1024, least=1, whole=True)
    depth: int = parameter(8, least=1, whole=True)
    n_heads: int = parameter(16, least=1, whole=True)
    feedforward: int = parameter(4096, least=1, whole=True)
    image_size: int = parameter(256, least=1, whole=True)
    augment: bool = parameter(False, choices=(False, True))
    learning_rate: float | str = rate(5e-4)
    optimizer: str = parameter("adamw", choices=OPTIMIZERS)
    weight_decay: float = parameter(1e-4, least=0)
    schedule: str = parameter("cosine", choices=SCHEDULES)
    final_rate: float = parameter(0.2, least=0, most=1)
    warmup_steps: int = parameter(100, least=0, whole=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size % self.token_size:
            raise ValueError(
                f"image_size={self.image_size!r}: expected a multiple of token_size={self.token_size}, so that tokens "
                "tile the image."
            )

    def make_front(self, shape: Shape, weights: str | Path) -> nn.Module | None:
        """The frozen encoder, which sees pixels on the authors' scale; an embedding needs none."""
        return Backbone(self.encoder, weights, Normalise(_CENTRE, _CENTRE)) if shape.n_features is None else None

    def make_network(self, shape: Shape, weights: str | Path) -> EgnNet:
        """The network before training; `weights` are those of the encoder, which is not part of it."""
        return EgnNet(shape, self, on_patches=self.on_patches)

    def prepare(self, network: EgnNet, train: Spots) -> None:
        """Keep features and expression of the training spots."""
        # A copy of the spot's section would give the spot itself as its exemplar.
        library = train.library if train.section is None else train.section
        if len(np.unique(library)) < 2:
            raise ValueError(
                "all training spots are of one library, and exemplars come from libraries other than the spot's own: "
                "train EGN on two or more, or use another model."
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

    def _scaled_output(self, network: EgnNet, batch: Batch) -> torch.Tensor:
        feature = present(batch.embedding, "embedding")
        return network(batch.images, feature, network.bank.nearest(feature, self.n_exemplars, batch.own))

    def loss(self, network: EgnNet, batch: Batch) -> torch.Tensor:
        """Squared error, and what the correlation of the genes lacks to one."""
        targets, estimate = present(batch.targets, "target"), self._scaled_output(network, batch)
        scaled = Targets((targets.values - network.low) / network.span, targets.known)
        return scaled.loss(estimate) + self.correlation_weight * (1 - mean_correlation(estimate, scaled))

    def output(self, network: EgnNet, batch: Batch) -> torch.Tensor:
        """Expression, on the scale of the target."""
        return network.low + network.span * self._scaled_output(network, batch)
