"""pl.prediction_scatter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.stats import pearsonr

import spared_sc as sp
from helpers.figures import assert_nothing_is_cut_off, panels
from helpers.prediction_plots import KEY, SECTIONS, a_gene, column, predict, with_split

if TYPE_CHECKING:
    from anndata import AnnData

pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=predict)


def test_scatter_counts_every_detected_entry_of_the_held_out_sections_once(adata):
    gene = a_gene(adata)
    names = with_split(adata, "train val test test")
    measured, detected, values = column(adata, gene, "split")
    keep = detected & adata.obs["library_id"].isin(names[2:]).to_numpy()
    one, other = measured[keep], values[keep]
    fig = sp.pl.prediction_scatter(adata, key="split", genes=[gene], library_key="library_id")
    assert isinstance(fig, Figure)
    assert fig.get_suptitle() == "split: 2 held-out sections"
    (ax,) = panels(fig)
    drawn = ax.collections[0].get_array()
    assert drawn.sum() == one.size
    edges = ax.collections[0].get_coordinates()
    x, y = edges[0, :, 0], edges[:, 0, 1]
    for row, col in zip(*np.nonzero(drawn.filled(0)), strict=True):
        inside_x = (one >= x[col]) & ((one < x[col + 1]) | (col == x.size - 2))
        inside_y = (other >= y[row]) & ((other < y[row + 1]) | (row == y.size - 2))
        assert (inside_x & inside_y).sum() == drawn[row, col]
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
    assert ax.get_aspect() == 1
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("measured, log2(TPM + 1)", "predicted, log2(TPM + 1)")
    parts = [np.flatnonzero(keep & (adata.obs["library_id"] == name).to_numpy()) for name in names[2:]]
    mse = np.mean([np.mean((measured[rows] - values[rows]) ** 2) for rows in parts])
    pcc = np.mean([pearsonr(measured[rows], values[rows])[0] for rows in parts])
    assert ax.get_title() == f"{gene}\nMSE {mse:.3g}, PCC {pcc:.3f}, {one.size} entries"
    assert_nothing_is_cut_off(fig)


def test_the_best_genes_are_drawn_and_agree_with_the_scores(adata):
    scores = sp.tl.score_prediction(adata, library_key="library_id", protocol="spared")
    rows = scores[(scores["prediction"] == KEY) & (scores["library"] == "all") & (scores["gene"] != "all")]
    values = rows.pivot(index="gene", columns="metric", values="value").sort_values("pcc", ascending=False)
    fig = sp.pl.prediction_scatter(adata, library_key="library_id", n_genes=5)
    assert fig.get_suptitle() == f"{KEY}: 4 held-out sections, best 5 of 12 genes"
    shown = panels(fig)
    assert len(shown) == 5
    for ax, (gene, score) in zip(shown, values.iloc[:5].iterrows(), strict=True):
        assert ax.get_title().startswith(f"{gene}\nMSE {score['mse']:.3g}, PCC {score['pcc']:.3f}, ")
    assert len({id(ax.collections[0].norm) for ax in shown}) == 1
    assert_nothing_is_cut_off(fig)


def test_validation_sections_only_where_there_are_no_others(adata):
    with_split(adata, "train train val val")
    fig = sp.pl.prediction_scatter(adata, key="split", library_key="library_id", n_genes=1)
    assert fig.get_suptitle() == "split: 2 validation sections, best 1 of 12 genes"
    plt.close(fig)
    adata.uns["spared_sc"]["split"]["roles"]["values"][:] = "train"
    with pytest.raises(ValueError, match=r"all libraries had a part in fitting.*sp.pp.split_libraries"):
        sp.pl.prediction_scatter(adata, key="split", library_key="library_id")


def test_constant_predictions_correlate_with_nothing(adata):
    sp.tl.predict_expression(adata, model="gene_mean", library_key="library_id")
    fig = sp.pl.prediction_scatter(adata, key="predicted_gene_mean", library_key="library_id")
    genes = [ax.get_title().partition("\n")[0] for ax in panels(fig)]
    assert genes == adata.obsm["predicted_gene_mean"].columns[:4].tolist()
    assert all("PCC 0.00" in ax.get_title() for ax in panels(fig))


def test_scatter_into_given_axes(adata):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"one panel, but 4 genes.*genes="):
        sp.pl.prediction_scatter(adata, library_key="library_id", ax=ax)
    assert sp.pl.prediction_scatter(adata, library_key="library_id", ax=ax, genes=a_gene(adata)) is ax
    assert ax.get_title().startswith(a_gene(adata))


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"genes": "nothing"}, KeyError, ["'nothing'", "names look like"]),
        ({"genes": []}, ValueError, ["`genes` is empty", "None for the best"]),
        ({"layer": "tpm"}, KeyError, ["'tpm'", "'log2tpm'"]),
        ({"key": "other"}, KeyError, ["'other'", KEY]),
        ({"n_genes": 0}, ValueError, ["n_genes=0"]),
        ({"library_key": None}, ValueError, ["library_key="]),
    ],
)
def test_errors_of_the_scatter(adata, change, kind, words):
    with pytest.raises(kind) as error:
        sp.pl.prediction_scatter(adata, **{"library_key": "library_id", **change})
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_genes_without_measurements_cannot_be_compared(adata):
    gene = a_gene(adata)
    lost = adata[:, adata.var_names != gene].copy()
    with pytest.raises(KeyError, match=f"no genes '{gene}', which were predicted"):
        sp.pl.prediction_scatter(lost, genes=gene, library_key="library_id")
    counts = adata.X.tolil()
    counts[:, adata.var_names.get_loc(gene)] = 0
    adata.X = counts.tocsr()
    del adata.layers["detected"]
    with pytest.raises(ValueError, match=f"no spot of the held-out sections has a count of '{gene}'"):
        sp.pl.prediction_scatter(adata, genes=gene, library_key="library_id")
    titles = [ax.get_title() for ax in panels(sp.pl.prediction_scatter(adata, library_key="library_id", n_genes=20))]
    assert len(titles) == 11
    assert not [title for title in titles if title.startswith(f"{gene}\n")]


def test_titles_do_not_touch_the_row_above(adata):
    fig = sp.pl.prediction_scatter(adata, n_genes=6, library_key="library_id")
    fig.canvas.draw()
    upper, lower = fig.axes[0], fig.axes[4]
    assert lower.title.get_window_extent().y1 < min(label.get_window_extent().y0 for label in upper.get_xticklabels())
    assert [bool(ax.get_xlabel()) for ax in fig.axes[:6]] == [False, False, True, True, True, True]
