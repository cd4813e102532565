"""A benchmark gives the same scores however it runs, and nothing that is finished is lost or done again."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.benchmark import (
    finished,
    hash_of_scores,
    is_alive,
    start,
    wait_until,
    workers_of,
    write_manifest,
)
from helpers.locks import written_by_another
from spared_sc.benchmark import _work
from spared_sc.benchmark._tables import read_cells, read_scores

if TYPE_CHECKING:
    from pathlib import Path

QUIET = {"show_progress_bar": False}
N_CELLS = 6


@pytest.fixture(scope="module")
def manifest(tmp_path_factory) -> Path:
    return write_manifest(tmp_path_factory.mktemp("manifest"))


@pytest.fixture(scope="module")
def whole(manifest, tmp_path_factory) -> Path:
    """The folder of a run in this process."""
    out = tmp_path_factory.mktemp("whole") / "out"
    sp.benchmark.run(manifest, out, **QUIET)
    return out


@pytest.fixture
def prepared(whole, tmp_path) -> Path:
    """A folder in which data sets are prepared and no cell is done."""
    out = tmp_path / "out"
    shutil.copytree(whole / "prepared", out / "prepared")
    return out


def executed(monkeypatch) -> list[str]:
    """Cells that workers are asked to do from now on."""
    asked: list[str] = []
    before = _work._outcome

    def outcome(job, *given):
        asked.append(job.id)
        return before(job, *given)

    monkeypatch.setattr(_work, "_outcome", outcome)
    return asked


# --- what a run leaves ------------------------------------------------------------------------------------------------


def test_every_cell_is_a_row(whole):
    cells = read_cells(whole)
    assert cells["status"].eq("done").all()
    assert cells["error"].eq("").all()
    assert len(cells) == N_CELLS
    assert cells["dataset_hash"].nunique() == cells["genes_hash"].nunique() == 1
    assert cells["n_genes"].eq(8).all()
    assert cells["n_spots"].eq(3 * 49).all()
    assert cells["n_libraries"].eq(3).all()
    assert cells["source"].eq("drawn").all()
    assert (cells["cpu_seconds"] > 0).all()
    assert (cells["seconds"] > 0).all()
    assert cells["peak_memory"].between(2**26, 2**33).all()
    assert cells.set_index("label")["encoder"]["ridge[classical]"] == "classical"
    assert cells.set_index("label")["n_parameters"]["head[classical]"] > 0
    assert json.loads(cells["versions"][0])["numpy"]
    assert sorted(finished(whole)) == sorted(cells["cell"])


def test_scores_are_those_of_the_public_functions(whole):
    adata = sp.datasets.synthetic(n_libraries=3, shape=(7, 7), n_genes=50)
    key = {"library_key": "library_id"}
    sp.pp.recipe_spared(adata, n_genes=8, **key)
    sp.tl.predict_expression(adata, model="position_only", target="log2tpm", loss="all", key_added="p", **key)
    expected = sp.tl.score_prediction(adata, "p", **key).set_index(["prediction", "library", "gene", "metric"])["value"]
    cells, scores = read_cells(whole), read_scores(whole)
    (cell,) = cells.loc[cells["label"] == "position_only", "cell"]
    found = scores[(scores["cell"] == cell) & (scores["protocol"] == "expression")]
    for limit, name in (("", "p"), ("ceiling", "ceiling")):
        rows = found[found["limit"] == limit]
        assert len(rows) > 50
        for row in rows.itertuples():
            assert row.value == pytest.approx(expected[name, row.library, row.gene, row.metric], rel=1e-6, nan_ok=True)
    assert set(found["role"]) == {"held out"}
    assert found["n"].eq(49).all()
    evaluated = sp.tl.evaluate_completion(adata, methods="median", regimes="detected", n_masks=1, **key)
    expected = evaluated.set_index(["method", "library", "genes", "metric"])["value"]
    (cell,) = cells.loc[cells["label"] == "median", "cell"]
    found = scores[(scores["cell"] == cell) & (scores["limit"] == "")]
    assert len(found) == (evaluated["method"] == "median").sum()
    for row in found.itertuples():
        assert row.value == pytest.approx(expected["median", row.library, row.gene, row.metric], rel=1e-6, nan_ok=True)


def test_means_over_libraries_are_left_to_the_reader(whole):
    scores = read_scores(whole)
    together = scores[(scores["library"] == "all") & (scores["protocol"] != "")]
    assert set(together["metric"]) == {"pcc_pooled"}


# --- the same bytes ---------------------------------------------------------------------------------------------------


def test_a_second_run_executes_nothing(manifest, whole, monkeypatch):
    before, asked = hash_of_scores(whole), executed(monkeypatch)
    sp.benchmark.run(manifest, whole, **QUIET)
    assert asked == []
    assert hash_of_scores(whole) == before


@pytest.mark.slow
def test_from_scratch_and_interrupted(manifest, whole, tmp_path):
    """SIGINT ends a run with code 130 and its tables; SIGKILL without any; the next ones go on."""
    out = tmp_path / "out"
    first = start(manifest, out)
    wait_until(lambda: finished(out))
    first.send_signal(signal.SIGINT)
    first.communicate(timeout=60)
    assert first.returncode == 130
    kept = finished(out)
    assert 0 < len(kept) < N_CELLS
    assert read_cells(out)["status"].value_counts().to_dict() == {"done": len(kept), "not run": N_CELLS - len(kept)}
    second = start(manifest, out)
    wait_until(lambda: len(finished(out)) > len(kept))
    below = workers_of(second.pid)
    second.kill()
    second.communicate(timeout=60)
    wait_until(lambda: not any(is_alive(one) for one in below), 20)  # its workers end with it
    sp.benchmark.run(manifest, out, **QUIET)
    assert hash_of_scores(out) == hash_of_scores(whole)


@pytest.mark.slow
def test_shards_in_folders_of_their_own(manifest, whole, prepared, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    first = sp.benchmark.run(manifest, prepared, shard="1/2", **QUIET)
    second = sp.benchmark.run(manifest, other, shard="2/2", **QUIET)
    assert (first["status"] == "done").sum() == (second["status"] == "done").sum() == N_CELLS / 2
    both = tmp_path / "both"
    cells = sp.benchmark.merge(both, [str(prepared), str(other)])
    assert cells["status"].eq("done").all()
    assert hash_of_scores(both) == hash_of_scores(whole)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_on_a_cluster(workers, manifest, whole, prepared):
    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": ":0"}
    with LocalCluster(n_workers=workers, **options) as cluster, Client(cluster) as client:
        sp.benchmark.run(manifest, prepared, client=client, **QUIET)
    assert hash_of_scores(prepared) == hash_of_scores(whole)


@pytest.mark.slow
def test_cells_on_a_gpu_wait_for_a_worker_that_has_one(prepared, tmp_path):
    """There is none here: the cell is a row that says so."""
    from distributed import Client, LocalCluster

    head = {"model": "head", "params": {"n_steps": 2, "validate_every": 1}, "device": "cuda:9"}
    manifest = write_manifest(tmp_path, models=[head], completion=None)
    options = {"processes": False, "memory_limit": None, "dashboard_address": ":0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, resources={"GPU": 1}, **options) as cluster:
        with Client(cluster) as client:
            cells = sp.benchmark.run(manifest, prepared, client=client, **QUIET)
    assert cells["status"].tolist() == ["failed"]
    assert "cuda:9" in cells["error"][0]


@pytest.mark.slow
def test_a_worker_of_the_cluster_is_killed(manifest, whole, prepared):
    from threading import Thread

    from distributed import Client, LocalCluster

    options = {"threads_per_worker": 1, "memory_limit": None, "dashboard_address": ":0"}
    with LocalCluster(n_workers=2, **options) as cluster, Client(cluster) as client:
        process = next(iter(client.run(os.getpid).values()))

        def kill() -> None:
            wait_until(lambda: finished(prepared))
            os.kill(process, signal.SIGKILL)

        killer = Thread(target=kill)
        killer.start()
        cells = sp.benchmark.run(manifest, prepared, client=client, **QUIET)
        killer.join()
    assert cells["status"].eq("done").all()
    assert hash_of_scores(prepared) == hash_of_scores(whole)


@pytest.mark.slow
def test_the_scheduler_is_killed(manifest, whole, prepared, tmp_path):
    from threading import Thread

    from distributed import Client

    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    dask = [sys.executable, "-m", "dask"]
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    scheduler = subprocess.Popen([*dask, "scheduler", "--port", "0", *where], **quiet)
    worker = subprocess.Popen([*dask, "worker", "--nthreads", "1", "--death-timeout", "20", *where], **quiet)
    try:
        with Client(scheduler_file=str(file), timeout=120) as client:
            client.wait_for_workers(1, timeout=120)

            def kill() -> None:
                wait_until(lambda: finished(prepared))
                scheduler.kill()

            killer = Thread(target=kill)
            killer.start()
            with pytest.raises(RuntimeError, match="connection to the cluster is lost"):
                sp.benchmark.run(manifest, prepared, client=client, **QUIET)
            killer.join()
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
    assert 0 < len(finished(prepared))
    sp.benchmark.run(manifest, prepared, **QUIET)
    assert hash_of_scores(prepared) == hash_of_scores(whole)


# --- failures ---------------------------------------------------------------------------------------------------------


def test_failures_are_rows_and_can_be_retried(tmp_path, monkeypatch):
    """A data set that is not there is a row with the reason, once; when it is there, its cells are others."""
    datasets = [{"name": "mine", "path": "mine.h5ad", "genes": 4}]
    manifest, out = write_manifest(tmp_path, datasets=datasets, models=["gene_mean"], completion=None), tmp_path / "out"
    cells = sp.benchmark.run(manifest, out, **QUIET)
    assert cells["status"].tolist() == ["failed"]
    assert "there is nothing at mine.h5ad" in cells["error"][0]
    assert str(tmp_path) not in cells["error"][0]
    (log,) = (out / "logs").glob("*.log")
    assert "Traceback" in log.read_text()
    asked = executed(monkeypatch)
    sp.benchmark.run(manifest, out, **QUIET)
    assert asked == []
    sp.benchmark.run(manifest, out, retry=True, **QUIET)
    sp.benchmark.run(manifest, out, cells=cells["cell"].tolist(), **QUIET)
    assert [cell for cell in asked if cell in set(cells["cell"])] == 2 * cells["cell"].tolist()
    sp.datasets.synthetic(n_libraries=3, shape=(5, 5), n_genes=30, image=False).write_h5ad(tmp_path / "mine.h5ad")
    cells = sp.benchmark.run(manifest, out, **QUIET)
    assert cells["status"].tolist() == ["done"]


def test_too_little_memory_is_a_row(whole, prepared, tmp_path):
    """The limit is no part of a cell's identifier: with more memory it is the same cell."""
    del whole
    small = write_manifest(tmp_path, memory="1 MiB", models=["gene_mean"], completion=None)
    cells = sp.benchmark.run(small, prepared, **QUIET)
    assert cells["status"].tolist() == ["out of memory"]
    assert "more than the 0.00 GiB of memory that a cell may take" in cells["error"][0]
    assert (cells["peak_memory"] > 2**20).all()
    enough = write_manifest(tmp_path, memory="8 GiB", models=["gene_mean"], completion=None)
    again = sp.benchmark.run(enough, prepared, retry=True, **QUIET)
    assert again["status"].tolist() == ["done"]
    assert again["cell"].tolist() == cells["cell"].tolist()


