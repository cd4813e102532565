from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import Choice, data_set_means
from spared_sc._core.validate import listing
from spared_sc.benchmark._compare import compare
from spared_sc.benchmark._tables import COMPLETION

if TYPE_CHECKING:
    import pandas as pd

_TABLE_1 = {
    "task": "generalisation",
    "genes": "genes",
    "organism": "organism",
    "tissue": "tissue",
    "n_sections": "sections",
    "n_subjects": "subjects",
    "spots": "spots",
    "corrupt": "corrupt spots (%)",
    "missing_before": "missing before (%)",
    "missing_after": "missing after (%)",
}
_RINGS = {0: 0, 1: 6, 2: 18, 3: 36}  # rings of the hexagonal lattice -> neighbours


@checks_arguments
def paper_table(
    number: Literal[1, 2, 3, 4],
    scores: pd.DataFrame | None = None,
    *,
    target: str | None = None,
    loss: str | None = None,
    protocol: str | None = None,
    regime: str | None = None,
    share: float | None = None,
    published: bool = False,
) -> pd.DataFrame:
    """Make a table of the SpaRED paper from the scores at hand.

    Parameters
    ----------
    number
        1: the data sets, as the catalogue prints them; with `scores`, those of the table only. 2: mean MSE and PCC of
        completion methods over the data sets. 3: the same of SpaCKLE as published (the method `"paper"`), by the number
        of neighbours that it sees. 4: p values of Dunn's test with Bonferroni's correction between all pairs of models, on the MSE over the
        lowest of each data set.
    scores
        Table from :func:`spared_sc.benchmark.results` or, for 1 and 4, of
        :func:`spared_sc.benchmark.reference_external`. Needed for 2, 3 and 4.
    target, loss, protocol, regime, share, published
        As of :func:`spared_sc.benchmark.compare`.

    Returns
    -------
    The table. Means are over the data sets in which all rows of it have a value; their number is the column `n_data_sets`.
    A method without any value of a metric, such as the correlation of a constant, has none there.

    Raises
    ------
    ValueError
        If there is no such table, or `scores` do not hold what it needs.
    KeyError, TypeError
        If `scores` is no such table.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.benchmark.paper_table(4, sp.benchmark.reference_external(), published=True)
    >>> bool(table.loc["ViT-B+D", "BLEEP"] < 0.05), bool(table.loc["ViT-B+D", "STNet"] < 0.05)
    (True, False)
    """
    if number not in (1, 2, 3, 4):
        raise ValueError(f"number={number!r}: the paper has tables 1 to 4.")
    if number == 1:
        return _data_sets(scores)
    if scores is None:
        raise ValueError(f"table {number} needs scores: pass those of `sp.benchmark.results(out)`.")
    if number == 4:
        found = compare(scores, "mse", target=target, loss=loss, protocol=protocol, published=published)
        if found.dunn is None:
            raise ValueError("errors of zero have no ratio to the lowest: table 4 cannot be made of them.")
        return found.dunn
    rows = scores[scores["task"] == COMPLETION]
    if rows.empty:
        raise ValueError(f"table {number} is about completion, and the scores hold none: add a task to the manifest.")
    if number == 3:
        rows = _by_neighbours(rows)
    return _means(rows, regime, share)


def _data_sets(scores: pd.DataFrame | None) -> pd.DataFrame:
    """Table 1."""
    from spared_sc import datasets

    table = datasets.catalogue()
    if scores is None:
        table = table[table["collection"] == "SpaRED"]
    else:
        wanted = dict.fromkeys(scores["dataset"])
        unknown = [name for name in wanted if name not in table.index]
        if len(unknown) == len(wanted):
            raise ValueError(f"no data set is in the catalogue: {listing(wanted)}; table 1 describes those that are.")
        table = table.loc[[name for name in wanted if name in table.index]]
    return table[list(_TABLE_1)].rename(columns=_TABLE_1).sort_values("spots", ascending=False, kind="stable")


def _by_neighbours(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of SpaCKLE as published, named by the number of neighbours."""
    rows = rows[rows["model"] == "paper"]
    if rows.empty:
        raise ValueError("table 3 is about the completion method 'paper', and the scores hold none of it.")
    rings = rows["params"].map(lambda text: json.loads(text or "{}").get("n_rings"))
    names = {ring: f"{ring} rings ({n} neighbours on a full hexagonal array)" for ring, n in _RINGS.items()}
    return rows.assign(label=rings.map(names))


def _means(rows: pd.DataFrame, regime: str | None, share: float | None) -> pd.DataFrame:
    """Mean MSE and PCC of every method."""
    import pandas as pd

    means = {metric: data_set_means(rows, Choice(metric, regime=regime, share=share)) for metric in ("mse", "pcc")}
    values = {metric: found.values.dropna(axis=1, how="all") for metric, found in means.items()}
    complete = values["mse"].dropna().index.intersection(values["pcc"].dropna().index)
    table = pd.DataFrame({metric: of_metric.loc[complete].mean() for metric, of_metric in values.items()})
    return table.reindex(means["mse"].best_first).assign(n_data_sets=len(complete))
