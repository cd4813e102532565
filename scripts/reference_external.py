"""Write the published scores that ship with the package: `python scripts/reference_external.py scores.csv`.

`scores.csv` holds what the web site of SpaRED lists (columns `dataset`, `model`, `mse` and `pcc`, "-" where there is no
score). The facts about the data sets come from `sp.datasets.catalogue()`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

import spared_sc as sp

TARGET = Path(sp.__file__).parent / "benchmark" / "reference_external.csv"


def main(path: str) -> None:
    """Write the table, sorted by data set and model."""
    published = pd.read_csv(path, na_values="-")
    facts = sp.datasets.catalogue()
    facts = facts[facts["collection"] == "SpaRED"]
    unknown = set(published["dataset"]) ^ set(facts.index)
    if unknown:
        raise SystemExit(f"data sets of the scores and of the catalogue differ: {sorted(unknown)}")
    facts = pd.DataFrame({
        "dataset": facts.index,
        "source": facts["folder"],
        "organism": facts["organism"],
        "tissue": facts["tissue"],
        "generalisation": facts["task"],
        "n_genes": facts["genes"],
        "role": ["test" if n_test else "val" for n_test in facts["test"]],
    })  # fmt: skip
    table = facts.merge(published, on="dataset").sort_values(["dataset", "model"], ignore_index=True)
    table.to_csv(TARGET, index=False, lineterminator="\n")
    print(f"{len(table)} rows written to {TARGET}")


if __name__ == "__main__":
    main(sys.argv[1])
