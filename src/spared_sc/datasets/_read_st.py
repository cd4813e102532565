"""Read a section of the first Spatial Transcriptomics arrays."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from spared_sc._core.record import record
from spared_sc._core.report import logger
from spared_sc._core.validate import listing
from spared_sc.datasets._join import check_library_key, join_sections
from spared_sc.datasets._st_files import read_section

if TYPE_CHECKING:
    from anndata import AnnData


def read_st(
    counts: str | Path,
    spots: str | Path | None = None,
    *,
    image: str | Path | None = None,
    library_id: str | None = None,
    library_key: str = "library_id",
    spot_diameter: float | None = None,
    in_tissue_only: bool = True,
) -> AnnData:
    """Read one section of a Spatial Transcriptomics array, the technology before Visium.

    Parameters
    ----------
    counts
        Table of counts, `.tsv`, `.txt` (tabs) or `.csv` (commas), also as `.gz`. Spots are named by their place on the
        array, such as `10x13` for x = 10 and y = 13. They may be rows or columns; the log says which.
    spots
        Table of spots (`*_selection.tsv` of the ST spot detector, or an alignment table) with the columns `x`, `y`
        (place on the array), `pixel_x`, `pixel_y` (position in the image) and, where the file also lists spots outside
        the tissue, `selected` (1 or 0). It is joined to the counts on the rounded `x` and `y`. Without it, positions are
        the places on the array.
    image
        The image in which `pixel_x` and `pixel_y` are measured: JPEG, PNG or TIFF.
    library_id
        Name of the section. The default is the name of the counts file without its endings.
    library_key
        Column of `obs` for the name of the section.
    spot_diameter
        Diameter of a spot in pixels of `image`. The default is half the distance between neighbouring spots, which is
        right for arrays with spots of 100 µm every 200 µm; the log says what was used.
    in_tissue_only
        Drop the spots with `selected` equal to 0.

    Returns
    -------
    Spots x genes, with

    - `X`: counts, sparse (CSR), float32
    - `obs`: `in_tissue`, `array_row` (y), `array_col` (x) (integers) and the categorical column `library_key`;
      spots have the names of the counts file
    - `var`: genes have the names of the counts file, made unique
    - `obsm["spatial"]`: x and y of the spots in pixels of `image`, float64
    - `uns["spatial"][library]`: `images` (`hires`: uint8 RGB, at most 2,000 px wide and high), `scalefactors`
      (`tissue_hires_scalef`, `spot_diameter_fullres`), `metadata` (names of the files, the path of the image as
      `source_image_path`, and `assay`, `"st"`, where the places are those of the first arrays)
    - `uns["spared_sc"]["read_st"]`: how it was read

    Raises
    ------
    FileNotFoundError
        A file is missing.
    ValueError
        A file is damaged or of another kind, or counts, spots and image do not belong together.

    Notes
    -----
    Spots that are in only one of the two files are dropped, and the log says how many. Selected spots without counts had
    no reads. Counts without a position are an error when they are more than 5 % of the spots, unless nearly all selected
    spots have counts: then the spot file lists only the spots under the tissue, and the others are dropped with
    `in_tissue_only`.

    The lattice is square where all places on the array are used. The denser arrays of 2,000 spots use every other place,
    as Visium does, and :func:`spared_sc.pp.lattice_neighbors` takes them for hexagonal. Pass `spot_diameter` for those.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.read_st("A1.tsv.gz", "A1_selection.tsv", image="A1.jpg")  # doctest: +SKIP
    """
    check_library_key(library_key)
    section = read_section(
        _existing(counts, "counts"),
        None if spots is None else _existing(spots, "spots"),
        None if image is None else _existing(image, "image"),
        name=library_id,
        spot_diameter=spot_diameter,
        in_tissue_only=in_tissue_only,
    )
    adata = join_sections([section], library_key)
    record(
        adata,
        key="read_st",
        function="datasets.read_st",
        params={"library_key": library_key, "spot_diameter": spot_diameter, "in_tissue_only": in_tissue_only},
        slots={},
        libraries=[section.name],
    )
    logger.info("read %d spots x %d genes of library %r", *adata.shape, section.name)
    return adata


def _existing(path: str | Path, argument: str) -> Path:
    """The path of a file that exists."""
    file = Path(path).expanduser()
    if not file.is_file():
        beside = listing(sorted(other.name for other in file.parent.iterdir())) if file.parent.is_dir() else "no folder"
        raise FileNotFoundError(f"there is no file {argument}={str(path)!r}; its folder holds {beside}.")
    return file
