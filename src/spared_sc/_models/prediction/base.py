"""What every predictor shares: the spots that it is given, how it computes, and what it can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from spared_sc._kernels.lowrank import gene_means

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from spared_sc._models.training import Fit


class PatchReader(Protocol):
    """Square cut-outs of the image around spots."""

    def __len__(self) -> int: ...

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3), red green blue."""
        ...


@dataclass(frozen=True)
class Spots:
    """The spots that a predictor is fitted on or predicts for; what was not asked for is `None`."""

    library: np.ndarray  # (n,) codes; equal codes share an image
    position: np.ndarray | None = None  # (n, 2) x and y in pixels of each image
    patches: PatchReader | None = None  # as long as there are rows
    embedding: np.ndarray | None = None  # (n, d)
    log_depth: np.ndarray | None = None  # (n,) log of the total count: measured, so unknown on a new slide
    target: np.ndarray | None = None  # (n, g) float32
    known: np.ndarray | None = None  # (n, g) bool: entries that enter the loss; None means all

    def __len__(self) -> int:
        return len(self.library)

    def gene_means(self) -> np.ndarray:
        """Mean of each gene over its known entries, over all of them where none is known: float32 (g,)."""
        known = np.ones(self.target.shape, dtype=bool) if self.known is None else self.known | ~self.known.any(axis=0)
        return gene_means(np.where(known, self.target, 0), known).astype(np.float32)

    def rows(self, index: np.ndarray) -> Spots:
        """Some of the spots."""
        patches = None if self.patches is None else Rows(self.patches, index)
        arrays = ("library", "position", "embedding", "log_depth", "target", "known")
        given = {name: getattr(self, name) for name in arrays}
        return replace(
            self, patches=patches, **{name: None if array is None else array[index] for name, array in given.items()}
        )


@dataclass(frozen=True)
class Rows:
    """Patches of some of the spots of another reader."""

    reader: PatchReader
    index: np.ndarray

    def __len__(self) -> int:
        return len(self.index)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3)."""
        return self.reader.read(self.index[rows])


@dataclass(frozen=True)
class How:
    """How to compute; nothing here but the seed changes a result."""

    device: torch.device
    seed: int = 0
    batch_size: int = 256  # spots per forward pass at inference
    n_threads: int = 1
    show_progress_bar: bool | None = None
    checkpoint: Path | None = None  # folder from which an interrupted fit goes on


class Predictor(ABC):
    """Expression of a spot from what is known of it without measuring expression.

    The constructor takes the model's parameters by name. Targets are given on the scale on which predictions are wanted.
    """

    name: ClassVar[str]
    paper: ClassVar[str]  # where the method is described
    needs: ClassVar[tuple[str, ...]]  # of "patches", "embedding", "position", "log_depth"
    pretrained: ClassVar[str] = ""  # weights that training starts from, with their licence
    validates: ClassVar[bool] = False  # whether validation spots choose the best step; else they are not looked at
    least_train: ClassVar[int] = 1  # libraries to train on
    fit_report: Fit | None = None  # of networks: how training went

    @abstractmethod
    def fit(self, train: Spots, validation: Spots | None, how: How) -> None:
        """Learn from `train`; `validation` selects among steps and parameters and is never trained on."""

    @abstractmethod
    def predict(self, spots: Spots, how: How, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g).

        `own_library` holds each spot's library by its code in training, -1 for one that was not there: predictors that
        look up train spots look up none of those. `None` stands for new slides.
        """

    @abstractmethod
    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """All that was learned, as arrays and as plain values that JSON can hold."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Predictor:
        """The predictor whose `state` this is."""

    def n_parameters(self) -> int:
        """Numbers that were learned."""
        return sum(array.size for array in self.state()[0].values() if array.dtype.kind == "f")

    def report(self) -> dict[str, Any]:
        """What is worth recording of a fit."""
        values = {k: v for k, v in self.state()[1].items() if isinstance(v, str | int | float)}
        return {"n_parameters": self.n_parameters(), **values}
