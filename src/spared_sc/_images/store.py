"""Patches on disk: a zarr array of pixels, with the spot of each patch and the recipe in its attributes.

`manifest.json` beside the array has the size and the checksum of every chunk, and a hash of all that describes them: a store
is read whole, or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core.files import as_path, read_json, write_whole, writing
from spared_sc._core.locks import only_writer
from spared_sc._core.report import logger, progress_bar
from spared_sc._core.validate import listing
from spared_sc._images.patches import AnyPatches

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from spared_sc._core.validate import Libraries

_FORMAT = "spared_sc_patches"
_VERSION = 3
_MANIFEST = "manifest.json"
_OURS = re.compile(r"zarr\.json|manifest\.json(\.part)?|c|zarr\.[0-9a-f]{32}\.partial")  # names in a store
# A chunk is read as a whole: few patches, for reading in random order; many, for few files. Measured at 224 px: 0.15 ms
# a patch in order, 1.2 ms at random, a fifth smaller than the pixels.
_CHUNK = 8
_BATCH = 32 * _CHUNK  # patches that are cut at once
_MOST_SIDE = 4096  # of a patch, in pixels, as `pp.extract_patches` allows
_CHECKSUM = struct.Struct("<I")  # that ends a chunk: its CRC32C
_UNCHANGED = "Patches that were there before are unchanged."
_UNREADABLE = (OSError, ValueError, RuntimeError, TypeError)  # what zarr raises on a damaged chunk


def spot_names(libraries: Libraries, names: Any) -> list[str]:
    """Unique names of spots: library and name, told apart by the first slash."""
    escaped = [name.replace("%", "%25").replace("/", "%2F") for name in libraries.names]
    return [f"{escaped[code]}/{name}" for code, name in zip(libraries.codes, names, strict=True)]


def is_store(path: str | Path) -> bool:
    """Whether the path is a zarr array."""
    path = as_path(path, "image")
    return path.suffix == ".zarr" or (path / "zarr.json").is_file()


def write_store(
    patches: AnyPatches, path: str | Path, *, overwrite: bool = False, show_progress_bar: bool | None = None
) -> Path:
    """Write all patches, and return the folder; a folder that already holds them is not changed.

    They are written beside the folder, which appears once all are complete. An interrupted run is resumed, and one
    process writes at a time. Only a store of patches is ever replaced.
    """
    folder = as_path(path, "store")
    meta = {
        _FORMAT: _VERSION,
        "spots": patches.names.tolist(),
        "recipe": json.dumps(patches.recipe),
        "fingerprint": patches.fingerprint(),
    }
    if len(set(meta["spots"])) < len(patches):
        raise ValueError("two spots have one name: call `adata.obs_names_make_unique()` before patches are stored.")
    if _is_there(folder, meta, overwrite=overwrite):
        return folder
    with _alone(folder):
        if not _is_there(folder, meta, overwrite=overwrite):  # another process may have written it
            part = _beside(folder, "{}.part")
            _write(patches, folder, part, meta, show_progress_bar)
            with writing(folder, _UNCHANGED):
                _replace(folder, part)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Be the only one who writes the folder; what a killed writer has begun to replace is finished or undone."""
    with ExitStack() as stack:
        with writing(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(only_writer(folder))
            old = _beside(folder, ".{}.old")
            if old.exists() and not folder.exists():
                old.rename(folder)
            _remove(old)
        yield


def _beside(folder: Path, name: str) -> Path:
    return folder.with_name(name.format(folder.name))


def _is_there(folder: Path, meta: dict[str, Any], *, overwrite: bool) -> bool:
    """Whether the folder holds these patches; a FileExistsError if it holds others that are not to be replaced."""
    with writing(folder):
        for place in (folder, _beside(folder, "{}.part"), _beside(folder, ".{}.old")):
            _check_ours(place)
        if overwrite or not folder.is_dir() or not any(folder.iterdir()):
            return False
    again = f"`sp.pp.extract_patches(adata, store={str(folder)!r}, overwrite=True)`"
    found = _Whole.of(folder, again).attributes
    if _same(found, meta):
        logger.info("%s holds these patches already", folder)
        return True
    raise FileExistsError(
        f"{str(folder)!r} holds other patches: pass overwrite=True to replace them, or another `store=`."
    )


def _check_ours(folder: Path) -> None:
    """Refuse what is no store of patches, by any version, nor empty, nor what is left of one."""
    if not folder.exists():
        return
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else [folder.name]
    others = [name for name in names if not _OURS.fullmatch(name)]
    marked = any(_marked(folder / name) for name in ("zarr.json", _MANIFEST))
    if marked and others:
        raise FileExistsError(
            f"{str(folder)!r} holds files that do not belong to a store of patches ({listing(others, 3)}): move them, or "
            "pass another `store=`."
        )
    if not marked and any(not name.endswith(".partial") for name in names):
        raise FileExistsError(f"{str(folder)!r} exists and is no store of patches: pass another `store=`.")


def _marked(path: Path) -> bool:
    """Whether a JSON file says that it belongs to a store of patches."""
    try:
        content = read_json(path)
        return _FORMAT in content or _FORMAT in content["attributes"]
    except (ValueError, KeyError, TypeError):
        return False


def _write(patches: AnyPatches, folder: Path, part: Path, meta: dict[str, Any], show_progress_bar: bool | None) -> None:
    """Write what is missing of the patches of a folder, and the manifest, beside it."""
    with writing(folder, _UNCHANGED):
        array, done = _resumed(part, meta)
        if array is None:
            array = _new_array(part, len(patches), patches.side, meta)
    with progress_bar(total=len(patches), desc="patches", show=show_progress_bar, unit="patch") as bar:
        bar.update(done)
        for first in range(done, len(patches), _BATCH):
            rows = np.arange(first, min(first + _BATCH, len(patches)))
            pixels = patches.read(rows)
            with writing(folder, f"{_UNCHANGED} The same call goes on where this one has ended."):
                array[first : rows[-1] + 1] = pixels
            bar.update(len(rows))
    with writing(folder, _UNCHANGED):
        for left in part.glob("**/*.partial"):  # of a writer that was killed
            left.unlink()
        chunks = [_size_and_checksum(path) for path in _chunk_paths(part, len(patches))]
        _check_chunks(part, chunks, "write it again")
        manifest = {_FORMAT: _VERSION, "chunks": chunks, "sha256": _digest((part / "zarr.json").read_bytes(), chunks)}
        write_whole(part / _MANIFEST, json.dumps(manifest).encode())


def _replace(folder: Path, part: Path) -> None:
    """Put a complete part into the place of the folder."""
    old = _beside(folder, ".{}.old")
    if folder.exists():
        folder.rename(old)
    try:
        part.rename(folder)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    _remove(old)


def _remove(folder: Path) -> None:
    """Remove a store, the file by which it is known last; anything that is not ours keeps the folder."""
    if not folder.exists():
        return
    _check_ours(folder)
    if (folder / "c").is_dir():
        shutil.rmtree(folder / "c")
    for path in sorted(folder.iterdir(), key=lambda path: path.name == "zarr.json"):
        path.unlink()
    folder.rmdir()


def _new_array(part: Path, n_patches: int, side: int, meta: dict[str, Any]) -> Any:
    """An empty array in the place of another one."""
    import zarr
    from zarr.codecs import BloscCodec, Crc32cCodec

    _remove(part)
    return zarr.create_array(
        store=str(part),
        shape=(n_patches, side, side, 3),
        chunks=(_CHUNK, side, side, 3),
        dtype="uint8",
        zarr_format=3,
        compressors=[BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=1), Crc32cCodec()],
        attributes=meta,
        config={"write_empty_chunks": True},  # otherwise a black patch would look as if it was not written yet
    )


