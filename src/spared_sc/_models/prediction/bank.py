"""Training spots that a network looks up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spared_sc._models.training import Fixed

if TYPE_CHECKING:
    import numpy as np

_ENTRIES = 1 << 24  # distances held at a time


class Bank(Fixed):
    """Features, expression and library of training spots: buffers that move and are saved with the network."""

    feature: torch.Tensor
    expression: torch.Tensor
    known: torch.Tensor
    library: torch.Tensor

    def __init__(self, n_spots: int, n_features: int, n_genes: int) -> None:
        super().__init__()
        self.register_buffer("feature", torch.zeros(n_spots, n_features))
        self.register_buffer("expression", torch.zeros(n_spots, n_genes))
        self.register_buffer("known", torch.ones(n_spots, n_genes, dtype=torch.bool))
        self.register_buffer("library", torch.zeros(n_spots, dtype=torch.int64))

    def fill(self, expression: np.ndarray, library: np.ndarray, known: np.ndarray | None = None) -> None:
        """Take the expression (n, g) of the training spots, which of it is known, and their libraries (n,)."""
        self.expression.copy_(torch.as_tensor(expression, dtype=torch.float32))
        self.library.copy_(torch.as_tensor(library, dtype=torch.int64))
        if known is not None:
            self.known.copy_(torch.as_tensor(known))

    def __len__(self) -> int:
        return len(self.library)

    def nearest(
        self, query: torch.Tensor, k: int, own: torch.Tensor | None = None, *, metric: str = "l2"
    ) -> torch.Tensor:
        """Rows (n, k) with the features at the least distance from each `query` (n, d), the nearest first.

        A query finds nothing in its `own` library (n,), -1 for none, unless all spots are of one library.
        """
        if own is not None and (self.library == self.library[0]).all():
            own = None
        return nearest(query, self.feature, k, own, self.library, metric=metric)


def nearest(
    query: torch.Tensor,
    reference: torch.Tensor,
    k: int,
    own: torch.Tensor | None = None,
    library: torch.Tensor | None = None,
    *,
    metric: str = "l2",
) -> torch.Tensor:
    """The `k` rows of `reference` (m, d) at the least distance from each row of `query` (n, d): (n, k).

    `metric` is `"l2"`, the Euclidean distance, or `"l1"`, the sum of absolute differences. With `own` (n,) and `library`
    (m,), codes of libraries, a query finds nothing in its own library; -1 stands for none. If fewer than `k` lie outside
    the largest library, that many are found.
    """
    k = min(k, len(reference))
    excluded = None if own is None or library is None else (own, library)
    if excluded is not None:
        k = min(k, len(reference) - int(torch.bincount(excluded[1]).max()))
    if not k:
        raise ValueError("retrieval needs training spots from at least two libraries: train on several.")
    square = reference.square().sum(dim=1) if metric == "l2" else None
    nearest_rows = []
    for part in torch.arange(len(query), device=query.device).split(max(_ENTRIES // len(reference), 1)):
        if square is None:
            closeness = -torch.cdist(query[part], reference, p=1)
        else:
            closeness = 2 * query[part] @ reference.T - square
        if excluded is not None:
            closeness.masked_fill_(excluded[0][part, None] == excluded[1], -torch.inf)
        nearest_rows.append(closeness.topk(k).indices)
    return torch.cat(nearest_rows)
