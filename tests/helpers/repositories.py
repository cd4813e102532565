"""All sources of the catalogue, played by a server on this machine: the layouts and names of the catalogue, made-up sections."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING
from urllib.parse import quote

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from helpers.visium import Truth, h5_bytes
from spared_sc.datasets import _catalogue

if TYPE_CHECKING:
    import pytest

    from helpers.server import Server
    from spared_sc.datasets._entries import DataSet, SectionEntry

N_GENES = 60
LENGTHS = pd.Series(1000.0, index=[f"ENSG{i:011d}" for i in range(1, N_GENES + 1)])


@cache
def truth_of(section: str) -> Truth:
    """A made-up section: about 1,300 molecules a spot, half of the genes detected everywhere."""
    truth = Truth(seed=zlib.crc32(section.encode()), n_genes=N_GENES)
    rng = np.random.default_rng(truth.seed)
    rates = np.where(np.arange(N_GENES) < N_GENES // 2, 40.0, 1.5)
    truth.counts = rng.poisson(rates * rng.gamma(4, 0.25, (len(truth.names), 1)), (len(truth.names), N_GENES)) + 1 * (
        rates > 2
    )
    return truth


@cache
def picture(kind: str, deep: bool = False) -> bytes:
    """A full image, in which positions are pixels; `deep` has 16 bits."""
    content = io.BytesIO()
    if deep:
        tifffile.imwrite(content, np.full((700, 600, 3), 40_000, dtype=np.uint16), photometric="rgb")
    else:
        Image.new("RGB", (600, 700), (200, 150, 180)).save(content, kind)
    return content.getvalue()


@cache
def space_ranger(section: str) -> Mapping[str, bytes]:
    """The files of a section with the names that Space Ranger gives them."""
    truth, image = truth_of(section), io.BytesIO()
    Image.fromarray(truth.image).save(image, "PNG")
    return {
        "filtered_feature_bc_matrix.h5": h5_bytes(truth, truth.n_tissue),
        "raw_feature_bc_matrix.h5": h5_bytes(truth, len(truth.names)),
        "spatial/tissue_positions_list.csv": truth.positions.to_csv(index=False, header=False).encode(),
        "spatial/scalefactors_json.json": json.dumps(truth.scalefactors).encode(),
        "spatial/tissue_hires_image.png": image.getvalue(),
        "spatial/tissue_lowres_image.png": image.getvalue(),
        "spatial/detected_tissue_image.jpg": picture("JPEG"),
        "web_summary.html": b"<html>a summary</html>",
    }


def tar_of(files: Mapping[str, bytes], mode: str = "w:gz") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode, **({"compresslevel": 1} if mode == "w:gz" else {})) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


def zip_of(files: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def below(folder: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{folder}/{name}": data for name, data in files.items()}


class Repositories:
    """What the server has at which address."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.mendeley: dict[str, dict[str, bytes]] = {}  # record -> path -> content
        self.archives: dict[tuple[str, str], dict[str, bytes]] = {}  # record and name -> members
        self.ids: dict[tuple[str, str], str] = {}  # record and path -> number of the file
        self.hashes: dict[str, dict[str, str]] = {}  # data set -> name -> sha256
        self.figshare: list[dict] = []

    def put(self, url: str, content: bytes) -> None:
        self.server.files["/" + url.removeprefix("https://")] = content

    def where(self, url: str) -> str:
        """The path on the server of an address."""
        return "/" + url.removeprefix("https://")

    def add(self, entry: DataSet) -> None:
        """Serve a data set from all of its sources."""
        for block in entry.source:
            getattr(self, f"_{block['kind']}")(entry, block)

    def finish(self) -> None:
        """Serve what several data sets have in common."""
        for (record, name), members in self.archives.items():
            self.mendeley.setdefault(record, {})[name] = tar_of(members)
        for record, files in self.mendeley.items():
            self._serve_mendeley(record, files)
        if self.figshare:
            self.put("https://api.figshare.com/v2/articles/22778920", json.dumps({"files": self.figshare}).encode())

    # --- kinds of repositories

    def _mendeley(self, entry: DataSet, block: Mapping) -> None:
        record = block["record"]
        self.version = {**getattr(self, "version", {}), record: block["version"]}
        images = block.get("holds") == "images"
        for section in entry.sections.values():
            if "archive" in block:
                members = self.archives.setdefault((record, block["archive"]), {})
                if "file" in block:
                    self.ids[record, block["archive"]] = block["file"]
                folder = block["archive"].removesuffix(".tar.gz")
                members |= (
                    {f"{folder}/{section.name}.jpg": picture("JPEG")}
                    if images
                    else below(f"{folder}/{section.name}/outs", space_ranger(section.name))
                )
                if not images and not any(one.get("holds") for one in entry.source):
                    members[f"{folder}/images/{section.name}.jpg"] = picture("JPEG")
            else:
                files = self.mendeley.setdefault(record, {})
                if images:
                    files[f"Supplementary Data 2/{section.name}.jpg"] = picture("JPEG")
                else:
                    files |= self._listed(entry, section)

    def _listed(self, entry: DataSet, section: SectionEntry) -> dict[str, bytes]:
        """A section in a record whose files are listed one by one."""
        if entry.folder == "erickson":
            patient, part = section.name.split("_")
            part = part.replace("-", "_")
            image = {
                "P1": f"Histological_images/Patient_1/Visium/{part}.jpg",
                "P2": f"Histological_images/Patient_2/{part}.jpg",
            }[patient]
            counts = below(f"Count_matrices/Patient {patient[1]}/{part}", space_ranger(section.name))
            return {**counts, image: picture("JPEG")}
        if entry.folder == "fan":
            flat = {
                f"counts/{section.name}_{name.rpartition('/')[2]}": data
                for name, data in space_ranger(section.name).items()
                if "detected" not in name
            }
            return {**flat, f"images_FR/{section.name}.jpg": picture("JPEG")}
        return {
            **below(section.name, space_ranger(section.name)),
            f"{section.name}/{section.name}.jpg": picture("JPEG"),
        }

    def _serve_mendeley(self, record: str, files: Mapping[str, bytes]) -> None:
        base, version = f"https://data.mendeley.com/public-api/datasets/{record}", self.version[record]
        folders = {"": "root"}
        listed: dict[str, list[dict]] = {"root": []}
        tree = []
        for number, (path, content) in enumerate(files.items()):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                folder, parent = "/".join(parts[:depth]), "/".join(parts[: depth - 1])
                if folder not in folders:
                    folders[folder] = f"folder-{len(folders)}"
                    listed[folders[folder]] = []
                    tree.append({"id": folders[folder], "name": parts[depth - 1]})
                    if parent:
                        tree[-1]["parent_id"] = folders[parent]
            own = self.ids.get((record, path), f"file-{record}-{number}")
            url = f"https://data.mendeley.com/public-files/datasets/{record}/files/{own}/file_downloaded"
            self.put(url, content)
            details = {"sha256_hash": hashlib.sha256(content).hexdigest(), "download_url": url}
            listed[folders["/".join(parts[:-1])]].append(
                {"id": own, "filename": parts[-1], "size": len(content), "content_details": details}
            )
        self.put(f"{base}/folders/{version}", json.dumps(tree).encode())
        for folder, rows in listed.items():
            self.server.answers[self.where(f"{base}/files?folder_id={folder}&version={version}")] = sends(rows)
        zipped = zip_of(files)
        self.put(f"https://data.mendeley.com/public-api/zip/{record}/download/{version}", zipped)

    def _figshare(self, entry: DataSet, block: Mapping) -> None:
        names = {
            "counts": "filtered_feature_bc_matrix.h5",
            "positions": "spatial/tissue_positions_list.csv",
            "scalefactors": "spatial/scalefactors_json.json",
            "hires": "spatial/tissue_hires_image.png",
        }
        for section in entry.sections.values():
            files = space_ranger(section.name)
            for role, number in section.ids.items():
                content = picture("JPEG") if role == "image" else files[names[role]]
                name = f"{section.name}.jpg" if role == "image" else f"{section.name}.{names[role].rpartition('/')[2]}"
                self.put(f"https://{block['host']}/ndownloader/files/{number}", content)
                self.figshare.append(
                    {
                        "id": number,
                        "name": name,
                        "size": len(content),
                        "computed_md5": hashlib.md5(content).hexdigest(),
                        "download_url": f"https://{block['host']}/ndownloader/files/{number}",
                    }
                )

    def _geo(self, entry: DataSet, block: Mapping) -> None:
        members = {}
        samples = {
            "A1_S1": ("GSM5213483_V19S23-097_A1_S1_", "Region1_colon_d0"),
            "B1_S2": ("GSM5213484_V19S23-097_B1_S2_", "Region2_colon_d14"),
        }
        for section in entry.sections:
            before, image = samples[section]
            files = {name.rpartition("/")[2]: data for name, data in space_ranger(section).items()}
            members[f"{before}filtered_feature_bc_matrix.h5"] = files["filtered_feature_bc_matrix.h5"]
            for name in ("tissue_positions_list.csv", "scalefactors_json.json", "tissue_hires_image.png"):
                members[f"{before}{name}.gz"] = gzip.compress(files[name], 1)
            members[f"{before}{image}_rotated.tif.gz"] = gzip.compress(picture("TIFF", deep=True), 1)
            members[f"{before}normalized_data.tsv.gz"] = gzip.compress(normalized(section).to_csv(sep="\t").encode(), 1)
        series = block["accession"]
        self.put("https://www.ncbi.nlm.nih.gov/geo/download/", tar_of(members, "w"))
        self.put(
            f"https://ftp.ncbi.nlm.nih.gov/geo/series/GSE169nnn/{series}/suppl/{series}_RAW.tar", tar_of(members, "w")
        )

    def _files(self, entry: DataSet, block: Mapping) -> None:
        hashes = self.hashes.setdefault(entry.key, {})
        for section in entry.sections:
            files = space_ranger(section)
            spatial = {name: data for name, data in files.items() if name.startswith("spatial/")}
            contents = {
                "filtered_feature_bc_matrix.h5": files["filtered_feature_bc_matrix.h5"],
                "spatial.tar.gz": tar_of(spatial),
                "image.tif": picture("TIFF"),
            }
            for file in block["files"]:
                url = block["urls"][0].format(section=section, subject="", file=file)
                self.put(url, contents[file])
                hashes[url.rpartition("/")[2]] = hashlib.sha256(contents[file]).hexdigest()

    def _zenodo(self, entry: DataSet, block: Mapping) -> None:
        rows = []
        for section in entry.sections:
            content = zip_of(below(section, space_ranger(section)) | {f"{section}/{section}.jpg": picture("JPEG")})
            url = f"https://zenodo.org/api/records/{block['record']}/files/{section}.zip/content"
            self.put(url, content)
            md5 = f"md5:{hashlib.md5(content).hexdigest()}"
            rows.append({"key": f"{section}.zip", "size": len(content), "checksum": md5, "links": {"self": url}})
        self.put(f"https://zenodo.org/api/records/{block['record']}", json.dumps({"files": rows}).encode())

    def _github(self, entry: DataSet, block: Mapping) -> None:
        base = f"https://raw.githubusercontent.com/{block['repository']}/{block['ref']}/data"
        hashes = self.hashes.setdefault(entry.key, {})
        for name, section in entry.sections.items():
            files = st_files(name, section.subject)
            for path, content in files.items():
                if path.startswith("ST-pat") and "labels" not in section.extra:
                    continue
                self.put(f"{base}/{quote(path)}", content)
                if name[0] in "ABCD":
                    hashes[path] = hashlib.sha256(content).hexdigest()
            listing = (
                f"https://api.github.com/repos/{block['repository']}/contents/data/ST-imgs/{section.subject}/{name}"
            )
            self.put(listing, json.dumps([{"name": f"slide 7_{name}.jpg"}, {"name": "README"}]).encode())


