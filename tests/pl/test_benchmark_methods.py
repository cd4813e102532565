"""pl.benchmark_methods."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results
from helpers.figures import assert_nothing_is_cut_off
from spared_sc._core.benchmark_tables import Choice, data_set_means

pytestmark = pytest.mark.usefixtures("no_traces")


def rows(ax) -> dict[str, np.ndarray]:
    """Drawn points of every row."""
    points = [line for line in ax.lines if line.get_marker() == "o"]
    names = [text.get_text() for text in ax.get_yticklabels()]
    return {name: np.sort(line.get_xdata()) for name, line in zip(names, points, strict=True)}


@pytest.mark.parametrize(("metric", "to_best"), [("mse", True), ("pcc", True), ("mse", False)])
def test_points_are_the_data_sets(metric, to_best):
    scores = made_results(failed=(("set_1", "middle"),))
    ax = sp.pl.benchmark_methods(scores, metric, to_best=to_best)
    values = data_set_means(scores, Choice(metric)).values
    if to_best:
        values = values.div(values.min(axis=1), axis=0) if metric == "mse" else values.sub(values.max(axis=1), axis=0)
    drawn = rows(ax)
    assert list(drawn) == ["good", "middle", "poor"]
    for name, points in drawn.items():
        np.testing.assert_allclose(points, np.sort(values[name].dropna()))
    texts = [text.get_text() for text in ax.texts]
    assert float(texts[2].split(" ")[0]) == pytest.approx(values["poor"].mean(), rel=5e-3)
    assert texts[1].endswith("(5)")
    assert "no value, data sets: middle (1 of 6)" in ax.get_title()
    assert_nothing_is_cut_off(ax.figure)


def test_violins_need_five_values():
    ax = sp.pl.benchmark_methods(made_results(n_sets=4))
    assert not ax.collections
    plt.close(ax.figure)
    ax = sp.pl.benchmark_methods(made_results(n_sets=5), to_best=False)
    assert len(ax.collections) == 3


def test_completion_takes_its_regime():
    scores = made_results().assign(
        task="completion", target="", loss="", protocol="", role="", regime="detected", share=0.3
    )
    ax = sp.pl.benchmark_methods(scores, "mse", to_best=False, regime="detected", share=0.3)
    assert len(rows(ax)) == 3
    with pytest.raises(ValueError, match=r"no regime 'spots'.*regime="):
        sp.pl.benchmark_methods(scores, "mse", regime="spots")


def test_a_value_far_from_all_others_does_not_squeeze_them():
    scores = made_results(metrics=("pcc",)).assign(metric="d2")
    lost = (scores["dataset"] == "set_2") & (scores["label"] == "poor")
    scores.loc[lost, "value"] = -1e9
    ax = sp.pl.benchmark_methods(scores, "d2", to_best=False)
    assert "1 values lie beyond the axis" in ax.get_title()
    assert ax.get_xlim()[0] > -1
    arrows = [line for line in ax.lines if line.get_marker() == "<"]
    assert [line.get_ydata().tolist() for line in arrows] == [[2]]
    assert "e+08" in ax.texts[2].get_text()  # the mean says it
