"""Which libraries a fit learns from, which select its best step, and which it predicts."""

from __future__ import annotations

from collections.abc import Sequence
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
