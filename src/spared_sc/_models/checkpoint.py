"""Model folders: safetensors and a JSON card; a crash leaves the old or the new model, never half of one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from spared_sc import __version__

_CARD = "card.json"
_FORMAT = "spared-sc model 1"


def save(folder: str | Path, kind: str, arrays: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
    """Write a model folder; one that holds something else is refused.

    The arrays go into a file that is named after its content. The card, which names that file, is renamed into place
    last: until then a reader sees the old model, from then on the new one.
    """
    from safetensors.numpy import save as serialise

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give the name of a folder for the model.")
    if folder.is_dir() and any(folder.iterdir()) and not _is_ours(folder):
        raise ValueError(f"{folder} holds other files and no {_CARD}: give an empty or a new folder for the model.")
    content = serialise({name: _contiguous(array) for name, array in arrays.items()})
    digest = hashlib.sha256(content).hexdigest()
    weights = f"weights-{digest[:16]}.safetensors"
    text = json.dumps(
        {"format": _FORMAT, "kind": kind, "version": __version__, "weights": weights, "sha256": digest, **card},
        indent=1,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / weights, content)
        _write(folder / _CARD, text.encode())
    except OSError as error:
        raise OSError(
            f"the model cannot be written to {folder} ({error.strerror or error}): free some space or choose another "
            "folder. A model that was there before is unchanged."
        ) from error
    for old in [*folder.glob("weights-*.safetensors"), *folder.glob("*.part")]:
        if old.name != weights:
            old.unlink(missing_ok=True)


def load(folder: str | Path, *kinds: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and card of a model folder of one of these kinds; a ValueError if it is damaged or something else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialise

    folder = Path(folder)
    if not exists(folder):
        reason = "a file" if folder.is_file() else "no such folder" if not folder.exists() else f"no {_CARD} in it"
        raise FileNotFoundError(f"{folder} is no saved model ({reason}): give the folder that `save` wrote.")
    try:
        card = json.loads((folder / _CARD).read_text())
        if not isinstance(card, dict):
            raise ValueError("it is no table of names and values")
    except (UnicodeDecodeError, ValueError) as error:
        raise ValueError(f"{folder / _CARD} cannot be read ({error}): save the model again.") from error
    if card.get("format") != _FORMAT:
        raise ValueError(
            f"{folder / _CARD} says format {card.get('format')!r}, expected {_FORMAT!r}: it was written by another "
            "program or version of spared-sc."
        )
    if card.get("kind") not in kinds:
        expected = " or ".join(map(repr, kinds))
        raise ValueError(f"{folder} holds a model of kind {card.get('kind')!r}, expected {expected}.")
    weights = folder / Path(str(card.get("weights"))).name
    try:
        content = weights.read_bytes()
    except OSError as error:
        raise ValueError(f"{weights.name} is missing from {folder}: copy the whole folder, or save again.") from error
    if hashlib.sha256(content).hexdigest() != card.get("sha256"):
        raise ValueError(f"{weights} is damaged or cut short: its content is not what {_CARD} names. Copy it again.")
    try:
        return deserialise(content), card
    except SafetensorError as error:
        raise ValueError(f"{weights} is no safetensors file ({error}): save the model again.") from error


def exists(folder: Path) -> bool:
    """Whether a model was ever completely written to the folder."""
    return (folder / _CARD).is_file()


def data_hash(*arrays: np.ndarray) -> str:
    """Short hash of the data behind a model."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_contiguous(array).tobytes())
    return digest.hexdigest()[:16]


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(np.shape(array))


def _write(path: Path, content: bytes) -> None:
    """All or nothing: beside its place first, onto the disk, then renamed."""
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def _is_ours(folder: Path) -> bool:
    """Whether there is a model, or the remains of an interrupted first save."""
    names = [path.name for path in folder.iterdir()]
    return _CARD in names or all(name.startswith("weights-") or name.endswith(".part") for name in names)
