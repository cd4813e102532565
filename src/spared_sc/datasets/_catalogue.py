"""The data sets that can be loaded by name."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.names import check_file_name, check_library_name
from spared_sc._core.validate import listing
from spared_sc.datasets._entries import DataSet, SectionEntry
from spared_sc.datasets._sources import check_source, check_texts, page_of

if TYPE_CHECKING:
    import pandas as pd

_TEXTS = (
    "name",
    "title",
    "organism",
    "tissue",
    "technology",
    "folder",
    "collection",
    "citation",
    "doi",
    "licence",
    "combat",
)
_TABLES = ("recipe", "published", "files", "sha256", "known")
_NEEDED = ("name", "title", "organism", "tissue", "technology", "folder", "sections")
_FIELDS = {
    **dict.fromkeys(_TEXTS, str),
    **dict.fromkeys(_TABLES, Mapping),
    "sections": Mapping,
    "source": list,
    "notes": list,
}
_OF_SECTION = {"subject": str, "split": str, "path": str, "extra": list, "ids": Mapping}
# Statements whose origin the catalogue gives.
CLAIMS = (
    "title",
    "organism",
    "tissue",
    "technology",
    "sections",
    "subject",
    "split",
    "recipe",
    "published",
    "citation",
    "licence",
    "source",
    "files",
    "sha256",
)
_COUNTED = ("n_sections", "n_subjects", *Key.splits)  # numbers in the table
_PRINTED = ("spots", "genes", "corrupt", "missing_before", "missing_after")
_SAID = re.compile(r"(?:un)?verified: \S")
_VALUES = {"organism": ("human", "mouse"), "technology": ("visium", "st")}


@checks_arguments
def catalogue(path: str | Path | None = None) -> pd.DataFrame:
    """Table of the data sets that :func:`load` knows by name: the 26 of SpaRED, and others.

    Parameters
    ----------
    path
        A TOML file with data sets of your own, which are added; see the page "Add a data set" of the documentation.

    Returns
    -------
    One row per data set, indexed by its abbreviation, with

    - `name`, `title`, `collection` (`"SpaRED"` for the 26 sets of the paper), `organism`, `tissue`, `technology`
    - `n_sections`, `n_subjects`, and `train`, `val` and `test`, the numbers of sections in each published split
    - `spots`, `genes`, `corrupt`, `missing_before`, `missing_after` (percent) and `task`, as printed in Table 1 of the paper
    - `recipe`: options of :func:`spared_sc.pp.recipe_spared` with which SpaRED prepared the set
    - `combat`: column of `obs` that SpaRED took for the batches of :func:`spared_sc.pp.combat`
    - `source` (web page), `folder` (where files are looked for in `settings.data_dir`), `licence`, `doi`, `citation`
    - `unverified`: names of the fields that nobody has checked; `spared-sc data info` says why
    - `notes`

    Raises
    ------
    ValueError
        The file is no TOML, or a block or field of it cannot be used; the message names both.
    FileNotFoundError
        There is no such file.

    Notes
    -----
    Facts from Ruiz et al. (2025) and from the configurations and readers of its released code. No address of the
    catalogue could be opened when it was written: `unverified` names `"source"` for nearly all sets.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.datasets.catalogue()
    >>> table.loc["VLO", ["organism", "tissue"]].tolist()
    ['human', 'Lung organoids']
    """
    import pandas as pd

    rows = {key: _row(entry) for key, entry in entries(path).items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    numbers = list(table.columns.intersection([*_COUNTED, *_PRINTED]))
    table[numbers] = table[numbers].convert_dtypes()
    return table.rename_axis("data set")


def _row(entry: DataSet) -> dict[str, Any]:
    splits = [section.split for section in entry.sections.values()]
    printed = entry.published
    return {
        **{name: getattr(entry, name) for name in ("name", "title", "collection", "organism", "tissue", "technology")},
        "n_sections": len(entry.sections),
        "n_subjects": len({section.subject for section in entry.sections.values()}),
        **{split: splits.count(split) for split in Key.splits},
        **{name: printed.get(name) for name in (*_PRINTED, "task")},
        "recipe": dict(entry.recipe),
        "combat": entry.combat,
        "source": page_of(entry),
        **{name: getattr(entry, name) for name in ("folder", "licence", "doi", "citation")},
        "unverified": ", ".join(name for name in CLAIMS if entry.known[name].startswith("unverified")),
        "notes": "; ".join(entry.notes),
    }


def entries(path: str | Path | None = None) -> dict[str, DataSet]:
    """Abbreviation -> data set, of the package and of a file."""
    own = _packaged()
    if path is None:
        return own
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"there is no catalogue {str(path)!r}: pass the path of a TOML file.")
    more = read_catalogue(file.read_text(encoding="utf-8"), str(path))
    taken = {word.lower(): key for key, entry in own.items() for word in (key, entry.name)}
    for key, entry in more.items():
        other = next((taken[word.lower()] for word in (key, entry.name) if word.lower() in taken), None)
        if other:
            raise ValueError(
                f"{path}: [{key}] has the abbreviation or name of {other} of the package: give it another."
            )
    return own | more


def entry_of(name: str, path: str | Path | None = None) -> DataSet:
    """A data set by its abbreviation or name, whatever their case."""
    known = entries(path)
    words = {word.lower(): key for key, entry in known.items() for word in (entry.name, key)}
    if isinstance(name, str) and name.lower() in words:
        return known[words[name.lower()]]
    near = difflib.get_close_matches(str(name).lower(), words, n=4, cutoff=0.5)
    named = {key: None for word in near for key in (words[word],)}
    like = f"; near are {', '.join(f'{key!r} ({known[key].name})' for key in named)}" if near else ""
    raise ValueError(f"there is no data set {name!r}{like}. `sp.datasets.catalogue()` lists all: {listing(known, 40)}.")


@cache
def _packaged() -> dict[str, DataSet]:
    text = (files("spared_sc.datasets") / "catalogue.toml").read_text(encoding="utf-8")
    return read_catalogue(text, "catalogue.toml")


def read_catalogue(text: str, where: str) -> dict[str, DataSet]:
    """Data sets of a text in TOML; `where` names it in messages."""
    try:
        blocks = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"{where} is no TOML ({error}): see the page 'Add a data set' of the documentation."
        ) from error
    default = blocks.pop("known", {})
    _check_known(default, f"{where}: [known]")
    return {key: _data_set(key, block, default, f"{where}: [{key}]") for key, block in blocks.items()}


def _data_set(key: str, block: Any, default: Mapping[str, str], where: str) -> DataSet:
    _check_fields(block, _FIELDS, where)
    missing = [name for name in _NEEDED if not block.get(name)]
    if missing:
        raise ValueError(f"{where} lacks {listing(missing)}: every data set needs {listing(_NEEDED)}.")
    for name, allowed in _VALUES.items():
        if block[name] not in allowed:
            raise ValueError(f"{where} has {name} = {block[name]!r}: choose from {listing(allowed)}.")
    check_file_name(block["folder"], where)
    _check_known(block.get("known", {}), f"{where} known")
    sections = {
        name: _section(name, values, f"{where} sections, {name!r}") for name, values in block["sections"].items()
    }
    for number, one in enumerate(block.get("source", []), start=1):
        check_source(one, f"{where} source {number}")
    check_texts(block.get("notes", []), f"{where} notes")
    check_texts(block.get("files", {}).values(), f"{where} files", ("section", "subject"))
    for name, digest in block.get("sha256", {}).items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
            raise ValueError(f"{where} sha256, {name!r} is no sha256: expected 64 hexadecimal digits.")
    unsaid = dict.fromkeys(CLAIMS, "unverified: the catalogue does not say")
    known = {**unsaid, **default, **block.get("known", {})}
    lists = {name: tuple(block.get(name, ())) for name in ("source", "notes")}
    return DataSet(**{**block, **lists, "key": key, "sections": sections, "known": known})


def _section(name: str, values: Any, where: str) -> SectionEntry:
    _check_fields(values, _OF_SECTION, where)
    check_library_name(name)
    check_file_name(name, where)
    if not values.get("subject"):
        raise ValueError(f"{where} lacks 'subject': give the donor, or the section's own name.")
    if values.get("split", "train") not in Key.splits:
        raise ValueError(
            f"{where} has split = {values['split']!r}: choose from {listing(Key.splits)}, or leave it out."
        )
    check_texts(values.get("extra", []), f"{where} extra")
    for role, number in values.get("ids", {}).items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"{where} ids has {role} = {number!r}: expected the number of the file.")
    return SectionEntry(name=name, **{**values, "extra": tuple(values.get("extra", ()))})


def _check_fields(values: Any, allowed: Mapping[str, type], where: str) -> None:
    """Refuse what is no table, unknown fields and values of another type."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {type(values).__name__}: expected a table.")
    for name, value in values.items():
        if name not in allowed:
            near = difflib.get_close_matches(name, allowed, n=1)
            raise ValueError(
                f"{where} has the field {name!r}{f' (did you mean {near[0]!r}?)' if near else ''}: known are "
                f"{listing(allowed, 20)}."
            )
        if not isinstance(value, allowed[name]):
            kind = "a text" if allowed[name] is str else "a list" if allowed[name] is list else "a table"
            raise ValueError(f"{where} has {name} = {value!r}: expected {kind}.")


def _check_known(known: Mapping[str, Any], where: str) -> None:
    _check_fields(known, dict.fromkeys(CLAIMS, str), where)
    for name, text in known.items():
        if not _SAID.match(text):
            raise ValueError(f"{where} has {name} = {text!r}: expected 'verified: <by what>' or 'unverified: <why>'.")
