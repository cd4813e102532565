"""HGGEP (Li et al. 2024): enhanced edges in a patch, attention at three stages, and hyperedges of the section."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

from spared_sc._core.params import parameter
from spared_sc._models.prediction.backbones import Backbone
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.section_layers import PlaceEmbedding, SectionHeads, in_chunks, with_isolated
from spared_sc._models.prediction.sections import CountNetwork, CountPredictor, channels_of
from spared_sc._models.training import mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._core.registry import About
    from spared_sc._models.prediction.networks import Shape

SIMILAR, DISSIMILAR = "similar", "dissimilar"
_PLUS, _CENTRE = (1, 3, 4, 5, 7), 4  # of the nine weights of a 3 x 3 kernel
_DIFFERENCE = 0.7
_CHANNELS = (192, 1024, 1024)  # of the three stages
_REDUCTION = 16
_ASSOCIATED = 512  # width between the two hypergraph convolutions
_ASSOCIATED_DROPOUT = 0.5
_N_STAGES = 3


class CrossDifference(nn.Module):
    """Convolution of stride 2 with a plus-shaped 3 x 3 kernel, less 0.7 times the pixel's value by the sum of its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 3, len(_PLUS)))
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        kernel = self.weight.new_zeros(3, 3, 9)
        kernel[..., _PLUS] = self.weight
        kernel[..., _CENTRE] -= _DIFFERENCE * self.weight.sum(dim=2)
        return functional.conv2d(images, kernel.unflatten(2, (3, 3)), stride=2, padding=1)


def _activated(convolution: nn.Module) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm2d(3), nn.ReLU6())


