"""Scores of a benchmark as one value per data set and method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from spared_sc._core.validate import check_number, check_numbers, check_table, listing

CALL = "sp.benchmark.results(out)"
ALL = "all"
PUBLISHED = "published"  # value of `status` of scores that others published
DONE = "done"
# What tells rows apart that one comparison must not mix -> the argument that chooses
CHOICES = ("task", "protocol", "regime", "share")
_COLUMNS = (
    *("dataset", "source", "label", "target", "loss", "seed", "status", "task", "protocol", "regime", "share"),
    *("limit", "role", "library", "subject", "gene", "metric", "value", "higher_is_better"),
)
_NUMBERS = ("share", "seed", "value", "n_parameters", "n_genes")  # the last two where they are there
_UNITS = ["dataset", "subject", "library"]


@dataclass(frozen=True)
class Choice:
    """The rows of a table of scores that are compared; `None` takes the only value that there is."""

    metric: str
    protocol: str | None = None
    target: str | None = None
    loss: str | None = None
    regime: str | None = None
    share: float | None = None
    models: Sequence[str] | None = None
    published: bool = False


@dataclass(frozen=True)
class Means:
    """One value per data set and method; NaN where there is none."""

    choice: Choice
    values: pd.DataFrame  # data sets x methods
    higher_is_better: bool
    facts: pd.DataFrame  # of every data set: source, role, n_libraries, n_subjects, organism, ...
    methods: pd.DataFrame  # of every method: label, target, loss, n_parameters
    why: dict[tuple[str, str], str] = field(default_factory=dict)  # (data set, method) -> reason for no value
    fewer_seeds: tuple[tuple[str, str], ...] = ()  # (data set, method) with a value, and with a cell that failed

    @property
    def loss(self) -> pd.DataFrame:
        """The values with the sign that makes the lowest the best."""
        return -self.values if self.higher_is_better else self.values

    @property
    def best_first(self) -> list[str]:
        """Methods by their mean rank, those with fewer values last where ranks are equal."""
        ranks = self.loss.rank(axis=1, na_option="bottom").mean()
        return ranks.sort_values(kind="stable").index.tolist()

    def missing(self) -> str:
        """What has no value, in words; empty if all have one."""
        lacking = self.values.isna().sum()
        names = [f"{name} ({lacking[name]} of {len(self.values)})" for name in self.best_first if lacking[name]]
        parts = [f"no value, data sets: {', '.join(names)}"] if names else []
        if self.fewer_seeds:
            parts.append(
                f"means of fewer seeds: {', '.join(f'{method} on {name}' for name, method in self.fewer_seeds)}"
            )
        return "; ".join(parts)


def data_set_means(scores: pd.DataFrame, choice: Choice) -> Means:
    """Average seeds, then libraries, then donors of the rows that are asked for.

    A method that lacks a library that another one has in a data set gets no value there: means of different libraries
    are not comparable. If a metric is there for single libraries, what was computed of all of them together is left out.
    """
    rows = chosen_rows(scores, choice)
    better = rows["higher_is_better"].dropna().unique()
    if len(better) != 1:
        raise ValueError(f"metric {choice.metric!r} has no direction: neither more nor less of it is better.")
    names = _method_names(rows)
    rows = rows.assign(method=names)
    scored = rows[rows["metric"] == choice.metric]
    if (scored["library"] != ALL).any():
        scored = scored[scored["library"] != ALL]
    of_units = scored.groupby([*_UNITS, "method"], observed=True)["value"].mean().unstack("method").astype(float)
    of_units = of_units[of_units.notna().any(axis=1)]
    of_subjects = _strict_mean(of_units, ["dataset", "subject"])
    values = _strict_mean(of_subjects, ["dataset"])
    order = pd.unique(names)
    values = values.reindex(index=pd.unique(rows["dataset"]), columns=order)
    return Means(
        choice=choice,
        values=values.rename_axis(index="dataset", columns="method"),
        higher_is_better=bool(better[0]),
        facts=_facts(rows, scored),
        methods=_methods(rows),
        why=_reasons(rows, values),
        fewer_seeds=_fewer_seeds(rows, values),
    )


def chosen_rows(scores: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """Rows of all genes and of one kind, those of cells without a score among them; limits are left out."""
    _check(scores, choice)
    rows = _of_origin(scores, choice.published)
    rows = rows[(rows["limit"] == "") & rows["gene"].isin([ALL, ""])]
    has_metric = rows["metric"] == choice.metric
    if not has_metric.any():
        known = sorted(set(rows["metric"]) - {""})
        raise ValueError(f"there is no metric {choice.metric!r}: pass one of {listing(known, 30)} as `metric=`.")
    rows = rows[has_metric | (rows["metric"] == "")]
    for name in ("target", "loss"):
        wanted = getattr(choice, name)
        if wanted is not None:
            rows = _only(rows, choice.metric, name, wanted)
    for name in CHOICES:
        rows = _one(rows, choice.metric, name, getattr(choice, name, None))
    if choice.models is not None:
        unknown = [name for name in choice.models if name not in set(rows["label"])]
        if unknown or not len(choice.models):
            found = f"there is no model {unknown[0]!r}" if unknown else "`models` is empty"
            raise ValueError(f"{found}: pass some of {listing(pd.unique(rows['label']), 30)} as `models=`.")
        rows = rows[rows["label"].isin(choice.models)]
    return rows


def _check(scores: pd.DataFrame, choice: Choice) -> None:
    """Refuse what is no such table, and a share that is no number."""
    check_table(scores, _COLUMNS, CALL)
    check_numbers(scores, [name for name in _NUMBERS if name in scores], CALL)
    if not scores["higher_is_better"].dropna().isin([True, False]).all():
        raise TypeError(f"the column 'higher_is_better' holds no truth values: pass the table that `{CALL}` returns.")
    if choice.share is not None:
        check_number("share", choice.share, 0.0, 1.0)
    if scores.empty:
        raise ValueError(f"the table is empty: pass the one that `{CALL}` returns, with all of its rows.")


def _of_origin(scores: pd.DataFrame, published: bool) -> pd.DataFrame:
    """Published scores, or all others: they never enter one test together."""
    is_published = scores["status"] == PUBLISHED
    rows = scores[is_published == published]
    if rows.empty:
        if published:
            raise ValueError("the table has no published scores: leave out `published=True`.")
        raise ValueError("the table has published scores only: pass `published=True` to compare them.")
    return rows


def _only(rows: pd.DataFrame, metric: str, name: str, wanted: Any) -> pd.DataFrame:
    """The rows with this value of a column."""
    is_wanted = np.isclose(rows[name].astype(float), wanted) if name == "share" else rows[name] == wanted
    if not (is_wanted & (rows["metric"] == metric)).any():
        known = pd.unique(rows.loc[rows["metric"] == metric, name].dropna())
        raise ValueError(f"metric {metric!r} has no {name} {wanted!r}: pass one of {listing(known)} as `{name}=`.")
    return rows[is_wanted]


def _one(rows: pd.DataFrame, metric: str, name: str, wanted: Any) -> pd.DataFrame:
    """The rows with one value of a column: the wanted one, or the only one; failed cells of that kind stay."""
    scored = rows["metric"] == metric
    known = list(pd.unique(rows.loc[scored, name].dropna()))
    if wanted is None and len(known) > 1:
        raise ValueError(
            f"metric {metric!r} has several values of {name!r}: pass one of {listing(known)} as `{name}=`."
        )
    if wanted is None:
        wanted = known[0] if known else None
    if wanted is None:
        return rows
    if name == "protocol":  # a failed cell has no protocol
        return pd.concat([_only(rows[scored], metric, name, wanted), rows[~scored]])
    return _only(rows, metric, name, wanted)


def _method_names(rows: pd.DataFrame) -> pd.Series:
    """The label of every row's model, with target and loss where they tell methods apart."""
    names = rows["label"].astype(str)
    parts = [name for name in ("target", "loss") if rows.loc[rows[name] != "", name].nunique() > 1]
    if parts:
        further = rows[parts].apply(lambda row: ", ".join(filter(None, row)), axis=1)
        names = names + further.map(lambda text: f" ({text})" if text else "")
    return names


