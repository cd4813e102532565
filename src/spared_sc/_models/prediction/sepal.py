"""SEPAL (Mejia et al. 2023): a graph network over the surroundings of a spot corrects what its patch alone gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch_geometric.nn import DenseGCNConv, DenseGraphConv

_WAVELENGTH = 10000.0  # longest of the encoded places, over 2 pi


@dataclass(frozen=True)
class LocalGraphs:
    """The graph around each of `b` spots, filled up to the `p` spots of the largest; in order of their places."""

    spot: torch.Tensor  # (b, p) rows of the batch
    present: torch.Tensor  # (b, p) bool: not filled up
    relative: torch.Tensor  # (b, p, 2) place, less that of the centre
    linked: torch.Tensor  # (b, p, p) float, 1 between spots within the rings of each other


def local_graphs(place: torch.Tensor, edges: torch.Tensor, centres: torch.Tensor, n_rings: int) -> LocalGraphs:
    """The spots within `n_rings` hops of each centre, linked where a path of as many hops leads through these spots.

    `place` (m, 2) is the place of each spot, `edges` (2, e) are the lattice edges in both directions, and `centres` (b,)
    are rows. The result depends on the surroundings of each centre only.
    """
    m, b = len(place), len(centres)
    shifted = place - place.min(dim=0).values
    by_place = (shifted[:, 0] * (shifted[:, 1].max() + 1) + shifted[:, 1]).argsort(stable=True)
    rank = torch.empty_like(by_place)
    rank[by_place] = torch.arange(m, device=place.device)
    near = _neighbours(rank[edges], m)

    # A number stands for a graph and a spot in it: graph * m + rank of the spot.
    reached = torch.arange(b, device=place.device) * m + rank[centres]
    for _ in range(n_rings):
        ahead = near[reached % m]
        reached = torch.cat([reached, (reached // m * m)[:, None].add(ahead)[ahead >= 0]]).unique()
    graph, spot = reached // m, reached % m
    size = torch.bincount(graph, minlength=b)
    slot = torch.arange(len(reached), device=place.device) - (size.cumsum(0) - size)[graph]
    p = int(size.max())
    spots = rank[centres][:, None].repeat(1, p)
    spots[graph, slot] = spot
    present = torch.arange(p, device=place.device) < size[:, None]

    pair = (graph * m)[:, None] + near[spot]
    found = torch.searchsorted(reached, pair).clamp(max=len(reached) - 1)
    start, which = torch.nonzero((near[spot] >= 0) & (reached[found] == pair), as_tuple=True)
    adjacent = torch.zeros(b, p, p, device=place.device)
    adjacent[graph[start], slot[start], slot[found[start, which]]] = 1
    linked = adjacent
    for _ in range(n_rings - 1):
        linked = (linked + linked @ adjacent).clamp(max=1)
    linked = linked * (1 - torch.eye(p, device=place.device))
    rows = by_place[spots]
    return LocalGraphs(rows, present, place[rows] - place[centres][:, None], linked)


def _neighbours(edges: torch.Tensor, m: int) -> torch.Tensor:
    """The ends of the edges of each spot, (m, most edges of a spot), filled up with -1."""
    start, end = edges[:, edges[0].argsort(stable=True)]
    degree = torch.bincount(start, minlength=m)
    near = torch.full((m, int(degree.max())), -1, device=edges.device)
    near[start, torch.arange(len(start), device=edges.device) - (degree.cumsum(0) - degree)[start]] = end
    return near


def encoded_place(place: torch.Tensor, width: int) -> torch.Tensor:
    """Sines and cosines of places (..., 2) at falling frequencies: (..., width), half for the row, half for the column."""
    half = 2 * -(-width // 4)
    frequency = _WAVELENGTH ** (-torch.arange(0, half, 2, device=place.device) / half)
    angle = place[..., None] * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)[..., :width]


class TopSpot(nn.Module):
    """The spot of each graph with the largest score, times the hyperbolic tangent of that; of equal ones the first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.score = DenseGraphConv(width, 1)

    def forward(self, spots: torch.Tensor, graphs: LocalGraphs) -> torch.Tensor:
        score = self.score(spots, graphs.linked).squeeze(2).masked_fill(~graphs.present, -torch.inf)
        best = score.argmax(dim=1, keepdim=True)
        top = spots.take_along_dim(best[:, :, None], dim=1).squeeze(1)
        return top * score.take_along_dim(best, dim=1).tanh()


class MeanSpot(nn.Module):
    """The mean over the spots of each graph."""

    def forward(self, spots: torch.Tensor, graphs: LocalGraphs) -> torch.Tensor:
        present = graphs.present[:, :, None]
        return (spots * present).sum(dim=1) / present.sum(dim=1)


class GraphHead(nn.Module):
    """Expression (b, g) of the centres of graphs, from the features of the spots."""

    def __init__(self, n_features: int, n_genes: int, *, combine: str, width: int, n_layers: int, pooling: str) -> None:
        super().__init__()
        self.concatenated = combine == "concat"
        n_inputs = 2 * n_features if self.concatenated else n_features
        widths = [width // 2**i for i in range(n_layers + 1)]
        self.enter = nn.Linear(n_inputs, width) if n_layers else nn.Identity()
        self.layers = nn.ModuleList(DenseGCNConv(*pair) for pair in zip(widths, widths[1:], strict=False))
        self.single = None if n_layers else DenseGraphConv(n_inputs, n_genes)
        pooled = widths[-1] if n_layers else n_genes
        self.pool = TopSpot(pooled) if pooling == "top" else MeanSpot()
        self.leave = nn.Linear(pooled, n_genes) if n_layers else nn.Identity()

    def forward(self, features: torch.Tensor, graphs: LocalGraphs) -> torch.Tensor:
        """Features (m, d) are those of all spots of the batch."""
        spots, where = features[graphs.spot], encoded_place(graphs.relative, features.shape[1])
        spots = torch.cat([spots, where], dim=2) if self.concatenated else spots + where
        if self.single is not None:
            return self.pool(self.single(spots, graphs.linked), graphs)
        spots = functional.elu(self.enter(spots))
        for layer in self.layers:
            spots = functional.elu(layer(spots, graphs.linked))
        return self.leave(self.pool(spots, graphs))