def _same(attributes: dict[str, Any], meta: dict[str, Any]) -> bool:
    """Whether both describe the same patches of the same spots, wherever their images are."""
    return all(attributes.get(name) == meta[name] for name in meta if name != "recipe")


def _resumed(part: Path, meta: dict[str, Any]) -> tuple[Any, int]:
    """The array of an interrupted run with the same patches, and the number of complete ones."""
    import zarr

    try:
        if not _same(read_json(part / "zarr.json")["attributes"], meta):
            return None, 0
        array = zarr.open_array(str(part), mode="r+")
    except (KeyError, AttributeError, *_UNREADABLE):
        return None, 0
    n_whole = 0
    for path in _chunk_paths(part, len(meta["spots"])):
        if not _is_whole(array, n_whole, path):
            break
        n_whole += 1
    done = n_whole * _CHUNK // _BATCH * _BATCH
    if done:
        logger.info("resuming at patch %d, where an earlier run of %s was interrupted", done, part)
    return array, done


def _is_whole(array: Any, chunk: int, path: Path) -> bool:
    """Whether a chunk is there and has its own checksum."""
    try:
        return path.is_file() and bool(np.size(array[chunk * _CHUNK : (chunk + 1) * _CHUNK]))
    except _UNREADABLE:
        return False


