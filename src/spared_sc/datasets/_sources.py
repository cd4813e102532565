"""Where data sets can be downloaded: one function per kind of repository, from a block of the catalogue to addresses."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from spared_sc._core.download import read_text
from spared_sc._core.names import check_file_name, file_name
from spared_sc._core.report import logger
from spared_sc._core.validate import listing

if TYPE_CHECKING:
    from spared_sc.datasets._entries import DataSet, SectionEntry

T = TypeVar("T")

_MENDELEY = "https://data.mendeley.com"
_MENDELEY_ZIPS = "https://prod-dcd-datasets-cache-zipfiles.s3.eu-west-1.amazonaws.com"
_FIGSHARE = "https://api.figshare.com/v2/articles"
_FIGSHARE_FILES = "https://ndownloader.figshare.com/files"
_GEO = "https://www.ncbi.nlm.nih.gov/geo"
_GEO_FILES = "https://ftp.ncbi.nlm.nih.gov/geo/series"
_ZENODO = "https://zenodo.org"
_GITHUB_FILES = "https://raw.githubusercontent.com"
_GITHUB_LISTS = "https://api.github.com/repos"
# Names of files whose repository gives them a number only.
_USUAL = {
    "counts": "filtered_feature_bc_matrix.h5",
    "positions": "tissue_positions_list.csv",
    "scalefactors": "scalefactors_json.json",
    "hires": "tissue_hires_image.png",
    "image": "full_image",
}


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A file that can be downloaded."""

    path: str  # below the folder of the data set
    urls: tuple[str, ...]  # in the order in which they are tried
    known_hash: str | None = None  # "sha256:..." or "md5:..."
    size: int | None = None  # bytes
    section: str | None = None  # of which it is, where that is known from more than its path
    role: str | None = None


@dataclass(frozen=True)
class Kind:
    """A kind of repository: the fields of its block, its web page, and its files."""

    needed: Mapping[str, type]
    optional: Mapping[str, type]
    page: Callable[[Mapping[str, Any]], str]
    remotes: Callable[[Mapping[str, Any], DataSet, Sequence[SectionEntry], Iterable[str]], list[Remote]]


def check_source(block: Any, where: str) -> None:
    """Refuse a block of a source that cannot be used."""
    kind = KINDS.get(block.get("kind", "")) if isinstance(block, Mapping) else None
    if kind is None:
        raise ValueError(f"{where} has no known kind: expected kind = one of {listing(KINDS)}.")
    fields = {"kind": str, **_ANY, **kind.needed, **kind.optional}
    for name, value in block.items():
        if name not in fields:
            raise ValueError(f"{where} has the field {name!r}: a source of {block['kind']} knows {listing(fields)}.")
        if not isinstance(value, fields[name]) or isinstance(value, bool):
            raise ValueError(f"{where} has {name} = {value!r}: expected {fields[name].__name__}.")
    missing = [name for name in kind.needed if name not in block]
    if missing:
        raise ValueError(f"{where} lacks {listing(missing)}: a source of {block['kind']} needs {listing(kind.needed)}.")
    for name in ("urls", "files"):
        if name in block:
            check_texts(block[name], f"{where} {name}", ("section", "subject", "file"), least=1)
    if block.get("holds", "images") != "images":
        raise ValueError(f"{where} has holds = {block['holds']!r}: expected 'images', or nothing.")


def check_texts(values: Iterable[Any], where: str, places: Sequence[str] = (), *, least: int = 0) -> None:
    """Refuse what is no text, fewer texts than `least`, and words in braces for which nothing stands."""
    values = list(values)
    if len(values) < least:
        raise ValueError(f"{where} is empty: give at least {least}.")
    for value in values:
        if not isinstance(value, str):
            raise ValueError(f"{where} holds {value!r}: expected texts.")
        if places:
            try:
                value.format(**dict.fromkeys(places, ""))
            except (LookupError, ValueError) as error:
                known = " and ".join(f"{{{place}}}" for place in places)
                raise ValueError(f"{where} holds {value!r}: what stands in braces is one of {known}.") from error


def page_of(entry: DataSet) -> str:
    """The web page of a data set."""
    return source_page(entry.source[0]) if entry.source else ""


