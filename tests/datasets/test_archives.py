"""Members of archives."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import TYPE_CHECKING

import pytest

from helpers.repositories import tar_of, zip_of
from spared_sc.datasets._archives import extract_members, list_members

if TYPE_CHECKING:
    from pathlib import Path

FILES = {"a/x.csv": b"x" * 3_000_000, "a/y.csv": b"y", "z.tif.gz": gzip.compress(b"z" * 100_000)}
PACKED = {
    "one.zip": zip_of(FILES),
    "one.tar": tar_of(FILES, "w"),
    "one.tar.gz": tar_of(FILES),
    "one.tgz": tar_of(FILES),
}


@pytest.mark.parametrize("name", PACKED)
def test_members(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(PACKED[name])
    assert list_members(path) == list(FILES)
    extract_members(path, {"a/y.csv": tmp_path / "out" / "1.csv", "z.tif.gz": tmp_path / "out" / "2.tif"})
    assert (tmp_path / "out" / "1.csv").read_bytes() == b"y"
    assert (tmp_path / "out" / "2.tif").read_bytes() == b"z" * 100_000  # unpacked, since the name says so
    extract_members(path, {"z.tif.gz": tmp_path / "out" / "2.tif.gz"})
    assert (tmp_path / "out" / "2.tif.gz").read_bytes() == FILES["z.tif.gz"]
    assert sorted(found.name for found in tmp_path.rglob("*")) == sorted([name, "out", "1.csv", "2.tif", "2.tif.gz"])


@pytest.mark.parametrize("outer", [zip_of, tar_of])
@pytest.mark.parametrize("inner", PACKED)
def test_archives_inside_archives(tmp_path: Path, outer, inner: str):
    path = tmp_path / ("all.zip" if outer is zip_of else "all.tar.gz")
    path.write_bytes(outer({f"d/{inner}": PACKED[inner], "d/other.zip": zip_of({"b": b"b"}), "c": b"c"}))
    assert list_members(path) == [*(f"d/{inner}/{name}" for name in FILES), "d/other.zip/b", "c"]
    assert list_members(path, inner) == [*(f"d/{inner}/{name}" for name in FILES), "c"]
    wanted = {f"d/{inner}/a/x.csv": tmp_path / "1", "d/other.zip/b": tmp_path / "2"}
    extract_members(path, wanted)
    assert (tmp_path / "1").read_bytes() == FILES["a/x.csv"]
    assert (tmp_path / "2").read_bytes() == b"b"
    with pytest.raises(ValueError, match="does not hold d/other.zip/b: it has changed"):
        extract_members(path, wanted, inner)


def test_nothing_leads_out_of_the_target(tmp_path: Path):
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        link = tarfile.TarInfo("link.csv")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        archive.addfile(link)
        hard = tarfile.TarInfo("hard.csv")
        hard.type, hard.linkname = tarfile.LNKTYPE, "../../outside"
        archive.addfile(hard)
        evil = tarfile.TarInfo("../../evil.csv")
        evil.size = 1
        archive.addfile(evil, io.BytesIO(b"e"))
    path = tmp_path / "deep" / "er" / "one.tar"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.getvalue())
    assert list_members(path) == ["../../evil.csv"]
    extract_members(path, {"../../evil.csv": tmp_path / "target.csv"})
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["deep", "er", "one.tar", "target.csv"]


def take_all(path: Path, folder: Path) -> None:
    """As everybody does: list, which reads a tar to its end, then take; a zip has a checksum for each of its members."""
    extract_members(path, {member: folder / str(list(FILES).index(member)) for member in list_members(path)})


# An uncompressed tar has no checksums of its content.
@pytest.mark.parametrize(
    ("name", "damage"),
    [(n, d) for n in PACKED for d in ("cut", "page", "empty", "flipped") if (n, d) != ("one.tar", "flipped")],
)
def test_damaged_archives(tmp_path: Path, name: str, damage: str):
    content = bytearray(PACKED[name])
    if damage == "flipped":
        content[len(content) // 3] ^= 0xFF
    content = {"cut": content[: len(content) // 2], "page": b"<html></html>", "empty": b"", "flipped": content}[damage]
    path = tmp_path / name
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=rf"{name} cannot be read .*expected a zip or tar archive"):
        take_all(path, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.suffix != ".part"]


def test_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "one.zip"
    path.write_bytes(PACKED["one.zip"])

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    opened = type(path).open
    monkeypatch.setattr(
        type(path), "open", lambda self, mode="r", *a, **k: Full() if mode == "wb" else opened(self, mode, *a, **k)
    )
    with pytest.raises(OSError, match=r"x.csv cannot be written \(No space left on device\): free some space"):
        extract_members(path, {"a/x.csv": tmp_path / "x.csv"})
    assert not (tmp_path / "x.csv").exists()
