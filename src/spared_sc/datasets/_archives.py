"""Members of archives, and of archives inside of them, without unpacking the rest."""

from __future__ import annotations

import fnmatch
import gzip
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from spared_sc._core.download import writing
from spared_sc.datasets._files import ContentError, reading
from spared_sc.datasets._sources import is_archive


def list_members(archive: Path, inside: str | None = None) -> list[str]:
    """Paths of the files in an archive; those of an archive inside of it follow its own name.

    Of the archives inside, those with a name as `inside` are opened, or all of them.
    """
    with _opened(archive):
        return [path for path, _ in _walk(archive, archive.name, inside, "")]


def extract_members(archive: Path, wanted: Mapping[str, Path], inside: str | None = None) -> None:
    """Write some files of an archive to paths of our own; compressed ones are unpacked where the path has no `.gz`.

    Paths in the archive name the files and nothing else: they do not decide where anything is written. Files appear under
    their names when all of them are complete, in the order in which they are named.
    """
    left = dict(wanted)
    try:
        with _opened(archive):
            for path, file in _walk(archive, archive.name, inside, ""):
                target = left.pop(path, None)
                if target is not None:
                    _write(file, target, unpack=path.endswith(".gz") and target.suffix != ".gz")
                if not left:
                    break
    except _CannotWriteError as error:
        raise error.reason from error
    if left:
        raise ValueError(
            f"{archive} does not hold {sorted(left)[0]}: it has changed since its files were listed. Try again."
        )
    for target in wanted.values():
        with writing(target):
            _part(target).replace(target)


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


@contextmanager
def _opened(archive: Path) -> Iterator[None]:
    with reading(archive, "a zip or tar archive"):
        try:
            yield
        except (tarfile.TarError, zipfile.BadZipFile) as error:
            raise ContentError(str(error).partition("\n")[0]) from error


class _CannotWriteError(Exception):
    """A target cannot be written, which is no fault of the archive."""

    def __init__(self, reason: OSError) -> None:
        super().__init__(str(reason))
        self.reason = reason


@contextmanager
def _to(target: Path) -> Iterator[None]:
    try:
        with writing(target):
            yield
    except OSError as error:
        raise _CannotWriteError(error) from error


def _write(file: IO[bytes], target: Path, *, unpack: bool) -> None:
    with _to(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        copy = _part(target).open("wb")
    with copy:
        for block in _blocks(gzip.GzipFile(fileobj=file) if unpack else file):
            with _to(target):
                copy.write(block)


def _blocks(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    while block := file.read(2**20):
        yield block


def _walk(file: Path | IO[bytes], name: str, inside: str | None, before: str) -> Iterator[tuple[str, IO[bytes]]]:
    """Path and content of every regular file; a content can be read until the next one comes."""
    for path, content in (_zip if name.lower().endswith(".zip") else _tar)(file):
        own = path.rpartition("/")[2]
        if not is_archive(own):
            yield before + path, content
        elif inside is None or fnmatch.fnmatch(own, inside):
            yield from _walk(content, own, inside, f"{before}{path}/")


def _zip(file: Path | IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tempfile.TemporaryFile() as copy:
        if not isinstance(file, Path):  # its list of members is at its end
            shutil.copyfileobj(file, copy, 2**20)
        with zipfile.ZipFile(file if isinstance(file, Path) else copy) as archive:
            for member in archive.infolist():
                if not member.is_dir():
                    with archive.open(member) as content:
                        yield member.filename, content


def _tar(file: Path | IO[bytes]) -> Iterator[tuple[str, IO[bytes]]]:
    with tarfile.open(file, "r:*") if isinstance(file, Path) else tarfile.open(fileobj=file, mode="r|*") as archive:
        for member in archive:
            if member.isfile() and (content := archive.extractfile(member)) is not None:
                yield member.name, content
        # Damage looks like the end to tarfile; the checksum of what is compressed stands at its real end.
        rest: Any = archive.fileobj
        for block in iter(lambda: rest.read(2**20), b""):
            if any(block):
                raise tarfile.ReadError("its content is damaged")
