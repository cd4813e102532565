"""pl.completion_scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import spared_sc as sp
from helpers.completion_plots import BEST_FIRST, SHOWN, VERMILION, artist, hidden, of_libraries, table
from helpers.figures import assert_nothing_is_cut_off, legend_texts
from spared_sc._kernels.metrics import FLOORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes


pytestmark = pytest.mark.usefixtures("no_traces")


def lines(ax: Axes, label: str) -> list:
    return [line for line in ax.lines if line.get_label() == label]


def has(ax: Axes, label: str) -> bool:
    return any(one.get_label() == label for one in [*ax.collections, *ax.patches, *ax.lines])


def method_names(ax: Axes) -> list[str]:
    """Methods from top to bottom."""
    bottom, top = ax.get_ylim()
    assert bottom > top
    return [label.get_text() for label in ax.get_yticklabels()]


def test_scores_every_section_and_mean_at_its_place():
    scores = table()
    fig = sp.pl.completion_scores(scores)
    assert isinstance(fig, Figure)
    assert {ax.get_title() for ax in fig.axes} == {
        "detected\n30 % of detected entries hidden",
        "released\n30 % of all entries hidden",
    }
    assert method_names(fig.axes[0]) == SHOWN
    for ax in fig.axes:
        assert ax.get_ylim() == fig.axes[0].get_ylim()
        regime = ax.get_title().partition("\n")[0]
        dots, means = lines(ax, "a section, its masks averaged"), lines(ax, "mean of the sections")
        for row, method in enumerate(BEST_FIRST):
            expected = list(of_libraries(scores, regime=regime, method=method).values())
            np.testing.assert_allclose(np.sort(dots[row].get_xdata()), np.sort(expected))
            assert set(dots[row].get_ydata()) == {row}
            assert means[row].get_xdata() == pytest.approx(np.mean(expected))
            assert means[row].get_ydata() == row
            assert float(ax.texts[row].get_text()) == pytest.approx(np.mean(expected), rel=5e-3)
        assert to_hex(dots[0].get_color()) != to_hex(means[0].get_color())
        assert ax.get_xlabel() == "mean squared error\n(squared units of the layer)"
    assert sorted(legend_texts(fig.legends[0])) == sorted(
        ["noise floor (range)", "a section, its masks averaged", "mean of the sections"]
    )


def test_floor_is_the_range_of_the_means_of_both_ends():
    scores = table()
    ax = sp.pl.completion_scores(scores, regime="released").axes[0]
    ends = [
        np.mean(list(of_libraries(scores, regime="released", method=f"floor_{e}").values())) for e in ("low", "high")
    ]
    band = artist(ax, "noise floor (range)").get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx(ends)
    assert ax.get_xlim()[0] < ends[0] < ends[1] < ax.get_xlim()[1]
    plt.close("all")
    fig = sp.pl.completion_scores(scores, metric="pcc")
    assert not has(fig.axes[0], "noise floor (range)")
    plt.close(fig)
    assert not has(sp.pl.completion_scores(table(floor=False)).axes[0], "noise floor (range)")


def test_where_more_is_better_the_largest_is_on_top():
    ax = sp.pl.completion_scores(table(), metric="pcc", regime="detected").axes[0]
    assert method_names(ax) == SHOWN  # the table's correlations fall with the errors
    means = [line.get_xdata()[0] for line in lines(ax, "mean of the sections")]
    assert means == sorted(means, reverse=True)


@pytest.mark.parametrize(
    ("metric", "values", "first", "ideal"),
    [
        ("moran_change", {"much": -0.5, "little": 0.1, "none": -0.01}, ["none", "little", "much"], 0),
        ("coverage_90", {"wide": 0.99, "right": 0.89, "narrow": 0.5}, ["right", "wide", "narrow"], 0.9),
        ("coverage_90_d10", {"wide": 0.99, "right": 0.89, "narrow": 0.5}, ["right", "wide", "narrow"], 0.9),
        ("calibration_d2", {"low": 2.0, "right": 0.95, "high": 0.4}, ["right", "high", "low"], 1),
        ("correlation_error", {"bad": 0.4, "good": 0.1, "middle": 0.2}, ["good", "middle", "bad"], None),
        ("crps_constant", {"bad": 0.4, "good": 0.1, "middle": 0.2}, ["good", "middle", "bad"], None),
        ("pcc_pooled", {"bad": -0.4, "good": 0.9, "middle": 0.2}, ["good", "middle", "bad"], None),
        ("r2", {"bad": -0.4, "good": 0.9, "middle": 0.2}, ["good", "middle", "bad"], None),
    ],
)
def test_best_by_what_is_ideal(metric, values, first, ideal):
    scores = table(values, regimes=("detected",), floor=False)
    scores = scores[(scores["metric"] == "mse")].assign(metric=metric)
    scores["value"] = scores["method"].map(values) * (1 + 1e-3 * scores["mask"])
    ax = sp.pl.completion_scores(scores, metric=metric).axes[0]
    assert method_names(ax) == first
    assert [line.get_xdata()[0] for line in lines(ax, "ideal")] == ([] if ideal is None else [ideal])
    decile = metric.partition("_d")[2]
    assert (f"decile {decile}" in ax.get_xlabel()) == bool(decile)


def test_values_of_all_sections_together_are_no_section():
    scores = table(regimes=("detected",), n_libraries=1).assign(library="all", subject="all")
    ax = sp.pl.completion_scores(scores, metric="pcc").axes[0]
    assert not lines(ax, "a section, its masks averaged")
    means = [line.get_xdata()[0] for line in lines(ax, "all sections together")]
    assert means == pytest.approx([of_libraries(scores, metric="pcc", method=m)["all"] for m in BEST_FIRST])
    assert "descriptive" not in ax.get_title()


def test_values_below_the_floor_stand_out():
    scores = table(regimes=("detected",))
    scores.loc[(scores["method"] == "stack") & (scores["mask"] == 1) & (scores["metric"] == "mse"), "flag"] = (
        "below floor"
    )
    texts = sp.pl.completion_scores(scores).axes[0].texts
    assert ["below the floor" in text.get_text() for text in texts] == [method == "stack" for method in BEST_FIRST]
    assert [to_hex(text.get_color()) == VERMILION for text in texts] == [method == "stack" for method in BEST_FIRST]


def test_table_of_the_evaluation_is_drawn():
    adata = sp.datasets.synthetic(n_libraries=2, shape=(7, 7), n_genes=20, depth=300, image=False)
    sp.pp.normalize_tpm(adata)
    scores = sp.tl.evaluate_completion(
        adata,
        methods=["gene_mean", "additive"],
        regimes=["detected", "spots", "thinning"],
        shares=(0.2, 0.5),
        n_masks=2,
        library_key="library_id",
    )
    metrics = [
        "mse",
        "pcc_pooled",
        "moran_change",
        "deviance",
        "pcc_depth",
        "moran_error",
        "poisson_loss",
        "calibration_d3",
    ]
    for metric in metrics:
        fig = sp.pl.completion_scores(scores, metric=metric)
        assert set(method_names(fig.axes[0])) <= {"gene_mean", "additive", "no_denoising", "perfect_denoising"}
        assert_nothing_is_cut_off(fig)
        plt.close(fig)
    ax = sp.pl.completion_scores(scores, regime="detected").axes[0]
    expected = [
        np.mean(list(of_libraries(scores, share=0.2, regime="detected", method=m).values())) for m in method_names(ax)
    ]
    assert [line.get_xdata()[0] for line in lines(ax, "mean of the sections")] == pytest.approx(expected)
    plt.close("all")
    assert legend_texts(sp.pl.completion_curve(scores).legends[0])[-1] == "noise floor (range)"


def test_axis_is_logarithmic_only_where_values_are_wide_apart():
    fig = sp.pl.completion_scores(table(), regime="detected")
    assert fig.axes[0].get_xscale() == "log"
    fig.canvas.draw()
    ticks = [text.get_text() for text in fig.axes[0].get_xticklabels()]
    assert all(float(text) == at for text, at in zip(ticks, fig.axes[0].get_xticks(), strict=True))
    plt.close(fig)
    fig = sp.pl.completion_scores(table(), regime="detected", methods=["additive", "counts"])
    assert fig.axes[0].get_xscale() == "linear"
    plt.close(fig)
    scores = table()
    scores["value"] -= 1  # as R2 may be: a logarithm of negative numbers hides them
    fig = sp.pl.completion_scores(scores, regime="detected")
    assert fig.axes[0].get_xscale() == "linear"


def test_choice_of_regimes_methods_and_genes():
    scores = table(regimes=("detected", "released", "spots"))
    fig = sp.pl.completion_scores(scores, regime=["spots", "detected"], methods=["stack", "median"], genes="sparse")
    assert [ax.get_title().split("\n") for ax in fig.axes] == [
        ["spots", "30 % of spots hidden"],
        ["detected", "30 % of detected entries hidden"],
    ]
    assert method_names(fig.axes[0]) == ["stack", "median"]
    assert fig.axes[0].get_xlabel() == "mean squared error\n(squared units of the layer), sparse genes"
    expected = list(of_libraries(scores, regime="spots", method="stack", genes="sparse").values())
    dots = lines(fig.axes[0], "a section, its masks averaged")[0]
    np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(expected))


@pytest.mark.parametrize(("share", "shown"), [(None, 0.3), (0.5, 0.5), (0.1 + 0.2, 0.3)])
def test_one_share_is_shown(share, shown):
    scores = table(shares=(0.1, 0.3, 0.5), regimes=("detected",))
    ax = sp.pl.completion_scores(scores, share=share).axes[0]
    assert ax.get_title() == f"detected\n{100 * shown:.0f} % of detected entries hidden"
    dots = lines(ax, "a section, its masks averaged")
    expected = list(of_libraries(scores, method="median", share=shown).values())
    np.testing.assert_allclose(np.sort(dots[-1].get_xdata()), np.sort(expected))


def test_share_next_to_that_of_the_paper_and_regimes_without_one():
    scores = table(shares=(0.25, 0.7), regimes=("detected",))
    without = table(shares=(0.5,), regimes=("thinning",)).assign(share=np.nan)
    fig = sp.pl.completion_scores(pd.concat([scores, without]))
    assert {ax.get_title() for ax in fig.axes} == {
        "detected\n25 % of detected entries hidden",
        "thinning\ncounts split, scored on the other part",
    }


def test_sets_have_panels_and_share_the_order_of_the_methods():
    scores = pd.concat([
        table({"one": 0.5, "two": 0.6, "three": 0.9}, sets=["VLO", "VKO"]),
        table({"one": 0.7, "two": 0.6, "three": 0.9}, sets=["HER2+"], regimes=("detected",), n_libraries=1),
    ])  # fmt: skip
    fig = sp.pl.completion_scores(scores)
    titles = [ax.get_title().split("\n") for ax in fig.axes]
    assert [title[0] for title in titles] == [
        f"{name}: {regime}" for name in ["VLO", "VKO", "HER2+"] for regime in ["detected", "released"]
    ]
    assert titles[4][-1] == "one section only: descriptive"
    assert titles[5][-1] == "not run"
    assert not [title for title in titles[:4] if "descriptive" in title[-1]]
    assert method_names(fig.axes[0]) == ["one", "two", "three"]  # mean ranks 1.2, 1.8, 3
    for ax, name in ((fig.axes[0], "VLO"), (fig.axes[4], "HER2+")):
        expected = list(of_libraries(scores, set=name, regime="detected", method="two").values())
        dots = lines(ax, "a section, its masks averaged")[1]
        np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(expected))
    assert_nothing_is_cut_off(fig)


def test_missing_values_are_named():
    scores = table(regimes=("detected",))
    scores.loc[(scores["method"] == "stack"), "value"] = np.nan
    scores.loc[(scores["method"] == "additive") & (scores["library"] == "section_1"), "value"] = np.nan
    ax = sp.pl.completion_scores(scores).axes[0]
    assert method_names(ax) == ["counts model", "soft_impute", "additive", "median", "stack"]
    assert ax.texts[2].get_text().endswith(" (3 of 4)")
    assert ax.texts[4].get_text() == "no value"
    assert len(lines(ax, "mean of the sections")) == 4


def test_columns_may_be_categories():
    scores = table(sets=["A", "B"])
    categories = scores.astype(dict.fromkeys(["set", "regime", "method", "library", "genes", "metric"], "category"))
    drawn = []
    for one in (scores, categories):
        fig = sp.pl.completion_scores(one, regime="detected", methods=["stack", "additive"])
        drawn.append([tuple(line.get_xdata()) for ax in fig.axes for line in ax.lines])
        plt.close(fig)
        fig = sp.pl.completion_curve(pd.concat([one, one.assign(share=0.5)]))
        plt.close(fig)
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(
    ("plot", "change", "kind", "words"),
    [
        ("scores", {"metric": "mes"}, ValueError, ["metric 'mes'", "'mse'", "'pcc'", "metric="]),
        ("scores", {"genes": "rare"}, ValueError, ["'rare'", "'sparse'", "genes="]),
        ("scores", {"regime": "blocks"}, ValueError, ["'blocks'", "'released'", "regime="]),
        ("scores", {"regime": []}, ValueError, ["`regime` is empty", "'released'"]),
        ("scores", {"methods": ["stack", "magic"]}, ValueError, ["'magic'", "'stack'", "methods="]),
        ("scores", {"methods": "floor_low"}, ValueError, ["'floor_low'", "'stack'"]),
        ("scores", {"share": 0.2}, ValueError, ["0.2", "'0.3'", "share="]),
        ("curve", {"regime": "blocks"}, ValueError, ["'blocks'", "'released'"]),
        ("curve", {}, ValueError, ["only the hidden share 0.3", "'detected'", "sp.pl.completion_scores"]),
    ],
)
def test_errors_about_the_table(plot, change, kind, words):
    with pytest.raises(kind) as error:
        getattr(sp.pl, f"completion_{plot}")(table(), **change)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


@pytest.mark.parametrize("plot", ["completion_scores", "completion_curve"])
def test_only_the_table_of_the_evaluation_is_taken(plot):
    with pytest.raises(TypeError, match=r"sp.tl.evaluate_completion.*found AnnData"):
        getattr(sp.pl, plot)(AnnData(np.ones((2, 2))))
    with pytest.raises(KeyError, match=r"no column 'library'.*'regime'.*sp.tl.evaluate_completion"):
        getattr(sp.pl, plot)(table().drop(columns="library"))
    scores = table()
    floor = scores[scores["method"].str.match("floor")]
    with pytest.raises(ValueError, match="only the noise floor"):
        getattr(sp.pl, plot)(floor)


def test_given_axes_hold_one_panel():
    _, (ax, other) = plt.subplots(1, 2)
    scores = table(shares=(0.1, 0.3))
    assert sp.pl.completion_scores(scores, regime="detected", ax=ax) is ax
    assert method_names(ax) == SHOWN
    assert len(legend_texts(ax.get_legend())) == 3
    assert sp.pl.completion_curve(scores, ax=other) is other
    assert len(legend_texts(other.get_legend())) == 6
    with pytest.raises(ValueError, match=r"one panel, but 1 data sets x 2 regimes.*regime="):
        sp.pl.completion_scores(scores, ax=ax)
    with pytest.raises(ValueError, match="one panel, but 2 data sets"):
        sp.pl.completion_curve(table(sets=["A", "B"], shares=(0.1, 0.3)), ax=ax)
    with pytest.raises(ValueError, match=r"one panel, but 2 layers.*key="):
        sp.pl.completion_scatter(hidden(), key=["median", "good"], ax=ax)


def test_floors_without_a_method_at_their_share_are_refused():
    scores = table()
    scores["share"] = np.where(scores["method"].isin(FLOORS), 0.3, 0.9)
    with pytest.raises(ValueError, match="no score of a method"):
        sp.pl.completion_scores(scores)
