"""_models/completion/factor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import integrate, stats

from helpers.counts_model import COMPUTE, sections_of, synthetic, with_counts, with_silent_spots
from spared_sc._models.completion.counts import CountsModel
from spared_sc._models.completion.factor import Factor, FactorFit, FactorParams, fit_factor
from spared_sc._models.completion.variational import Rates

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def small() -> Sections:
    return sections_of(synthetic())


def extremes() -> dict[str, Sections]:
    adata = synthetic()
    counts = adata.X.toarray()
    empty = counts.copy()
    empty[[5, 70]] = 0
    mask = {"mask_var": "most"}
    adata.var["most"] = np.arange(adata.n_vars) == (counts > 0).sum(axis=0).argmax()
    with pytest.warns(UserWarning, match="2 spots have no count"):
        without_counts = with_counts(adata, empty)
    return {
        "one gene": sections_of(adata, **mask),
        "a library of one spot": sections_of(adata[:65].copy()),
        "spots without counts": sections_of(without_counts),
        "everything detected": sections_of(with_counts(adata, counts + 1)),
        "ones": sections_of(with_counts(adata, np.minimum(counts, 1))),
        "large counts": sections_of(with_counts(adata, 1e6 * counts + (counts > 0))),
    }


@pytest.mark.parametrize("name", extremes())
def test_extreme_sections(name):
    sections = extremes()[name]
    estimate = CountsModel(n_iterations=3).complete(sections, COMPUTE)
    for block in (estimate.values, estimate.rate, estimate.sd):
        assert block.shape == sections.known.shape
        assert block.dtype == np.float32
        assert np.isfinite(block).all()
    assert (estimate.rate >= 0).all()
    assert (estimate.sd > 0).all()


def test_posterior_rate_is_an_expectation_over_a_gamma_variable():
    counts = np.array([0, 0, 0, 1, 3, 12])
    rate, size = np.array([0.2, 1.5, 6.0, 0.2, 6.0, 6.0]), np.array([2.0, 0.5, 10.0, 2.0, 10.0, 1.0])
    lost = np.array([0.0, 0.2, 0.6, 0.2, 0.6, 0.0])
    rates = Rates(np.log(rate)[None], np.zeros((1, 6)), size, lost, interrupted=False)
    ours = FactorFit(rates, counts[None], np.zeros(1, dtype=bool)).posterior_rate()[0]
    for i in range(6):
        prior = stats.gamma(size[i], scale=rate[i] / size[i])

        def weighted(quantile, power, i=i, prior=prior):
            x = prior.ppf(quantile)
            return x**power * ((1 - lost[i]) * stats.poisson.pmf(counts[i], x) + lost[i] * (counts[i] == 0))

        # over the quantiles of the prior, whose density has a pole
        above, below = (integrate.quad(weighted, 0, 1, args=(power,), limit=200)[0] for power in (1, 0))
        assert ours[i] == pytest.approx(above / below, rel=1e-4)


@pytest.fixture(scope="module")
def silenced():
    return with_silent_spots()


def test_silent_spots_do_not_pull_the_count_model_to_zero(silenced):
    sections, hidden, visible = silenced
    fitted = fit_factor(visible, FactorParams(), COMPUTE)
    truth = sections.counts.values[hidden].sum()
    expected = np.exp(fitted.rates.log_rate)[visible.silent]
    assert 0.8 < expected.sum() / truth < 1.25
    np.testing.assert_allclose(fitted.posterior_rate()[visible.silent], expected, rtol=1e-6)
    sd = fitted.rates.log_rate_sd
    assert sd[visible.silent].mean() > sd[~visible.silent].mean()


def test_the_factor_method_is_the_count_model(small):
    estimate = Factor(n_iterations=4).complete(small, COMPUTE)
    fitted = fit_factor(small, FactorParams(n_iterations=4), COMPUTE)
    mean, sd = fitted.given_detection(small.count_scale())
    np.testing.assert_array_equal(estimate.values, mean)
    np.testing.assert_array_equal(estimate.sd, sd)
    np.testing.assert_array_equal(estimate.rate, fitted.posterior_rate())
    with pytest.raises(ValueError, match="'factor' needs raw counts"):
        Factor().complete(replace(small, counts=None), COMPUTE)


def test_blocks_that_nobody_wants_are_not_made(small):
    rate = Factor(n_iterations=1).complete(small, replace(COMPUTE, write=frozenset({"rate"})))
    assert rate.values is None
    assert rate.sd is None
    values = Factor(n_iterations=1).complete(small, replace(COMPUTE, write=frozenset({"completed"})))
    assert values.rate is None
    assert values.values is not None
