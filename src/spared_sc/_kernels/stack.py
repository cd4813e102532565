"""Stacking: what several estimates say of entries that none of them saw, and how to weigh them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from spared_sc._kernels.sections import Sections


def cross_fit(
    sections: Sections,
    fit: Callable[[Sections], Sequence[np.ndarray]],
    *,
    n_folds: int = 5,
    seed: int = 0,
    most_entries: int = 1_000_000,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Estimates of known entries from fits that did not see them.

    The known entries are split at random into folds of equal size. Each fold is hidden in turn, `fit` is run on what is
    left, and its estimates, each (n_spots, n_genes), of the hidden entries are kept, of at most `most_entries` in equal
    parts from the folds.

    Returns rows and genes of the entries, sorted by row, then by gene; their estimates (n_entries, n_estimates) and
    values, float32, on the scale of the sections that the estimates are from; and the fold in which each was hidden.
    """
    rows, genes = np.nonzero(sections.known)
    # a stream of its own: who hides by the same seed must not draw the same numbers
    order = np.random.default_rng([seed, 43]).permutation(rows.size)
    fold = np.empty(rows.size, dtype=np.int64)
    fold[order] = np.arange(rows.size) % n_folds
    kept = np.zeros(rows.size, dtype=bool)
    kept[order[:most_entries]] = True
    features = None
    target = np.empty(kept.sum(), dtype=np.float32)
    for number in range(min(n_folds, rows.size)):
        hidden = np.zeros_like(sections.known)
        hidden[rows[fold == number], genes[fold == number]] = True
        estimates = fit(sections.without(hidden))
        if features is None:
            features = np.empty((kept.sum(), len(estimates)), dtype=np.float32)
        here = kept & (fold == number)
        target[fold[kept] == number] = sections.renormalised(hidden)[rows[here], genes[here]]
        for column, estimate in enumerate(estimates):
            features[fold[kept] == number, column] = estimate[rows[here], genes[here]]
    if features is None:
        features = np.empty((0, 0), dtype=np.float32)
    return rows[kept], genes[kept], features, target, fold[kept]


def ridge_stack(features: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Weights (n_features + 1,) of the linear combination nearest to `target` (n_entries,), the intercept first.

    Least squares plus the squared weights of the standardised features; the weights are those of the features as they are.
    """
    mean = features.mean(axis=0, dtype=np.float64)
    spread = features.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-6, spread, 1)
    inputs = (features - mean) / spread
    centre = target.mean(dtype=np.float64)
    gram = inputs.T @ inputs + np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ (target - centre)) / spread
    return np.r_[centre - mean @ weights, weights]


def combine(weights: np.ndarray, features: Sequence[np.ndarray]) -> np.ndarray:
    """The linear combination, float32; weights as of `ridge_stack`."""
    result = np.full(features[0].shape, weights[0], dtype=np.float32)
    for weight, feature in zip(weights[1:], features, strict=True):
        result += np.float32(weight) * feature
    return result
