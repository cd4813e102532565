"""Downloads that a broken connection, a full disk or a killed process cannot turn into half a file."""

from __future__ import annotations

import atexit
import errno
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc import __version__
from spared_sc._core.locks import only_writer
from spared_sc._core.report import logger, progress_bar
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    import threading

_WAITS = (1.0, 2.0, 4.0)  # seconds before each new attempt
_WHO = {"User-Agent": f"spared-sc/{__version__}"}  # public archives ask programs to say who they are
_LONGEST_WAIT = 120.0  # seconds that a busy server may ask for
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two blocks
_BLOCK = 2**17
_SLOW = (60.0, 2**16)  # seconds, and the bytes that must have come in each such time
_LONGEST_TEXT = 2**24  # bytes
_OTHER = 3600.0  # seconds to wait for another process that downloads the same file
_STARTS = {  # of files with these endings, where no hash is known
    ".gz": b"\x1f\x8b",
    ".jpg": b"\xff\xd8",
    ".png": b"\x89PNG",
    ".h5": b"\x89HDF",
    ".h5ad": b"\x89HDF",
    ".zip": b"PK",
    ".parquet": b"PAR1",
}
_PAGES = (b"<!doctype html", b"<html", b"<?xml")
# Answers that may change in a moment. A refused range is retried without what is left of the file.
_PASSING = {
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}


class StoppedError(Exception):
    """A download was given up because another one failed, or because of an interrupt."""


def address(url: str) -> str:
    """Where a file is requested; tests put a server of their own in the place of all others."""
    return url


def fetch(url: str, path: Path, *, known_hash: str | None, stop: threading.Event | None = None) -> Path:
    """Download a file, or finish a download that was interrupted.

    Data are written to `<name>.part` beside the destination, which replaces the file in one step when it is complete and
    its hash is right. An interrupted download is resumed where a hash can prove that both parts belong together, or where
    the server says that its file is the same (`<name>.part.version` holds the ETag or date of the first part).
    One process downloads a file at a time; another one waits for it, and finds the file. `stop` ends the download between
    two blocks, from another thread; what has come stays.

    `known_hash` is such as `"sha256:<hexadecimal digits>"`, or `None`: then the server must say how long the file is, and
    a file that is empty, a web page, or of another kind than its ending says is refused. An existing file stays until the
    new one is complete.
    """
    before = _version(path)  # first: what appears from here on is the work of another process or thread
    if known_hash is not None and path.is_file() and _matches(path, known_hash):
        return path
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with writing(path):
            stack.enter_context(only_writer(path, wait=_OTHER))
        if _version(path) not in (None, before) and _matches(path, known_hash):
            return path  # another process has downloaded it in the meantime
        return _fetched(url, path, known_hash, stop)


def _fetched(url: str, path: Path, known_hash: str | None, stop: threading.Event | None) -> Path:
    part = path.with_name(f"{path.name}.part")
    resumed = known_hash is not None and part.exists()
    if not (resumed and _matches(part, known_hash)):
        _persistently(url, lambda: _stream(url, part, known=known_hash is not None, stop=stop))
    _version_file(part).unlink(missing_ok=True)
    if known_hash is None:
        _check_kind(url, part, path)
    if _matches(part, known_hash):
        with writing(path):
            part.replace(path)
        return path
    part.unlink()
    if resumed:
        logger.info("the rest of an earlier download of %s does not belong to it: starting again", path.name)
        return _fetched(url, path, known_hash, stop)
    raise ValueError(
        f"{url} is not the expected file: its hash is not {known_hash}, and it was deleted. The file was changed at its "
        "source, or a proxy answered in its place: try again from another network, or update spared_sc."
    )


