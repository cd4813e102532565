"""_core/memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

from spared_sc._core import memory


def test_what_fits_passes_and_the_rest_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 4 * 2**30)
    memory.check_memory("a.png", 2.9 * 2**30, "make it smaller.")
    with pytest.raises(
        ValueError, match=r"a.png needs 3.1 GiB of memory, .* of the 4.0 GiB that are available: make it smaller"
    ):
        memory.check_memory("a.png", 3.1 * 2**30, "make it smaller.")


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_the_limit_of_the_process_counts():
    code = (
        "import resource; from spared_sc._core import memory\n"
        "taken = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (taken + 2**29,) * 2); print(memory.available())"
    )
    found = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 0 < found <= 2**29


def test_the_limit_of_a_container_counts(monkeypatch, tmp_path):
    files = [tmp_path / name for name in ("max", "current", "stat")]
    for file, text in zip(files, ("5000", "3000", "anon 2000\ninactive_file 700\n"), strict=True):
        file.write_text(text)
    monkeypatch.setattr(memory, "_CGROUPS", (("/none", "/none", "/none"), tuple(map(str, files))))
    assert memory.available() == 5000 - 3000 + 700
    files[0].write_text("max\n")
    assert memory.available() > 10**6


def test_a_machine_that_does_not_tell(monkeypatch):
    for name in ("_of_machine", "_of_container", "_of_process"):
        monkeypatch.setattr(memory, name, lambda: None)
    assert memory.available() == 8 * 2**30
