"""EGN (Yang et al. 2023): a transformer over a patch, guided by training spots whose patches look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import RANDOM, Backbone, Normalise
from spared_sc._models.prediction.base import Reading, present
from spared_sc._models.prediction.networks import BATCH, GeneNetwork, NetworkPredictor, Targets, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.retrieval import nearest
from spared_sc._models.training import OPTIMIZERS, SCHEDULES, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.compute import Compute
    from spared_sc._core.registry import About
    from spared_sc._models.prediction.base import Spots

_MEAN, _SD = (0.5476, 0.5218, 0.6881), (0.2461, 0.2101, 0.1649)  # of the authors' patches
_CENTRE = (0.5, 0.5, 0.5)  # of the encoder's images: mean, and standard deviation too
_HEAD_WIDTH = 64
_BRIDGE_HEADS = 8
_GATE_WIDTH = 256
_POOL_TEMPERATURE, _POOL_SHARE = 0.1, 0.5
_FROZEN = "frozen."  # of names of saved arrays
_LEAST_VARIANCE = 1e-8  # of a gene in a batch, below which it has no correlation


class Attention(nn.Module):
    """Self-attention of the tokens, normalised first."""

    def __init__(self, width: int, n_heads: int) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * n_heads * _HEAD_WIDTH, bias=False)
        self.out = nn.Linear(n_heads * _HEAD_WIDTH, width)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        query, key, value = self.qkv(self.norm(tokens)).unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out(functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


def _feedforward(width: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))


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
    """Transformer over the tokens of a patch, with bridges to exemplars in every second block."""

    def __init__(self, n_genes: int, n_features: int, sizes: Egn) -> None:
        super().__init__()
        width, depth, token_size = sizes.width, sizes.depth, sizes.token_size
        self.n_genes = n_genes
        self.n_features = n_features
        self.token_size = token_size
        n_tokens = (sizes.image_size // token_size) ** 2
        self.normalise = Normalise(_MEAN, _SD)
        self.embed = nn.Linear(3 * token_size**2, width)
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, width))
        self.view = nn.Linear(n_features, width)
        self.exemplar = nn.Linear(n_features + n_genes, width)
        self.player = nn.ModuleList(_feedforward(width, width) for _ in range(2))
        self.value = nn.Linear(n_genes, width)
        self.attention = nn.ModuleList(Attention(width, sizes.n_heads) for _ in range(depth))
        self.bridge = nn.ModuleList(Bridge(width, n_tokens) for _ in range(depth // 2))
        self.feedforward = nn.ModuleList(_feedforward(width, sizes.feedforward) for _ in range(depth))
        self.score = nn.Linear(width, width)
        self.head = nn.Sequential(nn.LayerNorm(2 * width), nn.Linear(2 * width, n_genes))

    def forward(
        self, images: torch.Tensor, feature: torch.Tensor, alike: torch.Tensor, expression: torch.Tensor
    ) -> torch.Tensor:
        """Expression (n, g) from images, their features (n, d), and features (n, k, d) and expression of exemplars."""
        with mixed_precision(images.device):
            joined = self._joined(self.normalise(images), feature, alike, expression)
        return self.head(joined.float())

    def _joined(
        self, images: torch.Tensor, feature: torch.Tensor, alike: torch.Tensor, expression: torch.Tensor
    ) -> torch.Tensor:
        tokens = functional.unfold(images, self.token_size, stride=self.token_size).transpose(1, 2)
        tokens = self.embed(tokens) + self.position
        seen = torch.cat([self.view(feature)[:, None], self.exemplar(torch.cat([alike, expression], dim=2))], dim=1)
        for layer in self.player:
            seen = seen + layer(seen)
        view, exemplars, values = seen[:, 0], seen[:, 1:], self.value(expression)
        for i, (attention, feedforward) in enumerate(zip(self.attention, self.feedforward, strict=True)):
            tokens = tokens + attention(tokens + self.position)
            if i % 2:
                tokens, view, exemplars = self.bridge[i // 2](tokens, view, exemplars, values)
            tokens = tokens + feedforward(tokens)
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
class Egn(NetworkPredictor[EgnNet]):
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
        self.frozen: Backbone | None = None

    def make_network(self, n_genes: int, weights: str | Path) -> EgnNet:
        """The network before training; `weights` are those of the encoder, which is not part of it."""
        feature = self.reference.get("feature")
        n_features = self._encoder(RANDOM).n_features if feature is None else feature.shape[1]
        return EgnNet(n_genes, n_features, self)

    def _encoder(self, weights: str | Path) -> Backbone:
        """The network of the features, which see pixels on the authors' scale."""
        return Backbone(self.encoder, weights, Normalise(_CENTRE, _CENTRE)).eval()

    def _prepare(self, train: Spots, compute: Compute, device: torch.device) -> None:
        # A copy of the spot's section would give the spot itself as its exemplar.
        library = torch.as_tensor(train.library if train.section is None else train.section, dtype=torch.int64)
        if len(library.unique()) < 2:
            raise ValueError(
                "all training spots are of one library, and exemplars come from libraries other than the spot's own: "
                "train EGN on two or more, or use another model."
            )
        target, known = train.targets()
        known = known | ~known.any(axis=0)
        low = np.where(known, target, np.inf).min(axis=0)
        span = np.where(known, target, -np.inf).max(axis=0) - low
        span = np.where(span > 0, span, 1)
        expression = (np.where(known, target, train.gene_means()) - low) / span
        self.frozen = self._encoder(self.weights).to(device)
        feature = self._features(self.frozen, train, compute, device)
        arrays = {"feature": feature, "expression": expression, "low": low, "span": span}
        self.reference = {name: torch.as_tensor(array, dtype=torch.float32) for name, array in arrays.items()}
        self.reference["library"] = library
        self._move(device)
        self._exemplars = self._alike(self.reference["feature"], self.reference["library"])

    def _features(self, frozen: Backbone, train: Spots, compute: Compute, device: torch.device) -> torch.Tensor:
        """Features of all training patches by the frozen network."""
        size = compute.batch_size or BATCH
        with Reading(present(train.patches, "patches")) as reading, torch.no_grad():
            batches = reading.batches(size)
            pieces = self._in_pieces(
                lambda images, _: frozen(images), batches, size, device, n_threads=compute.n_threads
            )
            return torch.cat(list(pieces))

    def _alike(self, feature: torch.Tensor, own: torch.Tensor | None) -> torch.Tensor:
        return nearest(feature, self.reference["feature"], self.n_exemplars, own, self.reference["library"])

    def _guided(
        self, network: EgnNet, images: torch.Tensor, feature: torch.Tensor, exemplars: torch.Tensor
    ) -> torch.Tensor:
        return network(images, feature, self.reference["feature"][exemplars], self.reference["expression"][exemplars])

    def _loss(self, network: EgnNet, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        estimate = self._guided(network, images, self.reference["feature"][rows], self._exemplars[rows])
        scaled = Targets((targets.values - self.reference["low"]) / self.reference["span"], targets.known)
        return scaled.loss(estimate) + self.correlation_weight * (1 - mean_correlation(estimate, scaled))

    def _output(self, network: EgnNet, images: torch.Tensor, spots: Spots, own: torch.Tensor | None) -> torch.Tensor:
        feature = present(self.frozen, "encoder")(images)
        estimate = self._guided(network, images, feature, self._alike(feature, own))
        return self.reference["low"] + self.reference["span"] * estimate

    def _move(self, device: torch.device) -> None:
        super()._move(device)
        if self.frozen is not None:
            self.frozen.to(device)

    def _learned(self) -> dict[str, np.ndarray]:
        frozen = present(self.frozen, "encoder").state_dict()
        return {**super()._learned(), **{_FROZEN + name: value.cpu().numpy() for name, value in frozen.items()}}

    def _restore(self, learned: dict[str, np.ndarray]) -> None:
        frozen = {name: array for name, array in learned.items() if name.startswith(_FROZEN)}
        super()._restore({name: array for name, array in learned.items() if name not in frozen})
        self.frozen = self._encoder(RANDOM)
        self.frozen.load_state_dict({name.removeprefix(_FROZEN): torch.tensor(a) for name, a in frozen.items()})
