"""Plots of predicted expression: on the tissue, scores of genes, predicted against measured values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from figures import assert_nothing_is_cut_off, colour_bars, panels
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from scipy.stats import pearsonr

import spared_sc as sp

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VERMILION = "#d55e00"
KEY = "predicted_position_only"
PART = {"train": "fitted to this section", "val": "fit chosen on this section"}


pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture(scope="module")
def _made() -> AnnData:
    adata = sp.datasets.synthetic(n_libraries=4, shape=(9, 8), n_genes=40, depth=400)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=12)
    order = np.random.default_rng(0).permutation(adata.n_obs)  # rows of a library need not be together
    adata = adata[order].copy()
    sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    return adata


@pytest.fixture
def adata(_made) -> AnnData:
    return _made.copy()


def with_split(adata: AnnData, parts: str, **keywords) -> list[str]:
    """Predict again with a split; the names of the libraries."""
    names = sorted(set(adata.obs["library_id"]))
    adata.obs["split"] = adata.obs["library_id"].astype(str).map(dict(zip(names, parts.split(), strict=True)))
    sp.tl.predict_expression(adata, model="position_only", library_key="library_id", key_added="split", **keywords)
    return names


def circles(ax: Axes) -> dict:
    return {c.get_label(): c for c in ax.collections}


def column(adata: AnnData, gene: str, key: str = KEY) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measured values, whether detected, and predicted ones."""
    at = adata.var_names.get_loc(gene)
    measured = adata.layers["log2tpm"].toarray()[:, at].astype(float)
    return measured, adata.X.toarray()[:, at] > 0, adata.obsm[key][gene].to_numpy(dtype=float)


def a_gene(adata: AnnData) -> str:
    """A gene that some spots of every section miss."""
    genes = adata.obsm[KEY].columns
    share = (adata[:, genes].X.toarray() > 0).mean(axis=0)
    return genes[np.argmin(np.abs(share - 0.5))]


# on the tissue


def test_every_spot_is_at_its_place_in_its_colour(adata):
    gene = a_gene(adata)
    measured, detected, values = column(adata, gene)
    fig = sp.pl.predicted(adata, gene, library_key="library_id", cmap="magma")
    assert isinstance(fig, Figure)
    assert fig.get_suptitle() == gene
    names = sorted(set(adata.obs["library_id"]))
    assert [ax.get_title() for ax in panels(fig)] == ["measured", "predicted (position_only)", "difference", *[""] * 9]
    ends = np.percentile(np.concatenate([measured[detected], values[detected]]), [1, 99])
    norm, cmap = Normalize(*ends), mpl.colormaps["magma"]
    difference = values - measured
    size = np.percentile(np.abs(difference[detected]), 99)
    around = Normalize(-size, size)
    fig.canvas.draw()
    for name, row in zip(names, np.reshape(panels(fig), (-1, 3)), strict=True):
        spots = np.flatnonzero(adata.obs["library_id"].to_numpy() == name)
        scale = adata.uns["spatial"][name]["scalefactors"]["tissue_hires_scalef"]
        here = spots[detected[spots]]
        assert 0 < here.size < spots.size
        drawn = circles(row[0])
        assert set(drawn) == {"detected", "not detected"}
        np.testing.assert_allclose(drawn["detected"].get_offsets(), adata.obsm["spatial"][here] * scale)
        np.testing.assert_allclose(drawn["detected"].get_facecolors(), cmap(norm(measured[here])), atol=1e-6)
        r, g, b, _ = drawn["not detected"].get_facecolors()[0]
        assert r == g == b >= 0.8
        everywhere = circles(row[1])["detected"]
        np.testing.assert_allclose(everywhere.get_offsets(), adata.obsm["spatial"][spots] * scale)
        np.testing.assert_allclose(everywhere.get_facecolors(), cmap(norm(values[spots])), atol=1e-6)
        drawn = circles(row[2])
        assert set(drawn) == {"difference"}
        np.testing.assert_allclose(drawn["difference"].get_offsets(), adata.obsm["spatial"][here] * scale)
        expected = drawn["difference"].get_cmap()(around(difference[here]))
        np.testing.assert_allclose(drawn["difference"].get_facecolors(), expected, atol=1e-6)
        pcc = pearsonr(measured[here], values[here])[0]
        share = 100 * here.size / spots.size
        assert row[0].get_ylabel() == f"{name}\n{share:.0f} % detected, PCC {pcc:.3f}"
        assert to_hex(row[0].yaxis.label.get_color()) == "#000000"
    bars = colour_bars(fig)
    assert [bar.get_ylabel() for bar in bars] == ["log2(TPM + 1)", "predicted - measured, log2(TPM + 1)"]
    np.testing.assert_allclose(bars[0].get_ylim(), ends)
    np.testing.assert_allclose(bars[1].get_ylim(), (-size, size))
    assert_nothing_is_cut_off(fig)


