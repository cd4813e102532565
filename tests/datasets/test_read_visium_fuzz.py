"""Section folders of random layout and random damage: what is read is the truth, or a refusal of ours.

`helpers.fuzz` says how to try more of them, and how to repeat one.
"""

from __future__ import annotations

import gzip
import traceback
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import spared_sc
from helpers.fuzz import numbers
from helpers.visium import Truth, put, write_section
from spared_sc.datasets import read_visium

if TYPE_CHECKING:
    import anndata as ad

SOURCE = str(Path(spared_sc.__file__).parent)
FOLDERS = 40
REFUSALS = (ValueError, TypeError, KeyError, FileNotFoundError, PermissionError, NotADirectoryError)
# What an error of ours tells the user to do.
REMEDIES = (
    "pass", "choose", "rename", "copy", "download", "expected", "check that", "give", "keep", "read it", "unpack", "put",
)  # fmt: skip


def written(folder: Path, rng: np.random.Generator) -> tuple[Truth, dict]:
    """A section in a random layout, and how it is read."""
    bin_um = [None, None, None, 2, 8, 16][rng.integers(6)]
    truth = Truth(seed=int(rng.integers(2**31)), n_genes=int(rng.integers(2, 20)), bin_um=bin_um)
    hd = bin_um is not None and rng.random() < 0.7
    outs = folder / "outs" if rng.random() < 0.3 else folder
    place = outs / "binned_outputs" / f"square_{bin_um:03d}um" if hd else outs
    positions = ["tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet"][rng.integers(3)]
    write_section(
        place,
        truth,
        prefix=["", "", "GSM5_S1_", "A1-", "sample.3."][rng.integers(5)],
        gz=bool(rng.random() < 0.4),
        flat=bool(rng.random() < 0.4),
        counts=["h5", "h5", "h5 v2", "mtx", "mtx 2"][rng.integers(5)],
        raw=(raw := bool(rng.random() < 0.3)),
        positions=positions,
        header=positions.endswith("parquet") or bool(rng.random() < 0.7),
    )
    options = {"in_tissue_only": bool(rng.random() < 0.7), "load_images": bool(rng.random() < 0.7)}
    if hd and rng.random() < 0.5:
        options["bin_size"] = bin_um
    return truth, options | {"raw": raw}


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: int(rng.integers(len(content)))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    array = np.frombuffer(content, dtype=np.uint8).copy()
    for at in rng.integers(len(array), size=int(rng.integers(1, 20))):
        array[at] ^= 1 << int(rng.integers(8))
    return array.tobytes()


def spliced(content: bytes, rng: np.random.Generator) -> bytes:
    """A piece replaced by another piece of the same file, of another length."""
    at, start = rng.integers(len(content), size=2)
    return content[:at] + content[start : start + int(rng.integers(64))] + content[at + int(rng.integers(64)) :]


WORDS = (
    b"nan",
    b"-1",
    b"1e400",
    b"",
    b"null",
    b"[]",
    b"{}",
    b"\0",
    b"9" * 50,
    b'"',
    b"\n",
    b",",
    b"\t",
    b"0",
    b"\xff\xfe",
)


def reworded(content: bytes, rng: np.random.Generator) -> bytes:
    """A number replaced by something else."""
    digits = np.flatnonzero((np.frombuffer(content, dtype=np.uint8) - 48) < 10)
    at = int(digits[rng.integers(len(digits))]) if len(digits) else 0
    return content[:at] + WORDS[rng.integers(len(WORDS))] + content[at + 1 :]


def replaced(content: bytes, rng: np.random.Generator) -> bytes:
    kinds = (
        b"",
        b"<!DOCTYPE html><html></html>",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"PK\x03\x04",
        bytes(64),
        b"[" * 9999,
    )
    return kinds[rng.integers(len(kinds))]


DAMAGE = (cut, flipped, spliced, reworded, reworded, replaced)


