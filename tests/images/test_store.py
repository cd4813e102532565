"""_images/store."""

from __future__ import annotations

import json
import logging
import shutil

import anndata as ad
import numpy as np
import pytest
import zarr

import spared_sc as sp
from helpers import KEY, shuffled
from helpers.images import SECTIONS, resolve, smooth
from helpers.locks import written_by_another
from spared_sc._images.patches import Patches
from spared_sc._images.store import StoredPatches


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return smooth()


@pytest.fixture
def adata(collection) -> ad.AnnData:
    return collection(**SECTIONS, then=shuffled)


def test_store_holds_the_same_patches(adata, tmp_path):
    store = tmp_path / "deep" / "patches.zarr"
    expected = resolve(adata, size=2.0, output_size=40)
    pixels = expected.read(np.arange(adata.n_obs))
    sp.pp.extract_patches(adata, size=2, output_size=40, store=store, show_progress_bar=False, **KEY)
    stored = resolve(adata)
    assert isinstance(stored, StoredPatches)
    assert (len(stored), stored.side) == (adata.n_obs, 40)
    assert np.array_equal(stored.read(np.arange(adata.n_obs)), pixels)
    order = np.random.default_rng(3).integers(0, adata.n_obs, 50)  # also twice
    assert np.array_equal(stored.read(order), pixels[order])
    assert stored.read([]).shape == (0, 40, 40, 3)
    assert np.array_equal(stored.library, expected.library)
    assert stored.fingerprint() == expected.fingerprint()
    assert stored.recipe["sources"]["library_1"]["source"] == "store"
    assert stored.recipe["sources"]["library_1"]["patch_px"] == expected.recipe["sources"]["library_1"]["patch_px"]
    # A selection in another order finds its patches by name, also after a detour through a file.
    keep = np.random.default_rng(1).permutation(adata.n_obs)[:30]
    adata[keep].write_h5ad(tmp_path / "some.h5ad")
    some = ad.read_h5ad(tmp_path / "some.h5ad")
    assert np.array_equal(resolve(some).read(np.arange(30)), pixels[keep])
    assert not isinstance(resolve(adata, output_size=32), StoredPatches)


def test_store_is_written_once(adata, tmp_path, caplog):
    store = tmp_path / "patches.zarr"
    options = {"output_size": 24, "store": store, **KEY}
    sp.pp.extract_patches(adata, **options)
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    with caplog.at_level(logging.INFO, logger="spared_sc"):
        sp.pp.extract_patches(adata, **options)
    assert "already" in caplog.text
    assert before == {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        sp.pp.extract_patches(adata, size=2, **options)
    sp.pp.extract_patches(adata, size=2, overwrite=True, **options)
    assert resolve(adata).recipe["size"] == 2
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]


