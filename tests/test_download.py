from __future__ import annotations

import hashlib
import importlib
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc as sp
from spared_sc._core import download, genes
from spared_sc._core.download import fetch, read_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONTENT = np.random.default_rng(0).bytes(1_000_003)
posix = pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals and limits")


def sha256(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves bytes from memory, as badly as it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.files = {"/a.bin": CONTENT}
        self.asked: list[tuple[str, str | None]] = []  # path and Range of every request
        self.ranges = True
        self.statuses: list[int] = []  # answers to the next requests
        self.cuts: list[int] = []  # bytes after which the next answers break off
        self.pause = 0.0  # seconds after every 64 kB
        self.hold = len(CONTENT)  # nothing is sent from here on, until it is moved

    def handle_error(self, request, client_address) -> None:
        """A client that goes away is what some tests are about."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append((self.path, wanted))
        content = server.files.get(self.path.partition("?")[0])
        status = server.statuses.pop(0) if server.statuses else 200 if content is not None else 404
        if status != 200:
            self.send_error(status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and server.ranges else 0
        if start >= len(content) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        end = start + server.cuts.pop(0) if server.cuts else len(content)
        patience = time.monotonic() + 60
        for at in range(start, min(end, len(content)), 2**16):
            while at + 2**16 > server.hold < len(CONTENT) and time.monotonic() < patience:
                time.sleep(0.005)
            self.wfile.write(content[at : min(at + 2**16, end)])
            time.sleep(server.pause)
        self.close_connection = True

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_WAITS", (0.0, 0.0, 0.0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.shutdown()
        thread.join(timeout=10)


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
    with pytest.raises(ValueError, match=r"a.bin is not the file that was expected.*sha256:.*not kept.*try again"):
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


# --- disks and interruptions ------------------------------------------------------------------------------------


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


# --- what uses it -----------------------------------------------------------------------------------------------

GTF = (
    'chr1\tx\texon\t1\t50\t.\t+\t.\tgene_id "ENSG00000000001.1"; gene_name "A"; gene_type "lncRNA";\n'
    'chrM\tx\texon\t1\t70\t.\t+\t.\tgene_id "ENSG00000000002.1"; gene_name "MT-A"; gene_type "Mt_rRNA";\n'
)


def test_gencode_over_http(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gzip

    packed = gzip.compress(GTF.encode())
    digest = hashlib.md5(packed).hexdigest()
    server.files |= {"/r.annotation.gtf.gz": packed, "/MD5SUMS": f"{digest}  r.annotation.gtf.gz\n".encode()}
    monkeypatch.setitem(genes._GENCODE, "human", ("r", server.url))
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        tables = [sp.datasets.gene_lengths("human") for _ in range(2)]
    assert [path for path, _ in server.asked] == ["/MD5SUMS", "/r.annotation.gtf.gz"]
    assert [path.name for path in (tmp_path / "annotation").iterdir()] == ["r.gene_lengths.tsv.gz"]
    for table in tables:
        np.testing.assert_array_equal(table["length"], [50, np.nan])
    (tmp_path / "own.gtf").write_text(GTF)
    assert sp.datasets.gene_lengths(tmp_path / "own.gtf")["length"].tolist() == [50, 70]


@pytest.fixture
def collection(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Sections E1 and E2 on a server, a registry that knows one file of them, and an empty cache."""
    import gzip
    import io

    from PIL import Image

    module = importlib.import_module("spared_sc.datasets.her2_breast")
    for name in ("E1", "E2"):
        counts = f"\tA\t{name}\tC\n" + "".join(f"{x}x{y}\t{x}\t0\t{y}\n" for x in (1, 2, 3) for y in (1, 2))
        spots = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n" + "".join(
            f"{x}\t{y}\t{x}.01\t{y}.02\t{100 * x}.5\t{100 * y}\t1\n" for x in (1, 2, 3) for y in (1, 2)
        )
        server.files[f"/data/ST-cnts/{name}.tsv.gz"] = gzip.compress(counts.encode())
        server.files[f"/data/ST-spotfiles/{name}_selection.tsv"] = spots.encode()
    labels = "Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\n" + "".join(
        f"a\t{x - 0.2}\t{y + 0.3}\t1\t1\t{'tumour' if x > 1 else 'stroma'}\n" for x in (1, 2, 3) for y in (1, 2)
    )
    server.files["/data/ST-pat/lbl/E1_labeled_coordinates.tsv"] = (labels + "b\tNA\tNA\t1\t1\ttumour\n").encode()
    image = io.BytesIO()
    Image.new("RGB", (400, 300), (200, 150, 180)).save(image, "JPEG")
    server.files["/data/ST-imgs/E/E1/slide 7_E1.jpg"] = image.getvalue()
    server.files["/data/ST-imgs/E/E1/slide%207_E1.jpg"] = image.getvalue()
    server.files["/list/ST-imgs/E/E1"] = json.dumps([{"name": "slide 7_E1.jpg"}, {"name": "README"}]).encode()
    known = {"ST-cnts/E1.tsv.gz": sha256(server.files["/data/ST-cnts/E1.tsv.gz"])}
    monkeypatch.setattr(module, "_URL", f"{server.url}/data")
    monkeypatch.setattr(module, "_LIST_URL", f"{server.url}/list")
    monkeypatch.setattr(module, "_registry", lambda: known)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "cache"):
        yield server