def _chunk_paths(folder: Path, n_patches: int) -> list[Path]:
    return [folder / "c" / str(chunk) / "0" / "0" / "0" for chunk in range(-(-n_patches // _CHUNK))]


def _size_and_checksum(path: Path) -> list[int]:
    """Bytes and checksum of a chunk, which it ends with; [0, 0] if there is none."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(size - _CHECKSUM.size, 0))
            return [size, *_CHECKSUM.unpack(file.read(_CHECKSUM.size))]
    except (OSError, struct.error):
        return [0, 0]


def _check_chunks(folder: Path, chunks: Any, again: str) -> None:
    """A ValueError if a chunk is missing, cut short or another one."""
    paths = _chunk_paths(folder, len(chunks) * _CHUNK)
    bad = [path for path, entry in zip(paths, chunks, strict=True) if not entry[0] or _size_and_checksum(path) != entry]
    if bad:
        raise ValueError(
            f"the store {str(folder)!r} is damaged: {len(bad)} of its {len(chunks)} chunks are missing, cut short or "
            f"changed (such as {bad[0].relative_to(folder)}). Copy the whole folder again, or {again}."
        )


def _digest(description: bytes, chunks: Any) -> str:
    """Hash of what describes the array and its chunks."""
    return hashlib.sha256(description + json.dumps(chunks).encode()).hexdigest()


@dataclass(frozen=True)
class _Whole:
    """A store whose description and list of chunks are as they were written."""

    attributes: dict[str, Any]
    chunks: list[list[int]]  # size and checksum of each
    side: int

    @classmethod
    def of(cls, folder: Path, again: str) -> _Whole:
        """Read the description of a store; all chunks are there, and their content is checked when it is read."""
        try:
            described = read_json(folder / "zarr.json")
            attributes = described["attributes"]
            known = attributes[_FORMAT]
        except (ValueError, KeyError, TypeError) as error:
            if _marked(folder / _MANIFEST):
                raise ValueError(
                    f"the store {str(folder)!r} is damaged ({error}): write it again with {again}."
                ) from error
            raise ValueError(
                f"{folder} is no store of patches ({error!r}): pass an image or such a store as `image=`, or write one to "
                "another place with `sp.pp.extract_patches(adata, store=...)`."
            ) from error
        if known != _VERSION:
            raise ValueError(f"{folder} was written by another version of spared_sc: write it again with {again}.")
        try:
            manifest = read_json(folder / _MANIFEST)
            chunks = manifest["chunks"]
            if _digest((folder / "zarr.json").read_bytes(), chunks) != manifest["sha256"]:
                raise ValueError(f"zarr.json and {_MANIFEST} do not belong together")
            side = _side_of(described, attributes["spots"], chunks)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(f"the store {str(folder)!r} is damaged ({error}): write it again with {again}.") from error
        _check_chunks(folder, chunks, f"write it again with {again}")
        return cls(attributes, chunks, side)


def _side_of(described: dict[str, Any], spots: Any, chunks: Any) -> int:
    """Side of the patches; a ValueError if the array is not one of patches of these spots, in these chunks."""
    n_patches, side, *_ = shape = described["shape"]
    expected = [len(spots), side, side, 3]
    grid = described["chunk_grid"]["configuration"]["chunk_shape"]
    plain = isinstance(spots, list) and all(isinstance(size, int) for size in (*shape, *grid))
    if not plain or shape != expected or grid != [_CHUNK, side, side, 3] or not 0 < side <= _MOST_SIDE:
        raise ValueError(f"an array of shape {shape} in chunks of {grid} does not hold patches of {len(spots)} spots")
    if described["data_type"] != "uint8" or len(chunks) != -(-n_patches // _CHUNK):
        raise ValueError(f"{len(chunks)} chunks of {described['data_type']} do not hold {n_patches} patches")
    return side


@dataclass(frozen=True, eq=False)
class StoredPatches(AnyPatches):
    """Patches that are read from a store."""

    folder: Path
    array: Any
    rows: np.ndarray  # of the array, one for each spot
    library: np.ndarray
    names: np.ndarray
    recipe: dict[str, Any]
    side: int
    written: str  # fingerprint of all that the store holds
    chunks: list[list[int]]  # size and checksum of each

    @classmethod
    def of(cls, path: str | Path, names: Any, libraries: Libraries) -> StoredPatches:
        """The patches of these spots, found by name and library."""
        import zarr

        folder = as_path(path, "image")
        if not folder.exists():
            raise FileNotFoundError(
                f"there is no store of patches {str(folder)!r}: give its new place with `sp.pp.extract_patches(adata, "
                f"image=...)`, or write it with `sp.pp.extract_patches(adata, store={str(path)!r})`."
            )
        again = f"`sp.pp.extract_patches(adata, store={str(path)!r}, overwrite=True)`"
        whole = _Whole.of(folder, again)
        try:
            attributes = whole.attributes
            recipe, written = json.loads(attributes["recipe"]), attributes["fingerprint"]
            array = zarr.open_array(str(folder), mode="r")
        except (KeyError, *_UNREADABLE) as error:
            raise ValueError(f"the store {str(folder)!r} is damaged ({error}): write it again with {again}.") from error
        place = {spot: row for row, spot in enumerate(attributes["spots"])}
        spots = spot_names(libraries, names)
        missing = [spot for spot in spots if spot not in place]
        if missing:
            raise ValueError(
                f"the store {str(folder)!r} has no patch of {len(missing)} of {len(spots)} spots (such as "
                f"{missing[0]!r}; it has such as {listing(attributes['spots'], 1)}): write it again with {again}."
            )
        sources = {
            name: {**recipe["sources"][name], "source": "store", "where": str(folder)} for name in libraries.names
        }
        rows = np.array([place[spot] for spot in spots])
        return cls(
            folder=folder,
            array=array,
            rows=rows,
            library=libraries.codes,
            names=np.asarray(spots).astype(str),
            recipe={**recipe, "sources": sources},
            side=whole.side,
            written=written,
            chunks=whole.chunks,
        )

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Patches of some spots: uint8 (n, side, side, 3)."""
        wanted = self.rows[np.asarray(rows, dtype=np.int64)]
        patches = np.empty((len(wanted), self.side, self.side, 3), dtype=np.uint8)
        order = np.argsort(wanted, kind="stable")
        # Whole chunks, neighbouring ones together: zarr's own indexing by rows takes three times as long.
        chunk = wanted[order] // _CHUNK
        for run in np.split(np.arange(len(order)), np.flatnonzero(np.diff(chunk) > 1) + 1):
            if not run.size:
                continue
            first = int(chunk[run[0]])
            block = self._block(first, int(chunk[run[-1]]) + 1)
            patches[order[run]] = block[wanted[order[run]] - first * _CHUNK]
        return patches

    def _block(self, first: int, end: int) -> np.ndarray:
        """Some chunks, if they are those that were written."""
        # Zarr compares content and checksum of a chunk, and fills in those that are missing.
        paths = _chunk_paths(self.folder, end * _CHUNK)[first:]
        if [_size_and_checksum(path) for path in paths] == self.chunks[first:end]:
            try:
                return self.array[first * _CHUNK : end * _CHUNK]
            except _UNREADABLE as error:
                reason = str(error)
        else:
            reason = "a chunk is missing or was changed since the store was opened"
        raise ValueError(
            f"the store {str(self.folder)!r} is damaged ({reason:.200}): copy it again, or write it with "
            "`sp.pp.extract_patches(adata, store=..., overwrite=True)`."
        )
