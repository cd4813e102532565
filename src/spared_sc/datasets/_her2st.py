"""The HER2-positive breast cancer collection of Andersson et al. (2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from spared_sc._core.record import record
from spared_sc.datasets._catalogue import entry_of
from spared_sc.datasets._load import load_entry
from spared_sc.datasets._sources import page_of

if TYPE_CHECKING:
    from anndata import AnnData


def her2st(
    sections: str | Sequence[str] | None = None,
    *,
    images: bool = False,
    labels: bool = True,
    join: Literal["inner", "outer"] = "inner",
    library_key: str = "library_id",
) -> AnnData:
    """HER2-positive breast cancer: 36 sections of 8 patients, Spatial Transcriptomics (Andersson et al., 2021).

    The entry `"HER2ST"` of the catalogue, without its split: see :func:`load` for where files are looked for and what is
    checked. A section has 1 to 2 MB, an image 4 MB.

    Parameters
    ----------
    sections
        Sections (`"A1"`) and patients (`"A"`: all sections of A); `None`: all 36. Patients A to D have 6 sections, E to
        H have 3.
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
    Files are checked against sha256 sums where these are known (sections of the patients A to D, their labels, and the
    images of B4 and C2 to C5).

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
    entry = entry_of("HER2ST")
    adata = load_entry(
        entry,
        sections,
        images="full" if images else None,
        layers=(),
        labels=labels,
        join=join,
        library_key=library_key,
    )
    record(
        adata,
        key="her2st",
        function="datasets.her2st",
        params={"images": images, "labels": labels, "join": join, "library_key": library_key},
        slots={},
        libraries=list(adata.obs[library_key].cat.categories),
        source=page_of(entry),
    )
    return adata