def source_page(block: Mapping[str, Any]) -> str:
    """The web page of a source."""
    return str(block.get("page") or KINDS[block["kind"]].page(block))


def remotes(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """Files of a source that hold the files of the named roles, for some sections; and archives that may hold them."""
    return KINDS[block["kind"]].remotes(block, entry, sections, roles)


def is_archive(path: str) -> bool:
    """Whether a file holds others, by its name."""
    return path.lower().endswith((".zip", ".tar", ".tar.gz", ".tgz"))


def _json(url: str) -> Any:
    """What a public interface answers."""
    try:
        return json.loads(read_text(url))
    except ValueError as error:  # a page of something that answers in its place
        raise ConnectionError(f"{url} does not list any files: something else answers in its place.") from error


def _listed(url: str, read: Callable[[], T]) -> T:
    """What `read` makes of the list of files at an address; an error where the list is another than expected."""
    try:
        return read()
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ConnectionError(
            f"{url} does not list its files as expected ({type(error).__name__}: {error})."
        ) from error


# --- Mendeley Data ----------------------------------------------------------------------------------------------------


def _mendeley(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """The files that the public interface lists, with their sha256; without it, one file or the archive of all."""
    record, version = block["record"], block["version"]
    try:
        files = _mendeley_files(record, version)
    except ConnectionError as error:
        logger.info("no list of the files of %s, and no checksums: %s", record, error)
        files = {}
    if "file" in block:
        own = f"{_MENDELEY}/public-files/datasets/{record}/files/{block['file']}/file_downloaded"
        usual = Remote(path=block.get("archive", block["file"]), urls=())
        listed = files.get(block["file"], usual)
        return [replace(listed, path=usual.path, urls=(own, *(url for url in listed.urls if url != own)))]
    archive = block.get("archive", "*")
    chosen = [one for one in files.values() if fnmatch.fnmatch(one.path.rpartition("/")[2], archive)]
    zips = f"{_MENDELEY}/public-api/zip/{record}/download/{version}", f"{_MENDELEY_ZIPS}/{record}-{version}.zip"
    return chosen or [Remote(path=f"{record}-{version}.zip", urls=zips)]


def _mendeley_files(record: str, version: int) -> dict[str, Remote]:
    """Number of a file -> the file, of all folders of a record."""
    base = f"{_MENDELEY}/public-api/datasets/{record}"
    folders = _json(f"{base}/folders/{version}")

    def read() -> dict[str, Remote]:
        above = {one["id"]: (str(one.get("parent_id") or ""), file_name(one["name"])) for one in folders}
        found = {}
        for folder in ["root", *above]:
            path, parent = "", folder
            while parent in above:
                parent, name = above[parent]
                path = f"{name}/{path}"
            for one in _json(f"{base}/files?folder_id={folder}&version={version}"):
                details = one["content_details"]
                found[str(one["id"])] = Remote(
                    path=path + file_name(one["filename"]),
                    urls=(str(details["download_url"]),),
                    known_hash=f"sha256:{details['sha256_hash']}" if details.get("sha256_hash") else None,
                    size=int(one["size"]) if "size" in one else None,
                )
        return found

    return _listed(base, read)


def _mendeley_page(block: Mapping[str, Any]) -> str:
    return f"{_MENDELEY}/datasets/{block['record']}/{block['version']}"


# --- figshare ---------------------------------------------------------------------------------------------------------


def _figshare(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """Files by their numbers; names and md5 sums come from the public interface, where it answers."""
    url = f"{_FIGSHARE}/{block['article']}"
    try:
        answer = _json(url)
        listed = _listed(url, lambda: {int(one["id"]): one for one in answer["files"]})
    except ConnectionError as error:
        logger.info("no list of the files of the article %s, and no checksums: %s", block["article"], error)
        listed = {}
    return [
        _figshare_file(block.get("host", "figshare.com"), section, role, listed.get(section.ids[role], {}))
        for section in sections
        for role in roles
        if role in section.ids
    ]


def _figshare_file(host: str, section: SectionEntry, role: str, listed: Mapping[str, Any]) -> Remote:
    number = section.ids[role]
    md5 = listed.get("computed_md5") or listed.get("supplied_md5")
    return Remote(
        path=f"{section.name}/{file_name(listed.get('name') or _USUAL[role])}",
        urls=(f"https://{host}/ndownloader/files/{number}", f"{_FIGSHARE_FILES}/{number}"),
        known_hash=f"md5:{md5}" if md5 else None,
        size=listed.get("size"),
        section=section.name,
        role=role,
    )


def _figshare_page(block: Mapping[str, Any]) -> str:
    return f"https://{block.get('host', 'figshare.com')}/articles/{block['article']}"


# --- GEO, Zenodo, GitHub, single addresses ----------------------------------------------------------------------------


def _geo(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """The archive of a series; GEO states no checksum."""
    series = block["accession"]
    name = f"{series}_RAW.tar"
    return [
        Remote(
            path=name,
            urls=(
                f"{_GEO}/download/?acc={series}&format=file",
                f"{_GEO_FILES}/{series[:-3]}nnn/{series}/suppl/{name}",
            ),
        )
    ]


def _zenodo(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """The files that the public interface lists, with their md5."""
    url = f"{_ZENODO}/api/records/{block['record']}"
    answer = _json(url)
    return _listed(
        url,
        lambda: [
            Remote(
                path=file_name(one["key"]),
                urls=(str(one["links"]["self"]),),
                known_hash=str(one["checksum"]) if one.get("checksum") else None,
                size=int(one["size"]) if "size" in one else None,
            )
            for one in answer["files"]
        ],
    )


def _github(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """Files by their patterns; where a name is not known from a checksum, the server is asked for it."""
    base = f"{_GITHUB_FILES}/{block['repository']}/{block['ref']}/{block.get('folder', '')}".rstrip("/")
    found = []
    for section in sections:
        for role in set(roles) & entry.files.keys():
            path = entry.files[role].format(section=section.name, subject=section.subject)
            if "*" in path:
                path = next(iter(fnmatch.filter(entry.sha256, path)), "") or _github_name(block, path)
            hashed = entry.digest(path)
            found.append(
                Remote(path=path, urls=(f"{base}/{quote(path)}",), known_hash=hashed, section=section.name, role=role)
            )
    return found


def _github_name(block: Mapping[str, Any], pattern: str) -> str:
    """Path of the only file in a folder of a repository whose name matches a pattern."""
    folder, _, name = pattern.rpartition("/")
    where = "/".join(filter(None, [block.get("folder", ""), folder]))
    url = f"{_GITHUB_LISTS}/{block['repository']}/contents/{where}?ref={block['ref']}"
    answer = _json(url)
    names = _listed(url, lambda: [str(one["name"]) for one in answer])
    names = [one for one in names if fnmatch.fnmatch(one.lower(), name.lower())]
    if len(names) != 1:
        raise ConnectionError(f"{url} lists {listing(names)} instead of one file {name}.")
    return f"{folder}/{check_file_name(names[0], url)}"


def _files(
    block: Mapping[str, Any], entry: DataSet, sections: Sequence[SectionEntry], roles: Iterable[str]
) -> list[Remote]:
    """Files with the same names for every section; `{section}`, `{subject}` and `{file}` stand for what differs."""
    found = []
    for section in sections:
        for file in block["files"]:
            urls = tuple(url.format(section=section.name, subject=section.subject, file=file) for url in block["urls"])
            name = file_name(urls[0].rpartition("/")[2])
            found.append(
                Remote(path=f"{section.name}/{name}", urls=urls, known_hash=entry.digest(name), section=section.name)
            )
    return found


_ANY: dict[str, type] = {"holds": str, "archive": str, "page": str}
KINDS = {
    "mendeley": Kind({"record": str, "version": int}, {"file": str}, _mendeley_page, _mendeley),
    "figshare": Kind({"article": int}, {"host": str}, _figshare_page, _figshare),
    "geo": Kind({"accession": str}, {}, lambda block: f"{_GEO}/query/acc.cgi?acc={block['accession']}", _geo),
    "zenodo": Kind({"record": int}, {}, lambda block: f"{_ZENODO}/records/{block['record']}", _zenodo),
    "github": Kind(
        {"repository": str, "ref": str},
        {"folder": str},
        lambda block: f"https://github.com/{block['repository']}/tree/{block['ref']}",
        _github,
    ),
    "files": Kind({"urls": list, "files": list}, {}, lambda block: block["urls"][0], _files),
}
