"""What files hold."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import anndata as ad
import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from pathlib import Path


def assert_same(left: ad.AnnData, right: ad.AnnData) -> None:
    assert (left.X != right.X).nnz == 0
    pd.testing.assert_frame_equal(left.obs, right.obs)
    pd.testing.assert_frame_equal(left.var, right.var)
    np.testing.assert_array_equal(left.obsm["spatial"], right.obsm["spatial"])
    assert set(left.uns["spatial"]) == set(right.uns["spatial"])
    for name, slot in left.uns["spatial"].items():
        other = right.uns["spatial"][name]
        assert slot["scalefactors"] == other["scalefactors"]
        assert slot["metadata"] == other["metadata"]
        assert set(slot["images"]) == set(other["images"])
        for resolution, image in slot["images"].items():
            np.testing.assert_array_equal(image, other["images"][resolution])
    assert set(left.uns["spared_sc"]) == set(right.uns["spared_sc"])


def through_a_file(adata: ad.AnnData, path: Path) -> ad.AnnData:
    """What an h5ad file or zarr store gives back; a warning about the content is an error."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error")
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        warnings.filterwarnings("ignore", message="The '.*' option is deprecated")  # of pandas 3.1, by anndata
        getattr(adata, f"write_{path.suffix[1:]}")(path)
    return getattr(ad, f"read_{path.suffix[1:]}")(path)
