"""Interface of a completion method, and the names that a file with a method needs."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from spared_sc._core.compute import Compute
from spared_sc._core.keys import Key
from spared_sc._core.params import allowed_of, parameter
from spared_sc._core.registry import About, Method
from spared_sc._kernels.sections import CompletionFunction, Estimate, Sections
from spared_sc._kernels.threads import limited_threads

__all__ = ["About", "Completer", "Compute", "Estimate", "FittedCompleter", "Sections", "SimpleCompleter", "parameter"]


@dataclass(kw_only=True, eq=False)
class Completer(Method):
    """A completion method; its fields are its parameters.

    A parameter that is `None` and has a grid is tuned on detected entries that are hidden for the purpose.
    """

    alone: ClassVar[bool] = False  # whether, once fitted, a library is completed without a look at the others
    uses_embedding: ClassVar[bool] = False
    uses_counts: ClassVar[bool] = True  # else nothing is lost where there are none

    @property
    def scope(self) -> str:
        """What a completed value of one library may depend on: that `"library"`, or the whole `"collection"`."""
        return "library" if self.alone else "collection"

    @property
    def hides_entries(self) -> bool:
        """Whether detected entries are hidden, to tune or to score on."""
        return any(len(values) > 1 for values in self.grids().values())

    def grids(self) -> dict[str, tuple[Any, ...]]:
        """Values to try for each parameter that can be tuned: one value where it was given."""
        tuned = {name: allowed.grid for name, allowed in allowed_of(type(self)).items() if allowed.grid}
        return {name: grid if getattr(self, name) is None else (getattr(self, name),) for name, grid in tuned.items()}

    def check(self, sections: Sections) -> None:
        """Refuse sections that lack raw counts or an embedding, where the method needs them."""
        if "counts" in self.about.needs and sections.counts is None:
            raise ValueError(
                f'{self.name!r} needs raw counts: put them into adata.X or adata.layers["counts"], or choose a method '
                "that does without, such as method='additive'."
            )
        if "embedding" in self.about.needs and sections.embedding is None:
            raise ValueError(f"{self.name!r} needs an embedding of the spots: name a table of obsm as `use_rep=`.")

    @abstractmethod
    def complete(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry."""

    def as_function(self, compute: Compute) -> CompletionFunction:
        """The method as a function of the sections, for evaluations; nobody wants the score of half a fit."""

        def complete(sections: Sections) -> Estimate:
            estimate = self.complete(sections, compute)
            if estimate.interrupted:
                raise KeyboardInterrupt
            return estimate

        return complete

    def complete_by_split(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> Estimate:
        """Estimate in which no measurement of another split has a part in a train value.

        The train libraries are completed from each other alone, those of another split together with them. `split` is
        `"train"`, `"val"` or `"test"` of every spot; `None` completes all libraries together.
        """
        if split is None or self.alone:
            return self.complete(sections, compute)
        whole: Estimate | None = None
        for name in Key.splits:
            here = split == name
            if not here.any():
                continue
            spots = np.flatnonzero(here | (split == "train"))
            part = self.complete(sections.of_spots(spots), compute)
            if part.interrupted:  # the other splits are not there
                raise KeyboardInterrupt
            whole = _empty_like(part, sections.values.shape) if whole is None else whole
            for name in Estimate.blocks:
                block, values = getattr(whole, name), getattr(part, name)
                if block is not None and values is not None:
                    block[here] = values[here[spots]]
        if whole is None:
            raise ValueError("no spot is in the train, val or test split: give every library one of them.")
        return whole


class SimpleCompleter(Completer):
    """A method that needs linear algebra only."""

    def complete(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry, with the parameters as tuned."""
        self.check(sections)
        # The matrices are small: threads of the linear algebra gain little, and cost a lot on a busy machine.
        with limited_threads(1):
            return self.estimate(sections, compute)

    @abstractmethod
    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry."""


class Learned(Protocol):
    """What a fit leaves behind."""

    @property
    def interrupted(self) -> bool:
        """Whether the fit was interrupted, and this is the best state up to then."""


L = TypeVar("L", bound=Learned)


@dataclass(kw_only=True, eq=False)
class FittedCompleter(Completer, Generic[L]):
    """A method that is fitted, saved and applied to other sections."""

    learned: L | None = field(default=None, init=False, repr=False)

    @property
    def scope(self) -> str:
        """All libraries that it was fitted to."""
        return "collection"

    @property
    def fitted(self) -> bool:
        """Whether it has been fitted or loaded."""
        return self.learned is not None

    @property
    def hides_entries(self) -> bool:
        """Whether it is still to be fitted."""
        return not self.fitted

    def result(self) -> L:
        """What was learned; an error if nothing was."""
        if self.learned is None:
            raise ValueError(f"{self.name!r} is not fitted: call `fit` first.")
        return self.learned

    @property
    def n_genes(self) -> int | None:
        """Number of genes that the fitted method completes; `None` if it takes any."""
        return None

    @abstractmethod
    def fit(self, sections: Sections, split: np.ndarray | None, compute: Compute) -> None:
        """Learn from the train libraries; `split` as in `complete_by_split`."""

    @abstractmethod
    def apply(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate of every entry by the fitted method."""

    @abstractmethod
    def report(self) -> dict[str, Any]:
        """Summary of the fit for the record."""

    def gene_report(self) -> dict[str, np.ndarray]:
        """What is known of each gene it was fitted to, (n_genes,), by what follows the key in the name of a column."""
        return {}

    @abstractmethod
    def state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Learned state: arrays, and values that JSON can hold."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: dict[str, np.ndarray], values: dict[str, Any]) -> Self:
        """The completer with that state; `ValueError` if arrays and values do not fit."""

    def complete(self, sections: Sections, compute: Compute) -> Estimate:
        """Estimate by the fitted method; an unfitted one stays so, and a copy is fitted to these sections."""
        self.check(sections)
        if self.fitted:
            n_genes = sections.values.shape[1]
            if self.n_genes not in (None, n_genes):
                raise ValueError(
                    f"the model was fitted to {self.n_genes} genes, and here are {n_genes}: choose the same with "
                    "`mask_var=`, or fit a model to these data."
                )
            with limited_threads(compute.network_threads):
                return self.apply(sections, compute)
        copy = type(self)(**self.params())
        with limited_threads(compute.network_threads):
            copy.fit(sections, None, compute)
            estimate = copy.apply(sections, compute)
            return replace(estimate, interrupted=estimate.interrupted or copy.result().interrupted)


def _empty_like(part: Estimate, shape: tuple[int, ...]) -> Estimate:
    def empty(block: np.ndarray | None) -> np.ndarray | None:
        return None if block is None else np.empty(shape, block.dtype)

    blocks: dict[str, Any] = {name: empty(getattr(part, name)) for name in Estimate.blocks}
    return Estimate(**blocks, params=part.params)
