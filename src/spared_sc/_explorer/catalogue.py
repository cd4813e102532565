"""What the catalogue's page shows: the data sets, and the scores that were published for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spared_sc import __version__
from spared_sc._explorer.write import REPORT

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = ("title", "collection", "organism", "tissue", "technology", "task", "source", "licence", "doi", "citation")
_NUMBERS = ("n_sections", "n_subjects", "train", "val", "test", "spots", "genes", "missing_before", "missing_after")
_METRICS = ("mse", "pcc")


def catalogue_page(*, report: bool = False) -> dict[str, Any]:
    """All data sets with their facts, the call that loads them, and published scores; whether a report lies beside."""
    import spared_sc as sp

    table, scores = sp.datasets.catalogue(), sp.benchmark.reference_external()
    return {
        "version": __version__,
        "report": REPORT if report else None,
        "sets": [_set(str(key), row, scores[scores["dataset"] == key]) for key, row in table.iterrows()],
    }


def _set(key: str, row: pd.Series, scores: pd.DataFrame) -> dict[str, Any]:
    import pandas as pd

    from spared_sc.datasets._catalogue import entry_of
    from spared_sc.datasets._splits import split_faults

    entry = entry_of(key, None)
    wide = scores.pivot_table(index="model", columns="metric", values="value").reindex(columns=_METRICS)
    return {
        "key": key,
        **{name: "" if pd.isna(row[name]) else str(row[name]) for name in _TEXTS},
        **{name: None if pd.isna(row[name]) else int(row[name]) for name in _NUMBERS},
        "unverified": [name for name in str(row["unverified"]).split(", ") if name],
        "notes": "; ".join([*entry.notes, *split_faults(entry)]),
        "call": f'sp.datasets.load("{key}")',
        "scored": "validation" if (scores["role"] == "val").any() else "test",
        "scores": [
            {"model": str(model), **{metric: None if pd.isna(value) else float(value) for metric, value in one.items()}}
            for model, one in wide.sort_values("mse").iterrows()
        ],
    }
