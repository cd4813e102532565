"""pl.moran_ranking."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.text import Text

import spared_sc as sp
from helpers.figures import legend_texts
from helpers.structure_plots import SECTIONS, correct, labelled

pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=correct)


def ranking(adata: AnnData) -> pd.DataFrame:
    return adata.var[adata.var["spared_keep"]].sort_values("moran_i", ascending=False, kind="stable")


def lower(ax: Axes) -> Axes:
    found = [other for other in ax.figure.axes if other.get_label() == "<expressed fraction>"]
    assert len(found) == 1
    return found[0]


def test_ranking_draws_every_gene_at_its_rank_in_its_colour(adata):
    ax = sp.pl.moran_ranking(adata)
    assert isinstance(ax, Axes)
    genes = ranking(adata)
    chosen = genes["spared_selected"].to_numpy()
    rank = np.arange(1, len(genes) + 1)
    n = len(genes)
    for panel, value in ((ax, genes["moran_i"]), (lower(ax), 100 * genes["expressed_fraction"])):
        drawn = labelled(panel)
        for label, mask, colour in (
            ("selected (20 genes)", chosen, "#0072B2"),
            (f"not selected ({n - 20} genes)", ~chosen, "0.6"),
        ):
            np.testing.assert_allclose(drawn[label].get_offsets(), np.c_[rank, value][mask])
            np.testing.assert_array_equal(drawn[label].get_facecolors(), [to_rgba(colour)])
        assert set(drawn["cut-off"].get_xdata()) == {20.5}
    assert legend_texts(ax.get_legend()) == [
        "selected (20 genes)", f"not selected ({n - 20} genes)", "cut-off", "running median"
    ]  # fmt: skip
    assert lower(ax).get_xlim() == ax.get_xlim()


def test_running_median_is_that_of_a_tenth_of_the_genes(adata):
    line = labelled(lower(sp.pl.moran_ranking(adata)))["running median"]
    genes = ranking(adata)
    half = round(len(genes) / 20)
    expected = (100 * genes["expressed_fraction"]).rolling(2 * half + 1, center=True, min_periods=1).median()
    np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize("n", [0, 1, 10, 1000])
def test_names_of_the_best_genes(adata, n):
    names = [text.get_text() for text in sp.pl.moran_ranking(adata, n_labelled=n).texts]
    assert names == list(ranking(adata).index[:n])


@pytest.mark.parametrize("figsize", [None, (4, 3), (12, 8)])
@pytest.mark.parametrize("decay", [0.5, 20, 1000])
def test_names_overlap_neither_each_other_nor_the_points(figsize, decay):
    n = 300
    adata = AnnData(
        np.ones((2, n)),
        var=pd.DataFrame({"moran_i": np.exp(-np.arange(n) / decay)}, index=[f"GENE{i}" for i in range(n)]),
    )
    ax = sp.pl.moran_ranking(adata, figsize=figsize, n_labelled=8)
    ax.figure.canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
    assert all(a.y0 >= b.y1 - 0.5 for a, b in zip(boxes, boxes[1:], strict=False))
    points = ax.transData.transform(ax.collections[0].get_offsets())
    for box in boxes:
        assert not any(box.contains(*point) for point in points)


def test_ranking_of_other_columns_and_without_expressed_fraction(adata):
    adata.var["score"] = adata.var["moran_i"].fillna(0)[::-1].to_numpy()
    adata.var["mine"] = adata.var["score"] < adata.var["score"].median()  # not the best ones: there is no cut-off
    del adata.var["expressed_fraction"]
    ax = sp.pl.moran_ranking(adata, key="score", mask_var=None, selected="mine")
    assert "cut-off" not in labelled(ax)
    assert ax.figure.axes == [ax]
    assert "rank" in ax.get_xlabel()
    assert sum(len(c.get_offsets()) for c in ax.collections) == adata.n_vars


def test_genes_without_a_score_are_counted(adata):
    adata.var.loc[adata.var_names[adata.var["spared_keep"]][:3], "moran_i"] = np.nan
    ax = sp.pl.moran_ranking(adata)
    assert "3 without a score" in lower(ax).get_xlabel()
    assert sum(len(c.get_offsets()) for c in ax.collections) == adata.var["spared_keep"].sum() - 3


@pytest.mark.parametrize("without", ["none", "absent"])
def test_ranking_without_selected_genes(adata, without):
    if without == "absent":
        del adata.var["spared_selected"]
    ax = sp.pl.moran_ranking(adata, **({"selected": None} if without == "none" else {}))
    assert len(ax.collections) == 1
    assert legend_texts(ax.get_legend()) == ["running median"]


@pytest.mark.parametrize("placed", ["grid", "by hand"])
def test_ranking_stays_within_given_axes(adata, placed):
    fig = plt.figure()
    ax = fig.add_subplot(1, 2, 2) if placed == "grid" else fig.add_axes([0.5, 0.2, 0.4, 0.6])
    before = ax.get_position()
    assert sp.pl.moran_ranking(adata, ax=ax) is ax
    assert plt.get_fignums() == [fig.number]
    top, bottom = ax.get_position(), lower(ax).get_position()
    assert top.y1 == pytest.approx(before.y1)
    assert bottom.y0 == pytest.approx(before.y0)
    assert (top.x0, top.x1, bottom.x0, bottom.x1) == pytest.approx((before.x0, before.x1) * 2)
    assert bottom.y1 < top.y0


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "geary_c"}, KeyError, ["'geary_c'", "'moran_i'", "sp.pp.moran", "key="]),
        ({"mask_var": "nowhere"}, KeyError, ["'nowhere'", "'spared_keep'"]),
        ({"selected": "nowhere"}, KeyError, ["'nowhere'", "'spared_selected'"]),
        ({"selected": "moran_i"}, TypeError, ["'moran_i'", "astype(bool)"]),
        ({"key": "nothing"}, ValueError, ["finite", "sp.pp.moran"]),
        ({"key": "words"}, TypeError, ["'words'", "numbers"]),
        ({"n_labelled": -1}, ValueError, ["n_labelled=-1"]),
    ],
)
def test_errors_of_the_ranking(adata, change, kind, words):
    adata.var["nothing"] = np.nan
    adata.var["words"] = "a"
    with pytest.raises(kind) as error:
        sp.pl.moran_ranking(adata, **change)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not plt.get_fignums()


@pytest.mark.parametrize("n_selected", [20, 40, 60, 80])
def test_no_name_lies_across_the_cut_off(n_selected):
    rank = np.arange(400)
    var = pd.DataFrame({"moran_i": 0.8 * np.exp(-rank / 15), "spared_selected": rank < n_selected})
    adata = AnnData(np.ones((2, 400)), var=var.set_index(pd.Index([f"GENE{i}" for i in rank])))
    ax = sp.pl.moran_ranking(adata)
    ax.figure.canvas.draw()
    (line,) = (line for line in ax.lines if line.get_label() == "cut-off")
    x = ax.transData.transform((line.get_xdata()[0], 0))[0]
    for text in ax.texts:
        box = Text.get_window_extent(text)  # without the arrow
        assert not box.x0 < x < box.x1
