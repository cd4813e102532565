"""pl.gene_scores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import spared_sc as sp
from helpers.figures import assert_nothing_is_cut_off
from helpers.prediction_plots import KEY, SECTIONS, predict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=predict)


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
    scores = pd.DataFrame(rows, columns=columns).assign(unit="library")
    return scores.sample(frac=1, random_state=0)  # the order of the rows tells nothing


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


def test_donors_without_an_interval_are_points(adata):
    adata.obs["donor"] = adata.obs["library_id"].astype(str).map(lambda name: "ab"[int(name[-1]) % 2])
    scores = sp.tl.score_prediction(adata, library_key="library_id", subject_key="donor", protocol="spared")
    ax = sp.pl.gene_scores(scores)
    assert ax.get_title().endswith("genes, mean of 2 donors (4 sections)")
    assert labelled(ax, "mean of the genes")
    assert not labelled(ax, "95 % interval")
    assert not [text for text in ax.texts if "nan" in text.get_text()]
    plt.close(ax.figure)
    assert sp.pl.gene_scores(scores, library="library_1").get_title().endswith("genes, section library_1")


def test_table_of_the_scores_is_drawn(adata):
    sp.tl.predict_expression(adata, model="ridge", use_rep="spatial", library_key="library_id")
    scores = sp.tl.score_prediction(adata, library_key="library_id", protocol="spared")
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


def both(levels=LEVELS, **options) -> pd.DataFrame:
    """Scores of the protocol "expression": knowing depth says nothing given depth."""
    upward, across = (
        table(
            {
                name: (0 if metric == "pcc_given_depth" and name == "depth_only" else share * level)
                for name, level in levels.items()
            }
            | {"ceiling": 0.8 * share},
            metric=metric,
            floor=None,
            **options,
        )
        for metric, share in (("pcc", 1), ("pcc_given_depth", 0.7))
    )
    return pd.concat([upward, across])


def of_metric(scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    return scores[scores["metric"] == metric]


def test_correlation_against_correlation_given_depth():
    scores = both()
    fig = sp.pl.gene_scores(scores)
    assert [ax.get_title().split("\n")[0] for ax in fig.axes] == ["ridge", "knn"]
    for ax, name in zip(fig.axes, ["ridge", "knn"], strict=True):
        genes = {metric: values_of(of_metric(scores, metric), name) for metric in ("pcc", "pcc_given_depth")}
        points = labelled(ax, "genes of the prediction")[0]
        drawn = sorted(zip(points.get_xdata(), points.get_ydata(), strict=True))
        np.testing.assert_allclose(
            drawn, sorted((genes["pcc_given_depth"][gene], genes["pcc"][gene]) for gene in genes["pcc"])
        )
        depth = labelled(ax, "genes of depth_only")[0]
        expected = values_of(of_metric(scores, "pcc"), "depth_only")
        np.testing.assert_allclose(sorted(depth.get_ydata()), sorted(expected.values()))
        for label, row in (("mean of the genes", name), ("ceiling, mean of the genes", "ceiling")):
            mark = labelled(ax, label)[0]
            means = [overall_of(of_metric(scores, metric), row)["value"] for metric in ("pcc_given_depth", "pcc")]
            assert [mark.get_xdata()[0], mark.get_ydata()[0]] == pytest.approx(means)
        best = sorted(genes["pcc_given_depth"], key=genes["pcc_given_depth"].get, reverse=True)[:3]
        assert {text.get_text() for text in ax.texts} == set(best)
        rings = labelled(ax, "best genes given depth, named")[0]
        np.testing.assert_allclose(rings.get_xdata(), [genes["pcc_given_depth"][gene] for gene in best])
        assert ax.get_xlim() == ax.get_ylim()
        assert len(labelled(ax, "equal scores")) == 1
        assert len(labelled(ax, "95 % interval")) == 2
    assert fig.get_suptitle() == "30 genes, mean of 3 sections"
    assert_nothing_is_cut_off(fig)


def test_the_scatter_is_cut_to_the_best_unless_named():
    scores = both({f"model_{i}": 0.1 + 0.05 * i for i in range(6)} | {"depth_only": 0.5})
    fig = sp.pl.gene_scores(scores, n_names=0)
    assert [ax.get_title().split("\n")[0] for ax in fig.axes] == ["model_5", "model_4", "model_3", "model_2"]
    assert "2 weaker predictions are not shown" in fig.get_suptitle()
    assert not [text for ax in fig.axes for text in ax.texts]
    assert_nothing_is_cut_off(fig)
    plt.close("all")
    fig = sp.pl.gene_scores(scores, predictions=["model_0", "model_1", "model_5"], library="section_1")
    assert [ax.get_title().split("\n")[0] for ax in fig.axes] == ["model_5", "model_1", "model_0"]
    assert fig.get_suptitle() == "30 genes, section section_1"
    assert not labelled(fig.axes[0], "95 % interval")
    assert_nothing_is_cut_off(fig)
    plt.close("all")
    _, ax = plt.subplots()
    assert sp.pl.gene_scores(scores, ax=ax) is ax  # the best one
    assert ax.get_title().startswith("model_5")
    with pytest.raises(ValueError, match="holds one panel, but 2 predictions"):
        sp.pl.gene_scores(scores, predictions=["model_0", "model_1"], ax=ax)


def test_a_metric_draws_rows_with_the_ceiling():
    scores = both()
    ax = sp.pl.gene_scores(scores, metric="pcc_given_depth")
    assert row_names(ax)[:2] == ["ridge", "knn"]
    assert row_names(ax)[-1] == "no error"
    line = labelled(ax, "no error, mean of the genes")[0]
    assert line.get_xdata()[0] == pytest.approx(overall_of(of_metric(scores, "pcc_given_depth"), "ceiling")["value"])
    assert_nothing_is_cut_off(ax.figure)


def test_scores_of_expression_are_drawn(adata):
    sp.tl.predict_expression(adata, model="ridge", use_rep="spatial", library_key="library_id")
    scores = sp.tl.score_prediction(adata, library_key="library_id")
    fig = sp.pl.gene_scores(scores)
    assert {ax.get_title().split("\n")[0] for ax in fig.axes} == {KEY, "predicted_ridge"}
    assert_nothing_is_cut_off(fig)
    plt.close("all")
    for metric in ("pcc", "pcc_given_depth", "d2", "d2_own"):
        ax = sp.pl.gene_scores(scores, metric=metric)
        assert set(row_names(ax)) == {
            KEY, "predicted_ridge", "gene_mean", "depth_only", "position_only", "no error"
        }  # fmt: skip
        assert_nothing_is_cut_off(ax.figure)
        plt.close("all")
    hest = sp.tl.score_prediction(adata, protocol="hest", library_key="library_id")
    assert sp.pl.gene_scores(hest).get_title().endswith("genes, mean of 4 folds")


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
        ({"metric": "d2"}, ValueError, ["metric 'd2'", "'pcc'", "metric="]),
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


@pytest.mark.parametrize(
    ("metric", "left"),
    [("pcc", "no genes"), ("pcc", "no mean"), (None, "no genes"), (None, "no mean"), (None, "no model")],
)
def test_a_part_of_a_table_is_refused(adata, metric, left):
    scores = sp.tl.score_prediction(adata, library_key="library_id")
    of_models = scores["prediction"].str.startswith("predicted")
    dropped = {
        "no genes": of_models & (scores["gene"] != "all"),
        "no mean": of_models & (scores["gene"] == "all") & (scores["library"] == "all"),
        "no model": of_models,
    }[left]
    if (left, metric) == ("no mean", "pcc"):  # the anchors are drawn, unless the model is named
        with pytest.raises(ValueError, match="there is no prediction"):
            sp.pl.gene_scores(scores[~dropped], metric=metric, predictions=KEY)
        return
    with pytest.raises(ValueError, match="pass the whole table of `sp.tl.score_prediction"):
        sp.pl.gene_scores(scores[~dropped], metric=metric)
