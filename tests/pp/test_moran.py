"""pp.moran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers.pp import SECTIONS, with_holes
from spared_sc._core import validate

if TYPE_CHECKING:
    from anndata import AnnData

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.fixture
def collection(collection) -> AnnData:
    """Three libraries with sparse and dense genes, holes, and spots of too few counts."""
    return collection(**SECTIONS, then=with_holes)


def squidpys_moran(adata: AnnData, layer: str) -> pd.Series:
    import squidpy as sq

    # squidpy divides by the row sums in the type of the graph
    adata.obsp["spatial_connectivities"] = adata.obsp["spatial_connectivities"].astype(np.float64)
    return sq.gr.spatial_autocorr(adata, layer=layer, copy=True, show_progress_bar=False, n_jobs=1)["I"][
        adata.var_names
    ]


@pytest.fixture
def normalised(collection) -> AnnData:
    sp.pp.spared_filter(collection, library_key="library_id")
    sp.pp.normalize_tpm(collection)
    collection.layers["log2tpm"] = collection.layers["log2tpm"].astype(np.float64)
    return collection


def test_moran_is_squidpys_averaged_over_libraries(normalised):
    sp.pp.moran(normalised, mask_var=None, library_key="library_id", key_added="all")
    sp.pp.moran(normalised, library_key="library_id")
    parts = []
    for name in normalised.obs["library_id"].unique():
        part = normalised[normalised.obs["library_id"] == name].copy()
        sp.pp.lattice_neighbors(part)
        varying = part.layers["log2tpm"].toarray().std(axis=0) > 0
        parts.append(squidpys_moran(part[:, varying].copy(), "log2tpm").reindex(part.var_names))
    expected = pd.concat(parts, axis=1).mean(axis=1)
    np.testing.assert_allclose(normalised.var["all"], expected, rtol=0, atol=1e-10)
    assert np.isnan(normalised.var.loc["Gene008", "all"])  # never detected
    keep = normalised.var["spared_keep"]
    np.testing.assert_array_equal(normalised.var["moran_i"][keep], normalised.var["all"][keep])
    assert normalised.var["moran_i"][~keep].isna().all()


def test_moran_of_completed_values_and_of_a_split(normalised):
    normalised.obs["split"] = normalised.obs["library_id"].map(
        {"library_1": "train", "library_2": "val", "library_3": "test"}
    )
    sp.pp.moran(normalised, library_key="library_id", median_completed=True)
    part = normalised[normalised.obs["split"] == "train", normalised.var["spared_keep"]].copy()
    sp.tl.median_complete(part)
    sp.pp.lattice_neighbors(part)
    expected = squidpys_moran(part, "median")  # of filled values in single precision
    np.testing.assert_allclose(normalised.var["moran_i"][expected.index], expected, rtol=0, atol=1e-6)
    assert "median" not in normalised.layers


def test_moran_on_another_graph(normalised):
    one = normalised[normalised.obs["library_id"] == "library_1", normalised.var["spared_keep"]].copy()
    sp.pp.lattice_neighbors(one, n_rings=2, key_added="spatial")
    sp.pp.moran(one, connectivity_key="spatial_connectivities")
    np.testing.assert_allclose(one.var["moran_i"], squidpys_moran(one, "log2tpm"), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "made"), [({}, 1), ({"median_completed": True}, 1), ({"connectivity_key": "spatial_connectivities"}, 0)]
)
def test_the_lattice_is_made_once(normalised, monkeypatch, options, made):
    sp.pp.lattice_neighbors(normalised, library_key="library_id")
    calls = []
    plain = validate.get_lattice
    monkeypatch.setattr(validate, "get_lattice", lambda *given, **named: (calls.append(1), plain(*given, **named))[1])
    sp.pp.moran(normalised, library_key="library_id", **options)
    assert len(calls) == made
