"""Predictors without a network: ridge and nearest neighbours on an embedding, and the anchors of an honest comparison."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from spared_sc._core.params import parameter
from spared_sc._core.report import warn
from spared_sc._kernels.threads import limited_threads
from spared_sc._models.prediction.base import Predictor
from spared_sc._models.prediction.components import mean_and_scale, principal_components
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spared_sc._core.compute import Compute
    from spared_sc._core.registry import About
    from spared_sc._kernels.folds import Fold
    from spared_sc._models.prediction.spots import Spots

_PENALTIES = np.logspace(-2, 4, 13)  # times the mean eigenvalue of the inputs' products
_COUNTS = (5, 10, 20, 50, 100, 200)  # numbers of neighbours to choose from
_MOST_FOLDS, _N_STRIPS = 10, 5
_MOST_OUTSIDE = 0.9  # of the spots in one fold: a fit to the few others would say nothing
_CHUNK = 256
_LEAST_SPOTS = 50  # of a section, for statistics of its own
_LEAST_SPREAD = 0.1  # of a feature in a section, relative to the train sections': noise is not amplified
_LEAST_VARIANCE = 1e-6  # of a component, relative to the first one's
_MOST_SPREADS = 5  # standard deviations at which a feature is clipped
_FAR, _FAR_AT_LEAST = 2, 0.5  # times the largest shift of a train section, and spreads: a section is unlike them


def learned() -> Any:
    """A field that fitting fills in, and that is saved."""
    return dataclasses.field(default=None, init=False, repr=False)


@dataclass(kw_only=True, eq=False)
class PlainPredictor(Predictor):
    """A predictor whose state is its parameters and its learned fields."""

    shapes: ClassVar[dict[str, str]] = {}  # learned arrays -> a letter for each of their dimensions

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned state: arrays, and values that JSON can hold."""
        state = {field.name: getattr(self, field.name) for field in fields(self) if not field.init}
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        values = {name: value for name, value in state.items() if name not in arrays}
        return arrays, {"params": self.params(), **values}

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The predictor with that state."""
        predictor = cls(**values["params"])
        for field in fields(cls):
            if not field.init:
                setattr(predictor, field.name, arrays[field.name] if field.name in arrays else values[field.name])
        predictor._check_state()
        return predictor

    def _check_state(self) -> None:
        """A ValueError if learned arrays do not fit together, or learned numbers are none."""
        sizes: dict[str, int] = {}
        letters = {
            name: dims for cls in reversed(type(self).__mro__) for name, dims in vars(cls).get("shapes", {}).items()
        }
        for name, dims in letters.items():
            shape = np.shape(getattr(self, name))
            expected = tuple(sizes.setdefault(letter, size) for letter, size in zip(dims, shape, strict=False))
            if len(shape) != len(dims) or shape != expected:
                raise ValueError(f"{name} has the shape {shape}, expected {expected} ({dims})")
        for field in fields(self):
            value = getattr(self, field.name)
            if not field.init and not isinstance(value, np.ndarray) and type(value) not in (int, float):
                raise ValueError(f"{field.name} is {value!r:.50}, expected a number")


@dataclass(kw_only=True, eq=False)
class Linear(PlainPredictor):
    """Ridge regression of every gene on some inputs; its penalty by cross-validation over the train libraries.

    The intercept is free. Where only known entries count, every gene is fitted on its own spots.
    """

    shapes: ClassVar[dict[str, str]] = {"weights": "dg", "offset": "g"}
    weights: np.ndarray = learned()  # (d, g)
    offset: np.ndarray = learned()  # (g,)
    penalty: float = learned()

    @limited_threads(1)
    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Learn from `train` alone: its folds replace validation spots."""
        inputs = self._prepare(train)
        target, known = train.targets()
        fold = folds(train)
        errors = np.zeros((len(_PENALTIES), known.shape[1]))
        for code in range(fold.max() + 1) if inputs.shape[1] else ():
            inside, outside = fold != code, fold == code
            for i, (weights, offset) in enumerate(ridge_path(inputs[inside], target[inside], known[inside])):
                gap = (inputs[outside] @ weights + offset - target[outside]) * known[outside]
                errors[i] += (gap**2).sum(axis=0)
        best = int(errors.sum(axis=1).argmin()) if inputs.shape[1] else 0
        self.weights, self.offset = ridge_path(inputs, target, known)[best]
        self.offset = np.where(known.any(axis=0), self.offset, train.gene_means())
        self.penalty = float(_PENALTIES[best])

    @limited_threads(1)
    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        return (self._inputs(spots) @ self.weights + self.offset).astype(np.float32)

    def _prepare(self, train: Spots) -> np.ndarray:
        """Learn how spots become inputs, and return those of the train spots."""
        return self._inputs(train)

    @abstractmethod
    def _inputs(self, spots: Spots) -> np.ndarray:
        """Inputs of the regression, (n, d)."""


