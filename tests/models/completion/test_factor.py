"""_models/completion/factor."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps
import torch
from scipy import integrate, stats
from scipy.sparse.csgraph import shortest_path

from helpers.completion import estimate_of
from helpers.counts_model import (
    COMPUTE,
    CPU,
    correlation_within_genes,
    resolved,
    sections_of,
    synthetic,
    with_counts,
    with_silent_spots,
)
from spared_sc._kernels import lattice as lattices
from spared_sc._models.completion import factor
from spared_sc._models.completion.counts import CountsModel
from spared_sc._models.completion.factor import Factor, FactorFit, FactorParams, fit_factor

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Sections


def likelihood_in_plain_words(log_rate, counts, size, lost):
    """Zero-inflated negative binomial."""
    rate = torch.exp(log_rate)
    log_chance = (
        torch.lgamma(counts + size)
        - torch.lgamma(size)
        - torch.lgamma(counts + 1)
        + size * torch.log(size / (size + rate))
        + torch.xlogy(counts, rate / (size + rate))
    )
    zero = torch.log(lost + (1 - lost) * torch.exp(log_chance))
    return torch.where(counts > 0, torch.log(1 - lost) + log_chance, zero).sum()


@pytest.fixture
def entries():
    """Logarithms of the rates, counts, sizes and shares lost, in double precision."""
    rng = np.random.default_rng(0)
    log_rate = rng.normal(0.5, 2.0, size=(50, 6))
    counts = rng.poisson(np.exp(log_rate))
    size, lost = rng.uniform(0.3, 30, 6), rng.uniform(0.01, 0.5, 6)
    assert 0.2 < (counts == 0).mean() < 0.8
    return [torch.tensor(part, dtype=torch.float64) for part in (log_rate, counts, size, lost)]


@pytest.mark.parametrize("chunk", [1 << 22, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_likelihood_has_the_gradient_of_autograd(entries, monkeypatch, dtype, tolerance, chunk):
    monkeypatch.setattr(factor, "_CHUNK", chunk)
    gradients = []
    for function, kind in ((likelihood_in_plain_words, torch.float64), (factor._Likelihood.apply, dtype)):
        log_rate, counts, size, lost = (part.to(kind) for part in entries)
        inputs = [part.clone().requires_grad_() for part in (log_rate, size, lost)]
        (3 * function(inputs[0], counts, inputs[1], inputs[2])).backward()
        gradients.append([part.grad.double() for part in inputs])
    for expected, ours in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * expected.abs().max().item())


def test_likelihood_differs_by_what_depends_on_rate_and_lost(entries):
    log_rate, counts, size, lost = entries
    moved = log_rate + torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)
    for other in ((moved, lost), (log_rate, lost / 2), (moved, 1 - lost)):
        expected, ours = (
            function(log_rate, counts, size, lost) - function(other[0], counts, size, other[1])
            for function in (likelihood_in_plain_words, factor._Likelihood.apply)
        )
        assert ours.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.fixture
def lattice():
    """Two libraries with gaps."""
    rng = np.random.default_rng(3)
    row, col = (index.ravel() for index in np.indices((8, 8)))
    position = np.column_stack([row, 2 * col + row % 2])
    position = np.vstack([position[rng.permutation(64)[:45]], position[rng.permutation(64)[:30]]])
    return lattices.from_array(position, np.repeat([0, 1], [45, 30]))


@pytest.mark.parametrize("band", [0.7, 1.5, 4.0])
def test_smoothing_is_a_product_with_gaussian_weights_of_unit_norm(lattice, band):
    graph = sps.csr_matrix((np.ones(lattice.indices.size), lattice.indices, lattice.indptr))
    hops = shortest_path(graph, unweighted=True)
    weights = np.where(hops <= min(np.ceil(3 * band), 8), np.exp(-(np.minimum(hops, 99) ** 2) / (2 * band**2)), 0)
    weights /= np.linalg.norm(weights, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    values, back = (torch.tensor(rng.normal(size=(75, 3)), dtype=torch.float32) for _ in range(2))
    values.requires_grad_()
    product = factor._Smooth.apply(values, *factor._Smooth.of(lattice, band, CPU))
    (product * back).sum().backward()
    np.testing.assert_allclose(product.detach(), weights @ values.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(values.grad, weights.T @ back.numpy(), atol=1e-5)


def test_a_width_of_zero_does_not_smooth(lattice):
    assert factor._Smooth.of(lattice, 0.0, CPU) is None


@pytest.fixture(scope="module")
def known_rates():
    """Thirty genes whose true rates are in `layers["rate"]`."""
    return synthetic(n_genes=30, shape=(10, 10), depth=200)


def drawn(adata, draw) -> tuple[Sections, np.ndarray]:
    """Sections with counts that `draw` makes of the true rates, and these rates."""
    adata = with_counts(adata, draw(np.random.default_rng(0), adata.layers["rate"].astype(float)))
    found = resolved(adata)
    return found.sections, adata.layers["rate"][found.order][:, found.genes].astype(float)


def test_count_model_finds_the_rates(known_rates):
    sections, true = drawn(known_rates, lambda rng, rate: rng.poisson(rate))
    fitted = fit_factor(sections, FactorParams(), device=CPU, seed=0)
    additive, kernel = (estimate_of(name, sections).rate.astype(float) for name in ("additive", "kernel"))
    ours, of_kernel, of_additive = (
        correlation_within_genes(log_rate, true, sections.library)
        for log_rate in (fitted.log_rate, np.log(kernel), np.log(additive))
    )
    assert ours > 0.85
    assert ours > of_kernel + 0.03 > of_additive + 0.3
    excess = [np.sum(rate - true * np.log(rate)) - np.sum(true - true * np.log(true)) for rate in (
        np.exp(fitted.log_rate), additive
    )]  # fmt: skip
    assert excess[0] < 0.2 * excess[1]
    assert np.exp(fitted.log_rate).sum() == pytest.approx(true.sum(), rel=0.03)


def test_count_model_tells_noise_from_overdispersion_and_from_loss(known_rates):
    def fitted(draw):
        return fit_factor(drawn(known_rates, draw)[0], FactorParams(), device=CPU, seed=0)

    plain = fitted(lambda rng, rate: rng.poisson(rate))
    wide = fitted(lambda rng, rate: rng.poisson(rate * rng.gamma(1.0, 1.0, rate.shape)))
    lossy = fitted(lambda rng, rate: rng.poisson(rate) * (rng.random(rate.shape) < 0.7))
    assert np.median(wide.size) == pytest.approx(1.0, rel=0.3)
    assert np.median(plain.size) > 10
    assert plain.lost.max() < 0.05
    assert np.median(lossy.lost) == pytest.approx(0.3, abs=0.06)


@pytest.fixture(scope="module")
def small() -> Sections:
    return sections_of(synthetic())


def test_count_model_of_one_seed(small):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    params = FactorParams(n_steps=30)
    first = fit_factor(small, params, device=CPU, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = (fit_factor(small, params, device=CPU, seed=seed) for seed in (0, 1))
    for name in ("log_rate", "size", "lost"):
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert abs(first.log_rate - other.log_rate).max() > 1e-3


def test_diverging_count_model(small, monkeypatch):
    with pytest.raises(FloatingPointError, match="diverged.*the counts hold no extreme values"):
        fit_factor(small, FactorParams(learning_rate=1e30, n_steps=20), device=CPU, seed=0)
    monkeypatch.setattr(factor, "_CHECK_EVERY", 4)
    loss, states = factor._Model.loss, []

    def poisoned(model):
        states.append(model.result())
        return loss(model) * (np.nan if len(states) > 9 else 1)

    monkeypatch.setattr(factor._Model, "loss", poisoned)
    with pytest.warns(UserWarning, match="diverged before step 12: its state at step 8 is used"):
        fitted = fit_factor(small, FactorParams(n_steps=40), device=CPU, seed=0)
    np.testing.assert_array_equal(fitted.log_rate, states[8].log_rate)


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
        "large counts": sections_of(with_counts(adata, 1e6 * counts)),
    }


@pytest.mark.parametrize("name", extremes())
def test_extreme_sections(name):
    sections = extremes()[name]
    estimate = CountsModel(n_steps=40).complete(sections, COMPUTE)
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
    ours = FactorFit(np.log(rate)[None], size, lost).posterior_rate(counts[None])[0]
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
    fitted = fit_factor(visible, FactorParams(n_steps=150), device=CPU, seed=0)
    truth = sections.counts.values[hidden].sum()
    assert 0.8 < np.exp(fitted.log_rate)[visible.silent].sum() / truth < 1.25
    rate = fitted.posterior_rate(visible.counts.values)
    np.testing.assert_allclose(rate[visible.silent], np.exp(fitted.log_rate)[visible.silent], rtol=1e-6)


def test_the_factor_method_is_the_count_model(small):
    estimate = Factor(n_steps=30, learning_rate=0.05).complete(small, COMPUTE)
    fitted = fit_factor(small, FactorParams(n_steps=30, learning_rate=0.05), device=CPU, seed=0)
    mean, sd = fitted.given_detection(small.count_scale())
    np.testing.assert_array_equal(estimate.values, mean)
    np.testing.assert_array_equal(estimate.sd, sd)
    np.testing.assert_array_equal(estimate.rate, fitted.posterior_rate(small.counts.values))
    with pytest.raises(ValueError, match="'factor' needs raw counts"):
        Factor().complete(replace(small, counts=None), COMPUTE)
