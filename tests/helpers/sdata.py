"""SpatialData objects as readers make them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import spatialdata
from spatialdata import models, transformations


def as_spatialdata(adata: ad.AnnData, *, image: str = "small", positions: bool = True) -> spatialdata.SpatialData:
    """What a reader would make of these sections: an image, circles and one table."""
    images, shapes = {}, {}
    table = ad.AnnData(adata.X.copy(), obs=adata.obs.drop(columns="library_id"), var=adata.var[[]].copy())
    table.obs["region"] = pd.Categorical(adata.obs["library_id"].astype(str))
    table.obs["spot"] = np.arange(adata.n_obs)
    if positions:
        table.obsm["spatial"] = adata.obsm["spatial"]
    for name, slide in adata.uns["spatial"].items():
        rows = np.flatnonzero(table.obs["region"] == name)
        own = transformations.Identity()
        shapes[name] = models.ShapesModel.parse(
            adata.obsm["spatial"][rows],
            geometry=0,
            radius=slide["scalefactors"]["spot_diameter_fullres"] / 2,
            index=table.obs["spot"].iloc[rows],
            transformations={name: own},
        )
        factor = 1 / slide["scalefactors"]["tissue_hires_scalef"]
        images[f"{name}_image"] = models.Image2DModel.parse(
            slide["images"]["hires"].transpose(2, 0, 1),
            dims=("c", "y", "x"),
            scale_factors=[2] if image == "pyramid" else None,
            transformations={name: transformations.Scale([factor, factor], axes=("y", "x"))},
        )
    regions = list(shapes)
    table = models.TableModel.parse(table, region=regions, region_key="region", instance_key="spot")
    return spatialdata.SpatialData(images=images, shapes=shapes, tables={"table": table})
