"""Checksums of downloaded files: recorded on the first download where none is public, and compared ever after."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from spared_sc._core.download import writing
from spared_sc._core.locks import only_writer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_ONE = threading.Lock()  # downloads of one call end at once, and need not wait as for another process
SUMS = "SHA256SUMS"  # in the format of sha256sum, which can check it as well


def recorded(folder: Path) -> dict[str, str]:
    """Path below a folder -> sha256 that was recorded for it."""
    file = folder / SUMS
    if not file.is_file():
        return {}
    lines = (line.split("  ", 1) for line in file.read_text(encoding="utf-8").splitlines() if "  " in line)
    return {path: digest for digest, path in lines}


def remember(folder: Path, digests: dict[str, str]) -> None:
    """Add sha256 sums to those of a folder, or replace them."""
    _change(folder, lambda sums: sums | digests)


def forget(folder: Path, path: str) -> None:
    """Remove the sum of a file that is no longer wanted."""
    _change(folder, lambda sums: {name: digest for name, digest in sums.items() if name != path})


def _change(folder: Path, change: Callable[[dict[str, str]], dict[str, str]]) -> None:
    file = folder / SUMS
    with _ONE, writing(file), only_writer(file):
        part = file.with_name(f"{file.name}.part")
        lines = [f"{digest}  {path}\n" for path, digest in sorted(change(recorded(folder)).items())]
        part.write_text("".join(lines), encoding="utf-8")
        part.replace(file)


def sha256_of(path: Path) -> str:
    """Hexadecimal sha256 of a file."""
    import pooch

    return str(pooch.file_hash(path, alg="sha256"))
