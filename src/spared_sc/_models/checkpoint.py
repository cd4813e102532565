"""Model folders: safetensors and a JSON card under one hash; a crash leaves the old or the new model, never half of one."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc import __version__
from spared_sc._core.files import as_path, read_json, write_whole, writing
from spared_sc._core.locks import only_writer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CARD = "card.json"
_FORMAT = "spared-sc model 2"
FRONT = "front"  # folder for the checkpoint of a first stage, inside that of the whole
_OURS = re.compile(rf"weights-[0-9a-f]{{16}}\.safetensors(\.part)?|card\.json\.part|\.card\.json\.lock|{FRONT}")
_AGAIN = "copy the whole folder again, or remove it and save or fit again"
_PATIENCE = 30.0  # seconds in which other processes may save a model again and again while it is read
# What readers raise on arrays and values that do not fit together.
GENES = "genes"  # name of the array that holds their hash
MISFITS = (LookupError, TypeError, ValueError, RuntimeError, AttributeError, ArithmeticError, AssertionError)


def save(
    folder: str | Path,
    kind: str,
    arrays: Mapping[str, np.ndarray],
    card: Mapping[str, Any],
    *,
    gaps: tuple[str, ...] = (),
    unbounded: tuple[str, ...] = (),
) -> None:
    """Write a model folder; one that holds something else is refused.

    The arrays go into a file that is named after its content. The card, which names that file, is renamed into place
    last: until then a reader sees the old model, from then on the new one. Values that are not finite are refused, except
    NaN in arrays whose names begin with one of `gaps`, and infinity in those that are `unbounded`.
    """
    from safetensors.numpy import save as serialise

    folder = as_path(folder, "the folder of a model")
    damaged = _not_finite(arrays, gaps, unbounded)
    if damaged:
        raise ValueError(f"{damaged} and would predict nothing: nothing was saved. Fit again with other parameters.")
    content = serialise({name: _contiguous(array) for name, array in arrays.items()})
    weights = f"weights-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    text = {"format": _FORMAT, "kind": kind, "version": __version__, "weights": weights, "bytes": len(content), **card}
    signed = {**text, "sha256": _digest(content, json.loads(json.dumps(text)))}
    with reserved(folder), writing(folder, "A model that was there before is unchanged."):
        write_whole(folder / weights, content)
        write_whole(folder / _CARD, json.dumps(signed, indent=1).encode())
        for old in folder.iterdir():
            if old.name.startswith("weights-") and old.name != weights and _OURS.fullmatch(old.name):
                old.unlink(missing_ok=True)


@contextmanager
def reserved(folder: str | Path | None) -> Iterator[None]:
    """Be the only writer of a model folder for the length of a block; nothing happens with `None`.

    Before the block: an error if the folder cannot be written, holds something else, or is being written by another
    process. A folder that is still empty afterwards is removed.
    """
    if folder is None:
        yield
        return
    folder = as_path(folder, "the folder of a model")
    _check_ours(folder)
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    with ExitStack() as stack:
        stack.callback(_remove_empty, made)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(folder / _CARD))
        yield


def check_place(folder: str | Path | None) -> None:
    """Find out before the work whether a model can be saved there; errors as of `reserved`."""
    with reserved(folder):
        pass


def load(
    folder: str | Path, *kinds: str, gaps: tuple[str, ...] = (), unbounded: tuple[str, ...] = ()
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Arrays and card of a model folder of one of these kinds; a ValueError if it is damaged or something else.

    Both are covered by one hash. Arrays hold finite values only, but for those that `save` was told of.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialise

    folder = as_path(folder, "the folder of a model")
    if not exists(folder):
        reason = "a file" if folder.is_file() else "no such folder" if not folder.exists() else f"no {_CARD} in it"
        raise FileNotFoundError(f"{folder} is no saved model ({reason}): give the folder that `save` wrote.")
    content, card = _read(folder, kinds)
    try:
        arrays = deserialise(content)
    except SafetensorError as error:
        raise ValueError(f"{card['weights']} in {folder} is no safetensors file ({error}): {_AGAIN}.") from error
    damaged = _not_finite(arrays, gaps, unbounded)
    if damaged:
        raise ValueError(f"the model in {folder} is damaged: {damaged}. Fit and save it again.")
    return arrays, card


def exists(folder: Path) -> bool:
    """Whether a model was ever completely written to the folder."""
    return (folder / _CARD).exists()


@contextmanager
def fitting(what: str, remedy: str) -> Iterator[None]:
    """Say of values that do not fit together that they are damaged."""
    try:
        yield
    except MISFITS as error:
        reason = " ".join(str(error).split())  # torch's has a line for each array
        raise ValueError(f"{what} is damaged: weights and card do not fit ({reason:.200}). {remedy}") from error


def names_of(names: Any, what: str = "gene") -> list[str]:
    """Names in a card, each once; a ValueError otherwise."""
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{names!r:.60} is no list of {what}s")
    if len(set(names)) < len(names):
        raise ValueError(f"a {what} is named twice")
    return names


def ids_of(ids: Any, genes: list[str]) -> list[str] | None:
    """Ids of the genes in a card, which may be missing as a whole; a ValueError unless there is one text per gene."""
    if ids is None:
        return None
    if not isinstance(ids, list) or len(ids) != len(genes) or not all(isinstance(name, str) for name in ids):
        raise ValueError(f"{ids!r:.60} is no list of {len(genes)} gene ids")
    return ids


def genes_hash(genes: list[str], ids: list[str] | None) -> np.ndarray:
    """Hash of genes in their order, uint8 (32,): kept with the weights, it says which genes these are for."""
    return np.frombuffer(hashlib.sha256(json.dumps([genes, ids]).encode()).digest(), dtype=np.uint8)


def check_genes(arrays: dict[str, np.ndarray], genes: list[str], ids: list[str] | None) -> None:
    """Take the hash of the genes out of saved arrays; a ValueError unless it is that of these genes in this order."""
    if not np.array_equal(arrays.pop(GENES), genes_hash(genes, ids)):
        raise ValueError("the weights are for other genes, or for the same in another order")


def data_hash(*arrays: np.ndarray) -> str:
    """Short hash of the data behind a model."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(_contiguous(array).tobytes())
    return digest.hexdigest()[:16]


