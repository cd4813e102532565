"""Distance of a spot's appearance from the training data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Self

import numpy as np

from spared_sc._models.prediction.components import mean_and_scale, principal_components

_COMPONENTS = 16
_LEAST = 1e-9  # variance of a component, relative to the first one's
_QUANTILE = 0.999  # of the train spots' distances, beyond which a spot is flagged


@dataclass(frozen=True)
class Novelty:
    """Mahalanobis distance to the train spots in the leading principal components of an embedding.

    The part of an embedding outside those components counts with its variance in training.
    """

    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)
    axes: np.ndarray  # (d, k) components divided by their standard deviation
    rest: float  # mean squared length outside of the components
    limit: float

    @classmethod
    def of(cls, embedding: np.ndarray) -> Self:
        """Learn from the train spots' embeddings (n, d)."""
        values = embedding.astype(np.float64)
        mean, scale = mean_and_scale(values)
        values = (values - mean) / scale
        variance, vectors = principal_components(values, _COMPONENTS, _LEAST)
        rest = max(float(np.mean((values**2).sum(axis=1) - ((values @ vectors) ** 2).sum(axis=1))), 1e-9)
        unlimited = cls(mean, scale, vectors / np.sqrt(variance), rest, np.inf)
        return replace(unlimited, limit=float(np.quantile(unlimited.distance(embedding), _QUANTILE)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """The one with that state."""
        rest, limit = float(arrays["rest"]), float(arrays["limit"])
        return cls(arrays["mean"], arrays["scale"], arrays["axes"], rest, limit)

    def arrays(self) -> dict[str, np.ndarray]:
        """Learned state."""
        return {name: np.asarray(value) for name, value in asdict(self).items()}

    def distance(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) square root of the mean square over components and rest; about 1 for the train spots."""
        values = (embedding - self.mean) / self.scale
        inside = values @ self.axes
        length = np.linalg.norm(self.axes, axis=0)
        rest = (values**2).sum(axis=1) - ((inside / length) ** 2).sum(axis=1)
        k = self.axes.shape[1] + 1
        return np.sqrt(((inside**2).sum(axis=1) + np.maximum(rest, 0) / self.rest) / k)

    def out_of_distribution(self, embedding: np.ndarray) -> np.ndarray:
        """(n,) whether a spot is farther out than all but one in a thousand of the train spots."""
        return self.distance(embedding) > self.limit
