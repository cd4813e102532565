"""Means over independent units, with t intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtrit

from spared_sc._kernels.metrics import finite_mean

LEAST_UNITS = 3  # for an interval
UNITS = {
    "source": "sources",
    "set": "sets",
    "subject": "subjects",
    "library": "libraries",
    "fold": "folds",
}  # what a unit may be, and several of it
_UPPER = 0.975  # quantile at the upper end of a 95 % interval


class Interval(NamedTuple):
    """Means over units, both ends of their 95 % intervals, and the number of units behind each."""

    mean: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    n_units: np.ndarray


def t_interval(values: np.ndarray) -> Interval:
    """Mean over the units and its 95 % t interval for every column of `values`, (n_units, n_columns).

    Units without a value do not count. The ends are NaN below three units: with two, the interval is so wide that it says
    nothing.
    """
    n = np.isfinite(values).sum(axis=0)
    mean = finite_mean(values, axis=0)
    freedom = np.where(n >= LEAST_UNITS, n - 1, np.nan)
    squares = np.where(np.isfinite(values), values - mean, 0) ** 2
    half = stdtrit(freedom, _UPPER) * np.sqrt(squares.sum(axis=0) / (freedom * np.maximum(n, 1)))
    return Interval(mean, mean - half, mean + half, n)


def unit_means(values: np.ndarray, units: Sequence[str]) -> np.ndarray:
    """Mean of the rows of every unit, (n_units, n_columns); NaN where none of them has a value."""
    names = np.asarray(units, dtype=str)
    return np.array([finite_mean(values[names == name], axis=0) for name in np.unique(names)])


def independent_unit(subjects: Sequence[str], libraries: Sequence[str]) -> str:
    """The independent unit: the subject where subjects are known, else the library, which then stands for its subject."""
    return "library" if list(subjects) == list(libraries) else "subject"


def reason(n_units: int, unit: str) -> str:
    """Why there is no interval; empty if there is one."""
    return f"fewer than {LEAST_UNITS} {UNITS[unit]}" if n_units < LEAST_UNITS else ""
