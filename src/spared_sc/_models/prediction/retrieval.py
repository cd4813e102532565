"""The nearest of the training spots."""

from __future__ import annotations

import torch

_ENTRIES = 1 << 24  # distances held at a time


def nearest(
    query: torch.Tensor,
    reference: torch.Tensor,
    k: int,
    own: torch.Tensor | None = None,
    library: torch.Tensor | None = None,
) -> torch.Tensor:
    """The `k` rows of `reference` (m, d) at the least Euclidean distance from each row of `query` (n, d): (n, k).

    With `own` (n,) and `library` (m,), codes of libraries, a query finds nothing in its own library; -1 stands for
    none. If fewer than `k` lie outside the largest library, that many are found.
    """
    k = min(k, len(reference))
    excluded = None if own is None or library is None else (own, library)
    if excluded is not None:
        k = min(k, len(reference) - int(torch.bincount(excluded[1]).max()))
    if not k:
        raise ValueError("retrieval needs training spots from at least two libraries: train on several.")
    square = reference.square().sum(dim=1)
    nearest_rows = []
    for part in torch.arange(len(query), device=query.device).split(max(_ENTRIES // len(reference), 1)):
        closeness = 2 * query[part] @ reference.T - square
        if excluded is not None:
            closeness.masked_fill_(excluded[0][part, None] == excluded[1], -torch.inf)
        nearest_rows.append(closeness.topk(k).indices)
    return torch.cat(nearest_rows)
