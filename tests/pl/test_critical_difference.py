"""pl.critical_difference."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import spared_sc as sp
from helpers.benchmark_tables import made_results
from helpers.figures import assert_nothing_is_cut_off

pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture(scope="module")
def found():
    return sp.benchmark.compare(sp.benchmark.reference_external(), "mse", published=True)


def bars(ax) -> list[np.ndarray]:
    return [np.sort(line.get_xdata()) for line in ax.lines if line.get_linewidth() == 4]


def test_ranks_are_where_they_belong_and_have_their_names(found):
    ax = sp.pl.critical_difference(found)
    dots = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(dots, found.ranks)
    names = [text.get_text() for one in (ax, *ax.child_axes) for text in one.get_yticklabels()]
    assert {name.partition("  ")[0] for name in names} == set(found.ranks.index)
    assert "ViT-B+D  2.70" in names


def test_bars_join_exactly_the_pairs_that_do_not_differ(found):
    ax = sp.pl.critical_difference(found)
    joined = {
        frozenset((one, other))
        for low, high in bars(ax)
        for one, other in itertools.combinations(found.ranks.index[(found.ranks >= low) & (found.ranks <= high)], 2)
    }
    alike = found.pairs[found.pairs["nemenyi"] >= 0.05]
    assert joined == {frozenset(pair) for pair in zip(alike["method_1"], alike["method_2"], strict=True)}


def test_title_says_what_was_tested_and_what_is_left_out(found):
    ax = sp.pl.critical_difference(found)
    words = ax.get_title().replace("\n", " ")
    assert "mse over 25 data sets" in words
    assert "15 of 36 pairs differ; 6 with the 8 sources as blocks" in words
    assert "Hist2ST, a value in 2 of 26 data sets" in words
    assert any("critical difference 2.40" in text.get_text() for text in ax.texts)
    assert_nothing_is_cut_off(ax.figure)


def test_ties_and_long_differences_are_drawn():
    scores = made_results(n_sets=3, seeds=(0,))
    tied = scores.assign(value=1.0)
    ax = sp.pl.critical_difference(sp.benchmark.compare(tied, "mse"))
    assert "all ranks are tied" in ax.get_title()
    assert len(bars(ax)) == 1
    assert ax.lines


def test_something_else_is_refused():
    with pytest.raises(TypeError, match=r"sp.benchmark.compare.*found DataFrame"):
        sp.pl.critical_difference(made_results())
