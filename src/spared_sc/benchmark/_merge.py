"""Parts of a benchmark that ran in several folders, put together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.files import write_whole, writing
from spared_sc._core.locks import only_writer
from spared_sc.benchmark._folder import FOREVER, Folder
from spared_sc.benchmark._tables import DONE

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd


@checks_arguments
def merge(out: str | Path, folders: Sequence[str]) -> pd.DataFrame:
    """Put together the parts of a benchmark that ran in folders of their own, such as its shards on several machines.

    Parameters
    ----------
    out
        Folder of the whole; it may be one of the parts, or not exist.
    folders
        Folders of the parts, which are left as they are. All come from the same manifest.

    Returns
    -------
    The table of cells. `out` then holds the same files as if all had run there, but for what cells share (`prepared/`).

    Raises
    ------
    FileNotFoundError
        If a folder is not that of a benchmark.
    ValueError
        If the folders come from different manifests or data, or if two of them have different scores of one cell.
    OSError
        If `out` cannot be written.

    Examples
    --------
    >>> import spared_sc as sp
    >>> sp.benchmark.merge("whole", ["first_shard", "second_shard"])  # doctest: +SKIP
    """
    parts = [Folder.at(one) for one in folders]
    if not parts:
        raise ValueError("there is no folder to merge: give those that `sp.benchmark.run` has written to.")
    plans = [part.planned() for part in parts]
    for part, plan in zip(parts, plans, strict=True):
        if plan != plans[0]:
            raise ValueError(
                f"{part.root} and {parts[0].root} hold different plans: run both shards with the same manifest, data and "
                "version of the package."
            )
    whole = Folder.at(out)
    whole.create()
    if (whole.root / "plan.json").exists() and whole.planned() != plans[0]:
        raise ValueError(f"{whole.root} holds the plan of another benchmark: choose an empty folder.")
    whole.write_cells(plans[0])
    for part in parts:
        for added in part.added():
            whole.write_added(added)
        for cell in [*plans[0], *part.added()]:
            _take(cell["cell"], part, whole)
        manifest = part.root / "manifest.yaml"
        if manifest.exists() and part.root != whole.root:
            with writing(whole.root):
                write_whole(whole.root / "manifest.yaml", manifest.read_bytes())
    return whole.write_tables()


def _take(cell: str, part: Folder, whole: Folder) -> None:
    """Take over the result of a cell, unless there is one that is as good."""
    row = part.row(cell)
    if row is None or part.root == whole.root:
        return
    with writing(whole.root), only_writer(whole.cell(cell), wait=FOREVER):
        here = whole.row(cell)
        if here is not None and here["status"] == DONE:
            if row["status"] == DONE and part.scores_of(cell) != whole.scores_of(cell):
                raise ValueError(
                    f"{part.root} and {whole.root} have different scores of the cell {cell}: the machines or packages "
                    "differ. Run the shards with the same packages, or choose one result by removing the other file."
                )
            return
        if here is None or row["status"] == DONE:
            write_whole(whole.cell(cell), part.cell(cell).read_bytes())
