"""pl.missing."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sps
from anndata import AnnData
from matplotlib.axes import Axes

import spared_sc as sp
from helpers.figures import colour_bars
from helpers.tissue_plots import collection

pytestmark = pytest.mark.usefixtures("no_traces")


def test_missing_draws_the_sorted_shares_and_their_means():
    adata = collection()
    ax = sp.pl.missing(adata, library_key="section")
    assert isinstance(ax, Axes)
    share = sp.get.missing_share(adata, library_key="section")
    share = share.loc[share.mean(axis=1).sort_values(kind="stable").index]
    np.testing.assert_allclose(ax.images[0].get_array(), 100 * share.T)
    assert ax.images[0].get_clim() == (0, 100)
    assert [t.get_text() for t in ax.get_xticklabels()] == list(share.index)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["A", "B"]
    assert [t.get_text() for t in ax.texts] == ["mean", *(f"{100 * m:.0f} %" for m in share.mean())]
    assert "%" in colour_bars(ax.figure)[0].get_xlabel()
    ax.figure.canvas.draw()


def overlapping(ax: Axes) -> bool:
    ax.figure.canvas.draw()
    boxes = [t.get_window_extent() for t in ax.get_xticklabels()]
    return any(a.x1 > b.x0 for a, b in zip(boxes, boxes[1:], strict=False))


@pytest.mark.parametrize(("n_genes", "figsize"), [(30, None), (128, None), (128, (5, 3)), (600, None)])
def test_gene_names_never_overlap(n_genes, figsize):
    rng = np.random.default_rng(0)
    adata = AnnData(sps.csr_matrix(rng.poisson(1, size=(20, n_genes)).astype(np.float32)))
    adata.var_names = [f"GENE{i}" for i in range(n_genes)]
    ax = sp.pl.missing(adata, figsize=figsize)
    assert not overlapping(ax)
    assert (len(ax.get_xticks()) == n_genes) == (n_genes == 30)
    assert f"{n_genes} genes" in ax.get_xlabel()


@pytest.mark.parametrize("n", [0, 1, 3, 50])
def test_number_of_gene_names(n):
    ax = sp.pl.missing(collection(), library_key="section", n_genes_labelled=n)
    assert len(ax.get_xticks()) == min(n, 5)


def test_missing_uses_given_axes_and_refuses_negative_numbers():
    _, ax = plt.subplots()
    assert sp.pl.missing(collection(), library_key="section", ax=ax) is ax
    with pytest.raises(ValueError, match="n_genes_labelled=-1"):
        sp.pl.missing(collection(), library_key="section", n_genes_labelled=-1)