def test_wrong_stores(adata, tmp_path):
    store = tmp_path / "patches.zarr"
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    sp.pp.extract_patches(one, output_size=24, store=store, **KEY)
    with pytest.raises(ValueError, match="no patch of 64 of 128 spots"):
        resolve(adata, image=store)
    for name, value in (("output_size", 64), ("mpp", 4.0)):
        with pytest.raises(ValueError, match=rf"output_size=24.*{name}={value}.* leave out"):
            resolve(one, image=store, **{name: value})
    moved = store.rename(tmp_path / "moved.zarr")
    with pytest.raises(FileNotFoundError, match=r"new place with `sp.pp.extract_patches\(adata, image=...\)`"):
        resolve(one)
    assert len(resolve(one, image=moved)) == 64
    shutil.copytree(moved, store)
    for chunk in [p for p in store.rglob("*") if p.is_file() and p.name != "zarr.json"]:
        chunk.write_bytes(chunk.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged"):
        resolve(one).read([0])
    (store / "zarr.json").write_text("{}")
    with pytest.raises(ValueError, match="no store of patches"):
        resolve(one)


def test_a_moved_store_is_named_as_the_image(adata, tmp_path):
    old, new = tmp_path / "old.zarr", tmp_path / "new.zarr"
    sp.pp.extract_patches(adata, size=90, unit="um", output_size=24, store=old, **KEY)
    pixels = resolve(adata).read(np.arange(adata.n_obs))
    old.rename(new)
    some = adata[::2].copy()  # fewer spots than the store holds
    sp.pp.extract_patches(some, image=new, **KEY)
    found = some.uns["spared_sc"]["patches"]["params"]
    assert (found["size"], found["unit"], found["output_size"], found["store"]) == (90, "um", 24, str(new))
    assert isinstance(resolve(some), StoredPatches)
    assert np.array_equal(resolve(some).read(np.arange(some.n_obs)), pixels[::2])


@pytest.mark.filterwarnings("ignore:.*mpp=4 was given:UserWarning")
def test_a_store_that_was_written_anew_is_noticed(adata, tmp_path):
    store = tmp_path / "patches.zarr"
    options = {"output_size": 24, "store": store, **KEY}
    sp.pp.extract_patches(adata, **options)
    fewer = adata[::3].copy()
    assert isinstance(resolve(fewer), StoredPatches)  # filtered since
    changes = {
        "size": lambda other: sp.pp.extract_patches(other, size=3, overwrite=True, **options),
        "scale": lambda other: sp.pp.extract_patches(other, mpp=4.0, overwrite=True, **options),
        "image": lambda other: (
            other.uns["spatial"]["library_2"]["images"].update(hires=hires[::-1].copy()),
            sp.pp.extract_patches(other, overwrite=True, **options),
        ),
    }
    hires = adata.uns["spatial"]["library_2"]["images"]["hires"]
    for change in changes.values():
        other = adata.copy()
        change(other)
        assert isinstance(resolve(other), StoredPatches)
        for one in (adata, fewer):
            with pytest.raises(ValueError, match=r"was rewritten.*extract_patches\(adata, image="):
                resolve(one)
        sp.pp.extract_patches(fewer, image=store, **KEY)
        assert resolve(fewer).recipe == resolve(other).recipe
        sp.pp.extract_patches(adata, overwrite=True, **options)
        fewer = adata[::3].copy()
    # Nor is a store at another scale taken for the same.
    with pytest.raises(FileExistsError, match="holds other patches: pass overwrite=True"):
        sp.pp.extract_patches(adata, mpp=4.0, **options)


@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_nothing_else_is_ever_replaced(adata, tmp_path):
    def contents():
        return {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}

    adata.write_zarr(tmp_path / "section.zarr")
    array = zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="uint8")
    array[:] = 7
    (tmp_path / "notes.zarr").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("mine")
    (tmp_path / "free.zarr.part").mkdir()
    (tmp_path / "free.zarr.part" / "notes.txt").write_text("mine")
    before, records = contents(), dict(adata.uns["spared_sc"])
    for name in ("section.zarr", "array.zarr", "notes.zarr", "folder", "free.zarr"):
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match="is no store of patches: pass another `store=`"):
                sp.pp.extract_patches(adata, output_size=24, store=tmp_path / name, overwrite=overwrite, **KEY)
    for name in ("section.zarr", "array.zarr"):
        with pytest.raises(ValueError, match="is no store of patches") as error:
            resolve(adata, image=tmp_path / name)
        assert "overwrite" not in str(error.value)
    assert contents() == before
    assert adata.uns["spared_sc"] == records
    # An empty folder may be filled, and what lies beside a store stays when it is replaced.
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "empty.zarr.old").mkdir()
    (tmp_path / "empty.zarr.old" / "notes.txt").write_text("mine")
    before = contents()
    sp.pp.extract_patches(adata, output_size=24, store=tmp_path / "empty.zarr", **KEY)
    sp.pp.extract_patches(adata, size=2, output_size=24, store=tmp_path / "empty.zarr", overwrite=True, **KEY)
    assert resolve(adata).recipe["size"] == 2
    left = {path: content for path, content in contents().items() if tmp_path / "empty.zarr" not in path.parents}
    assert left == before


def test_an_interrupted_store_is_finished(adata, tmp_path, monkeypatch):
    from spared_sc._images import store as module

    monkeypatch.setattr(module, "_BATCH", 8)
    store = tmp_path / "patches.zarr"
    read, seen = Patches.read, []

    def stopping(self, rows):
        if len(rows) == 8:
            seen.append(int(rows[0]))
            if len(seen) == 5:
                raise KeyboardInterrupt
        return read(self, rows)

    monkeypatch.setattr(Patches, "read", stopping)
    before = adata.copy()
    with pytest.raises(KeyboardInterrupt):
        sp.pp.extract_patches(adata, output_size=24, store=store, **KEY)
    assert not store.exists()
    assert "patches" not in adata.uns["spared_sc"]
    assert adata.uns["spared_sc"].keys() == before.uns["spared_sc"].keys()
    sp.pp.extract_patches(adata, output_size=24, store=store, **KEY)
    assert seen[5:] == list(range(32, 128, 8))  # four of the five batches were written
    monkeypatch.undo()
    whole = resolve(adata, image="hires", output_size=24).read(np.arange(adata.n_obs))
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]


