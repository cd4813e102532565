"""Methods compared over the data sets of a benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from spared_sc._kernels.rank_tests import Friedman


@dataclass(frozen=True, repr=False)
class Comparison:
    """Methods compared over data sets or sources, as :func:`spared_sc.benchmark.compare` returns it.

    Printing it gives the summary in words.
    """

    metric: str
    higher_is_better: bool
    blocks: str  # "dataset" or "source"
    alpha: float
    values: pd.DataFrame  # blocks x methods, means of the metric
    ranks: pd.Series  # mean rank of every method, the best first
    friedman: Friedman
    critical_difference: float  # of mean ranks, by Nemenyi
    pairs: pd.DataFrame
    sensitivity: pd.DataFrame
    dunn: pd.DataFrame | None  # methods x methods, the paper's test; `None` where it is not defined
    left_out: dict[str, str]  # method or data set -> why
    generalises_to: str
    missing: str  # what has no value, in words

    def __repr__(self) -> str:
        return "\n".join(_summary(self))


def _summary(found: Comparison) -> list[str]:
    """The result in words."""
    n_blocks, n_methods = found.values.shape
    unit = "data sets" if found.blocks == "dataset" else "sources"
    better = "higher" if found.higher_is_better else "lower"
    test, pairs = found.friedman, found.pairs
    lines = [
        f"{n_methods} methods over {n_blocks} {unit} by {found.metric} ({better} is better)",
        f"mean ranks: {', '.join(f'{name} {rank:.2f}' for name, rank in found.ranks.items())}",
        _omnibus(test),
    ]
    for name, column in (("Nemenyi", "nemenyi"), ("Wilcoxon-Holm", "holm")):
        n = int((pairs[column] < found.alpha).sum())
        lines.append(f"{name}: {n} of {len(pairs)} pairs differ at the level {found.alpha:g}")
    lines[-2] += f" (mean ranks further apart than {found.critical_difference:.3g})"
    if found.dunn is not None and found.blocks == "dataset":
        n = int((found.dunn.to_numpy()[np.triu_indices(n_methods, 1)] < found.alpha).sum())
        lines.append(
            f"the paper's test (Dunn-Bonferroni on the error over the best, as if values were independent): {n}"
        )
    if found.blocks == "dataset" and "sources" in found.sensitivity.index:
        row = found.sensitivity.loc["sources"]
        if np.isfinite(row["nemenyi"]):
            lines.append(
                f"Nemenyi with the {row['n_blocks']} sources as blocks: {row['nemenyi']:.0f} of {len(pairs)} pairs"
            )
    lines.append(f"tests and intervals generalise to {found.generalises_to}")
    lines += [f"left out: {name} ({why})" for name, why in found.left_out.items()]
    return lines + ([found.missing] if found.missing else [])


def _omnibus(test: Friedman) -> str:
    """Both forms of Friedman's test in words."""
    if not np.isfinite(test.chi_squared):
        return "Friedman: no test, all ranks are tied"
    text = f"Friedman: chi-squared {test.chi_squared:.4g} (p = {test.p_chi_squared:.3g}); Iman-Davenport: "
    if not np.isfinite(test.p_f):
        return text + "not defined, all blocks agree"
    return text + f"F({test.freedom[0]}, {test.freedom[1]}) = {test.f_statistic:.4g} (p = {test.p_f:.3g})"
