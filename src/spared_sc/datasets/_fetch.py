"""Files of a data set, without reading them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.validate import listing
from spared_sc.datasets._catalogue import entry_of
from spared_sc.datasets._section_files import needed_roles, welcome_roles
from spared_sc.datasets._store import find_files

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from spared_sc.datasets._entries import DataSet, SectionEntry

# Roles that `images` and the technology decide upon; others of a data set are further tables.
_OWN = {"counts", "spots", "positions", "scalefactors", "hires", "lowres", "image", "features", "barcodes", "labels"}


@checks_arguments
def fetch(
    name: str,
    sections: str | Sequence[str] | None = None,
    *,
    images: Literal["hires", "full"] | None = "hires",
    layers: str | Sequence[str] = (),
    catalogue: str | Path | None = None,
) -> pd.DataFrame:
    """Bring the files of a data set onto this machine, where they are not; :func:`load` then needs no network.

    Parameters
    ----------
    name, sections, images, layers, catalogue
        As for :func:`load`.

    Returns
    -------
    One row per file, with `section`, `role` (`"counts"`, `"positions"`, `"image"`, ...), `path` and `bytes`.

    Raises
    ------
    ValueError, ConnectionError
        As :func:`load`.

    Notes
    -----
    Up to three files are downloaded at once. What was interrupted goes on where it stopped, in the next call too. Archives
    stay in the folder `archives` of the set's folder in the cache, since other sets and full images may be in them; they
    can be removed when nothing more is needed of them.

    Examples
    --------
    >>> import spared_sc as sp
    >>> sp.datasets.fetch("VLO")  # doctest: +SKIP
    """
    import pandas as pd

    entry = entry_of(name, catalogue)
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    needed, welcome = plan(entry, entry.chosen(sections), images, layers)
    found = find_files(entry, needed, welcome)
    rows = [
        (section, role, str(path), path.stat().st_size)
        for section in needed
        for role, path in sorted(found[section].items())
    ]
    return pd.DataFrame(rows, columns=["section", "role", "path", "bytes"])


def plan(
    entry: DataSet,
    sections: Sequence[SectionEntry],
    images: str | None,
    layers: Sequence[str] = (),
    labels: bool = True,
) -> tuple[dict[str, set[str]], set[str]]:
    """Section -> what is needed of it, and what else is welcome."""
    if images not in (None, "hires", "full"):
        raise ValueError(f"images={images!r} is unknown: choose 'hires', 'full' or None.")
    offered = sorted(entry.files.keys() - _OWN)
    unknown = [layer for layer in layers if layer not in offered]
    if unknown:
        raise ValueError(f"{entry.key} has no table {unknown[0]!r}: it offers {listing(offered)}.")
    needed = {
        section.name: needed_roles(entry, section, images, [*layers, *(section.extra if labels else ())])
        for section in sections
    }
    return needed, welcome_roles(entry)
