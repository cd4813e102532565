"""Resampling of libraries, within subjects or subjects as a whole."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def library_weights(subjects: Sequence[str], n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the libraries in every resample, (n_bootstrap, n_libraries); each row adds up to one.

    Libraries of a subject with several are drawn from its own, those of all other subjects from one another.
    """
    _, subject, size = np.unique(np.asarray(subjects, dtype=str), return_inverse=True, return_counts=True)
    stratum = np.where(size[subject] > 1, subject, -1)
    weights = np.empty((n_bootstrap, stratum.size))
    for code in np.unique(stratum):
        members = np.flatnonzero(stratum == code)
        weights[:, members] = rng.multinomial(members.size, np.full(members.size, 1 / members.size), size=n_bootstrap)
    return weights / stratum.size


def unit_weights(units: Sequence[str], n_bootstrap: int, rng: np.random.Generator) -> np.ndarray:
    """Weights of the libraries where whole units (donors, or the libraries themselves) are drawn; rows add up to one."""
    _, unit = np.unique(np.asarray(units, dtype=str), return_inverse=True)
    n = unit.max() + 1
    weights = rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap)[:, unit].astype(float)
    return weights / weights.sum(axis=1, keepdims=True)
