"""Another process that holds the lock of a writer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_CODE = """
import sys, pathlib
from spared_sc._core.locks import only_writer
with only_writer(pathlib.Path(sys.argv[1])):
    print("writes", flush=True)
    sys.stdin.read()
"""


@contextmanager
def written_by_another(target: Path) -> Iterator[int]:
    """A process, given by its number, that writes to a place for the length of the block."""
    with subprocess.Popen(
        [sys.executable, "-c", _CODE, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "writes\n"
        yield other.pid
        other.stdin.close()
