"""Names that come from data, and their use as names of files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from typing import Any

LONGEST = 120  # bytes of a file name made here; file systems allow 255, and callers append endings
LONGEST_LIBRARY = 200  # bytes; zarr makes a folder of the name
# Kept as they are in file names. Everything else is written as %XX, as in addresses.
_UNSAFE = re.compile(rb"[^A-Za-z0-9_.,+=@ ()\[\]-]")
# Windows opens devices instead of files of these names, whatever their ending.
_DEVICES = re.compile(r"^(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def file_name(name: str) -> str:
    """A name as one part of a path: never empty, `.` or `..`, no separators, at most 120 bytes of ASCII.

    Different names give different file names. Names of letters, digits and `_.,+=@ ()[]-` are not changed.
    """
    raw = str(name).encode("utf-8", errors="surrogatepass")
    text = _UNSAFE.sub(lambda match: b"%%%02X" % match.group()[0], raw).decode("ascii")
    # A leading dot hides a file; Windows drops spaces and dots at the end.
    if text[:1] in (".", " ") or _DEVICES.match(text):
        text = f"%{ord(text[0]):02X}{text[1:]}"
    if text[-1:] in (".", " "):
        text = f"{text[:-1]}%{ord(text[-1]):02X}"
    if not text:
        return "%"
    if len(text) <= LONGEST:
        return text
    # No name of at most 120 bytes contains a bare "%~", so that a shortened name is not the name of another one.
    return f"{text[: LONGEST - 34]}%~{hashlib.sha256(raw).hexdigest()[:32]}"


def check_file_name(name: Any, where: str) -> str:
    """The name of a file as somebody else gives it, such as a server; refused where it could lead out of its folder."""
    if not isinstance(name, str) or file_name(name) != name:
        raise ValueError(
            f"{where} names the file {shown(name)}, which is not a plain file name: expected letters, digits, spaces and "
            "_.,+=@()[]- only. Nothing was written; check who answers at this address."
        )
    return name


def check_library_name(name: Any) -> str:
    """Refuse a library name that a file (`.h5ad`, `.zarr`) cannot hold or that would be mistaken for another one."""
    if not isinstance(name, str) or not name:
        problem = "it is not a text" if not isinstance(name, str) else "it is empty"
    elif "/" in name or "\\" in name:
        problem = "it has a path separator"
    elif name != name.strip():
        problem = "it starts or ends with white space"
    elif name in (".", ".."):
        problem = "it is the name of a folder"
    elif any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
        problem = "it has control characters"
    elif len(name.encode()) > LONGEST_LIBRARY:
        problem = f"it has {len(name.encode())} bytes, and {LONGEST_LIBRARY} are allowed"
    else:
        return name
    raise ValueError(
        f"{shown(name)} cannot be a library name: {problem}. Give a non-empty text without '/' and control characters, "
        "such as {'section_1': 'path/of/the/folder'}."
    )


def shown(value: Any) -> str:
    """A value as it stands in messages: at most a hundred characters of it."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
