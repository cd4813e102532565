"""Which files belong to which section of a data set, and as what: of a folder, of an archive, of a list of a repository."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from spared_sc._core.validate import listing
from spared_sc.datasets._sources import is_archive
from spared_sc.datasets._visium_layout import in_order, role_of

if TYPE_CHECKING:
    from spared_sc.datasets._entries import DataSet, SectionEntry

_IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".btf", ".svs", ".ndpi")
_MTX = ("matrix", "features", "barcodes")
_SMALL_IMAGES = ("hires", "lowres")


@dataclass
class SectionFiles:
    """Paths of the files of one section, by what they are; `several` are those of which one would have to be chosen."""

    one: dict[str, str] = field(default_factory=dict)
    several: dict[str, list[str]] = field(default_factory=dict)


def needed_roles(entry: DataSet, section: SectionEntry, images: str | None, more: Iterable[str] = ()) -> set[str]:
    """What must be there to read a section: with hires images, with the full one, and with further tables."""
    st = entry.technology == "st"
    needed = {"counts", "spots"} if st else {"counts", "positions", "scalefactors"}
    if images == "full" or (st and images):
        needed.add("image")
    if images and "hires" in section.ids:
        needed.add("hires")
    return needed | set(more)


def welcome_roles(entry: DataSet) -> set[str]:
    """What is taken along where the rest is fetched, and not looked for by itself."""
    return set() if entry.technology == "st" else {*_MTX[1:], *_SMALL_IMAGES}


def sort_files(entry: DataSet, sections: Iterable[SectionEntry], paths: Iterable[str]) -> dict[str, SectionFiles]:
    """Section -> its files, by their paths."""
    sections = list(sections)
    found: dict[str, dict[str, list[str]]] = {section.name: {} for section in sections}
    finder = _Finder(entry)
    for path in paths:
        for name, role in finder.uses(path):
            if name in found:
                found[name].setdefault(role, []).append(path)
    return {name: _chosen(roles) for name, roles in found.items()}


class _Finder:
    """Patterns of a data set, compiled once."""

    def __init__(self, entry: DataSet) -> None:
        self.visium = entry.technology == "visium"
        self.roles = [
            (section.name, role, _pattern(text.format(section=glob.escape(section.name), subject=section.subject)))
            for section in entry.sections.values()
            for role, text in entry.files.items()
        ]
        self.sections = [(section.name, _of_section(section)) for section in entry.sections.values()]
        self.given = {role for _, role, _ in self.roles}

    def uses(self, path: str) -> list[tuple[str, str]]:
        """Section and role of a file, for each section of which it may be."""
        if any(part.startswith((".", "__MACOSX")) for part in path.split("/")) or path.endswith((".part", ".version")):
            return []
        named = [(section, role) for section, role, pattern in self.roles if pattern.fullmatch(path)]
        if named or not self.visium or is_archive(path):
            return named
        role = _visium_role(path)
        if role is None or role in self.given:
            return []
        return [(section, role) for section in self.sections_of(path)]

    def sections_of(self, path: str) -> list[str]:
        """Sections whose names a path holds; of names that contain each other, the longest."""
        names = [name for name, pattern in self.sections if pattern.search(path)]
        return [name for name in names if not any(name != other and name in other for other in names)]


def belongs(entry: DataSet, sections: Iterable[SectionEntry], path: str) -> bool:
    """Whether an archive may hold files of some sections: its name is that of one of them, or of none at all."""
    named = _Finder(entry).sections_of(path)
    return not named or any(section.name in named for section in sections)


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of whole paths, or of their last parts."""
    return re.compile(f"(?:.*/)?{fnmatch.translate(text)}")


def _of_section(section: SectionEntry) -> re.Pattern[str]:
    if section.path is not None:
        return _pattern(section.path)
    return re.compile(rf"(?:^|[/_.\- ]){re.escape(section.name)}(?=$|[/_.\- ])")


def _visium_role(path: str) -> str | None:
    role = role_of(path)
    if role is not None:
        return role
    parts = PurePosixPath(path.lower())
    plain = parts.name.removesuffix(".gz")
    # Space Ranger draws images of its own into the folder with the small ones.
    is_image = plain.endswith(_IMAGES) or plain == "full_image"
    return "image" if is_image and parts.parent.name not in ("spatial", "analysis") else None


def _chosen(roles: dict[str, list[str]]) -> SectionFiles:
    """One file for each role: filtered counts before raw ones, h5 before folders."""
    roles = dict(roles)
    files = SectionFiles()
    raw, filtered = roles.pop("raw", []), roles.pop("filtered", [])
    raw_parts = {role: roles.pop(f"raw {role}") for role in _MTX if f"raw {role}" in roles}
    counts = filtered or roles.get("counts", []) or ([] if "matrix" in roles else raw)
    if counts:
        roles = {role: paths for role, paths in roles.items() if role not in _MTX} | {"counts": counts}
    else:
        roles = roles if "matrix" in roles else roles | raw_parts
        roles |= {"counts": roles.pop("matrix")} if "matrix" in roles else {}
    for role, paths in roles.items():
        best = in_order(map(PurePosixPath, paths))  # type: ignore[arg-type]
        same = [str(path) for path in best if path.name == best[0].name]
        if len(same) > 1 or (role == "image" and len(best) > 1):
            files.several[role] = sorted(map(str, best))
        else:
            files.one[role] = str(best[0])
    return files


def check_one(entry: DataSet, section: str, files: SectionFiles, needed: Iterable[str], where: str) -> None:
    """Refuse files of which it is not clear which one is meant."""
    for role in sorted(set(needed) & files.several.keys()):
        raise ValueError(
            f"{where} holds several files that may be the {role} of section {section} of {entry.key}: "
            f"{listing(files.several[role], 5)}. Keep one of them, or say which with `path` of the section or "
            f"`files = {{ {role} = ... }}` in a catalogue of your own."
        )
