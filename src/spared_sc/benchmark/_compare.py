from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, Means, data_set_means
from spared_sc._core.comparisons import Comparison
from spared_sc._core.validate import check_number, listing
from spared_sc._kernels import rank_tests
from spared_sc._kernels.intervals import reason, t_interval

if TYPE_CHECKING:
    import pandas as pd

_LEAST_SHARE = 0.5  # of the data sets, in which a method must have a value
_UNITS = {"dataset": "set", "source": "source"}
_GENERALISES = {
    "dataset": "other data sets like these, as if each were an independent draw",
    "source": "data sets of other sources (publications) than these",
}


@checks_arguments
def compare(
    scores: pd.DataFrame,
    metric: str = "d2",
    *,
    blocks: Literal["dataset", "source"] = "dataset",
    models: Sequence[str] | None = None,
    target: str | None = None,
    loss: str | None = None,
    protocol: str | None = None,
    regime: str | None = None,
    share: float | None = None,
    alpha: float = 0.05,
    published: bool = False,
) -> Comparison:
    """Test whether methods differ, with data sets (or their sources) as blocks.

    Seeds are averaged first, then libraries, then donors: a data set has one value per method. Methods with a value in
    fewer than half of the data sets are left out, then data sets in which a method has none; `left_out` names both.

    Parameters
    ----------
    scores
        Table from :func:`spared_sc.benchmark.results` or :func:`spared_sc.benchmark.reference_external`.
    metric
        Value of the column `"metric"`.
    blocks
        `"dataset"`: every data set is a block. `"source"`: every source (publication) is one, with the mean of the ranks
        and of the values of its data sets. Data sets of one source share laboratory, protocol and in part sections, so that
        tests over data sets are optimistic.
    models
        Labels of the models to compare; all by default.
    target, loss
        What the models learned. By default, each combination of model, target and loss is a method of its own.
    protocol, regime, share
        Protocol of scoring, and for completion what is hidden and how much. Needed where the table has several.
    alpha
        Level of the tests.
    published
        Compare published scores, and nothing else. By default they are left out.

    Returns
    -------
    An object that prints as a summary, with

    - `ranks`: mean rank of each method, and `values`, blocks x methods
    - `friedman`: Friedman's chi-squared and the F statistic of Iman and Davenport with their p values
    - `critical_difference`: mean ranks closer than this do not differ by Nemenyi's test
    - `pairs`: a row for each pair, `method_1` with the better mean rank: p values of Nemenyi's test (`nemenyi`), of the
      signed-rank test (`wilcoxon`) and the same adjusted by Holm (`holm`); `difference`, the mean of method 1 minus method 2
      over the blocks with its 95 % t interval (`lower`, `upper`); `hodges_lehmann`, the median of pairwise means of the
      differences, with the interval that inverts the signed-rank test (`hl_lower`, `hl_upper`); and a `note` where there
      is no interval
    - `sensitivity`: the number of pairs that differ with other blocks, with and without the data sets that have a test
      split, and with failures ranked last
    - `dunn`: the paper's test, for errors: p values of Dunn's test with Bonferroni's correction on the error divided by the
      lowest of each data set. It takes the values of a data set as independent, which they are not; it is there to compare
      with the paper
    - `generalises_to`, `left_out` and `missing`, in words

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several kinds that must not be mixed, or fewer than two methods or
        three blocks are left.

    Notes
    -----
    Demsar (2006), Journal of Machine Learning Research 7, describes the tests over data sets. Dunn's test is that of Table 4
    of Ruiz et al. (2025).

    Examples
    --------
    >>> import spared_sc as sp
    >>> comparison = sp.benchmark.compare(sp.benchmark.reference_external(), "mse", published=True)
    >>> comparison.ranks.index[0], comparison.values.shape
    ('ViT-B+D', (25, 9))
    >>> int((comparison.pairs["nemenyi"] < 0.05).sum())
    15
    """
    check_number("alpha", alpha, 0.0, 1.0)
    if blocks not in _UNITS:
        raise ValueError(f"blocks={blocks!r} is unknown: choose {listing(_UNITS)}.")
    means = data_set_means(scores, Choice(metric, protocol, target, loss, regime, share, models, published))
    complete, left_out = complete_part(means)
    losses, values = _blocks(means, complete, blocks)
    if losses.shape[1] < rank_tests.LEAST_METHODS or len(losses) < rank_tests.LEAST_BLOCKS:
        raise ValueError(
            f"{losses.shape[1]} methods and {len(losses)} blocks are complete, and a test needs at least "
            f"{rank_tests.LEAST_METHODS} and {rank_tests.LEAST_BLOCKS}: run more data sets, or name the methods with `models=`."
            + (f" Left out: {'; '.join(f'{name} ({why})' for name, why in left_out.items())}." if left_out else "")
        )
    ranks = rank_tests.block_ranks(losses.to_numpy())
    order = np.argsort(ranks.mean(axis=0), kind="stable")
    losses, values, ranks = losses.iloc[:, order], values.iloc[:, order], ranks[:, order]
    return Comparison(
        metric=metric,
        higher_is_better=means.higher_is_better,
        blocks=blocks,
        alpha=alpha,
        values=values,
        ranks=_series(ranks.mean(axis=0), values.columns),
        friedman=rank_tests.friedman(ranks),
        critical_difference=rank_tests.critical_difference(len(ranks), ranks.shape[1], alpha),
        pairs=_pairs(values, ranks, _UNITS[blocks]),
        sensitivity=_sensitivity(means, alpha),
        dunn=_dunn(means, complete),
        left_out=left_out,
        generalises_to=_GENERALISES[blocks],
        missing=means.missing(),
    )