class GradientEnhancement(nn.Module):
    """Images of half the side and two pixels, from a plain convolution and the cross-difference one."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = _activated(nn.Conv2d(3, 3, 3, stride=2, padding=1, bias=False))
        self.difference = _activated(CrossDifference())
        self.joined = _activated(nn.Conv2d(6, 3, 1, padding=1, bias=False))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.joined(torch.cat([self.plain(images), self.difference(images)], dim=1))


class BlockAttention(nn.Module):
    """Convolutional block attention (Woo et al. 2018): weights of channels, then of positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // _REDUCTION
        self.channel = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False), nn.ReLU(), nn.Conv2d(inner, channels, 1, bias=False)
        )
        self.position = nn.Conv2d(2, 1, 7, padding=3, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean, most = images.mean(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
        images = images * (self.channel(mean) + self.channel(most)).sigmoid()
        both = torch.cat([images.mean(dim=1, keepdim=True), images.amax(dim=1, keepdim=True)], dim=1)
        return images * self.position(both).sigmoid()


class PatchStages(nn.Module):
    """Three views (m, 3, width) of patches (m, 3, side, side), from the last stages of a ShuffleNet."""

    def __init__(self, sizes: Hggep, weights: str | Path) -> None:
        super().__init__()
        body = Backbone("torchvision:shufflenet_v2_x0_5", weights)
        network: Any = body.network  # torchvision's attributes are not typed
        self.normalise = body.normalise
        self.enhance = GradientEnhancement()
        self.first = nn.Sequential(network.conv1, network.stage2, network.stage3, network.stage4)
        self.last = network.conv5
        channels = channels_of(sizes, _last_side(sizes.image_size) ** 2)
        widths = (channels, channels, sizes.width)
        self.views = nn.ModuleList(
            nn.Sequential(BlockAttention(n), nn.BatchNorm2d(n), nn.Conv2d(n, width, 1), nn.Flatten())
            for n, width in zip(_CHANNELS, widths, strict=True)
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fourth = self.first(self.enhance(self.normalise(images)))
        fifth = self.last(fourth)
        sixth = fifth.amax(dim=(2, 3), keepdim=True)
        stages = (fourth, fifth, sixth)
        return torch.stack([view(stage) for view, stage in zip(self.views, stages, strict=True)], dim=1)


def _last_side(image_size: int) -> int:
    """Positions along a side of the last stage: four convolutions of stride 2 after that of the enhancement."""
    side = math.ceil(image_size / 2) + 2
    for _ in range(4):
        side = math.ceil(side / 2)
    return side


@torch.no_grad()
def hyperedges(
    features: torch.Tensor, place: torch.Tensor, edges: torch.Tensor, most: int, *, similar: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Incidences (2, i) of spots and hyperedges, and the weight (m,) of each hyperedge.

    A spot is in the hyperedges of at most `most` of its neighbours: of those of the most `similar` features (m, d), or
    else of the least similar. The weight of a hyperedge is the mean over its spots of their score for it: the
    neighbour's share of the adjacency, and of the distances to all neighbours (if `similar`, one minus that). Ties are
    broken by place (m, 2). Every spot has an edge, if only to itself.
    """
    source, target = edges
    n = len(features)
    degree = source.bincount(minlength=n)
    distance = torch.linalg.vector_norm(features[source] - features[target], dim=1)
    total = distance.new_zeros(n).index_add(0, source, distance)
    share = distance / total[source].clamp(min=torch.finfo(distance.dtype).tiny)
    score = 1 / degree[source] + (1 - share if similar else share)
    order = (place[:, 0] * (place[:, 1].max() + 1) + place[:, 1])[target].argsort(stable=True)
    order = order[score[order].argsort(stable=True, descending=True)]
    order = order[source[order].argsort(stable=True)]
    rank = torch.arange(len(order), device=order.device) - (degree.cumsum(0) - degree)[source[order]]
    chosen = order[rank < most]
    members = target[chosen].bincount(minlength=n).clamp(min=1)
    return edges[:, chosen], score.new_zeros(n).index_add(0, target[chosen], score[chosen]) / members


class HypergraphConvolution(nn.Module):
    """Linear map of the mean over a spot's hyperedges, by their weight, of the mean over the spots in each.

    With one weight for all, that of torch-geometric, which lets weights change the degrees alone.
    """

    def __init__(self, width: int, new_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, new_width)

    def forward(self, values: torch.Tensor, incidences: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        spot, edge = incidences

        def total(of: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
            return of.new_zeros((len(values), *of.shape[1:])).index_add(0, by, of)

        by_edge = total(values[spot], edge) / edge.bincount(minlength=len(values)).clamp(min=1)[:, None]
        share = weight[edge] / total(weight[edge], spot)[spot]
        return self.linear(total(share[:, None] * by_edge[edge], spot))


class Association(nn.Module):
    """Two hypergraph convolutions, added to the features (m, width) that the hyperedges come from."""

    def __init__(self, width: int, n_associated: int, *, similar: bool) -> None:
        super().__init__()
        self.n_associated, self.similar = n_associated, similar
        self.inner = HypergraphConvolution(width, _ASSOCIATED)
        self.between = nn.Sequential(nn.ReLU(), nn.LayerNorm(_ASSOCIATED), nn.Dropout(_ASSOCIATED_DROPOUT))
        self.outer = HypergraphConvolution(_ASSOCIATED, width)

    def forward(self, features: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        incidences, weight = hyperedges(features, place, edges, self.n_associated, similar=self.similar)
        inner = self.between(self.inner(features, incidences, weight))
        return features + self.outer(inner, incidences, weight)


class HggepNet(CountNetwork):
    """Three views of a patch, a transformer over the section for each, their association, and an LSTM over all four."""

    def __init__(self, shape: Shape, sizes: Hggep, weights: str | Path) -> None:
        super().__init__()
        width = sizes.width
        self.n_genes = shape.n_genes
        self.recompute = sizes.gradient_checkpointing
        self.stem = (
            PatchStages(sizes, weights)
            if shape.n_features is None
            else nn.Sequential(nn.Linear(shape.n_features, _N_STAGES * width), nn.Unflatten(1, (_N_STAGES, width)))
        )
        self.place = PlaceEmbedding(sizes.n_places, width)
        self.transformers = nn.ModuleList(sizes.transformer() for _ in range(_N_STAGES))
        self.association = Association(width, sizes.n_associated, similar=sizes.association == SIMILAR)
        self.fusion = nn.LSTM(width, width, num_layers=4)
        self.heads = SectionHeads(width, shape.n_genes)

    def hidden(self, tokens: torch.Tensor, place: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        """Hidden values (m, width) of the spots of a section, from patches (m, 3, side, side) or an embedding (m, d)."""
        with mixed_precision(tokens.device):
            views = in_chunks(self.stem, tokens, recompute=self.recompute) if tokens.ndim == 4 else self.stem(tokens)
            places = self.place(place)
            stages = [
                transformer(view + places).float()
                for transformer, view in zip(self.transformers, views.unbind(dim=1), strict=True)
            ]
        associated = self.association(sum(stages), place, with_isolated(edges, len(tokens)))
        return self.fusion(torch.stack([*stages, associated]))[0].mean(dim=0)


@dataclass(kw_only=True, eq=False)
class Hggep(CountPredictor[HggepNet]):
    """A ShuffleNet of enhanced patches, transformers over the section at three stages, and hyperedges of alike neighbours.

    Parameters
    ----------
    n_associated
        Neighbours that a spot associates with, at most.
    association
        Which ones: `"similar"`, those of the most similar features, or `"dissimilar"`, as the released code.

    Notes
    -----
    The authors kept the weights with the best score on the test section; here those of the best step on validation
    libraries are kept. Their dropout between the hypergraph convolutions acts in prediction too, here in training only.
    They weigh memberships where their layer takes weights of hyperedges; here a hyperedge has the mean score of its
    members. Neighbours are the 6 adjacent spots on Visium and, as published, the eight nearest on square arrays, at most
    two places away. A spot without any is its own neighbour; in the released code it is not a number. Batch normalisation
    sees at most 512 patches at a time.
    """

    about: ClassVar[About] = PREDICTORS["hggep"]
    n_nearest: ClassVar[int] = 8
    depth: int = parameter(4, least=1, whole=True)
    n_associated: int = parameter(4, least=1, whole=True)
    association: str = parameter(SIMILAR, choices=(SIMILAR, DISSIMILAR))

    def make_network(self, shape: Shape, weights: str | Path) -> HggepNet:
        """The network before training; `weights` are those of the ShuffleNet."""
        return HggepNet(shape, self, weights)
