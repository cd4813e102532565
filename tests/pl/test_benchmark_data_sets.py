"""pl.benchmark_data_sets."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results
from helpers.figures import assert_nothing_is_cut_off, legend_texts
from spared_sc._core.benchmark_tables import Choice, data_set_means

pytestmark = pytest.mark.usefixtures("no_traces")


def test_each_target_has_its_best_model_in_every_row():
    scores = made_results(targets=("expression", "log2tpm"), failed=(("set_1", "good"),))
    fig = sp.pl.benchmark_data_sets(scores, "pcc")
    ax = fig.axes[0]
    values = data_set_means(scores, Choice("pcc")).values
    order = [text.get_text() for text in ax.get_yticklabels()]
    assert order == values.max(axis=1).sort_values(ascending=False).index.tolist()
    for target in ("expression", "log2tpm"):
        (large,) = [line for line in ax.lines if line.get_label() == target]
        of_target = values[[name for name in values if name.endswith(f"({target})")]].max(axis=1)
        np.testing.assert_allclose(large.get_xdata(), of_target[order])
    assert [text.get_text() for text in ax.texts] == values.idxmax(axis=1)[order].tolist()
    assert legend_texts(fig.legends[0]) == ["expression", "log2tpm"]
    assert "good (expression) (1 of 6)" in ax.get_title()
    assert_nothing_is_cut_off(fig)


def test_errors_have_the_lowest_first_and_sets_without_a_value_last():
    scores = made_results(failed=tuple(("set_0", name) for name in ("good", "middle", "poor")))
    ax = sp.pl.benchmark_data_sets(scores, "mse").axes[0]
    order = [text.get_text() for text in ax.get_yticklabels()]
    assert order[-1] == "set_0"
    assert ax.texts[-1].get_text() == "no value"
    best = [line for line in ax.lines if line.get_markersize() == 7][0].get_xdata()[:-1]
    assert list(best) == sorted(best)
