"""EGN (Yang et al. 2023): a transformer over a patch, guided by training spots whose patches look alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.attention import Attention, feedforward
from spared_sc._models.prediction.backbones import Normalise
from spared_sc._models.prediction.exemplars import GuidedNetwork, GuidedPredictor
from spared_sc._models.prediction.networks import SpotPredictor
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present
from spared_sc._models.training import SCHEDULES, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape

_MEAN, _SD = (0.5476, 0.5218, 0.6881), (0.2461, 0.2101, 0.1649)  # of the authors' patches
_HEAD_WIDTH = 64  # of the bridge
_BRIDGE_HEADS = 8
_GATE_WIDTH = 256
_POOL_TEMPERATURE, _POOL_SHARE = 0.1, 0.5


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


class EgnNet(GuidedNetwork):
    """Transformer over the tokens of a patch, with bridges to exemplars in every second block.

    On an embedding, that is the only token.
    """

    def __init__(self, shape: Shape, sizes: Egn, *, on_patches: bool) -> None:
        super().__init__(shape)
        width, depth, n_genes = sizes.width, sizes.depth, shape.n_genes
        n_features = present(shape.n_features, "embedding")
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


@dataclass(kw_only=True, eq=False)
class Egn(GuidedPredictor[EgnNet], SpotPredictor[EgnNet]):
    """Exemplar-guided network, trained from scratch.

    Parameters
    ----------
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
    metric: ClassVar[str] = "l2"
    sees_patches: ClassVar[bool] = True
    encoder: str = "torchvision:resnet50"
    token_size: int = parameter(32, least=1, whole=True)
    width: int = parameter(1024, least=1, whole=True)
    depth: int = parameter(8, least=1, whole=True)
    n_heads: int = parameter(16, least=1, whole=True)
    feedforward: int = parameter(4096, least=1, whole=True)
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

    def make_network(self, shape: Shape, weights: str | Path) -> EgnNet:
        """The network before training; `weights` are those of the encoder, which is not part of it."""
        return EgnNet(shape, self, on_patches=self.on_patches)

    def guided(self, network: EgnNet, batch: Batch, exemplars: torch.Tensor) -> torch.Tensor:
        """Expression on the scale 0 to 1."""
        return network(batch.images, present(batch.embedding, "embedding"), exemplars)
