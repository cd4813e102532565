"""The command line of the benchmark."""

from __future__ import annotations

import pytest

from helpers.benchmark import finished, write_manifest
from spared_sc.benchmark._folder import Folder
from spared_sc.benchmark._tables import read_cells
from spared_sc.cli import main

FEW = {"models": ["gene_mean", "position_only"], "completion": None}


@pytest.fixture
def manifest(tmp_path):
    return write_manifest(tmp_path, **FEW)


def run(*arguments) -> int:
    return main(["benchmark", *map(str, arguments)])


def test_plan_lists_cells_and_refusals(tmp_path, capsys):
    manifest = write_manifest(tmp_path, **FEW, targets=[{"target": "expression", "loss": ["mse", "nb"]}])
    assert run("plan", manifest) == 0
    text = capsys.readouterr().out
    assert "4 cells: 2 not run, 2 refused" in text
    assert "'gene_mean' cannot be fitted to counts" in text
    assert run("plan", manifest, "--ids") == 0
    cells = capsys.readouterr().out.split()
    assert len(cells) == 2
    assert all(cell in text for cell in cells)


def test_a_cell_a_shard_and_the_rest(manifest, tmp_path, capsys):
    out = tmp_path / "out"
    run("plan", manifest, "--ids")
    first, second = capsys.readouterr().out.split()
    assert run("run", manifest, "-o", out, "--cell", second) == 0
    assert finished(out) == [second]
    assert not (out / "scores.parquet").exists()  # one of two cells is not run
    shown = capsys.readouterr()
    assert "2 cells: 1 not run, 1 done" in shown.out
    assert "1 of 1 cells to run" in shown.err
    assert "1 cells executed (1 done)" in shown.err
    assert run("run", manifest, "-o", out, "--shard", "1/2") == 0
    assert finished(out) == sorted([first, second])
    assert read_cells(out)["status"].eq("done").all()
    assert run("merge", out, "-o", tmp_path / "whole") == 0
    assert (tmp_path / "whole" / "scores.parquet").read_bytes() == (out / "scores.parquet").read_bytes()


def test_failures_are_listed(manifest, tmp_path, capsys):
    out = tmp_path / "out"
    run("plan", manifest, "--ids")
    for cell in capsys.readouterr().out.split():
        folder = Folder.at(out)
        folder.create()
        folder.write_cell(cell, {"status": "failed", "error": "ValueError: no"})
    assert run("run", manifest, "-o", out) == 0
    text = capsys.readouterr().out
    assert "2 cells: 2 failed" in text
    assert "gene_mean on toy: ValueError: no" in text


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["run", "no.yaml", "-o", "out"], 1, "there is no file"),
        (["run", "small.yaml", "-o", "out", "--shard", "3/2"], 1, "shard='3/2' cannot be used"),
        (["run", "small.yaml", "-o", "out", "--cell", "x"], 1, "there is no cell 'x'"),
        (["run", "small.yaml", "-o", "out", "--workers", "0"], 2, "--workers 0: give a number from 1"),
        (["run", "small.yaml", "-o", "small.yaml/out"], 1, "choose a place that can be written"),
        (["merge", "out", "-o", "whole"], 1, "is no folder of a benchmark"),
    ],
)
def test_errors_are_one_line(options, code, message, manifest, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*options) == code
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
