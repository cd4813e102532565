"""Which libraries stay together, and which of them a split or a fold trains on, validates with and predicts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fold:
    """Masks over libraries for training, validation and prediction."""

    train: np.ndarray
    validation: np.ndarray
    predicted: np.ndarray


def split_fold(split: np.ndarray | None, n_libraries: int) -> Fold:
    """The fold of a split, or without one a fit to all libraries; all libraries are predicted."""
    every = np.ones(n_libraries, dtype=bool)
    return Fold(every, ~every, every) if split is None else Fold(split == "train", split == "val", every)


def plan(
    split: np.ndarray | None, groups: np.ndarray, *, validates: bool = False, least_train: int = 1
) -> tuple[list[Fold], list[str]]:
    """The folds, and the role of every library.

    With a split there is one fold. Without, each group of libraries is predicted by a fit to the others. If the predictor
    validates and enough groups remain for training, the next group is its validation set.
    """
    if split is not None:
        return [split_fold(split, len(split))], split.tolist()
    names = np.unique(groups)
    folds = []
    for i, name in enumerate(names):
        out = groups == name
        validation = np.zeros_like(out)
        if validates and len(names) - 2 >= least_train:
            validation = groups == names[(i + 1) % len(names)]
        folds.append(Fold(~out & ~validation, validation, out))
    return folds, ["held out"] * len(groups)


def detected_in_training(folds: Sequence[Fold], library: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Entries of genes that were detected in the libraries behind their prediction, (n_spots, n_genes).

    `library` (n_spots,) is 0, 1, ..., and `detected` (n_spots, n_genes) booleans.
    """
    result = np.empty(detected.shape, dtype=bool)
    for fold in folds:
        result[fold.predicted[library]] = detected[fold.train[library]].any(axis=0)
    return result


def shares_in_training(folds: Sequence[Fold], library: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Share of every gene in the molecules of the libraries behind its prediction, (n_libraries, n_genes).

    `library` (n_spots,) is 0, 1, ..., `counts` are (n_spots, n_genes), and `depth` (n_spots,) counts all genes.
    """
    codes = range(len(folds[0].train))
    of_genes = np.array([counts[library == code].sum(axis=0, dtype=np.float64) for code in codes])
    of_all = np.array([depth[library == code].sum() for code in codes])
    result = np.empty(of_genes.shape)
    for fold in folds:
        result[fold.predicted] = of_genes[fold.train].sum(axis=0) / max(of_all[fold.train].sum(), 1.0)
    return result


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
