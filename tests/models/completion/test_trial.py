"""Parameters that are chosen on hidden entries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.completion import SECTIONS, estimate_of, sections_of
from spared_sc._kernels.masking import hide_detected
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import AdditiveFit, Trial, additive_values

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
    grid = COMPLETERS.load(name)().grids()[parameter]
    tuned = estimate_of(name, sections)
    assert tuned.params[parameter] in grid
    given = {parameter: grid[0] if tuned.params[parameter] != grid[0] else grid[1]}
    other = estimate_of(name, sections, **given)
    assert other.params[parameter] == given[parameter]
    assert abs(other.values - tuned.values).max() > 1e-4


def test_the_best_on_hidden_entries_is_chosen(sections):
    trial = Trial(sections, 0)
    assert not (trial.hidden & ~sections.known).any()
    np.testing.assert_array_equal(trial.train.known, sections.known & ~trial.hidden)
    truth = sections.renormalised(trial.hidden)[trial.hidden].astype(float)
    errors = {}
    for n_rings in COMPLETERS.load("neighbor_mean")().grids()["n_rings"]:
        values = estimate_of("neighbor_mean", trial.train, n_rings=n_rings).values
        errors[n_rings] = np.mean((truth - values[trial.hidden]) ** 2)
    chosen = estimate_of("neighbor_mean", sections).params["n_rings"]
    assert errors[chosen] < 1.01 * min(errors.values())


@pytest.mark.parametrize("seed", [0, 3])
def test_who_hides_by_the_same_seed_leaves_entries_to_choose_by(sections, seed):
    visible = sections.without(hide_detected(sections.known, 0.3, np.random.default_rng(seed)))
    hidden = Trial(visible, seed).hidden
    assert hidden.sum() == pytest.approx(0.1 * visible.known.sum(), rel=0.25)
    again, other = Trial(visible, seed).hidden, Trial(visible, seed + 1).hidden
    np.testing.assert_array_equal(again, hidden)
    assert (other != hidden).any()


def test_given_parameters_are_not_tuned(sections):
    trial = Trial(sections, 0)

    def never(**params):
        raise AssertionError(params)

    kernel = COMPLETERS.make("kernel", {"bandwidth": 1.2, "shrinkage": 0.7})
    assert trial.pick(kernel, never) == {"bandwidth": 1.2, "shrinkage": 0.7}
    tried = []
    half = COMPLETERS.make("kernel", {"bandwidth": 1.2})
    picked = trial.pick(half, lambda **params: tried.append(params) or trial.train.values + params["shrinkage"])
    assert {params["bandwidth"] for params in tried} == {1.2}
    assert picked["shrinkage"] in half.grids()["shrinkage"]


def test_estimates_add_to_the_additive_fit_of_the_visible_entries(sections):
    trial = Trial(sections, 0)
    fit = trial.fit
    np.testing.assert_array_equal(fit.base, additive_values(trial.train, **trial.additive))
    np.testing.assert_array_equal(fit.residual, np.where(trial.train.known, trial.train.values - fit.base, 0))
    assert not fit.residual[trial.hidden].any()
    assert trial.fit is fit
    # warm starts only save time
    fresh = AdditiveFit(trial.train, trial.additive, seed=0).diffusion(1.0)
    fit.diffusion(10.0)
    np.testing.assert_allclose(fit.diffusion(1.0), fresh, atol=0.02)
