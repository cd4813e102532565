"""Result files of the measurements: scripts write tables of rows, README and docs are filled in from them.

`results/<script>.json` holds the tables of one script. A table is a list of rows (plain values) and how it was measured:
commit, date, machine, versions. Text takes values from it by a request,

    completion.errors regime=detected set=VLO: {stack:.3f}

that is table, filters (`a|b` is either), and a format string over the row. Where several rows are left, `{stack.min:.3f}`
and `{stack.max:.3f}` are the extremes. A part in `[...]` is left out where one of its values is missing; `[...|none]`
has the text for that case.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("spared-sc", "anndata", "numpy", "scipy", "scikit-learn", "numba", "torch", "timm")

Row = Mapping[str, Any]


class Extremes(NamedTuple):
    """Smallest and largest value of a column."""

    min: float
    max: float


# --- writing ----------------------------------------------------------------------------------------------------------


def write(name: str, rows: Sequence[Row], *, folder: Path = FOLDER) -> None:
    """Put a table into its script's file, with commit, date, machine and versions, and print it."""
    script, table = name.split(".")
    path = folder / f"{script}.json"
    tables = json.loads(path.read_text()) if path.exists() else {}
    columns = list(dict.fromkeys(key for row in rows for key in row))
    tables[table] = {
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": _machine(),
        "versions": _versions(),
        "rows": [{key: _plain(row.get(key)) for key in columns} for row in rows],
    }
    folder.mkdir(exist_ok=True)
    path.write_text(_dump(tables))
    print(f"\n{name}")
    for row in tables[table]["rows"]:
        print(
            "  ".join(
                f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )


def _plain(value: Any) -> Any:
    """A value that JSON holds; missing ones as null, floats to six digits."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return None if value != value else float(f"{value:.6g}")
    return value


def _dump(tables: Mapping[str, Any]) -> str:
    """JSON with one row per line, so that a change of one number is a change of one line."""
    parts = []
    for name, table in tables.items():
        head = ",\n".join(f"    {json.dumps(key)}: {json.dumps(table[key])}" for key in table if key != "rows")
        rows = ",\n".join(f"      {json.dumps(row)}" for row in table["rows"])
        parts.append(f'  {json.dumps(name)}: {{\n{head},\n    "rows": [\n{rows}\n    ]\n  }}')
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _commit() -> str:
    """Short hash of the commit that is checked out, marked where files were changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=FOLDER.parent, check=True, capture_output=True, text=True
        ).stdout.strip()

    try:
        commit, changed = git("rev-parse", "--short=7", "HEAD"), git("status", "--porcelain", "--", "../src")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{commit}, changed" if changed else commit


def _machine() -> dict[str, Any]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {"cores": cores, "cpu": _cpu(), "gpu": gpu}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*:\s*(.+)$", info.read_text(), flags=re.MULTILINE) if info.exists() else None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


# --- reading ----------------------------------------------------------------------------------------------------------


def read(request: str, *, folder: Path = FOLDER) -> list[Row]:
    """Rows of a table: `"completion.errors regime=detected"`."""
    name, *filters = request.split()
    rows = _table(name, folder)["rows"]
    for text in filters:
        key, _, wanted = text.partition("=")
        rows = [row for row in rows if str(row.get(key)).replace(" ", "_") in wanted.split("|")]
    if not rows:
        raise KeyError(f"no row of {request!r}")
    return rows


def fill(request: str, *, folder: Path = FOLDER) -> str:
    """Text of a request: table, filters and a format string."""
    where, _, template = request.partition(":")
    rows = read(where, folder=folder)
    if len(rows) == 1:
        return _format(template.strip(), rows[0])
    columns = {key: [row[key] for row in rows if isinstance(row.get(key), int | float)] for key in rows[0]}
    return _format(template.strip(), {key: Extremes(min(v), max(v)) for key, v in columns.items() if v})


def markdown(request: str, layout: str, *, folder: Path = FOLDER) -> str:
    """A Markdown table: a line of `layout` per column, `header = format string`."""
    columns = [[part.strip() for part in line.split(" = ", 1)] for line in layout.strip().splitlines()]
    lines = [[header for header, _ in columns], ["---"] * len(columns)]
    lines += [[_format(cell, row) for _, cell in columns] for row in read(request, folder=folder)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def source(name: str, *, folder: Path = FOLDER) -> str:
    """How a table was measured, in words."""
    table = _table(name.split()[0], folder)
    machine = table["machine"]
    parts = [f"{machine['cores']} CPU cores" + (f" ({machine['cpu']})" if machine.get("cpu") else "")]
    parts += [machine["gpu"]] if machine.get("gpu") else []
    script = name.partition(".")[0]
    return f"`measurements/{script}.py`, commit `{table['commit']}`, {table['date']}, {', '.join(parts)}."


def _table(name: str, folder: Path) -> dict[str, Any]:
    script, _, table = name.partition(".")
    path = folder / f"{script}.json"
    tables = json.loads(path.read_text()) if path.exists() else {}
    if table not in tables:
        raise KeyError(f"no results {name!r}; {path.name} has: {', '.join(tables) or 'nothing'}")
    return tables[table]


def _format(template: str, row: Row) -> str:
    def optional(match: re.Match[str]) -> str:
        shown, _, otherwise = match[1].partition("|")
        names = re.findall(r"{(\w+)", shown)
        return otherwise if any(row.get(name) is None for name in names) else shown

    return re.sub(r"\[([^\]]*)\]", optional, template).format(**row)
