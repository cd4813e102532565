"""Several completers on the same hidden entries, mask after mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spared_sc._kernels.hidden_entries import Hidden, Score, Thinned, Truth
from spared_sc._kernels.masking import REGIMES
from spared_sc._kernels.sections import CompletionFunction


@dataclass(frozen=True)
class Mask:
    """One random mask."""

    regime: str
    share: float
    number: int

    def generator(self, seed: int) -> np.random.Generator:
        """Source of randomness of this mask, whatever other masks there are."""
        return np.random.default_rng([seed, list(REGIMES).index(self.regime), round(1000 * self.share), self.number])


@dataclass(frozen=True)
class MethodScore:
    """A score of one method on one mask."""

    mask: Mask
    method: str
    score: Score
    below_floor: bool = False  # the error is lower than sampling noise allows


def list_masks(regimes: Sequence[str], shares: Sequence[float], n_masks: int) -> list[Mask]:
    """Every mask, in the order of the regimes; `shares` are those of the regime `"paper"`."""
    pairs = [(regime, share) for regime in regimes for share in (shares if regime == "paper" else [REGIMES[regime]])]
    return [Mask(regime, share, number) for regime, share in pairs for number in range(n_masks)]


def evaluate(
    truth: Truth,
    masks: Sequence[Mask],
    methods: Mapping[str, CompletionFunction],
    *,
    without_rate: Collection[str],
    seed: int,
    on_fit: Callable[[], object],
) -> Iterator[list[MethodScore]]:
    """Scores of all methods and of the noise floor, one list for each mask; all methods get the same masks.

    Methods `without_rate` give no expected counts, and are not run where nothing else is scored. `on_fit` is called for
    each method and mask. An estimate that cannot be scored is a ValueError that names method and regime.
    """
    rateless = set(without_rate)
    for mask in masks:
        task = truth.hide(mask.regime, mask.share, mask.generator(seed))
        scores = [MethodScore(mask, name, score) for name, score in task.floors()]
        for name, method in methods.items():
            if mask.regime != "thinning" or name not in rateless:
                one, has_rate = _score(task, mask, name, method)
                scores += one
                rateless |= set() if has_rate else {name}
            on_fit()
        yield scores


def _score(task: Hidden | Thinned, mask: Mask, name: str, method: CompletionFunction) -> tuple[list[MethodScore], bool]:
    """Scores of one method, and whether it gives expected counts."""
    try:
        estimate = method(task.visible)
        task.check(estimate)
    except ValueError as error:
        raise ValueError(f"method {name!r}, regime {mask.regime!r}: {error}") from error
    below = task.is_below_floor(estimate)
    return [MethodScore(mask, name, score, below) for score in task.scores(estimate)], estimate.rate is not None
