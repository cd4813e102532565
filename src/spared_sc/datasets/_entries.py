"""What the catalogue says of a data set, as values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from spared_sc._core.keys import Key
from spared_sc._core.validate import listing


@dataclass(frozen=True, kw_only=True)
class SectionEntry:
    """One section of a data set."""

    name: str
    subject: str
    split: str | None = None
    path: str | None = None  # pattern of the paths of its files, where they do not hold its name
    extra: tuple[str, ...] = ()  # files that this section has and others have not, such as labels
    ids: Mapping[str, int] = field(default_factory=dict)  # role of a file -> its number at the source


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """One block of the catalogue."""

    key: str
    name: str
    title: str
    organism: str
    tissue: str
    technology: str
    folder: str
    sections: Mapping[str, SectionEntry]
    collection: str = ""
    citation: str = ""
    doi: str = ""
    licence: str = ""
    recipe: Mapping[str, Any] = field(default_factory=dict)  # options of `pp.recipe_spared`
    combat: str = ""  # column of obs with the batches
    published: Mapping[str, Any] = field(default_factory=dict)  # Table 1 of the paper
    source: tuple[Mapping[str, Any], ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)  # role -> pattern of paths, where names do not say the role
    sha256: Mapping[str, str] = field(default_factory=dict)  # name or path at the source -> hexadecimal digits
    notes: tuple[str, ...] = ()
    known: Mapping[str, str] = field(default_factory=dict)  # field -> "verified: ..." or "unverified: ..."

    def chosen(self, sections: str | Sequence[str] | None) -> tuple[SectionEntry, ...]:
        """Sections by their names or subjects, each once; all of them for `None`."""
        if sections is None:
            return tuple(self.sections.values())
        wanted = [sections] if isinstance(sections, str) else list(sections)
        if not wanted:
            raise ValueError(f"no section of {self.key} was given: pass names or subjects, or None for all.")
        found: dict[str, SectionEntry] = {}
        for name in wanted:
            own = {key: entry for key, entry in self.sections.items() if name in (key, entry.subject)}
            if not own:
                subjects = dict.fromkeys(entry.subject for entry in self.sections.values())
                raise ValueError(
                    f"there is no section {name!r} in {self.key}: choose from {listing(self.sections, 40)}, or a subject, "
                    f"{listing(subjects)}."
                )
            found |= own
        return tuple(found.values())

    def statements(self) -> dict[str, tuple[str, str]]:
        """What the catalogue says, field by field, each with how it is known."""
        splits = {split: [one.name for one in self.sections.values() if one.split == split] for split in Key.splits}
        subjects = dict.fromkeys(section.subject for section in self.sections.values())
        said = {
            "title": self.title,
            "organism": self.organism,
            "tissue": self.tissue,
            "technology": self.technology,
            "sections": f"{len(self.sections)}",
            "subject": ", ".join(subjects),
            "split": "; ".join(f"{split} {', '.join(names)}" for split, names in splits.items() if names),
            "recipe": _listed(self.recipe) + (f", ComBat by {self.combat}" if self.combat else ""),
            "published": _listed(self.published),
            "citation": f"{self.citation}{f', doi:{self.doi}' if self.doi else ''}",
            "licence": self.licence,
            "source": "; ".join(_listed(block) for block in self.source),
            "files": _listed(self.files) or "by the name of the section",
            "sha256": f"{len(self.sha256)} files" if self.sha256 else "",
        }
        return {name: (value, self.known[name]) for name, value in said.items()}

    def digest(self, path: str) -> str | None:
        """`"sha256:..."` of a file by its path or its name, where it is on record."""
        found = self._digests.get(path.rpartition("/")[2])
        return None if found is None else f"sha256:{found}"

    @cached_property
    def _digests(self) -> dict[str, str]:
        """sha256 by the name of the file alone."""
        return {path.rpartition("/")[2]: digest for path, digest in self.sha256.items()}


def _listed(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
