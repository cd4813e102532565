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

    Parameters
    ----------
    own
        (n,) code of the library in which a query may find nothing, -1 for none; and
    library
        (m,) the library of the references. There may be fewer than `k` outside the largest one: then fewer are found.

    Raises
    ------
    ValueError
        If all references are of one library and queries are too.
    """
    k = min(k, len(reference))
    if own is not None:
        k = min(k, len(reference) - int(torch.bincount(library).max()))
    if not k:
        raise ValueError("all training spots are of one library, so that none is outside of it: train on several.")
    square = reference.square().sum(dim=1)
    found = []
    for part in torch.arange(len(query), device=query.device).split(max(_ENTRIES // len(reference), 1)):
        closeness = 2 * query[part] @ reference.T - square
        if own is not None:
            closeness.masked_fill_(own[part, None] == library, -torch.inf)
        found.append(closeness.topk(k).indices)
    return torch.cat(found)