def _strict_mean(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Means within groups, NaN where one value is."""
    groups = table.groupby(level=by, observed=True, sort=False)
    return groups.mean().where(groups.count().eq(groups.size(), axis=0))


def _facts(rows: pd.DataFrame, scored: pd.DataFrame) -> pd.DataFrame:
    """What is known of every data set."""
    names = [name for name in ("source", "organism", "tissue", "generalisation", "n_genes") if name in rows]
    facts = rows.groupby("dataset", sort=False)[names].first()
    facts["role"] = scored.groupby("dataset")["role"].agg(
        lambda roles: ", ".join(sorted(set(roles.astype(str)) - {""}))
    )
    facts["n_libraries"] = scored.groupby("dataset")["library"].nunique()
    facts["n_subjects"] = scored.groupby("dataset")["subject"].nunique()
    facts["role"] = facts["role"].fillna("")
    return facts.fillna({"n_libraries": 0, "n_subjects": 0})


def _methods(rows: pd.DataFrame) -> pd.DataFrame:
    """What is known of every method; the number of parameters is the median over its cells."""
    table = rows.groupby("method", sort=False)[["label", "target", "loss"]].first()
    table["n_parameters"] = np.nan
    if "n_parameters" in rows:
        numbers = rows.assign(n_parameters=pd.to_numeric(rows["n_parameters"]).astype(float))
        table["n_parameters"] = numbers.groupby("method")["n_parameters"].median()
    return table


def _reasons(rows: pd.DataFrame, values: pd.DataFrame) -> dict[tuple[str, str], str]:
    """Why a method has no value in a data set."""
    failed = rows[rows["metric"] == ""].drop_duplicates(["dataset", "method"]).set_index(["dataset", "method"])
    found: Mapping[Any, Any] = failed["status"].to_dict()
    run = set(zip(rows["dataset"], rows["method"], strict=True))
    pairs = ((data_set, method) for data_set in values.index for method in values.columns)
    return {
        pair: found.get(pair, "not defined, or of fewer libraries than others" if pair in run else "not run")
        for pair in pairs
        if np.isnan(values.loc[pair])
    }


def _fewer_seeds(rows: pd.DataFrame, values: pd.DataFrame) -> tuple[tuple[str, str], ...]:
    """Pairs of data set and method that have a value, although a cell of theirs has none."""
    failed = rows.loc[rows["metric"] == "", ["dataset", "method"]].drop_duplicates()
    return tuple(pair for pair in failed.itertuples(index=False, name=None) if np.isfinite(values.loc[pair]))
