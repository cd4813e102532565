"""Choice of parameters by a coordinate search over grids."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


def pick(score: Callable[..., float], grids: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    """The parameters of lowest score, sought one at a time from the middle of the grids until none of them moves.

    A grid is left when two values in a row are no better than one before. The middle stays where there is no score, for
    want of entries.
    """
    scores: dict[tuple[Any, ...], float] = {}

    def score_of(values: dict[str, Any]) -> float:
        place = tuple(values.values())
        if place not in scores:
            scores[place] = score(**values)
        return scores[place]

    chosen = {name: values[len(values) // 2] for name, values in grids.items()}
    while any(len(values) > 1 for values in grids.values()):
        before = dict(chosen)
        for name, values in grids.items():
            least, n_worse, best = np.inf, 0, chosen[name]
            for value in values:
                found = score_of({**chosen, name: value})
                if found < least:
                    least, best, n_worse = found, value, 0
                else:
                    n_worse += 1
                if n_worse == 2:
                    break
            if least < scores.get(tuple(chosen.values()), np.inf):  # never to a worse place, so this comes to an end
                chosen[name] = best
        if chosen == before:
            break
    return chosen


def generator(seed: int, purpose: int) -> np.random.Generator:
    """A random stream per purpose: hiding or thinning by the same seed elsewhere must not draw the same numbers."""
    return np.random.default_rng([seed, 41, purpose])