def _version(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _check_kind(url: str, part: Path, path: Path) -> None:
    """Refuse, without a hash, what is no file of its kind."""
    with part.open("rb") as file:
        start = file.read(512)
    problem = None
    if not start:
        problem = "it is empty"
    elif start.lstrip().lower().startswith(_PAGES) and path.suffix not in (".html", ".xml"):
        problem = "it is a web page, such as the login page of a network"
    elif not start.startswith(_STARTS.get(path.suffix.lower(), b"")):
        problem = f"it does not begin as a {path.suffix} file"
    if problem:
        part.unlink()
        raise ConnectionError(
            f"{url} could not be downloaded: {problem}, and it was deleted. Open the address in a browser, and try again "
            "from another network, or get the file in another way."
        )


_temporary: dict[str, Path] = {}  # folders of this process, where the cache cannot be written


def cache_folders(name: str) -> list[Path]:
    """Folders in which files of the cache may be."""
    return [settings.cache_dir / name, *([_temporary[name]] if name in _temporary else [])]


def cache_folder(name: str) -> Path:
    """A folder of the cache that can be written, or a temporary one of this process where the cache cannot."""
    folder = settings.cache_dir / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if name not in _temporary:
            _temporary[name] = Path(tempfile.mkdtemp(prefix="spared_sc-"))
            atexit.register(shutil.rmtree, _temporary[name], ignore_errors=True)
            logger.warning(
                "the cache %s cannot be written (%s): downloads go to %s, which is removed at the end. Name a writable "
                "folder with `sp.settings.cache_dir = ...` or SPARED_SC_CACHE_DIR",
                folder,
                error.strerror or error,
                _temporary[name],
            )
        return _temporary[name]


def read_text(url: str) -> str:
    """A short text from the network, with the retries and errors of `fetch`."""
    import requests

    def read() -> str:
        content = b""
        with requests.get(address(url), headers=_WHO, stream=True, timeout=_TIMEOUT) as response:
            _check_answer(url, response)
            for block in _blocks(response):
                content += block
                if len(content) > _LONGEST_TEXT:
                    raise ConnectionError(
                        f"{url} is longer than {_LONGEST_TEXT} bytes, and no short text: check the address."
                    )
            _check_length(response, None)
        return content.decode("utf-8", errors="replace")

    return _persistently(url, read)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the failure to write a file into an error with a remedy."""
    import requests

    try:
        yield
    except (requests.RequestException, TimeoutError):  # OSErrors too, but not from the disk
        raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"{path} cannot be written ({error.strerror or error}): free some space, or name a writable folder with "
            "`sp.settings.cache_dir = ...` or SPARED_SC_CACHE_DIR",
        ) from error


def _matches(path: Path, known_hash: str | None) -> bool:
    """Whether a file has the hash; any file does where none is known."""
    import pooch

    if known_hash is None:
        return True
    algorithm, _, digest = known_hash.rpartition(":")
    return pooch.file_hash(path, alg=algorithm or "sha256") == digest.lower()


def _persistently(url: str, attempt: Callable[[], Any]) -> Any:
    """The result of the first attempt that succeeds."""
    import requests

    waits = list(_WAITS)
    while True:
        try:
            return attempt()
        except requests.RequestException as error:
            failed = f"{url} could not be downloaded ({_reason(error)})"
            if error.response is not None and error.response.status_code not in _PASSING:
                raise ConnectionError(
                    f"{failed}: the server refuses it. Open the address in a browser to see whether it still exists, or get "
                    "the file in another way."
                ) from error
            asked = _retry_after(error.response)
            if not waits or asked > _LONGEST_WAIT:
                busy = f"the server asks to wait for {asked:g} s; try again then" if asked else ""
                raise ConnectionError(f"{failed}: {busy or 'check the network connection and try again'}.") from error
            wait = max(waits.pop(0), asked)
            logger.info("%s was interrupted (%s): trying again in %g s", url, _reason(error), wait)
            time.sleep(wait)


def _reason(error: Exception) -> str:
    """What went wrong, without the layers of the libraries that it went through."""
    reason = getattr(error.args[0], "reason", None) if error.args else None
    return re.sub(r"^HTTPS?Connection\w*\([^)]*\): ", "", str(reason or error))


def _retry_after(response: Any) -> float:
    """Seconds that a busy server asks to wait, as a number or a date."""
    text = "" if response is None else response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return 0.0


def _check_answer(url: str, response: Any) -> None:
    """Refuse answers that hold no file."""
    import requests

    response.raise_for_status()
    if response.status_code not in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        like = ", as of a firewall that lets no programs through" if response.status_code == HTTPStatus.ACCEPTED else ""
        raise requests.HTTPError(
            f"the answer is {response.status_code} {response.reason}, without a file{like}", response=response
        )
    if address(url).startswith("https:") and not response.url.startswith("https:"):
        raise requests.ConnectionError(f"it leads to {response.url}, which is not encrypted")


def _length(response: Any) -> int | None:
    """Bytes that the server says it sends; `None` where it says nothing usable."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdecimal() else None


def _blocks(response: Any) -> Iterator[bytes]:
    """The content as it arrives; an error when too little arrives."""
    import requests
    import urllib3

    raw = response.raw
    read = getattr(raw, "read1", None) or (lambda amount, decode_content: raw.read(2**12, decode_content))
    seconds, least = _SLOW
    until, n = time.monotonic() + seconds, 0
    try:
        while block := read(_BLOCK, decode_content=True):
            yield block
            n += len(block)
            if time.monotonic() > until:
                if n < least:
                    raise requests.ConnectionError(f"only {n} bytes came in {seconds:g} s")
                until, n = time.monotonic() + seconds, 0
    except urllib3.exceptions.HTTPError as error:
        raise requests.ConnectionError(str(error)) from error


def _check_length(response: Any, known: bool | None) -> None:
    """Refuse a content that ended early; `known` is whether a hash will show it otherwise."""
    import requests

    total, got = _length(response), response.raw.tell()
    if total is not None and got != total:
        raise requests.ConnectionError(f"it ended after {got} of {total} bytes")
    if total is None and known is False and response.headers.get("Transfer-Encoding", "").lower() != "chunked":
        raise requests.ConnectionError("the server does not say how long it is, so that it may be cut short")


def _version_file(part: Path) -> Path:
    return part.with_name(f"{part.name}.version")


def _version_at_source(response: Any) -> str:
    """What tells whether a file at its source is still the same; empty where the server says nothing."""
    tag = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _keep_version(part: Path, version: str, url: str) -> None:
    """Note of which version of the file at `url` the part is."""
    if version:
        _version_file(part).write_text(f"{url}\n{version}", encoding="utf-8")
    else:
        _version_file(part).unlink(missing_ok=True)


def _resumable(url: str, part: Path, known: bool) -> dict[str, str]:
    """Headers that ask for the rest of a file, where both parts can be shown to belong together."""
    start = part.stat().st_size if part.exists() else 0
    if not start:
        return {}
    if known:
        return {"Range": f"bytes={start}-"}
    version = _version_file(part)
    source, _, tag = version.read_text(encoding="utf-8").partition("\n") if version.exists() else ("", "", "")
    return {"Range": f"bytes={start}-", "If-Range": tag} if tag and source == url else {}


def _stream(url: str, part: Path, *, known: bool, stop: threading.Event | None = None) -> None:
    """Write a file to `part`, or append the rest of it; `known` is whether its hash is known."""
    import requests

    rest = _resumable(url, part, known)
    start = part.stat().st_size if rest else 0
    # Uncompressed: a file that is compressed for transfer cannot be requested in parts.
    headers = {**_WHO, "Accept-Encoding": "identity", **rest}
    with requests.get(address(url), headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        _check_answer(url, response)
        start = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        length = _length(response) or 0
        with writing(part):
            _check_space(part, length, start)
            part.touch()
            _keep_version(part, "" if known else _version_at_source(response), url)
            with part.open("r+b") as file, progress_bar(total=start + length, desc=part.stem, unit="B") as bar:
                bar.unit_scale = True
                file.seek(start)
                bar.update(start)
                for block in _blocks(response):
                    file.write(block)
                    bar.update(len(block))
                    if stop is not None and stop.is_set():
                        raise StoppedError(url)
                file.truncate()
            _check_length(response, known)


def _check_space(part: Path, length: int, start: int) -> None:
    """Refuse, before the download, a file for which there is no space."""
    old = part.stat().st_size - start if part.exists() else 0  # is overwritten
    free = shutil.disk_usage(part.parent).free
    if length - old > free:
        raise OSError(errno.ENOSPC, f"{length:,} bytes are to come, and {free:,} are free")
