"""The card of a fitted predictor: plain values, saved as JSON and checked when they are read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from types import NoneType
from typing import TYPE_CHECKING, Any

from spared_sc._images.scale import PatchScale

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import UnionType

TRAIN, VALIDATION, SEEN = "train", "val", "seen"


@dataclass(frozen=True, kw_only=True)
class DataCard:
    """Target and inputs of a predictor."""

    layer: str
    unit: str  # the layer that defines the unit of the target
    loss: str  # "detected" or "all"
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

    def names(self, *roles: str) -> list[str]:
        """Libraries that had one of these roles."""
        return [name for name, library in self.libraries.items() if library.role in roles]

    @classmethod
    def read(cls, values: Any) -> Card:
        """The card that JSON values describe.

        Raises
        ------
        ValueError
            If a field is missing or has another type.
        """
        kinds = {"model": str, "params": dict, "genes": list, "data": dict, "libraries": dict}
        card = _checked(values, {**kinds, "n_spots": int, "data_hash": str})
        return cls(
            model=card["model"],
            params=card["params"],
            genes=[str(gene) for gene in card["genes"]],
            data=_read_data(card["data"]),
            libraries={name: _read_library(library) for name, library in card["libraries"].items()},
            n_spots=card["n_spots"],
            data_hash=card["data_hash"],
        )


def known_libraries(
    roles: Sequence[str], sketches: Mapping[str, list[int]], used: Sequence[str] = (TRAIN, VALIDATION, SEEN)
) -> dict[str, KnownLibrary]:
    """Libraries by name that a fit has used, from the role and the fingerprint of all of them."""
    return {
        name: KnownLibrary(role, code, sketch)
        for code, (role, (name, sketch)) in enumerate(zip(roles, sketches.items(), strict=True))
        if role in used
    }


def _checked(values: Any, kinds: Mapping[str, type | UnionType]) -> Mapping[str, Any]:
    """JSON values, once every field exists and has its type."""
    if not isinstance(values, dict):
        raise ValueError(f"found {values!r} in place of a table of names and values")
    for name, kind in kinds.items():
        if name not in values:
            raise ValueError(f"the field {name!r} is missing")
        if not isinstance(values[name], kind):
            raise ValueError(f"the field {name!r} holds {values[name]!r}")
    return values


def _read_data(values: Any) -> DataCard:
    text, table = str | NoneType, dict | NoneType
    kinds = {"layer": str, "unit": str, "loss": str, "leak": str, "use_rep": text, "encoder": table}
    data = _checked(values, {**kinds, "embed_params": table, "patches": table, "fingerprint_source": str})
    return DataCard(
        layer=data["layer"],
        unit=data["unit"],
        loss=data["loss"],
        leak=data["leak"],
        use_rep=data["use_rep"],
        encoder=data["encoder"],
        embed_params=data["embed_params"],
        patches=None if data["patches"] is None else _read_scale(data["patches"]),
        fingerprint_source=data["fingerprint_source"],
    )


def _read_scale(values: Any) -> PatchScale:
    number = int | float
    kinds = {"size": number, "unit": str, "output_size": int, "patch_px": number, "um_per_px": number | NoneType}
    scale = _checked(values, kinds)
    return PatchScale(
        size=scale["size"],
        unit=scale["unit"],
        output_size=scale["output_size"],
        patch_px=scale["patch_px"],
        um_per_px=scale["um_per_px"],
    )


def _read_library(values: Any) -> KnownLibrary:
    library = _checked(values, {"role": str, "code": int, "sketch": list})
    return KnownLibrary(library["role"], library["code"], library["sketch"])
