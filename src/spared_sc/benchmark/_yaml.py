"""Reading YAML safely, and blocks of it whose errors name their place in the file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from spared_sc._core.validate import listing

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")
_MOST = 2**22  # bytes of a manifest
_REQUIRED: Any = object()
_FLOAT = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.[\d_]+)([eE][-+]?\d+)$")  # YAML 1.1 reads 1e-3 as text


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: plain values only, each key once, `1e-3` a number."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != _MERGE]
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {twice[0]!r} occurs twice", node.start_mark
                )
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}: give the manifest of a benchmark, a YAML file.")
    if path.stat().st_size > _MOST:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes: a manifest has at most {_MOST:,}.")
    try:
        return yaml.load(path.read_bytes(), Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is no YAML that can be read: {' '.join(str(error).split())}") from error


_MERGE = "tag:yaml.org,2002:merge"


def near(name: object, names: Iterable[str]) -> str:
    """Names like this one, for an error; all names where none is."""
    names = list(names)
    close = difflib.get_close_matches(str(name).lower(), {one.lower(): one for one in names}, n=3, cutoff=0.6)
    alike = [one for one in names if one.lower() in close]
    return f"did you mean {listing(alike)}?" if alike else f"choose among {listing(names, 40)}."


class Block:
    """A table of names and values in the manifest, from which each value is taken once, checked."""

    def __init__(self, content: Any, place: str):
        self.place = place
        if not isinstance(content, Mapping):
            self.refuse(f"found {_shown(content)}, expected a table of names and values")
        self._left = {str(name): value for name, value in content.items()}
        self._known: list[str] = []

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def at(self, name: str) -> str:
        """Place of a value."""
        return f"{self.place}.{name}" if self.place else name

    def refuse(self, problem: str) -> NoReturn:
        """An error at this place."""
        raise ValueError(f"{self.place or 'the manifest'}: {problem}")

    def take(self, name: str, read: Callable[[Any, str], T], default: Any = _REQUIRED) -> T:
        """A value, read by a function of the value and its place; the default where there is none."""
        self._known.append(name)
        if name not in self._left:
            if default is _REQUIRED:
                self.refuse(f"{name!r} is missing")
            return default
        return read(self._left.pop(name), self.at(name))

    def end(self) -> None:
        """Refuse what nobody took."""
        for name in self._left:
            self.refuse(f"there is no {name!r} here: {near(name, self._known)}")


def text(value: Any, place: str) -> str:
    """Text that is not empty; a number counts as the text that it is written as."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: found {_shown(value)}, expected text")
    return value


def flag(value: Any, place: str) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{place}: found {_shown(value)}, expected true or false")
    return value


def whole(least: int) -> Callable[[Any, str], int]:
    """A whole number that is not below `least`."""

    def read(value: Any, place: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"{place}: found {_shown(value)}, expected a whole number from {least}")
        return value

    return read


def number(value: Any, place: str) -> float:
    """A number."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError(f"{place}: found {_shown(value)}, expected a number")
    return float(value)


def table(value: Any, place: str) -> dict[str, Any]:
    """A table of names and any values."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{place}: found {_shown(value)}, expected a table of names and values")
    return {str(name): one for name, one in value.items()}


def optional(read: Callable[[Any, str], T]) -> Callable[[Any, str], T | None]:
    """The same, or null."""
    return lambda value, place: None if value is None else read(value, place)


def many(read: Callable[[Any, str], T]) -> Callable[[Any, str], tuple[T, ...]]:
    """Several of the same, each once; one alone needs no list."""

    def read_all(value: Any, place: str) -> tuple[T, ...]:
        if not isinstance(value, list):
            return (read(value, place),)
        found = tuple(read(one, f"{place}[{i}]") for i, one in enumerate(value))
        twice = [one for i, one in enumerate(found) if one in found[:i]]
        if twice or not found:
            raise ValueError(f"{place}: " + (f"{_shown(twice[0])} occurs twice" if twice else "the list is empty"))
        return found

    return read_all


def one_of(names: Iterable[str], kind: str) -> Callable[[Any, str], str]:
    """One of some names."""
    names = list(names)

    def read(value: Any, place: str) -> str:
        if value not in names:
            raise ValueError(f"{place}: there is no {kind} {_shown(value)}: {near(value, names)}")
        return value

    return read


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
