"""A completion method that is fitted, as somebody else would add one: a file, and a line in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from spared_sc._models.completion.base import About, Compute, Estimate, FittedCompleter, Sections, parameter
from spared_sc._models.completion.registry import COMPLETERS


@dataclass(frozen=True)
class Means:
    """Mean of each gene, which no fit is too short for."""

    means: np.ndarray
    interrupted: bool = False


@dataclass(kw_only=True, eq=False)
class Shifted(FittedCompleter[Means]):
    """The gene's mean of the data that it was fitted to, and a shift.

    Parameters
    ----------
    shift
        How much is added.
    """

    about: ClassVar[About] = COMPLETERS["shifted"]
    shift: float = parameter(0.5, least=0, most=9)

    def fit(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> None:
        """Means over the train libraries."""
        known = sections.known if split is None else sections.known & (split == "train")[:, None]
        self.learned = Means(np.sum(sections.values, axis=0, where=known) / np.maximum(known.sum(axis=0), 1))

    def apply(self, sections: Sections, compute: Compute) -> Estimate:
        """The same in every spot; a rate where there are counts."""
        values = np.broadcast_to(np.float32(self.result().means + self.shift), sections.values.shape).copy()
        return Estimate(values, None if sections.counts is None else np.full_like(values, 2), np.full_like(values, 0.1))

    def report(self) -> dict[str, Any]:
        """No score."""
        return {"data": "toy", "score": {"shifted": 1.0, "n_entries": 3}}

    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Means and shift."""
        return {"means": self.result().means}, self.params()

    @classmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The completer with these means."""
        completer = cls(**values)
        completer.learned = Means(arrays["means"])
        return completer
