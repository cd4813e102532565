"""Thousands of random inputs through the whole public API: how many are right, refused, or neither.

    python measurements/fuzz.py --minutes 60        5,000 inputs of each area, as far as the time goes

Sections, images, prediction, saved models and SpatialData objects (`tests/fuzz`), section folders
(`tests/datasets/test_read_visium_fuzz.py`) and image files (`tests/images/test_source_fuzz.py`), fifty of each in turn.
Results are written after every turn; the same commit goes on where it stopped. What is neither right nor refused is
printed. The number of an input repeats it:
`SPARED_SC_FUZZ=1 SPARED_SC_FUZZ_SEED=<number> pytest tests/test_fuzz.py`.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _results
import matplotlib as mpl

if TYPE_CHECKING:
    from collections.abc import Callable

TESTS = Path(__file__).parents[1] / "tests"
AT_ONCE = 50
# Damaged bytes of formats without checksums are other pixels, which all readers give alike.
OUTCOMES = ("right", "refused", "other pixels", "stray exception", "silent wrong result", "changed input")
Row = dict[str, Any]


def from_file(name: str) -> Any:
    """A module of the tests that stands in no package."""
    spec = util.spec_from_file_location(name.replace("/", "_"), TESTS / f"{name}.py")
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def areas() -> dict[str, Callable[[int, Path], str]]:
    """How an input of every area is tried; the outcome in a word."""
    sys.path.insert(0, str(TESTS))
    from fuzz.areas import AREAS, try_one

    def of_api(area: str) -> Callable[[int, Path], str]:
        return lambda number, folder: "right" if try_one(area, number, folder)[1].error is None else "refused"

    folders, images = from_file("datasets/test_read_visium_fuzz"), from_file("images/test_source_fuzz")
    return {area: of_api(area) for area in AREAS} | {
        "folders": folders.try_whole,
        "damaged folders": folders.try_damaged,
        "image files": images.try_whole,
        "damaged image files": images.try_damaged,
    }


def tried(try_it: Callable[[int, Path], str], number: int) -> tuple[str, str]:
    """Outcome of one input, and what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return try_it(number, Path(folder)), ""
        except Exception as error:  # noqa: BLE001 - every kind is what this is about
            kind = getattr(
                error, "kind", "silent wrong result" if isinstance(error, AssertionError) else "stray exception"
            )
            notes = " ".join(getattr(error, "__notes__", []))
            where = traceback.extract_tb((error.__cause__ or error).__traceback__)[-1]
            return kind, f"{where.filename.rpartition('spared_sc/')[2]}:{where.lineno} {error!s:.400} {notes:.600}"


def former(commit: str) -> dict[str, Row]:
    """Results so far, where the same commit has some."""
    with contextlib.suppress(KeyError):
        table = _results._table("fuzz.areas", _results.FOLDER)
        if table["commit"] == commit:
            return {row["area"]: dict(row) for row in table["rows"]}
    return {}


def main() -> None:
    """Try as many as the time allows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=5000, help="of each area")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--areas", nargs="*", help="all by default")
    parser.add_argument("--restart", action="store_true", help="forget the results so far")
    arguments = parser.parse_args()
    mpl.use("Agg")
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    rows = {} if arguments.restart else former(_results._commit())
    known, end = areas(), time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for start in range(arguments.first, arguments.first + arguments.inputs, AT_ONCE):
            for area in arguments.areas or known:
                row = rows.setdefault(
                    area, {"area": area, "next": arguments.first, "tried": 0, **dict.fromkeys(OUTCOMES, 0)}
                )
                for number in range(max(start, row["next"]), min(start + AT_ONCE, arguments.first + arguments.inputs)):
                    if time.monotonic() > end:
                        return
                    outcome, text = tried(known[area], number)
                    row["next"], row["tried"] = number + 1, row["tried"] + 1
                    row[outcome] += 1
                    if text:
                        print(f"\n{area} {number}: {outcome}: {text}", flush=True)
            write(rows)


def write(rows: dict[str, Row]) -> None:
    """Results so far, without printing them all."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        _results.write("fuzz.areas", list(rows.values()))
    print(*(f"{row['area']} {row['tried']}" for row in rows.values()), sep=", ", flush=True)


if __name__ == "__main__":
    main()