def test_colours_of_the_difference_are_blue_below_zero_and_red_above(adata):
    gene = a_gene(adata)
    ax = panels(sp.pl.predicted(adata, gene, library_key="library_id"))[2]
    cmap = circles(ax)["difference"].get_cmap()
    low, middle, high = cmap(0.0), cmap(0.5), cmap(1.0)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert min(middle[:3]) > 0.9


def test_sections_that_the_fit_has_seen_are_marked(adata):
    names = with_split(adata, "train val test train")
    fig = sp.pl.predicted(adata, a_gene(adata), key="split", library_key="library_id")
    labels = [ax.yaxis.label for ax in panels(fig)[::3]]
    for label, name, part in zip(labels, names, ["train", "val", "test", "train"], strict=True):
        first, *rest = label.get_text().split("\n")
        assert first == name
        assert rest[1:] == ([PART[part]] if part in PART else [])
        assert (to_hex(label.get_color()) == VERMILION) == (part in PART)
    assert_nothing_is_cut_off(fig)


def test_parts_in_fitting_belong_to_spots_not_to_names(adata):
    """Predicted with halves of sections as libraries, drawn with the sections as such."""
    one = adata[adata.obs["library_id"] == sorted(set(adata.obs["library_id"]))[0]].copy()
    x = one.obsm["spatial"][:, 0]
    one.obs["half"] = np.where(x < np.median(x), "left", "right")
    one.obs["split"] = one.obs["half"].map({"left": "train", "right": "test"})
    sp.tl.predict_expression(one, model="position_only", library_key="half", key_added="halves")
    gene = a_gene(one)
    label = sp.pl.predicted(one, gene, key="halves", library_key="library_id", img=False).axes[0].get_ylabel()
    assert label.endswith("fitted to part of this section")
    plt.close("all")
    fig = sp.pl.predicted(one, gene, key="halves", library_key="half")
    assert [PART["train"] in ax.get_ylabel() for ax in panels(fig)[::3]] == [True, False]
    plt.close("all")
    fig = sp.pl.prediction_scatter(one, key="halves", genes=gene, library_key="half")
    _, detected, _ = column(one, gene)
    n = int((detected & (one.obs["half"] == "right")).sum())
    assert fig.axes[0].get_title().endswith(f" {n} entries")


@pytest.mark.filterwarnings("ignore:layers.'corrected'.:UserWarning")
def test_sections_that_the_target_layer_has_seen_are_marked(adata):
    sp.pp.combat(adata, key_added="corrected", library_key="library_id")
    sp.tl.predict_expression(adata, model="gene_mean", layer="corrected", key_added="seen", library_key="library_id")
    fig = sp.pl.predicted(adata, a_gene(adata), key="seen", library_key="library_id", libraries="library_1")
    assert fig.axes[0].get_ylabel().endswith("\ntarget layer made with this section")
    assert_nothing_is_cut_off(fig)


def test_slide_without_measurements(adata):
    gene = a_gene(adata)
    slide = AnnData(
        np.zeros((adata.n_obs, 1), dtype=np.float32), obs=adata.obs[["library_id"]], var=pd.DataFrame(index=["none"])
    )
    slide.obsm["spatial"], slide.uns["spatial"] = adata.obsm["spatial"], adata.uns["spatial"]
    slide.obsm[KEY], slide.uns["spared_sc"] = adata.obsm[KEY], {KEY: adata.uns["spared_sc"][KEY]}
    fig = sp.pl.predicted(slide, gene, library_key="library_id")
    assert [ax.get_title() for ax in panels(fig)] == ["predicted (position_only)", "", "", ""]
    names = sorted(set(slide.obs["library_id"]))
    assert [ax.get_ylabel() for ax in panels(fig)] == names
    _, _, values = column(adata, gene)
    bars = colour_bars(fig)
    assert [bar.get_ylabel() for bar in bars] == ["predicted, scale of layer 'log2tpm' in training"]
    np.testing.assert_allclose(bars[0].get_ylim(), np.percentile(values, [1, 99]))
    assert not fig.legends
    plt.close(fig)
    with pytest.raises(ValueError, match="'difference' needs measured expression.*normalize_tpm.*panels='predicted'"):
        sp.pl.predicted(slide, gene, library_key="library_id", panels=["predicted", "difference"])
    del adata.layers["log2tpm"]  # counts alone are on another scale
    assert len(panels(sp.pl.predicted(adata, gene, library_key="library_id", libraries=names[0]))) == 1


