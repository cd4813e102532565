"""One call from the name of a data set to an AnnData."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import pandas as pd

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.record import record
from spared_sc._core.report import logger, warn
from spared_sc._core.validate import listing
from spared_sc.datasets._catalogue import entry_of
from spared_sc.datasets._fetch import plan
from spared_sc.datasets._join import check_library_key
from spared_sc.datasets._read_set import read_set
from spared_sc.datasets._sources import page_of
from spared_sc.datasets._splits import of_sections, split_faults
from spared_sc.datasets._store import find_files

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

    from spared_sc.datasets._entries import DataSet


@checks_arguments
def load(
    name: str,
    sections: str | Sequence[str] | None = None,
    *,
    images: Literal["hires", "full"] | None = "hires",
    split: bool = True,
    layers: str | Sequence[str] = (),
    join: Literal["inner", "outer"] = "inner",
    library_key: str = "library_id",
    catalogue: str | Path | None = None,
) -> AnnData:
    """A data set of the catalogue by its name, fetched where it is not on this machine, read, and split.

    Files are looked for in the set's `folder` in `settings.data_dir`, then in that of `settings.cache_dir`. What is
    missing is downloaded into the latter and checked; see the page "Data sets" of the documentation.

    Parameters
    ----------
    name
        Abbreviation (`"VLO"`) or name (`"villacampa_lung_organoid"`), whatever their case; :func:`catalogue` lists them.
    sections
        Sections by name, or all sections of a subject by its name. `None`: all of the data set.
    images
        `"hires"`: the small images, as the readers take them. `"full"`: also fetch the images at full resolution, which
        may have hundreds of MB each, and name their paths. `None`: no images.
    split
        Write the published split to `obs["split"]`, where there is one.
    layers
        Further tables of the source to read as layers, such as `"normalized"` of PMI, the values that SpaRED took for
        counts.
    join
        Genes to keep: those of all sections (`"inner"`, as in SpaRED) or of any (`"outer"`).
    library_key
        Column of `obs` for the names of the sections.
    catalogue
        A TOML file with data sets of your own, as for :func:`catalogue`.

    Returns
    -------
    Spots x genes as from :func:`read_visium` or :func:`read_st`, ready for :func:`spared_sc.pp.recipe_spared`, with

    - `X`: raw counts
    - `obs`: the categorical columns `library_key` and `subject`; `split` (`"train"`, `"val"`, `"test"`) if `split=True` and
      there is a published one; `label` where the source has labels
    - `uns["spatial"][library]`: images, scale factors and metadata; with `images="full"`, `metadata["source_image_path"]`
      names the full image, from which :func:`spared_sc.pp.extract_patches` cuts patches
    - `uns["spared_sc"]["load"]`: parameters, source, licence and citation, and which statements of the catalogue are
      not verified

    Raises
    ------
    ValueError
        There is no such data set (near names are listed), section or layer; a file is not the expected one; or an archive
        holds several files that may be meant.
    ConnectionError
        Files are not on this machine and cannot be downloaded. The message names them, says why each source gave nothing,
        and where to put files that you get in another way.

    Warns
    -----
    UserWarning
        If the published split has known faults: no test split, or sections that another set of the collection trains on.

    Notes
    -----
    A published checksum is checked where there is one. Otherwise the sha256 of the first download is recorded in
    `SHA256SUMS` beside the files, and later downloads and :func:`verify` are compared with it.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.load("VLO")  # doctest: +SKIP
    >>> sp.pp.recipe_spared(
    ...     adata, library_key="library_id", **sp.datasets.catalogue().loc["VLO", "recipe"]
    ... )  # doctest: +SKIP

    References
    ----------
    Ruiz et al. (2025), Completing spatial transcriptomics data for gene expression prediction benchmarking, Medical Image
    Analysis, doi:10.1016/j.media.2025.103754; and the `citation` of each data set.
    """
    entry = entry_of(name, catalogue)
    layers = (layers,) if isinstance(layers, str) else tuple(layers)
    adata = load_entry(entry, sections, images=images, layers=layers, labels=True, join=join, library_key=library_key)
    slots = {"obs": {Key.obs.split: _split(entry, adata.obs[library_key])}} if split and of_sections(entry) else {}
    record(
        adata,
        key="load",
        function="datasets.load",
        params={
            "name": entry.key,
            "images": images,
            "split": split,
            "layers": layers,
            "join": join,
            "library_key": library_key,
        },
        slots=slots,
        libraries=list(adata.obs[library_key].cat.categories),
        source=page_of(entry),
        licence=entry.licence,
        citation=entry.citation,
        unverified={name: text for name, text in entry.known.items() if text.startswith("unverified")},
    )
    return adata


def load_entry(
    entry: DataSet,
    sections: str | Sequence[str] | None,
    *,
    images: str | None,
    layers: Sequence[str],
    labels: bool,
    join: str,
    library_key: str,
) -> AnnData:
    """Fetch and read sections of a data set."""
    check_library_key(library_key, "subject", "label", Key.obs.split)
    if join not in ("inner", "outer"):
        raise ValueError(f"join={join!r} is unknown: choose 'inner' or 'outer'.")
    needed, welcome = plan(entry, entry.chosen(sections), images, layers, labels)
    files = find_files(entry, needed, welcome)
    adata = read_set(
        entry,
        {name: files[name] for name in needed},
        images=images,
        layers=layers,
        join=join,
        library_key=library_key,
    )
    logger.info("read %d spots x %d genes of %d sections of %s", *adata.shape, len(needed), entry.key)
    for note in entry.notes if images == "full" else ():
        if "image" in note:
            logger.warning("%s: %s", entry.key, note)
    return adata


def _split(entry: DataSet, libraries: pd.Series) -> pd.Categorical:
    """The published split of each spot; its known faults are a warning."""
    faults = split_faults(entry)
    if faults:
        warn(" ".join(faults))
    splits = of_sections(entry)
    without = sorted(set(libraries.astype(str)) - splits.keys())
    if without:
        logger.warning("%s: the sections %s have no published split", entry.key, listing(without))
    return pd.Categorical(libraries.astype(str).map(splits), categories=list(Key.splits))
