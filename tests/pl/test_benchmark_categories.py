"""pl.benchmark_categories."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results
from helpers.figures import assert_nothing_is_cut_off

pytestmark = pytest.mark.usefixtures("no_traces")


def test_best_values_of_published_scores_by_category():
    scores = sp.benchmark.reference_external()
    fig = sp.pl.benchmark_categories(scores, "pcc", published=True)
    best = scores[scores["metric"] == "pcc"].groupby("dataset")["value"].max()
    facts = scores.drop_duplicates("dataset").set_index("dataset")
    for ax, column in zip(fig.axes, ["organism", "n_genes", "generalisation", "tissue"], strict=True):
        expected = best.groupby(facts[column].astype(str).str.lower()).apply(np.sort).to_dict()
        names = [text.get_text().rpartition(" (")[0] for text in ax.get_yticklabels()]
        assert set(names) == set(expected)
        points = [line.get_xdata() for line in ax.lines if line.get_marker() == "o"]
        for name, drawn in zip(names, points, strict=True):
            np.testing.assert_allclose(np.sort(drawn), expected[name])
        means = [np.mean(drawn) for drawn in points]
        assert means == sorted(means, reverse=True)
    assert_nothing_is_cut_off(fig)


def test_what_is_not_known_is_a_category_and_lost_sets_are_named():
    scores = made_results(failed=tuple(("set_0", name) for name in ("good", "middle", "poor")))
    fig = sp.pl.benchmark_categories(scores, "mse", by=["generalisation", "organism"])
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == ["not known (5)"]
    assert "1 data sets without a value" in fig.axes[0].get_title()
    with pytest.raises(ValueError, match=r"no category 'colour'.*by="):
        sp.pl.benchmark_categories(scores, "mse", by="colour")
