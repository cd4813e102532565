"""pl.benchmark_wins."""

from __future__ import annotations

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results

pytestmark = pytest.mark.usefixtures("no_traces")


def bars(ax) -> dict[str, float]:
    names = [text.get_text() for text in ax.get_yticklabels()]
    return {name: bar.get_width() for name, bar in zip(names, ax.patches, strict=True)}


def test_published_wins():
    scores = sp.benchmark.reference_external()
    ax = sp.pl.benchmark_wins(scores, "mse", published=True)
    wide = scores[scores["metric"] == "mse"].pivot(index="dataset", columns="model", values="value")
    expected = dict.fromkeys(wide.columns, 0.0)
    for _, row in wide.iterrows():
        best = [name for name in wide.columns if row[name] == row.min()]
        for name in best:
            expected[name] += 1 / len(best)
    assert bars(ax) == pytest.approx(expected)
    assert list(bars(ax))[0] == "ViT-B+D"
    assert ax.texts[0].get_text() == " 8 (31%)"


def test_higher_is_better_and_failures_do_not_win():
    scores = made_results(failed=tuple(("set_0", name) for name in ("good", "middle")))
    won = bars(sp.pl.benchmark_wins(scores, "pcc"))
    assert won == {"good": 5, "poor": 1, "middle": 0}
    assert np.isclose(sum(won.values()), 6)
