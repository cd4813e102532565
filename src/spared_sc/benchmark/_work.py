"""One job from its order to its file, wherever it runs: in this process's worker, or in that of a cluster's node."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import spared_sc
from spared_sc._core.locks import only_writer
from spared_sc._core.memory import available
from spared_sc.benchmark._folder import FOREVER, Folder
from spared_sc.benchmark._processes import WORKERS, Outcome
from spared_sc.benchmark._tables import DONE, FAILED
from spared_sc.benchmark._worker import DISK

if TYPE_CHECKING:
    from spared_sc.benchmark._cells import Job

_PACKAGES = ("spared-sc", "anndata", "numpy", "scipy", "pandas", "scikit-learn", "numba", "torch", "timm", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended, for whoever waits for it."""

    job: str
    status: str
    error: str = ""
    ran: bool = True  # false where the result was there already


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What all jobs of a run share."""

    out: str
    memory: int | None  # bytes that a cell may take; `None`: what is available
    retry: tuple[str, ...] = ()  # cells that are computed again if they failed


def work(job: Job, conditions: Conditions, *before: Ended, wait: float = FOREVER) -> Ended:
    """Do a job, unless its result is there; `before` are the jobs that it needs.

    Raises
    ------
    TimeoutError
        If another process does the same job, and has not finished after `wait` seconds.
    OSError
        If the folder cannot be written.
    """
    folder = Folder(Path(conditions.out))
    if not folder.root.is_dir():
        raise FileNotFoundError(
            f"{platform.node()} does not see {folder.root}: let the workers of the cluster see the folder under the same path."
        )
    if job.kind in ("data", "features"):
        return _prepare(job, folder, conditions, before)
    target = folder.cell(job.id)
    with only_writer(target, wait=wait):
        row = folder.row(job.id)
        if row is not None and (row["status"] == DONE or job.id not in conditions.retry):
            return Ended(job=job.id, status=row["status"], error=row["error"], ran=False)
        began = time.perf_counter()
        outcome = _outcome(job, folder, conditions, before)
        row = {
            **outcome.row,
            "status": outcome.status,
            "error": outcome.error,
            "seconds": time.perf_counter() - began,
            "cpu_seconds": outcome.cpu_seconds,
            "peak_memory": outcome.peak_memory,
            "versions": json.dumps(versions(), sort_keys=True),
            "commit": commit(),
        }
        folder.write_cell(job.id, row, outcome.scores)
    return Ended(job=job.id, status=outcome.status, error=outcome.error)


def _prepare(job: Job, folder: Folder, conditions: Conditions, before: tuple[Ended, ...]) -> Ended:
    """Prepare what several cells read; a failure is theirs."""
    target = folder.prepared(job.id)
    with only_writer(target, wait=FOREVER):
        if target.exists():
            return Ended(job=job.id, status=DONE, ran=False)
        outcome = _outcome(job, folder, conditions, before)
    return Ended(job=job.id, status=outcome.status, error=outcome.error)


def _outcome(job: Job, folder: Folder, conditions: Conditions, before: tuple[Ended, ...]) -> Outcome:
    """Let a worker do the job, unless something that it needs has failed."""
    broken = next((one for one in before if one.status != DONE), None)
    if broken is not None:
        return Outcome(status=FAILED, error=f"what it needs could not be prepared: {broken.error}", row={})
    names = ["data", *job.order.get("features", [])] if job.kind != "features" else ["data"]
    files = {name: folder.prepared(need) for name, need in zip(names, job.needs, strict=True)} if job.needs else {}
    log = folder.log(job.id)
    with WORKERS.worker(job.threads) as worker:
        outcome = worker.run(
            job,
            files=files,
            output=folder.prepared(job.id),
            labels=folder.root / "prepared" / "labels",
            log=log,
            memory=conditions.memory or _memory(),
        )
    if outcome.status == DISK:
        raise OSError(f"{folder.root} cannot be written ({outcome.error}): free some space or choose another place")
    if log.exists() and not log.stat().st_size:
        log.unlink()
    return outcome


def _memory() -> int:
    """Memory that a cell may take: what is left, and of a dask worker its own share."""
    left = available()
    try:
        from distributed import get_worker

        worker = get_worker()
        limit = worker.memory_manager.memory_limit
    except (ImportError, ValueError, AttributeError):
        return left
    return min(left, int(limit / worker.state.nthreads)) if limit else left


@cache
def versions() -> dict[str, str]:
    """Versions of Python and the packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@cache
def commit() -> str:
    """Commit of the package, where it is a checkout; marked where files were changed since."""
    file = Path(spared_sc.__file__)

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=file.parent, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)  # a package that is installed into somebody's checkout is none
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return git("rev-parse", "--short=12", "HEAD") + (", changed" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return ""
