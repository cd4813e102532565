"""The card of a fitted predictor: plain values, saved as JSON and checked when they are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from spared_sc._images.scale import PatchScale  # noqa: TC001 - a type that `read` needs

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """Target and inputs of a predictor."""

    target: str  # "expression", "given_detection" or the name of a layer
    unit: str  # the layer that defines the unit of the target
    loss: str  # what is compared: "mse", "poisson" or "nb", or the entries of a layer, "detected" or "all"
    leak: str  # the step behind the layer that learned from other libraries, in words
    use_rep: str | None  # name of the embedding
    encoder: dict[str, Any] | None  # identity of the encoder behind the embedding
    embed_params: dict[str, Any] | None  # parameters of `tl.embed_patches`
    patches: PatchScale | None
    fingerprint_source: str  # "places" or "names"


@dataclass(frozen=True)
class KnownLibrary:
    """A library that a fit has used: its role, its code there and its fingerprint."""

    role: str  # "train", "val" or "seen"
    code: int
    sketch: list[int]


@dataclass(frozen=True, kw_only=True)
class Card:
    """How a predictor was fitted, and the inputs that it needs of another slide."""

    model: str
    params: dict[str, Any]
    genes: list[str]
    data: DataCard
    libraries: dict[str, KnownLibrary]
    n_spots: int  # that it was trained on
    data_hash: str

    def summary(self) -> dict[str, Any]:
        """Values for the record, without genes and fingerprints."""
        return {**asdict(self.data), "params": self.params, "n_spots": self.n_spots, "data_hash": self.data_hash}


def read(cls: type[T], values: Any) -> T:
    """A dataclass from JSON values; a ValueError if a field is missing or has another type."""
    if not isinstance(values, dict):
        raise ValueError(f"found {values!r} in place of a table of names and values")
    hints = get_type_hints(cls)
    missing = [name for name in hints if name not in values]
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing")
    return cls(**{name: _checked(name, hint, values[name]) for name, hint in hints.items()})


def _checked(name: str, hint: Any, value: Any) -> Any:
    """The value of a field, if it has its type."""
    for kind in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        plain = get_origin(kind) or kind
        inner: Any = get_args(kind)[1] if plain is dict else plain  # of the entries of a table
        nested = is_dataclass(inner)
        if nested and isinstance(value, dict):
            return read(plain, value) if plain is inner else {key: read(inner, entry) for key, entry in value.items()}
        if isinstance(value, int | float if plain is float else plain):
            return value
    raise ValueError(f"the field {name!r} holds {value!r}")
