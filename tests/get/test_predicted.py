"""get.predicted."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.prediction import SECTIONS, embed, predict


@pytest.fixture
def adata(collection):
    return collection(**SECTIONS, then=embed)


def test_genes_with_a_slash_are_told_of(adata, tmp_path):
    gene = adata.var_names[adata.var["spared_selected"]][0]
    adata.var_names = [f"{name}/x" if name == gene else name for name in adata.var_names]
    with pytest.warns(
        UserWarning, match=f"'{gene}/x': a table with such gene names cannot be written to zarr.*get.predicted"
    ):
        predict(adata)
    del adata.uns["spatial"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        sp.get.predicted(adata).write_zarr(tmp_path / "a.zarr")
    assert f"{gene}/x" in ad.read_zarr(tmp_path / "a.zarr").var_names


def test_predicted_is_an_anndata_for_plots(adata):
    predict(adata)
    predict(adata, "knn")
    with pytest.raises(ValueError, match="several predictions"):
        sp.get.predicted(adata)
    with pytest.raises(KeyError, match="no prediction 'ridge'"):
        sp.get.predicted(adata, "ridge")
    found = sp.get.predicted(adata, "predicted_knn")
    assert np.array_equal(found.X, adata.obsm["predicted_knn"].to_numpy())
    assert found.obs.equals(adata.obs)
    assert np.array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert isinstance(found.var, pd.DataFrame)
    found.obsm["spatial"][:] = 0
    assert adata.obsm["spatial"].any()
