"""Whether the spots lie on the tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.report import logger
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._images.alignment import align_libraries

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def check_alignment(
    adata: AnnData, *, image: Any = None, library_key: str | None = None, spatial_key: str = Key.obsm.spatial
) -> pd.DataFrame:
    """Compare the spots with the tissue that the image shows, and name the likely mistake where they differ.

    Mistakes that are recognised: positions of the hires image taken for those of the full resolution and the reverse,
    exchanged x and y, a mirrored or rotated image. Counts are not used.

    Parameters
    ----------
    adata
        Spots x genes, with positions. Spots whose `obs["in_tissue"]` is 0 are left out of all numbers.
    image
        As in :func:`spared_sc.pp.extract_patches`.
    {others}

    Returns
    -------
    One row for each library:

    `on_tissue`
        Share of the spots that lie on tissue.
    `tissue_covered`
        Share of the tissue within the outermost spots that lies within 0.7 pitches of a spot.
    `agreement`
        Phi coefficient between tissue and spots; 1 where they agree everywhere.
    `verdict`
        `"aligned"`; `"misaligned"`: undoing the mistake raises the agreement by more than 0.1; `"ambiguous"`: undoing it
        makes no difference, as on symmetric tissue; `"unclear"`: nothing agrees, because tissue covers the whole array
        or none was found.
    `likely_cause`
        The mistake, or several that explain it equally well; empty where there is none.

    Raises
    ------
    ValueError
        If a library has no image, or its image cannot be read.
    FileNotFoundError
        If the image file is gone.
    KeyError
        If there are no positions.

    Notes
    -----
    Coloured pixels count as tissue: Otsu's threshold (1979) on the range of the optical densities of red, green and
    blue.

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
    for name, alignment in align_libraries(adata, libraries, image, spatial_key).items():
        table[name] = {
            "on_tissue": alignment.share,
            "tissue_covered": alignment.covered,
            "agreement": alignment.agreement,
            "verdict": alignment.verdict,
            "likely_cause": alignment.cause,
        }
        if alignment.verdict == "misaligned":
            logger.warning(
                "library %r: %.0f %% of the spots are on tissue; likely %s. Look at `sp.pl.alignment`",
                *(name, 100 * alignment.share, alignment.cause),
            )
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(libraries.key or "library")