def test_few_detected_spots_have_no_correlation(adata):
    gene = a_gene(adata)
    at, n = adata.var_names.get_loc(gene), 9
    counts = adata.X.tolil()
    for name in set(adata.obs["library_id"]):
        counts[np.flatnonzero((adata.obs["library_id"] == name).to_numpy()), at] = 0
    first = sorted(set(adata.obs["library_id"]))[0]
    counts[np.flatnonzero((adata.obs["library_id"] == first).to_numpy())[:n], at] = 3
    adata.X = counts.tocsr()
    del adata.layers["detected"]
    fig = sp.pl.predicted(adata, gene, library_key="library_id")
    assert [ax.get_ylabel().rpartition("PCC ")[2] for ax in panels(fig)[::3]] == ["none"] * 4
    assert panels(fig)[3].get_ylabel().split("\n")[1] == "0 % detected, PCC none"
    fig.canvas.draw()


def test_choice_of_panels_libraries_and_given_axes(adata):
    gene, names = a_gene(adata), sorted(set(adata.obs["library_id"]))
    fig = sp.pl.predicted(adata, gene, library_key="library_id", panels=["difference", "measured"], libraries=names[:2])
    assert [ax.get_title() for ax in panels(fig)] == ["measured", "difference", "", ""]
    plt.close(fig)
    _, ax = plt.subplots()
    arguments = {"library_key": "library_id", "libraries": names[2], "ax": ax}
    with pytest.raises(ValueError, match=r"one panel, but 1 libraries x 3 panels.*panels="):
        sp.pl.predicted(adata, gene, **arguments)
    assert sp.pl.predicted(adata, gene, panels="difference", **arguments) is ax
    assert ax.get_title() == f"{gene}, difference"
    assert [bar.get_ylabel() for bar in colour_bars(ax.figure)] == ["predicted - measured, log2(TPM + 1)"]


def test_limits_given_by_the_user_hold_for_measured_and_predicted(adata):
    fig = sp.pl.predicted(adata, a_gene(adata), library_key="library_id", vmin=2, vmax=9)
    for ax in panels(fig):
        drawn = circles(ax)
        if "difference" not in drawn:
            assert (drawn["detected"].norm.vmin, drawn["detected"].norm.vmax) == (2, 9)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"gene": "nothing"}, KeyError, ["'nothing'", "predicts genes such as"]),
        ({"key": "other"}, KeyError, ["'other'", KEY, "sp.tl.predict_expression"]),
        ({"layer": "tpm"}, KeyError, ["'tpm'", "'log2tpm'"]),
        ({"panels": ["measured", "error"]}, ValueError, ["'error'", "'difference'", "panels="]),
        ({"panels": []}, ValueError, ["`panels` is empty", "'difference'"]),
        ({"libraries": "none"}, KeyError, ["'none'", "libraries="]),
        ({"library_key": None}, ValueError, ["library_key="]),
        ({"spatial_key": "xy"}, KeyError, ["'xy'", "spatial_key="]),
        ({"vmin": 3, "vmax": 2}, ValueError, ["vmin=3", "vmax=2"]),
    ],
)
def test_errors_on_the_tissue(adata, change, kind, words):
    arguments = {"gene": a_gene(adata), "library_key": "library_id", **change}
    with pytest.raises(kind) as error:
        sp.pl.predicted(adata, **arguments)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_gene_that_is_close_to_a_predicted_one_is_named(adata):
    gene = a_gene(adata)
    with pytest.raises(KeyError, match=f"did you mean .*{gene}"):
        sp.pl.predicted(adata, gene.lower() + "x", library_key="library_id")


def test_several_predictions_need_a_name(adata):
    sp.tl.predict_expression(adata, model="gene_mean", library_key="library_id")
    for plot in (
        lambda: sp.pl.predicted(adata, a_gene(adata), library_key="library_id"),
        lambda: sp.pl.prediction_scatter(adata),
    ):
        with pytest.raises(ValueError, match="several predictions.*'predicted_gene_mean'"):
            plot()


