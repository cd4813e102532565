"""Layers that networks of whole sections share: attention, array places, counts, and copies of a section."""

from __future__ import annotations

import math
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from spared_sc._models.prediction.attention import Block

if TYPE_CHECKING:
    from collections.abc import Iterator

_STEM_SPOTS = 512  # patches that a convolutional stem sees at a time
_LOG_MEAN = (math.log(1e-5), math.log(1e6))
_LEAST_MEAN = 1e-10
_DISPERSION = (1e-4, 1e4)
_GREY, _DEGREES, _FLIP = 0.1, 90, 0.2  # chance, range in either direction, and chance


class SectionTransformer(nn.Module):
    """Transformer over the spots of a section, (m, width) to (m, width).

    `recompute`: compute a block's inner values again for the gradient instead of keeping them.
    """

    def __init__(
        self, depth: int, width: int, n_heads: int, hidden: int, dropout: float, *, recompute: bool = False
    ) -> None:
        super().__init__()
        self.recompute = recompute
        self.blocks = nn.ModuleList(Block(width, n_heads, hidden, dropout) for _ in range(depth))

    def forward(self, spots: torch.Tensor) -> torch.Tensor:
        tokens = spots[None]
        for block in self.blocks:
            tokens = recomputed(block, tokens) if self.recompute else block(tokens)
        return tokens[0]


def recomputed(layer: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    """Output of a layer whose inner values are computed again for the gradient, which saves their memory."""
    return checkpoint(
        layer, inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _buffers_as_they_are(layer))
    )


@contextmanager
def _buffers_as_they_are(layer: nn.Module) -> Iterator[None]:
    """Keep the running statistics of batch normalisation, which the first pass has updated."""
    kept = [buffer.clone() for buffer in layer.buffers()]
    try:
        yield
    finally:
        for buffer, value in zip(layer.buffers(), kept, strict=True):
            buffer.copy_(value)


def in_chunks(stem: nn.Module, images: torch.Tensor, *, recompute: bool = False) -> torch.Tensor:
    """Output of a convolutional stem for the patches of a section, about 512 at a time.

    In training batch normalisation sees the patches of a chunk; sections of the published data sets fit into one or two.
    """
    if len(images) == 1:  # batch normalisation needs two values
        return stem(images.expand(2, -1, -1, -1))[:1]
    chunks = images.tensor_split(math.ceil(len(images) / _STEM_SPOTS))
    return torch.cat([recomputed(stem, chunk) if recompute else stem(chunk) for chunk in chunks])


class PlaceEmbedding(nn.Module):
    """Sum of the embeddings of a spot's array row and array column, (m, 2) to (m, width).

    Where the training sections have more rows or columns than the table has entries, places are scaled so that these
    fit, and a place between two entries takes a linear mix of them. Places beyond the last of the training sections take
    the embedding of that last one.
    """

    last: torch.Tensor

    def __init__(self, n_places: int, width: int) -> None:
        super().__init__()
        self.row = nn.Embedding(n_places, width)
        self.column = nn.Embedding(n_places, width)
        self.register_buffer("last", torch.full((2,), n_places - 1.0))

    def cover(self, place: torch.Tensor) -> None:
        """Take the places of the training spots, (n, 2), as the range."""
        self.last.copy_(place.amax(dim=0))

    def forward(self, place: torch.Tensor) -> torch.Tensor:
        top = self.row.num_embeddings - 1
        at = torch.minimum(place, self.last).clamp(min=0) * (top / self.last.clamp(min=top))
        low = at.long()
        high, share = (low + 1).clamp(max=top), at - low

        def mixed(table: nn.Embedding, axis: int) -> torch.Tensor:
            return torch.lerp(table(low[:, axis]), table(high[:, axis]), share[:, axis, None])

        return mixed(self.row, 0) + mixed(self.column, 1)


def with_isolated(edges: torch.Tensor, n: int) -> torch.Tensor:
    """The edges (2, e) among n spots, and for every spot without a neighbour one to itself."""
    isolated = torch.ones(n, dtype=torch.bool, device=edges.device).index_fill(0, edges[0], False)
    return torch.cat([edges, isolated.nonzero().T.expand(2, -1)], dim=1)


class SectionHeads(nn.Module):
    """What is read from the last hidden values of a spot: expression, the distribution of counts, a score."""

    def __init__(self, width: int, n_genes: int) -> None:
        super().__init__()
        self.expression = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, n_genes))
        self.log_mean = nn.Linear(width, n_genes)
        self.dispersion = nn.Linear(width, n_genes)
        self.dropout = nn.Linear(width, n_genes)
        self.scored = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))

    def count_loss(self, hidden: torch.Tensor, counts: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
        """Mean negative log-likelihood of counts (m, g), given hidden values (m, width) and size factors (m,)."""
        mean = self.log_mean(hidden).clamp(*_LOG_MEAN).exp() * size[:, None]
        dispersion = functional.softplus(self.dispersion(hidden)).clamp(*_DISPERSION)
        return zinb_loss(counts, mean, dispersion, self.dropout(hidden)).mean()

    def distilled(self, copies: list[torch.Tensor]) -> torch.Tensor:
        """Expression (m, g) from the hidden values (m, width) of copies, which a score of each weights spot by spot."""
        hidden = torch.stack(copies)
        return (self.scored(hidden).softmax(dim=0) * self.expression(hidden)).sum(dim=0)


def zinb_loss(
    counts: torch.Tensor, mean: torch.Tensor, dispersion: torch.Tensor, dropout: torch.Tensor
) -> torch.Tensor:
    """Negative log-likelihood of zero-inflated negative binomial counts, elementwise.

    `dispersion` is the number of successes of the negative binomial, `dropout` the logit of the chance of an extra zero.
    Means below 1e-10 count as that.
    """
    mean = mean.clamp(min=_LEAST_MEAN)
    kept, lost = functional.logsigmoid(-dropout), functional.logsigmoid(dropout)
    log_share = -torch.log1p(mean / dispersion)  # of dispersion in the sum of both
    zero = torch.logaddexp(lost, kept + dispersion * log_share)
    ways = torch.lgamma(counts + dispersion) - torch.lgamma(dispersion) - torch.lgamma(counts + 1)
    some = kept + ways + dispersion * log_share + counts * (mean.log() - (mean + dispersion).log())
    return -torch.where(counts > 0, some, zero)


def size_factors(counts: torch.Tensor) -> torch.Tensor:
    """Total count (m,) of each spot over the median of the spots of the section that have any."""
    total = counts.sum(dim=1)
    found = total[total > 0]
    return total / found.quantile(0.5) if len(found) else torch.ones_like(total)


def augmented(images: torch.Tensor) -> torch.Tensor:
    """A random copy of the patches of a section, all changed alike: in grey, turned by any angle, mirrored.

    Draws from torch's global generator.
    """
    from torchvision.transforms import v2

    change = v2.Compose([v2.RandomGrayscale(_GREY), v2.RandomRotation(_DEGREES), v2.RandomHorizontalFlip(_FLIP)])
    return change(images)
