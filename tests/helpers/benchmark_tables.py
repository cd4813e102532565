"""Made-up tables of a benchmark."""

from __future__ import annotations

import numpy as np
import pandas as pd

from spared_sc.benchmark._tables import CELLS, SCORES, higher_is_better

METHODS = ("good", "middle", "poor")
_EMPTY = {"string": "", "int64": 0, "double": np.nan, "bool": False}


def cell(name: str, **values: object) -> dict[str, object]:
    """A row of `cells`."""
    return {column.name: _EMPTY[column.kind] for column in CELLS} | {"cell": name, "status": "done"} | values


def score(of_cell: str, value: float, **values: object) -> dict[str, object]:
    """A row of `scores`."""
    row = {column.name: _EMPTY[column.kind] for column in SCORES}
    row |= {"cell": of_cell, "library": "a", "subject": "a", "gene": "all", "role": "test", "value": value}
    row |= {"metric": "mse", "protocol": "spared"} | values
    return row | {"higher_is_better": higher_is_better(str(row["metric"]))}


def made_tables(
    *,
    n_sets: int = 6,
    methods: tuple[str, ...] = METHODS,
    targets: tuple[str, ...] = ("expression",),
    seeds: tuple[int, ...] = (0, 1),
    libraries: tuple[tuple[str, str], ...] = (("a1", "a"), ("a2", "a"), ("b", "b")),
    metrics: tuple[str, ...] = ("mse", "pcc"),
    failed: tuple[tuple[str, str], ...] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Cells and scores of predictions; every two data sets share a source, and the first methods are the best.

    `failed` are pairs of data set and method.
    """
    rng = np.random.default_rng(0)
    cells, scores = [], []
    for i in range(n_sets):
        for j, method in enumerate(methods):
            for target in targets:
                for seed in seeds:
                    data_set, name = f"set_{i}", f"{i}-{method}-{target}-{seed}"
                    lost = (data_set, method) in failed
                    cells.append(
                        cell(
                            name,
                            **{"task": "prediction", "dataset": data_set, "source": f"source_{i // 2}", "seed": seed},
                            **{
                                "label": method,
                                "model": method,
                                "target": target,
                                "loss": "all",
                                "n_genes": 32 + 96 * (i % 2),
                            },
                            **{"organism": ("human", "mouse")[i % 2], "tissue": ("brain", "skin", "lung")[i % 3]},
                            **({"status": "failed", "error": "ValueError: no"} if lost else {}),
                            n_parameters=10 ** (3 + j),
                            seconds=1.0,
                        )
                    )
                    for library, subject in () if lost else libraries:
                        for metric in metrics:
                            value = 1 + 0.3 * j + 0.05 * rng.random() + 0.1 * i
                            value = value if metric == "mse" else 1 / value + 0.1 * targets.index(target)
                            scores.append(score(name, value, library=library, subject=subject, metric=metric))
    return pd.DataFrame(cells), pd.DataFrame(scores)


def joined(cells: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """The table of `sp.benchmark.results`."""
    table = cells.merge(scores, on="cell", how="left")
    texts = [column.name for column in SCORES if column.kind == "string"]
    return table.assign(**table[texts].fillna(""), generalisation="")


def made_results(**options: object) -> pd.DataFrame:
    return joined(*made_tables(**options))
