from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.benchmark_tables import DONE
from spared_sc._core.files import as_path
from spared_sc.benchmark._reference_external import reference_external
from spared_sc.benchmark._tables import CELLS_FILE, SCORES, SCORES_FILE, read_cells, read_scores

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@checks_arguments
def results(out: str | Path) -> pd.DataFrame:
    """Read the scores of a benchmark, each with what is known of its cell.

    Parameters
    ----------
    out
        Folder of a benchmark, which holds `cells.parquet` and `scores.parquet`.

    Returns
    -------
    One row per score: the columns of `scores.parquet`, those of `cells.parquet`, and `generalisation`, which is
    `"intra-subject"` or `"inter-subject"` for SpaRED's data sets and empty for others. A cell without a score
    has one row with an empty `metric`; its `status` and `error` say why. This is the table that
    :func:`spared_sc.benchmark.compare` and the plots of benchmarks take.

    Raises
    ------
    FileNotFoundError
        If the folder does not hold both tables.

    Examples
    --------
    >>> import spared_sc as sp
    >>> scores = sp.benchmark.results("benchmark_output")  # doctest: +SKIP
    >>> sp.benchmark.compare(scores, "d2")  # doctest: +SKIP
    """
    folder = as_path(str(out), "out")
    missing = [name for name in (CELLS_FILE, SCORES_FILE) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no {missing[0]}: pass the folder of `sp.benchmark.run(manifest, out)` as `out=`."
        )
    cells, scores = read_cells(folder), read_scores(folder)
    table = cells.merge(scores, on="cell", how="left", validate="one_to_many")
    texts = [column.name for column in SCORES if column.kind == "string"]
    table[texts] = table[texts].fillna("")
    # A cell that is done and has no row is one whose scores were lost: it is not taken for a model that failed.
    lost = table.loc[(table["metric"] == "") & (table["status"] == DONE), "cell"]
    if len(lost):
        raise ValueError(
            f"{len(lost)} cells of {folder} are done and have no score (such as {lost.iloc[0]!r}): the tables are of "
            "different runs. Run `sp.benchmark.run(manifest, out)` again, which writes both."
        )
    known = reference_external().drop_duplicates("dataset").set_index("dataset")["generalisation"]
    return table.assign(generalisation=table["dataset"].map(known).fillna("").astype(str))
