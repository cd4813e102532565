"""Downloads: interrupted, resumed, refused, full disks."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.server import CONTENT, Handler, Server, sha256
from spared_sc._core import download
from spared_sc._core.download import fetch, read_text

if TYPE_CHECKING:
    from collections.abc import Callable
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
    assert fetch(f"{server.url}/empty", target, known_hash=sha256(b"")).read_bytes() == b""


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


def chunked(content: bytes, *, whole: bool) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + (b"\r\n0\r\n\r\n" if whole else b"\r\n")


def loris(answer: Handler) -> None:
    answer.head(Content_Length=str(len(CONTENT)))
    with contextlib.suppress(OSError):
        for at in range(2000):
            answer.wfile.write(CONTENT[at : at + 1])
            answer.wfile.flush()
            time.sleep(0.005)


def sends(content: bytes, status: int = 200, **headers: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        handler.head(status, Connection="close", **headers)
        handler.wfile.write(content)

    return answer


PAGE = b"<!DOCTYPE html><html>log in to this network</html>"
BAD = {  # answer, and what is said of it without a hash
    "cut without a length": (sends(CONTENT[:1000]), "does not say how long it is"),
    "whole without a length": (sends(CONTENT), "does not say how long it is"),
    "length is no number": (sends(CONTENT[:1000], Content_Length="abc"), "does not say how long it is"),
    "negative length": (sends(CONTENT[:1000], Content_Length="-5"), "does not say how long it is"),
    "cut": (sends(CONTENT[:1000], Content_Length=str(len(CONTENT))), "check the network"),
    "cut between two chunks": (
        sends(chunked(CONTENT[:1000], whole=False), Transfer_Encoding="chunked"),
        "check the network",
    ),
    "page": (sends(PAGE, Content_Length=str(len(PAGE))), "it is a web page"),
    "empty": (sends(b"", Content_Length="0"), "it is empty"),
    "nothing": (sends(b"", 204), "the answer is 204"),
    "not changed": (sends(b"", 304), "the answer is 304"),
    "redirect in a circle": (sends(b"", 302, Location="/bad", Content_Length="0"), "the server refuses it"),
    "redirect to this machine": (
        sends(b"", 302, Location="file:///etc/hostname", Content_Length="0"),
        "check the network",
    ),
    "one byte at a time": (loris, "bytes came in 0.2 s"),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_are_never_kept(
    server: Server, target: Path, kind: str, known: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "_WAITS", (0.0,))
    monkeypatch.setattr(download, "_SLOW", (0.2, 2**16))
    answer, message = BAD[kind]
    server.answers["/bad"] = answer
    target.parent.mkdir()
    target.write_bytes(b"old")
    if known and kind in ("whole without a length",):
        assert fetch(f"{server.url}/bad", target, known_hash=sha256(CONTENT)).read_bytes() == CONTENT
        return
    with pytest.raises(
        (ConnectionError, ValueError),
        match=r"not the expected file"
        if known and "length" in kind or known and kind in ("page", "empty")
        else message,
    ):
        fetch(f"{server.url}/bad", target, known_hash=sha256(CONTENT) if known else None)
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize("known_hash", [sha256(CONTENT), None])
def test_chunked_and_compressed_answers(server: Server, target: Path, known_hash: str | None):
    packed = gzip.compress(CONTENT)
    server.answers["/a.bin"] = sends(chunked(CONTENT, whole=True), Transfer_Encoding="chunked")
    server.answers["/b.bin"] = sends(packed, Content_Length=str(len(packed)), Content_Encoding="gzip")
    for name in ("a.bin", "b.bin"):
        assert fetch(f"{server.url}/{name}", target, known_hash=known_hash).read_bytes() == CONTENT


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.jpg", "a.png", "a.h5"])
def test_kind_without_a_hash(server: Server, tmp_path: Path, name: str):
    server.files[f"/{name}"] = b'{"error": "try later"}'
    with pytest.raises(ConnectionError, match=r"does not begin as a .*get the file in another way"):
        fetch(f"{server.url}/{name}", tmp_path / name, known_hash=None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (sends(b"x" * 10, Content_Length="20"), "10 bytes read, 10 more expected|it ended after 10 of 20 bytes"),
        (sends(b"x" * (2**24 + 1)), "no short text"),
        (sends(b"", 204), "the answer is 204"),
    ],
)
def test_bad_texts(server: Server, answer, message: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_WAITS", ())
    server.answers["/t"] = answer
    with pytest.raises(ConnectionError, match=message):
        read_text(f"{server.url}/t")


def test_cache_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(download, "_temporary", {})
    (tmp_path / "file").write_bytes(b"x")
    with sp.settings.override(cache_dir=tmp_path / "cache"):
        assert download.cache_folder("a") == tmp_path / "cache" / "a"
    with sp.settings.override(cache_dir=tmp_path / "file" / "cache"):
        first, again = download.cache_folder("a"), download.cache_folder("a")
    assert first == again
    assert list(first.iterdir()) == []
    assert caplog.text.count("cannot be written") == 1
    assert "sp.settings.cache_dir" in caplog.text


@posix
def test_two_processes_download_once(server: Server, target: Path):
    """The second one waits, and finds the file."""
    server.hold = 300_000
    part = target.with_name("a.bin.part")
    with start(server, target) as first:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (part.exists() and part.stat().st_size > 100_000):
            time.sleep(0.01)
        with start(server, target) as second:
            time.sleep(3)
            server.hold = len(CONTENT)
            assert "Error" not in second.communicate(timeout=60)[1]
        first.communicate(timeout=60)
    assert first.returncode == second.returncode == 0
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]
    assert len(server.asked) == 1


def tagged(handler: Handler, tag: str, content: bytes = CONTENT, cut: int | None = None) -> None:
    """An answer as of servers that give versions, and parts of the same version only."""
    wanted, asked_for = handler.headers.get("Range"), handler.headers.get("If-Range")
    start = int(wanted[6:-1]) if wanted and asked_for == tag else 0
    handler.head(206 if start else 200, Content_Length=str(len(content) - start), ETag=tag)
    handler.wfile.write(content[start:cut])


def test_a_version_proves_that_parts_belong_together(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_WAITS", ())
    server.answers["/a.bin"] = lambda handler: tagged(handler, '"1"', cut=300_000)
    with pytest.raises(ConnectionError, match="try again"):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert inside(target) == ["a.bin.part", "a.bin.part.version"]
    server.answers["/a.bin"] = lambda handler: tagged(handler, '"1"')
    fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert server.asked[-1] == ("/a.bin", "bytes=300000-")
    assert target.read_bytes() == CONTENT
    assert inside(target) == ["a.bin"]


@pytest.mark.parametrize("first", ['"1"', 'W/"2"', ""])
def test_another_version_is_downloaded_anew(server: Server, target: Path, first: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "_WAITS", ())
    server.answers["/a.bin"] = lambda handler: tagged(handler, first, b"x" * len(CONTENT), 300_000)
    with pytest.raises(ConnectionError, match="try again"):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    server.answers["/a.bin"] = lambda handler: tagged(handler, '"2"')
    assert fetch(f"{server.url}/a.bin", target, known_hash=None).read_bytes() == CONTENT
    server.answers["/b.bin"] = lambda handler: tagged(handler, '"2"')
    target.with_name("a.bin.part").write_bytes(b"y" * 400_000)  # of another address, with the same version
    target.with_name("a.bin.part.version").write_text(f'{server.url}/a.bin\n"2"')
    assert fetch(f"{server.url}/b.bin", target, known_hash=None).read_bytes() == CONTENT


def test_busy_server_says_when_to_come_back(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    waited: list[float] = []
    monkeypatch.setattr(download.time, "sleep", waited.append)

    def busy(after: str) -> Callable[[Handler], None]:
        def answer(handler: Handler) -> None:
            del server.answers["/a.bin"]
            handler.head(429, Retry_After=after, Content_Length="0")

        return answer

    server.answers["/a.bin"] = busy("7")
    assert fetch(f"{server.url}/a.bin", target, known_hash=None).read_bytes() == CONTENT
    assert max(waited) == 7.0
    server.answers["/a.bin"] = busy(formatdate(time.time() + 50, usegmt=True))
    fetch(f"{server.url}/a.bin", target.with_name("b.bin"), known_hash=None)
    assert 40 < max(waited) <= 50
    server.answers["/a.bin"] = busy("3600")
    with pytest.raises(ConnectionError, match=r"the server asks to wait for 3600 s; try again then"):
        fetch(f"{server.url}/a.bin", target.with_name("c.bin"), known_hash=None)
    assert inside(target) == ["a.bin", "b.bin"]


def test_firewall_that_answers_nothing(server: Server, target: Path):
    server.answers["/a.bin"] = sends(b"", 202, Content_Length="0")
    with pytest.raises(ConnectionError, match=r"the answer is 202 Accepted, without a file, as of a firewall.*browser"):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert len(server.asked) == 1
    assert inside(target) == []


def test_full_disk_is_seen_before_the_download(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: SimpleNamespace(free=len(CONTENT) - 1))
    with pytest.raises(
        OSError, match=r"a.bin.part cannot be written .*1,000,003 bytes are to come, and 1,000,002 are free"
    ):
        fetch(f"{server.url}/a.bin", target, known_hash=None)
    assert inside(target) == []
    target.with_name("a.bin.part").write_bytes(CONTENT[:10])  # a part that is there needs no space again
    assert fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT)).read_bytes() == CONTENT


def test_a_download_can_be_stopped_and_goes_on_later(server: Server, target: Path):
    stop = threading.Event()
    stop.set()
    with pytest.raises(download.StoppedError):
        fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT), stop=stop)
    assert 0 < target.with_name("a.bin.part").stat().st_size < len(CONTENT)
    assert fetch(f"{server.url}/a.bin", target, known_hash=sha256(CONTENT)).read_bytes() == CONTENT
    assert server.asked[-1][1] is not None


def test_read_text(server: Server):
    server.files["/t"] = "größe".encode()
    server.statuses = [503]
    assert read_text(f"{server.url}/t") == "größe"


def test_several_at_once(server: Server, target: Path):
    """One downloads, the others wait and find the file."""
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
    assert len(server.asked) == 1


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
        assert inside(target) == [".a.bin.lock", "a.bin.part"]  # the lock itself ended with the process
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
