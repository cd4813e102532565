"""Comparison of completion methods over masks, libraries and subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.validate import check_table, listing
from spared_sc._kernels import comparison
from spared_sc._kernels.intervals import independent_unit, reason
from spared_sc._kernels.metrics import CONTROLS, FLOORS, HIGHER_IS_BETTER

if TYPE_CHECKING:
    import pandas as pd

_LOSSES = ("mse", "mae", "deviance", "crps", "moran_error", "correlation_error", "mse_log", "poisson_loss")
_COMPARED = (*_LOSSES, "pcc", "pcc_depth", "r2")
_COLUMNS = ("regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value")
_CELL = ["set", "regime", "share"]  # what a row of the result is about
_EVERY_SET = "all"


@checks_arguments
@docs.fill()
def compare_completions(
    scores: pd.DataFrame,
    *,
    method: str = "counts",
    baselines: str | Sequence[str] | None = None,
    metric: str = "mse",
) -> pd.DataFrame:
    """Compare a completion method with the best baseline, with intervals over subjects or data sets.

    Masks of a library are averaged first, then the libraries of a subject, since neither are independent. The best
    baseline is the one with the best mean over the subjects. Without subjects, the libraries take their place.

    Parameters
    ----------
    {scores}
    method
        Method to compare.
    baselines
        Methods to compare with; by default all in the table except `method`, noise floor, controls and the fitted models of
        this package.
    metric
        `"mse"`, `"mae"`, `"deviance"`, `"crps"`, `"moran_error"`, `"correlation_error"`, `"mse_log"`, `"poisson_loss"`,
        `"pcc"`, `"pcc_depth"` or `"r2"`; higher is better for the last three.

    Returns
    -------
    A table with one row per set (if there is the column), regime and share, and the columns

    - `method`, `baseline` (the best one), `method_value`, `baseline_value`: means over units
    - `ratio`: method / baseline, geometric mean over units (NaN unless all are positive), and `difference`: method -
      baseline
    - `excess_removed_floor_low`, `excess_removed_floor_high`: (baseline - method) / (baseline - floor) at both ends of
      the noise floor, the share of the baseline's excess over the floor that the method removes, mean over units; NaN if
      the metric has no floor, or the baseline is at or below it in a unit
    - `_lower` and `_upper` after each of these four: 95 % interval
    - `n_libraries`, `n_units` and `unit`: the independent units, `"subject"`, or `"library"` without subjects
    - `note`: why there is no interval, else empty

    With several sets, rows of the set `"all"` follow, over the sets as units: every set counts the same, however many
    libraries it has.

    Raises
    ------
    KeyError
        If the table lacks a column, or a method or metric is not in it or cannot be compared.
    TypeError
        If `scores` is not a table.
    ValueError
        If the table has nothing to compare, or a parameter is out of range.

    Notes
    -----
    The comparison is paired: the t interval of the quantity as it is in every unit, of ratios by their logarithm. Below
    three units it is NaN. It generalises to further units of the same kind: to subjects of the same study, in the rows
    `"all"` to data sets like these, and without subjects to libraries of those that were sampled. The baseline is taken
    as given, although it was chosen on the same scores.

    Examples
    --------
    >>> import pandas as pd
    >>> import spared_sc as sp
    >>> values = {"additive": (0.9, 1.1), "counts": (0.7, 0.9), "floor_low": (0.4, 0.4), "floor_high": (0.6, 0.6)}
    >>> scores = pd.DataFrame(
    ...     [
    ...         ("detected", 0.3, 0, method, library, library, "all", "mse", value)
    ...         for method, both in values.items()
    ...         for library, value in zip(("A1", "A2"), both)
    ...     ],
    ...     columns=["regime", "share", "mask", "method", "library", "subject", "genes", "metric", "value"],
    ... )
    >>> best = sp.get.compare_completions(scores).loc[0]
    >>> best["baseline"], round(float(best["ratio"]), 3), round(float(best["excess_removed_floor_low"]), 3)
    ('additive', 0.798, 0.343)
    """
    import pandas as pd

    means, has_sets = _averaged(scores, method, baselines, metric)
    compared, units = {}, {}
    for cell, part in means.groupby(level=_CELL, sort=True):
        subjects = part.index.get_level_values("subject").tolist()
        result = comparison.compare(
            part.drop(columns=list(FLOORS)).to_numpy(dtype=float),
            part[list(FLOORS)].to_numpy(dtype=float),
            subjects,
            higher_is_better=metric in HIGHER_IS_BETTER,
        )
        if result is not None:
            compared[cell] = result
            units[cell] = independent_unit(subjects, part.index.get_level_values("library").tolist())
    if not compared:
        raise ValueError(f"no set and regime has {metric!r} of {method!r} and of a baseline in the same libraries.")
    rows = [_row(cell, one, units[cell], metric, means.columns) for cell, one in compared.items()]
    if len({name for name, _, _ in compared}) > 1:
        for regime, share in sorted({cell[1:] for cell in compared}):
            together = comparison.combine([one for cell, one in compared.items() if cell[1:] == (regime, share)])
            rows.append(_row((_EVERY_SET, regime, share), together, "set", metric, means.columns))
    table = pd.DataFrame(rows)
    return table if has_sets else table.drop(columns="set")


def _row(
    cell: tuple[Any, ...], compared: comparison.Comparison, unit: str, metric: str, methods: Sequence[str]
) -> dict[str, Any]:
    """One row of the table."""
    best = "best of each set" if compared.baseline is None else methods[1 + compared.baseline]
    row = dict(zip(_CELL, cell, strict=True)) | {"metric": metric, "method": methods[0], "baseline": best}
    row |= {"method_value": compared.method_value, "baseline_value": compared.baseline_value}
    for name in comparison.QUANTITIES:
        row |= dict(zip((name, f"{name}_lower", f"{name}_upper"), compared.estimates[name], strict=True))
    row |= {"n_libraries": compared.n_libraries, "n_units": compared.n_units, "unit": unit}
    return {**row, "note": reason(compared.n_units, unit)}


def _averaged(
    scores: pd.DataFrame, method: str, baselines: Sequence[str] | None, metric: str
) -> tuple[pd.DataFrame, bool]:
    """Means over masks, libraries x methods, and whether the table has sets; other methods are left out."""
    check_table(scores, _COLUMNS, "sp.tl.evaluate_completion(adata)")
    if metric not in _COMPARED:
        raise KeyError(f"the metric {metric!r} cannot be compared: choose among {listing(_COMPARED)}.")
    sets = "set" in scores
    table = scores if sets else scores.assign(set="")
    present = table["method"].unique().tolist()
    if baselines is None:
        baselines = [name for name in present if name not in (method, *Key.models, *FLOORS, *CONTROLS)]
    baselines = [baselines] if isinstance(baselines, str) else list(baselines)
    unknown = [name for name in (method, *baselines) if name not in present]
    if unknown:
        raise KeyError(
            f"there are no scores of {listing(unknown)} (methods: {listing(present, 30)}): pass some of those."
        )
    if not baselines or method in baselines:
        raise ValueError(f"there is no baseline to compare {method!r} with: evaluate others too, or name them.")
    table = table[
        (table["metric"] == metric)
        & (table["genes"] == "all")
        & (table["library"] != "all")
        & table["method"].isin([method, *baselines, *FLOORS])
    ]
    by = ["set", "regime", "share", "subject", "library", "method"]
    means = table.groupby(by, observed=True)["value"].mean().unstack("method")
    return means.reindex(columns=[method, *baselines, *FLOORS]), sets
