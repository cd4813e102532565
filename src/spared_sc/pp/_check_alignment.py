"""Do the spots lie on the tissue?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.report import logger
from spared_sc._images.alignment import align_libraries

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def check_alignment(
    adata: AnnData,
    *,
    image: Any = None,
    library_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
) -> pd.DataFrame:
    """Compare where the spots are with where the image shows tissue, and name the likely mistake where they differ.

    Mistakes that are told apart: positions of the hires image taken for those of the full resolution and the reverse, x
    and y exchanged, an image that is mirrored or rotated. Counts are not looked at.

    Parameters
    ----------
    adata
        Spots x genes, with positions. Spots whose `obs["in_tissue"]` is 0 are left out of all numbers.
    image
        As in :func:`spared_sc.pp.extract_patches`.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    spatial_key
        Name in `obsm` of the positions (x, y), in pixels of the full-resolution image.

    Returns
    -------
    One row for each library:

    `on_tissue`
        Share of the spots under which there is tissue.
    `tissue_covered`
        Share of the tissue within the outermost spots that lies within 0.7 pitches of a spot.
    `agreement`
        Phi coefficient between tissue and spots, 1 where they are the same.
    `verdict`
        `"aligned"`; `"misaligned"`: without the mistake they would agree better by more than 0.1; `"ambiguous"`: with the
        mistake they would agree as well, as on symmetric tissue; `"unclear"`: nothing agrees, as where there is tissue
        under the whole array, or none was found.
    `likely_cause`
        The mistake, or those that explain it equally well; empty where there is none.

    Raises
    ------
    ValueError
        If a library has no image, or one that cannot be read.
    FileNotFoundError
        If the image is not where it was.
    KeyError
        If there are no positions.

    Notes
    -----
    Tissue is what is coloured: Otsu's threshold (1979) on the range of the optical densities of red, green and blue.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=1)
    >>> table = sp.pp.check_alignment(adata)
    >>> bool(table.loc["library_1", "on_tissue"] > 0.9)
    True
    """
    import pandas as pd

    validate.check_adata(adata, genes=False)
    libraries = validate.get_libraries(adata, library_key)
    table = {}
    for name, one in align_libraries(adata, libraries, image, spatial_key).items():
        table[name] = {
            "on_tissue": one.share,
            "tissue_covered": one.covered,
            "agreement": one.agreement,
            "verdict": one.verdict,
            "likely_cause": one.cause,
        }
        if one.verdict == "misaligned":
            logger.warning(
                "library %r: %.0f %% of the spots are on tissue; likely %s. Look at `sp.pl.alignment`",
                *(name, 100 * one.share, one.cause),
            )
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(library_key or "library")