def test_object_stays_as_it_was_and_files_keep_what_is_needed(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "one.h5ad"
    one = adata[adata.obs["library_id"] == adata.obs["library_id"].iloc[0]].copy()
    adata.write_h5ad(path)
    back = ad.read_h5ad(path)
    gene = a_gene(adata)
    keys = {name: set(getattr(adata, name)) for name in ("layers", "obs", "var", "obsm", "uns")}
    titles = []
    for each in (adata, back):
        fig = sp.pl.predicted(each, gene, library_key="library_id")
        titles.append([ax.get_ylabel() for ax in panels(fig)])
        plt.close(fig)
        fig = sp.pl.prediction_scatter(each, library_key="library_id")
        titles[-1] += [ax.get_title() for ax in panels(fig)]
        plt.close(fig)
    assert titles[0] == titles[1]
    assert keys == {name: set(getattr(adata, name)) for name in keys}
    assert len(panels(sp.pl.predicted(one, gene, library_key="library_id"))) == 3


# scores of genes

LEVELS = {"knn": 0.3, "ridge": 0.4, "gene_mean": np.nan, "depth_only": 0.25, "position_only": 0.2}


def table(levels=LEVELS, *, n_genes=30, metric="pcc", role="held out", floor=(0.8, 0.7), n_libraries=3) -> pd.DataFrame:
    """Scores as `sp.tl.score_prediction` writes them."""
    rng = np.random.default_rng(0)
    names = [f"GENE{i}" for i in range(n_genes)]
    floors = {} if floor is None else dict(zip(("floor_low", "floor_high"), floor, strict=True))
    rows = []
    for prediction, level in {**levels, **floors}.items():
        values = level + rng.normal(0, 0.1, (n_libraries, n_genes))
        for i in range(n_libraries):
            where = (prediction, f"section_{i}", f"section_{i}", role)
            rows.append((*where, "all", metric, values[i].mean(), np.nan, np.nan))
            rows += [
                (*where, gene, metric, value, np.nan, np.nan) for gene, value in zip(names, values[i], strict=True)
            ]
        mean = values.mean()
        interval = (mean - 0.03, mean + 0.02) if n_libraries > 1 else (np.nan, np.nan)
        rows.append((prediction, "all", "all", "all", "all", metric, mean, *interval))
        rows += [
            (prediction, "all", "all", "all", gene, metric, value, value - 0.1, value + 0.1)
            for gene, value in zip(names, values.mean(axis=0), strict=True)
        ]
    columns = ["prediction", "library", "subject", "role", "gene", "metric", "value", "lower", "upper"]
    return pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0)  # the order of the rows tells nothing


def values_of(scores: pd.DataFrame, prediction: str, library="all") -> dict:
    rows = scores[(scores["prediction"] == prediction) & (scores["library"] == library) & (scores["gene"] != "all")]
    return dict(zip(rows["gene"], rows["value"], strict=True))


def overall_of(scores: pd.DataFrame, prediction: str, library="all") -> pd.Series:
    rows = (scores["prediction"] == prediction) & (scores["library"] == library) & (scores["gene"] == "all")
    return scores[rows].iloc[0]


def row_names(ax: Axes) -> list[str]:
    """Rows from top to bottom."""
    bottom, top = ax.get_ylim()
    assert bottom > top
    return [label.get_text() for label in ax.get_yticklabels()]


