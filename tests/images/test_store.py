"""_images/store."""

from __future__ import annotations

import logging
import shutil

import anndata as ad
import numpy as np
import pytest
import zarr

import spared_sc as sp
from helpers import KEY, shuffled
from helpers.images import SECTIONS, resolve, smooth
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
    assert seen[5:] == list(range(24, 128, 8))  # the last batch that was begun is done again
    monkeypatch.undo()
    whole = resolve(adata, image="hires", output_size=24).read(np.arange(adata.n_obs))
    assert np.array_equal(resolve(adata).read(np.arange(adata.n_obs)), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["patches.zarr"]
