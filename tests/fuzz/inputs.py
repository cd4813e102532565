"""One random input: a section, whole or spoiled, and a call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

import spared_sc as sp
from fuzz import sections
from fuzz.arguments import Arguments, draw, parameters
from fuzz.damage import change

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

MODULES = ("pp", "tl", "get", "pl")
FUNCTIONS = [f"{module}.{name}" for module in MODULES for name in getattr(sp, module).__all__] + ["benchmark.compare"]
SLOW = {
    "tl.compare_targets": 0.1,
    "tl.evaluate_completion": 0.3,
    "tl.audit_completion": 0.3,
    "tl.spackle_complete": 0.5,
}
IMAGES = {
    "pp.check_alignment", "pp.extract_patches", "pp.tile_slide", "tl.embed_patches", "pl.alignment", "pl.lattice", "pl.patches",
    "pl.predicted", "pl.spatial_compare",
}  # fmt: skip
PREDICTION = {
    "tl.predict_expression", "tl.fit_predictor", "tl.score_prediction", "tl.compare_targets", "tl.load_predictor", "tl.predictors",
    "get.predicted", "get.prediction_summary", "pl.predicted", "pl.prediction_scatter", "pl.gene_scores",
}  # fmt: skip
TABLES = {
    "pl.completion_curve": "completion",
    "pl.completion_scores": "completion",
    "get.compare_completions": "completion",
    "pl.gene_scores": "prediction",
    "get.prediction_summary": "prediction",
    "pl.catalogue": "catalogue",
    **{name: "benchmark" for name in FUNCTIONS if "benchmark" in name},
}
AREAS = {
    "sections": [name for name in FUNCTIONS if name not in IMAGES | PREDICTION],
    "images": sorted(IMAGES),
    "prediction": sorted(PREDICTION - IMAGES),
}


class Input:
    """What one call gets."""

    def __init__(self, area: str, number: int, folder: Path) -> None:
        self.area, self.number, self.folder = area, number, folder
        self.rng = np.random.default_rng([number, list(AREAS).index(area)])
        names = AREAS[area]
        weights = np.array([SLOW.get(name, 1.0) for name in names])
        self.name = str(self.rng.choice(names, p=weights / weights.sum()))
        self.kind = int(self.rng.integers(sections.N_KINDS))
        self.changes: list[str] = []
        self.first = self._first()
        self.arguments = self._arguments()

    @property
    def good(self) -> bool:
        """Whether nothing is wrong on purpose."""
        return not self.changes and self.arguments.wrong is None

    def __repr__(self) -> str:
        return f"{self.area} {self.number}: sp.{self.name}(kind {self.kind} {self.changes}, {self.arguments.values})"

    def _first(self) -> Any:
        first = next(iter(parameters(self.name)), None)
        if first == "adata":
            base = sections.hidden(self.kind) if self.name == "pl.completion_scatter" else sections.ready(self.kind)
            adata, self.changes = change(base.copy(), self.rng)
            return adata
        if first == "comparison":
            if self.rng.random() < 0.8:
                return sections.comparison()
            self.changes = ["a table of it"]
            return sections.comparison().pairs
        if first in ("scores", "table"):
            return self._scores(sections.tables(self.kind)[TABLES[self.name]].copy())
        if first == "image":
            slide = next(iter(sections.ready(self.kind).uns["spatial"].values()))
            return slide["images"]["hires"].copy()
        if first == "folder":
            return sections.saved(1 + self.kind % 2, self.folder)
        return None

    def _scores(self, table: pd.DataFrame) -> pd.DataFrame:
        kind, rng = self.rng.integers(12), self.rng
        column = table.columns[rng.integers(len(table.columns))]
        self.changes = [f"scores {kind} {column}"] if kind < 8 else []
        if kind == 0:
            return table.drop(columns=column)
        if kind == 1:
            return table.iloc[: int(rng.integers(0, 4))]
        if kind == 2:
            return table.assign(**{column: [None, "text", np.nan, 1, [[1]] * len(table)][rng.integers(5)]})
        if kind == 3:
            return table[table[column] != table[column].iloc[0]]
        if kind == 4:
            return sections.pd.concat([table, table])
        if kind == 5:
            return table.to_dict() if rng.random() < 0.5 else table[column]
        if kind == 6:
            return table.astype(str)
        if kind == 7:
            return table.sample(frac=0.3, random_state=0)
        return table

    def _arguments(self) -> Arguments:
        made = draw(self.name, self.rng)
        for one in ("store", "save_model", "checkpoint"):
            if one in parameters(self.name) and self.rng.random() < 0.1 and one not in made.values:
                made.values[one] = self.folder / f"{one} {self.number}"
        return made