@pytest.fixture
def stored(adata, tmp_path):
    """A store of small patches, its folder and their pixels."""
    store = tmp_path / "patches.zarr"
    sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    return store, resolve(adata).read(np.arange(adata.n_obs))


def chunks_of(store):
    return sorted(path for path in store.rglob("*") if path.is_file() and "c" in path.relative_to(store).parts)


def never_other_pixels(adata, pixels) -> bool:
    """Whether reading the store is refused; a test fails where it gives other pixels than were written."""
    found, message = None, ""
    try:
        found = resolve(adata).read(np.arange(adata.n_obs))
    except ValueError as error:
        message = str(error)
    if found is None:
        assert "damaged" in message or "another version" in message
        assert "overwrite=True" in message
        return True
    assert np.array_equal(found, pixels)
    return False


def test_damage_of_a_chunk_is_noticed(adata, stored):
    store, pixels = stored
    rng = np.random.default_rng(0)
    for path in chunks_of(store):
        content = path.read_bytes()
        flipped = bytearray(content)
        flipped[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        page = bytearray(content)
        first = int(rng.integers(len(content)))
        page[first : first + 512] = bytes(len(page[first : first + 512]))
        cut = int(rng.integers(1, 6))
        for harmed in (flipped, page, content[:-cut], content + b"\0", b"", bytes(len(content))):
            if bytes(harmed) != content:
                path.write_bytes(harmed)
                assert never_other_pixels(adata, pixels)
        path.unlink()
        assert never_other_pixels(adata, pixels)
        path.mkdir()
        assert never_other_pixels(adata, pixels)
        path.rmdir()
        path.write_bytes(content)
    one, other = chunks_of(store)[:2]
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])  # each of them is whole
    other.write_bytes(contents[0])
    assert never_other_pixels(adata, pixels)


@pytest.mark.parametrize("name", ["zarr.json", "manifest.json"])
def test_damage_of_the_description_is_noticed(adata, stored, name):
    store, pixels = stored
    content = (store / name).read_bytes()
    rng = np.random.default_rng(1)
    for place in rng.choice(len(content), 40, replace=False):
        harmed = bytearray(content)
        harmed[place] ^= 1 << int(rng.integers(8))
        (store / name).write_bytes(harmed)
        never_other_pixels(adata, pixels)
    for harmed in (content[: len(content) // 2], b"", b"[" * 100_000, b'{"attributes": 3}', b"[]", b"null"):
        (store / name).write_bytes(harmed)
        assert never_other_pixels(adata, pixels)
        with pytest.raises(ValueError, match=r"damaged.*overwrite=True"):  # nor taken for written
            sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    (store / name).unlink()
    assert never_other_pixels(adata, pixels)
    sp.pp.extract_patches(adata, output_size=16, store=store, overwrite=True, **KEY)
    assert not never_other_pixels(adata, pixels)


@pytest.mark.parametrize(
    "change",
    [
        {"shape": [128, 10**9, 10**9, 3]},
        {"shape": [10**12, 16, 16, 3]},
        {"shape": [128]},
        {"shape": [128.0, 16, 16, 3]},
        {"data_type": "float64"},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**9, 16, 16, 3]}}},
        {"chunk_grid": 3},
    ],
)
def test_a_description_that_asks_for_much_is_refused(adata, stored, change):
    """Also with a right hash, as a hostile store may have."""
    from spared_sc._images import store as module

    store, pixels = stored
    (store / "zarr.json").write_text(json.dumps(json.loads((store / "zarr.json").read_text()) | change))
    manifest = json.loads((store / "manifest.json").read_text())
    manifest["sha256"] = module._digest((store / "zarr.json").read_bytes(), manifest["chunks"])
    (store / "manifest.json").write_text(json.dumps(manifest))
    assert never_other_pixels(adata, pixels)


def test_a_chunk_that_goes_while_the_store_is_open(adata, stored):
    store, _ = stored
    patches = resolve(adata)
    chunks_of(store)[3].unlink()
    with pytest.raises(ValueError, match="a chunk is missing or was changed since the store was opened"):
        patches.read(np.arange(adata.n_obs))


def test_files_of_the_user_in_a_store_are_not_deleted(adata, stored):
    store, pixels = stored
    (store / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"do not belong to a store of patches \('notes.txt'\): move them"):
        sp.pp.extract_patches(adata, size=2, output_size=16, store=store, overwrite=True, **KEY)
    assert (store / "notes.txt").read_text() == "mine"
    assert not never_other_pixels(adata, pixels)


