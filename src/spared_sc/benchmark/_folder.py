"""The folder of a benchmark: one file per finished cell, what cells share, and the tables made of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spared_sc._core.files import as_path, read_json, write_whole, writing
from spared_sc._core.locks import only_writer
from spared_sc._core.report import warn
from spared_sc.benchmark._tables import (
    CELLS,
    CELLS_FILE,
    DONE,
    NOT_RUN,
    REFUSED,
    SCORES,
    SCORES_FILE,
    as_table,
    schema,
    to_parquet,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

    from spared_sc.benchmark._cells import Cell, Plan

_ROW = "cell"  # in the metadata of a cell's file
FOREVER = float("inf")
_NOTHING_LOST = "Finished cells are kept; the same call goes on from there."


@dataclass(frozen=True)
class Folder:
    """Where a benchmark keeps its files."""

    root: Path

    @classmethod
    def at(cls, out: str | Path) -> Folder:
        """The folder with this path, which need not exist."""
        return cls(as_path(out, "out"))

    @property
    def hashes(self) -> Path:
        """Hashes of the files of data sets, with their sizes and times."""
        return self.root / "prepared" / "hashes.json"

    def prepared(self, job: str) -> Path:
        """What a job prepares."""
        return self.root / "prepared" / f"{job}.h5ad"

    def log(self, job: str) -> Path:
        """Messages and errors of a job."""
        return self.root / "logs" / f"{job}.log"

    def cell(self, cell: str) -> Path:
        """Result of a cell: its scores, with its row in the metadata."""
        return self.root / "cells" / f"{cell}.parquet"

    def create(self) -> None:
        """Make the folder, or say why it cannot be written before anything runs."""
        with writing(self.root):
            for name in ("cells", "prepared", "logs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
                with only_writer(self.root / name / "test"):
                    write_whole(self.root / name / "test", bytes(4096))
                    (self.root / name / "test").unlink()

    # --- plan ---------------------------------------------------------------------------------------------------------

    def write_plan(self, plan: Plan, manifest: Path | None = None) -> None:
        """Keep which cells there are, and the manifest they come from."""
        cells = [{"cell": cell.id, **cell.row, "refused": cell.refused} for cell in plan.cells]
        self.write_cells(cells)
        if manifest is not None:
            self._write(self.root / "manifest.yaml", manifest.read_bytes())

    def write_cells(self, cells: Sequence[dict[str, Any]]) -> None:
        """Keep which cells there are."""
        self._write(self.root / "plan.json", json.dumps({"cells": cells}, indent=0).encode())

    def planned(self) -> list[dict[str, Any]]:
        """The cells that there are, one by one with what is known of each before it runs."""
        path = self.root / "plan.json"
        if not path.exists():
            raise FileNotFoundError(
                f"{self.root} is no folder of a benchmark: name the one that `sp.benchmark.run` has written to."
            )
        return read_json(path)["cells"]

    def added(self) -> list[dict[str, Any]]:
        """Cells that no manifest has: predictions of other tools."""
        path = self.root / "added.json"
        return read_json(path)["cells"] if path.exists() else []

    def write_added(self, cell: dict[str, Any]) -> None:
        """Keep that there is such a cell, in place of what it was before."""
        path = self.root / "added.json"
        with writing(path, _NOTHING_LOST), only_writer(path, wait=FOREVER):
            cells = [one for one in self.added() if one["cell"] != cell["cell"]]
            write_whole(path, json.dumps({"cells": [*cells, cell]}, indent=0).encode())

    def _write(self, path: Path, content: bytes) -> None:
        with writing(path, _NOTHING_LOST), only_writer(path):
            write_whole(path, content)

    # --- cells --------------------------------------------------------------------------------------------------------

    def write_cell(self, cell: str, row: dict[str, Any], scores: bytes = b"") -> None:
        """Keep the result of a cell: all of it, or nothing."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        known = pq.read_table(pa.BufferReader(scores)) if scores else schema(SCORES).empty_table()
        table = known.replace_schema_metadata({_ROW: json.dumps(row)})
        with writing(self.root / "cells", _NOTHING_LOST):
            write_whole(self.cell(cell), to_parquet(table))

    def row(self, cell: str) -> dict[str, Any] | None:
        """What is known of a cell after it ran; `None` if it did not."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.cell(cell)
        if not path.exists():
            return None
        try:
            return json.loads(pq.read_schema(path).metadata[_ROW.encode()])
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            warn(f"{path} cannot be read ({error}): the cell counts as not run.")
            return None

    def rows(self, cells: Sequence[Cell]) -> dict[str, dict[str, Any]]:
        """Rows of the cells that ran."""
        found = {cell.id: self.row(cell.id) for cell in cells}
        return {cell: row for cell, row in found.items() if row is not None}

    # --- tables -------------------------------------------------------------------------------------------------------

    def write_tables(self, *, unfinished: bool = True) -> pd.DataFrame:
        """Make both tables of what there is, and return the cells; `unfinished`: also before all cells ran."""
        import pyarrow as pa

        cells = list(self._rows())
        if unfinished or all(row["status"] != NOT_RUN for row in cells):
            done = sorted(row["cell"] for row in cells if row["status"] == DONE)
            scores = [schema(SCORES).empty_table(), *map(self.scores_of, done)]  # each is sorted, and so are the cells
            self._write(self.root / SCORES_FILE, to_parquet(pa.concat_tables(scores).combine_chunks()))
            self._write(self.root / CELLS_FILE, to_parquet(as_table(_frame(cells), CELLS)))
        return _frame(cells)

    def _rows(self) -> Iterator[dict[str, Any]]:
        for planned in [*self.planned(), *self.added()]:
            refused = planned.pop("refused")
            row = (
                {"status": REFUSED if refused else NOT_RUN, "error": refused} if refused else self.row(planned["cell"])
            )
            yield {**planned, **(row or {"status": NOT_RUN, "error": ""})}

    def scores_of(self, cell: str) -> pa.Table:
        """Scores of a cell that is done."""
        import pyarrow.parquet as pq

        return pq.read_table(self.cell(cell)).replace_schema_metadata(None)


def _frame(rows: Sequence[dict[str, Any]]) -> pd.DataFrame:
    """Rows with all columns of the table of cells, in its types."""
    import pandas as pd

    frame = pd.DataFrame(list(rows), columns=[column.name for column in CELLS])
    kinds: dict[str, Any] = {"int64": "Int64", "double": "float64"}
    for column in CELLS:
        frame[column.name] = (
            frame[column.name].astype(object).where(frame[column.name].notna(), "")
            if column.kind == "string"
            else frame[column.name].astype(kinds[column.kind])
        )
    return frame
