"""Files of data sets: found on this machine, or downloaded, checked, and taken out of archives."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._core.download import StoppedError, cache_folder, cache_folders, fetch
from spared_sc._core.locks import only_writer
from spared_sc._core.names import file_name
from spared_sc._core.report import announce, logger
from spared_sc._core.settings import settings
from spared_sc._core.validate import listing
from spared_sc.datasets._archives import extract_members, list_members
from spared_sc.datasets._checksums import forget, recorded, remember, sha256_of
from spared_sc.datasets._section_files import belongs, check_one, sort_files
from spared_sc.datasets._sources import Remote, is_archive, remotes, source_page

if TYPE_CHECKING:
    from spared_sc.datasets._entries import DataSet, SectionEntry

ARCHIVES = "archives"  # folder of the cache with archives that were downloaded
_AT_ONCE = 3  # downloads; more would be impolite
_WAIT = 3600.0  # seconds to wait for another process that takes files out of the same archive


@dataclass
class Search:
    """A search for the files of some sections: what is needed, what is welcome, and what has been found."""

    entry: DataSet
    needed: Mapping[str, set[str]]  # section -> roles
    welcome: set[str]
    found: dict[str, dict[str, Path]] = field(default_factory=dict)  # section -> role -> file
    reasons: list[str] = field(default_factory=list)  # why a source gave nothing
    without: dict[str, list[str]] = field(default_factory=dict)  # archive that holds nothing of it -> what it holds

    @property
    def missing(self) -> dict[str, set[str]]:
        """Section -> roles that are still missing."""
        left = {name: roles - self.found.get(name, {}).keys() for name, roles in self.needed.items()}
        return {name: roles for name, roles in left.items() if roles}

    def sections(self, names: Iterable[str] | None = None) -> list[SectionEntry]:
        return [self.entry.sections[name] for name in (self.needed if names is None else names)]

    def add(self, section: str, role: str, path: Path) -> None:
        self.found.setdefault(section, {}).setdefault(role, path)

    def wanted(self, section: str) -> set[str]:
        """Roles that a source may still deliver."""
        return (self.needed[section] | self.welcome) - self.found.get(section, {}).keys()


def find_files(entry: DataSet, needed: Mapping[str, set[str]], welcome: set[str]) -> dict[str, dict[str, Path]]:
    """Section -> role -> file. What is not on this machine is downloaded, in the order of the sources of the set.

    Folders are searched first: that of the set in `settings.data_dir`, then that in the cache. Archives there are opened
    where files are missing.
    """
    search = Search(entry, needed, welcome)
    for root in roots(entry):
        _look_through(search, root)
    for root in roots(entry):
        for archive in _archives_in(search, root):
            if search.missing:
                _take_out(search, archive, _block_of(entry, archive.name))
    for block in entry.source:
        images_only = block.get("holds") == "images"
        if any("image" in roles for roles in search.missing.values()) if images_only else search.missing:
            _ask(search, block)
    if search.missing:
        raise ConnectionError(_nothing(search))
    return search.found


def roots(entry: DataSet) -> list[Path]:
    """Folders in which files of a set may be, in the order in which they are searched."""
    own = [] if settings.data_dir is None else [settings.data_dir / entry.folder]
    return [folder for folder in (*own, *cache_folders(entry.folder)) if folder.is_dir()]


def files_below(root: Path) -> list[str]:
    """Paths of the files in a folder and its folders, linked ones too."""
    found, seen = [], set()
    for folder, inside, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # a link that leads back
            inside.clear()
            continue
        seen.add(real)
        found += [(Path(folder) / name).relative_to(root).as_posix() for name in names]
    return sorted(found)


def _look_through(search: Search, root: Path) -> None:
    """Find the files that lie in a folder, and check those of the user whose checksums are known."""
    entry = search.entry
    paths = [path for path in files_below(root) if not path.startswith(f"{ARCHIVES}/")]
    for name, files in sort_files(entry, search.sections(), paths).items():
        missing = search.wanted(name)
        check_one(entry, name, files, missing, str(root))
        for role in missing & files.one.keys():
            path = root / files.one[role]
            if root not in cache_folders(entry.folder):
                _check_own(entry, path)
            search.add(name, role, path)


def _check_own(entry: DataSet, path: Path) -> None:
    known = entry.digest(path.as_posix())
    if known is not None and f"sha256:{sha256_of(path)}" != known:
        raise ValueError(
            f"{path} is not the file of {entry.key}: its checksum is not {known}. Replace it by the file from "
            f"{_page(entry)}, or remove it, and it is downloaded."
        )


def _archives_in(search: Search, root: Path) -> list[Path]:
    """Archives in a folder that may hold missing files, those that the set names first."""
    if not search.missing:
        return []
    own = {str(block.get("archive")) for block in search.entry.source}
    paths = [path for path in files_below(root) if is_archive(path)]
    paths = [path for path in paths if belongs(search.entry, search.sections(search.missing), path)]
    return [root / path for path in sorted(paths, key=lambda path: path.rpartition("/")[2] not in own)]


def _block_of(entry: DataSet, name: str) -> Mapping[str, Any]:
    """The source of an archive that was found in a folder, by the number of the record in its name, or the first one."""
    named = [block for block in entry.source if str(block.get("record", "\0")) in name]
    return (named or [*entry.source, {}])[0]


def _below(entry: DataSet, archive: Path) -> str:
    """Path of an archive in the folder of the set, as its source has it."""
    root = next(root for root in roots(entry) if archive.is_relative_to(root))
    return archive.relative_to(root).as_posix().removeprefix(f"{ARCHIVES}/")


def _take_out(search: Search, archive: Path, block: Mapping[str, Any]) -> None:
    """Take what is missing, and what is welcome, out of an archive into the cache."""
    entry, root = search.entry, cache_folder(search.entry.folder)
    inside = None if block.get("archive") == archive.name else block.get("archive")
    where = _below(entry, archive)  # may name the section
    names = [f"{where}/{name}" for name in _members(search, archive, inside)]
    targets: dict[str, Path] = {}
    of: dict[tuple[str, str], Path] = {}
    for section, files in sort_files(entry, search.sections(search.missing), names).items():
        check_one(entry, section, files, search.missing[section], str(archive))
        # What is needed comes last: where it is, the rest is too.
        for role in sorted(search.wanted(section) & files.one.keys(), key=search.needed[section].__contains__):
            member = files.one[role].removeprefix(f"{where}/")
            of[section, role] = targets.setdefault(member, root / section / _own_name(member, role))
    if not targets:
        search.without[where] = names
        return
    logger.info("taking %d files of %s out of %s", len(targets), entry.key, archive.name)
    with only_writer(root / f"{archive.name}.members", wait=_WAIT):
        extract_members(archive, targets, inside)
    remember(root, {path.relative_to(root).as_posix(): sha256_of(path) for path in targets.values()})
    for (section, role), path in of.items():
        search.add(section, role, path)


def _own_name(member: str, role: str) -> str:
    """Name of a file in the cache: its own, with the folder of a matrix of several files; full images are unpacked."""
    folder, _, name = member.rpartition("/")
    name = file_name(name)
    if role in ("counts", "features", "barcodes") and ".h5" not in name and folder:
        return f"{file_name(folder.rpartition('/')[2])}/{name}"
    return name.removesuffix(".gz") if role == "image" else name


def _members(search: Search, archive: Path, inside: str | None) -> list[str]:
    """Names in an archive; one of ours that is damaged is not kept."""
    try:
        return list_members(archive, inside)
    except ValueError as error:
        root = cache_folder(search.entry.folder)
        if not archive.is_relative_to(root / ARCHIVES):
            raise
        archive.unlink()
        forget(root, archive.relative_to(root).as_posix())
        raise ValueError(f"{error} It was deleted: the next call downloads it again.") from error


def _ask(search: Search, block: Mapping[str, Any]) -> None:
    """Download from one source what is missing."""
    sections = search.sections(search.missing)
    roles = set().union(*(search.wanted(section.name) for section in sections))
    try:
        listed = remotes(block, search.entry, sections, roles)
        direct = _direct(search, listed)
        _tell(search.entry, block, list(direct.values()))
        for last in (False, True):  # what is needed comes last: where it is, the rest is too
            files = {key: one for key, one in direct.items() if (key[1] in search.needed[key[0]]) == last}
            for (section, role), path in _download(search, files).items():
                search.add(section, role, path)
        archives = [one for one in listed if is_archive(one.path) and _may_hold(search, one)]
        for one in sorted(archives, key=lambda one: one.section is None):
            if search.missing and one.path not in search.without:
                _tell(search.entry, block, [one])
                (archive,) = _download(search, {("", one.path): one}).values()
                _take_out(search, archive, block)
    except ConnectionError as error:
        search.reasons.append(str(error))


def _may_hold(search: Search, one: Remote) -> bool:
    if one.section is not None:
        return one.section in search.missing
    return belongs(search.entry, search.sections(search.missing), one.path)


def _direct(search: Search, listed: Sequence[Remote]) -> dict[tuple[str, str], Remote]:
    """Section and role -> the file that is downloaded for it by itself."""
    chosen = {(one.section, one.role): one for one in listed if one.section is not None and one.role is not None}
    by_path = {one.path: one for one in listed if (one.section, one.role) not in chosen}
    for name, files in sort_files(search.entry, search.sections(search.missing), by_path).items():
        check_one(search.entry, name, files, search.missing[name], "the source")
        chosen |= {(name, role): by_path[path] for role, path in files.one.items()}
    return {
        (section, role): one
        for (section, role), one in chosen.items()
        if section in search.missing and role in search.wanted(section)
    }


def _download(search: Search, files: Mapping[tuple[str, str], Remote]) -> dict[tuple[str, str], Path]:
    """Download several files at once into the cache, and record the checksums of those that have no public one."""
    if not files:
        return {}
    root = cache_folder(search.entry.folder)
    known = recorded(root)
    stop = threading.Event()
    pool = ThreadPoolExecutor(max_workers=_AT_ONCE, thread_name_prefix="spared_sc")
    tasks: dict[Future[Path], tuple[str, str]] = {}
    try:
        for key, one in files.items():
            relative = f"{ARCHIVES}/{one.path}" if is_archive(one.path) else one.path
            tasks[pool.submit(_fetch_one, one, root, relative, known.get(relative), stop)] = key
        done, _ = wait(tasks, return_when=FIRST_EXCEPTION)
        failed = [task.exception() for task in done if task.exception() is not None]
        if failed:
            raise failed[0]  # type: ignore[misc]
        return {key: task.result() for task, key in tasks.items()}
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _fetch_one(one: Remote, root: Path, relative: str, recorded_sum: str | None, stop: threading.Event) -> Path:
    """A file from the first of its addresses that gives it."""
    target = root / relative
    known = one.known_hash or (f"sha256:{recorded_sum}" if recorded_sum else None)
    errors: list[Exception] = []
    for url in one.urls:
        if stop.is_set():
            raise StoppedError(url)
        try:
            fetch(url, target, known_hash=known, stop=stop)
        except (ConnectionError, ValueError) as error:
            errors.append(error)
            logger.info("%s", error)
            continue
        if one.known_hash is None and recorded_sum is None:
            logger.info(
                "no checksum of %s is public: its sha256 is recorded, and later downloads are compared", relative
            )
        if recorded_sum is None:
            algorithm, _, digest = (known or "").partition(":")
            remember(root, {relative: digest if algorithm == "sha256" else sha256_of(target)})
        return target
    if recorded_sum and not one.known_hash and any(isinstance(error, ValueError) for error in errors):
        errors.append(
            ConnectionError(f"To accept another file, remove the line of {relative} from {root / 'SHA256SUMS'}.")
        )
    raise ConnectionError(" ".join(str(error) for error in errors))


def _tell(entry: DataSet, block: Mapping[str, Any], files: Sequence[Remote]) -> None:
    """Say what is about to be downloaded, before it is."""
    if not files:
        return
    sizes = [one.size for one in files]
    size = f"{sum(filter(None, sizes)) / 1e6:,.1f} MB" if all(sizes) else "of a size that the source does not list"
    what = f"{len(files)} files" if len(files) > 1 else files[0].path
    announce(f"downloading {what} of {entry.key} ({size}) from {source_page(block)} into {cache_folder(entry.folder)}")


def _page(entry: DataSet) -> str:
    return listing(dict.fromkeys(source_page(block) for block in entry.source)) if entry.source else "its source"


def _nothing(search: Search) -> str:
    """What is missing, why, and where to put it."""
    entry, missing = search.entry, search.missing
    files = [f"{', '.join(sorted(roles))} of {section}" for section, roles in missing.items()]
    more = f"; and of {len(files) - 6} more sections" if len(files) > 6 else ""
    archives = [str(block["archive"]) for block in entry.source if "archive" in block]
    put = listing(archives) + ", or the unpacked folders of the sections," if archives else "the files of the sections"
    places = [str(settings.cache_dir / entry.folder)]
    places += [] if settings.data_dir is None else [str(settings.data_dir / entry.folder)]
    said = "".join(f" {reason}" for reason in search.reasons)
    if search.without:
        name, inside = next(iter(search.without.items()))
        said += f" Nothing of it is in {listing(search.without, 4)}; {name} holds {listing(inside, 4)}."
    return (
        f"{sum(map(len, missing.values()))} files of {entry.key} are not on this machine: {'; '.join(files[:6])}{more}.{said} "
        f"Try again with a network connection, or get {put} from {_page(entry)} and put them, with their own names, into "
        f"{' or '.join(places)}"
        + (
            "."
            if settings.data_dir is not None
            else f", or into {entry.folder} in the folder that SPARED_SC_DATA_DIR names."
        )
    )
