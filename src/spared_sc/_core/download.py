"""Downloads that a broken connection, a full disk or a killed process cannot turn into half a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from spared_sc._core.report import logger, progress_bar

if TYPE_CHECKING:
    from pathlib import Path

_WAITS = (1.0, 2.0, 4.0)  # seconds before each new attempt
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two blocks
_BLOCK = 2**17
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


def fetch(url: str, path: Path, *, known_hash: str | None) -> Path:
    """Download a file, or finish a download that was interrupted.

    Data are written to `<name>.part` beside the destination, which replaces the file in one step when it is complete and
    its hash is right. An interrupted download is resumed only where a hash can prove that both parts belong together.

    `known_hash` is such as `"sha256:<hexadecimal digits>"`, or `None`. An existing file stays until the new one is
    complete.
    """
    if known_hash is not None and path.is_file() and _matches(path, known_hash):
        return path
    part = path.with_name(f"{path.name}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    resumed = known_hash is not None and part.exists()
    try:
        if not (resumed and _matches(part, known_hash)):
            _persistently(url, lambda: _stream(url, part, resume=known_hash is not None))
        if _matches(part, known_hash):
            with writing(path):
                part.replace(path)
            return path
        part.unlink()
    except FileNotFoundError:
        # Another process was downloading the same file, and finished first.
        if path.is_file():
            return path
        raise
    if resumed:
        logger.info("the rest of an earlier download of %s does not belong to it: starting again", path.name)
        return fetch(url, path, known_hash=known_hash)
    raise ValueError(
        f"{url} is not the expected file: its hash is not {known_hash}, and it was deleted. The file was changed at its "
        "source, or a proxy answered in its place: try again from another network, or update spared_sc."
    )


def read_text(url: str) -> str:
    """A short text from the network, with the retries and errors of `fetch`."""
    import requests

    def read() -> str:
        response = requests.get(url, timeout=_TIMEOUT)
        response.raise_for_status()
        return response.content.decode("utf-8", errors="replace")

    return _persistently(url, read)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the failure to write a file into an error with a remedy."""
    import requests

    try:
        yield
    except requests.RequestException:  # an OSError too, but not from the disk
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
            if error.response is not None and error.response.status_code not in _PASSING:
                raise ConnectionError(
                    f"{url} could not be downloaded ({error}): the server refuses it. Check that the address still "
                    "exists, or get the file in another way."
                ) from error
            if not waits:
                raise ConnectionError(
                    f"{url} could not be downloaded ({error}): check the network connection and try again."
                ) from error
            wait = waits.pop(0)
            logger.info("%s was interrupted (%s): trying again in %g s", url, error, wait)
            time.sleep(wait)


def _stream(url: str, part: Path, *, resume: bool) -> None:
    """Write a file to `part`, or append the rest of it."""
    import requests

    start = part.stat().st_size if resume and part.exists() else 0
    # Uncompressed: a file that is compressed for transfer cannot be requested in parts.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
        if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        response.raise_for_status()
        start = start if response.status_code == HTTPStatus.PARTIAL_CONTENT else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else start + int(length)
        # Every byte is written to its own place, and the file is cut only at the end, so that two processes that download
        # the same file do not harm each other.
        with writing(part):
            part.touch()
            with part.open("r+b") as file, progress_bar(total=total or 0, desc=part.stem, unit="B") as bar:
                bar.unit_scale = True
                file.seek(start)
                bar.update(start)
                for block in response.iter_content(_BLOCK):
                    file.write(block)
                    bar.update(len(block))
                file.truncate()
                if total is not None and file.tell() != total:
                    raise requests.ConnectionError(f"it ended after {file.tell()} of {total} bytes")
