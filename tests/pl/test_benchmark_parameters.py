"""pl.benchmark_parameters."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results
from helpers.figures import legend_texts
from spared_sc._core.benchmark_tables import Choice, data_set_means

pytestmark = pytest.mark.usefixtures("no_traces")


def test_methods_are_at_their_parameters_and_mean():
    scores = made_results()
    fig = sp.pl.benchmark_parameters(scores, "mse")
    values = data_set_means(scores, Choice("mse")).values
    expected = values.div(values.min(axis=1), axis=0).mean()
    drawn = {line.get_label(): (line.get_xdata()[0], line.get_ydata()[0]) for line in fig.axes[0].lines}
    assert drawn == {
        name: (10.0 ** (3 + i), pytest.approx(expected[name])) for i, name in enumerate(["good", "middle", "poor"])
    }
    assert legend_texts(fig.legends[0]) == ["good", "middle", "poor"]
    assert fig.axes[0].get_xscale() == "log"


def test_methods_without_parameters_are_named():
    scores = made_results()
    scores["n_parameters"] = np.where(scores["label"] == "good", 0, scores["n_parameters"])
    fig = sp.pl.benchmark_parameters(scores, "mse")
    assert "no parameters, or no score: 'good'" in fig.axes[0].get_title()
    assert len(fig.axes[0].lines) == 2


def test_published_scores_have_no_parameters():
    with pytest.raises(ValueError, match="no method has a number of parameters"):
        sp.pl.benchmark_parameters(sp.benchmark.reference_external(), "mse", published=True)
