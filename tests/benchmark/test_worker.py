"""The worker process: an answer for every order, and an end with whoever started it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anndata as ad
import pytest

from helpers.benchmark import is_alive, wait_until, workers_of, write_manifest
from spared_sc.benchmark._cells import make_plan
from spared_sc.benchmark._manifest import read_manifest
from spared_sc.benchmark._prepare import content_of
from spared_sc.benchmark._worker import _failure

CODE = "from spared_sc.benchmark import _worker; _worker.FORKS = {forks}; _worker.main()"


@pytest.fixture
def order(tmp_path) -> dict[str, Any]:
    """To prepare a data set."""
    manifest = read_manifest(write_manifest(tmp_path, features=None, models=["gene_mean"], completion=None))
    (job,) = make_plan(manifest, content_of).prepare.values()
    paths = {name: str(tmp_path / name) for name in ("labels", "log")}
    return {"job": asdict(job), "files": {}, "output": str(tmp_path / "data.h5ad"), "memory": 2**33, **paths}


def start(*, forks: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", CODE.format(forks=forks)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def send(worker: subprocess.Popen[bytes], order: dict[str, Any]) -> None:
    worker.stdin.write(json.dumps(order).encode() + b"\n")
    worker.stdin.flush()


def test_one_order_after_another(order, tmp_path):
    with start(forks=True) as worker:
        send(worker, order)
        answer = json.loads(worker.stdout.readline())
        assert (answer["status"], answer["size"]) == ("done", 0)
        assert answer["peak_memory"] > 2**26
        assert answer["cpu_seconds"] > 0
        assert ad.read_h5ad(tmp_path / "data.h5ad").n_obs == 3 * 49
        send(worker, {**order, "job": {**order["job"], "order": {**order["job"]["order"], "genes": ["no such gene"]}}})
        answer = json.loads(worker.stdout.readline())
        assert answer["status"] == "failed"
        assert "such as 'no such gene'" in answer["error"]
        assert "Traceback" in (tmp_path / "log").read_text()
        send(worker, {**order, "memory": 1})
        assert json.loads(worker.stdout.readline())["status"] == "out of memory"
        send(worker, {**order, "log": str(tmp_path / "no" / "log")})
        assert json.loads(worker.stdout.readline())["status"] == "disk"
        worker.stdin.close()
        assert worker.wait(60) == 0


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (ValueError("a\nb /home/me/x.tif: no"), "failed", "ValueError: a b x.tif: no"),
        (KeyError("no 'x' at https://a.org/b/c, 1/2"), "failed", "KeyError: no 'x' at https://a.org/b/c, 1/2"),
        (RuntimeError(), "failed", "RuntimeError: no reason given"),
        (MemoryError("1 GiB"), "out of memory", "MemoryError: 1 GiB"),
        (OSError(28, "No space left on device", "/a/b"), "disk", "OSError: [Errno 28] No space left on device: 'b'"),
        (RuntimeError("errno = 27, error message = 'File too large'"), "disk", "RuntimeError: errno = 27"),
    ],
)
def test_reasons_are_one_line_without_paths_of_the_machine(error, status, text):
    failure = _failure(error)
    assert failure["status"] == status
    assert failure["error"].startswith(text)


def test_it_ends_with_its_orders_and_so_does_its_job(order):
    with start(forks=True) as worker:
        send(worker, order)
        wait_until(Path(order["log"]).exists)
        (job,) = workers_of(worker.pid)
        worker.stdin.close()
        assert worker.wait(60) == 0
        assert not is_alive(job)


def test_a_job_ends_with_a_worker_that_is_killed(order):
    with start(forks=True) as worker:
        send(worker, order)
        wait_until(Path(order["log"]).exists)
        (job,) = workers_of(worker.pid)
        worker.kill()
        worker.wait(60)
        wait_until(lambda: not is_alive(job), 20)


def test_where_a_process_cannot_be_forked_a_worker_does_one_job(order, tmp_path):
    with start(forks=False) as worker:
        send(worker, order)
        answer = json.loads(worker.stdout.readline())
        assert answer["status"] == "done"
        assert answer["peak_memory"] > 2**26
        assert worker.wait(60) == 0
    assert (tmp_path / "data.h5ad").exists()
