"""The card of a fitted predictor: plain values, saved as JSON and checked when they are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass, is_dataclass
from math import inf, isfinite
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from spared_sc._images.scale import PatchScale  # noqa: TC001 - a type that `read` needs

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class EmbeddingCard:
    """How an embedding was made; `None` where that is not recorded."""

    encoder: dict[str, Any] | None  # its identity
    params: dict[str, Any] | None  # of `tl.embed_patches`
    patches: PatchScale | None  # of the first size

    def __post_init__(self) -> None:
        """A ValueError if the embedding cannot be made from what is said of it."""
        made = self.params
        if len({part is None for part in (made, self.encoder, self.patches)}) > 1:
            raise ValueError("there is no embedding, or no encoder, of which the card says more")
        if made is None:
            return
        kinds = {"encoder": str, "weights": str, "random_state": int, "n_rings": int, "size": list}
        sizes = made.get("size")
        if any(type(made.get(name)) is not kind for name, kind in kinds.items()) or not sizes:
            raise ValueError(f"no embedding is made with {made!r:.60}")
        if made["n_rings"] < 0 or not all(type(size) in (int, float) and 0 < size < inf for size in sizes):
            raise ValueError(f"no embedding is made with {made!r:.60}")


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """Target and inputs of a predictor."""

    target: str  # "expression", "given_detection" or the name of a layer
    unit: str  # the layer that defines the unit of the target
    loss: str  # what is compared: "mse", "poisson" or "nb", or the entries of a layer, "detected" or "all"
    leak: str  # the step behind the layer that learned from other libraries, in words
    embeddings: dict[str, EmbeddingCard]  # by their names in obsm, in the order in which their features are joined
    patches: PatchScale | None  # that the predictor itself reads
    fingerprint_source: str  # "places" or "names"

    def __post_init__(self) -> None:
        """A ValueError if spots cannot be told apart in this way."""
        if self.fingerprint_source not in ("places", "names"):
            raise ValueError(f"spots are not known by {self.fingerprint_source!r:.60}")


@dataclass(frozen=True)
class KnownLibrary:
    """A library that a fit has used: its role, its code there and its fingerprint."""

    role: str  # "train", "val" or "seen"
    code: int
    sketch: list[int]

    def __post_init__(self) -> None:
        """A ValueError if there is no such library."""
        if self.role not in ("train", "val", "seen"):
            raise ValueError(f"a library has the role {self.role!r:.60}")
        if not 0 <= self.code < 2**31:
            raise ValueError(f"a library has the code {self.code}")


@dataclass(frozen=True, kw_only=True)
class Card:
    """How a predictor was fitted, and the inputs that it needs of another slide."""

    model: str
    params: dict[str, Any]
    genes: list[str]
    gene_ids: list[str] | None  # Ensembl ids, empty where a gene has none
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
        raise ValueError(f"found {values!r:.60} in place of a table of names and values")
    hints = get_type_hints(cls)
    missing = [name for name in hints if name not in values]
    if missing:
        raise ValueError(f"the field {missing[0]!r} is missing")
    found = {}
    for name, hint in hints.items():
        try:
            found[name] = _checked(hint, values[name])
        except TypeError as error:
            raise ValueError(f"the field {name!r} holds {values[name]!r:.60}") from error
    return cls(**found)


def _checked(hint: Any, value: Any) -> Any:
    """A value, if it has the type; a TypeError otherwise."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if type(None) in kinds and value is None:
        return None
    kind = kinds[0]
    plain, inner = get_origin(kind) or kind, get_args(kind)
    if plain is Any:
        return value
    if isinstance(plain, type) and is_dataclass(plain) and isinstance(value, dict):
        return read(plain, value)
    if plain is float and type(value) in (int, float) and isfinite(value):
        return value
    if type(value) is not plain:  # true and false are no numbers
        raise TypeError
    if plain is dict:
        return {name: _checked(inner[1], entry) for name, entry in value.items()}
    return [_checked(inner[0], entry) for entry in value] if plain is list else value
