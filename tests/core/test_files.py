"""_core/files."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from spared_sc._core import files
from spared_sc._core.files import as_path, read_json, write_whole, writing


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert as_path("a/b", "store") == tmp_path / "a" / "b"
    assert as_path(Path("~/ü b"), "store") == tmp_path / "ü b"
    for path in ("", "a\0b", "\ud800", "x" * 256, "é" * 128, "a/" * 2001):
        with pytest.raises(ValueError, match="store cannot be .*: (give a path|it has .* Give a shorter path)"):
            as_path(path, "store")
    for path in (None, 3, b"a", ["a"]):
        with pytest.raises(TypeError, match=r"store is a \w+: give a path as text"):
            as_path(path, "store")


@pytest.mark.parametrize(
    ("number", "kind", "remedy"),
    [
        (errno.ENOSPC, OSError, "free some space or choose another place"),
        (errno.EROFS, OSError, "choose a place that can be written"),
        (errno.EACCES, PermissionError, "choose a place that can be written"),
        (errno.ENAMETOOLONG, OSError, "choose a shorter name"),
    ],
)
def test_errors_of_the_file_system_say_what_to_do(number, kind, remedy):
    with pytest.raises(kind) as raised, writing(Path("/there"), "Nothing is lost."):
        raise OSError(number, os.strerror(number))
    assert str(raised.value) == f"/there cannot be written ({os.strerror(number)}): {remedy}. Nothing is lost."
    assert raised.value.errno == number


def test_our_own_errors_stay(tmp_path):
    with pytest.raises(TimeoutError, match="^process 1 writes$"), writing(tmp_path):
        raise TimeoutError("process 1 writes")


def test_a_file_is_written_as_a_whole(tmp_path, monkeypatch):
    write_whole(tmp_path / "a", b"old")

    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a", b"new")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_tables_in_json(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"a": [1, None]}))
    assert read_json(path) == {"a": [1, None]}
    for content in (b"", b"[1]", b"3", b"{", b"\x80\x04", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 10_000):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.json cannot be read"):
            read_json(path)
    monkeypatch.setattr(files, "_MOST_JSON", 10)
    path.write_text(json.dumps({"a": "b" * 10}))
    with pytest.raises(ValueError, match="it has 19 bytes, at most 10 are expected"):
        read_json(path)
    for other in (tmp_path, tmp_path / "none", Path("/dev/zero")):
        with pytest.raises(ValueError, match="it is no file"):
            read_json(other)