@dataclass(kw_only=True, eq=False)
class GeneMean(Linear):
    """The mean of the gene over the train spots."""

    about: ClassVar[About] = PREDICTORS["gene_mean"]

    def _inputs(self, spots: Spots) -> np.ndarray:
        return np.zeros((len(spots), 0))


@dataclass(kw_only=True, eq=False)
class DepthOnly(Linear):
    """A parabola in the log of the spot's total count: what sequencing depth alone explains.

    It uses a measurement of the spot that it predicts, which no image model does.
    """

    about: ClassVar[About] = PREDICTORS["depth_only"]
    center: np.ndarray = learned()  # the train spots' mean and spread of log depth

    def _prepare(self, train: Spots) -> np.ndarray:
        log_depth = present(train.log_depth, "depth")
        self.center = np.array([log_depth.mean(), max(log_depth.std(), 1e-6)])
        return self._inputs(train)

    def _inputs(self, spots: Spots) -> np.ndarray:
        depth = (present(spots.log_depth, "depth") - self.center[0]) / self.center[1]
        return np.stack([depth, depth**2], axis=1)


@dataclass(kw_only=True, eq=False)
class PositionOnly(Linear):
    """A polynomial of degree four in the position on the image, scaled to the section: what layout alone explains."""

    about: ClassVar[About] = PREDICTORS["position_only"]

    def _inputs(self, spots: Spots) -> np.ndarray:
        position = present(spots.position, "position")
        scaled = np.empty((len(spots), 2))
        for code in np.unique(spots.library):
            rows = spots.library == code
            low, high = position[rows].min(axis=0), position[rows].max(axis=0)
            scaled[rows] = (position[rows] - (low + high) / 2) / max((high - low).max() / 2, 1e-6)
        x, y = scaled.T
        return np.stack([x**i * y**j for i in range(5) for j in range(5 - i) if i + j], axis=1)


