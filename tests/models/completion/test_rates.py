"""Expected counts by simple methods, tuned on one half of the molecules."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.completion import SECTIONS, sections_of
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._models.completion.rates import _GRIDS, RateTrial, rates_of

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


def test_rates_need_counts(sections):
    assert rates_of(replace(sections, counts=None), 0) is None


def test_rates_of_gene_and_library_are_shares_of_the_depth(sections):
    rates, counts = rates_of(sections, 0), sections.counts
    share = counts.values.sum(axis=0) / counts.depth.sum()
    np.testing.assert_allclose(rates.gene(), counts.depth[:, None] * share, rtol=1e-4)
    unit = counts.depth.mean()
    for code in range(2):
        here = sections.library == code
        of_library = (counts.values[here].sum(axis=0) + 5 * unit * share) / (counts.depth[here].sum() + 5 * unit)
        np.testing.assert_allclose(rates.library()[here], counts.depth[here][:, None] * of_library, rtol=1e-4)


def test_the_other_half_is_what_the_first_does_not_have(sections):
    trial = RateTrial(sections, 0)
    half = trial.rates.counts
    np.testing.assert_array_equal(half + trial.other, sections.counts.values)
    np.testing.assert_allclose(trial.rates.depth + trial.other_depth, sections.counts.depth)
    assert trial.unit == pytest.approx(sections.counts.depth.mean())


def test_the_best_on_the_other_half_is_chosen(sections):
    trial = RateTrial(sections, 0)
    chosen = trial.all()
    assert chosen.keys() == _GRIDS.keys()
    base = trial.rates.soft_impute(**chosen["soft_impute"])
    functions = {
        "kernel": trial.rates.kernel,
        "soft_impute": trial.rates.soft_impute,
        "soft_impute_kernel": lambda **params: trial.rates.soft_impute_kernel(base, **params),
    }
    for name, rate in functions.items():

        def error(rate=rate, **params):
            return poisson_deviance(trial.other, rate(**params)).mean()

        least = error(**chosen[name])
        for parameter, values in _GRIDS[name].items():
            assert chosen[name][parameter] in values
            assert least <= min(error(**{**chosen[name], parameter: value}) for value in values)


@pytest.mark.parametrize("seed", [0, 3])
def test_a_second_half_by_the_same_seed_does_not_repeat_the_first(sections, seed):
    half, other = sections.thinned(np.random.default_rng(seed))
    again, left = RateTrial(half, seed).rates.counts, half.counts.values > 0
    shares = again[left] / half.counts.values[left], half.counts.values[left] / (half.counts.values + other)[left]
    assert abs(np.corrcoef(*shares)[0, 1]) < 0.2
