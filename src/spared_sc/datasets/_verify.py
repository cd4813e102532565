"""Whether the files of data sets are still what they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments
from spared_sc.datasets._catalogue import entries, entry_of
from spared_sc.datasets._checksums import SUMS, recorded, sha256_of
from spared_sc.datasets._store import files_below, roots

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from spared_sc.datasets._entries import DataSet


@checks_arguments
def verify(name: str | None = None, *, catalogue: str | Path | None = None) -> pd.DataFrame:
    """Compare the files of data sets on this machine with their checksums.

    Parameters
    ----------
    name
        Abbreviation or name of a data set; `None`: all.
    catalogue
        A TOML file with data sets of your own, as for :func:`catalogue`.

    Returns
    -------
    One row per file, with `folder` (of the data sets that share it), `path`, `status` and `checked_against`. The status is

    - `"fine"`: the file is the one that the catalogue knows, or that was downloaded first
    - `"changed"`: it is another one
    - `"missing"`: it was downloaded, and is not there any more
    - `"not checked"`: no checksum is known, as of files that you put there yourself

    Raises
    ------
    ValueError
        There is no such data set.

    Examples
    --------
    >>> import spared_sc as sp
    >>> table = sp.datasets.verify()  # doctest: +SKIP
    >>> table[table["status"] == "changed"]  # doctest: +SKIP
    """
    import pandas as pd

    chosen = entries(catalogue).values() if name is None else [entry_of(name, catalogue)]
    of_folder: dict[str, list[DataSet]] = {}
    for entry in chosen:
        of_folder.setdefault(entry.folder, []).append(entry)
    rows = [
        (folder, str(root / path), *_compared(sharing, root, path, sums))
        for folder, sharing in of_folder.items()
        for root in roots(sharing[0])
        for sums in (recorded(root),)
        for path in dict.fromkeys([*files_below(root), *sums])
        if not path.rpartition("/")[2].startswith(".") and path != SUMS and not path.endswith((".part", ".version"))
    ]
    return pd.DataFrame(rows, columns=["folder", "path", "status", "checked_against"])


def _compared(sharing: list[DataSet], root: Path, path: str, sums: dict[str, str]) -> tuple[str, str]:
    """Status of a file, and by what."""
    known = next((digest for entry in sharing if (digest := entry.digest(path))), None)
    file = root / path
    against = "the catalogue" if known else "the first download" if path in sums else ""
    if not file.is_file():
        return "missing", against
    if not against:
        return "not checked", against
    expected = known.removeprefix("sha256:") if known else sums[path]
    return ("fine" if sha256_of(file) == expected else "changed"), against
