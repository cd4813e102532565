"""Train, validation and test libraries, subject by subject."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spared_sc._core import docs, validate
from spared_sc._core.columns import name_of
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc.datasets._catalogue import entry_of
from spared_sc.datasets._splits import of_sections, split_faults
from spared_sc.pp._find_duplicate_libraries import find_duplicate_libraries

if TYPE_CHECKING:
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def split_libraries(
    adata: AnnData,
    *,
    library_key: str | None = None,
    subject_key: str | None = None,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    assignment: str | Mapping[str, str] | None = None,
    intra_subject: bool = False,
    key_added: str = Key.obs.split,
    random_state: int = 0,
    copy: bool = False,
) -> AnnData | None:
    """Split the libraries into train, validation and test. All libraries of a subject go to the same split.

    Libraries that are copies of each other (:func:`find_duplicate_libraries`) stay together too.

    Parameters
    ----------
    {adata}
    subject_key
        Column of `obs` with the subject (donor) of each spot. Needed unless `intra_subject=True`.
    fractions
        Shares of the spots for train, validation and test, adding up to one. The largest subjects are placed first,
        equal ones in random order, each in the split that is farthest from its share. A share of zero leaves a split
        out.
    assignment
        Fixed split instead of a random one: a mapping from every library to `"train"`, `"val"` or `"test"`, or the name
        of a data set of :func:`spared_sc.datasets.catalogue` (such as `"VLO"`) for its published split.
    intra_subject
        Allow one subject in several splits. Scores then do not generalise to other subjects.
    random_state
        Seed of the random split, which does not depend on the order of libraries or spots.
    {others}

    Returns
    -------
    `None`, or the changed copy with `copy=True`. Slots written:

    `obs["split"]`
        `"train"`, `"val"` or `"test"`, categorical; read by every function that learns from data.
    `uns["spared_sc"]["split"]`
        Parameters and the libraries of each split.

    Raises
    ------
    KeyError
        If a column does not exist or a library is in no split.
    ValueError
        If subjects are unknown, too few, or would be in several splits; or if the data set is unknown.

    Warns
    -----
    UserWarning
        If libraries that are copies of each other are assigned to different splits, or a published split has known faults.

    Notes
    -----
    Source of the published splits: SpaRED (Ruiz et al. 2025). For 15 of its 26 data sets there is no test split, and
    in the intra-subject ones all splits share one subject.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=4, shape=(6, 6), image=False)
    >>> adata.obs["donor"] = adata.obs["library_id"].map(lambda name: "A" if name < "library_3" else name)
    >>> sp.pp.split_libraries(adata, library_key="library_id", subject_key="donor", fractions=(0.5, 0.25, 0.25))
    >>> sorted(adata.obs.loc[adata.obs["donor"] == "A", "split"].unique())
    ['train']
    """
    validate.check_adata(adata)
    validate.check_seed(random_state)
    libraries = validate.get_libraries(adata, library_key)
    published = isinstance(assignment, str)
    subjects = _subjects(adata, libraries, subject_key, intra_subject=intra_subject or published)
    copies = find_duplicate_libraries(adata, library_key=library_key)
    if assignment is None:
        splits = _draw(libraries, subjects, copies, fractions, random_state)
    else:
        splits = _assigned(libraries.names, assignment)
    of_library = dict(zip(libraries.names, splits, strict=True))
    if not published:
        _check_subjects(of_library, subjects)
    _warn_of_copies(of_library, copies)
    members = {name: [lib for lib, split in of_library.items() if split == name] for name in Key.splits}
    for name, names in members.items():
        logger.info("%s: %s", name, validate.listing(names))

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.split_libraries",
        params={
            "library_key": libraries.key,
            "subject_key": subject_key,
            "fractions": fractions,
            "assignment": assignment if published or assignment is None else "given",
            "intra_subject": intra_subject,
            "random_state": random_state,
        },
        slots={"obs": {key_added: pd.Categorical(np.asarray(splits)[libraries.codes], categories=list(Key.splits))}},
        libraries={name: np.asarray(names, dtype=object) for name, names in members.items() if names},
    )
    return adata if copy else None


def _subjects(
    adata: AnnData, libraries: validate.Libraries, subject_key: str | None, *, intra_subject: bool
) -> dict[str, str]:
    """Subject of every library; empty where subjects may be in several splits."""
    if subject_key is None:
        if not intra_subject:
            raise ValueError(
                "the libraries' subjects are unknown: name the column of adata.obs with `subject_key=`, or pass "
                "intra_subject=True to let one subject be in several splits."
            )
        return {}
    subjects = dict(zip(libraries.names, validate.get_subjects(adata, subject_key, libraries), strict=True))
    return {} if intra_subject else subjects


def _draw(
    libraries: validate.Libraries, subjects: dict[str, str], copies: pd.DataFrame, fractions: Sequence[float], seed: int
) -> list[str]:
    """Split of every library, at random; those of one subject, and copies of each other, together."""
    from spared_sc._kernels.folds import connected, draw_splits

    share = np.asarray(fractions, dtype=float)
    if share.shape != (3,) or (share < 0).any() or not np.isclose(share.sum(), 1) or share[0] == 0:
        raise ValueError(
            f"fractions={fractions!r} must be three shares for train, val and test that add up to one, train above zero."
        )
    number = {name: i for i, name in enumerate(libraries.names)}
    first: dict[str, str] = {}
    pairs = [(number[first.setdefault(subject, name)], number[name]) for name, subject in subjects.items()]
    pairs += [(number[pair.library], number[pair.other]) for pair in copies.itertuples()]
    groups = connected(len(number), pairs)
    n_wanted = np.count_nonzero(share)
    if len(groups) < n_wanted:
        raise ValueError(
            f"{len(groups)} subjects cannot fill {n_wanted} splits: set a fraction to zero, or pass "
            "intra_subject=True to split the libraries of one subject."
        )
    splits = draw_splits(groups, np.bincount(libraries.codes), share, seed)
    return [Key.splits[split] for split in splits]


def _assigned(names: list[str], assignment: str | Mapping[str, str]) -> list[str]:
    if isinstance(assignment, str):
        entry = entry_of(assignment)
        source, assignment, faults = f"the published split of {entry.key}", of_sections(entry), split_faults(entry)
    else:
        # Libraries go by their names as text, also where the column holds numbers.
        source, faults = "`assignment`", []
        assignment = {name_of(name): split for name, split in assignment.items()}
    missing = [name for name in names if name not in assignment]
    if missing:
        raise KeyError(
            f"{len(missing)} libraries are not in {source} ({validate.listing(missing, 5)}; it has "
            f"{validate.listing(assignment, 5)}): give every library a split, or drop those libraries."
        )
    wrong = sorted({str(split) for split in assignment.values()} - set(Key.splits))
    if wrong:
        raise ValueError(f"`assignment` holds {validate.listing(wrong)}; expected only {validate.listing(Key.splits)}.")
    splits = [str(assignment[name]) for name in names]
    if "train" not in splits:
        raise ValueError(f"{source} puts no library into 'train': give one that value.")
    if faults:
        warn(" ".join(faults))
    return splits


def _check_subjects(of_library: dict[str, str], subjects: dict[str, str]) -> None:
    splits: dict[str, set[str]] = {}
    for name, subject in subjects.items():
        splits.setdefault(subject, set()).add(of_library[name])
    crossing = sorted(subject for subject, its_own in splits.items() if len(its_own) > 1)
    if crossing:
        raise ValueError(
            f"{len(crossing)} subjects are in several splits ({validate.listing(crossing, 5)}): keep a subject's "
            "libraries together, or pass intra_subject=True if that is meant."
        )


def _warn_of_copies(of_library: dict[str, str], copies: pd.DataFrame) -> None:
    for pair in copies.itertuples():
        if of_library[pair.library] != of_library[pair.other]:
            warn(
                f"libraries {pair.library!r} ({of_library[pair.library]}) and {pair.other!r} "
                f"({of_library[pair.other]}) look like copies of each other (correlation {pair.correlation:.3f}): "
                "a score would be taken on data that was trained on. Put both into one split, or drop one."
            )