def _read(folder: Path, kinds: tuple[str, ...]) -> tuple[bytes, dict[str, Any]]:
    """Content of the weights, and the card, that belong together."""
    until = time.monotonic() + _PATIENCE
    while True:
        card = _read_card(folder, kinds)
        try:
            return _read_weights(folder, card), card
        except ValueError:  # unless another process has saved a model in the meantime
            if time.monotonic() > until or _read_card(folder, kinds) == card:
                raise


def _read_card(folder: Path, kinds: tuple[str, ...]) -> dict[str, Any]:
    try:
        card = read_json(folder / _CARD)
    except ValueError as error:
        raise ValueError(f"{error}: {_AGAIN}.") from error
    if card.get("format") != _FORMAT:
        raise ValueError(
            f"{folder / _CARD} says format {card.get('format')!r:.60}, expected {_FORMAT!r}: it was written by "
            "another program or version of spared-sc. Fit and save the model again."
        )
    if card.get("kind") not in kinds:
        expected = " or ".join(map(repr, kinds))
        raise ValueError(f"{folder} holds a model of kind {card.get('kind')!r:.60}, expected {expected}.")
    return card


def _read_weights(folder: Path, card: dict[str, Any]) -> bytes:
    """Content of the weights, if it and the card are what was saved."""
    weights = str(card.get("weights"))
    if not _OURS.fullmatch(weights):
        raise ValueError(f"{folder / _CARD} is damaged: it names the weights {weights[:50]!r}. {_AGAIN.capitalize()}.")
    try:
        if not (folder / weights).is_file():  # a device would be read without an end
            raise FileNotFoundError
        if (folder / weights).stat().st_size == card.get("bytes"):
            content = (folder / weights).read_bytes()
            if _digest(content, card) == card.get("sha256"):
                return content
    except OSError as error:
        raise ValueError(f"{weights} is missing from {folder}: {_AGAIN}.") from error
    raise ValueError(
        f"the model in {folder} is damaged or cut short: {weights} or {_CARD} is not what was saved. {_AGAIN.capitalize()}."
    )


def _digest(content: bytes, card: Mapping[str, Any]) -> str:
    """Hash of the weights and of all else in the card."""
    rest = {name: value for name, value in card.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode())
    digest.update(content)
    return digest.hexdigest()


def _not_finite(arrays: Mapping[str, np.ndarray], gaps: tuple[str, ...], unbounded: tuple[str, ...]) -> str:
    """Which array holds values that are not finite, in words; empty if none does."""
    for name, array in arrays.items():
        if np.issubdtype(array.dtype, np.inexact):
            allowed = np.isfinite(array)
            if name.startswith(gaps):
                allowed |= np.isnan(array)
            if name.startswith(unbounded):
                allowed |= np.isposinf(array)
            n_bad = int((~allowed).sum())
            if n_bad:
                return f"{n_bad} of {np.size(array)} values of {name!r} are NaN or infinite"
    return ""


def _contiguous(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(np.shape(array))


def _check_ours(folder: Path) -> None:
    """Refuse a folder that holds something else than a model, or the remains of an interrupted first save."""
    with writing(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file: give the name of a folder for the model.")
        names = [path.name for path in folder.iterdir()]
    if _CARD not in names:
        others = [name for name in names if not _OURS.fullmatch(name)]
        if others:
            raise ValueError(
                f"{folder} holds other files ({others[0]!r}) and no {_CARD}: give an empty or a new folder for the model."
            )
        return
    try:
        ours = str(read_json(folder / _CARD).get("format")).startswith("spared-sc model")
    except ValueError:
        ours = False
    if not ours:
        raise ValueError(
            f"{folder / _CARD} is not the card of a model of spared-sc: remove it, or give an empty or a new folder."
        )


def _remove_empty(folders: list[Path]) -> None:
    """Remove folders that were made for nothing, the innermost first."""
    for folder in folders:
        with suppress(OSError):  # it is not empty, or gone
            folder.rmdir()
