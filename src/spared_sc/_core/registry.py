"""Registries of methods and models: one line each, read without importing the module that implements it."""

from __future__ import annotations

from abc import ABC
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

from spared_sc._core.params import check_names, check_params, params_table
from spared_sc._core.validate import listing

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """What is known of a method before it is imported."""

    name: str
    where: str  # "module:Class"; a module that begins with a dot lies below the registry's package
    summary: str  # what it does, in a sentence
    needs: tuple[str, ...] = ()  # what it takes of the data
    paper: str = ""  # where it is described
    pretrained: str = ""  # weights that training starts from, with their licence
    takes_counts: bool = False  # of a predictor: whether it can be fitted with the losses of counts
    by_default: bool = True  # whether it is evaluated where no method is named: false if it takes long or needs more


@dataclass(kw_only=True, eq=False)
class Method(ABC):
    """One of a registry; its fields are its parameters."""

    about: ClassVar[About]  # its entry in the registry

    def __post_init__(self) -> None:
        check_params(self)

    @property
    def name(self) -> str:
        """Name in the registry."""
        return self.about.name

    def params(self) -> dict[str, Any]:
        """Parameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.init}


class Registry(Generic[T]):
    """Methods of one kind by name; `kind` is their name in errors, `package` that of relative modules."""

    def __init__(self, kind: str, package: str, *entries: About) -> None:
        self.kind, self.package = kind, package
        self._entries = {entry.name: entry for entry in entries}

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> About:
        if name not in self._entries:
            raise KeyError(f"there is no {self.kind} {name!r}: choose among {listing(self._entries, 40)}.")
        return self._entries[name]

    def add(self, entry: About) -> None:
        """Register one more, under a name that is free."""
        if entry.name in self._entries:
            raise ValueError(f"there is a {self.kind} {entry.name!r} already: choose another name.")
        self._entries[entry.name] = entry

    def remove(self, name: str) -> None:
        """Take one out again."""
        del self._entries[self[name].name]

    def load(self, name: str) -> type[T]:
        """The class, imported on demand."""
        module, _, cls = self[name].where.partition(":")
        return getattr(import_module(module, self.package), cls)

    def make(self, name: str, params: Mapping[str, Any]) -> T:
        """An instance with these parameters."""
        cls = self.load(name)
        check_names(cls, name, params)
        return cls(**params)

    def table(self, *columns: str) -> pd.DataFrame:
        """One row per entry, with these attributes of it."""
        import pandas as pd

        rows = {name: {c: _text(getattr(entry, c)) for c in columns} for name, entry in self._entries.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=list(columns))

    def params_table(self, name: str) -> pd.DataFrame:
        """One row per parameter of an entry: default, range, values tried by tuning, and meaning."""
        return params_table(self.load(name))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "nothing"
