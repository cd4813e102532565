"""_models/completion/variational."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from helpers.completion import estimate_of
from helpers.counts_model import (
    CPU,
    correlation_within_genes,
    log_likelihood_in_plain_words,
    resolved,
    sections_of,
    synthetic,
    with_counts,
)
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.sections import Counts, Sections
from spared_sc._kernels.smoothing import centre_kernel
from spared_sc._kernels.threads import Workers
from spared_sc._models.completion import variational
from spared_sc._models.completion.variational import Band, FactorParams, fit_rates, n_steps

FEW = FactorParams(n_iterations=3)


def fit(sections, params=FEW, **options) -> variational.Rates:
    return fit_rates(sections, params, device=CPU, **options)


def test_conjugate_gradients_solve_the_equation(monkeypatch):
    rng = np.random.default_rng(0)
    root = rng.normal(size=(5, 5))
    matrix = torch.tensor(root @ root.T + 3 * np.eye(5))
    right = torch.tensor(rng.normal(size=5))

    def product(blocks):
        image = matrix @ torch.cat(blocks)
        return [image[:2], image[2:]]

    diagonal = torch.diagonal(matrix)
    monkeypatch.setattr(variational, "_SOLVED", 0.0)
    found = torch.cat(variational._solve(product, [right[:2], right[2:]], [diagonal[:2], diagonal[2:]]))
    np.testing.assert_allclose(found, np.linalg.solve(matrix, right), rtol=1e-9)
    assert not torch.cat(
        variational._solve(product, [0 * right[:2], 0 * right[2:]], [diagonal[:2], diagonal[2:]])
    ).any()


@pytest.fixture(scope="module")
def small() -> Sections:
    return sections_of(synthetic())


def a_model(sections, params=FEW, n_steps=6) -> variational._Model:
    model = variational._Model(sections, params, CPU, Workers(1), np.arange(sections.known.shape[1]))
    bound = model.evaluate()
    for step in range(n_steps):
        bound = model.without_vanished(model.step(step, bound))
    return model


def test_factors_are_spread_from_centres_and_gathered(small):
    model = a_model(small)
    rng = np.random.default_rng(0)
    weights = [torch.tensor(rng.normal(size=block.shape), dtype=torch.float32) for block in model.posterior.weights]
    values = torch.tensor(rng.normal(size=(len(small.known), sum(w.shape[1] for w in weights))), dtype=torch.float32)
    bands = [FEW.bands[band] for band in model.posterior.band]
    kernels = [
        np.eye(len(small.known)) if not band.width else centre_kernel(small.lattice, band.width, band.spacing).toarray()
        for band in bands
    ]
    for squared in (False, True):
        used = [kernel**2 if squared else kernel for kernel in kernels]
        expected = np.hstack([kernel @ w.numpy() for kernel, w in zip(used, weights, strict=True)])
        np.testing.assert_allclose(model.spread(weights, squared=squared), expected, atol=1e-5)
        gathered = model.gather(values, squared=squared)
        parts = np.split(values.numpy(), np.cumsum([w.shape[1] for w in weights])[:-1], axis=1)
        for found, kernel, part in zip(gathered, used, parts, strict=True):
            np.testing.assert_allclose(found, kernel.T @ part, atol=1e-4)


def test_the_lower_bound_is_that_of_draws_from_the_posterior(small):
    """The expectation of the log-likelihood by simulation, and divergences by torch."""
    model = a_model(small)
    at, counts = model.posterior, model.counts.double()
    generator = torch.Generator().manual_seed(0)

    def draw(mean, variance):
        return mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)

    values = []
    for _ in range(400):
        factors = model.spread([draw(*pair) for pair in zip(at.weights, at.weight_variances, strict=True)])
        log_rate = factors @ draw(at.loadings, at.loading_variances).T
        log_rate = log_rate + (model.log_depth + at.spot)[:, None] + (at.gene + at.library_gene)[model.library]
        entries = log_likelihood_in_plain_words(log_rate.double(), counts, at.log_size.exp(), at.lost)
        values.append(float((entries + torch.lgamma(counts + 1)).sum()))
    normal = torch.distributions.Normal
    divergence = 0.0
    for mean, variance in zip(at.weights, at.weight_variances, strict=True):
        divergence += torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, 1.0)).sum()
    posterior = normal(at.loadings, at.loading_variances.sqrt())
    prior = normal(torch.zeros_like(at.loadings), at.relevance.sqrt().expand_as(at.loadings))
    divergence += torch.distributions.kl_divergence(posterior, prior).sum()
    others = 100 * (at.spot**2).sum() + 100 * (at.library_gene**2).sum() + 5 * ((at.log_size - 2) ** 2).sum()
    others += 10 * ((torch.logit(at.lost) - torch.logit(at.lost).mean()) ** 2).sum()
    others += ((torch.logit(at.lost) + 5) ** 2).sum()
    others += (0.09 / at.relevance + at.relevance.log()).sum()
    expected = np.mean(values) - float(divergence) - float(others) / 2
    error = np.std(values) / np.sqrt(len(values))
    assert abs(model.evaluate() - expected) < 4 * error + 0.002 * model.n_entries


def test_the_lower_bound_rises(small):
    model = variational._Model(small, FactorParams(), CPU, Workers(1), np.arange(small.known.shape[1]))
    bounds = [model.evaluate()]
    for step in range(n_steps(FactorParams(), 20)):
        bounds.append(model.without_vanished(model.step(step, bounds[-1])))
    # a new factor costs what its prior says, before it pays
    assert (np.diff(bounds[1 + len(FactorParams().bands) :]) > -1e-4 * model.n_entries).all()
    assert bounds[-1] > bounds[0] + 0.01 * model.n_entries
    assert abs(bounds[-1] - bounds[-2]) < 1e-3 * model.n_entries


def test_steps_that_overshoot_are_halved(small, monkeypatch):
    model = a_model(small)
    bound, before = model.evaluate(), model.posterior
    monkeypatch.setattr(
        variational,
        "_solve",
        lambda product, right, diagonal: [50 * x / d for x, d in zip(right, diagonal, strict=True)],
    )
    assert model._move(model._gene_direction, bound) >= bound - 1e-5 * model.n_entries
    monkeypatch.setattr(variational, "_solve", lambda product, right, diagonal: [-1e3 * x for x in right])
    bound, before = model.evaluate(), model.posterior
    assert model._move(model._spot_direction, bound) == pytest.approx(bound, rel=1e-6)
    assert model.posterior is before


@pytest.fixture(scope="module")
def known_rates():
    """Thirty genes whose true rates are in `layers["rate"]`."""
    return synthetic(n_genes=30, shape=(10, 10), depth=200)


def drawn(adata, draw) -> tuple[Sections, np.ndarray]:
    """Sections with counts that `draw` makes of the true rates, and these rates."""
    adata = with_counts(adata, draw(np.random.default_rng(0), adata.layers["rate"].astype(float)))
    found = resolved(adata)
    return found.sections, adata.layers["rate"][found.order][:, found.genes].astype(float)


def test_the_rates_are_found(known_rates):
    sections, true = drawn(known_rates, lambda rng, rate: rng.poisson(rate))
    fitted = fit(sections, FactorParams())
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


def test_the_posterior_says_how_sure_it_is(known_rates):
    sections, true = drawn(known_rates, lambda rng, rate: rng.poisson(rate))
    fitted = fit(sections, FactorParams())
    mean = fitted.log_rate - fitted.log_rate_sd**2 / 2
    error = mean - np.log(true)
    error -= error.mean(axis=0)  # of the gene's mean there is no uncertainty
    assert 0.7 < np.sqrt(np.mean(error**2 / fitted.log_rate_sd**2)) < 1.5
    wide = fitted.log_rate_sd > np.quantile(fitted.log_rate_sd, 0.8)
    assert error[wide].std() > 1.2 * error[~wide].std()


def test_noise_is_told_from_overdispersion_and_from_loss(known_rates):
    def fitted(draw):
        return fit(drawn(known_rates, draw)[0], FactorParams())

    plain = fitted(lambda rng, rate: rng.poisson(rate))
    wide = fitted(lambda rng, rate: rng.poisson(rate * rng.gamma(1.0, 1.0, rate.shape)))
    lossy = fitted(lambda rng, rate: rng.poisson(rate) * (rng.random(rate.shape) < 0.7))
    assert 0.8 < np.median(wide.size) < 2.2
    assert np.median(plain.size) > 10
    assert plain.lost.max() < 0.05
    assert np.median(lossy.lost) == pytest.approx(0.3, abs=0.06)


@pytest.mark.parametrize("scattered", [False, True])
def test_a_gene_that_is_off_in_places_has_no_lost_detections_there(scattered):
    """Eight kinds of spots, in blocks or scattered, with genes that are on in one of them alone."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(24 * 24), 24)
    kind = rng.integers(8, size=576) if scattered else row // 12 * 4 + col // 6
    true = np.where(kind[:, None] == np.arange(64) % 8, 50, 0.02) * rng.gamma(20, 1 / 20, (576, 1))
    counts = rng.poisson(true).astype(np.float32)
    sections = Sections(
        values=np.log2(1 + counts),
        known=counts > 0,
        lattice=lattices.from_array(np.column_stack([row, 2 * col + row % 2]), np.zeros(576, dtype=int)),
        library=np.zeros(576, dtype=int),
        counts=Counts(counts, counts.sum(axis=1, dtype=float)),
    )
    fitted = fit(sections, FactorParams())
    off = true < 1
    assert np.exp(fitted.log_rate)[off].mean() < 3 * true[off].mean()
    assert np.exp(fitted.log_rate)[~off].mean() == pytest.approx(true[~off].mean(), rel=0.1)
    assert fitted.lost.max() < 0.1


