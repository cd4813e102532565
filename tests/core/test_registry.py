"""Registries: read without imports, extended, and what they say of names that they do not have."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import pytest

from spared_sc._core.params import parameter
from spared_sc._core.registry import About, Method, Registry


@dataclass(kw_only=True)
class Tool(Method):
    """A tool.

    Parameters
    ----------
    size
        How large.
    """

    about: ClassVar[About] = About(
        "hammer", "tools_of_a_test:Tool", "hits", needs=("nails", "wood"), paper="Stone et al."
    )
    size: int = parameter(1, least=1, whole=True)
    worn: bool = field(default=False, init=False)


@pytest.fixture
def registry(monkeypatch) -> Registry[Tool]:
    monkeypatch.setitem(sys.modules, "tools_of_a_test", sys.modules[__name__])
    return Registry(
        "tool",
        "spared_sc._core",
        Tool.about,
        About("level", ".params:Allowed", "says how it is"),
    )


def test_names_are_listed_in_their_order(registry):
    assert list(registry) == ["hammer", "level"]
    assert len(registry) == 2
    assert "hammer" in registry
    assert "saw" not in registry
    assert registry["level"].summary == "says how it is"


def test_classes_are_imported_from_here_and_from_elsewhere(registry):
    from spared_sc._core.params import Allowed

    assert registry.load("hammer") is Tool
    assert registry.load("level") is Allowed


def test_a_method_knows_its_name_and_its_parameters():
    tool = Tool(size=3)
    assert tool.name == "hammer"
    assert tool.params() == {"size": 3}  # what changes with use is no parameter
    with pytest.raises(ValueError, match="size=0"):
        Tool(size=0)


def test_instances_are_made_with_checked_parameters(registry):
    assert registry.make("hammer", {}) == Tool(size=1)
    assert registry.make("hammer", {"size": 4}) == Tool(size=4)
    with pytest.raises(TypeError, match="'hammer' has no parameter 'weight'; .*'size'"):
        registry.make("hammer", {"weight": 1})
    with pytest.raises(ValueError, match="size=0"):
        registry.make("hammer", {"size": 0})


@pytest.mark.parametrize("use", [lambda r: r["saw"], lambda r: r.load("saw"), lambda r: r.make("saw", {}),
                                 lambda r: r.params_table("saw"), lambda r: r.remove("saw")])  # fmt: skip
def test_an_unknown_name_comes_with_those_that_there_are(registry, use):
    with pytest.raises(KeyError, match="there is no tool 'saw': choose among 'hammer', 'level'"):
        use(registry)


def test_entries_are_added_and_removed(registry):
    saw = About("saw", "tools_of_a_test:Tool", "cuts")
    registry.add(saw)
    assert list(registry) == ["hammer", "level", "saw"]
    assert registry.make("saw", {"size": 2}) == Tool(size=2)
    with pytest.raises(ValueError, match="there is a tool 'saw' already: choose another name"):
        registry.add(saw)
    registry.remove("saw")
    assert list(registry) == ["hammer", "level"]


def test_tables(registry):
    table = registry.table("summary", "needs", "paper")
    assert list(table.columns) == ["summary", "needs", "paper"]
    assert table.loc["hammer"].tolist() == ["hits", "nails, wood", "Stone et al."]
    assert table.loc["level", "needs"] == "nothing"
    assert registry.params_table("hammer").loc["size"].tolist() == ["1", "whole number from 1", "", "How large."]


@pytest.mark.parametrize("kind", ["completion", "prediction"])
def test_ours_are_read_without_the_modules_that_they_name(kind):
    code = f"""
import sys
from spared_sc._models.{kind}.registry import {"COMPLETERS" if kind == "completion" else "PREDICTORS"} as entries
entries.table("summary", "needs", "paper")
loaded = [name for name in sys.modules if name.startswith("spared_sc._models.{kind}.")]
assert loaded == ["spared_sc._models.{kind}.registry"], loaded
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
