"""pl.completion_curve."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import spared_sc as sp
from helpers.completion_plots import BEST_FIRST, LEVELS, SHOWN, artist, of_libraries, table
from helpers.figures import assert_nothing_is_cut_off, legend_texts

pytestmark = pytest.mark.usefixtures("no_traces")


def test_curve_goes_through_the_means_of_the_libraries():
    scores = table(shares=(0.5, 0.1, 0.3), regimes=("detected", "released"))
    fig = sp.pl.completion_curve(scores)
    ax = fig.axes[0]
    assert len(fig.axes) == 1
    for method in LEVELS:
        by_share = [
            list(of_libraries(scores, regime="detected", share=s, method=method).values()) for s in (0.1, 0.3, 0.5)
        ]
        line = artist(ax, SHOWN[BEST_FIRST.index(method)])
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
        np.mean(list(of_libraries(scores, regime="detected", share=0.3, method=f"floor_{e}").values()))
        for e in ("low", "high")
    ]
    y = corners[np.isclose(corners[:, 0], 0.3), 1]
    assert (y.min(), y.max()) == pytest.approx(tuple(ends))
    assert legend_texts(fig.legends[0]) == [*SHOWN[::-1], "noise floor (range)"]
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
