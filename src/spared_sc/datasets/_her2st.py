"""The HER2-positive breast cancer collection of Andersson et al. (2021)."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Literal

import pandas as pd

from spared_sc._core.download import cache_folder, cache_folders, fetch, read_text
from spared_sc._core.keys import Key
from spared_sc._core.names import check_file_name
from spared_sc._core.record import record
from spared_sc._core.report import logger
from spared_sc._core.settings import settings
from spared_sc._core.validate import listing
from spared_sc.datasets._join import Section, check_library_key, join_sections, matches
from spared_sc.datasets._st_files import read_places, read_section

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

_NAME = "her2st"
_PATIENTS = {"A": 6, "B": 6, "C": 6, "D": 6, "E": 3, "F": 3, "G": 3, "H": 3}
_SECTIONS = tuple(f"{patient}{number}" for patient, n in _PATIENTS.items() for number in range(1, n + 1))
# Files of a section, by its name.
_COUNTS = "ST-cnts/{0}.tsv.gz"
_SPOTS = "ST-spotfiles/{0}_selection.tsv"
_LABELS = "ST-pat/lbl/{0}_labeled_coordinates.tsv"
_ANY_IMAGE = "/*.jpg"
_IMAGE = "ST-imgs/{0[0]}/{0}" + _ANY_IMAGE
_LABELLED = ("A1", "B1", "C1", "D1", "E1", "F1", "G2", "H1")
# The data have not changed since the paper, and known hashes pin what is downloaded.
_URL = "https://raw.githubusercontent.com/almaan/her2st/master/data"
_LIST_URL = "https://api.github.com/repos/almaan/her2st/contents/data"


def her2st(
    sections: str | Sequence[str] | None = None,
    *,
    images: bool = False,
    labels: bool = True,
    join: Literal["inner", "outer"] = "inner",
    library_key: str = "library_id",
) -> AnnData:
    """HER2-positive breast cancer: 36 sections of 8 patients, Spatial Transcriptomics (Andersson et al., 2021).

    Files are read from the folder `her2st` of `settings.data_dir` (or a clone of the repository there), then from that of
    `settings.cache_dir`. Missing ones are downloaded into the latter (into a temporary folder, with a warning, where it
    cannot be written): 1 to 2 MB for a section, 4 MB for an image.

    Parameters
    ----------
    sections
        Sections (`"A1"`) and patients (`"A"`: all sections of A). `None`: all sections in `settings.data_dir` when it
        has some, all 36 otherwise. Patients A to D have 6 sections, E to H have 3.
    images
        Also read the H&E images.
    labels
        Also read the pathologist's labels. They exist for one section of each patient: A1, B1, C1, D1, E1, F1, G2
        and H1.
    join
        Genes to keep: those of all sections (`"inner"`, as in SpaRED) or of any (`"outer"`). A section's table lists the
        genes that were detected in it, so a missing gene has the count 0.
    library_key
        Column of `obs` for the names of the sections.

    Returns
    -------
    Spots x genes as from :func:`spared_sc.datasets.read_st`, with

    - `obs["subject"]`: patient, categorical
    - `obs["label"]`: pathologist's label, categorical, missing where there is none; absent when no section has labels
    - `uns["spatial"][section]`: with the image if `images=True`; positions are in pixels of the full image (about
      9,270 x 9,910), whose path is `metadata["source_image_path"]`
    - `uns["spared_sc"]["her2st"]`: how it was read

    Spots are named by their place, followed by `_<section>` where there are several sections; genes are symbols.

    Raises
    ------
    ValueError
        There is no such section, or a file is damaged or not the expected one.
    ConnectionError
        Files are not on this machine and cannot be downloaded; the message names them and their folder.

    Notes
    -----
    Downloads are checked against sha256 sums where these are known (sections of the patients A to D, their labels, and
    the images of B4 and C2 to C5). The log names files without a known sum.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.her2st(["A1", "B"])  # doctest: +SKIP
    >>> train = sp.datasets.her2st(["A", "B", "C", "D"])  # doctest: +SKIP

    References
    ----------
    Andersson et al. (2021), Spatial deconvolution of HER2-positive breast cancer delineates tumor-associated cell type
    interactions, Nature Communications 12, 6012. Data: https://github.com/almaan/her2st
    """
    check_library_key(library_key, "subject", "label")
    if join not in ("inner", "outer"):
        raise ValueError(f"join={join!r} is unknown: choose 'inner' or 'outer'.")
    names = _chosen(sections)
    labelled = [name for name in names if labels and name in _LABELLED]
    paths = _get(
        [
            *(file.format(name) for name in names for file in (_COUNTS, _SPOTS)),
            *(_LABELS.format(name) for name in labelled),
            *(_IMAGE.format(name) for name in names if images),
        ]
    )
    read = []
    for name in names:
        counts, spots = paths[_COUNTS.format(name)], paths[_SPOTS.format(name)]
        section = read_section(counts, spots, paths.get(_IMAGE.format(name)), name=name)
        section.positions["subject"] = name[0]
        if name in labelled:
            section.positions["label"] = _read_labels(section, paths[_LABELS.format(name)])
        read.append(section)
    adata = join_sections(read, library_key, join=join)
    for column in {"subject", "label"} & set(adata.obs):
        adata.obs[column] = adata.obs[column].astype("category")
    record(
        adata,
        key=_NAME,
        function="datasets.her2st",
        params={"images": images, "labels": labels, "join": join, "library_key": library_key},
        slots={},
        libraries=list(names),
        source=_URL,
    )
    logger.info("read %d spots x %d genes of %d sections", *adata.shape, len(names))
    return adata


def _chosen(sections: str | Sequence[str] | None) -> tuple[str, ...]:
    """Names of sections, each once."""
    if sections is None:
        local = tuple(
            name for name in _SECTIONS if any((root / _COUNTS.format(name)).is_file() for root in _data_roots())
        )
        if local:
            logger.info("%d of %d sections are in %s", len(local), len(_SECTIONS), settings.data_dir)
        return local or _SECTIONS
    names = []
    for name in [sections] if isinstance(sections, str) else sections:
        if name not in (*_SECTIONS, *_PATIENTS):
            raise ValueError(
                f"there is no section {name!r}: choose from A1 to A6, B1 to B6, C1 to C6, D1 to D6, E1 to E3, F1 to "
                "F3, G1 to G3 and H1 to H3, or a patient, 'A' to 'H'."
            )
        names += [section for section in _SECTIONS if name in (section, section[0])]
    if not names:
        raise ValueError("no section was given: pass names such as 'A1' or 'A', or None for all.")
    return tuple(dict.fromkeys(names))


def _data_roots() -> list[Path]:
    """Folders of the user that may hold the collection: as it is, or as a clone of the repository."""
    folder = settings.data_dir
    return [] if folder is None else [folder / _NAME, folder / _NAME / "data"]


def _cache_root() -> Path:
    return settings.cache_dir / _NAME


def _get(needed: Iterable[str]) -> dict[str, Path]:
    """Paths of files of the collection, downloaded where they are not on this machine."""
    local = {relative: _local(relative) for relative in needed}
    paths = {relative: path for relative, path in local.items() if path is not None}
    missing = [relative for relative in local if relative not in paths]
    known = _registry()
    if missing:
        logger.info("downloading %d files of the HER2+ collection from %s", len(missing), _URL)
    unchecked = [relative for relative in missing if not fnmatch.filter(known, relative)]
    if unchecked:
        logger.info("no checksum is on record for %s", listing(unchecked, len(unchecked)))
    folder = cache_folder(_NAME) if missing else _cache_root()
    for relative in missing:
        try:
            file = _image_file(relative) if relative.endswith(_ANY_IMAGE) else relative
            paths[relative] = fetch(f"{_URL}/{file}", folder / file, known_hash=known.get(file))
        except ConnectionError as error:
            left = [other for other in missing if other not in paths]
            raise ConnectionError(
                f"{len(left)} files of the HER2+ collection are not on this machine ({listing(left, 12)}) and could "
                f"not be downloaded ({error}) Try again with a network connection, or get them from the folder `data` "
                f"of https://github.com/almaan/her2st and put them, with their folders, into {_cache_root()}, or into "
                f"the folder {_NAME!r} of the one that SPARED_SC_DATA_DIR names."
            ) from error
    return paths


def _local(relative: str) -> Path | None:
    for root in (*_data_roots(), *cache_folders(_NAME)):
        paths = [path for path in matches(root, relative) if path.is_file()]
        if len(paths) > 1:
            raise ValueError(
                f"{paths[0].parent} holds several images ({listing(path.name for path in paths)}): keep one."
            )
        if paths:
            return paths[0]
    return None


def _image_file(pattern: str) -> str:
    """Path of a section's image; images are called as the microscope called them, so the server may have to be asked."""
    on_record = fnmatch.filter(_registry(), pattern)
    if on_record:
        return on_record[0]
    folder = pattern.removesuffix(_ANY_IMAGE)
    try:
        listed = json.loads(read_text(f"{_LIST_URL}/{folder}?ref=master"))
        images = [entry["name"] for entry in listed if entry["name"].lower().endswith(".jpg")]
    except (KeyError, TypeError, ValueError) as error:  # something else answers in GitHub's place
        raise ConnectionError(f"{_LIST_URL}/{folder} does not list any files.") from error
    if len(images) != 1:
        raise ConnectionError(f"{_LIST_URL}/{folder} lists {listing(images)} instead of one image.")
    return f"{folder}/{check_file_name(images[0], f'{_LIST_URL}/{folder}')}"


@cache
def _registry() -> dict[str, str]:
    """Relative path -> sha256."""
    lines = (files("spared_sc.datasets") / "her2st_registry.txt").read_text().splitlines()
    return {path: f"sha256:{digest}" for path, digest in map(str.split, lines)}


def _read_labels(section: Section, path: Path) -> list[str | None]:
    """The pathologist's label of each spot, joined on the rounded places, as counts and spots are."""
    labels = read_places(path, ("x", "y", "label"))["label"]
    place = pd.MultiIndex.from_frame(section.positions[[Key.obs.array_col, Key.obs.array_row]])
    labels = labels.reindex(place)
    n_labelled = int(labels.notna().sum())
    logger.info("library %r: %d of %d spots have a label", section.name, n_labelled, len(place))
    if n_labelled < 0.5 * len(place):
        raise ValueError(
            f"only {n_labelled} of {len(place)} spots of section {section.name} have a label in {path}: expected the "
            "labels of this section; download the file again, or pass labels=False."
        )
    return labels.tolist()
