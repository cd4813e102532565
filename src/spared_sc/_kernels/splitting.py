"""Groups of libraries that stay together, and their distribution over train, validation and test."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np


def connected(n: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Groups of 0, ..., n - 1 that pairs connect, each in order, by their first member."""
    root = list(range(n))
    for a, b in pairs:
        joined = {root[a], root[b]}
        root = [min(joined) if member in joined else member for member in root]
    return [[i for i in range(n) if root[i] == first] for first in sorted(set(root))]


def draw_splits(groups: Sequence[Sequence[int]], n_spots: np.ndarray, share: np.ndarray, seed: int) -> np.ndarray:
    """Split of every library, as an index into `share`.

    The largest groups are placed first, equal ones in random order, each where the share is farthest from filled. There
    are at least as many `groups` of libraries as shares above zero; `n_spots` are the sizes of the libraries.
    """
    wanted = np.flatnonzero(share)
    size = np.array([n_spots[group].sum() for group in groups])
    order = np.random.default_rng(seed).permutation(len(groups))
    order = order[np.argsort(-size[order], kind="stable")]
    filled = np.zeros(share.size)
    splits = np.empty(n_spots.size, dtype=int)
    for i, group in enumerate(order):
        empty = wanted[filled[wanted] == 0]
        # The last groups go to the splits that are still without any.
        choice = empty if len(groups) - i <= empty.size else wanted
        split = choice[np.argmin(filled[choice] / share[choice])]
        splits[groups[group]] = split
        filled[split] += size[group]
    return splits