@dataclass(kw_only=True, eq=False)
class OnEmbedding(PlainPredictor):
    """Standardised features of an embedding, rotated to the leading principal components.

    It learns from differences within sections: features of the train spots are centred and scaled within their section, so
    that differences of stain between sections are not mistaken for differences of expression.

    Parameters
    ----------
    standardize
        Mean and spread by which the features of predicted spots are standardised. `"train"`: those of the train spots, so
        that the prediction of a spot depends on its own patch alone. `"library"`: those of its section, which removes the
        section's stain, but moves all its predictions with the spots that are present; sections of fewer than 50 spots use
        `"train"`.
    n_components
        Most principal components to keep.
    """

    standardize: str = parameter("train", choices=("train", "library"))
    n_components: int = parameter(256, least=1, whole=True)
    shapes: ClassVar[dict[str, str]] = {"mean": "m", "scale": "m", "components": "md"}
    mean: np.ndarray = learned()
    scale: np.ndarray = learned()  # root mean square spread within a section
    components: np.ndarray = learned()
    shift: float = learned()  # largest distance of a train section's mean from `mean`
    fewest: int = learned()  # spots of a train section

    def _prepare(self, train: Spots) -> np.ndarray:
        values = present(train.embedding, "embedding").astype(np.float64)
        sections = [values[train.library == code] for code in np.unique(train.library)]
        self.mean, _ = mean_and_scale(values)
        within = np.sqrt(np.mean([section.var(axis=0) for section in sections], axis=0))
        self.scale = np.where(within > 1e-6 * (1e-6 + np.abs(self.mean)), within, np.inf)
        self.shift = max(self._shift_of(section) for section in sections)
        self.fewest = min(len(section) for section in sections)
        values = _by_section(train, self._within)
        most = min(self.n_components, len(values) - 1)
        _, self.components = principal_components(values, most, _LEAST_VARIANCE)
        return values @ self.components

    def _inputs(self, spots: Spots) -> np.ndarray:
        n_features = present(spots.embedding, "embedding").shape[1]
        if n_features != len(self.mean):
            raise ValueError(
                f"the embedding has {n_features} features, the model was fitted on {len(self.mean)}: embed the patches "
                "with the same encoder."
            )
        return _by_section(spots, self._new_section) @ self.components

    def _within(self, section: np.ndarray) -> np.ndarray:
        """The features of a section (n, d), centred and, if there are enough spots, scaled by its own."""
        enough = len(section) >= _LEAST_SPOTS
        spread = np.maximum(section.std(axis=0), _LEAST_SPREAD * self.scale) if enough else self.scale
        return _clipped((section - section.mean(axis=0)) / spread)

    def _new_section(self, section: np.ndarray) -> np.ndarray:
        """The features of a section to predict; a warning if it is unlike the train sections."""
        own = self.standardize == "library" and len(section) >= _LEAST_SPOTS
        self._check(section, own)
        return self._within(section) if own else _clipped((section - self.mean) / self.scale)

    def _shift_of(self, section: np.ndarray) -> float:
        """Root mean square distance of a section's mean from the train spots' mean, in spreads within a section."""
        varying = np.isfinite(self.scale)
        gap = (section.mean(axis=0) - self.mean)[varying] / self.scale[varying]
        return float(np.sqrt(np.mean(gap**2))) if gap.size else 0.0

    def _check(self, section: np.ndarray, own: bool) -> None:
        """Warn where the spots that are present, or the stain, are likely to spoil the predictions of a section."""
        shift = self._shift_of(section)
        far = len(section) >= _LEAST_SPOTS and self.shift > 0 and shift > max(_FAR * self.shift, _FAR_AT_LEAST)
        unlike = f"the mean embedding of a section lies {shift:.2g} standard deviations from that of the train sections"
        if own and (far or len(section) < self.fewest / 2):
            few = f"a section has {len(section)} spots, the smallest train section has {self.fewest}"
            warn(
                f"{unlike if far else few}. With standardize='library', its features are centred on the spots that are "
                "present, so predictions of a crop or of other tissue are moved: use standardize='train'.",
            )
        elif far:
            warn(
                f"{unlike}, of which none lies more than {self.shift:.2g} off: its stain, scanner or tissue differs. If it "
                "is the stain, extract the patches of all sections with `sp.pp.extract_patches(adata, stain='macenko')`.",
            )


@dataclass(kw_only=True, eq=False)
class Ridge(OnEmbedding, Linear):
    """Ridge regression on a frozen embedding."""

    about: ClassVar[About] = PREDICTORS["ridge"]


