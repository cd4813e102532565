"""Names from data as names of files."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from spared_sc._core.names import check_file_name, check_library_name, file_name, shown

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = [
    "",
    ".",
    "..",
    "...",
    "/",
    "/etc/passwd",
    "../../outside/evil.jpg",
    "..\\..\\evil",
    "C:\\x",
    "a/b",
    "a%2Fb",
    "a\0b",
    "\0",
    "a\nb",
    " a",
    "a ",
    "a.",
    ".hidden",
    "CON",
    "nul.txt",
    "com1",
    "~",
    "*?",
    "ä",
    "a\u0308",
    "日本語" * 60,
    "x" * 300,
    "x" * 299 + "y",
    "x" * 300 + "/",
    "\ud800",
    "a:b",
    "a|b",
    "%",
    "%~",
]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_file_name_stays_in_its_folder(tmp_path: Path, name: str):
    made = file_name(name)
    path = tmp_path / made
    path.write_text("x")
    assert path.resolve().parent == tmp_path.resolve()
    assert [found.name for found in tmp_path.iterdir()] == [made]
    assert made.isascii()
    assert 1 <= len(made) <= 120


def test_file_names_differ_where_names_do():
    names = [*HOSTILE, *(file_name(name) for name in HOSTILE if file_name(name) != name)]
    names += ["".join(letters) for letters in itertools.product("a%2F/. ~", repeat=3)]
    names = list(dict.fromkeys(names))
    assert len({file_name(name) for name in names}) == len(names)


@pytest.mark.parametrize("name", ["A1", "V19D02-088_A1", "section 1 (left)", "GSM1_S1", "x" * 120])
def test_usual_names_are_kept(name: str):
    assert file_name(name) == name
    assert check_file_name(name, "the server") == name
    assert check_library_name(name) == name


@pytest.mark.parametrize(
    "name", ["../../../../../../outside/evil.jpg", "a/b.jpg", "..", "", "a\0.jpg", 5, None, "x" * 300]
)
def test_file_name_of_a_server_is_refused(name):
    with pytest.raises(ValueError, match=r"the server names the file .*not a plain file name.*check who answers"):
        check_file_name(name, "the server")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "empty"),
        (5, "not a text"),
        (None, "not a text"),
        (("a", "b"), "not a text"),
        ("a/b", "path separator"),
        ("..\\b", "path separator"),
        ("..", "name of a folder"),
        (" a", "white space"),
        ("a\n", "white space"),
        ("a\0b", "control characters"),
        ("a\tb", "control characters"),
        ("\ud800", "control characters"),
        ("x" * 300, "300 bytes"),
        ("ä" * 101, "202 bytes"),
    ],
)
def test_library_name_is_refused(name, problem: str):
    with pytest.raises(ValueError, match=rf"cannot be a library name: .*{problem}"):
        check_library_name(name)


def test_library_name_in_any_script():
    assert check_library_name("切片 1 é") == "切片 1 é"


def test_a_value_in_a_message_is_short():
    assert shown("a") == "'a'"
    assert shown("x" * 98) == repr("x" * 98)
    assert shown(list(range(1000))) == repr(list(range(1000)))[:97] + "..."
