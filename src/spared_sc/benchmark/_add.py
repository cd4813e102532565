from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.report import announce
from spared_sc._core.validate import listing
from spared_sc._kernels.metrics import CEILING, FLOORS
from spared_sc._models.prediction.registry import ANCHORS
from spared_sc.benchmark._cells import identifier
from spared_sc.benchmark._folder import Folder
from spared_sc.benchmark._score import Protocol, Scored, scored
from spared_sc.benchmark._tables import (
    ALL,
    DONE,
    PREDICTION,
    SCORES,
    as_table,
    higher_is_better,
    to_parquet,
)
from spared_sc.benchmark._work import commit, versions

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

_PROTOCOLS: tuple[Protocol, ...] = ("expression", "spared", "hest")
_TOGETHER = ("pcc_pooled",)  # scores of all libraries together that are no mean of theirs


@checks_arguments
@docs.fill()
def add(
    predictions: AnnData | pd.DataFrame | str | Path,
    truth: AnnData | str | Path,
    *,
    out: str | Path,
    dataset: str,
    name: str,
    protocols: Sequence[str] = ("expression",),
    source: str = "",
    unit: str | None = None,
    values: str | None = None,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    split_key: str | None = Key.obs.split,
    random_state: int = 0,
) -> pd.DataFrame:
    """Add the scores of another tool's predictions to a benchmark, as rows of its tables.

    Predictions are matched and scored as by :func:`spared_sc.benchmark.score`. Predictions that were added before under
    the same name and data set are replaced.

    Parameters
    ----------
    predictions, truth
        As of :func:`spared_sc.benchmark.score`.
    out
        Folder of a benchmark, which is made where it does not exist.
    dataset
        Name of the data set: that of the manifest, so that the tool is compared with the models there.
    name
        Name of the tool: its label in tables and figures.
    protocols
        Protocols of scoring, any of `"expression"`, `"spared"` and `"hest"`.
    source
        Where the data set comes from. By default, as of the data set's other rows, else its name.
    unit, values, layer
        As of :func:`spared_sc.benchmark.score`.
    {library_key}
    subject_key, split_key, random_state
        As of :func:`spared_sc.benchmark.score`.

    Returns
    -------
    The table of cells. The scores of the tool are one cell more, and so are those of each anchor (`gene_mean`,
    `depth_only`, `position_only`) where the data set has none yet. A later `run` in this folder keeps them.

    Raises
    ------
    ValueError, KeyError, FileNotFoundError
        As of :func:`spared_sc.benchmark.score`; and if another model of the benchmark has that name.
    OSError
        If the folder cannot be written.

    Notes
    -----
    The genes, spots and train sections of the tool may be others than those of the models in the manifest: `genes_hash` and
    `n_genes` of the cells tell whether the genes are the same, and only then should ranks be compared.

    Examples
    --------
    >>> import tempfile
    >>> import spared_sc as sp
    >>> truth = sp.datasets.synthetic(n_libraries=3, image=False)
    >>> sp.pp.normalize_tpm(truth, gene_lengths=None)
    >>> predictions = truth.to_df("log2tpm").iloc[:, :20] + 0.1  # too good to be true
    >>> arguments = {"dataset": "toy", "name": "another tool", "unit": "log2tpm", "library_key": "library_id"}
    >>> cells = sp.benchmark.add(predictions, truth, out=tempfile.mkdtemp(), **arguments)
    20 of 20 predicted genes ...
    >>> cells["label"].tolist()
    ['another tool', 'gene_mean', 'depth_only', 'position_only']
    """
    if not protocols or set(protocols) - set(_PROTOCOLS):
        raise ValueError(f"protocols={list(protocols)} cannot be used: choose some of {listing(_PROTOCOLS)}.")
    folder = Folder.at(out)
    known = folder.write_tables() if (folder.root / "plan.json").exists() else None
    about = _about(known, dataset, name, source)
    found = {
        protocol: scored(
            predictions,
            truth,
            name=name,
            unit=unit,
            values=values,
            protocol=protocol,
            layer=layer,
            library_key=library_key,
            subject_key=subject_key,
            split_key=split_key,
            random_state=random_state,
        )
        for protocol in _PROTOCOLS
        if protocol in protocols
    }
    folder.create()
    if known is None:
        folder.write_cells([])
    taken = set() if known is None else set(known.loc[(known["dataset"] == dataset), "label"])
    for label in [name, *(anchor for anchor in ANCHORS if anchor not in taken)]:
        _write(folder, label, name, about, found, library_key)
    announce(f"added {name!r} on {dataset!r} to {folder.root}")
    return folder.write_tables()