@pytest.mark.slow
def test_a_killed_cell_is_a_row(manifest, whole, prepared):
    """The process of a cell is killed, as the system does where memory runs out; the others go on."""
    run = start(manifest, prepared)
    wait_until(lambda: list((prepared / "logs").glob("*.log")))  # a cell has begun
    os.kill(workers_of(run.pid)[-1], signal.SIGKILL)
    run.communicate(timeout=300)
    assert run.returncode == 0
    cells = read_cells(prepared)
    assert cells["status"].value_counts().to_dict() == {"done": N_CELLS - 1, "killed": 1}
    assert "SIGKILL" in cells.loc[cells["status"] == "killed", "error"].item()
    sp.benchmark.run(manifest, prepared, retry=True, **QUIET)
    assert hash_of_scores(prepared) == hash_of_scores(whole)


def test_a_folder_that_cannot_be_made(manifest, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be written.*choose a place that can be written"):
        sp.benchmark.run(manifest, tmp_path / "file" / "out")


@pytest.mark.slow
def test_a_full_disk_ends_the_run_and_loses_nothing(manifest, whole, prepared):
    """No file may grow beyond some size, which is how a full disk looks from here."""
    import resource

    shutil.rmtree(prepared / "prepared")
    most = 2**20  # a prepared data set has more

    run = start(manifest, prepared, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)))
    _, errors = run.communicate(timeout=300)
    assert run.returncode == 1
    assert "free some space" in errors
    assert finished(prepared) == []
    sp.benchmark.run(manifest, prepared, **QUIET)
    assert hash_of_scores(prepared) == hash_of_scores(whole)


