"""Worker processes as the process sees them that gives the orders."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from spared_sc.benchmark._tables import KILLED
from spared_sc.benchmark._worker import FORKS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spared_sc.benchmark._cells import Job

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a job ended."""

    status: str
    error: str
    scores: bytes = b""  # a Parquet file
    row: dict[str, Any]  # what is known of a cell afterwards
    cpu_seconds: float = float("nan")
    peak_memory: int | None = None


class Worker:
    """A worker process for jobs with some number of threads."""

    def __init__(self, threads: int):
        self.threads, self._used = threads, False
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads)), "OMP_WAIT_POLICY": "PASSIVE"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "spared_sc.benchmark._worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,  # an interrupt of the terminal is this process's to deal with
        )

    def run(self, job: Job, *, files: dict[str, Path], output: Path, labels: Path, log: Path, memory: int) -> Outcome:
        """Do a job: `files` are what it reads, `output` is what it writes, `memory` the bytes that it may take.

        `labels` is a folder of completed values, which jobs share.
        """
        order = {
            "job": asdict(job),
            "files": {name: str(path) for name, path in files.items()},
            "output": str(output),
            "labels": str(labels),
            "log": str(log),
            "memory": memory,
        }
        stdin, stdout = self._process.stdin, self._process.stdout
        self._used = True
        try:
            if stdin is None or stdout is None:
                raise BrokenPipeError
            stdin.write(json.dumps(order).encode() + b"\n")
            stdin.flush()
            answer: dict[str, Any] = json.loads(stdout.readline() or "{}")
            scores = stdout.read(answer.get("size", 0))
        except BrokenPipeError:
            answer, scores = {}, b""
        except BaseException:
            self.kill()
            raise
        if "size" not in answer or len(scores) < answer["size"]:
            self.kill()
            return Outcome(status=KILLED, error=f"the worker process ended ({_ending(self._process.wait())})", row={})
        return Outcome(
            status=answer["status"],
            error=answer["error"],
            scores=scores,
            row=answer.get("row", {}),
            cpu_seconds=answer["cpu_seconds"],
            peak_memory=answer["peak_memory"],
        )

    @property
    def alive(self) -> bool:
        """Whether it takes further jobs."""
        return self._process.poll() is None and (FORKS or not self._used)

    def kill(self) -> None:
        """End it and its job at once."""
        if self._process.poll() is None:
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"code {code}"


class Workers:
    """Workers of this process that wait for their next job."""

    def __init__(self) -> None:
        self._idle: list[Worker] = []
        self._lock = threading.Lock()

    @contextmanager
    def worker(self, threads: int) -> Iterator[Worker]:
        """A worker for one job."""
        with self._lock:
            fitting = [worker for worker in self._idle if worker.threads == threads and worker.alive]
            worker = fitting[0] if fitting else None
            if worker is not None:
                self._idle.remove(worker)
        worker = worker or Worker(threads)
        try:
            yield worker
        except BaseException:
            worker.kill()
            raise
        with self._lock:
            self._idle.append(worker)

    def close(self) -> None:
        """End all that wait."""
        with self._lock:
            idle, self._idle = self._idle, []
        for worker in idle:
            worker.kill()


WORKERS = Workers()  # of this process
