"""Standardised features and their principal components."""

from __future__ import annotations

import numpy as np


def mean_and_scale(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every column of (n, d); infinite for a constant one, which carries no information."""
    mean, scale = values.mean(axis=0), values.std(axis=0)
    return mean, np.where(scale > 1e-6 * (1e-6 + np.abs(mean)), scale, np.inf)


def principal_components(values: np.ndarray, most: int, least: float) -> tuple[np.ndarray, np.ndarray]:
    """Variances (k,) and axes (d, k) of at most `most` components of centred values (n, d), largest first.

    `least`: variance relative to the first one's, below which a component is left out.
    """
    wide = values.shape[1] > values.shape[0]
    # Products of rows have the same variances as those of columns, and of the two matrices the smaller one is decomposed.
    variance, axes = np.linalg.eigh((values @ values.T if wide else values.T @ values) / len(values))
    order = np.argsort(variance)[::-1][:most]
    order = order[variance[order] > least * max(variance.max(), 1e-12)]
    variance, axes = variance[order], axes[:, order]
    if wide:
        axes = values.T @ axes
        axes /= np.linalg.norm(axes, axis=0)
    # The sign of a component is arbitrary; this makes it the same on every machine.
    return variance, axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(len(variance))])
