"""Parameters that are chosen on hidden entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from spared_sc._kernels.baselines import BASELINES

from helpers.completion import SECTIONS, sections_of
from spared_sc._kernels import baselines
from spared_sc._kernels.masking import hide_detected

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("library_gene_mean", "shrinkage"),
        ("depth_only", "shrinkage"),
        ("neighbor_mean", "n_rings"),
        ("kernel", "bandwidth"),
        ("diffusion", "strength"),
        ("soft_impute", "shrinkage"),
        ("soft_impute_kernel", "kernel_shrinkage"),
        ("ridge", "penalty"),
        ("sme", "n_neighbors"),
    ],
)
def test_parameters_are_chosen_or_taken_as_given(sections, name, parameter):
    grid = baselines._GRIDS[name][parameter]
    tuned = BASELINES[name](sections, seed=0, n_threads=1)
    assert tuned.params[parameter] in grid
    given = {parameter: grid[0] if tuned.params[parameter] != grid[0] else grid[1]}
    other = BASELINES[name](sections, seed=0, n_threads=1, **given)
    assert other.params[parameter] == given[parameter]
    assert abs(other.values - tuned.values).max() > 1e-4


def test_the_best_on_hidden_entries_is_chosen(sections):
    tuner = baselines._Tuner(sections, 0)
    assert not (tuner.hidden & ~sections.known).any()
    np.testing.assert_array_equal(tuner.train.known, sections.known & ~tuner.hidden)
    truth = sections.renormalised(tuner.hidden)[tuner.hidden].astype(float)
    errors = {}
    for n_rings in baselines._GRIDS["neighbor_mean"]["n_rings"]:
        values = BASELINES["neighbor_mean"](tuner.train, seed=0, n_threads=1, n_rings=n_rings).values
        errors[n_rings] = np.mean((truth - values[tuner.hidden]) ** 2)
    chosen = BASELINES["neighbor_mean"](sections, seed=0, n_threads=1).params["n_rings"]
    assert errors[chosen] < 1.01 * min(errors.values())


@pytest.mark.parametrize("seed", range(20))
def test_the_search_ends_where_no_single_step_is_better(seed):
    grids = {"one": tuple(range(5)), "two": tuple(range(4))}
    place = np.random.default_rng(seed).uniform(0, 4, 2)

    def score(one, two):  # a tilted bowl
        x, y = one - place[0], two - place[1]
        return x * x + y * y + 1.2 * x * y

    found = baselines._pick(score, grids)
    for name, values in grids.items():
        assert score(**found) == min(score(**{**found, name: value}) for value in values)
    rough = np.random.default_rng(seed).random((5, 4))
    found = baselines._pick(lambda one, two: rough[one, two], grids)  # ends, whatever the scores are
    assert rough[found["one"], found["two"]] <= np.median(rough)
    assert baselines._pick(lambda one, two: np.nan, grids) == {"one": 2, "two": 2}


@pytest.mark.parametrize("seed", [0, 3])
def test_who_hides_by_the_same_seed_leaves_entries_to_choose_by(sections, seed):
    visible = sections.without(hide_detected(sections.known, 0.3, np.random.default_rng(seed)))
    hidden = baselines._Tuner(visible, seed).hidden
    assert hidden.sum() == pytest.approx(0.1 * visible.known.sum(), rel=0.25)
    # and neither does a second half repeat the first
    half, other = sections.thinned(np.random.default_rng(seed))
    again = baselines._RateTuner(half, seed).rates.counts
    left = half.counts > 0
    shares = again[left] / half.counts[left], half.counts[left] / (half.counts + other)[left]
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.2
