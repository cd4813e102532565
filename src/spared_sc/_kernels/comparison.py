"""A method beside the best of several baselines, with bootstrap intervals over libraries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from spared_sc._kernels.metrics import ratio

QUANTITIES = ("ratio", "difference", "excess_removed_floor_low", "excess_removed_floor_high")


@dataclass(frozen=True)
class Comparison:
    """Means over libraries, and the quantities that are made of them."""

    baseline: int | None  # number of the best baseline; `None` over several data sets
    method_value: float
    baseline_value: float
    estimates: dict[str, float]  # of every quantity
    samples: dict[str, np.ndarray]  # (n_bootstrap,) of every quantity
    n_libraries: int
    descriptive: bool  # there is one library, and so no interval

    def interval(self, quantity: str) -> tuple[float, float]:
        """Ends of the 95 % interval."""
        if self.descriptive:
            return np.nan, np.nan
        low, high = np.quantile(self.samples[quantity], (0.025, 0.975))
        return float(low), float(high)


def compare(
    values: np.ndarray,
    floors: np.ndarray,
    subjects: Sequence[str],
    *,
    higher_is_better: bool,
    n_bootstrap: int,
    rng: np.random.Generator,
) -> Comparison | None:
    """Compare a method with the baseline of the best mean over libraries; `None` if there is nothing to compare.

    Libraries without a value of the method are left out, and so are baselines without a value in some library.

    `values` (n_libraries, 1 + n_baselines) are those of the method and the baselines, `floors` (n_libraries, 2) both ends
    of the noise floor; NaN where there is none. `subjects` are the donors of the libraries.
    """
    scored = ~np.isnan(values[:, 0])
    values, floors = values[scored], floors[scored]
    complete = np.flatnonzero(~np.isnan(values[:, 1:]).any(axis=0))
    if not len(values) or not complete.size:
        return None
    means = values[:, 1 + complete].mean(axis=0)
    best = complete[means.argmax() if higher_is_better else means.argmin()]
    columns = np.column_stack([values[:, 0], values[:, 1 + best], floors])
    weights = library_weights(np.asarray(subjects)[scored].tolist(), n_bootstrap, rng)
    mean = columns.mean(axis=0)
    return Comparison(
        baseline=int(best),
        method_value=float(mean[0]),
        baseline_value=float(mean[1]),
        estimates={name: float(value) for name, value in _quantities(mean).items()},
        samples=_quantities(weights @ columns),
        n_libraries=len(values),
        descriptive=len(values) == 1,
    )


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


def combine(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison over several data sets, each of which counts the same."""
    return Comparison(
        baseline=None,
        method_value=float(np.mean([one.method_value for one in comparisons])),
        baseline_value=float(np.mean([one.baseline_value for one in comparisons])),
        estimates={name: float(_over_sets(name, [one.estimates[name] for one in comparisons])) for name in QUANTITIES},
        samples={name: _over_sets(name, [one.samples[name] for one in comparisons]) for name in QUANTITIES},
        n_libraries=sum(one.n_libraries for one in comparisons),
        descriptive=all(one.descriptive for one in comparisons),
    )


def _over_sets(quantity: str, values: Sequence[float] | Sequence[np.ndarray]) -> np.ndarray:
    """Mean of the values of every set; of ratios the geometric mean, so that sets with large errors do not dominate."""
    if quantity != "ratio":
        return np.mean(values, axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.exp(np.mean(np.log(values), axis=0))


def _quantities(means: np.ndarray) -> dict[str, np.ndarray]:
    """Every quantity, from means (..., 4) of the method, the baseline and both ends of the floor."""
    method, baseline = means[..., 0], means[..., 1]
    result = {"ratio": method / baseline, "difference": method - baseline}
    for end, name in enumerate(QUANTITIES[2:]):
        result[name] = ratio(baseline - method, baseline - means[..., 2 + end])
    return result
