"""Outputs that are whole or absent, and replace nothing of the user's."""

from __future__ import annotations

import pytest

from spared_sc._core.outputs import Unusable, complete_or_absent


def write_then(place, then, **options) -> None:
    """Write an output, and do something else before it is complete."""
    with complete_or_absent(place, **options) as part:
        part.write_text("new")
        then()


def everything(folder) -> dict[str, str]:
    return {path.name: path.read_text() if path.is_file() else "" for path in folder.rglob("*")}


def test_an_output_appears_when_it_is_complete(tmp_path):
    with complete_or_absent(tmp_path / "out") as part:
        part.write_text("new")
        assert not (tmp_path / "out").exists()
    assert everything(tmp_path) == {"out": "new"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_after_an_error(tmp_path, error):
    (tmp_path / "out").write_text("old")

    def fail():
        raise error

    with pytest.raises(error):
        write_then(tmp_path / "out", fail, replaceable=lambda _: True)
    assert everything(tmp_path) == {"out": "old"}


def test_only_what_is_replaceable_is_replaced(tmp_path):
    (tmp_path / "out").write_text("mine")
    with (
        pytest.raises(Unusable, match="out exists: remove it, or give another name as `place=`"),
        complete_or_absent(tmp_path / "out", replaceable=lambda path: path.read_text() == "ours", option="`place=`"),
    ):
        pytest.fail("the work was begun")
    (tmp_path / "out").write_text("ours")
    with complete_or_absent(tmp_path / "out", replaceable=lambda path: path.read_text() == "ours") as part:
        part.write_text("new")
    assert everything(tmp_path) == {"out": "new"}


def test_what_appears_meanwhile_stays(tmp_path):
    with pytest.raises(Unusable, match="exists"):
        write_then(tmp_path / "out", lambda: (tmp_path / "out").write_text("mine"))
    assert everything(tmp_path) == {"out": "mine"}


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(Unusable, match="there is no folder"), complete_or_absent(tmp_path / "none" / "out"):
        pytest.fail("the work was begun")


def test_what_a_killed_process_left_is_put_back(tmp_path):
    (tmp_path / ".out.spared-sc-old").write_text("old")
    (tmp_path / ".out.spared-sc-part").mkdir()
    with pytest.raises(ZeroDivisionError), complete_or_absent(tmp_path / "out", replaceable=lambda _: True):
        raise ZeroDivisionError
    assert everything(tmp_path) == {"out": "old"}
