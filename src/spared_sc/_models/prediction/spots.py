"""The spots that a predictor is fitted on or predicts for, and the reading of their patches."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.prediction_shrinkage import level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from spared_sc._kernels.lattice import Lattice

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
    """Patches read by one thread, so that the next batch arrives during the computation of the current one.

    Without patches there is nothing to read: `None` arrives.
    """

    def __init__(self, patches: PatchReader | None) -> None:
        self._read = (lambda rows: None) if patches is None else patches.read

    def __enter__(self) -> Reading:
        self._thread = ThreadPoolExecutor(1)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def submit(self, rows: np.ndarray) -> Future[np.ndarray | None]:
        """Begin to read the patches of some spots."""
        return self._thread.submit(self._read, rows)

    def ahead(self, batches: Iterable[T], rows: Callable[[T], np.ndarray]) -> Iterator[tuple[T, np.ndarray | None]]:
        """Batches, whose spots are given by `rows`, with the patches of these."""
        waiting: list[tuple[T, Future[np.ndarray | None]]] = []
        for batch in batches:
            waiting.append((batch, self.submit(rows(batch))))
            if len(waiting) > 1:
                before, patches = waiting.pop(0)
                yield before, patches.result()
        for before, patches in waiting:
            yield before, patches.result()


def present(value: T | None, name: str) -> T:
    """Narrow a part of the spots that must be there; a ValueError if it is not."""
    if value is None:
        raise ValueError(f"the spots have no {name}, which this predictor needs.")
    return value


@dataclass(frozen=True)
class Spots:
    """The spots that a predictor is fitted on or predicts for; what was not asked for is `None`."""

    library: np.ndarray  # (n,) codes; equal codes share an image
    _: KW_ONLY
    position: np.ndarray | None = None  # (n, 2) x and y in pixels of each image
    place: np.ndarray | None = None  # (n, 2) row and column on the capture array
    lattice: Lattice | None = None  # which spots touch
    patches: PatchReader | None = None  # one per row
    embedding: np.ndarray | None = None  # (n, d)
    log_depth: np.ndarray | None = None  # (n,) log of the total count: measured, so unknown on a new slide
    target: np.ndarray | None = None  # (n, g) float32
    known: np.ndarray | None = None  # (n, g) bool: entries that enter the loss; None means all
    counts: np.ndarray | None = None  # (n, g) float32, raw; where the target is expression, or losses need them
    exposure: np.ndarray | None = None  # (n, g) float32, count at a scaled expression of one; where that is the target
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
            place=of(self.place),
            lattice=None if self.lattice is None else self.lattice.subset(index),
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
