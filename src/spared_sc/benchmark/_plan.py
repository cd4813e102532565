"""What a benchmark would run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments
from spared_sc.benchmark._tables import NOT_RUN, REFUSED

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

_COLUMNS = (
    *("cell", "task", "dataset", "label", "target", "loss", "regime", "share", "seed", "status", "error"),
    *("seconds", "peak_memory"),
)


@checks_arguments
def plan(manifest: str | Path, out: str | Path | None = None) -> pd.DataFrame:
    r"""List the cells of a benchmark: what would run, what is done, and what is refused and why.

    Nothing is fetched or computed; files of data sets are read once for their hashes.

    Parameters
    ----------
    manifest
        YAML file that describes the benchmark; the page about the benchmark describes it.
    out
        Folder of the benchmark, for what is done already.

    Returns
    -------
    One row per cell, in the order of the manifest: `cell` (identifier), `task`, `dataset`, `label` (of the model), `target`,
    `loss`, `regime`, `share`, `seed`, `status` (`"not run"`, `"done"`, `"failed"`, `"killed"`, `"out of memory"` or
    `"refused"`), `error` (the reason), and of what ran `seconds` and `peak_memory` (bytes).

    Raises
    ------
    FileNotFoundError
        If there is no such manifest.
    ValueError
        If the manifest cannot be used; the error names the place in it.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import spared_sc as sp
    >>> manifest = pathlib.Path(tempfile.mkdtemp(), "small.yaml")
    >>> text = "datasets: [{name: toy, synthetic: {n_libraries: 3}}]\nmodels: [gene_mean, position_only]\n"
    >>> _ = manifest.write_text(text)
    >>> sp.benchmark.plan(manifest)[["dataset", "label", "status"]].values.tolist()
    [['toy', 'gene_mean', 'not run'], ['toy', 'position_only', 'not run']]
    """
    import pandas as pd

    from spared_sc.benchmark._cells import make_plan
    from spared_sc.benchmark._folder import Folder
    from spared_sc.benchmark._manifest import read_manifest
    from spared_sc.benchmark._prepare import content_of

    folder = None if out is None else Folder.at(out)
    known = None if folder is None else folder.hashes
    cells = make_plan(read_manifest(manifest), lambda dataset: content_of(dataset, known)).cells
    ran = {} if folder is None else folder.rows(cells)
    rows = [
        {
            "status": REFUSED if cell.refused else NOT_RUN,
            "error": cell.refused,
            "target": "",
            "loss": "",
            "regime": "",
            **cell.row,
            "cell": cell.id,
            **({} if cell.refused else ran.get(cell.id, {})),
        }
        for cell in cells
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))
