"""Small benchmarks on made-up sections, and what they leave in their folders."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

SMALL: dict[str, Any] = {
    "datasets": [
        {"name": "toy", "synthetic": {"n_libraries": 3, "shape": [7, 7], "n_genes": 50}, "genes": 8, "source": "drawn"}
    ],
    "features": {"classical": {"encoder": "classical", "size": 1}},
    "targets": [{"target": "log2tpm", "loss": "all"}],
    "models": [
        "gene_mean",
        "position_only",
        "ridge",
        {"model": "head", "params": {"n_steps": 4, "validate_every": 2}},
    ],
    "completion": {"methods": ["gene_mean", "median"], "masks": 1},
}


def write_manifest(folder: Path, manifest: dict[str, Any] = SMALL, **changes: Any) -> Path:
    """A manifest in a folder, with other values for some keys; `None` leaves a key out."""
    path = folder / "small.yaml"
    content = {name: value for name, value in {**manifest, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def hash_of_scores(out: Path) -> str:
    return hashlib.sha256((out / "scores.parquet").read_bytes()).hexdigest()


def finished(out: Path) -> list[str]:
    """Cells that are there."""
    return sorted(path.stem for path in (out / "cells").glob("*.parquet"))


def start(manifest: Path, out: Path, *options: str, **given: Any) -> subprocess.Popen[str]:
    """`spared-sc benchmark run` in a process of its own."""
    code = "import sys; from spared_sc.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "benchmark", "run", str(manifest), "-o", str(out), *options]
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": _interruptible}
    return subprocess.Popen(command, **{**usual, **given})


def _interruptible() -> None:
    """A shell lets processes in the background ignore interrupts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_until(done: Any, seconds: float = 120) -> None:
    """Wait until a function gives something true."""
    until = time.monotonic() + seconds
    while not done():
        if time.monotonic() > until:
            raise TimeoutError("it did not happen")
        time.sleep(0.02)


def workers_of(process: int) -> list[int]:
    """Processes below a process, in all generations."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if parent == process:
            child = int(path.parent.name)
            found += [child, *workers_of(child)]
    return found


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