def test_lost_detections_of_genes_that_vary_much_are_found():
    """Seven of ten detections are lost, and the counts of a gene vary so much that this could pass for dispersion."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(20 * 20), 20)
    true = 5 * np.exp(0.5 * np.sin(row[:, None] / 4 + np.arange(24))) * rng.gamma(8, 1 / 8, (400, 1))
    counts = rng.poisson(true * rng.gamma(2, 1 / 2, true.shape)).astype(np.float32)
    depth = counts.sum(axis=1, dtype=float)
    counts *= rng.random(counts.shape) < 0.3
    sections = Sections(
        values=np.log2(1 + counts),
        known=counts > 0,
        lattice=lattices.from_array(np.column_stack([row, 2 * col + row % 2]), np.zeros(400, dtype=int)),
        library=np.zeros(400, dtype=int),
        counts=Counts(counts, depth),
    )
    fitted = fit(sections, FactorParams())
    np.testing.assert_allclose(fitted.lost, 0.7, atol=0.1)
    np.testing.assert_allclose(np.median(fitted.size), 2, rtol=0.6)


def test_few_genes_without_structure():
    rng = np.random.default_rng(0)
    sections = sections_of(with_counts(synthetic(n_genes=8), rng.poisson(np.full((128, 8), 200.0))))
    fitted = fit(sections, FactorParams())
    np.testing.assert_allclose(np.exp(fitted.log_rate).mean(axis=0), 200, rtol=0.05)


def test_large_counts_are_not_cut(small):
    counts = replace(small.counts, values=small.counts.values * 1e5, depth=small.counts.depth * 1e5)
    fitted = fit(replace(small, counts=counts), FactorParams())
    assert np.exp(fitted.log_rate.astype(float)).sum() == pytest.approx(counts.values.sum(dtype=float), rel=0.1)


def test_factors_without_structure_vanish():
    """Counts that differ by depth and gene alone need no factor."""
    adata = synthetic(n_genes=30, shape=(10, 10), depth=200)
    rate = adata.X.toarray().sum(axis=1, keepdims=True) * adata.layers["rate"].mean(axis=0) / 200
    sections, _ = drawn(adata, lambda rng, _: rng.poisson(rate))
    model = a_model(sections, FactorParams(), n_steps=n_steps(FactorParams(), 20))
    assert model.posterior.loadings.shape[1] <= 4
    assert np.median(model.finish().log_rate_sd) < 0.1


def test_nothing_is_drawn_and_nothing_depends_on_threads_or_parts(small, monkeypatch):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = fit(small)
    assert torch.equal(torch.get_rng_state(), before)
    monkeypatch.setitem(variational._ENTRIES, "cpu", 20 * 30)
    in_parts = [fit(small, n_threads=n_threads) for n_threads in (1, 2, 3)]
    for name in ("log_rate", "log_rate_sd", "size", "lost"):
        for other in in_parts[1:]:
            np.testing.assert_array_equal(getattr(other, name), getattr(in_parts[0], name))
        np.testing.assert_allclose(getattr(in_parts[0], name), getattr(first, name), rtol=2e-2, atol=2e-3)


def test_the_order_of_genes_does_not_matter(small):
    order = np.random.default_rng(0).permutation(small.known.shape[1])
    counts = replace(small.counts, values=small.counts.values[:, order])
    other = replace(small, values=small.values[:, order], known=small.known[:, order], counts=counts)
    one, two = fit(small, FactorParams()), fit(other, FactorParams())
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(one.log_rate[:, order].T, two.log_rate.T, strict=True)]
    assert np.median(correlation) > 0.99


def test_counts_that_are_no_numbers(small):
    counts = replace(small.counts, values=np.full_like(small.counts.values, np.inf))
    with pytest.raises(FloatingPointError, match="diverged.*extreme values"):
        fit(replace(small, counts=counts))


def test_one_smooth_band_is_enough_for_a_fit(small):
    fitted = fit(small, FactorParams(bands=(Band(1.5, 2, 3),), n_iterations=2))
    assert np.isfinite(fitted.log_rate).all()


@pytest.fixture
def at_every_step(monkeypatch):
    """States are saved after every step, however short."""
    monkeypatch.setattr(variational, "_SAVE_EVERY", -1.0)
    monkeypatch.setattr(variational, "_CONVERGED", -np.inf)


@pytest.mark.parametrize("step", [2, 6])
def test_a_fit_that_broke_off_resumes_to_the_same_result(small, tmp_path, monkeypatch, at_every_step, step):
    expected = fit(small)
    done = variational._Model.step

    def interrupted(model, number, bound):
        if number == step:
            raise RuntimeError("a crash")
        return done(model, number, bound)

    monkeypatch.setattr(variational._Model, "step", interrupted)
    with pytest.raises(RuntimeError, match="a crash"):
        fit(small, checkpoint=tmp_path / "state")
    numbers = []

    def counted(model, number, bound):
        numbers.append(number)
        return done(model, number, bound)

    monkeypatch.setattr(variational._Model, "step", counted)
    resumed = fit(small, checkpoint=tmp_path / "state")
    assert numbers == list(range(numbers[0], n_steps(FEW, 20)))
    assert 1 <= numbers[0] <= step
    for name in ("log_rate", "log_rate_sd", "size", "lost"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(expected, name))
    numbers.clear()
    fit(small, checkpoint=tmp_path / "state")
    assert numbers == []
    for other in (FactorParams(n_iterations=4), replace(FEW, spot_precision=3.0)):
        with pytest.raises(ValueError, match="belongs to another fit: remove"):
            fit(small, other, checkpoint=tmp_path / "state")
    with pytest.raises(ValueError, match="belongs to another fit"):
        fit(small, checkpoint=tmp_path / "state", identity={"data": "others"})


def test_an_interrupt_keeps_the_fit_once_all_factors_are_there(small, tmp_path, monkeypatch, at_every_step):
    done = variational._Model._sweep

    def stop_at(step):
        sweeps = []

        def sweep(model, bound):
            sweeps.append(1)
            if len(sweeps) == step:
                raise KeyboardInterrupt
            return done(model, bound)

        monkeypatch.setattr(variational._Model, "_sweep", sweep)

    stop_at(6)  # the first step takes four
    with pytest.raises(KeyboardInterrupt):
        fit(small)
    stop_at(9)
    with pytest.warns(UserWarning, match="interrupted: its state after step 5 of 8 is used"):
        stopped = fit(small, checkpoint=tmp_path / "state")
    assert stopped.interrupted
    assert np.isfinite(stopped.log_rate).all()
    monkeypatch.setattr(variational._Model, "_sweep", done)
    finished = fit(small, checkpoint=tmp_path / "state")
    assert not finished.interrupted
    np.testing.assert_array_equal(finished.log_rate, fit(small).log_rate)


def test_every_step_is_told(small):
    steps = []
    fit(small, on_step=lambda: steps.append(1))
    assert len(steps) == n_steps(FEW, 20)


def test_genes_in_blocks_take_the_factors_of_the_others(known_rates, monkeypatch):
    sections, true = drawn(known_rates, lambda rng, rate: rng.poisson(rate))
    whole = fit(sections, FactorParams())
    monkeypatch.setattr(variational, "_SHARED_GENES", 12)
    steps = []
    blocks = fit(sections, FactorParams(), on_step=lambda: steps.append(1))
    assert len(steps) == n_steps(FactorParams(), 30) == n_steps(FactorParams(), 12) + 2
    main = np.sort(np.argsort(-sections.counts.values.sum(axis=0), kind="stable")[:12])
    counts = replace(sections.counts, values=np.ascontiguousarray(sections.counts.values[:, main]))
    few = replace(sections, values=sections.values[:, main], known=sections.known[:, main], counts=counts)
    alone = fit(few, FactorParams())
    for name in ("log_rate", "log_rate_sd", "size", "lost"):
        np.testing.assert_array_equal(getattr(blocks, name)[..., main], getattr(alone, name))
    others = np.setdiff1d(np.arange(30), main)
    found, best = (
        correlation_within_genes(rates.log_rate[:, others], true[:, others], sections.library)
        for rates in (blocks, whole)
    )
    assert found > best - 0.1
    assert np.exp(blocks.log_rate)[:, others].sum() == pytest.approx(true[:, others].sum(), rel=0.05)
