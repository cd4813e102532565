"""Finding, downloading and checking files, from servers as they are."""

from __future__ import annotations

import re
import shutil
import threading
import time
from typing import TYPE_CHECKING

import pytest

import spared_sc as sp
from helpers.repositories import Repositories, below, play, space_ranger, tar_of, truth_of, zip_of
from spared_sc._core import download
from spared_sc.datasets import _archives, _store
from spared_sc.datasets._catalogue import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from helpers.server import Handler, Server

PAGE = b"<!DOCTYPE html><html>please log in</html>"
DATA = "https://data.mendeley.com/public-files/datasets/xjtv62ncwr/files/d2386c24-a17f-4ea7-b3e5-bc5091c3d1c3/file_downloaded"


@pytest.fixture
def vko(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repositories]:
    """VKO on a server, and an empty cache."""
    with sp.settings.override(data_dir=None, cache_dir=tmp_path / "cache"):
        yield play(server, monkeypatch, "VKO")


def unlisted(repositories: Repositories) -> None:
    """Take the public interface of Mendeley Data away: there are no checksums then."""
    for place in (repositories.server.files, repositories.server.answers):
        for path in [path for path in place if "public-api/datasets" in path]:
            del place[path]


def answers(status: int, content: bytes = b"", **headers: str) -> Callable[[Handler], None]:
    def answer(handler: Handler) -> None:
        handler.head(status, **({"Content_Length": str(len(content))} | headers))
        handler.wfile.write(content)

    return answer


def slow(handler: Handler) -> None:
    handler.head(Content_Length="1000000")
    for _ in range(200):
        try:
            handler.wfile.write(b"x")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.01)


BAD = {  # answer, and what is said of it
    "nothing, as of a firewall": (answers(202), "the answer is 202 Accepted, without a file, as of a firewall"),
    "page": (answers(200, PAGE), "it is a web page|is not the expected file"),
    "empty": (answers(200), "it is empty|is not the expected file"),
    "forbidden": (answers(403), "403 Client Error"),
    "not there": (answers(404), "404 Client Error"),
    "busy for an hour": (answers(429, Retry_After="3600"), "the server asks to wait for 3600 s"),
    "cut in the middle": (answers(200, b"\x1f\x8b" * 500, Content_Length="5000"), "try again"),
    "another file": (answers(200, b"\x1f\x8bsomething else"), "is not the expected file|data.tar.gz cannot be read"),
    "slow": (slow, "bytes came in 0.2 s"),
    "redirect in a circle": (answers(302, Location=DATA.replace("https://", "/")), "redirects"),
}


