"""SpatialData objects as readers make them."""

from __future__ import annotations

import anndata as ad
import geopandas
import numpy as np
import pandas as pd
import shapely
import spatialdata
from spatialdata import models, transformations


def as_spatialdata(
    adata: ad.AnnData, *, image: str = "small", positions: bool = True, shapes: str = "circles"
) -> spatialdata.SpatialData:
    """What a reader would make of these sections: an image, circles or squares, and one table."""
    images, parsed = {}, {}
    table = ad.AnnData(adata.X.copy(), obs=adata.obs.drop(columns="library_id"), var=adata.var[[]].copy())
    table.obs["region"] = pd.Categorical(adata.obs["library_id"].astype(str))
    table.obs["spot"] = np.arange(adata.n_obs)
    if positions:
        table.obsm["spatial"] = adata.obsm["spatial"]
    for name, slide in adata.uns["spatial"].items():
        rows = np.flatnonzero(table.obs["region"] == name)
        own = transformations.Identity()
        radius, index = slide["scalefactors"]["spot_diameter_fullres"] / 2, table.obs["spot"].iloc[rows]
        parsed[name] = _shapes(adata.obsm["spatial"][rows], radius, index, shapes, {name: own})
        factor = 1 / slide["scalefactors"]["tissue_hires_scalef"]
        images[f"{name}_image"] = models.Image2DModel.parse(
            slide["images"]["hires"].transpose(2, 0, 1),
            dims=("c", "y", "x"),
            scale_factors=[2] if image == "pyramid" else None,
            transformations={name: transformations.Scale([factor, factor], axes=("y", "x"))},
        )
    regions = list(parsed)
    table = models.TableModel.parse(table, region=regions, region_key="region", instance_key="spot")
    return spatialdata.SpatialData(images=images, shapes=parsed, tables={"table": table})


def _shapes(xy: np.ndarray, radius: float, index: pd.Series, kind: str, systems: dict) -> geopandas.GeoDataFrame:
    """Circles, or squares of the same width."""
    if kind == "circles":
        return models.ShapesModel.parse(xy, geometry=0, radius=radius, index=index, transformations=systems)
    low, high = xy - radius, xy + radius
    squares = geopandas.GeoDataFrame(geometry=shapely.box(*low.T, *high.T), index=index.to_numpy())
    return models.ShapesModel.parse(squares, transformations=systems)
