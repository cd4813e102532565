"""Interface of a predictor: the spots it is given and what it can do."""

from __future__ import annotations

from abc import abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import numpy as np

from spared_sc._core.registry import Method
from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.prediction_shrinkage import level
from spared_sc._models.device import check_device

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spared_sc._core.compute import Compute

T = TypeVar("T")
MSE, POISSON, NEGATIVE_BINOMIAL = "mse", "poisson", "nb"
LOSSES = (MSE, POISSON, NEGATIVE_BINOMIAL)  # the last two compare counts, with the depth as offset


class PatchReader(Protocol):
    """Square cut-outs of the image around spots."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3), red green blue."""
        ...


class Reading:
    """Patches read by one thread, so that the next batch arrives during the computation of the current one."""

    def __init__(self, patches: PatchReader) -> None:
        self.patches = patches

    def __enter__(self) -> Reading:
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, rows: np.ndarray) -> Future[np.ndarray]:
        return self._thread.submit(self.patches.read, rows)

    def batches(self, size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All rows in order, and their patches."""
        rows = [np.arange(start, min(start + size, len(self.patches))) for start in range(0, len(self.patches), size)]
        ahead = [self.submit(part) for part in rows[:1]]
        for i, part in enumerate(rows):
            ahead += [self.submit(later) for later in rows[i + 1 : i + 2]]
            yield part, ahead.pop(0).result()


def present(value: T | None, name: str) -> T:
    """Narrow a part of the spots that must be there; a ValueError if it is not."""
    if value is None:
        raise ValueError(f"the spots have no {name}, which this predictor needs.")
    return value


@dataclass(frozen=True)
class Spots:
    """The spots that a predictor is fitted on or predicts for; what was not asked for is `None`."""

    library: np.ndarray  # (n,) codes; equal codes share an image
    position: np.ndarray | None = None  # (n, 2) x and y in pixels of each image
    patches: PatchReader | None = None  # one per row
    embedding: np.ndarray | None = None  # (n, d)
    log_depth: np.ndarray | None = None  # (n,) log of the total count: measured, so unknown on a new slide
    target: np.ndarray | None = None  # (n, g) float32
    known: np.ndarray | None = None  # (n, g) bool: entries that enter the loss; None means all
    counts: np.ndarray | None = None  # (n, g) float32, raw; where the target is expression
    exposure: np.ndarray | None = None  # (n, g) float32: count expected at a scaled expression (TPM) of one
    loss: str = MSE  # of `LOSSES`
    group: np.ndarray | None = None  # (n,) codes; libraries of one group (a donor, copies) are held out together
    section: np.ndarray | None = None  # (n,) codes; copies of one section share one, where there are any

    def __len__(self) -> int:
        return len(self.library)

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (n, g) to learn, and which of them are known."""
        target = present(self.target, "target")
        return target, np.ones(target.shape, dtype=bool) if self.known is None else self.known

    def flat(self) -> np.ndarray:
        """Log2(1 + scaled expression) of each gene's share of all molecules: float32 (g,)."""
        counts, exposure = present(self.counts, "counts"), present(self.exposure, "exposure")
        return np.log2(1 + level(counts, exposure)).astype(np.float32)

    def gene_means(self) -> np.ndarray:
        """Mean of each gene over its known entries, over all of them where none is known: float32 (g,)."""
        target, known = self.targets()
        known = known | ~known.any(axis=0)
        return gene_means(np.where(known, target, 0), known).astype(np.float32)

    def take(self, index: np.ndarray) -> Spots:
        """Some of the spots."""

        def of(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else array[index]

        return Spots(
            library=self.library[index],
            position=of(self.position),
            patches=None if self.patches is None else PatchSubset(self.patches, index),
            embedding=of(self.embedding),
            log_depth=of(self.log_depth),
            target=of(self.target),
            known=of(self.known),
            counts=of(self.counts),
            exposure=of(self.exposure),
            loss=self.loss,
            group=of(self.group),
            section=of(self.section),
        )


@dataclass(frozen=True)
class PatchSubset:
    """Patches of some of the spots of another reader."""

    reader: PatchReader
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3)."""
        return self.reader.read(self.index[rows])


@dataclass(kw_only=True, eq=False)
class Predictor(Method):
    """Predicts the expression of a spot without measuring it; its fields are its parameters.

    Targets are given on the scale on which predictions are wanted.
    """

    takes_counts: ClassVar[bool] = False  # whether it can be fitted with the losses of counts
    validates: ClassVar[bool] = False  # whether validation spots choose the best step; else they are not used
    least_train: ClassVar[int] = 1  # libraries to train on

    @property
    def needs(self) -> tuple[str, ...]:
        """Parts of `Spots` that it reads: of "patches", "embedding", "position", "log_depth"."""
        return self.about.needs

    @classmethod
    def place(cls, compute: Compute) -> Compute:
        """The same, with the device that this predictor computes on."""
        check_device(compute)
        return replace(compute, device="cpu")

    @property
    def interrupted(self) -> bool:
        """Whether the fit was interrupted; the best state up to then is kept."""
        return False

    @abstractmethod
    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Learn from `train`; `validation` selects among steps and parameters and is never trained on."""

    @abstractmethod
    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g).

        `own_library` holds each spot's library by its code in training, -1 for one that was not there: predictors that
        look up train spots look up none of those. `None` means new slides.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned state: arrays, and values that JSON can hold."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The predictor with that state; a KeyError, TypeError or ValueError if arrays and values do not fit."""

    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return sum(array.size for array in self.state()[0].values() if array.dtype.kind == "f")

    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""
        _, values = self.state()
        scalars = {name: value for name, value in values.items() if isinstance(value, str | int | float)}
        return {"n_parameters": self.n_parameters(), **self.params(), **scalars}
