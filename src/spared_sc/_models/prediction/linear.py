"""Predictors without a network: ridge and nearest neighbours on an embedding, and the anchors of an honest comparison."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from spared_sc._core.validate import check_number
from spared_sc._models.prediction.base import Predictor
from spared_sc._models.prediction.components import mean_and_scale, principal_components

if TYPE_CHECKING:
    from spared_sc._models.prediction.base import How, Spots

_PENALTIES = np.logspace(-2, 4, 13)  # times the mean eigenvalue of the inputs' products
_MOST_FOLDS = 10
_CHUNK = 256
_LEAST_SPOTS = 50  # of a section, for statistics of its own
_LEAST_SPREAD = 0.1  # of a feature in a section, relative to the train sections': what hardly varies is not blown up
_LEAST_VARIANCE = 1e-6  # of a component, relative to the first one's
_MOST_SPREADS = 5  # standard deviations beyond which a feature is cut off


class _Plain(Predictor):
    """A predictor whose state is its attributes."""

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The predictor whose `state` this is."""
        result = cls()
        vars(result).update(arrays, **values)
        return result


class _Linear(_Plain):
    """Ridge regression of every gene on some inputs; its penalty by cross-validation over the train libraries.

    The intercept is free. Where only known entries count, every gene is fitted on its own spots.
    """

    def fit(self, train: Spots, validation: Spots | None, how: How) -> None:
        """Learn from `train` alone: the folds take the part of validation spots."""
        inputs = self._prepare(train)
        known = np.ones(train.target.shape, dtype=bool) if train.known is None else train.known
        fold = folds(train)
        errors = np.zeros((len(_PENALTIES), known.shape[1]))
        for code in range(fold.max() + 1) if inputs.shape[1] else ():
            inside, outside = fold != code, fold == code
            for i, (weights, offset) in enumerate(ridge_path(inputs[inside], train.target[inside], known[inside])):
                gap = (inputs[outside] @ weights + offset - train.target[outside]) * known[outside]
                errors[i] += (gap**2).sum(axis=0)
        best = int(errors.sum(axis=1).argmin()) if inputs.shape[1] else 0
        path = ridge_path(inputs, train.target, known)
        self.weights, self.offset = path[best]
        self.offset = np.where(known.any(axis=0), self.offset, train.gene_means())
        self.penalty = float(_PENALTIES[best])

    def predict(self, spots: Spots, how: How, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        return (self._inputs(spots) @ self.weights + self.offset).astype(np.float32)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights, offset and penalty."""
        return {"weights": self.weights, "offset": self.offset}, {"penalty": self.penalty}

    def _prepare(self, train: Spots) -> np.ndarray:
        """Learn what turns spots into inputs, and give the train spots' inputs."""
        return self._inputs(train)

    @abstractmethod
    def _inputs(self, spots: Spots) -> np.ndarray:
        """What the regression is on, (n, d)."""


class GeneMean(_Linear):
    """The mean of the gene over the train spots."""

    name: ClassVar[str] = "gene_mean"
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()

    def _inputs(self, spots: Spots) -> np.ndarray:
        return np.zeros((len(spots), 0))


class DepthOnly(_Linear):
    """A parabola in the log of the spot's total count: what sequencing depth alone explains.

    It knows a measurement of the spot that it predicts, which no image model does.
    """

    name: ClassVar[str] = "depth_only"
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("log_depth",)

    def _prepare(self, train: Spots) -> np.ndarray:
        self.center = np.array([train.log_depth.mean(), max(train.log_depth.std(), 1e-6)])
        return self._inputs(train)

    def _inputs(self, spots: Spots) -> np.ndarray:
        depth = (spots.log_depth - self.center[0]) / self.center[1]
        return np.stack([depth, depth**2], axis=1)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """With the train spots' mean and spread of log depth."""
        arrays, values = super().state()
        return {**arrays, "center": self.center}, values


class PositionOnly(_Linear):
    """A polynomial of degree four in the place on the image, scaled to the section: what layout alone explains."""

    name: ClassVar[str] = "position_only"
    paper: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ("position",)

    def _inputs(self, spots: Spots) -> np.ndarray:
        place = np.empty((len(spots), 2))
        for code in np.unique(spots.library):
            rows = spots.library == code
            low, high = spots.position[rows].min(axis=0), spots.position[rows].max(axis=0)
            place[rows] = (spots.position[rows] - (low + high) / 2) / max((high - low).max() / 2, 1e-6)
        x, y = place.T
        return np.stack([x**i * y**j for i in range(5) for j in range(5 - i) if i + j], axis=1)


class _OnEmbedding(_Plain):
    """What predictors on an embedding share: standardised features, rotated to the leading principal components.

    Parameters
    ----------
    standardize
        `"library"`: features are centred and scaled within each section, which takes out how it was stained and scanned;
        sections of fewer than 50 spots, and `"train"`, take mean and spread of all train spots.
    n_components
        Most principal components to keep.
    """

    needs: ClassVar[tuple[str, ...]] = ("embedding",)

    def __init__(self, *, standardize: str = "library", n_components: int = 256) -> None:
        if standardize not in ("library", "train"):
            raise ValueError(f"standardize={standardize!r} is unknown: choose 'library' or 'train'.")
        check_number("n_components", n_components, 1, whole=True)
        self.standardize = standardize
        self.n_components = n_components

    def _prepare(self, train: Spots) -> np.ndarray:
        values = train.embedding.astype(np.float64)
        self.mean, self.scale = mean_and_scale(values)
        within = [values[train.library == code].var(axis=0) for code in np.unique(train.library)]
        self.least = np.maximum(_LEAST_SPREAD * np.sqrt(np.mean(within, axis=0)), 1e-6 * self.scale)
        values = self._standardized(train)
        most = min(self.n_components, len(values) - 1)
        _, self.components = principal_components(values, most, _LEAST_VARIANCE)
        return values @ self.components

    def _standardized(self, spots: Spots) -> np.ndarray:
        values = np.empty(spots.embedding.shape)
        for code in np.unique(spots.library):
            rows = spots.library == code
            here = spots.embedding[rows].astype(np.float64)
            mean, scale = self.mean, self.scale
            if self.standardize == "library" and len(here) >= _LEAST_SPOTS:
                mean, scale = here.mean(axis=0), np.maximum(here.std(axis=0), self.least)
            values[rows] = np.clip((here - mean) / scale, -_MOST_SPREADS, _MOST_SPREADS)
        return values

    def _inputs(self, spots: Spots) -> np.ndarray:
        if spots.embedding.shape[1] != len(self.mean):
            raise ValueError(
                f"the embedding has {spots.embedding.shape[1]} features, the model was fitted on {len(self.mean)}: "
                "embed the patches with the same encoder."
            )
        return self._standardized(spots) @ self.components


class Ridge(_OnEmbedding, _Linear):
    """Ridge regression on a frozen embedding."""

    name: ClassVar[str] = "ridge"
    paper: ClassVar[str] = "Hoerl and Kennard 1970"

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Weights and what turns an embedding into inputs."""
        arrays, values = super().state()
        arrays |= {name: getattr(self, name) for name in ("mean", "scale", "least", "components")}
        return arrays, {**values, "standardize": self.standardize, "n_components": self.n_components}


class Knn(_OnEmbedding):
    """Mean of the train spots with the nearest embeddings; their number by cross-validation over the libraries."""

    name: ClassVar[str] = "knn"
    paper: ClassVar[str] = "Cover and Hart 1967"
    _counts: ClassVar[tuple[int, ...]] = (5, 10, 20, 50, 100, 200)

    def fit(self, train: Spots, validation: Spots | None, how: How) -> None:
        """Keep the train spots; choose the number of neighbours among them."""
        self.reference = self._prepare(train).astype(np.float32)
        self.target = train.target.astype(np.float32)
        self.known = np.ones(self.target.shape, dtype=bool) if train.known is None else train.known
        self.everywhere = train.gene_means()
        fold = folds(train)
        errors = np.zeros(len(self._counts))
        for code in range(fold.max() + 1):
            inside, outside = fold != code, fold == code
            everywhere = train.rows(np.flatnonzero(inside)).gene_means()
            nearest = _nearest(self.reference[outside], self.reference[inside], self._counts[-1])
            for i, k in enumerate(self._counts):
                found = _means(nearest[:, :k], self.target[inside], self.known[inside], everywhere)
                errors[i] += (((found - self.target[outside]) ** 2) * self.known[outside]).sum()
        self.k = self._counts[int(errors.argmin())]

    def predict(self, spots: Spots, how: How, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        nearest = _nearest(self._inputs(spots).astype(np.float32), self.reference, self.k)
        return _means(nearest, self.target, self.known, self.everywhere)

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """The train spots, and what turns an embedding into inputs."""
        names = ("reference", "target", "known", "everywhere", "mean", "scale", "least", "components")
        return {name: getattr(self, name) for name in names}, {"k": self.k, "standardize": self.standardize}


def folds(train: Spots) -> np.ndarray:
    """Fold of every train spot: by library, and for one library by five strips along its longer axis.

    Neighbouring spots share signal, so a random split would choose too small a penalty.
    """
    codes, fold = np.unique(train.library, return_inverse=True)
    if len(codes) > 1:
        return fold % _MOST_FOLDS
    if train.position is None:
        return np.arange(len(train)) * 5 // len(train)
    axis = np.ptp(train.position, axis=0).argmax()
    # Spots of one lattice column are in the order of the other axis, not in that of the rows.
    rank = np.argsort(np.lexsort((train.position[:, 1 - axis], train.position[:, axis])))
    return rank * 5 // len(train)


def ridge_path(inputs: np.ndarray, target: np.ndarray, known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (d, g) and offsets (g,) for every penalty."""
    if known.all():
        return _path(inputs, target.astype(np.float64))
    parts = [_path(inputs[rows], target[rows, [gene]][:, None]) for gene, rows in enumerate(known.T)]
    return [tuple(np.concatenate(both, axis=-1) for both in zip(*at, strict=True)) for at in zip(*parts, strict=True)]


def _path(inputs: np.ndarray, target: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    n = max(len(inputs), 1)
    center, mean = inputs.sum(axis=0) / n, target.sum(axis=0) / n
    inputs = inputs - center
    values, vectors = np.linalg.eigh(inputs.T @ inputs)
    values = np.maximum(values, 0)
    right = vectors.T @ (inputs.T @ (target - mean))
    unit = max(values.mean(), 1e-12) if values.size else 1.0
    result = []
    for penalty in _PENALTIES:
        weights = vectors @ (right / (values + penalty * unit)[:, None])
        result.append((weights, mean - center @ weights))
    return result


def _means(nearest: np.ndarray, target: np.ndarray, known: np.ndarray, everywhere: np.ndarray) -> np.ndarray:
    """Mean of the known entries of the neighbours, `everywhere` where a gene has none there."""
    result = np.empty((len(nearest), target.shape[1]), dtype=np.float32)
    for start in range(0, len(nearest), _CHUNK):
        near = nearest[start : start + _CHUNK]
        n = known[near].sum(axis=1)
        total = np.sum(target[near], axis=1, where=known[near])
        result[start : start + _CHUNK] = np.where(n > 0, total / np.maximum(n, 1), everywhere)
    return result


def _nearest(query: np.ndarray, reference: np.ndarray, k: int) -> np.ndarray:
    """Rows of the `k` nearest reference points, nearest first; ties by row."""
    k = min(k, len(reference))
    squares = (reference**2).sum(axis=1)
    result = np.empty((len(query), k), dtype=np.int64)
    for start in range(0, len(query), _CHUNK):
        distance = squares - 2 * query[start : start + _CHUNK] @ reference.T
        result[start : start + _CHUNK] = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return result
