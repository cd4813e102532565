"""Files and folders: paths that are checked, errors that say what to do, and reading within bounds."""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

_LONGEST_PART, _LONGEST = 255, 4000  # bytes of a name and of a path, which file systems allow
_MOST_JSON = 2**26  # bytes of a JSON file; names of all genes and a million spots fit in
_FULL = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


def as_path(path: Any, what: str) -> Path:
    """A path of the user, absolute; a TypeError or ValueError if no file can have it. `what` names it in the error."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        raise TypeError(f"{what} is a {type(path).__name__}: give a path as text or as a pathlib.Path.")
    text = os.fspath(path)
    shown = repr(text) if len(text) < 100 else f"{text[:100]!r}..."
    try:
        n_bytes = len(os.fsencode(text))
    except UnicodeEncodeError:
        n_bytes = 0
    if not n_bytes or "\0" in text:
        raise ValueError(f"{what} cannot be {shown}: give a path that is not empty and has no zero bytes.")
    longest = max((len(os.fsencode(part)) for part in Path(text).parts), default=0)
    if longest > _LONGEST_PART or n_bytes > _LONGEST:
        raise ValueError(
            f"{what} cannot be {shown}: it has {n_bytes} bytes, a name in it {longest}; file systems allow {_LONGEST} and "
            f"{_LONGEST_PART}. Give a shorter path."
        )
    return Path(text).expanduser().absolute()


@contextmanager
def writing(place: Path, note: str = "") -> Iterator[None]:
    """Say of an error of the file system what to do about it, and `note` that the user's data are safe."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # an error of this package, which says what to do
            raise
        remedy = "choose a place that can be written"
        if error.errno in _FULL:
            remedy = "free some space or choose another place"
        elif error.errno == errno.ENAMETOOLONG:
            remedy = "choose a shorter name"
        explained = type(error)(f"{place} cannot be written ({error.strerror or error}): {remedy}. {note}".rstrip())
        explained.errno = error.errno
        raise explained from error


def write_whole(path: Path, content: bytes) -> None:
    """All or nothing: beside its place first, onto the disk, then renamed. One writer at a time."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The table of names and values in a JSON file; a ValueError if it is none, or too large or deep to be ours."""
    try:
        if not path.is_file():  # a device or a pipe would be read without an end
            raise ValueError("it is no file")
        size = path.stat().st_size
        if size > _MOST_JSON:
            raise ValueError(f"it has {size:,} bytes, at most {_MOST_JSON:,} are expected")
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no table of names and values")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read ({str(error) or type(error).__name__})") from error
    return content