@pytest.mark.slow
def test_two_runs_in_one_folder_share_the_cells(manifest, whole, prepared):
    runs = [start(manifest, prepared) for _ in range(2)]
    errors = [run.communicate(timeout=300)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    numbers = [int(re.search(r"(\d+) cells executed", text)[1]) for text in errors]
    assert sum(numbers) == N_CELLS
    assert hash_of_scores(prepared) == hash_of_scores(whole)


def test_a_cell_that_another_process_does_is_waited_for(manifest, whole, tmp_path):
    """Its turn comes last, and a message names the process."""
    shutil.copytree(whole, tmp_path / "out")
    cell = sp.benchmark.plan(manifest)["cell"][0]
    target = tmp_path / "out" / "cells" / f"{cell}.parquet"
    kept = target.read_bytes()
    target.unlink()
    with written_by_another(target) as process:
        run = start(manifest, tmp_path / "out")
        lines = []
        while not any("waiting for" in line for line in lines):
            lines.append(run.stderr.readline())
        assert f"waiting for process {process}" in lines[-1]
        target.write_bytes(kept)
    assert run.communicate(timeout=60)[1].count("0 cells executed") == 1
    assert run.returncode == 0
    assert hash_of_scores(tmp_path / "out") == hash_of_scores(whole)


def test_parts_and_cells_that_do_not_exist(manifest, whole):
    with pytest.raises(ValueError, match="shard='3/2' cannot be used"):
        sp.benchmark.run(manifest, whole, shard="3/2")
    with pytest.raises(ValueError, match="there is no cell 'abc'"):
        sp.benchmark.run(manifest, whole, cells=["abc"])
