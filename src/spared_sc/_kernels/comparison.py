"""A method beside the best of several baselines, with paired t intervals over independent units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from spared_sc._kernels.intervals import t_interval, unit_means
from spared_sc._kernels.metrics import ratio

RATIO = "ratio"
QUANTITIES = (RATIO, "difference", "excess_removed_floor_low", "excess_removed_floor_high")


@dataclass(frozen=True)
class Comparison:
    """Means over units, and the quantities that are made of them."""

    baseline: int | None  # number of the best baseline; `None` over several data sets
    method_value: float
    baseline_value: float
    estimates: dict[str, tuple[float, float, float]]  # of every quantity: mean, and both ends of its 95 % interval
    n_libraries: int
    n_units: int


def compare(
    values: np.ndarray, floors: np.ndarray, units: Sequence[str], *, higher_is_better: bool
) -> Comparison | None:
    """Compare a method with the baseline of the best mean over units; `None` if there is nothing to compare.

    Libraries of one unit are averaged first. Libraries without a value of the method are left out, and so are baselines
    without a value in some library.

    `values` (n_libraries, 1 + n_baselines) are those of the method and the baselines, `floors` (n_libraries, 2) both ends
    of the noise floor; NaN where there is none. `units` are the independent units that the libraries belong to.
    """
    scored = ~np.isnan(values[:, 0])
    values, floors = values[scored], floors[scored]
    complete = np.flatnonzero(~np.isnan(values[:, 1:]).any(axis=0))
    if not len(values) or not complete.size:
        return None
    of_units = unit_means(np.column_stack([values, floors]), np.asarray(units)[scored].tolist())
    means = of_units.mean(axis=0)
    candidates = means[1 + complete]
    best = complete[candidates.argmax() if higher_is_better else candidates.argmin()]
    return Comparison(
        baseline=int(best),
        method_value=float(means[0]),
        baseline_value=float(means[1 + best]),
        estimates=_estimates(_quantities(of_units[:, 0], of_units[:, 1 + best], of_units[:, -2:])),
        n_libraries=len(values),
        n_units=len(of_units),
    )


def combine(comparisons: Sequence[Comparison]) -> Comparison:
    """One comparison over several data sets, which are its units."""
    return Comparison(
        baseline=None,
        method_value=float(np.mean([one.method_value for one in comparisons])),
        baseline_value=float(np.mean([one.baseline_value for one in comparisons])),
        estimates=_estimates({name: np.array([one.estimates[name][0] for one in comparisons]) for name in QUANTITIES}),
        n_libraries=sum(one.n_libraries for one in comparisons),
        n_units=len(comparisons),
    )


def _quantities(method: np.ndarray, baseline: np.ndarray, floors: np.ndarray) -> dict[str, np.ndarray]:
    """Every quantity in every unit."""
    result = {RATIO: ratio(method, baseline), "difference": method - baseline}
    for end, name in enumerate(QUANTITIES[2:]):
        result[name] = ratio(baseline - method, baseline - floors[:, end])
    return result


def _estimates(of_units: Mapping[str, np.ndarray]) -> dict[str, tuple[float, float, float]]:
    """Mean and interval of every quantity, NaN if it is undefined in a unit; those of ratios come from their logarithms."""
    table = np.column_stack([of_units[name] for name in QUANTITIES])
    with np.errstate(invalid="ignore", divide="ignore"):
        table[:, 0] = np.log(table[:, 0])
    table[:, ~np.isfinite(table).all(axis=0)] = np.nan
    found = np.array(t_interval(table)[:3])
    found[:, 0] = np.exp(found[:, 0])
    return {
        name: (float(mean), float(lower), float(upper))
        for name, (mean, lower, upper) in zip(QUANTITIES, found.T, strict=True)
    }
