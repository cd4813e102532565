"""Fingerprints of sections, by which copies are found again whatever they are called and however they were filtered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_SKETCH = 1024  # hashes kept per section


def hashed(values: np.ndarray) -> np.ndarray:
    """One 32-bit hash per row of integers (n, k)."""
    # One multiplication and shift per column scatter the bits (a variant of splitmix64).
    hashes = np.zeros(len(values), dtype=np.uint64)
    for column in values.T:
        hashes = (hashes ^ column.astype(np.uint64)) * np.uint64(0xBF58476D1CE4E5B9)
        hashes ^= hashes >> np.uint64(31)
    return (hashes >> np.uint64(32)).astype(np.int64)


def sketch(hashes: np.ndarray) -> list[int]:
    """The fingerprint of a section: the smallest hashes of its spots."""
    return np.unique(hashes)[:_SKETCH].tolist()


def same_section(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether one of two sections holds most spots of the other.

    Up to the largest hash of a full sketch all hashes of its section are known, and a sample of its spots (Broder 1997).
    """
    known_to = min([max(hashes) for hashes in (first, second) if len(hashes) == _SKETCH], default=np.inf)
    one, other = ({value for value in hashes if value <= known_to} for hashes in (first, second))
    return len(one & other) > min(len(one), len(other)) / 2


def match_libraries(sketches: Mapping[str, Sequence[int]], known: Mapping[str, Sequence[int]]) -> dict[str, str]:
    """Name of each section that is known -> the name by which it is known."""
    return {
        name: other for name, own in sketches.items() for other, hashes in known.items() if same_section(own, hashes)
    }
