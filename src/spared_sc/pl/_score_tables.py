"""Rows, order and words that the plots of prediction scores share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core.validate import check_table, listing
from spared_sc._kernels.metrics import CEILING, FLOORS
from spared_sc.pl._marks import pick

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("prediction", "library", "subject", "role", "gene", "metric", "value", "lower", "upper", "unit")
_CALL = "sp.tl.score_prediction(adata)"
ALL = "all"
METRICS = {  # metric -> label of the axis, meaning of the bar
    "pcc": ("Pearson correlation of a gene over spots", "mean of the genes"),
    "pcc_given_depth": ("Pearson correlation of a gene over spots, given depth", "mean of the genes"),
    "d2": ("deviance of a gene explained beyond its share in training", "all genes together"),
    "d2_own": ("deviance of a gene explained beyond its share in the section", "all genes together"),
    "mse": ("mean squared error of a gene (squared units of the layer)", "all genes together"),
    "mae": ("mean absolute error of a gene (units of the layer)", "all genes together"),
    "r2": ("R2 of a gene over its mean in the section", "all genes together"),
    "skill": ("skill of a gene: share of the error of gene_mean removed", "all genes together"),
}
ERRORS = ("mse", "mae")  # less is better; the others have a zero, at which a prediction says nothing


def check_scores(scores: pd.DataFrame) -> None:
    """Refuse what is not a table of scores."""
    check_table(scores, _COLUMNS, _CALL)


def rows_of(scores: pd.DataFrame, metric: str, library: str) -> pd.DataFrame:
    """The rows of a metric and a library, one for each gene and prediction."""
    if metric not in METRICS:
        raise ValueError(f"metric={metric!r} has no value for every gene: choose {listing(METRICS)}.")
    table = pick(pick(scores, "metric", metric), "library", library)
    twice = table[table.duplicated(["prediction", "gene"])]
    if len(twice):
        raise ValueError(
            f"{len(twice)} rows repeat a prediction and a gene (such as {twice['prediction'].iloc[0]!r} and "
            f"{twice['gene'].iloc[0]!r}): pass the table of one call of `{_CALL}`, or give each its own names."
        )
    return table


def overall_and_genes(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of all genes, a row per prediction, and values of each gene, genes x predictions."""
    overall = table[table["gene"] == ALL].set_index("prediction")
    return overall, table[table["gene"] != ALL].pivot(index="gene", columns="prediction", values="value")


def choose_models(
    overall: pd.DataFrame, metric: str, predictions: str | Sequence[str] | None, most: int
) -> tuple[list[str], int]:
    """Predictions to draw, best first: those that are named, or the best ones; and how many are left out."""
    from spared_sc._models.prediction.registry import ANCHORS

    candidates = overall[~overall.index.isin([*ANCHORS, *FLOORS, CEILING])]
    if predictions is not None:
        candidates = pick(candidates.reset_index(), "prediction", predictions, "predictions").set_index("prediction")
    ranked = best_first(candidates, metric)
    models = ranked if predictions is not None else ranked[:most]
    return models, len(ranked) - len(models)


def need_whole(names: Sequence[str], overall: pd.DataFrame, genes: pd.DataFrame) -> None:
    """Refuse a part of a table, in which a prediction has no score over all genes or none of single ones."""
    lacking = [name for name in names if name not in overall.index or name not in genes]
    if lacking or not names:
        what = f"scores of {listing(lacking)} over all genes and of every gene" if lacking else "prediction"
        raise ValueError(
            f"the table has no {what}: pass the whole table of `{_CALL}`, or name others with `predictions=`."
        )


def best_first(overall: pd.DataFrame, metric: str) -> list[str]:
    """Names by their score over all genes; those without one last."""
    return overall["value"].sort_values(ascending=metric in ERRORS, kind="stable", na_position="last").index.tolist()


def title_of(table: pd.DataFrame, scores: pd.DataFrame, library: str, n_left_out: int) -> str:
    """Genes and sections, and what is missing."""
    sections = scores[scores["library"] != ALL].drop_duplicates("library")
    n, unit = len(sections), "fold" if (scores["unit"] == "fold").any() else "section"
    where = f"mean of {n} {unit}s" if n != 1 else f"one {unit} only"
    if library != ALL:
        where = f"{unit} {library}"
    elif (table["unit"] == "subject").all():
        where = f"mean of {sections['subject'].nunique()} donors ({n} {unit}s)"
    lines = [f"{table.loc[table['gene'] != ALL, 'gene'].nunique():,} genes, {where}"]
    if (sections["role"] == "val").any():
        lines.append("validation sections: the fits were chosen on them")
    if n_left_out:
        lines.append(f"{n_left_out} weaker predictions are not shown: name them with `predictions=`")
    return "\n".join(lines)
