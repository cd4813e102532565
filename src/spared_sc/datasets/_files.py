"""Files of unknown origin: opened by their content, bounded in size, refused with the cause."""

from __future__ import annotations

import errno
import gzip
import io
import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from spared_sc._core.validate import listing

# Tables of counts shrink to a hundredth at best. What expands more than this, and to more than this many bytes, was made
# to fill the memory.
_RATIO, _FREE = 250, 2**28
_SMALL = 2**24  # bytes of a file of settings or names
_DAMAGE = "The file is cut short or damaged: download or copy it again."
_STARTS = {  # of files, and what they then are
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself: run `git lfs pull`, or download it again",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"PK\x03\x04": "a zip archive: unpack it first",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"PAR1": "a parquet table",
    b"BZh": "compressed by bzip2: unpack it first",
    b"\xfd7zXZ": "compressed by xz: unpack it first",
    b"(\xb5/\xfd": "compressed by zstd: unpack it first",
    b"%PDF": "a PDF",
}


class ContentError(ValueError):
    """A file is readable, and does not hold what is needed; its text is the reason."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


@contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Name a file that cannot be read, the reason, and what to do about this reason."""
    try:
        yield
    except ContentError as error:
        remedy = error.remedy or _remedy(path, "")
        raise ValueError(f"{path} cannot be read ({error}): expected {expected}. {remedy}".rstrip()) from error
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise type(error)(
            error.errno, f"{path} cannot be opened ({error.strerror}): check that it is there and may be read"
        ) from error
    except MemoryError as error:
        raise ValueError(
            f"{path} cannot be read (it needs more memory than there is): expected {expected}. Use a machine with more."
        ) from error
    except RecursionError as error:
        raise ValueError(
            f"{path} cannot be read (it is nested too deeply): expected {expected}. {_remedy(path)}"
        ) from error
    # What h5py, zlib, scipy, pandas and pyarrow raise for damaged content.
    except (OSError, EOFError, LookupError, ValueError, ArithmeticError, RuntimeError, TypeError, zlib.error) as error:
        raise ValueError(f"{path} cannot be read ({error}): expected {expected}. {_remedy(path)}") from error


def _remedy(path: Path, otherwise: str = _DAMAGE) -> str:
    """What to do about a file that its reader refuses, from its first bytes."""
    if not path.is_file():
        return otherwise
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        return "The file is empty: download or copy it again."
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        return "The file is a web page, such as a login or error page: download or copy it again from its source."
    kinds = [kind for first, kind in _STARTS.items() if start.startswith(first) and _unexpected(first, path)]
    return f"The file is {kinds[0]}." if kinds else otherwise


def _unexpected(first: bytes, path: Path) -> bool:
    """Whether the name of a file promises something else than its content."""
    endings = {
        b"\x89HDF\r\n\x1a\n": (".h5",),
        b"PAR1": (".parquet",),
        b"\x89PNG": (".png",),
        b"\xff\xd8\xff": (".jpg", ".jpeg"),
    }
    return not path.name.lower().endswith(endings.get(first, ("\0",)))


class _Inflated(io.RawIOBase):
    """The content of a gzip file, until it is too much for the size of the file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb")
        self._gzip = gzip.GzipFile(fileobj=self._file)
        self._n = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._gzip.readinto(buffer)
        self._n += n
        if self._n > _FREE and self._n > _RATIO * self._file.tell():
            raise ContentError(
                f"{self._file.tell()} bytes expand to more than {self._n}",
                "It was made to fill the memory: do not use it.",
            )
        return n

    def close(self) -> None:
        self._gzip.close()
        self._file.close()
        super().close()


def is_gzip(path: Path) -> bool:
    """Whether the content is compressed by gzip, whatever the name says: browsers unpack files and keep their names."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def open_bytes(path: Path) -> BinaryIO:
    """The content of a file, unpacked if it is compressed by gzip."""
    return io.BufferedReader(_Inflated(path), 2**17) if is_gzip(path) else path.open("rb")


def open_text(path: Path) -> io.TextIOWrapper:
    """The text of a file, unpacked if it is compressed by gzip."""
    return io.TextIOWrapper(open_bytes(path), encoding="utf-8-sig", newline=None)


def _bounded(path: Path, most: int) -> str:
    """The text of a file of at most so many bytes."""
    blocks, n = [], 0
    with open_bytes(path) as file:
        while block := file.read(2**20):
            blocks.append(block)
            n += len(block)
            if n > most:
                raise ContentError(f"it holds more than {most} bytes of text")
    return b"".join(blocks).decode("utf-8-sig")


def read_lines(path: Path, most: int = 2**31) -> list[str]:
    """Lines of a text of at most so many bytes, without the empty ones at its end."""
    lines = _bounded(path, most).splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def read_json(path: Path) -> Any:
    """The content of a small JSON file."""
    return json.loads(_bounded(path, _SMALL))


@contextmanager
def unpacked(path: Path, expected: str) -> Iterator[Path]:
    """A path with the plain content of `expected`, for readers that open files by themselves."""
    if not is_gzip(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / path.name.removesuffix(".gz")
        with reading(path, expected), open_bytes(path) as file, plain.open("wb") as copy:
            while block := file.read(2**20):
                copy.write(block)
        try:
            yield plain
        except ValueError as error:
            raise ValueError(str(error).replace(str(plain), str(path))) from error


def names_in(folder: Path) -> list[Path]:
    """Files and folders in a folder, without those with a leading dot, which macOS leaves on other file systems."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except PermissionError as error:
        raise PermissionError(errno.EACCES, f"{folder} may not be read: check its permissions") from error


def content(folder: Path) -> str:
    """What a folder holds, for an error message."""
    return listing(path.name for path in names_in(folder))


def existing(path: Any) -> bool:
    """Whether there is something at a path; names that no file system can hold are nowhere."""
    return os.path.exists(path)  # noqa: PTH110 (Path.exists raises for names that are too long)