@pytest.mark.parametrize("listed", [True, False], ids=["hash", "no hash"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_answers_leave_nothing_that_is_taken_for_whole(
    vko: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, listed: bool
):
    monkeypatch.setattr(download, "_SLOW", (0.2, 2**16))
    if not listed:
        unlisted(vko)
    answer, reason = BAD[kind]
    vko.server.answers[vko.where(DATA)] = answer
    with pytest.raises((ConnectionError, ValueError)) as caught:
        sp.datasets.load("VKO", split=False)
    message = str(caught.value)
    assert re.search(reason, message)
    if isinstance(caught.value, ConnectionError):
        assert "9 files of VKO are not on this machine: counts, positions, scalefactors of V19D02-085_B1" in message
        assert DATA in message
        assert "get 'data.tar.gz', 'images.tar.gz', or the unpacked folders of the sections," in message
        assert "from 'https://data.mendeley.com/datasets/xjtv62ncwr/1' and put them" in message
        assert str(tmp_path / "cache" / "villacampa") in message
    else:  # it came as it was sent, and is no archive
        assert "It was deleted: the next call downloads it again" in message
    left = [path.name for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert not [name for name in left if not name.endswith((".part", ".version", "SHA256SUMS"))]
    del vko.server.answers[vko.where(DATA)]
    check(sp.datasets.load("VKO", split=False), "V19D02-085_B1")


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_list_of_files_is_done_without(
    vko: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
):
    """The public interface answers badly, the file itself is there: it is fetched, and its checksum recorded."""
    monkeypatch.setattr(download, "_SLOW", (0.2, 2**16))
    where = "/data.mendeley.com/public-api/datasets/xjtv62ncwr/folders/1"
    vko.server.answers[where] = BAD[kind][0] if "circle" not in kind else answers(302, Location=where)
    check(sp.datasets.load("VKO", split=False), *entry_of("VKO").sections)
    sums = (tmp_path / "cache" / "villacampa" / "SHA256SUMS").read_text()
    assert "  archives/data.tar.gz\n" in sums


def test_an_interrupt_while_members_are_taken_out(vko: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    blocks, written = _archives._blocks, []

    def interrupted(file):
        if len(written) == 4:
            yield b"half of it"
            raise KeyboardInterrupt
        written.append(file)
        yield from blocks(file)

    with monkeypatch.context() as patch:
        patch.setattr(_archives, "_blocks", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sp.datasets.fetch("VKO")
    root = tmp_path / "cache" / "villacampa"
    left = [path for path in root.rglob("*") if path.is_file() and path.parent.name != "archives"]
    assert {path.suffix for path in left} == {"", ".part"}  # the list of checksums, and what has begun
    n_asked = len(vko.server.asked)
    check(sp.datasets.load("VKO", split=False), *entry_of("VKO").sections)
    assert len(vko.server.asked) == n_asked  # the archive is there
    assert sp.datasets.verify("VKO")["status"].value_counts().to_dict() == {"fine": 16}


def check(adata, *sections: str) -> None:
    for name in sections:
        part = adata[adata.obs["library_id"] == name]
        truth = truth_of(name)
        assert (part.X.toarray() == truth.counts[: truth.n_tissue]).all()


def test_what_has_moved_is_followed(vko: Repositories):
    where = vko.where(DATA)
    vko.server.files["/new/place"] = vko.server.files.pop(where)
    vko.server.answers[where] = answers(301, Location="/new/place")
    check(sp.datasets.load("VKO", split=False), "V19D02-085_B1")


def test_another_host_is_asked_when_the_first_gives_no_file(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    repositories = play(server, monkeypatch, "VHS")
    name = "V11T17-102_A1"
    for role, number in entry_of("VHS").sections[name].ids.items():
        first, second = (
            f"https://{host}{number}"
            for host in ("figshare.scilifelab.se/ndownloader/files/", "ndownloader.figshare.com/files/")
        )
        repositories.put(second, server.files[repositories.where(first)])
        server.answers[repositories.where(first)] = answers(202) if role == "counts" else answers(200, PAGE)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        check(sp.datasets.load("VHS", name), name)


def test_the_archive_of_a_whole_record(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where single files are not listed: an archive with archives, of which one is opened."""
    repositories = play(server, monkeypatch, "MMBO", "MHCP1")
    unlisted(repositories)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        check(sp.datasets.load("MMBO"), *entry_of("MMBO").sections)
        n_asked = len(server.asked)
        check(sp.datasets.load("MHCP1", split=False), *entry_of("MHCP1").sections)
        assert len(server.asked) == n_asked  # the archive is there
    folders = {path.name for path in (tmp_path / "mirzazadeh").iterdir() if path.is_dir()}
    assert folders == {"archives", *entry_of("MMBO").sections, *entry_of("MHCP1").sections}


def write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_a_filled_folder_needs_no_server(vko: Repositories, tmp_path: Path):
    for name in entry_of("VKO").sections:
        write(tmp_path / "data" / "villacampa" / "kidney_organoid" / name, dict(space_ranger(name)))
    with sp.settings.override(data_dir=tmp_path / "data"):
        check(sp.datasets.load("VKO", split=False), *entry_of("VKO").sections)
    assert vko.server.asked == []
    assert not (tmp_path / "cache").exists()


def test_a_partly_filled_folder_is_completed_in_the_cache(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Files by the names of Space Ranger: one section whole, one without positions, others missing."""
    play(server, monkeypatch, "VHS")
    whole, part, *_ = entry_of("VHS").sections
    write(tmp_path / "data" / "vicari" / whole, dict(space_ranger(whole)))
    write(
        tmp_path / "data" / "vicari" / part,
        {name: data for name, data in space_ranger(part).items() if "positions" not in name},
    )
    before = sorted((tmp_path / "data").rglob("*"))
    with sp.settings.override(data_dir=tmp_path / "data", cache_dir=tmp_path / "cache"):
        check(sp.datasets.load("VHS"), *entry_of("VHS").sections)
    assert sorted((tmp_path / "data").rglob("*")) == before
    fetched = [path for path, _ in server.asked if "ndownloader" in path]
    assert len(fetched) == 1 + 4 + 4  # and no image at full resolution


def test_linked_folders_are_followed_once(vko: Repositories, tmp_path: Path):
    for name in entry_of("VKO").sections:
        write(tmp_path / "elsewhere" / name, dict(space_ranger(name)))
    folder = tmp_path / "data" / "villacampa"
    folder.mkdir(parents=True)
    (folder / "kidney").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    with sp.settings.override(data_dir=tmp_path / "data"):
        check(sp.datasets.load("VKO", split=False), *entry_of("VKO").sections)


@pytest.mark.parametrize("root", ["data", "cache"])
@pytest.mark.parametrize("name", ["data.tar.gz", "as the browser called it.tar.gz", "xjtv62ncwr-1.zip"])
def test_an_archive_that_the_user_put_there(vko: Repositories, tmp_path: Path, root: str, name: str):
    content = vko.server.files[vko.where(DATA)]
    if name.endswith(".zip"):
        content = vko.server.files["/data.mendeley.com/public-api/zip/xjtv62ncwr/download/1"]
    write(tmp_path / root / "villacampa" / "from the web", {name: content})
    with sp.settings.override(data_dir=tmp_path / "data"):
        check(sp.datasets.load("VKO", split=False), *entry_of("VKO").sections)
    assert vko.server.asked == []


def test_files_of_a_series_in_one_folder(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import io
    import tarfile

    repositories = play(server, monkeypatch, "PMI")
    content = server.files[repositories.where("https://www.ncbi.nlm.nih.gov/geo/download/")]
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        archive.extractall(tmp_path / "parigi", filter="data")
    with sp.settings.override(data_dir=tmp_path, cache_dir=tmp_path / "cache"):
        check(sp.datasets.load("PMI", split=False), "A1_S1", "B1_S2")
    assert server.asked == []


def test_the_first_download_is_trusted_and_others_are_compared(vko: Repositories, tmp_path: Path):
    unlisted(vko)
    sp.datasets.fetch("VKO")
    root = tmp_path / "cache" / "villacampa"
    sums = (root / "SHA256SUMS").read_text().splitlines()
    assert len(sums) == 1 + 3 * 5
    assert [line.split("  ")[1] for line in sums if "archives" in line] == ["archives/data.tar.gz"]
    for path in root.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
    original = vko.server.files[vko.where(DATA)]
    vko.server.files[vko.where(DATA)] = original + b"\0"
    with pytest.raises(
        ConnectionError, match=r"is not the expected file.*remove the line of archives/data.tar.gz from .*SHA256SUMS"
    ):
        sp.datasets.fetch("VKO")
    assert not list(root.rglob("*.tar.gz"))
    vko.server.files[vko.where(DATA)] = original
    sp.datasets.fetch("VKO")


def test_a_damaged_archive_of_the_cache_is_downloaded_again(vko: Repositories, tmp_path: Path):
    archive = tmp_path / "cache" / "villacampa" / "archives" / "data.tar.gz"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(vko.server.files[vko.where(DATA)][:-1000])
    with pytest.raises(
        ValueError, match=r"data.tar.gz cannot be read .*It was deleted: the next call downloads it again"
    ):
        sp.datasets.fetch("VKO")
    check(sp.datasets.load("VKO", split=False), "V19D02-085_B1")


def test_an_archive_without_the_sections(vko: Repositories, tmp_path: Path):
    unlisted(vko)
    vko.server.files[vko.where(DATA)] = tar_of({"lung/V19D02-088_A1/filtered_feature_bc_matrix.h5": b"", "README": b""})
    with pytest.raises(ConnectionError, match=r"Nothing of it is in 'data.tar.gz'; data.tar.gz holds .*README"):
        sp.datasets.fetch("VKO")


def test_an_archive_without_full_images_is_read_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The set has no full images; what is there is not downloaded or searched again."""
    repositories = play(server, monkeypatch, "MHCP1")
    where = next(path for path in server.files if path.endswith("file_downloaded"))
    files = {
        name: data
        for section in entry_of("MHCP1").sections
        for name, data in below(section, space_ranger(section)).items()
    }
    server.files[where] = tar_of(files)
    unlisted(repositories)
    server.files["/data.mendeley.com/public-api/zip/4w6krnywhn/download/1"] = zip_of({"colon.tar.gz": tar_of(files)})
    listed: list[str] = []
    original = _store.list_members
    monkeypatch.setattr(
        _store, "list_members", lambda archive, inside: listed.append(archive.name) or original(archive, inside)
    )
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        sp.datasets.fetch("MHCP1")
        assert listed == ["4w6krnywhn-1.zip"]
        n_asked = len(server.asked)
        with pytest.raises(ConnectionError, match=r"2 files of MHCP1 are not on this machine: image of V11M22-349_B1"):
            sp.datasets.fetch("MHCP1", images="full")
        assert listed == ["4w6krnywhn-1.zip"] * 2
        assert not [path for path, _ in server.asked[n_asked:] if "/zip/" in path]


def test_several_calls_at_once_download_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    play(server, monkeypatch, "VHS")
    server.pause = 0.01
    results: list = []

    def run() -> None:
        try:
            results.append(len(sp.datasets.fetch("VHS", "V11T17-102_A1")))
        except Exception as error:  # noqa: BLE001
            results.append(error)

    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        threads = [threading.Thread(target=run) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
    assert results == [4, 4, 4]
    assert len([path for path, _ in server.asked if "ndownloader" in path]) == 4


def test_an_interrupt_leaves_parts_that_are_continued(
    vko: Repositories, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    going_on, n_threads = threading.Event(), threading.active_count()

    def interrupted(*args, **kwargs):
        part = tmp_path / "cache" / "villacampa" / "archives" / "data.tar.gz.part"
        until = time.monotonic() + 20
        while not (part.exists() and part.stat().st_size) and time.monotonic() < until:
            time.sleep(0.01)
        threading.Timer(0.2, going_on.set).start()
        raise KeyboardInterrupt

    content = vko.server.files[vko.where(DATA)]
    vko.server.answers[vko.where(DATA)] = in_two_steps(going_on, content)
    with monkeypatch.context() as patch:
        patch.setattr(_store, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sp.datasets.fetch("VKO")
    assert threading.active_count() < n_threads + 5  # of the server that waits, and none that downloads on
    part = tmp_path / "cache" / "villacampa" / "archives" / "data.tar.gz.part"
    size = part.stat().st_size
    assert 0 < size < len(content)
    del vko.server.answers[vko.where(DATA)]
    sp.datasets.fetch("VKO")
    assert (vko.where(DATA), f"bytes={size}-") in vko.server.asked


def in_two_steps(going_on: threading.Event, content: bytes) -> Callable[[Handler], None]:
    """The first half at once, and some more later."""

    def answer(handler: Handler) -> None:
        handler.head(Content_Length=str(len(content)))
        handler.wfile.write(content[: len(content) // 2])
        handler.wfile.flush()
        going_on.wait(20)
        handler.wfile.write(content[len(content) // 2 : -100])

    return answer


def test_what_is_needed_is_downloaded_last(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A section that can be read is never one whose images are still to come."""
    repositories = play(server, monkeypatch, "EHPCP1")
    hires = next(
        path for path, data in server.files.items() if data == space_ranger("P1_H1-5")["spatial/tissue_hires_image.png"]
    )
    image = server.files.pop(hires)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        with pytest.raises(ConnectionError, match="3 files of EHPCP1 are not on this machine"):
            sp.datasets.fetch("EHPCP1", "P1_H1-5")
        repositories.server.files[hires] = image
        adata = sp.datasets.load("EHPCP1", "P1_H1-5")
    assert set(adata.uns["spatial"]["P1_H1-5"]["images"]) == {"hires", "lowres"}


def test_downloads_are_few_at_a_time(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    play(server, monkeypatch, "VHS")
    running, most = 0, []
    lock = threading.Lock()
    original = _store.fetch

    def counted(*args, **kwargs):
        nonlocal running
        with lock:
            running += 1
            most.append(running)
        time.sleep(0.02)
        try:
            return original(*args, **kwargs)
        finally:
            with lock:
                running -= 1

    monkeypatch.setattr(_store, "fetch", counted)
    with sp.settings.override(data_dir=None, cache_dir=tmp_path):
        sp.datasets.fetch("VHS")
    assert max(most) == 3


def test_size_is_said_before(vko: Repositories, capsys: pytest.CaptureFixture):
    size = len(vko.server.files[vko.where(DATA)]) / 1e6
    vko.server.answers[vko.where(DATA)] = answers(404)
    with pytest.raises(ConnectionError):
        sp.datasets.fetch("VKO")
    said = capsys.readouterr().out
    assert (
        f"downloading data.tar.gz of VKO ({size:,.1f} MB) from https://data.mendeley.com/datasets/xjtv62ncwr/1" in said
    )
    unlisted(vko)
    with pytest.raises(ConnectionError):
        sp.datasets.fetch("VKO")
    assert "of a size that the source does not list" in capsys.readouterr().out