@dataclass(kw_only=True, eq=False)
class Knn(OnEmbedding):
    """Mean of the train spots with the nearest embeddings; their number by cross-validation over the libraries."""

    about: ClassVar[About] = PREDICTORS["knn"]
    shapes: ClassVar[dict[str, str]] = {"reference": "nd", "target": "ng", "known": "ng", "everywhere": "g"}
    reference: np.ndarray = learned()  # (n, d) inputs of the train spots
    target: np.ndarray = learned()
    known: np.ndarray = learned()
    everywhere: np.ndarray = learned()  # (g,) means
    k: int = learned()

    def _check_state(self) -> None:
        super()._check_state()
        if type(self.k) is not int or self.k < 1 or self.known.dtype != bool:
            raise ValueError(f"k={self.k!r:.50} neighbours, and what is known is {self.known.dtype}")

    @limited_threads(1)
    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Keep the train spots; choose the number of neighbours among them."""
        self.reference = self._prepare(train).astype(np.float32)
        target, self.known = train.targets()
        self.target = target.astype(np.float32)
        self.everywhere = train.gene_means()
        fold = folds(train)
        errors = np.zeros(len(_COUNTS))
        for code in range(fold.max() + 1):
            inside, outside = fold != code, fold == code
            everywhere = train.take(np.flatnonzero(inside)).gene_means()
            nearest = _nearest(self.reference[outside], self.reference[inside], _COUNTS[-1])
            for i, k in enumerate(_COUNTS):
                estimate = _means(nearest[:, :k], self.target[inside], self.known[inside], everywhere)
                errors[i] += (((estimate - self.target[outside]) ** 2) * self.known[outside]).sum()
        self.k = _COUNTS[int(errors.argmin())]

    @limited_threads(1)
    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        nearest = _nearest(self._inputs(spots).astype(np.float32), self.reference, self.k)
        return _means(nearest, self.target, self.known, self.everywhere)


def predict_anchor(name: str, spots: Spots, fits: Sequence[Fold], compute: Compute) -> np.ndarray:
    """Predictions of all spots, each by its fit: float32 (n_spots, n_genes)."""
    result = np.empty(spots.targets()[0].shape, dtype=np.float32)
    for fold in fits:
        predictor = PREDICTORS.make(name, {})
        predictor.fit(spots.take(np.flatnonzero(fold.train[spots.library])), None, compute)
        rows = np.flatnonzero(fold.predicted[spots.library])
        result[rows] = predictor.predict(spots.take(rows), compute)
    return result


def folds(train: Spots, most: int = _MOST_FOLDS) -> np.ndarray:
    """Fold of every train spot: by donor where there are several, else by section, else by strips along the longer axis.

    Neighbouring spots share signal, so a random split would choose too small a penalty. Sections of a donor do so too,
    and copies of a section even more. A donor or a section with nearly all spots counts as the only one.
    """
    for codes in (train.group, train.library if train.section is None else train.section):
        if codes is not None:
            fold = np.unique(codes, return_inverse=True)[1] % most
            if np.bincount(fold).max() <= _MOST_OUTSIDE * len(fold):
                return fold
    n_strips = min(_N_STRIPS, most)
    if train.position is None:
        return np.arange(len(train)) * n_strips // len(train)
    axis = np.ptp(train.position, axis=0).argmax()
    # Spots of one lattice column are in the order of the other axis, not in that of the rows; those of copies go together.
    places, rank = np.unique(train.position[:, [axis, 1 - axis]], axis=0, return_inverse=True)
    return rank.ravel() * n_strips // len(places)


def ridge_path(inputs: np.ndarray, target: np.ndarray, known: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (d, g) and offsets (g,) for every penalty."""
    if known.all():
        return _path(inputs, target.astype(np.float64))
    by_gene = [_path(inputs[rows], target[rows, [gene]][:, None]) for gene, rows in enumerate(known.T)]
    return [
        (np.concatenate([w for w, _ in fits], axis=-1), np.concatenate([o for _, o in fits]))
        for fits in zip(*by_gene, strict=True)
    ]


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


def _by_section(spots: Spots, standardized: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Features of all spots, standardised section by section: float64 (n, d)."""
    embedding = present(spots.embedding, "embedding")
    values = np.empty(embedding.shape)
    for code in np.unique(spots.library):
        rows = spots.library == code
        values[rows] = standardized(embedding[rows].astype(np.float64))
    return values


def _clipped(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -_MOST_SPREADS, _MOST_SPREADS)


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