def strips(ax: Axes) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Places of the genes by row."""
    found = {}
    for line in ax.lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        if line.get_marker() == "o" and line.get_label() != "best genes, named" and len(y):
            found[round(float(np.mean([y.min(), y.max()])))] = (x, y)
    return found


def labelled(ax: Axes, label: str) -> list:
    return [one for one in [*ax.lines, *ax.patches] if one.get_label() == label]


def legend_texts(fig: Figure) -> list[str]:
    return [text.get_text() for text in fig.legends[0].get_texts()]


def test_every_gene_at_its_value_best_on_top():
    scores = table()
    ax = sp.pl.gene_scores(scores)
    assert row_names(ax) == ["ridge", "knn", "depth_only", "position_only", "gene_mean", "no error"]
    drawn = strips(ax)
    for at, name in enumerate(row_names(ax)):
        if name == "gene_mean":
            assert at not in drawn
            continue
        expected = values_of(scores, name if name != "no error" else "floor_low")
        if name == "no error":
            other = values_of(scores, "floor_high")
            expected = {gene: (value + other[gene]) / 2 for gene, value in expected.items()}
        x, y = drawn[at]
        np.testing.assert_allclose(x, sorted(expected.values()))
        assert (np.diff(y) < 0).all()  # the axis points downward: the best gene is the highest
        assert at - 0.5 < y.min() < y.max() < at + 0.5
    texts = [text.get_text() for text in ax.texts]
    for name in ("ridge", "knn", "depth_only"):
        one = overall_of(scores, name)
        assert f"{one['value']:.3f} ({one['lower']:.3f} to {one['upper']:.3f})" in texts
    assert "no value" in texts
    for name in ("ridge", "knn"):
        values = values_of(scores, name)
        assert ", ".join(sorted(values, key=values.get, reverse=True)[:3]) in texts
    bars = labelled(ax, "mean of the genes")
    assert sorted(line.get_xdata()[0] for line in bars) == pytest.approx(
        sorted(overall_of(scores, name)["value"] for name in LEVELS if name != "gene_mean")
    )
    band = labelled(ax, "no error, mean of the genes (range)")[0].get_extents().transformed(ax.transData.inverted())
    assert (band.x0, band.x1) == pytest.approx(
        sorted(overall_of(scores, name)["value"] for name in ("floor_low", "floor_high"))
    )
    assert ax.get_title() == "30 genes, mean of 3 sections"
    assert set(legend_texts(ax.figure)) == {
        "no error, mean of the genes (range)", "mean of the genes", "95 % interval", "best genes, named"
    }  # fmt: skip
    assert_nothing_is_cut_off(ax.figure)


def test_rings_are_at_the_genes_that_are_named():
    scores = table()
    ax = sp.pl.gene_scores(scores, n_names=2)
    rings = labelled(ax, "best genes, named")
    for ring, name in zip(rings, ["ridge", "knn"], strict=True):
        np.testing.assert_allclose(ring.get_xdata(), sorted(values_of(scores, name).values())[:-3:-1])
    plt.close("all")
    ax = sp.pl.gene_scores(scores, n_names=0)
    assert not labelled(ax, "best genes, named")
    assert not [text for text in ax.texts if "GENE" in text.get_text()]


def test_of_errors_the_smallest_is_best():
    scores = table({"bad": 1.4, "good": 0.6, "gene_mean": 1.0}, metric="mse", floor=None)
    ax = sp.pl.gene_scores(scores, metric="mse")
    assert row_names(ax) == ["good", "bad", "gene_mean"]
    x, y = strips(ax)[0]
    np.testing.assert_allclose(x, sorted(values_of(scores, "good").values(), reverse=True))
    assert (np.diff(y) < 0).all()
    values = values_of(scores, "good")
    assert ", ".join(sorted(values, key=values.get)[:3]) in [text.get_text() for text in ax.texts]
    assert not labelled(ax, "no error, all genes together (range)")
    assert labelled(ax, "all genes together")


def test_one_section_and_validation_sections_say_so():
    scores = table()
    ax = sp.pl.gene_scores(scores, library="section_1")
    np.testing.assert_allclose(strips(ax)[0][0], sorted(values_of(scores, "ridge", "section_1").values()))
    assert ax.get_title() == "30 genes, section section_1"
    assert "95 % interval" not in legend_texts(ax.figure)
    plt.close("all")
    ax = sp.pl.gene_scores(table(n_libraries=1, role="val"))
    assert ax.get_title() == "30 genes, one section only\nvalidation sections: the fits were chosen on them"


def test_many_predictions_are_cut_to_the_best_unless_named():
    levels = {f"model_{i:02}": 0.1 + 0.02 * i for i in range(15)} | {"depth_only": 0.9}
    scores = table(levels, n_genes=200, floor=None)
    ax = sp.pl.gene_scores(scores)
    assert row_names(ax) == [f"model_{i:02}" for i in range(14, 2, -1)] + ["depth_only"]
    assert "3 weaker predictions are not shown" in ax.get_title()
    assert_nothing_is_cut_off(ax.figure)
    plt.close("all")
    ax = sp.pl.gene_scores(scores, predictions=["model_00", "model_14"])
    assert row_names(ax) == ["model_14", "model_00", "depth_only"]
    assert "not shown" not in ax.get_title()
    plt.close("all")
    assert row_names(sp.pl.gene_scores(scores, predictions=list(levels)[:15])) == [*list(levels)[14::-1], "depth_only"]


def test_a_gene_far_off_does_not_squeeze_the_others():
    scores = table({"ridge": 0.4}, metric="r2", n_genes=200, floor=None)
    far = (scores["gene"] == "GENE7") & (scores["library"] == "all")
    scores.loc[far, "value"] = -30.0
    ax = sp.pl.gene_scores(scores, metric="r2")
    rest = [value for gene, value in values_of(scores, "ridge").items() if gene != "GENE7"]
    left, right = ax.get_xlim()
    assert left > -1.5
    arrows = labelled(ax, "beyond the axis")
    assert [line.get_marker() for line in arrows] == ["<", ">"][: len(arrows)]
    assert list(arrows[0].get_xdata())[0] == left
    n_beyond = sum(len(line.get_xdata()) for line in arrows)
    inside = [value for value in rest if left <= value <= right]
    assert len(inside) + n_beyond == 200
    np.testing.assert_allclose(strips(ax)[0][0], sorted(inside))


def test_table_of_the_scores_is_drawn(adata):
    sp.tl.predict_expression(adata, model="ridge", use_rep="spatial", library_key="library_id")
    scores = sp.tl.score_prediction(adata, library_key="library_id")
    for metric in ["pcc", "mse", "mae", "r2", "skill"]:
        ax = sp.pl.gene_scores(scores, metric=metric)
        names = row_names(ax)
        assert set(names[:2]) == {KEY, "predicted_ridge"}
        assert set(names[2:5]) == {"gene_mean", "depth_only", "position_only"}
        assert ("no error" in names) == (metric == "pcc")
        band = [one for one in ax.patches if str(one.get_label()).startswith("no error")]
        assert bool(band) == (metric in ("pcc", "mse"))
        assert_nothing_is_cut_off(ax.figure)
        plt.close(ax.figure)
    ax = sp.pl.gene_scores(scores[scores["gene"].isin(["all", adata.obsm[KEY].columns[0]])])
    assert ax.get_title() == "1 genes, mean of 4 sections"


def test_scores_into_given_axes():
    _, ax = plt.subplots()
    assert sp.pl.gene_scores(table(), ax=ax) is ax
    assert ax.get_legend() is not None


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"metric": "pcc_spot"}, ValueError, ["'pcc_spot'", "every gene", "'skill'"]),
        ({"metric": "mse"}, ValueError, ["metric 'mse'", "'pcc'", "metric="]),
        ({"library": "C1"}, ValueError, ["'C1'", "'section_0'", "library="]),
        ({"predictions": "lasso"}, ValueError, ["'lasso'", "'ridge'", "predictions="]),
        ({"predictions": []}, ValueError, ["`predictions` is empty"]),
        ({"n_names": -1}, ValueError, ["n_names=-1"]),
    ],
)
def test_errors_about_the_table(change, kind, words):
    with pytest.raises(kind) as error:
        sp.pl.gene_scores(table(), **change)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_only_the_table_of_the_scores_is_taken():
    with pytest.raises(TypeError, match=r"sp.tl.score_prediction.*found AnnData"):
        sp.pl.gene_scores(AnnData(np.ones((2, 2))))
    with pytest.raises(KeyError, match=r"no column 'gene'.*'library'.*sp.tl.score_prediction"):
        sp.pl.gene_scores(table().drop(columns="gene"))
    with pytest.raises(ValueError, match="repeat a prediction and a gene"):
        sp.pl.gene_scores(pd.concat([table(), table()]))


# predicted against measured


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
    scores = sp.tl.score_prediction(adata, library_key="library_id")
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
    adata.uns["spared_sc"]["split"]["roles"] = dict.fromkeys(sorted(set(adata.obs["library_id"])), "train")
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
        ({"genes": "nothing"}, KeyError, ["'nothing'", "predicts genes such as"]),
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


def test_a_tiled_slide_without_genes_is_drawn():
    import matplotlib.pyplot as plt

    image = sp.datasets.synthetic(n_libraries=1).uns["spatial"]["library_1"]["images"]["hires"]
    adata = sp.datasets.synthetic(n_libraries=2)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=12, gene_lengths=None)
    fitted = sp.tl.fit_predictor(adata, model="gene_mean", library_key="library_id")
    slide = sp.pp.tile_slide(image, mpp=4.1)
    sp.tl.predict_expression(slide, model=fitted)
    fig = sp.pl.predicted(slide, fitted.genes[0])
    assert len(panels(fig)) == 1
    plt.close(fig)
