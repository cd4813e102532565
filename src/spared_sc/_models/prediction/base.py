"""Interface of a predictor."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from spared_sc._core.registry import Method
from spared_sc._models.device import check_device

if TYPE_CHECKING:
    import numpy as np

    from spared_sc._core.compute import Compute
    from spared_sc._models.prediction.spots import Spots


@dataclass(kw_only=True, eq=False)
class Predictor(Method):
    """Predicts the expression of a spot without measuring it; its fields are its parameters.

    Targets are given on the scale on which predictions are wanted.
    """

    validates: ClassVar[bool] = False  # whether validation spots choose the best step; else they are not used
    least_train: ClassVar[int] = 1  # libraries to train on

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
