"""Scores of predictions over all genes and libraries as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.validate import check_table
from spared_sc._kernels.metrics import CEILING, FLOORS
from spared_sc._models.prediction.registry import ANCHORS

if TYPE_CHECKING:
    import pandas as pd

_SOURCE = "sp.tl.score_prediction(adata)"
_COLUMNS = ("prediction", "library", "gene", "metric", "value", "lower", "upper")
_ALL = "all"
_MAIN = ("pcc_given_depth", "skill", "pcc")  # the first one in the table sorts the predictions
_WITH_INTERVAL = ("d2", "d2_own", "pcc", "pcc_given_depth", "skill")


def prediction_summary(scores: pd.DataFrame) -> pd.DataFrame:
    """Condense scores of predictions to one row per prediction: all genes, mean over libraries or donors.

    Parameters
    ----------
    scores
        Table from :func:`spared_sc.tl.score_prediction`, of any protocol.

    Returns
    -------
    A table with one row per prediction: the models, best first (by `pcc_given_depth`, without that column by `skill`,
    else by `pcc`), then the anchors, then the scores of a prediction without any error. The columns are the metrics;
    `d2`, `d2_own`, `pcc`, `pcc_given_depth` and `skill` are followed by the ends of their 95 % intervals, `_lower` and
    `_upper`.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no scores of all genes and libraries, or several for one prediction and metric.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> summary = sp.get.prediction_summary(sp.tl.score_prediction(adata, library_key="library_id"))
    >>> summary.index.tolist()
    ['predicted_position_only', 'gene_mean', 'depth_only', 'position_only', 'ceiling']
    >>> summary.columns.tolist()[:3]
    ['d2', 'd2_lower', 'd2_upper']
    """
    check_table(scores, _COLUMNS, _SOURCE)
    rows = scores[(scores["library"] == _ALL) & (scores["gene"] == _ALL)]
    if rows.empty:
        raise ValueError(
            f'the table has no rows with library="all" and gene="all": pass the whole table of `{_SOURCE}`.'
        )
    if rows.duplicated(["prediction", "metric"]).any():
        raise ValueError(f"the table repeats a prediction and a metric: pass the table of one call of `{_SOURCE}`.")
    wide = rows.pivot(index="prediction", columns="metric", values=["value", "lower", "upper"])
    columns = {}
    for metric in rows["metric"].unique():
        columns[metric] = wide["value", metric]
        if metric in _WITH_INTERVAL:
            columns |= {f"{metric}_{end}": wide[end, metric] for end in ("lower", "upper")}
    return _in_order(wide["value"].assign(**columns)[list(columns)])


def _in_order(summary: pd.DataFrame) -> pd.DataFrame:
    """Models by their main score, then anchors, then limits."""
    last = [name for name in (*ANCHORS, *FLOORS, CEILING) if name in summary.index]
    models = summary.drop(index=last)
    main = [metric for metric in _MAIN if metric in summary]
    if main:
        models = models.sort_values(main[0], ascending=False, kind="stable")
    return summary.loc[[*models.index, *last]].rename_axis(columns=None)