def test_a_killed_replacement_is_finished_or_undone(adata, stored):
    store, pixels = stored
    old, part = store.with_name(".patches.zarr.old"), store.with_name("patches.zarr.part")
    shutil.copytree(store, part)
    (part / "manifest.json").unlink()  # the new patches, nearly complete
    store.rename(old)  # killed between the two renames
    with pytest.raises(FileExistsError, match="holds other patches"):
        sp.pp.extract_patches(adata, size=2, output_size=16, store=store, **KEY)
    assert not never_other_pixels(adata, pixels)
    shutil.copytree(store, old)  # killed while the old ones were removed
    for path in chunks_of(old)[:5]:
        path.unlink()
    (part / ("zarr." + "0" * 32 + ".partial")).touch()
    (part / "c" / "0" / "0" / "0" / ("0." + "0" * 32 + ".partial")).touch()
    sp.pp.extract_patches(adata, size=2, output_size=16, store=store, overwrite=True, **KEY)
    assert [path.name for path in store.parent.iterdir()] == ["patches.zarr"]
    assert not list(store.rglob("*.partial"))


def test_an_interrupted_store_with_a_damaged_chunk(adata, tmp_path, monkeypatch):
    from spared_sc._images import store as module

    monkeypatch.setattr(module, "_BATCH", 8)
    store, part = tmp_path / "patches.zarr", tmp_path / "patches.zarr.part"
    sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    expected = resolve(adata).read(np.arange(adata.n_obs))
    for harm in (lambda path: path.write_bytes(bytes(20)), lambda path: path.unlink()):
        store.rename(part)
        harm(part / "c" / "5" / "0" / "0" / "0")
        sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
        assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), expected)


def test_one_process_writes_a_store(adata, tmp_path, monkeypatch):
    from spared_sc._core import locks
    from spared_sc._core.locks import only_writer

    monkeypatch.setattr(locks, "_WAIT", 0.1)
    store = tmp_path / "patches.zarr"
    with written_by_another(store) as writer:
        with pytest.raises(TimeoutError, match=f"is being written by process {writer}"):
            sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
        assert not store.exists()
    sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    with only_writer(store):  # whoever finds what it wants does not wait
        sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)


def test_libraries_and_spots_whose_names_join_to_the_same(adata, tmp_path):
    names = {"library_1": "a", "library_2": "a/b"}
    first = (adata.obs["library_id"] == "library_1").to_numpy()
    adata.uns["spatial"] = {names[name]: slide for name, slide in adata.uns["spatial"].items()}
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).map(names)
    place = np.where(first, np.cumsum(first), np.cumsum(~first))
    adata.obs_names = [f"b/{i}" if of_a else str(i) for of_a, i in zip(first, place, strict=True)]
    assert adata.obs_names.is_unique
    expected = resolve(adata, output_size=16).read(np.arange(adata.n_obs))
    sp.pp.extract_patches(adata, output_size=16, store=tmp_path / "patches.zarr", **KEY)
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), expected)


@pytest.mark.parametrize("store", ["", "a\0b", "x" * 300])
def test_stores_that_no_folder_can_be(adata, store):
    with pytest.raises(ValueError, match="store cannot be"):
        sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    assert "patches" not in adata.uns["spared_sc"]


def test_a_place_that_cannot_be_written(adata, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(Patches, "read", lambda self, rows: np.zeros((len(rows), 16, 16, 3), np.uint8))
    for store, message in (
        (tmp_path / "file" / "a.zarr", "choose a place that can be written"),
        (tmp_path / ("x" * 252), "choose a shorter name"),
        ("/proc/a.zarr", "choose a place that can be written"),
    ):
        with pytest.raises(OSError, match=f"cannot be written .*: {message}"):
            sp.pp.extract_patches(adata, output_size=16, store=store, **KEY)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_keeps_the_old_store(adata, stored, monkeypatch):
    import errno

    store, pixels = stored
    monkeypatch.setattr(zarr.Array, "__setitem__", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
    with pytest.raises(OSError, match="No space.*: free some space .* unchanged. The same call goes on") as raised:
        sp.pp.extract_patches(adata, size=2, output_size=16, store=store, overwrite=True, **KEY)
    assert raised.value.errno == errno.ENOSPC
    assert not never_other_pixels(adata, pixels)
    monkeypatch.undo()
    sp.pp.extract_patches(adata, size=2, output_size=16, store=store, overwrite=True, **KEY)
    assert [path.name for path in store.parent.iterdir()] == ["patches.zarr"]
