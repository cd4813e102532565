"""A slide without spots as an AnnData: a lattice of virtual spots on its tissue."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from spared_sc._core.arguments import checks_arguments
from spared_sc._core.keys import Key
from spared_sc._core.names import check_library_name
from spared_sc._core.record import record
from spared_sc._core.report import logger, warn
from spared_sc._core.sdata import only_scales
from spared_sc._core.validate import check_number, listing
from spared_sc._images.measures import AGREE
from spared_sc._images.source import open_image
from spared_sc._images.tissue import share_within, tissue_mask
from spared_sc.datasets._join import check_library_key

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._images.raster import Source

_LONGEST = 2000  # pixels of the longer side of the hires image, as Space Ranger makes it
_KINDS = ("hex", "grid")


@checks_arguments
def tile_slide(
    image: Any,
    *,
    mpp: float | None = None,
    spot_diameter: float = 65.0,
    pitch: float = 100.0,
    kind: Literal["hex", "grid"] = "hex",
    min_tissue: float = 0.5,
    library_id: str = "slide",
    library_key: str = "library_id",
) -> AnnData:
    """Lay a lattice of virtual spots on the tissue of a slide that has none.

    The result is an AnnData without genes, ready for every function that reads patches, such as the prediction of
    expression.

    Parameters
    ----------
    image
        Path of the image file, array (y, x, c) or (c, y, x), or image of a SpatialData object; 8-bit RGB. The AnnData
        remembers the path of a file, so that patches are cut from it later. Of other images it keeps the hires version
        only.
    mpp
        Micrometres per pixel of the image. `None` reads it from the file (OME, ImageJ or Aperio metadata, resolution tags). A
        warning is given if the file says something else.
    spot_diameter
        In µm. The default is the diameter that Space Ranger writes for Visium, so that patches measured in spots are as
        large as those of a Visium section. Use 100 for the arrays before Visium.
    pitch
        Distance between the centres of neighbouring spots in µm: 100 on Visium, 200 on the arrays before it.
    kind
        `"hex"` as on Visium, or `"grid"` of squares.
    min_tissue
        Least share of a spot that must be tissue, from 0 to 1. 0 keeps all spots.
    library_id
        Name of the slide.
    library_key
        Column of `obs` for it.

    Returns
    -------
    Spots x 0 genes, with

    - `obs`: `in_tissue` (1), `array_row`, `array_col` and the categorical column `library_key`; spots are named by column
      and row, such as `12x7`
    - `obsm["spatial"]`: x and y in pixels of the image; of an image of a SpatialData object, in its coordinate system
      `"global"`, or its only one
    - `uns["spatial"][library_id]`: `images` (`hires`, at most about 2,000 px wide and high), `scalefactors`
      (`tissue_hires_scalef`, `spot_diameter_fullres`, `microns_per_pixel`) and `metadata` (`assay`, which is
      `"virtual"`, and `source_image_path`). An
      image that is turned, moved or stretched in its coordinate system has no `hires`: pass the image itself to the
      functions that read patches
    - `uns["spared_sc"]["tile_slide"]`: the parameters

    Raises
    ------
    ValueError
        If the scale is unknown, no tissue is found, spots are less than a pixel of the hires image apart, or wider or farther
        apart than the image, the image cannot be read, or `library_id` or `library_key` cannot be a name.
    FileNotFoundError
        If there is no such file.

    Examples
    --------
    >>> import spared_sc as sp
    >>> slide = sp.datasets.synthetic(n_libraries=1).uns["spatial"]["library_1"]["images"]["hires"]
    >>> adata = sp.pp.tile_slide(slide, mpp=4.1)
    >>> adata.n_vars, adata.obs["in_tissue"].unique().tolist()
    (0, [1])
    """
    for name, value in (("spot_diameter", spot_diameter), ("pitch", pitch)):
        check_number(name, value, 1e-3)
    check_number("min_tissue", min_tissue, 0, 1)
    if kind not in _KINDS:
        raise ValueError(f"kind={kind!r} cannot be used: choose one of {listing(_KINDS)}.")
    source = open_image(image)
    check_library_name(library_id)
    check_library_key(library_key)
    mpp = _scale(source, mpp)
    hires, zoom = source.thumbnail(_LONGEST)
    places, xy = _spots(source, kind, pitch, mpp, zoom)
    width = spot_diameter / mpp
    if width > max(source.shape):
        height, across = source.shape
        raise ValueError(
            f"spots of {spot_diameter:g} um are {width:.3g} pixels wide (mpp={mpp:g}), and {source.where} has only {across} "
            f"x {height}: check `mpp` and `spot_diameter`, both in micrometres."
        )
    share = share_within(tissue_mask(hires), xy * zoom, width * zoom)
    keep = share >= min_tissue
    if not keep.any():
        raise ValueError(
            f"no spot lies on tissue of {source.where}: is it an H&E image? With min_tissue=0 all {len(keep)} are kept."
        )
    adata = _section(source, places[keep], xy[keep], library_key, library_id)
    adata.uns[Key.uns.spatial] = {library_id: _slide(source, hires, zoom, mpp, spot_diameter)}
    record(
        adata,
        key="tile_slide",
        function="pp.tile_slide",
        params={"mpp": mpp, "spot_diameter": spot_diameter, "pitch": pitch, "kind": kind, "min_tissue": min_tissue},
        slots={},
    )
    logger.info("%d of %d spots lie on tissue", keep.sum(), keep.size)
    return adata


def _scale(source: Source, mpp: float | None) -> float:
    """Micrometres per pixel, as given or as the file says."""
    stated = source.um_per_px
    if mpp is not None:
        check_number("mpp", mpp, 1e-6)
        if stated is not None and not 1 / (1 + AGREE) <= mpp / stated <= 1 + AGREE:
            warn(f"mpp={mpp:g} was given, but {source.where} says {stated:.4g} um per pixel; {mpp:g} is used.")
        return float(mpp)
    if source.um_per_px is None:
        reason = source.scale_fault or f"{source.where} does not say how large its pixels are"
        raise ValueError(f"{reason}: give micrometres per pixel, `mpp`.")
    logger.info("%s: %.4g um per pixel, as the file says", source.where, source.um_per_px)
    return source.um_per_px


def _spots(source: Source, kind: str, pitch: float, mpp: float, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """Places on the array and positions in pixels of the spots that fit into the image."""
    from spared_sc._kernels.lattice import fill_image

    apart = f"spots {pitch:g} um apart are {pitch / mpp:.3g} pixels apart (mpp={mpp:g})"
    remedy = "check `mpp` and `pitch`, both in micrometres."
    if pitch / mpp * zoom < 1:
        raise ValueError(f"{apart}, and lie closer than the pixels in which tissue is looked for: {remedy}")
    places, xy = fill_image(kind, pitch / mpp, source.shape)
    if not len(xy):
        height, width = source.shape
        raise ValueError(f"{apart}, and {source.where} has {width} x {height} pixels, too few for one: {remedy}")
    return places, xy


def _section(source: Source, places: np.ndarray, xy: np.ndarray, library_key: str, library_id: str) -> AnnData:
    from anndata import AnnData

    obs = pd.DataFrame(
        {
            Key.obs.in_tissue: 1,
            Key.obs.array_row: places[:, 0],
            Key.obs.array_col: places[:, 1],
            library_key: pd.Categorical([library_id] * len(xy)),
        },
        index=[f"{column}x{row}" for row, column in places],
    )
    to_positions = _to_positions(source)
    return AnnData(obs=obs, obsm={Key.obsm.spatial: xy @ to_positions[:2, :2].T + to_positions[:2, 2]})


def _to_positions(source: Source) -> np.ndarray:
    """The map (3, 3) from pixels of the image to positions of spots."""
    return np.linalg.inv(np.vstack([source.from_spots, [0, 0, 1]]))


def _slide(source: Source, hires: np.ndarray, zoom: float, mpp: float, spot_diameter: float) -> dict[str, Any]:
    """The entry of `uns["spatial"]`."""
    to_positions = _to_positions(source)
    unit = float(np.sqrt(abs(np.linalg.det(to_positions[:2, :2]))))  # of positions, per pixel
    scalefactors = {"spot_diameter_fullres": spot_diameter / mpp * unit, "microns_per_pixel": mpp / unit}
    images = {}
    if only_scales(to_positions):
        images["hires"], scalefactors["tissue_hires_scalef"] = hires, zoom / unit
    metadata = {"assay": "virtual"} | ({"source_image_path": source.where} if source.kind == "file" else {})
    return {"images": images, "scalefactors": scalefactors, "metadata": metadata}
