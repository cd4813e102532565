"""Sections in a browser: a page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.predictions import prediction_keys
from spared_sc._core.report import logger
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_number
from spared_sc._explorer import collect, write
from spared_sc._explorer.serve import LocalServer, Page
from spared_sc.pl._marks import as_list

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData


@accepts_spatialdata
@docs.fill()
def explore(
    adata: AnnData,
    export: str | Path | None = None,
    *,
    genes: str | Sequence[str] | None = None,
    layers: str | Sequence[str] | None = None,
    obs: str | Sequence[str] | None = None,
    scores: pd.DataFrame | None = None,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    img: bool = True,
    image_side: int = 2000,
    title: str = "Sections",
    max_mb: float = 200.0,
    serve: bool = False,
    open_browser: bool | None = None,
) -> Page:
    """Show sections in a browser: maps of genes on the tissue, as measured, completed and predicted.

    The result is a folder of static files. It opens without a server and asks for nothing outside of it, so it can be
    copied to a web server or sent to somebody. The page shows any number of sections and layers side by side, with one
    colour scale per unit, and links zoom, hover and selection. It needs Bokeh: `pip install "spared-sc[explore]"`.

    Values are stored in eight bits with a scale per gene and layer: what the page shows is rounded to 1/254 of the range
    of the gene.

    Parameters
    ----------
    {adata}
    export
        Folder to write, which must not exist. A page that was written there before is replaced; anything else stays, and
        is an error. `None` writes to a temporary folder.
    genes
        Genes to show. `None` takes those of `var["spared_selected"]` (all without it) and those that were predicted.
    layers
        Layers and predictions (names of tables in `obsm`) to show. `None` takes the measured layer, all completed and
        denoised ones with the standard deviation of the latter, and all predictions.
    obs
        Columns of `obs` to show. `None` takes all numbers, and all columns of at most 60 different values.
    scores
        Table of :func:`spared_sc.tl.score_prediction`. `None` computes it where there are predictions and counts.
    {library_key}
    {libraries}
    {spatial_key}
    {img}
    image_side
        Longest side of the images in pixels; larger ones are reduced.
    title
        Title of the page.
    max_mb
        Largest size of the folder in MB. A page that would be larger is refused before anything is written.
    serve
        Serve the folder at an address of this machine (127.0.0.1), until `close` or the end of the program.
    open_browser
        Whether to open the page. `None` opens it unless in a notebook, where the page shows itself below the cell.

    Returns
    -------
    The page: `folder`, `index`, `address`, and the methods `open` and `close`. `adata` is not changed.

    Raises
    ------
    OSError
        If something else lies at `export`, or if it cannot be written.
    ImportError
        If Bokeh is not installed.
    KeyError
        If a gene, layer, column or library does not exist.
    ValueError
        If there is nothing to show, or if the page would be larger than `max_mb`; the error names what makes it fit.

    Examples
    --------
    >>> import tempfile
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=2, shape=(8, 8), n_genes=20)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    >>> sp.tl.median_complete(adata, library_key="library_id")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = sp.explore(adata, f"{folder}/site", library_key="library_id", open_browser=False)
    ...     page.index.is_file()
    True
    """
    check_number("image_side", image_side, 64, 20_000, whole=True)
    check_number("max_mb", max_mb, 1)
    write.bokeh_scripts()  # before any work, an error if there are none
    collection = collect.collect(
        adata,
        genes=None if genes is None else as_list(genes),
        layers=None if layers is None else as_list(layers),
        obs=None if obs is None else as_list(obs),
        scores=_scores(adata, library_key, spatial_key) if scores is None else scores,
        library_key=library_key,
        libraries=libraries,
        spatial_key=spatial_key,
        img=img,
    )
    folder = write.place(export)
    write.write_page(collection, folder, title, image_side=image_side, max_mb=max_mb)
    logger.info("the page is %s", folder / write.INDEX)
    page = Page(folder, LocalServer(folder) if serve else None)
    if open_browser or (open_browser is None and not _in_notebook()):
        page.open()
    return page


def _scores(adata: AnnData, library_key: str | None, spatial_key: str) -> pd.DataFrame | None:
    """Scores of the predictions; `None` without predictions or counts, or where all sections took part in fitting."""
    import pandas as pd

    from spared_sc.tl._score_prediction import score_prediction

    tables = []
    for key in prediction_keys(adata):
        try:
            tables.append(score_prediction(adata, key, library_key=library_key, spatial_key=spatial_key))
        except (KeyError, ValueError) as error:
            logger.info("%s is shown without scores: %s", key, error)
    return pd.concat(tables) if tables else None


def _in_notebook() -> bool:
    """Whether the caller is a cell of a notebook."""
    import sys

    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return shell is not None and "IPKernelApp" in shell.config
