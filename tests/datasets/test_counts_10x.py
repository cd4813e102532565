"""Counts of Space Ranger and Cell Ranger: what is read, and what is refused before it takes memory."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from helpers.visium import Truth, h5_bytes, put, write_mtx, write_section
from spared_sc.datasets import read_visium
from spared_sc.datasets._counts_10x import MtxFiles, read_counts

if TYPE_CHECKING:
    from collections.abc import Callable


def check(found, truth: Truth) -> None:
    np.testing.assert_array_equal(found.values.toarray(), truth.counts)
    assert found.values.dtype == np.float32
    assert found.barcodes.tolist() == truth.names
    assert found.genes.index.tolist() == truth.ids
    assert found.genes["symbol"].tolist() == truth.symbols


@pytest.mark.parametrize("kind", ["h5", "h5 v2"])
@pytest.mark.parametrize("gz", [False, True])
def test_h5(tmp_path: Path, kind: str, gz: bool):
    truth = Truth()
    check(read_counts(put(tmp_path / "a.h5", h5_bytes(truth, 30, kind), gz)), truth)


def test_two_genomes_of_version_2(tmp_path: Path):
    """Their genes stand side by side, and the names of the genomes are kept."""
    one, two = Truth(seed=1), Truth(seed=2)
    two.ids = [f"ENSMUSG{i:011d}" for i in range(12)]
    two.names = one.names
    path = put(tmp_path / "a.h5", h5_bytes(one, 30, "h5 v2"))
    with h5py.File(path, "a") as file, h5py.File(io.BytesIO(h5_bytes(two, 30, "h5 v2"))) as other:
        other.copy("GRCh38", file, name="mm10")
    found = read_counts(path)
    np.testing.assert_array_equal(found.values.toarray(), np.hstack([one.counts, two.counts]))
    assert found.genes.index.tolist() == one.ids + two.ids
    assert found.genes["genome"].tolist() == ["GRCh38"] * 12 + ["mm10"] * 12
    with h5py.File(path, "a") as file:
        file["mm10/barcodes"][:1] = b"other"
    with pytest.raises(ValueError, match=r"'GRCh38', 'mm10' with different barcodes"):
        read_counts(path)


@pytest.mark.parametrize("prefix", ["", "GSM1_S1_"])
@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("columns", [2, 3])
def test_matrix_market(tmp_path: Path, prefix: str, gz: bool, columns: int):
    truth = Truth()
    write_mtx(tmp_path, truth, 30, prefix=prefix, gz=gz, columns=columns)
    check(read_counts(mtx(tmp_path)), truth)


def test_matrix_market_with_one_column(tmp_path: Path):
    truth = Truth()
    write_mtx(tmp_path, truth, 30)
    put(tmp_path / "features.tsv", "\n".join(truth.symbols).encode(), gz=True)
    found = read_counts(mtx(tmp_path))
    assert found.genes.index.tolist() == found.genes["symbol"].tolist() == truth.symbols
    np.testing.assert_array_equal(found.values.toarray(), truth.counts)


def test_counts_of_no_spots(tmp_path: Path):
    with pytest.raises(ValueError, match=r"is empty: it holds 0 spots x 12 genes.*counts_file="):
        read_counts(put(tmp_path / "a.h5", h5_bytes(Truth(), 0)))


def mtx(folder: Path) -> MtxFiles:
    return MtxFiles(*(next(folder.glob(f"*{role}*")) for role in ("matrix", "[fg]e*es.tsv", "barcodes")))


def change(name: str, value: Any) -> Callable[[Any], None]:
    """Replace an array, or change one in place."""

    def put_it(group: Any) -> None:
        new = value(group[name][()]) if callable(value) else value
        del group[name]
        if new is not None:
            group[name] = new

    return put_it


def huge(name: str, n: int, **options: Any) -> Callable[[Any], None]:
    """An array that declares `n` values and stores none."""

    def put_it(group: Any) -> None:
        dtype = group[name].dtype
        del group[name]
        group.create_dataset(name, (n,), **{"dtype": dtype, "chunks": (2**20,), **options})

    return put_it


def at(index: int, value: Any) -> Callable[[np.ndarray], np.ndarray]:
    def change_one(array: np.ndarray) -> np.ndarray:
        array = array.astype(np.int64) if array.dtype.kind in "iu" else array
        array[index] = value
        return array

    return change_one


H5_FAULTS = {
    "index beyond the genes": (change("indices", at(3, 12)), "indices go from 0 to 12, for 12 genes"),
    "negative index": (change("indices", at(3, -1)), "indices go from -1"),
    "huge index": (change("indices", at(3, 2**62)), "for 12 genes"),
    "index twice in a spot": (change("indices", lambda a: np.zeros_like(a)), "several values for one gene in one spot"),
    "places go back": (change("indptr", lambda a: a[::-1].copy()), "'indptr' does not start at 0"),
    "places beyond the values": (change("indptr", lambda a: a * 2), "has the shape|'indptr' does not"),
    "too few places": (change("indptr", lambda a: a[:-3]), r"'indptr' has the shape \(28,\) instead of 31 values"),
    "no places": (change("indptr", np.array([], dtype=int)), "'indptr' has the shape"),
    "places are no whole numbers": (change("indptr", lambda a: a + 0.5), "'indptr' holds float64"),
    "too few values": (change("data", lambda a: a[:-1]), r"'data' has the shape"),
    "values are texts": (change("data", lambda a: np.array([b"x"] * len(a))), r"'data' holds \|S1"),
    "values in a table": (change("data", lambda a: np.stack([a, a])), r"'data' has the shape \(2"),
    "a group for the values": (lambda g: (g.pop("data"), g.create_group("data")), "'data' is missing or is not an array"),
    "features are an array": (lambda g: (g.pop("features"), change("barcodes", lambda a: a)(g), g.create_dataset("features", data=[1])), "'features' is not a group"),
    "no ids": (lambda g: g.pop("features/id"), "'id' is missing"),
    "too few names": (change("features/name", lambda a: a[:-1]), r"'features/name' has the shape|'name' has the shape"),
    "names are numbers": (change("features/name", np.arange(12)), "instead of 12 texts"),
    "names are not UTF-8": (change("features/name", np.array([b"\xff\xfe"] * 12)), "utf-8"),
    "too many barcodes": (change("barcodes", lambda a: np.concatenate([a, a])), "instead of 30 texts"),
    "shape of three": (change("shape", [1, 2, 3]), r"shape is \[1, 2, 3\]"),
    "negative shape": (change("shape", [-12, 30]), r"shape is \[-12, 30\]"),
    "huge shape": (change("shape", np.array([2**60, 2**60])), "instead of"),
    "negative counts": (change("data", lambda a: -a), "values from -"),
    "counts that are not finite": (change("data", lambda a: a * np.nan), "values from nan to nan"),
    "counts of 1e300": (change("data", lambda a: np.where(a > 0, 1e300, 0)), r"values from 1e\+300"),
    "counts that are none": (change("data", lambda a: a * 0.7), "not whole numbers, such as normalised.*raw_feature_bc"),
    "no barcodes": (lambda g: g.pop("barcodes"), "lacks 'barcodes'"),
    "8 TiB of values": (lambda g: (huge("data", 2**40, dtype="f8", compression="gzip")(g), huge("indices", 2**40, dtype="i8", compression="gzip")(g)), "has the shape"),
    "8 TiB of values, places fit": (lambda g: (huge("data", 2**40)(g), huge("indices", 2**40)(g), change("indptr", np.linspace(0, 2**40, 31).astype(np.int64))(g)), "'indptr' does not"),
    "8 TiB of places": (lambda g: (change("shape", np.array([12, 2**40 - 1]))(g), huge("indptr", 2**40)(g)), "instead of 1099511627775 texts"),
    "names of a gigabyte": (lambda g: (g.pop("features/name"), g["features"].create_dataset("name", (12,), dtype="S1000000000", chunks=(1,), compression="gzip")), "declares .* bytes and stores 0"),
}  # fmt: skip


@pytest.fixture
def little_memory():
    """No more than two gigabytes over what is in use."""
    resource = pytest.importorskip("resource")
    if not Path("/proc/self/statm").exists():
        pytest.skip("the memory in use is not known")
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("fault", H5_FAULTS)
def test_h5_that_contradicts_itself(tmp_path: Path, fault: str, little_memory):
    edit, message = H5_FAULTS[fault]
    path = put(tmp_path / "a.h5", h5_bytes(Truth(), 30))
    with h5py.File(path, "a") as file:
        edit(file["matrix"])
    with pytest.raises(ValueError, match=rf"a.h5 cannot be read .*({message})") as caught:
        read_counts(path)
    assert "download" not in str(caught.value) or "utf-8" in str(caught.value)


def test_indices_that_are_declared_and_not_stored(tmp_path: Path, little_memory):
    """As many as the places say, for so many genes and spots."""
    path = tmp_path / "a.h5"
    n = 2**13
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        group["barcodes"] = np.array([f"B{i}-1" for i in range(n)], dtype="S")
        group["shape"] = np.array([2**17, n])
        group["indptr"] = np.arange(n + 1) * 2**17
        group["features/id"] = group["features/name"] = np.array([f"E{i}" for i in range(2**17)], dtype="S")
        for name in ("data", "indices"):
            group.create_dataset(name, (n * 2**17,), dtype="i8", chunks=(2**20,), compression="gzip")
    assert path.stat().st_size < 2**25
    with pytest.raises(ValueError, match=r"'indices' declares 8589934592 bytes and stores 0"):
        read_counts(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda file: file.create_dataset("X", data=[1]), "found 'X' instead of the group 'matrix'.*counts_file="),
        (lambda file: [file.create_group(name) for name in ("X", "obs", "var")], "it is an AnnData.*anndata.read_h5ad"),
        (lambda file: [file.create_dataset(n, data=[1]) for n in ("barcode_idx", "umi")], "a list of molecules"),
        (lambda file: None, "found nothing instead"),
        (lambda file: file.create_dataset("matrix", data=[1]), "found 'matrix' instead of the group"),
    ],
)
def test_h5_of_another_kind(tmp_path: Path, write, message: str):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        write(file)
    with pytest.raises(ValueError, match=message):
        read_counts(tmp_path / "a.h5")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "The file is empty"),
        (b"<html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"PK\x03\x04xxxx", "zip archive: unpack"),
        (b"BZh9", "bzip2"),
        (b"random bytes that are nothing", "cut short or damaged"),
    ],
)
def test_files_that_are_something_else(tmp_path: Path, content: bytes, message: str):
    folder = write_section(tmp_path / "run", Truth())
    for name in ("filtered_feature_bc_matrix.h5", "spatial/tissue_hires_image.png"):
        path = folder / name
        before = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=rf"{path.name} cannot be read" + (f".*{message}" if name.endswith("h5") else "")
        ):
            read_visium(folder)
        path.write_bytes(before)


MTX_FAULTS = {
    "header in the features": ("features.tsv", lambda t: "id\tname\ttype\n" + t, "has 13 lines.*remove a line"),
    "no features": ("features.tsv", lambda t: "", "no lines"),
    "ids second": ("features.tsv", lambda t: "\n".join("\t".join((b, a, c)) for a, b, c in (r.split("\t") for r in t.splitlines())), "second column holds the Ensembl ids"),
    "uneven features": ("features.tsv", lambda t: t + "\textra", "lines have '3', '4' columns"),
    "barcode missing": ("barcodes.tsv", lambda t: t.split("\n", 1)[1], "barcodes.tsv has 29"),
    "barcode twice": ("barcodes.tsv", lambda t: t.split("\n", 1)[1] + t.split("\n", 2)[1] + "\n", "1 barcodes occur more than once"),
    "binary barcodes": ("barcodes.tsv", lambda t: "\xff\udcff", "utf-8|cannot be read"),
    "index beyond the genes": ("matrix.mtx", lambda t: t.replace("\n1 ", "\n13 ", 1), "cannot be read"),
    "index of zero": ("matrix.mtx", lambda t: t.replace("\n1 ", "\n0 ", 1), "cannot be read"),
    "declares more": ("matrix.mtx", lambda t: grow(t, 1), "cannot be read"),
    "declares very much": ("matrix.mtx", lambda t: grow(t, 10**15), "declares 10000000"),
    "declares negative": ("matrix.mtx", lambda t: grow(t, -10**15), "declares -99999"),
    "sizes are texts": ("matrix.mtx", lambda t: t.replace("12 30", "a b", 1), "cannot be read"),
    "no sizes": ("matrix.mtx", lambda t: t.splitlines()[0], "cannot be read"),
    "array": ("matrix.mtx", lambda t: t.replace("coordinate", "array", 1), "instead of '%%matrixmarket matrix coordinate"),
    "pattern": ("matrix.mtx", lambda t: t.replace("integer", "pattern", 1), "'%%matrixmarket matrix coordinate pattern"),
    "symmetric": ("matrix.mtx", lambda t: t.replace("general", "symmetric", 1), "coordinate integer symmetric"),
    "a csv": ("matrix.mtx", lambda t: "gene,spot,count\n1,1,1\n", "starts with 'gene,spot,count'"),
    "negative": ("matrix.mtx", lambda t: t.replace(" 1\n", " -1\n", 1), "values from -1"),
    "fractions": ("matrix.mtx", lambda t: t.replace("integer", "real").replace(" 1\n", " 1.5\n", 1), "not whole numbers"),
    "not finite": ("matrix.mtx", lambda t: t.replace("integer", "real").replace(" 1\n", " inf\n", 1), "values from"),
    "too large": ("matrix.mtx", lambda t: t.replace("integer", "real").replace(" 1\n", " 1e30\n", 1), "values from"),
    "text": ("matrix.mtx", lambda t: t.replace(" 1\n", " x\n", 1), "cannot be read"),
    "twice": ("matrix.mtx", lambda t: grow(t, 1) + t.splitlines()[-1] + "\n", "several values for one gene"),
    "cut": ("matrix.mtx", lambda t: t[: len(t) // 2], "cannot be read"),
}  # fmt: skip


def grow(text: str, by: int) -> str:
    """Declare more values than there are."""
    n = next(line.split()[2] for line in text.splitlines() if not line.startswith("%"))
    return text.replace(f"12 30 {n}", f"12 30 {int(n) + by}", 1)


@pytest.mark.parametrize("fault", MTX_FAULTS)
def test_matrix_market_that_contradicts_itself(tmp_path: Path, fault: str):
    name, edit, message = MTX_FAULTS[fault]
    write_mtx(tmp_path, Truth(), 30, gz=False)
    path = tmp_path / name
    path.write_text(edit(path.read_text()), errors="surrogateescape")
    with pytest.raises(ValueError, match=message):
        read_counts(mtx(tmp_path))


def test_matrix_market_the_other_way_round(tmp_path: Path):
    write_mtx(tmp_path, Truth(), 30, gz=False)
    path = tmp_path / "matrix.mtx"
    lines = path.read_text().splitlines()
    swap = [line if line.startswith("%") else " ".join([*line.split()[1::-1], line.split()[2]]) for line in lines]
    path.write_text("\n".join(swap))
    with pytest.raises(ValueError, match=r"one row per spot.*Transpose it"):
        read_counts(mtx(tmp_path))


@pytest.mark.parametrize("name", ["barcodes.tsv.gz", "features.tsv.gz", "matrix.mtx.gz"])
def test_small_files_that_expand_to_much(tmp_path: Path, name: str, little_memory):
    write_mtx(tmp_path, Truth(), 30)
    with gzip.open(tmp_path / name, "wb", compresslevel=9) as file:
        if name.startswith("matrix"):
            file.write(b"%%MatrixMarket matrix coordinate integer general\n12 30 360\n")
        for _ in range(350):
            file.write(b"1 1 1\n" * 2**17)
    assert (tmp_path / name).stat().st_size < 4e6
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read_counts(mtx(tmp_path))


def test_positions_that_expand_to_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spared_sc.datasets._files._FREE", 2**22)
    folder = write_section(tmp_path / "run", Truth(), gz=True)
    with gzip.open(folder / "spatial" / "tissue_positions.csv.gz", "wb") as file:
        for _ in range(12):
            file.write(b"AAAC-1,1,1,1,1,1\n" * 2**16)
    with pytest.raises(ValueError, match=r"tissue_positions.csv.gz cannot be read \(\d+ bytes expand to more than"):
        read_visium(folder)
