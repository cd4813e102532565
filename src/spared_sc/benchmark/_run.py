"""Runs a benchmark: here, on a dask cluster, or a part of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.report import announce, progress_bar
from spared_sc.benchmark._cells import Cell, Job, Plan, make_plan
from spared_sc.benchmark._folder import Folder
from spared_sc.benchmark._manifest import read_manifest
from spared_sc.benchmark._prepare import content_of
from spared_sc.benchmark._processes import WORKERS
from spared_sc.benchmark._tables import COMPLETION, DONE, KILLED, PREDICTION
from spared_sc.benchmark._work import Conditions, Ended, work
from spared_sc.benchmark._yaml import near

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client
    from tqdm import tqdm

_CELLS = (PREDICTION, COMPLETION)
_SHARD = re.compile(r"(\d+)/(\d+)")


@checks_arguments
def run(
    manifest: str | Path,
    out: str | Path,
    *,
    client: Client | None = None,
    shard: str | None = None,
    cells: Sequence[str] | None = None,
    retry: bool = False,
    show_progress_bar: bool | None = None,
) -> pd.DataFrame:
    r"""Run the cells of a benchmark that are not done, and write its tables.

    Every cell runs in a worker process with the manifest's number of threads. Its result is a file in `out`, which is
    there as a whole or not at all: after an interrupt, a crash or a lost cluster, the same call goes on. A cell that raises
    an error, is killed, or takes too much memory is a row with its reason. On one machine and one set of packages,
    `scores.parquet` holds the same bytes however many workers there are and however often the run was interrupted.

    Several runs may use one folder at the same time: each cell is done by one of them.

    Parameters
    ----------
    manifest
        YAML file that describes the benchmark.
    out
        Folder of the benchmark, which is made where it does not exist.
    client
        A dask `distributed.Client`, whose workers do the cells; they must see `out` under the same path. Cells on a GPU ask
        for one unit of the resource `"GPU"`. Without a client, cells run one after another.
    shard
        `"2/8"`: only the second of eight parts of the plan. The tables are written when all parts are done.
    cells
        Identifiers of cells: only these, those that failed again. The tables are written when all cells are done.
    retry
        Run failed cells again, too.
    show_progress_bar
        Whether to show progress. `None` asks `sp.settings`.

    Returns
    -------
    The table of cells (see `cells.parquet`). Files written to `out`:

    - `cells.parquet`: one row per cell of the manifest, with status, reason, costs and versions
    - `scores.parquet`: one row per score of a cell that is done
    - `cells/`: the result of every cell, `prepared/`: data sets and features, `logs/`: messages of every cell
    - `plan.json`, `manifest.yaml`: what there is to run

    Raises
    ------
    FileNotFoundError
        If there is no such manifest.
    ValueError
        If the manifest, the shard or a cell cannot be used.
    OSError
        If the folder cannot be written, or the disk is full. Finished cells are kept.
    RuntimeError
        If the connection to the cluster is lost. Finished cells are kept.
    KeyboardInterrupt
        After an interrupt; the tables then hold what is finished.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> import spared_sc as sp
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> text = "datasets: [{name: toy, synthetic: {n_libraries: 3, shape: [8, 8]}}]\nmodels: [gene_mean]\n"
    >>> _ = (folder / "small.yaml").write_text(text)
    >>> cells = sp.benchmark.run(folder / "small.yaml", folder / "out", show_progress_bar=False)  # doctest: +SKIP
    """
    folder, conditions, todo, made = _begin(manifest, out, shard, cells, retry)
    jobs = list(made.needed(todo))
    try:
        with progress_bar(total=len(todo), desc="benchmark", show=show_progress_bar, unit="cell") as bar:
            ended = _here(jobs, conditions) if client is None else _on_cluster(jobs, conditions, client, folder)
            counted = _count(ended, {cell.id for cell in todo}, bar)
    finally:
        WORKERS.close()
        table = folder.write_tables(unfinished=shard is None and cells is None)
    announce(f"{counted.total()} cells executed" + (f" ({_listed(counted)})" if counted else ""))
    return table


def _begin(
    manifest: str | Path, out: str | Path, shard: str | None, cells: Sequence[str] | None, retry: bool
) -> tuple[Folder, Conditions, list[Cell], Plan]:
    """The folder, and what is to be run."""
    described = read_manifest(manifest)
    folder = Folder.at(out)
    folder.create()
    made = make_plan(described, lambda dataset: content_of(dataset, folder.hashes))
    chosen = _chosen(made.cells, shard, cells)
    folder.write_plan(made, Path(manifest).expanduser())
    rows = folder.rows(chosen)
    again = retry or cells is not None
    todo = [
        cell
        for cell in chosen
        if not cell.refused and (cell.id not in rows or (again and rows[cell.id]["status"] != DONE))
    ]
    conditions = Conditions(
        out=str(folder.root), memory=described.memory, retry=tuple(cell.id for cell in todo if cell.id in rows)
    )
    announce(_forecast(folder, made, todo, len(chosen)))
    return folder, conditions, todo, made


def _chosen(every: Sequence[Cell], shard: str | None, cells: Sequence[str] | None) -> list[Cell]:
    """The cells of a part of the plan, or the named ones."""
    known = {cell.id: cell for cell in every}
    for name in cells or ():
        if name not in known:
            raise ValueError(f"there is no cell {name!r} in this plan: {near(name, known)}")
    chosen = list(every) if cells is None else [known[name] for name in dict.fromkeys(cells)]
    if shard is None:
        return chosen
    found = _SHARD.fullmatch(shard)
    number, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= number <= parts:
        raise ValueError(f"shard={shard!r} cannot be used: give a part and their number, such as '1/4'.")
    return chosen[number - 1 :: parts]


def _forecast(folder: Folder, made: Plan, todo: Sequence[Cell], n_chosen: int) -> str:
    """How much there is to do, by the costs of cells like these."""
    rows = {cell.id: (cell, row) for cell in made.cells if (row := folder.row(cell.id)) and row["status"] == DONE}
    costs: dict[tuple[str, ...], list[float]] = {}
    for cell, row in rows.values():
        for key in _kinds(cell):
            costs.setdefault(key, []).append(row["seconds"])
    known = [next((fmean(costs[key]) for key in _kinds(cell) if key in costs), None) for cell in todo]
    seconds = [one for one in known if one is not None]
    text = f"{len(todo)} of {n_chosen} cells to run"
    if seconds:
        text += f", about {_duration(sum(seconds))} one after another"
    if seconds and len(seconds) < len(todo):
        text += f" for {len(seconds)} of them, by cells done before"
    return text


def _kinds(cell: Cell) -> list[tuple[str, ...]]:
    """What cells cost alike, the most alike first."""
    names = [(*("task", "dataset", "model", "params", "features", "target", "regime"),), ("task", "model")]
    return [tuple(str(cell.row.get(name)) for name in some) for some in names]


def _duration(seconds: float) -> str:
    for limit, size, unit in ((90, 1, "s"), (5400, 60, "min")):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 3600:.1f} h"


def _count(ended: Iterator[Ended], cells: set[str], bar: tqdm) -> Counter[str]:
    """How the cells ended that were executed; the bar follows."""
    counted: Counter[str] = Counter()
    for one in ended:
        if one.job in cells:
            bar.update()
            if one.ran:
                counted[one.status] += 1
    return counted


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{number} {status}" for status, number in counted.most_common())


# --- ways to run ------------------------------------------------------------------------------------------------------


def _here(jobs: Sequence[Job], conditions: Conditions) -> Iterator[Ended]:
    """One job after another; those that another process does come last."""
    ended: dict[str, Ended] = {}
    elsewhere = []
    for job in jobs:
        wait = {"wait": 0.0} if job.kind in _CELLS else {}
        try:
            ended[job.id] = work(job, conditions, *(ended[need] for need in job.needs), **wait)
        except TimeoutError:
            elsewhere.append(job)
            continue
        yield ended[job.id]
    for job in elsewhere:
        yield work(job, conditions, *(ended[need] for need in job.needs))


def _on_cluster(jobs: Sequence[Job], conditions: Conditions, client: Client, folder: Folder) -> Iterator[Ended]:
    """Every job as a task of the cluster; each begins when those that it needs have ended."""
    from distributed import as_completed

    futures: dict[str, Any] = {}
    for job in jobs:
        needs = [futures[need] for need in job.needs]
        resources = {"GPU": 1} if job.device.startswith("cuda") else None
        futures[job.id] = client.submit(work, job, conditions, *needs, pure=False, resources=resources)
    of_future = {future.key: job for job, future in zip(jobs, futures.values(), strict=True)}
    try:
        for future in as_completed(futures.values()):
            yield _ended(future, of_future[future.key], client, folder)
    finally:
        client.cancel(list(futures.values()))


def _ended(future: Any, job: Job, client: Client, folder: Folder) -> Ended:
    """How a task of the cluster ended."""
    from distributed import CancelledError, KilledWorker

    try:
        return future.result()
    except KilledWorker:
        reason = "the cluster gave it up after several of its workers had died, for want of memory as a rule"
        if job.kind in _CELLS and folder.row(job.id) is None:
            folder.write_cell(job.id, {"status": KILLED, "error": reason})
        return Ended(job=job.id, status=KILLED, error=reason)
    except (Exception, CancelledError) as error:
        if client.status == "running" and not isinstance(error, CancelledError):
            raise
        raise _lost(error) from error


def _lost(error: BaseException) -> RuntimeError:
    return RuntimeError(
        f"the connection to the cluster is lost ({type(error).__name__}): finished cells are kept. Start a cluster, and call "
        "this again."
    )
