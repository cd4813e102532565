"""How many random inputs the fuzzers try.

`SPARED_SC_FUZZ=5000` sets the number for each of them; without it there are few, for every day. `SPARED_SC_FUZZ_SEED=7`
sets the number of the first input. The number of an input is its seed, so that `SPARED_SC_FUZZ=1
SPARED_SC_FUZZ_SEED=4711` repeats input 4711 alone.
"""

from __future__ import annotations

import os

FIRST = int(os.environ.get("SPARED_SC_FUZZ_SEED", "0"))


def how_many(default: int) -> int:
    """Inputs to try, `default` unless a number was asked for."""
    return int(os.environ.get("SPARED_SC_FUZZ", default))


def numbers(default: int, part: int = 0, n_parts: int = 1) -> range:
    """Numbers of the inputs to try, or every `n_parts`-th of them."""
    return range(FIRST + part, FIRST + how_many(default), n_parts)
