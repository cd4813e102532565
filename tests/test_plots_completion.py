"""Plots of completion: scores, curves, filled against measured values, and the audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData
from figures import assert_nothing_is_cut_off
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy.stats import pearsonr

import spared_sc as sp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEVELS = {"additive": 0.85, "median": 4.0, "soft_impute": 0.58, "residual": 0.53, "stack": 0.55}
BEST_FIRST = ["residual", "stack", "soft_impute", "additive", "median"]
BLUE, ORANGE, BLACK, VERMILION = "#0072b2", "#e69f00", "#000000", "#d55e00"


pytestmark = pytest.mark.usefixtures("no_traces")


def table(
    levels=LEVELS, *, sets=None, regimes=("paper", "released"), shares=(0.3,), n_libraries=4, n_masks=2, floor=True
) -> pd.DataFrame:
    """Scores as the evaluation writes them: errors grow with the hidden share, those of the median fast."""
    rng = np.random.default_rng(0)
    rows = []
    methods = {**levels, **({"floor_low": 0.3, "floor_high": 0.4} if floor else {})}
    for name in sets or [""]:
        for regime in regimes:
            for share in shares:
                for mask in range(n_masks):
                    for i in range(n_libraries):
                        for method, level in methods.items():
                            value = level * (1 + share * (level > 2)) * np.exp(0.05 * i + rng.normal(0, 0.01))
                            rows.append((name, regime, share, mask, method, f"section_{i}", f"donor_{i // 2}", value))
    columns = ["set", "regime", "share", "mask", "method", "library", "subject", "value"]
    made = pd.DataFrame(rows, columns=columns).assign(genes="all", metric="mse", n=900, flag="")
    made = pd.concat(
        [made, made.assign(metric="pcc", value=1 / (1 + made["value"]))[~made["method"].str.match("floor")]]
    )
    made = pd.concat([made, made.assign(genes="sparse", value=2 * made["value"])], ignore_index=True)
    made = made.sample(frac=1, random_state=0) if sets is None else made  # the order of the rows tells nothing
    return made if sets else made.drop(columns="set")


def part(scores: pd.DataFrame, **wanted) -> pd.DataFrame:
    wanted = {"metric": "mse", "genes": "all", **wanted}
    return scores[np.logical_and.reduce([scores[column] == value for column, value in wanted.items()])]


def of_libraries(scores: pd.DataFrame, **wanted) -> dict:
    """Mean over the masks for every library, by a loop."""
    rows = part(scores, **wanted)
    return {name: np.mean([v for v, lib in zip(rows["value"], rows["library"], strict=True) if lib == name])
            for name in sorted(set(rows["library"]))}  # fmt: skip


def lines(ax: Axes, label: str) -> list:
    return [line for line in ax.lines if line.get_label() == label]


def artist(ax: Axes, label: str):
    found = [one for one in [*ax.collections, *ax.patches, *ax.lines] if one.get_label() == label]
    assert len(found) == 1, label
    return found[0]


def has(ax: Axes, label: str) -> bool:
    return any(one.get_label() == label for one in [*ax.collections, *ax.patches, *ax.lines])


def legend_texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def method_names(ax: Axes) -> list[str]:
    """Methods from top to bottom."""
    bottom, top = ax.get_ylim()
    assert bottom > top
    return [label.get_text() for label in ax.get_yticklabels()]


def assert_texts_are_apart(texts: list) -> None:
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    assert len(boxes) > 1
    assert not [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if a.overlaps(b)]


# scores


def test_scores_every_section_and_mean_at_its_place():
    scores = table()
    fig = sp.pl.completion_scores(scores)
    assert isinstance(fig, Figure)
    assert {ax.get_title() for ax in fig.axes} == {
        "paper\n30 % of detected entries hidden",
        "released\n30 % of all entries hidden",
    }
    assert method_names(fig.axes[0]) == BEST_FIRST
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
    ax = sp.pl.completion_scores(table(), metric="pcc", regime="paper").axes[0]
    assert method_names(ax) == BEST_FIRST  # the table's correlations fall with the errors
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
    scores = table(values, regimes=("paper",), floor=False)
    scores = scores[(scores["metric"] == "mse")].assign(metric=metric)
    scores["value"] = scores["method"].map(values) * (1 + 1e-3 * scores["mask"])
    ax = sp.pl.completion_scores(scores, metric=metric).axes[0]
    assert method_names(ax) == first
    assert [line.get_xdata()[0] for line in lines(ax, "ideal")] == ([] if ideal is None else [ideal])
    decile = metric.partition("_d")[2]
    assert (f"decile {decile}" in ax.get_xlabel()) == bool(decile)


def test_values_of_all_sections_together_are_no_section():
    scores = table(regimes=("paper",), n_libraries=1).assign(library="all", subject="all")
    ax = sp.pl.completion_scores(scores, metric="pcc").axes[0]
    assert not lines(ax, "a section, its masks averaged")
    means = [line.get_xdata()[0] for line in lines(ax, "all sections together")]
    assert means == pytest.approx([of_libraries(scores, metric="pcc", method=m)["all"] for m in BEST_FIRST])
    assert "descriptive" not in ax.get_title()


def test_values_below_the_floor_stand_out():
    scores = table(regimes=("paper",))
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
        regimes=["paper", "spots", "thinning"],
        shares=(0.2, 0.5),
        n_masks=2,
        library_key="library_id",
    )
    for metric in ["mse", "pcc_pooled", "moran_change", "deviance", "calibration_d3"]:
        fig = sp.pl.completion_scores(scores, metric=metric)
        assert set(method_names(fig.axes[0])) <= {"gene_mean", "additive"}
        assert_nothing_is_cut_off(fig)
        plt.close(fig)
    ax = sp.pl.completion_scores(scores, regime="paper").axes[0]
    expected = [
        np.mean(list(of_libraries(scores, share=0.2, regime="paper", method=m).values())) for m in method_names(ax)
    ]
    assert [line.get_xdata()[0] for line in lines(ax, "mean of the sections")] == pytest.approx(expected)
    plt.close("all")
    assert legend_texts(sp.pl.completion_curve(scores).legends[0])[-1] == "noise floor (range)"


def test_axis_is_logarithmic_only_where_values_are_wide_apart():
    fig = sp.pl.completion_scores(table(), regime="paper")
    assert fig.axes[0].get_xscale() == "log"
    fig.canvas.draw()
    ticks = [text.get_text() for text in fig.axes[0].get_xticklabels()]
    assert all(float(text) == at for text, at in zip(ticks, fig.axes[0].get_xticks(), strict=True))
    plt.close(fig)
    fig = sp.pl.completion_scores(table(), regime="paper", methods=["additive", "residual"])
    assert fig.axes[0].get_xscale() == "linear"
    plt.close(fig)
    scores = table()
    scores["value"] -= 1  # as R2 may be: a logarithm of negative numbers hides them
    fig = sp.pl.completion_scores(scores, regime="paper")
    assert fig.axes[0].get_xscale() == "linear"


def test_choice_of_regimes_methods_and_genes():
    scores = table(regimes=("paper", "released", "spots"))
    fig = sp.pl.completion_scores(scores, regime=["spots", "paper"], methods=["stack", "median"], genes="sparse")
    assert [ax.get_title().split("\n") for ax in fig.axes] == [
        ["spots", "30 % of spots hidden"],
        ["paper", "30 % of detected entries hidden"],
    ]
    assert method_names(fig.axes[0]) == ["stack", "median"]
    assert fig.axes[0].get_xlabel() == "mean squared error\n(squared units of the layer), sparse genes"
    expected = list(of_libraries(scores, regime="spots", method="stack", genes="sparse").values())
    dots = lines(fig.axes[0], "a section, its masks averaged")[0]
    np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(expected))


@pytest.mark.parametrize(("share", "shown"), [(None, 0.3), (0.5, 0.5), (0.1 + 0.2, 0.3)])
def test_one_share_is_shown(share, shown):
    scores = table(shares=(0.1, 0.3, 0.5), regimes=("paper",))
    ax = sp.pl.completion_scores(scores, share=share).axes[0]
    assert ax.get_title() == f"paper\n{100 * shown:.0f} % of detected entries hidden"
    dots = lines(ax, "a section, its masks averaged")
    expected = list(of_libraries(scores, method="median", share=shown).values())
    np.testing.assert_allclose(np.sort(dots[-1].get_xdata()), np.sort(expected))


def test_share_next_to_that_of_the_paper_and_regimes_without_one():
    scores = table(shares=(0.25, 0.7), regimes=("paper",))
    without = table(shares=(0.5,), regimes=("thinning",)).assign(share=np.nan)
    fig = sp.pl.completion_scores(pd.concat([scores, without]))
    assert {ax.get_title() for ax in fig.axes} == {
        "paper\n25 % of detected entries hidden",
        "thinning\ncounts split, scored on the other part",
    }


def test_sets_have_panels_and_share_the_order_of_the_methods():
    scores = pd.concat([
        table({"one": 0.5, "two": 0.6, "three": 0.9}, sets=["VLO", "VKO"]),
        table({"one": 0.7, "two": 0.6, "three": 0.9}, sets=["HER2+"], regimes=("paper",), n_libraries=1),
    ])  # fmt: skip
    fig = sp.pl.completion_scores(scores)
    titles = [ax.get_title().split("\n") for ax in fig.axes]
    assert [title[0] for title in titles] == [
        f"{name}: {regime}" for name in ["VLO", "VKO", "HER2+"] for regime in ["paper", "released"]
    ]
    assert titles[4][-1] == "one section only: descriptive"
    assert titles[5][-1] == "not run"
    assert not [title for title in titles[:4] if "descriptive" in title[-1]]
    assert method_names(fig.axes[0]) == ["one", "two", "three"]  # mean ranks 1.2, 1.8, 3
    for ax, name in ((fig.axes[0], "VLO"), (fig.axes[4], "HER2+")):
        expected = list(of_libraries(scores, set=name, regime="paper", method="two").values())
        dots = lines(ax, "a section, its masks averaged")[1]
        np.testing.assert_allclose(np.sort(dots.get_xdata()), np.sort(expected))
    assert_nothing_is_cut_off(fig)


def test_missing_values_are_named():
    scores = table(regimes=("paper",))
    scores.loc[(scores["method"] == "stack"), "value"] = np.nan
    scores.loc[(scores["method"] == "additive") & (scores["library"] == "section_1"), "value"] = np.nan
    ax = sp.pl.completion_scores(scores).axes[0]
    assert method_names(ax) == ["residual", "soft_impute", "additive", "median", "stack"]
    assert ax.texts[2].get_text().endswith(" (3 of 4)")
    assert ax.texts[4].get_text() == "no value"
    assert len(lines(ax, "mean of the sections")) == 4


def test_columns_may_be_categories():
    scores = table(sets=["A", "B"])
    categories = scores.astype(dict.fromkeys(["set", "regime", "method", "library", "genes", "metric"], "category"))
    drawn = []
    for one in (scores, categories):
        fig = sp.pl.completion_scores(one, regime="paper", methods=["stack", "additive"])
        drawn.append([tuple(line.get_xdata()) for ax in fig.axes for line in ax.lines])
        plt.close(fig)
        fig = sp.pl.completion_curve(pd.concat([one, one.assign(share=0.5)]))
        plt.close(fig)
    assert drawn[0] == drawn[1]


# curve


def test_curve_goes_through_the_means_of_the_libraries():
    scores = table(shares=(0.5, 0.1, 0.3), regimes=("paper", "released"))
    fig = sp.pl.completion_curve(scores)
    ax = fig.axes[0]
    assert len(fig.axes) == 1
    for method in LEVELS:
        by_share = [
            list(of_libraries(scores, regime="paper", share=s, method=method).values()) for s in (0.1, 0.3, 0.5)
        ]
        line = artist(ax, method)
        np.testing.assert_allclose(line.get_xdata(), [0.1, 0.3, 0.5])
        np.testing.assert_allclose(line.get_ydata(), np.mean(by_share, axis=1))
        bands = [c for c in ax.collections if to_hex(c.get_facecolor()[0]) == to_hex(line.get_color())]
        assert len(bands) == 1
        corners = bands[0].get_paths()[0].vertices
        for share, values in zip((0.1, 0.3, 0.5), by_share, strict=True):
            y = corners[np.isclose(corners[:, 0], share), 1]
            assert (y.min(), y.max()) == pytest.approx(tuple(np.percentile(values, [25, 75])))
    corners = artist(ax, "noise floor (range)").get_paths()[0].vertices
    ends = [
        np.mean(list(of_libraries(scores, regime="paper", share=0.3, method=f"floor_{e}").values()))
        for e in ("low", "high")
    ]
    y = corners[np.isclose(corners[:, 0], 0.3), 1]
    assert (y.min(), y.max()) == pytest.approx(tuple(ends))
    assert legend_texts(fig.legends[0]) == [*BEST_FIRST[::-1], "noise floor (range)"]
    assert ax.get_yscale() == "log"
    fig.canvas.draw()
    assert [text.get_text() for text in ax.get_xticklabels()] == ["10", "30", "50"]
    assert ax.get_xlabel() == "share of detected entries hidden (%)"
    assert ax.get_ylabel() == "mean squared error\n(squared units of the layer)"


def test_many_methods_are_told_apart():
    scores = table({f"method {i}": 1 + 0.05 * i for i in range(16)}, shares=(0.1, 0.5), floor=False)
    fig = sp.pl.completion_curve(scores)
    styles = {(to_hex(line.get_color()), line.get_marker(), line.get_linestyle()) for line in fig.axes[0].lines}
    assert len(styles) == 16
    assert fig.axes[0].get_yscale() == "linear"
    assert_nothing_is_cut_off(fig)


def test_curves_of_several_sets_and_of_one_library():
    scores = pd.concat([
        table(sets=["VLO"], shares=(0.1, 0.3)),
        table({"stack": 0.6, "new": 0.5}, sets=["VKO"], shares=(0.3, 0.7), n_libraries=1, floor=False),
    ])  # fmt: skip
    fig = sp.pl.completion_curve(scores, methods=["new", "stack", "additive"])
    first, second = fig.axes
    assert (first.get_title(), second.get_title()) == ("VLO", "VKO")
    assert len(artist(first, "new").get_xdata()) == 0
    np.testing.assert_allclose(artist(second, "new").get_xdata(), [0.3, 0.7])
    assert artist(first, "stack").get_color() == artist(second, "stack").get_color()
    assert not second.collections  # one library has no spread, and there is no floor
    assert legend_texts(fig.legends[0]) == ["additive", "stack", "new", "noise floor (range)"]
    plt.close(fig)
    fig = sp.pl.completion_curve(scores, metric="pcc", methods=["stack", "additive"], regime="released")
    assert legend_texts(fig.legends[0]) == ["stack", "additive"]  # the highest line first


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
        ("curve", {}, ValueError, ["only the hidden share 0.3", "'paper'", "sp.pl.completion_scores"]),
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
    assert sp.pl.completion_scores(scores, regime="paper", ax=ax) is ax
    assert method_names(ax) == BEST_FIRST
    assert len(legend_texts(ax.get_legend())) == 3
    assert sp.pl.completion_curve(scores, ax=other) is other
    assert len(legend_texts(other.get_legend())) == 6
    with pytest.raises(ValueError, match=r"one panel, but 1 data sets x 2 regimes.*regime="):
        sp.pl.completion_scores(scores, ax=ax)
    with pytest.raises(ValueError, match="one panel, but 2 data sets"):
        sp.pl.completion_curve(table(sets=["A", "B"], shares=(0.1, 0.3)), ax=ax)
    with pytest.raises(ValueError, match=r"one panel, but 2 layers.*key="):
        sp.pl.completion_scatter(hidden(), key=["median", "good"], ax=ax)


# scatter


def hidden(*, sparse=True) -> AnnData:
    """Spots x genes with a hidden half of the detected entries, and two layers that were completed without them."""
    rng = np.random.default_rng(1)
    counts = rng.poisson(1.5, size=(60, 8))
    truth = np.where(counts > 0, np.log2(1 + 900 * counts * rng.uniform(0.5, 2, size=(60, 1))), 0).astype(np.float32)
    mask = (counts > 0) & (rng.random(counts.shape) < 0.5)
    box = sps.csr_matrix if sparse else np.asarray
    adata = AnnData(
        sps.csr_matrix(counts.astype(np.float32)),
        var=pd.DataFrame({"spared_selected": [True] * 6 + [False] * 2}, index=[f"GENE{i}" for i in range(8)]),
        layers={
            "log2tpm": box(truth),
            "hidden": box(mask),
            "good": box(np.where(mask, truth + rng.normal(0, 0.3, truth.shape), truth).astype(np.float32)),
            "median": box(np.where(mask, rng.normal(11, 1, truth.shape), truth).astype(np.float32)),
        },
    )
    return adata


def entries(adata: AnnData, layer: str, genes=slice(0, 6)) -> tuple[np.ndarray, np.ndarray]:
    values = {name: adata.to_df(name).to_numpy()[:, genes] for name in ("log2tpm", "hidden", layer)}
    mask = values["hidden"].astype(bool) & (adata.X.toarray()[:, genes] > 0)
    return values["log2tpm"][mask].astype(float), values[layer][mask].astype(float)


@pytest.mark.parametrize("sparse", [True, False])
def test_scatter_counts_every_hidden_entry_once(sparse):
    adata = hidden(sparse=sparse)
    fig = sp.pl.completion_scatter(adata, key=["good", "median"])
    assert isinstance(fig, Figure)
    panels = [ax for ax in fig.axes if ax.get_label() != "<colorbar>"]
    assert len(panels) == 2
    for ax, layer in zip(panels, ["good", "median"], strict=True):
        measured, filled = entries(adata, layer)
        mse, pcc = np.mean((measured - filled) ** 2), pearsonr(measured, filled)[0]
        assert ax.get_title() == f"{layer}\nMSE {mse:.3g}, PCC {pcc:.3f}, {measured.size} entries"
        drawn = ax.collections[0].get_array()
        assert drawn.sum() == measured.size
        edges = ax.collections[0].get_coordinates()
        x, y = edges[0, :, 0], edges[:, 0, 1]
        for row, column in zip(*np.nonzero(drawn.filled(0)), strict=True):
            inside_x = (measured >= x[column]) & ((measured < x[column + 1]) | (column == x.size - 2))
            inside_y = (filled >= y[row]) & ((filled < y[row + 1]) | (row == y.size - 2))
            assert (inside_x & inside_y).sum() == drawn[row, column]
        assert ax.collections[0].norm is panels[0].collections[0].norm
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), ax.lines[0].get_ydata())
        assert ax.get_aspect() == 1
        assert ax.get_xlabel() == "measured, log2(TPM + 1)"
    assert panels[0].get_ylabel() == "filled in, log2(TPM + 1)"
    assert panels[0].get_xlim() == panels[1].get_xlim() == panels[1].get_ylim()
    assert_nothing_is_cut_off(fig)


def test_scatter_of_all_genes_other_layers_and_undetected_entries():
    adata = hidden()
    mask = adata.layers.pop("hidden").toarray()
    mask[:, 0] = True  # also where nothing was detected: there is no measured value to compare with
    adata.layers["mine"] = mask
    adata.layers["raw"] = adata.layers["log2tpm"].copy()
    n = int(((adata.X.toarray() > 0) & mask).sum())
    assert n < mask.sum()
    ax = sp.pl.completion_scatter(adata, key="median", layer="raw", hidden="mine", mask_var=None).axes[0]
    assert ax.get_title().endswith(f"{n} entries")
    assert ax.get_xlabel() == "measured, raw"
    plt.close("all")
    adata.uns["spared_sc"] = {"log2tpm": {"match": "CPM: no lengths"}}
    ax = sp.pl.completion_scatter(adata, key="median", hidden="mine").axes[0]
    assert ax.get_xlabel() == "measured, log2(CPM + 1)"


def test_scatter_of_a_constant_has_no_correlation():
    adata = hidden(sparse=False)
    adata.layers["median"] = np.where(adata.layers["hidden"], 11, adata.layers["median"])
    fig = sp.pl.completion_scatter(adata, key="median")
    assert "PCC none" in fig.axes[0].get_title()
    fig.canvas.draw()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "magic"}, KeyError, ["'magic'", "'median'", "key="]),
        ({"key": []}, ValueError, ["`key` is empty", "'median'"]),
        ({"layer": "tpm"}, KeyError, ["'tpm'", "'log2tpm'", "layer="]),
        ({"hidden": "mask"}, KeyError, ["'mask'", "boolean", "hidden="]),
        ({"hidden": "log2tpm"}, TypeError, ["'log2tpm'", "float32", "boolean"]),
        ({"hidden": "nowhere"}, ValueError, ["'nowhere'", "marks no detected entry of the 6 genes", "mask_var="]),
        ({"hidden": "undetected"}, ValueError, ["marks no detected entry"]),
        ({"key": "seen"}, ValueError, ["'seen'", "while they were visible", "Hide them in a copy"]),
        ({"key": "nan"}, ValueError, ["'nan'", "NaN"]),
        ({"mask_var": "mine"}, KeyError, ["'mine'"]),
    ],
)
def test_errors_of_the_scatter(change, kind, words):
    adata = hidden()
    adata.layers["nowhere"] = sps.csr_matrix(adata.shape, dtype=bool)
    adata.layers["undetected"] = adata.X.toarray() == 0
    adata.layers["seen"] = adata.layers["log2tpm"].copy()
    adata.layers["nan"] = np.full(adata.shape, np.nan)
    with pytest.raises(kind) as error:
        sp.pl.completion_scatter(adata, **{"key": "median", **change})
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_layer_made_with_visible_entries_is_refused_only_when_many_repeat():
    adata = hidden(sparse=False)
    mask = adata.layers["hidden"] & adata.var["spared_selected"].to_numpy()
    rows, columns = np.nonzero(mask)
    n = rows.size
    for repeated, refused in ((n // 2 - 1, False), (-(-n // 2), True)):
        layer = adata.layers["median"].copy()
        layer[rows[:repeated], columns[:repeated]] = adata.layers["log2tpm"][rows[:repeated], columns[:repeated]]
        adata.layers["mixed"] = layer
        if refused:
            with pytest.raises(ValueError, match=f"at {repeated} of {n} hidden entries"):
                sp.pl.completion_scatter(adata, key="mixed")
        else:
            plt.close(sp.pl.completion_scatter(adata, key="mixed"))


# audit


def audited(n=30, *, others=5, harm=False, key="audit") -> AnnData:
    """What an audit leaves: `n` genes with verdicts, and `others` that it did not look at."""
    rng = np.random.default_rng(2)
    skill = np.linspace(0.5, -0.2, n)
    verdict = np.where(skill > 0.1, "complete", np.where(skill > -0.1, "use as is", "drop"))
    base = rng.uniform(0.6, 1.2, n)
    columns = {
        "verdict": pd.Categorical([*verdict, *["not audited"] * others]),
        "skill": skill,
        "skill_low": skill - 0.1,
        "skill_high": skill + 0.05,
        "missing": rng.uniform(0.1, 0.9, n),
        "floor": 0.4 * base,
        "mse_depth_only": base,
        "mse_additive": base * rng.uniform(0.9, 1.1, n),
    }
    names = [f"GENE{i}" for i in range(n + others)]
    frame = pd.DataFrame(
        {f"{key}_{c}": v if c == "verdict" else [*v, *[np.nan] * others] for c, v in columns.items()}, index=names
    )
    summary = "Filling in pays for some of these genes, and others are better used as they were measured. " * 3
    adata = AnnData(np.ones((2, n + others)), var=frame)
    adata.uns["spared_sc"] = {key: {"function": "tl.audit_completion", "summary": summary.strip(), "harm": harm}}
    return adata[:, rng.permutation(n + others)].copy()


def panel(fig: Figure, name: str) -> Axes:
    found = [ax for ax in fig.axes if ax.get_label() == f"<{name}>"]
    assert len(found) == 1
    return found[0]


def row_segments(collection) -> dict:
    """Row -> the two ends of its horizontal line."""
    return {round(line[0, 1]): (line[0, 0], line[1, 0]) for line in collection.get_segments()}


def ranked(adata: AnnData, key="audit") -> pd.DataFrame:
    frame = adata.var[adata.var[f"{key}_verdict"] != "not audited"].copy()
    return frame.sort_values(f"{key}_skill", ascending=False)


def test_audit_counts_the_verdicts():
    adata = audited()
    fig = sp.pl.audit(adata)
    assert isinstance(fig, Figure)
    ax = panel(fig, "verdicts")
    number = adata.var["audit_verdict"].value_counts()
    bars = {c.get_label(): c.patches[0] for c in ax.containers}
    assert list(bars) == ["drop", "use as is", "complete"]
    bottom = 0
    for name, bar in bars.items():
        assert (bar.get_y(), bar.get_height()) == (bottom, number[name])
        bottom += number[name]
    assert len({to_hex(bar.get_facecolor()) for bar in bars.values()}) == 3
    assert ax.get_ylim() == (0, 30)
    written = " ".join(text.get_text() for text in ax.texts)
    for name in bars:
        assert f"{name}: {number[name]} genes ({100 * number[name] / 30:.0f} %)" in written
    assert ax.get_xlabel() == "5 other genes were not audited"
    plt.close(fig)
    assert panel(sp.pl.audit(audited(others=0)), "verdicts").get_xlabel() == ""


def test_audit_draws_every_gene_at_its_rank_in_the_colour_of_its_verdict():
    adata = audited()
    fig = sp.pl.audit(adata)
    ax, genes = panel(fig, "skill"), ranked(adata)
    assert [text.get_text() for text in ax.get_yticklabels()] == list(genes.index)
    assert ax.get_ylim() == (29.5, -0.5)
    points = np.concatenate([artist(ax, name).get_offsets() for name in ("complete", "use as is", "drop")])
    np.testing.assert_allclose(points[np.argsort(points[:, 1])], np.c_[genes["audit_skill"], np.arange(30)])
    row = dict(zip(genes.index, range(30), strict=True))
    intervals = [c for c in ax.collections if hasattr(c, "get_segments")]
    for name, colour in (("complete", BLUE), ("use as is", ORANGE), ("drop", BLACK)):
        mine = genes[genes["audit_verdict"] == name]
        drawn = artist(ax, name)
        assert to_hex(drawn.get_facecolors()[0]) == colour
        assert sorted(drawn.get_offsets()[:, 1]) == sorted(row[gene] for gene in mine.index)
        segments = next(row_segments(c) for c in intervals if to_hex(c.get_colors()[0]) == colour)
        for gene in mine.index:
            ends = mine.loc[gene, ["audit_skill_low", "audit_skill_high"]].tolist()
            assert segments[row[gene]] == pytest.approx(tuple(ends))
    best = genes[["audit_mse_depth_only", "audit_mse_additive"]].min(axis=1)
    limit = artist(ax, "limit set by noise").get_offsets()
    np.testing.assert_allclose(limit, np.c_[1 - genes["audit_floor"] / best, np.arange(30)])
    zero = [line for line in ax.lines if set(line.get_xdata()) == {0}]
    assert len(zero) == 1
    assert "0: no better than averages" in ax.get_xlabel()
    assert legend_texts(fig.legends[0]) == ["skill and its interval", "limit set by noise"]
    bars = panel(fig, "missing").collections[0]
    segments = row_segments(bars)
    for gene, value in genes["audit_missing"].items():
        assert segments[row[gene]] == pytest.approx((0, 100 * value))
    colours = {"complete": BLUE, "use as is": ORANGE, "drop": BLACK}
    assert [to_hex(c) for c in bars.get_colors()] == [colours[v] for v in genes["audit_verdict"]]
    assert panel(fig, "missing").get_ylim() == ax.get_ylim()


@pytest.mark.parametrize("harm", [False, True, np.True_])
def test_audit_says_the_summary_and_when_it_would_harm(harm):
    adata = audited(harm=harm)
    fig = sp.pl.audit(adata)
    (text,) = panel(fig, "summary").texts
    assert text.get_text().replace("\n", " ") == adata.uns["spared_sc"]["audit"]["summary"]
    assert "\n" in text.get_text()
    if harm:
        assert "harm" in fig.get_suptitle()
        assert fig._suptitle.get_color().lower() == VERMILION
    else:
        assert fig.get_suptitle() == ""
    assert_nothing_is_cut_off(fig)


@pytest.mark.parametrize("n", [3, 30, 128, 5000])
def test_audit_of_few_and_of_many_genes(n):
    adata = audited(n, harm=True)
    fig = sp.pl.audit(adata)
    assert_nothing_is_cut_off(fig)
    ax = panel(fig, "skill")
    names = [text.get_text() for text in ax.get_yticklabels()]
    if n <= 30:
        assert names == list(ranked(adata).index)
        assert_texts_are_apart(ax.get_yticklabels())
    else:
        assert not names
        assert ax.get_ylabel() == f"{n:,} genes, best first"
    points = [c for c in ax.collections if c.get_label() in ("complete", "use as is", "drop")]
    assert sum(len(c.get_offsets()) for c in points) == n
    assert_texts_are_apart(panel(fig, "verdicts").texts)


@pytest.mark.parametrize("figsize", [(9, 5), (14, 6)])
def test_audit_texts_do_not_overlap(figsize):
    fig = sp.pl.audit(audited(40), figsize=figsize)
    assert tuple(fig.get_size_inches()) == figsize
    assert_nothing_is_cut_off(fig)
    verdicts, skill, summary = (panel(fig, name) for name in ("verdicts", "skill", "summary"))
    assert_texts_are_apart([*verdicts.texts, *summary.texts, verdicts.title, skill.title, skill.yaxis.label])


def test_audit_of_some_genes():
    adata = audited()
    order = list(ranked(adata).index)
    fig = sp.pl.audit(adata, n_genes=4)
    names = [text.get_text() for text in panel(fig, "skill").get_yticklabels()]
    assert names == [order[i] for i in (0, 10, 19, 29)]
    assert sum(c.patches[0].get_height() for c in panel(fig, "verdicts").containers) == 30  # the bar is of all
    plt.close(fig)
    fig = sp.pl.audit(adata, genes=[order[7], order[2]], n_genes=50)
    assert [text.get_text() for text in panel(fig, "skill").get_yticklabels()] == [order[2], order[7]]
    plt.close(fig)
    fig = sp.pl.audit(adata, genes=order[0])
    assert [text.get_text() for text in panel(fig, "skill").get_yticklabels()] == order[:1]


def test_audit_of_extreme_genes():
    adata = audited(100)
    worst = ranked(adata).index[-1]
    adata.var.loc[worst, ["audit_skill", "audit_skill_low", "audit_skill_high"]] = [-30, -35, -25]
    fig = sp.pl.audit(adata)
    ax = panel(fig, "skill")
    left, right = ax.get_xlim()
    assert -1 < left < -0.2
    assert 0.5 < right < 1
    np.testing.assert_allclose(artist(ax, "further left").get_offsets(), [[left, 99]])
    assert legend_texts(fig.legends[0])[-1] == "further left"


def test_audit_without_skill_or_with_other_names():
    adata = audited(key="mine")
    lost = ranked(adata, "mine").index[:2]
    adata.var.loc[lost, ["mine_skill", "mine_skill_low", "mine_skill_high"]] = np.nan
    adata.var["mine_verdict"] = adata.var["mine_verdict"].astype(object).replace("not audited", None)
    fig = sp.pl.audit(adata, key="mine")
    ax = panel(fig, "skill")
    assert len(ax.get_yticklabels()) == 28
    assert ax.get_ylabel() == "2 without a skill left out"
    assert panel(fig, "verdicts").get_ylim() == (0, 30)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "other"}, KeyError, ["'other_verdict'", "'audit'", "key=", "sp.tl.audit_completion"]),
        ({"genes": "ACTB"}, KeyError, ["'ACTB'", "genes="]),
        ({"genes": []}, ValueError, ["none of the genes"]),
        ({"genes": "skipped"}, ValueError, ["none of the genes"]),
        ({"n_genes": 0}, ValueError, ["n_genes=0"]),
        ({"n_genes": 2.5}, ValueError, ["n_genes=2.5", "whole number"]),
    ],
)
def test_errors_of_the_audit(change, kind, words):
    adata = audited()
    names = adata.var_names.to_numpy(dtype=object)
    names[np.flatnonzero(adata.var["audit_verdict"] == "not audited")[0]] = "skipped"
    adata.var_names = names
    with pytest.raises(kind) as error:
        sp.pl.audit(adata, **change)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_errors_about_what_the_audit_left():
    adata = audited()
    del adata.var["audit_floor"]
    with pytest.raises(KeyError, match="audit_floor"):
        sp.pl.audit(adata)
    adata = audited()
    del adata.uns["spared_sc"]["audit"]["summary"]
    with pytest.raises(KeyError, match="summary"):
        sp.pl.audit(adata)
    adata = audited()
    with pytest.raises(ValueError, match="no gene was audited"):
        sp.pl.audit(adata[:, adata.var["audit_verdict"] == "not audited"].copy())
    adata.var["audit_verdict"] = adata.var["audit_verdict"].cat.rename_categories({"drop": "bin"})
    with pytest.raises(ValueError, match="'bin'.*'drop'"):
        sp.pl.audit(adata)


# all of them

PLOTS = {
    "completion_scores": lambda **kw: sp.pl.completion_scores(table(), **kw),
    "completion_scores of one regime": lambda **kw: sp.pl.completion_scores(table(regimes=("paper",)), **kw),
    "completion_curve": lambda **kw: sp.pl.completion_curve(table(shares=(0.1, 0.3)), **kw),
    "completion_scatter": lambda **kw: sp.pl.completion_scatter(hidden(), key=["good", "median"], **kw),
    "audit": lambda **kw: sp.pl.audit(audited(), **kw),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_only_show_true_shows(plot, monkeypatch):
    for show in (None, False):
        assert plot(show=show) is not None
        plt.close("all")
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    plot(show=True)
    assert calls == [1]


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_figsize_and_text(plot):
    for size in (None, (9, 6)):
        fig = plot(figsize=size)
        assert size is None or tuple(fig.get_size_inches()) == size
        assert_nothing_is_cut_off(fig)
        plt.close(fig)


def test_nothing_is_changed():
    scores, before = table(), table()
    sp.pl.completion_scores(scores)
    plt.close("all")
    pd.testing.assert_frame_equal(scores, before)
    adata, before = audited(), audited()
    plt.close(sp.pl.audit(adata))
    pd.testing.assert_frame_equal(adata.var, before.var)
    adata, before = hidden(), hidden()
    sp.pl.completion_scatter(adata, key="median")
    for layer in before.layers:
        assert (adata.layers[layer] != before.layers[layer]).nnz == 0
