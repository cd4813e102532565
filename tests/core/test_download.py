"""Downloads: interrupted, resumed, refused, full disks."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.server import CONTENT, Server, sha256
from spared_sc._core import download
from spared_sc._core.download import fetch, read_text

if TYPE_CHECKING:
    from pathlib import Path


posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.bin"


def inside(path: Path) -> list[str]:
    return sorted(found.name for found in path.parent.iterdir()) if path.parent.exists() else []


@pytest.mark.parametrize("known_hash", [sha256(CONTENT), sha256(CONTENT).removeprefix("sha256:").upper(), None])
def test_complete_file(server: Server, target: Path, known_hash: str | None):
    assert fetch(f"{server.url}/a.bin", target, known_hash=known_hash) == target
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]
    assert server.asked == [("/a.bin", None)]


def test_md5_and_empty_file(server: Server, target: Path):
    server.files["/empty"] = b""
    fetch(f"{server.url}/a.bin", target, known_hash="md5:" + hashlib.md5(CONTENT).hexdigest())
    assert target.read_bytes() == CONTENT
    assert fetch(f"{server.url}/empty", target, known_hash=None).read_bytes() == b""


@pytest.mark.parametrize("ranges", [True, False])
def test_interrupted_in_the_middle(server: Server, target: Path, ranges: bool, caplog: pytest.LogCaptureFixture):
    server.ranges, server.cuts = ranges, [300_000, 200_000]
    with caplog.at_level(logging.INFO, "spared_sc"):
        fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.asked]
    assert len(starts) == 3
    assert 0 == starts[0] < starts[1] <= 300_000
    assert starts[1] < starts[2] <= 500_000 if ranges else starts[2] <= 300_000
    assert caplog.text.count("trying again") == 2


def test_without_a_hash_every_attempt_is_a_new_one(server: Server, target: Path):
    server.cuts = [300_000]
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(b"x" * 2_000_000)  # of another version, and longer
    fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert server.asked == [("/a.bin", None)] * 2
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]


@pytest.mark.parametrize(
    ("left", "ranges_asked"),
    [
        (CONTENT[:400_000], ["bytes=400000-"]),
        (CONTENT, []),  # only the last step was missing
        (b"", [None]),
        (b"something else", ["bytes=14-", None]),
        (CONTENT + b"more", [f"bytes={len(CONTENT) + 4}-", None]),  # nothing is left to send: 416
    ],
)
def test_what_an_earlier_call_left(server: Server, target: Path, left: bytes, ranges_asked: list):
    target.parent.mkdir()
    target.with_name("a.bin.part").write_bytes(left)
    fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]
    assert [wanted for _, wanted in server.asked] == ranges_asked


@pytest.mark.parametrize("old", [None, b"old"])
def test_wrong_hash_leaves_nothing(server: Server, target: Path, old: bytes | None):
    if old is not None:
        target.parent.mkdir()
        target.write_bytes(old)
    with pytest.raises(ValueError, match=r"a.bin is not the expected file.*sha256:.*deleted.*try again"):
        fetch(f"{server.url}/a.bin", target, known_hash=sha256(b"another"))
    assert inside(target) == ([] if old is None else ["a.bin"])
    assert old is None or target.read_bytes() == old
    assert len(server.asked) == 1


def test_right_file_is_not_fetched_again_and_another_one_replaced(server: Server, target: Path):
    target.parent.mkdir()
    target.write_bytes(b"old")
    for _ in range(2):
        fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
        assert target.read_bytes() == CONTENT
    assert len(server.asked) == 1


@pytest.mark.parametrize(("statuses", "n_asked"), [([], 1), ([403], 1), ([503, 429, 500, 502], 4)])
def test_refused(server: Server, target: Path, statuses: list[int], n_asked: int):
    server.statuses = statuses
    with pytest.raises(ConnectionError, match=r"none.bin could not be downloaded \(\d+ .*(another way|try again)"):
        fetch(f"{server.url}/none.bin", target, known_hash=None)
    assert len(server.asked) == n_asked
    assert inside(target) == []


def test_busy_server_is_asked_again(server: Server, target: Path):
    server.statuses = [503, 429]
    fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("known_hash", [sha256(CONTENT), None])
def test_server_always_closes_early(server: Server, target: Path, known_hash: str | None):
    server.cuts = [200_000] * 4
    server.ranges = False
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(ConnectionError, match=r"could not be downloaded.*check the network connection and try again"):
        fetch(f"{server.url}/a.bin", target, known_hash=known_hash)
    assert target.read_bytes() == b"old"
    assert inside(target) == ["a.bin", "a.bin.part"]
    server.ranges = True
    fetch(f"{server.url}/a.bin", target, known_hash=known_hash)
    assert target.read_bytes() == CONTENT
    assert (server.asked[-1][1] is None) == (known_hash is None)


def test_no_server(target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_WAITS", (0.0,))
    with Server() as closed:
        url = closed.url
    with pytest.raises(ConnectionError, match="check the network connection"):
        fetch(f"{url}/a.bin", target, known_hash=None)
    with pytest.raises(ConnectionError, match="check the network connection"):
        read_text(f"{url}/a.txt")
    assert inside(target) == []


def test_read_text(server: Server):
    server.files["/t"] = "größe".encode()
    server.statuses = [503]
    assert read_text(f"{server.url}/t") == "größe"


def test_several_at_once(server: Server, target: Path):
    """They share one part file, and write the same bytes to the same places."""
    server.pause = 0.002
    failures: list[BaseException] = []

    def run(delay: float) -> None:
        time.sleep(delay)
        try:
            fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=run, args=(0.01 * i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not failures
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]


def test_progress_bar(server: Server, target: Path, capsys: pytest.CaptureFixture):
    with sp.settings.override(show_progress_bar=True):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert re.search(r"a\.bin: .*B/s", capsys.readouterr().err)


def test_folder_that_cannot_be(server: Server, tmp_path: Path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError, match=r"a.bin cannot be written .*sp.settings.cache_dir.*SPARED_SC_CACHE_DIR"):
        fetch(f"{server.url}/a.bin", tmp_path / "file" / "a.bin", known_hash=None)
    assert server.asked == []


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")
def test_read_only_folder(server: Server, target: Path):
    target.parent.mkdir()
    target.parent.chmod(0o555)
    with pytest.raises(PermissionError, match=r"a.bin.part cannot be written .*SPARED_SC_CACHE_DIR"):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    target.parent.chmod(0o755)


RUN = """
import sys
from pathlib import Path
from spared_sc._core.download import fetch
{before}
fetch(sys.argv[1], Path(sys.argv[2]), known_hash=sys.argv[3])
"""


def start(server: Server, target: Path, before: str = "") -> subprocess.Popen:
    arguments = [f"{server.url}/a.bin", str(target), sha256(CONTENT)]
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(before=before), *arguments], stderr=subprocess.PIPE, text=True
    )


@posix
def test_full_disk(server: Server, target: Path):
    """A limit on the size of files stands in for the disk."""
    target.parent.mkdir()
    target.write_bytes(b"old")
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    with start(server, target, limit) as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.search(r"OSError: .*a.bin.part cannot be written \(.*free some space", errors)
    assert target.read_bytes() == b"old"
    fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.asked[-1][1] is not None  # what was written before is of use


def test_keyboard_interrupt(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    class Bar:
        n = 0

        def __enter__(self):
            return self

        def __exit__(self, *args):
            return None

        def update(self, n: int) -> None:
            self.n += n
            if self.n > 400_000:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(download, "progress_bar", lambda **kwargs: Bar())
        with pytest.raises(KeyboardInterrupt):
            fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
    assert inside(target) == ["a.bin.part"]
    fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT))
    assert target.read_bytes() == CONTENT
    assert int(server.asked[-1][1][6:-1]) > 400_000


@posix
def test_killed_again_and_again(server: Server, target: Path):
    part = target.with_name("a.bin.part")
    for hold in (0, 300_000, 800_000):
        server.hold = hold
        least = hold - download._BLOCK - 2**16  # blocks are written when they are complete
        with start(server, target) as process:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not (part.exists() and part.stat().st_size >= least):
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert inside(target) == ["a.bin.part"]
        assert CONTENT.startswith(part.read_bytes())
    server.hold = len(CONTENT)
    with start(server, target) as process:
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]
    starts = [int(wanted[6:-1]) if wanted else 0 for _, wanted in server.asked]
    assert starts == sorted(starts)
    assert starts[-1] >= 600_000
