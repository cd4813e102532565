"""The two tables of a benchmark: what their columns hold, and how they are written so that equal rows are equal bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import pandas as pd
    import pyarrow as pa

# Values of `cells.task`, of `cells.status`, and of scores of all genes or of libraries together
PREDICTION, COMPLETION = "prediction", "completion"
DONE, FAILED, KILLED, OUT_OF_MEMORY, REFUSED, NOT_RUN = (
    "done",
    "failed",
    "killed",
    "out of memory",
    "refused",
    "not run",
)
ALL = "all"
CELLS_FILE, SCORES_FILE = "cells.parquet", "scores.parquet"


class Column(NamedTuple):
    """Of a table. `kind` is a type of Arrow: text is never missing, numbers are NaN or null where there is none."""

    name: str
    kind: str
    meaning: str


CELLS = (
    Column("cell", "string", "identifier: hash of all that decides the result"),
    Column("task", "string", '`"prediction"` or `"completion"`'),
    Column("dataset", "string", "name of the data set in the manifest"),
    Column(
        "source", "string", "where the data set comes from: sets of one source are not independent; by default its name"
    ),
    Column("organism", "string", "as the manifest or the catalogue says, else empty; as the next two"),
    Column("tissue", "string", "organ or tissue"),
    Column("technology", "string", "assay"),
    Column(
        "dataset_hash", "string", "sha256 of the prepared data set: counts, layer, names, positions; empty if not run"
    ),
    Column("genes_hash", "string", "sha256 of the sorted names of the genes that were predicted or completed"),
    Column("n_spots", "int64", "spots of the prepared data set"),
    Column("n_genes", "int64", "genes that were predicted or completed"),
    Column("n_libraries", "int64", "libraries of the data set"),
    Column("label", "string", "name of the model in tables and figures, such as `ridge[classical]`"),
    Column("model", "string", "name of the predictor or of the completion method"),
    Column(
        "features", "string", "name of the features in the manifest, joined by `+`; `patches`; empty if none are read"
    ),
    Column("encoder", "string", "encoders of the features, joined by `+`"),
    Column("encoder_revision", "string", "weights of the encoders, as `tl.embed_patches` records them"),
    Column("target", "string", "of a prediction; empty for completion"),
    Column("loss", "string", "of a prediction; empty for completion"),
    Column("regime", "string", "what a completion hides; empty for prediction"),
    Column("share", "double", "share that a completion hides; NaN for prediction and where the regime has none"),
    Column("seed", "int64", "of the fit, and of the hidden entries of a completion"),
    Column("threads", "int64", "threads of the cell's process"),
    Column("params", "string", "JSON of all parameters asked for, defaults included"),
    Column("chosen", "string", "JSON of what the fits chose and report"),
    Column("status", "string", "done, failed, killed, out of memory, refused or not run"),
    Column("error", "string", "reason, where the status is another than done"),
    Column("seconds", "double", "wall time of the cell's process"),
    Column("cpu_seconds", "double", "CPU time of the cell's process"),
    Column("peak_memory", "int64", "largest resident memory of the cell's process in bytes"),
    Column("device", "string", "device that computed"),
    Column("n_parameters", "int64", "fitted parameters of a network, one fit"),
    Column("versions", "string", "JSON of the versions of Python and packages"),
    Column("commit", "string", "commit of the package where it is a checkout, else empty"),
)

SCORES = (
    Column("cell", "string", "identifier of the cell"),
    Column(
        "limit",
        "string",
        'empty for the score of the cell\'s model; else the limit or control that stands beside it: `"ceiling"`, `"floor_low"`, `"floor_high"`, `"no_denoising"`, `"perfect_denoising"`',
    ),
    Column("protocol", "string", "protocol of scoring a prediction; empty for completion"),
    Column("role", "string", 'of the library: `"test"`, `"held out"` or `"val"`; empty for completion'),
    Column(
        "library",
        "string",
        'library, fold (protocol hest), or `"all"` where libraries are scored together, which is no mean of theirs',
    ),
    Column("subject", "string", "donor of the library"),
    Column("gene", "string", 'gene, `"all"`, or a third of the genes (completion): `"sparse"`, `"medium"`, `"dense"`'),
    Column("metric", "string", "name of the score"),
    Column("value", "double", "the score; NaN where it is not defined"),
    Column(
        "n",
        "int64",
        "what is behind the value: spots of the library (prediction), hidden entries or as `tl.evaluate_completion` says",
    ),
    Column("higher_is_better", "bool", "direction of the metric; null where neither is better"),
)

# Metrics, or beginnings of their names, by direction; what is in neither has none
_LOWER = (
    *("mse", "mae", "crps", "deviance", "poisson_loss", "moran_error", "correlation_error"),
    *("constant", "negative"),
)
_HIGHER = ("d2", "pcc", "r2", "skill", "positive")


def higher_is_better(metric: str) -> bool | None:
    """Direction of a metric; `None` where neither is better."""
    for names, better in ((_LOWER, False), (_HIGHER, True)):
        if any(metric == name or metric.startswith(f"{name}_") for name in names):
            return better
    return None


def schema(columns: Sequence[Column], metadata: dict[str, str] | None = None) -> pa.Schema:
    """Arrow's schema of a table."""
    import pyarrow as pa

    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    return pa.schema([(column.name, kinds[column.kind]) for column in columns], metadata=metadata)


def to_parquet(rows: pa.Table) -> bytes:
    """The table as a Parquet file; equal rows in equal order give equal bytes, with the same pyarrow."""
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(rows, buffer, compression="zstd", version="2.6", data_page_version="1.0", row_group_size=2**20)
    return buffer.getvalue()


def as_table(rows: pd.DataFrame, columns: Sequence[Column]) -> pa.Table:
    """The rows with exactly these columns and types, sorted by all but floating-point columns in their order."""
    import pyarrow as pa

    names = [column.name for column in columns]
    keys = [column.name for column in columns if column.kind != "double"]
    rows = rows.reindex(columns=names).sort_values(keys, kind="stable", ignore_index=True)
    return pa.Table.from_pandas(rows, schema=schema(columns), preserve_index=False)


def read_table(path: Path, columns: Sequence[Column]) -> pd.DataFrame:
    """A table of a benchmark as a DataFrame: text as text, whole numbers and booleans with `pd.NA` where there is none."""
    import pandas as pd
    import pyarrow.parquet as pq

    nullable: dict[str, Any] = {"int64": pd.Int64Dtype(), "bool": pd.BooleanDtype()}
    table = pq.read_table(path, columns=[column.name for column in columns])
    return table.to_pandas(types_mapper=lambda kind: nullable.get(str(kind)))


def read_cells(out: Path) -> pd.DataFrame:
    """`cells.parquet` of a benchmark's folder: one row per cell."""
    return read_table(out / CELLS_FILE, CELLS)


def read_scores(out: Path) -> pd.DataFrame:
    """`scores.parquet` of a benchmark's folder: one row per score; `cell` leads to the row of the cell."""
    return read_table(out / SCORES_FILE, SCORES)
