"""get.missing_share."""

from __future__ import annotations

import pandas as pd
import pytest

import spared_sc as sp
from helpers.tissue_plots import collection, spots_of

pytestmark = pytest.mark.usefixtures("no_traces")


def test_missing_share_is_what_a_loop_finds():
    adata = collection(("C", "A", "B"))
    share = sp.get.missing_share(adata, library_key="section")
    counts = adata.X.toarray()
    assert list(share.columns) == ["A", "B", "C"]
    assert list(share.index) == [f"GENE{i}" for i in range(5)]
    for library in "ABC":
        rows = spots_of(adata, library)
        for j, gene in enumerate(share.index):
            absent = sum(1 for row in rows if counts[row, j] == 0)
            assert share.loc[gene, library] == pytest.approx(absent / len(rows))


def test_missing_share_of_all_genes_and_without_mask_layer():
    adata = collection(("A",))
    with_mask = sp.get.missing_share(adata, mask_var=None)
    assert with_mask.shape == (6, 1)
    stored = adata.layers["detected"].copy()
    stored.data[:3] = False  # stored zeros are no detections
    del adata.layers["detected"]
    pd.testing.assert_frame_equal(sp.get.missing_share(adata, mask_var=None), with_mask)
    adata.layers["detected"] = stored
    more = sp.get.missing_share(adata, mask_var=None) - with_mask
    assert more.to_numpy().sum() == pytest.approx(3 / adata.n_obs)


def test_missing_share_errors():
    adata = collection()
    with pytest.raises(ValueError, match="library_key="):
        sp.get.missing_share(adata)
    with pytest.raises(KeyError, match="no_such"):
        sp.get.missing_share(adata, mask_var="no_such", library_key="section")