def test_her2st_is_downloaded_once(collection: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "spared_sc"):
        adata = sp.datasets.her2st(["E1", "E2"])
    assert "no checksum is on record for 'ST-spotfiles/E1_selection.tsv'" in caplog.text
    assert "'ST-cnts/E1.tsv.gz'" not in caplog.text
    assert adata.shape == (12, 2)
    assert adata.var_names.tolist() == ["A", "C"]
    assert adata.obs["label"].tolist()[:6] == ["stroma"] * 2 + ["tumour"] * 4
    assert adata.obs["label"].isna().sum() == 6
    assert set(adata.obs["subject"]) == {"E"}
    n_asked = len(collection.asked)
    assert n_asked == 5
    collection.files.clear()  # offline from here on
    again = sp.datasets.her2st("E1")
    np.testing.assert_array_equal(again.obsm["spatial"], adata.obsm["spatial"][:6])
    outer = sp.datasets.her2st(["E1", "E2"], join="outer", labels=False)
    assert outer.var_names.tolist() == ["A", "E1", "C", "E2"]
    assert "label" not in outer.obs
    assert len(collection.asked) == n_asked
    assert sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()) == sorted(
        ["E1.tsv.gz", "E2.tsv.gz", "E1_selection.tsv", "E2_selection.tsv", "E1_labeled_coordinates.tsv"]
    )


def test_her2st_images_are_found_on_the_server(collection: Server):
    adata = sp.datasets.her2st("E1", images=True)
    slot = adata.uns["spatial"]["E1"]
    assert slot["images"]["hires"].shape == (300, 400, 3)
    assert slot["metadata"]["source_image_path"].endswith("slide 7_E1.jpg")
    collection.files.clear()
    sp.datasets.her2st("E1", images=True)
    with pytest.raises(ConnectionError, match=r"3 files .*'ST-imgs/E/E2/\*.jpg'.*SPARED_SC_DATA_DIR"):
        sp.datasets.her2st("E2", images=True)


def test_her2st_image_folder_of_the_user(collection: Server, tmp_path: Path):
    for name in ("one.jpg", "._one.jpg", "two.jpg"):
        path = tmp_path / "data" / "her2st" / "data" / "ST-imgs" / "E" / "E1" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(collection.files["/data/ST-imgs/E/E1/slide 7_E1.jpg"])
    with sp.settings.override(data_dir=tmp_path / "data"):
        with pytest.raises(ValueError, match=r"E1 holds several images \('one.jpg', 'two.jpg'\)"):
            sp.datasets.her2st("E1", images=True)
        path.unlink()
        adata = sp.datasets.her2st("E1", images=True)
    assert adata.uns["spatial"]["E1"]["metadata"]["source_image_path"] == str(path.with_name("one.jpg"))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"[]", "lists nothing instead of one image"), (b"<html>", "does not list"), (b'{"message": 1}', "does not list")],
)
def test_her2st_server_without_an_image(collection: Server, answer: bytes, reason: str):
    collection.files["/list/ST-imgs/E/E1"] = answer
    with pytest.raises(ConnectionError, match=rf"1 files .*{reason}"):
        sp.datasets.her2st("E1", images=True)


def test_her2st_offline_names_files_and_folder(collection: Server, tmp_path: Path):
    collection.files.clear()
    with pytest.raises(ConnectionError) as caught:
        sp.datasets.her2st("E")
    for part in ("ST-cnts/E1.tsv.gz", "ST-spotfiles/E3_selection.tsv", str(tmp_path), "SPARED_SC_DATA_DIR", "7 files"):
        assert part in str(caught.value)


def test_her2st_with_the_wrong_content(collection: Server, tmp_path: Path):
    collection.files["/data/ST-cnts/E1.tsv.gz"] = b"<html>log in</html>"
    with pytest.raises(ValueError, match=r"E1.tsv.gz is not the file that was expected"):
        sp.datasets.her2st("E1")
    collection.files["/data/ST-cnts/E2.tsv.gz"] = b"<html>log in</html>"  # no hash: found out when it is read
    with pytest.raises(ValueError, match=r"E2.tsv.gz cannot be read .*download or copy it again"):
        sp.datasets.her2st("E2")
    assert not (tmp_path / "cache" / "her2st" / "ST-cnts" / "E1.tsv.gz").exists()
