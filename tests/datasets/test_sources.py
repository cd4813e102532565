"""From blocks of the catalogue to addresses, and what repositories answer."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import pytest
import requests

import spared_sc as sp
from helpers.repositories import play, sends
from spared_sc._core.download import fetch
from spared_sc.datasets._catalogue import entries, entry_of, read_catalogue
from spared_sc.datasets._sources import Remote, remotes, source_page

if TYPE_CHECKING:
    from pathlib import Path

    from helpers.server import Server

VLO = "https://data.mendeley.com/public-api/datasets/xjtv62ncwr"


def listed(key: str, number: int = 0, roles: tuple[str, ...] = ("counts", "image"), n: int = 1) -> list[Remote]:
    entry = entry_of(key)
    return remotes(entry.source[number], entry, list(entry.sections.values())[:n], roles)


def test_mendeley(server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    repositories = play(server, monkeypatch, "VLO", "MMBR", "EHPCP1")
    (data,), (images,) = listed("VLO"), listed("VLO", 1)
    assert (data.path, images.path) == ("data.tar.gz", "images.tar.gz")
    assert data.urls == (
        "https://data.mendeley.com/public-files/datasets/xjtv62ncwr/files/d2386c24-a17f-4ea7-b3e5-bc5091c3d1c3/file_downloaded",
    )
    assert data.known_hash.startswith("sha256:")
    assert data.size == len(server.files[repositories.where(data.urls[0])])
    (archive,) = listed("MMBR")
    assert archive.path == "mousebrain.tar.gz"
    tree = {one.path for one in listed("EHPCP1")}
    assert "Count_matrices/Patient 1/H1_5/spatial/tissue_positions_list.csv" in tree
    assert "Histological_images/Patient_1/Visium/H1_5.jpg" in tree
    # Without the public interface: the file by its number, or the archive of all.
    for path in [*server.files, *server.answers]:
        if "public-api/datasets" in path:
            server.files.pop(path, None)
            server.answers.pop(path, None)
    with caplog.at_level(logging.INFO, "spared_sc"):
        assert listed("VLO") == [replace(data, known_hash=None, size=None)]
    assert "no list of the files of xjtv62ncwr, and no checksums" in caplog.text
    assert [(one.path, one.known_hash, one.urls) for one in listed("MMBR")] == [
        (
            "4w6krnywhn-1.zip",
            None,
            (
                "https://data.mendeley.com/public-api/zip/4w6krnywhn/download/1",
                "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com/4w6krnywhn-1.zip",
            ),
        )
    ]


def test_names_of_a_server_stay_inside(server: Server, monkeypatch: pytest.MonkeyPatch):
    repositories = play(server, monkeypatch, "EHPCP1", "BATIUK", "VHS")
    details = {"download_url": "https://x/y", "sha256_hash": "0" * 64}
    base = "https://data.mendeley.com/public-api/datasets/svw96g68dv"
    repositories.put(f"{base}/folders/4", json.dumps([{"id": "f", "name": "../../up"}]).encode())
    for folder in ("root", "f"):
        server.answers[repositories.where(f"{base}/files?folder_id={folder}&version=4")] = sends(
            [{"id": f"{folder}1", "filename": "/etc/../evil.h5", "size": 1, "content_details": details}]
        )
    repositories.put(
        "https://zenodo.org/api/records/6921620",
        json.dumps({"files": [{"key": "../e.zip", "links": {"self": ""}}]}).encode(),
    )
    repositories.put(
        "https://api.figshare.com/v2/articles/22778920",
        json.dumps({"files": [{"id": 40483311, "name": "../../e.h5"}]}).encode(),
    )
    paths = [one.path for key in ("EHPCP1", "BATIUK", "VHS") for one in listed(key)]
    assert len(paths) == 5
    for path in paths:
        assert ".." not in path.split("/")
        assert not path.startswith("/")


def test_figshare(server: Server, monkeypatch: pytest.MonkeyPatch):
    play(server, monkeypatch, "VMB")
    counts, image = listed("VMB")
    assert (counts.section, counts.role, image.role) == ("V11L12-038_A1", "counts", "image")
    assert counts.urls == (
        "https://figshare.scilifelab.se/ndownloader/files/40480217",
        "https://ndownloader.figshare.com/files/40480217",
    )
    assert counts.path == "V11L12-038_A1/V11L12-038_A1.filtered_feature_bc_matrix.h5"
    assert counts.known_hash.startswith("md5:")
    server.files.clear()
    counts, image = listed("VMB")
    assert (counts.path, counts.known_hash) == ("V11L12-038_A1/filtered_feature_bc_matrix.h5", None)
    assert image.path == "V11L12-038_A1/full_image"


def test_geo_and_the_mirror():
    assert listed("PMI") == [
        Remote(
            path="GSE169749_RAW.tar",
            urls=(
                "https://www.ncbi.nlm.nih.gov/geo/download/?acc=GSE169749&format=file",
                "https://ftp.ncbi.nlm.nih.gov/geo/series/GSE169nnn/GSE169749/suppl/GSE169749_RAW.tar",
            ),
        )
    ]
    name = "V1_Human_Brain_Section_1"
    counts, spatial, image = listed("10XGHB")
    assert counts.path == f"{name}/{name}_filtered_feature_bc_matrix.h5"
    assert counts.known_hash == "sha256:076e5d1fa82243349ee963e069b362c81198e8c4f752ad9680dfb0714d0c240f"
    assert spatial.known_hash == "sha256:3979bcbeb13a61d5e1a2ffb066bd76b4c121a1cd1293c66da7578cd1fbb1d247"
    assert image.urls == (
        f"https://exampledata.scverse.org/squidpy/10x_genomics/{name}/{name}_image.tif",
        f"https://cf.10xgenomics.com/samples/spatial-exp/1.1.0/{name}/{name}_image.tif",
    )


def test_zenodo_and_github(server: Server, monkeypatch: pytest.MonkeyPatch):
    play(server, monkeypatch, "BATIUK", "HER2ST")
    found = listed("BATIUK")
    assert [one.path for one in found] == [f"{name}.zip" for name in entry_of("BATIUK").sections]
    assert all(one.known_hash.startswith("md5:") for one in found)
    counts, image = sorted(listed("HER2ST"), key=lambda one: one.path)
    assert counts.path == "ST-cnts/A1.tsv.gz"
    assert counts.urls == (
        "https://raw.githubusercontent.com/almaan/her2st/9f2260c6aa8347996955d53f0a5f06ac14c93470/data/ST-cnts/A1.tsv.gz",
    )
    assert image.urls[0].endswith("/data/ST-imgs/A/A1/slide%207_A1.jpg")  # its name is on record
    assert not server.asked[1:]
    section = [entry_of("HER2ST").sections["E1"]]
    (image,) = remotes(entry_of("HER2ST").source[0], entry_of("HER2ST"), section, ["image"])
    assert (image.path, image.known_hash) == ("ST-imgs/E/E1/slide 7_E1.jpg", None)


@pytest.mark.parametrize("answer", [b"", b"<html>log in</html>", b"[]", b'{"files": [1]}', b'{"message": "no"}'])
def test_what_lists_nothing(server: Server, monkeypatch: pytest.MonkeyPatch, answer: bytes):
    repositories = play(server, monkeypatch, "BATIUK", "VHS", "VLO")
    for url in (
        "https://zenodo.org/api/records/6921620",
        "https://api.figshare.com/v2/articles/22778920",
        f"{VLO}/folders/1",
    ):
        repositories.put(url, answer)
    server.answers.clear()
    with pytest.raises(ConnectionError, match="does not list"):
        listed("BATIUK")
    assert [one.known_hash for one in listed("VHS")] == [None, None]  # goes by the numbers
    assert [one.known_hash for one in listed("VLO")] == [None]


def test_pages():
    pages = {source_page(block) for entry in entries().values() for block in entry.source}
    assert len(pages) == 6 + 5
    assert "https://data.mendeley.com/datasets/svw96g68dv/4" in pages
    assert "https://www.ncbi.nlm.nih.gov/geo/query/acc.cgi?acc=GSE169749" in pages
    block = '[A]\nname="a"\ntitle="a"\norganism="human"\ntissue="a"\ntechnology="st"\nfolder="a"\n[A.sections]\nS={subject="S"}'
    assert read_catalogue(block, "x")["A"].source == ()
    assert sp.datasets.catalogue().loc["AHSCC", "source"] == "https://data.mendeley.com/datasets/2bh5fchcv6/1"


SOURCES = {source_page(block): (key, at) for key, entry in entries().items() for at, block in enumerate(entry.source)}
SMALL = 2e7  # bytes; larger files are looked at, not fetched
BEGINNINGS = {".zip": b"PK", ".gz": b"\x1f\x8b", ".tar": b"GSM"}  # a tar begins with the name of its first member


@pytest.mark.network
@pytest.mark.parametrize("page", SOURCES)
def test_the_smallest_file_of_every_source(page: str, tmp_path: Path):
    key, at = SOURCES[page]
    entry = entry_of(key)
    section = next(iter(entry.sections.values()))
    found = remotes(
        entry.source[at], entry, [section], ["counts", "positions", "scalefactors", "hires", "spots", "image"]
    )
    assert found
    sizes = [one.size or size_at(one.urls[0]) for one in found]
    size, at = min((size, at) for at, size in enumerate(sizes))
    one = found[at]
    if size < SMALL:
        fetched = fetch(one.urls[0], tmp_path / "file", known_hash=one.known_hash)
        assert fetched.stat().st_size == size
        return
    with requests.get(one.urls[0], stream=True, timeout=60) as response:
        response.raise_for_status()
        start = next(response.iter_content(1024))
    assert start.startswith(BEGINNINGS[PurePosixPath(one.path).suffix])


def size_at(url: str) -> int:
    response = requests.head(url, allow_redirects=True, timeout=60)
    response.raise_for_status()
    return int(response.headers["Content-Length"])