def complete_part(means: Means) -> tuple[pd.DataFrame, dict[str, str]]:
    """Values of the methods that have one in half of the data sets, where all of them do; and what is left out, and why."""
    values, left_out = means.values, {}
    found = values.notna().sum()
    for method in values.columns[found < _LEAST_SHARE * len(values)]:
        left_out[str(method)] = f"a value in {found[method]} of {len(values)} data sets"
    values = values.drop(columns=list(left_out))
    for name in values.index[values.isna().any(axis=1)]:
        lacking = values.columns[values.loc[name].isna()]
        left_out[str(name)] = f"no value of {listing(lacking, 5)}"
    return values.dropna(), left_out


def _blocks(means: Means, values: pd.DataFrame, blocks: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is ranked within blocks, lowest first, and the mean values of the blocks."""
    losses = -values if means.higher_is_better else values
    if blocks == "dataset":
        return losses, values
    # Errors of data sets have different scales: a mean of them would be that of the largest.
    source = means.facts["source"].reindex(values.index)
    return losses.rank(axis=1).groupby(source).mean().round(9), values.groupby(source).mean()


def _series(values: np.ndarray, names: pd.Index) -> pd.Series:
    import pandas as pd

    return pd.Series(values, index=names, name="mean rank")


def _pairs(values: pd.DataFrame, ranks: np.ndarray, unit: str) -> pd.DataFrame:
    """One row for each pair of methods, which are sorted by rank."""
    import pandas as pd

    table, mean = values.to_numpy(), ranks.mean(axis=0)
    nemenyi, (wilcoxon, holm) = rank_tests.nemenyi(ranks), rank_tests.wilcoxon_holm(table)
    rows = []
    for i, j in zip(*np.triu_indices(len(mean), 1), strict=True):
        difference = table[:, i] - table[:, j]
        interval, shift = t_interval(difference[:, None]), rank_tests.hodges_lehmann(difference)
        rows.append({
            "method_1": values.columns[i],
            "method_2": values.columns[j],
            "rank_difference": mean[j] - mean[i],
            "nemenyi": nemenyi[i, j],
            "wilcoxon": wilcoxon[i, j],
            "holm": holm[i, j],
            "difference": interval.mean[0],
            "lower": interval.lower[0],
            "upper": interval.upper[0],
            "hodges_lehmann": shift.estimate,
            "hl_lower": shift.lower,
            "hl_upper": shift.upper,
            "n_blocks": len(difference),
            "note": reason(len(difference), unit) or ("" if np.isfinite(shift.lower) else "fewer than six blocks"),
        })  # fmt: skip
    return pd.DataFrame(rows)


def _dunn(means: Means, values: pd.DataFrame) -> pd.DataFrame | None:
    """The paper's test, on the error over the lowest of each data set."""
    import pandas as pd

    if means.higher_is_better or not (values > 0).all(axis=None):
        return None
    relative = values.div(values.min(axis=1), axis=0)
    return pd.DataFrame(rank_tests.dunn_bonferroni(relative.to_numpy()), values.columns, values.columns)


def _sensitivity(means: Means, alpha: float) -> pd.DataFrame:
    """The tests with other blocks, other data sets, and failures ranked last."""
    import pandas as pd

    complete, _ = complete_part(means)
    role = means.facts["role"].reindex(complete.index)
    of_data_sets = {
        "data sets": complete,
        "data sets with a test split": complete[role.str.contains("test|held out")],
        "data sets without a test split": complete[role == "val"],
    }
    tested = {name: _blocks(means, values, "dataset") for name, values in of_data_sets.items()}
    tested["sources"] = _blocks(means, complete, "source")
    tested["all data sets and methods, failures last"] = (means.loss, means.values)
    order = ["data sets", "sources", *list(of_data_sets)[1:], "all data sets and methods, failures last"]
    dunn = {name: _dunn(means, values) for name, values in of_data_sets.items()}
    rows = [_counts(name, *tested[name], dunn.get(name), alpha) for name in order if len(tested[name][0])]
    return pd.DataFrame(rows).set_index("blocks")


def _counts(
    name: str, losses: pd.DataFrame, values: pd.DataFrame, dunn: pd.DataFrame | None, alpha: float
) -> dict[str, str | float]:
    """How many pairs differ by each test; NaN where the test is not defined."""
    ranks = rank_tests.block_ranks(losses.to_numpy())
    upper = np.triu_indices(ranks.shape[1], 1)

    def count(p_values: np.ndarray) -> float:
        of_pairs = p_values[upper]
        return float((of_pairs < alpha).sum()) if np.isfinite(of_pairs).all() else np.nan

    whole = not values.isna().any(axis=None)
    return {
        "blocks": name,
        "n_blocks": len(ranks),
        "n_methods": ranks.shape[1],
        "n_pairs": len(upper[0]),
        "best": str(losses.columns[ranks.mean(axis=0).argmin()]),
        "p_friedman": rank_tests.friedman(ranks).p_chi_squared,
        "nemenyi": count(rank_tests.nemenyi(ranks)),
        "wilcoxon_holm": count(rank_tests.wilcoxon_holm(values.to_numpy())[1]) if whole else np.nan,
        "dunn": np.nan if dunn is None else count(dunn.to_numpy()),
    }