def damage(folder: Path, rng: np.random.Generator) -> str:
    """Harm one file or one name; what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = files[rng.integers(len(files))]
    kind = rng.integers(10)
    if kind == 0:
        path.unlink()
        return f"removed {path.name}"
    if kind == 1:
        other = path.with_name(f"S9_{path.name}")
        path.rename(other)
        return f"renamed {path.name} to {other.name}"
    if kind == 2:
        other = files[rng.integers(len(files))]
        content = other.read_bytes()
        path.write_bytes(content)
        return f"{other.name} in place of {path.name}"
    content = path.read_bytes() or b"x"
    harm = DAMAGE[rng.integers(len(DAMAGE))]
    inside = unpacked(content) if rng.random() < 0.8 else None  # harm the text, or the compressed bytes
    path.write_bytes(gzip.compress(harm(inside, rng)) if inside else harm(content, rng))
    return f"{harm.__name__} {path.name}"


def unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):  # not compressed, or harmed before
        return None


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised on purpose: in this package, with a remedy."""
    frames = traceback.extract_tb(error.__traceback__)
    text = str(error).lower()
    return isinstance(error, REFUSALS) and frames[-1].filename.startswith(SOURCE) and any(r in text for r in REMEDIES)


def plausible(adata: ad.AnnData, n: int) -> None:
    """After damage that was not noticed, what is left is consistent: nothing that Space Ranger could not have written."""
    assert adata.n_obs <= n
    assert adata.obs_names.is_unique
    assert adata.var_names.is_unique
    assert np.isfinite(adata.X.data).all()
    assert (adata.X.data >= 0).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert np.isfinite(adata.obsm["spatial"]).all()
    places = adata.obs[["array_row", "array_col"]]
    assert not places.duplicated().any()
    (slot,) = adata.uns["spatial"].values()
    assert all(0 < value < np.inf for value in slot["scalefactors"].values())


def same_counts_and_positions(adata: ad.AnnData, truth: Truth) -> None:
    """Where names changed only, nothing but images and scale factors may be missing."""
    rows = [truth.names.index(name) for name in adata.obs_names]
    np.testing.assert_array_equal(adata.X.toarray(), truth.counts[rows])
    expected = truth.positions.iloc[rows][["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)
    np.testing.assert_array_equal(adata.obsm["spatial"], expected)


def outcome(folder: Path, options: dict) -> tuple[ad.AnnData | None, Exception | None]:
    try:
        return read_visium(folder, **options), None
    except Exception as error:  # noqa: BLE001 - every kind is what this is about
        return None, error


def try_whole(seed: int, place: Path) -> str:
    rng = np.random.default_rng([seed, 0])
    folder = place / f"run {seed}"
    truth, options = written(folder, rng)
    raw = options.pop("raw")
    adata = read_visium(folder, **options)
    if not options["load_images"]:
        assert adata.uns["spatial"][folder.name]["images"] == {}
    truth.check(adata, folder.name, raw=raw and not options["in_tissue_only"], images=options["load_images"])
    return "right"


def try_damaged(seed: int, place: Path) -> str:
    rng = np.random.default_rng([seed, 1])
    folder = place / f"damaged {seed}"
    truth, options = written(folder, rng)
    options.pop("raw")
    done = [damage(folder, rng) for _ in range(int(rng.integers(1, 3)))]
    if rng.random() < 0.1:
        put(folder / f"S{rng.integers(9)}_filtered_feature_bc_matrix.h5", b"x")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    adata, error = outcome(folder, options)
    if error is None:
        plausible(adata, len(truth.names))
        if all(what.startswith(("removed", "renamed")) for what in done):
            same_counts_and_positions(adata, truth)
    else:
        assert is_ours(error), (seed, done, repr(error)[:500])
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before, (seed, done)
    return "right" if error is None else "refused"


@pytest.mark.filterwarnings("error", "ignore:The 'mode.chained_assignment' option is deprecated")
@pytest.mark.parametrize("part", range(4))
def test_folders_of_any_layout(tmp_path: Path, part: int):
    """Without damage: exactly the truth."""
    for seed in numbers(FOLDERS // 2, part, 4):
        try_whole(seed, tmp_path)


@pytest.mark.parametrize("part", range(4))
def test_damaged_folders(tmp_path: Path, part: int):
    """After damage: the truth, something that the files really say, or a refusal with a remedy; files stay as they are."""
    for seed in numbers(FOLDERS, part, 4):
        try_damaged(seed, tmp_path)
