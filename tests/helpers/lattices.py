"""Places on lattices and their neighbours, found one by one."""

from __future__ import annotations

import numpy as np

STEPS = {
    "hex": [(0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)],
    "grid": [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)],
    "grid4": [(-1, 0), (0, -1), (0, 1), (1, 0)],
}


def places(kind: str, n_rows: int, n_cols: int) -> np.ndarray:
    row, col = (index.ravel() for index in np.indices((n_rows, n_cols)))
    return np.column_stack([row, 2 * col + row % 2 if kind == "hex" else col])


def collection(
    kind: str, missing: float, *, sizes=((9, 8), (7, 11), (1, 1), (2, 2)), offset=(0, 0), seed=0
) -> tuple[np.ndarray, np.ndarray]:
    """Places and libraries; the libraries' coordinates overlap and the rows are shuffled."""
    rng = np.random.default_rng(seed)
    position, library = [], []
    for code, size in enumerate(sizes):
        here = places(kind, *size) + offset
        kept = rng.permutation(len(here))[: max(1, round(len(here) * (1 - missing)))]
        position.append(here[kept])
        library.append(np.full(len(kept), code))
    order = rng.permutation(sum(map(len, library)))
    return np.concatenate(position)[order], np.concatenate(library)[order]


def neighbours_by_dictionary(position: np.ndarray, library: np.ndarray, steps: list[tuple[int, int]]) -> list[set[int]]:
    spot_at = {
        (int(code), int(row), int(col)): i for i, (code, (row, col)) in enumerate(zip(library, position, strict=True))
    }
    return [
        {
            spot_at[int(code), int(row) + dr, int(col) + dc]
            for dr, dc in steps
            if (int(code), int(row) + dr, int(col) + dc) in spot_at
        }
        for code, (row, col) in zip(library, position, strict=True)
    ]