def st_files(name: str, subject: str) -> dict[str, bytes]:
    """A section of the older arrays: 5 x 5 places, of which the labels name four rows tumour."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    places = [(x, y) for x in range(1, 6) for y in range(1, 6)]
    genes = [f"G{i}" for i in range(1, N_GENES + 1)]
    counts = pd.DataFrame(rng.poisson(5, (25, N_GENES)), index=[f"{x}x{y}" for x, y in places], columns=genes)
    counts = counts.assign(**{f"only{name}": 1})
    spots = "x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected\n" + "".join(
        f"{x}\t{y}\t{x}.01\t{y}.02\t{100 * x}.5\t{100 * y}\t1\n" for x, y in places
    )
    labels = "Row.names\tx\ty\tpixel_x\tpixel_y\tlabel\n" + "".join(
        f"a\t{x - 0.2}\t{y + 0.3}\t1\t1\t{'tumour' if x > 1 else 'stroma'}\n" for x, y in places
    )
    return {
        f"ST-cnts/{name}.tsv.gz": gzip.compress(counts.to_csv(sep="\t").encode(), 1),
        f"ST-spotfiles/{name}_selection.tsv": spots.encode(),
        f"ST-pat/lbl/{name}_labeled_coordinates.tsv": labels.encode(),
        f"ST-imgs/{subject}/{name}/slide 7_{name}.jpg": picture("JPEG"),
    }


def normalized(section: str) -> pd.DataFrame:
    """Other values than the counts, genes x spots, as R writes them: a dot for the hyphen."""
    truth = truth_of(section)
    values = np.log1p(truth.counts[: truth.n_tissue].T).round(3)
    return pd.DataFrame(
        values, index=truth.symbols, columns=[name.replace("-", ".") for name in truth.names[: truth.n_tissue]]
    )


def sends(content: object):
    """An answer with something as JSON."""
    data = json.dumps(content).encode()

    def answer(handler) -> None:
        handler.head(Content_Length=str(len(data)))
        handler.wfile.write(data)

    return answer


def play(server: Server, monkeypatch: pytest.MonkeyPatch, *names: str) -> Repositories:
    """Let the server stand in for the sources of some data sets, or of all, with the checksums of what it sends."""
    from spared_sc._core import download

    known = dict(_catalogue._packaged())
    repositories = Repositories(server)
    for name in names or known:
        repositories.add(known[name])
    repositories.finish()
    known |= {key: replace(known[key], sha256=hashes) for key, hashes in repositories.hashes.items()}
    monkeypatch.setattr(_catalogue, "_packaged", lambda: known)
    monkeypatch.setattr(download, "address", lambda url: f"{server.url}/{url.removeprefix('https://')}")
    return repositories