def _about(known: pd.DataFrame | None, dataset: str, name: str, source: str) -> dict[str, str]:
    """What the rows of a data set share."""
    rows = None if known is None else known[known["dataset"] == dataset]
    if rows is None or rows.empty:
        return {"dataset": dataset, "source": source or dataset}
    if name in set(rows.loc[rows["params"] != _params(name), "label"]):
        raise ValueError(f"the benchmark has a model called {name!r} on {dataset!r}: pass another name as `name=`.")
    first = rows.iloc[0]
    shared = {column: str(first[column]) for column in ("source", "organism", "tissue", "technology")}
    return {"dataset": dataset, **shared} | ({"source": source} if source else {})


def _params(name: str) -> str:
    """Tells the cells of a tool from those of models."""
    return json.dumps({"external": name})


def _write(
    folder: Folder,
    label: str,
    name: str,
    about: dict[str, str],
    found: dict[Protocol, Scored],
    library_key: str | None,
) -> None:
    """Keep the scores of the tool, or of an anchor beside it, as a cell."""
    import pandas as pd

    cell = identifier({"external": name, "label": label, "dataset": about["dataset"]})
    first = next(iter(found.values()))
    prediction = first.key if label == name else label
    rows = pd.concat([_rows(one, protocol, prediction, library_key) for protocol, one in found.items()])
    genes = sorted(first.adata.obsm[first.key].columns)
    planned: dict[str, Any] = {
        **{"task": PREDICTION, "label": label, "model": label, "target": "expression", "seed": 0},
        **{"params": _params(name), "refused": "", **about},
    }
    row = {
        **{"status": DONE, "error": "", "versions": json.dumps(versions(), sort_keys=True), "commit": commit()},
        **{"n_genes": len(genes), "genes_hash": hashlib.sha256("\n".join(genes).encode()).hexdigest()},
        **{"n_spots": first.adata.n_obs, "n_libraries": _n_libraries(first.adata, library_key)},
        "chosen": json.dumps({"unit": first.unit, "match": first.words}),
    }
    folder.write_cell(cell, row, to_parquet(as_table(rows.assign(cell=cell), SCORES)))
    folder.write_added({"cell": cell, **planned})


def _rows(found: Scored, protocol: str, prediction: str, library_key: str | None) -> pd.DataFrame:
    """Scores of all genes in the columns of the table; limits stand beside the tool's scores only."""
    limits = (CEILING, *FLOORS) if prediction == found.key else ()
    scores = found.scores
    kept = scores["prediction"].isin([prediction, *limits]) & (scores["gene"] == ALL)
    kept &= (scores["library"] != ALL) | scores["metric"].isin(_TOGETHER)
    rows = scores.loc[kept, ["prediction", "role", "library", "subject", "gene", "metric", "value"]]
    spots = {ALL: found.adata.n_obs}
    if library_key is not None:
        spots |= {str(name): int(n) for name, n in found.adata.obs[library_key].value_counts().items()}
    return rows.assign(
        protocol=protocol,
        limit=rows["prediction"].where(rows["prediction"].isin(limits), ""),
        n=[spots.get(library) for library in rows["library"]],
        higher_is_better=[higher_is_better(metric) for metric in rows["metric"]],
    )


def _n_libraries(adata: AnnData, library_key: str | None) -> int:
    return 1 if library_key is None else int(adata.obs[library_key].nunique())
