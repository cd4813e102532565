"""Hist2ST (Zeng et al. 2022): convolutions in a patch, attention over the section, and its graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import Normalise
from spared_sc._models.prediction.graph_layers import SAGEConv
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.section_layers import PlaceEmbedding, SectionHeads, in_chunks, with_isolated
from spared_sc._models.prediction.sections import CountNetwork, CountPredictor, channels_of
from spared_sc._models.training import mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.networks import Shape


class ConvMixer(nn.Module):
    """Two depthwise convolutions, added to what they see, and a pointwise one."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()

        def depthwise() -> list[nn.Module]:
            convolution = nn.Conv2d(channels, channels, kernel, groups=channels, padding="same")
            return [convolution, nn.BatchNorm2d(channels), nn.GELU()]

        self.depthwise = nn.Sequential(*depthwise(), *depthwise())
        self.pointwise = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.GELU(), nn.BatchNorm2d(channels))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pointwise(images + self.depthwise(images))


def _stem(sizes: Hist2ST) -> nn.Sequential:
    """Tokens (m, width) of patches (m, 3, side, side)."""
    n_positions = (sizes.image_size // sizes.token_size) ** 2
    return nn.Sequential(
        Normalise(),
        nn.Conv2d(3, sizes.channels, sizes.token_size, stride=sizes.token_size),
        nn.Dropout(sizes.dropout),
        *(ConvMixer(sizes.channels, sizes.kernel_size) for _ in range(sizes.mixer_depth)),
        nn.Conv2d(sizes.channels, channels_of(sizes, n_positions), 1),
        nn.Flatten(),
    )


class Hist2STNet(CountNetwork):
    """ConvMixer, transformer, graph convolutions and an LSTM over these."""

    def __init__(self, shape: Shape, sizes: Hist2ST) -> None:
        super().__init__()
        width = sizes.width
        self.n_genes = shape.n_genes
        self.recompute = sizes.gradient_checkpointing
        self.stem = _stem(sizes) if shape.n_features is None else nn.Linear(shape.n_features, width)
        self.place = PlaceEmbedding(sizes.n_places, width)
        self.transformer = sizes.transformer()
        self.graph = nn.ModuleList(
            SAGEConv(width, width, aggr="mean", root_weight=False, bias=False) for _ in range(sizes.graph_depth)
        )
        self.fusion = nn.LSTM(width, width, num_layers=2)
        self.heads = SectionHeads(width, shape.n_genes)

    def hidden(self, tokens: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Hidden values (m, width) of the spots of a section, from patches (m, 3, side, side) or an embedding (m, d)."""
        with mixed_precision(tokens.device):
            patch = in_chunks(self.stem, tokens, recompute=self.recompute) if tokens.ndim == 4 else self.stem(tokens)
            spots = self.transformer(patch + self.place(place)).float()
        edges = with_isolated(edges, len(spots)).flip(0)  # from the neighbours to the spot
        layers = []
        for graph in self.graph:
            spots = functional.normalize(graph(spots, edges).relu(), dim=1)
            layers.append(spots)
        return self.fusion(torch.stack(layers))[0].mean(dim=0)


@dataclass(kw_only=True, eq=False)
class Hist2ST(CountPredictor[Hist2STNet]):
    """Convolutions in a patch, a transformer and graph layers over the section, trained from scratch.

    Parameters
    ----------
    token_size
        Side in pixels of the squares that become one position of the convolutions.
    channels
        Channels of the convolutions.
    kernel_size
        Side of the depthwise kernels.
    mixer_depth
        Blocks of the ConvMixer.
    graph_depth
        Layers of the graph.

    Notes
    -----
    Pixels are normalised as ImageNet's; the released code takes 0 to 255. As published, a graph layer averages the
    neighbours of a spot and leaves out the spot itself. Neighbours are the 6 adjacent spots on Visium and, as published, the
    four nearest on square arrays, at most two places away. A spot without any is its own neighbour; in the released code
    it is not a number. Batch normalisation sees at most 512 patches at a time.
    """

    about: ClassVar[About] = PREDICTORS["hist2st"]
    n_nearest: ClassVar[int] = 4
    token_size: int = parameter(7, least=1, whole=True)
    channels: int = parameter(32, least=1, whole=True)
    kernel_size: int = parameter(5, least=1, whole=True)
    mixer_depth: int = parameter(2, least=1, whole=True)
    graph_depth: int = parameter(4, least=1, whole=True)

    def make_network(self, shape: Shape, weights: str | Path) -> Hist2STNet:
        """The network before training; there are no other `weights` than random ones."""
        return Hist2STNet(shape, self)
