"""Train, validation and test libraries, subject by subject."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.report import logger, warn
from spared_sc.datasets._splits import spared_splits
from spared_sc.pp._find_duplicate_libraries import find_duplicate_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData


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
    """Split the libraries into train, validation and test; a subject is in one of them only.

    Libraries that are copies of each other (:func:`find_duplicate_libraries`) stay together, too.

    Parameters
    ----------
    adata
        Spots x genes.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    subject_key
        Column of `obs` that names the subject (donor) of each spot. Needed unless `intra_subject=True`.
    fractions
        Shares of the spots for train, validation and test; they add up to one. The largest subjects are placed
        first, equal ones in random order, each where most is missing. A share of zero leaves a split out.
    assignment
        Instead of drawing: a mapping from every library to `"train"`, `"val"` or `"test"`, or the abbreviation of a
        SpaRED data set (such as `"VLO"`), whose published split is used then.
    intra_subject
        Allow one subject in several splits. Scores then say nothing on other subjects.
    key_added
        Name of the new column.
    random_state
        Seed of the draw. The order of libraries and spots does not matter.
    copy
        Return a changed copy instead of changing `adata`.

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
        If a column does not exist, a library is in no split, or the data set is unknown.
    ValueError
        If subjects are unknown, would be in several splits, or are too few.

    Warns
    -----
    UserWarning
        If libraries that are copies of each other are assigned to different splits.

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
    validate.check_number("random_state", random_state, 0, whole=True)
    libraries = validate.get_libraries(adata, library_key)
    subjects = _subjects(adata, libraries, subject_key, intra_subject=intra_subject or isinstance(assignment, str))
    copies = find_duplicate_libraries(adata, library_key=library_key)
    if assignment is None:
        groups = _groups(libraries.names, subjects, copies)
        splits = _draw(groups, np.bincount(libraries.codes), fractions, random_state)
    else:
        splits = _assigned(libraries.names, assignment)
    of_library = dict(zip(libraries.names, splits, strict=True))
    _check_subjects(of_library, subjects, published=isinstance(assignment, str))
    for pair in copies.itertuples():
        if of_library[pair.library] != of_library[pair.other]:
            warn(
                f"libraries {pair.library!r} ({of_library[pair.library]}) and {pair.other!r} "
                f"({of_library[pair.other]}) look like copies of each other (correlation {pair.correlation:.3f}): "
                "a score would be taken on data that was trained on. Put both into one split, or drop one.",
            )
    members = {name: [lib for lib, split in of_library.items() if split == name] for name in Key.splits}
    for name, libs in members.items():
        logger.info("%s: %s", name, validate.listing(libs))

    adata = adata.copy() if copy else adata
    record(
        adata,
        key=key_added,
        function="pp.split_libraries",
        params={
            "library_key": library_key,
            "subject_key": subject_key,
            "fractions": fractions,
            "assignment": assignment if isinstance(assignment, str) or assignment is None else "given",
            "intra_subject": intra_subject,
            "random_state": random_state,
        },
        slots={"obs": {key_added: pd.Categorical(np.asarray(splits)[libraries.codes], categories=list(Key.splits))}},
        libraries={name: np.asarray(libs, dtype=object) for name, libs in members.items() if libs},
    )
    return adata if copy else None


def _subjects(
    adata: AnnData, libraries: validate.Libraries, subject_key: str | None, *, intra_subject: bool
) -> dict[str, str]:
    """Subject of every library; each library its own where subjects may cross splits."""
    if subject_key is None:
        if not intra_subject:
            raise ValueError(
                "the libraries' subjects are unknown: name the column of adata.obs with `subject_key=`, or pass "
                "intra_subject=True to let one subject be in several splits."
            )
        return {}
    if subject_key not in adata.obs:
        raise KeyError(
            f"there is no column {subject_key!r} in adata.obs (columns: {validate.listing(adata.obs.columns)})."
        )
    subjects = {}
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        values = adata.obs[subject_key].iloc[rows]
        if values.isna().any() or values.nunique() != 1:
            raise ValueError(
                f"library {name!r} has {values.nunique()} subjects in adata.obs[{subject_key!r}]"
                f"{' and spots without one' if values.isna().any() else ''}: a library is of one subject. "
                "Give all of its spots the same one, or check `library_key`."
            )
        subjects[name] = str(values.iloc[0])
    return {} if intra_subject else subjects


def _groups(names: list[str], subjects: dict[str, str], copies: pd.DataFrame) -> list[list[int]]:
    """Libraries that must stay together: those of one subject, and copies of each other."""
    group = {name: name for name in names}

    def root(name: str) -> str:
        return name if group[name] == name else root(group[name])

    first: dict[str, str] = {}
    for name, subject in subjects.items():
        group[root(name)] = root(first.setdefault(subject, name))
    for pair in copies.itertuples():
        group[root(pair.other)] = root(pair.library)
    members: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        members.setdefault(root(name), []).append(i)
    return list(members.values())


def _draw(groups: list[list[int]], n_spots: np.ndarray, fractions: Sequence[float], seed: int) -> list[str]:
    share = np.asarray(fractions, dtype=float)
    if share.shape != (3,) or (share < 0).any() or not np.isclose(share.sum(), 1) or share[0] == 0:
        raise ValueError(
            f"fractions={fractions!r} must be three shares for train, val and test that add up to one, train above zero."
        )
    wanted = np.flatnonzero(share)
    if len(groups) < wanted.size:
        raise ValueError(
            f"{len(groups)} subjects cannot fill {wanted.size} splits: set a fraction to zero, or pass "
            "intra_subject=True to split the libraries of one subject."
        )
    order = np.random.default_rng(seed).permutation(len(groups))
    size = np.array([n_spots[group].sum() for group in groups])
    order = order[np.argsort(-size[order], kind="stable")]  # large subjects first: they are the hardest to place
    filled = np.zeros(3)
    splits = np.empty(n_spots.size, dtype=object)
    for i, at in enumerate(order):
        empty = wanted[filled[wanted] == 0]
        # The last groups go to the splits that are still without any.
        choice = empty if len(groups) - i <= empty.size else wanted
        target = choice[np.argmin(filled[choice] / share[choice])]
        splits[groups[at]] = Key.splits[target]
        filled[target] += size[at]
    return splits.tolist()


def _assigned(names: list[str], assignment: str | Mapping[str, str]) -> list[str]:
    if isinstance(assignment, str):
        known = spared_splits()
        if assignment not in known:
            raise KeyError(
                f"there is no published split {assignment!r}; SpaRED's sets are {validate.listing(known, 30)}."
            )
        source, assignment = f"SpaRED's {assignment}", known[assignment]
    else:
        # Libraries go by their names as text, also where the column holds numbers.
        source, assignment = "`assignment`", {str(name): split for name, split in assignment.items()}
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
    return splits


def _check_subjects(of_library: dict[str, str], subjects: dict[str, str], *, published: bool) -> None:
    found: dict[str, set[str]] = {}
    for name, subject in subjects.items():
        found.setdefault(subject, set()).add(of_library[name])
    crossing = sorted(subject for subject, splits in found.items() if len(splits) > 1)
    if crossing and not published:
        raise ValueError(
            f"{len(crossing)} subjects are in several splits ({validate.listing(crossing, 5)}): keep a subject's "
            "libraries together, or pass intra_subject=True if that is meant."
        )
