"""The default completer and its parts: count model, moments, stack and network, what they may see, what they write."""

from __future__ import annotations

import hashlib
import json
import pickle
from dataclasses import replace
from typing import TYPE_CHECKING

import anndata as ad
import numba
import numpy as np
import pytest
import scipy.sparse as sps
import torch
from scipy import integrate, stats
from scipy.sparse.csgraph import shortest_path

import spared_sc as sp
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._models import checkpoint, training
from spared_sc._models.completion import factor, residual
from spared_sc._models.completion.factor import FactorFit, FactorParams, fit_factor
from spared_sc.tl import _completers
from spared_sc.tl._sections import resolve

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Sections

CPU = torch.device("cpu")
KEYS = {"library_key": "library_id"}
QUICK = {**KEYS, "n_steps": 4, "device": "cpu", "copy": True}
HOW = {"device": CPU, "seed": 0, "show_progress_bar": False}
LAYERS = ("spackle", "spackle_rate", "spackle_sd")


@pytest.fixture(autouse=True)
def _one_torch_thread():
    """Networks this small lose time to threads."""
    numba.get_num_threads()  # starts numba's threads, which sets the number of OpenMP threads for torch as well
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


def synthetic(n_libraries=2, n_genes=20, shape=(8, 8), depth=100, **options) -> ad.AnnData:
    """Sections with TPM; every gene is completed, unless a mask says otherwise."""
    adata = sp.datasets.synthetic(n_libraries, n_genes, shape=shape, depth=depth, image=False, **options)
    sp.pp.normalize_tpm(adata)
    return adata


def resolved(adata, **options):
    return resolve(adata, **{"layer": "log2tpm", "mask_var": None, "spatial_key": "spatial", **KEYS, **options})


def sections_of(adata, **options) -> Sections:
    return resolved(adata, **options).sections


def with_counts(adata, counts) -> ad.AnnData:
    """The same spots with other counts, and TPM of these."""
    adata = adata.copy()
    adata.X = sps.csr_matrix(counts, dtype=np.float32)
    for layer in ("log2tpm", "detected"):
        adata.layers.pop(layer, None)
    sp.pp.normalize_tpm(adata)
    return adata


@pytest.fixture(scope="module")
def made() -> ad.AnnData:
    return synthetic()


@pytest.fixture
def adata(made) -> ad.AnnData:
    """Two small libraries; about a third of the entries is not detected."""
    return made.copy()


def complete(adata, **options) -> ad.AnnData:
    return sp.tl.spackle_complete(adata, **{**QUICK, **options})


# --- moments of a truncated count --------------------------------------------------------------------------------------

RATES = np.array([1e-4, 0.03, 1.0, 7.0, 60.0, 299.9, 300.1, 2e3, 1e4])
SIZES = np.array([0.3, 1.0, 4.0, 50.0, 1e4, 1e6, np.inf])


def moments_by_summation(rate: float, size: float, scale: float) -> tuple[float, float]:
    law = stats.poisson(rate) if np.isinf(size) else stats.nbinom(size, size / (size + rate))
    count = np.arange(1, int(law.isf(1e-13)) + 30)
    chance = law.pmf(count)
    value = np.log2(1 + scale * count)
    mean = chance @ value / chance.sum()
    return mean, np.sqrt(chance @ (value - mean) ** 2 / chance.sum())


@pytest.mark.parametrize("scale", [0.01, 1.0, 300.0])
def test_moments_of_a_truncated_count_are_sums_over_counts(scale):
    rate = np.repeat(RATES[:, None], len(SIZES), axis=1)
    ours = truncated_moments(rate, SIZES, np.full(rate.shape, scale))
    expected = np.array([[moments_by_summation(r, size, scale) for size in SIZES] for r in RATES])
    np.testing.assert_allclose(ours[0], expected[:, :, 0], rtol=0, atol=1e-3)
    np.testing.assert_allclose(ours[1], expected[:, :, 1], rtol=0, atol=1e-3)
    assert all(block.dtype == np.float32 for block in ours)


def test_moments_do_not_jump_where_the_summation_changes():
    size = np.array([0.2, 0.3, 1.0, 5.0, 1e3, np.inf])
    rate = np.repeat(300 * (1 + 1e-7 * np.array([-1, 1]))[:, None], len(size), axis=1)
    rate[:, 0] /= 1.5  # of this small size the change comes earlier
    for block in truncated_moments(rate, size, np.full(rate.shape, 0.3)):
        np.testing.assert_allclose(block[0], block[1], rtol=0, atol=2e-4)


# --- likelihood ----------------------------------------------------------------------------------------------------------


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


# --- smoothing -----------------------------------------------------------------------------------------------------------


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


# --- count model -----------------------------------------------------------------------------------------------------------


def correlation_within_genes(log_rate, true_rate, library) -> float:
    """Mean over libraries and genes of the correlation over the spots, without what the depth of the spots makes."""

    def centred(x):
        x = x - np.log(true_rate.sum(axis=1, keepdims=True))
        x = x - np.array([x[library == code].mean(axis=0) for code in range(library.max() + 1)])[library]
        return x

    one, other = centred(log_rate), centred(np.log(true_rate))
    return float(np.mean((one * other).sum(axis=0) / np.sqrt((one**2).sum(axis=0) * (other**2).sum(axis=0))))


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
    additive, kernel = (
        _completers.complete(name, sections, _completers.Run()).rate.astype(float) for name in ("additive", "kernel")
    )
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
    with pytest.raises(FloatingPointError, match="diverged in its first steps: check that the counts hold no extreme"):
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
    params = residual.ResidualParams(n_steps=10, factor=FactorParams(n_steps=40))
    estimate = residual.complete_residual(residual.fit_residual(sections, params, **HOW), sections, **HOW)
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


# --- sections --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hidden(small) -> np.ndarray:
    return hide_detected(small.known, 0.3, np.random.default_rng(0))


def test_hidden_entries_leave_no_trace(adata, hidden):
    """Whatever a hidden entry held: what is left is the same."""
    found = resolved(adata)
    place = np.zeros(adata.shape, dtype=bool)
    place[np.ix_(found.order, found.genes)] = hidden
    counts = adata.X.toarray()
    other = with_counts(adata, np.where(place, 7 * counts + 3, counts))
    one, two = (sections.without(hidden) for sections in (found.sections, sections_of(other)))
    np.testing.assert_array_equal(one.known, two.known)
    np.testing.assert_array_equal(one.counts, two.counts)
    np.testing.assert_array_equal(one.depth, two.depth)
    np.testing.assert_allclose(one.values, two.values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.count_scale(), two.count_scale(), rtol=1e-4)
    # and it is what a section without these molecules is
    alone = sections_of(with_counts(adata, np.where(place, 0, counts)))
    np.testing.assert_allclose(one.values, alone.values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.counts, alone.counts)
    np.testing.assert_array_equal(one.depth, alone.depth)
    # the truth is in the unit of what is left: that of a count
    truth = found.sections.renormalised(hidden)
    scale = np.expm1(truth[hidden] * np.log(2)) / found.sections.counts[hidden]
    np.testing.assert_allclose(scale, one.count_scale()[hidden], rtol=1e-3)
    np.testing.assert_array_equal(truth[one.known], one.values[one.known])


def test_hiding_without_counts_or_of_another_layer_leaves_the_rest_as_it_is(adata, hidden):
    adata.layers["centred"] = adata.layers["log2tpm"].toarray() - 14
    for sections in (
        replace(sections_of(adata), counts=None, depth=None, total=None),
        sections_of(adata, layer="centred"),
    ):
        left = sections.without(hidden)
        np.testing.assert_array_equal(left.values[left.known], sections.values[left.known])
        np.testing.assert_array_equal(sections.renormalised(hidden), sections.values)
        assert not left.values[hidden].any()
        assert not left.known[hidden].any()
        assert left.known.sum() == sections.known.sum() - hidden.sum()


def test_a_spot_that_is_hidden_as_a_whole_keeps_its_unit(small):
    hidden = np.zeros_like(small.known)
    hidden[[4, 100]] = small.known[[4, 100]]
    np.testing.assert_allclose(small.renormalised(hidden), small.values, atol=1e-5)
    assert not small.without(hidden).depth[[4, 100]].any()


def test_some_spots_of_sections(small):
    spots = np.flatnonzero(small.library == 1)
    part = small.of_spots(spots)
    for name in ("values", "known", "counts", "depth", "total"):
        np.testing.assert_array_equal(getattr(part, name), getattr(small, name)[spots])
    assert part.n_libraries == 1
    hops = [small.lattice.hops(1), part.lattice.hops(1)]
    neighbours = [[set(i[p[s] : p[s + 1]].tolist()) for s in range(len(p) - 1)] for p, i, _ in hops]
    assert [{int(np.flatnonzero(spots == n)[0]) for n in neighbours[0][s]} for s in spots] == neighbours[1]


def test_count_scale_of_tpm_is_exact(adata, small):
    found = resolved(adata)
    length, counts = adata.var["gene_length"].to_numpy(), adata.X.toarray()
    per_spot = 1e6 / (counts / length).sum(axis=1, keepdims=True)
    expected = (per_spot / length)[found.order][:, found.genes]
    np.testing.assert_allclose(small.count_scale(), expected, rtol=1e-3)
    # a gene and a spot of which nothing is known have a typical one
    blind = small.known.copy()
    blind[1:, 1:] = False
    scale = small.without(blind & small.known).count_scale()
    assert np.isfinite(scale).all()
    assert (scale > 0).all()


@pytest.mark.parametrize("layer", ["cpm", "huge", "negative", "zero"])
def test_count_scale_of_what_is_no_logarithm_is_finite(adata, layer):
    counts = adata.X.toarray()
    cpm = 1e6 * counts / counts.sum(axis=1, keepdims=True)
    adata.layers["layer"] = {"cpm": cpm, "huge": 1e30 * counts, "negative": -cpm, "zero": 0 * cpm}[layer]
    sections = sections_of(adata, layer="layer")
    assert (sections.total is None) == (layer != "zero")
    for part in (sections, sections.thinned(np.random.default_rng(0))[0]):
        scale = part.count_scale()
        assert np.isfinite(scale).all()
        assert (scale > 0).all()


def test_thinned_halves(adata, small):
    counts = small.counts
    halves = [small.thinned(np.random.default_rng(seed)) for seed in range(200)]
    for half, other in halves[:3]:
        np.testing.assert_array_equal(half.counts + other, counts)
        np.testing.assert_array_equal(half.known, half.counts > 0)
        assert (half.counts % 1 == 0).all()
        assert (half.depth >= half.counts.sum(axis=1)).all()
    mean = np.mean([half.counts for half, _ in halves], axis=0)
    variance = np.var([half.counts for half, _ in halves], axis=0)
    z = (mean - counts / 2)[counts > 0] / np.sqrt(counts[counts > 0] / 4 / 200)
    assert abs(z).max() < 5
    assert z.var() == pytest.approx(1, abs=0.1)
    assert variance.sum() == pytest.approx(counts.sum() / 4, rel=0.03)
    # values are TPM of the half, up to what lengths make of its total
    half = halves[0][0]
    length = adata.var["gene_length"].to_numpy()
    found = resolved(adata)
    full = adata.X.toarray()[found.order]
    scale = 1e6 / (full / length).sum(axis=1) * full.sum(axis=1) / half.depth
    expected = np.log2(1 + half.counts * (scale[:, None] / length)[:, found.genes])
    np.testing.assert_allclose(half.values, expected, rtol=0, atol=1e-4)


# --- what the stack and the network may see ---------------------------------------------------------------------------------

TINY = residual.ResidualParams(n_steps=20, factor=FactorParams(n_steps=8))


def pairs_of(sections, tuned, monkeypatch):
    """Features and targets, by entry; parameters of the simple estimates are given."""
    monkeypatch.setattr(residual, "tune_all", lambda *args: tuned)
    columns, target, names, _ = residual._pairs(sections, TINY, CPU, 0, False, None, {})
    return columns, target, names


@pytest.mark.parametrize("with_counts_too", [False, True])
def test_estimates_of_an_entry_do_not_know_it(adata, small, monkeypatch, with_counts_too):
    sections = small if with_counts_too else replace(small, counts=None, depth=None, total=None)
    tuned = residual.tune_all(sections, 0)
    columns, target, names = pairs_of(sections, tuned, monkeypatch)
    assert ("factor" in names) == with_counts_too
    rows, genes = np.nonzero(sections.known)
    assert len(rows) == len(target)
    for entry in (3, len(rows) // 2):
        spot, gene = rows[entry], genes[entry]
        if with_counts_too:
            found = resolved(adata)
            counts = adata.X.toarray()
            counts[found.order[spot], found.genes[gene]] += 20
            other = sections_of(with_counts(adata, counts))
        else:
            values = sections.values.copy()
            values[spot, gene] += 3
            other = replace(sections, values=values)
        changed, new_target, _ = pairs_of(other, tuned, monkeypatch)
        assert new_target[entry] > target[entry] + 0.5
        tolerance = 1e-3 if with_counts_too else 0  # values of the others are rounded anew
        np.testing.assert_allclose(changed[entry], columns[entry], rtol=0, atol=tolerance)
        assert abs(changed - columns).max() > 0.01  # others do see it


def test_estimates_of_hidden_entries_do_not_know_them(adata, hidden):
    """The whole fit, the choice of all parameters included."""
    found = resolved(adata)
    place = np.zeros(adata.shape, dtype=bool)
    place[np.ix_(found.order, found.genes)] = hidden
    other = with_counts(adata, np.where(place, adata.X.toarray() + 5, adata.X.toarray()))
    estimates = []
    for sections in (found.sections, sections_of(other)):
        visible = sections.without(hidden)
        visible = replace(visible, values=visible.values.round(3))  # the rounding of float32 must not decide
        fitted = residual.fit_residual(visible, TINY, **HOW)
        estimates.append(residual.complete_residual(fitted, visible, **HOW))
    for name in ("values", "rate", "sd"):
        one, two = (getattr(estimate, name) for estimate in estimates)
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


def test_score_is_of_entries_that_nothing_learned_from(small, monkeypatch):
    """A tenth of the pairs: other targets there change the score and nothing else."""
    columns, target, names, tuned = residual._pairs(small, TINY, CPU, 0, False, None, {})
    part = np.random.default_rng([0, 2]).choice(3, size=len(target), p=[0.8, 0.1, 0.1])

    def fit(target):
        monkeypatch.setattr(residual, "_pairs", lambda *args: (columns, target, names, tuned))
        return residual.fit_residual(small, TINY, **HOW)

    expected = fit(target)
    assert expected.score["n_entries"] == (part == 2).sum() == pytest.approx(0.1 * len(target), rel=0.3)
    other = fit(np.where(part == 2, target + 1, target))
    np.testing.assert_array_equal(other.stack, expected.stack)
    assert other.fit.train_mse == expected.fit.train_mse
    assert other.fit.validation_mse == expected.fit.validation_mse
    assert all(other.score[name] != expected.score[name] for name in expected.score if name != "n_entries")
    for name in ("additive", "factor"):
        error = (columns[:, names.index(name)] - target)[part == 2].astype(float)
        assert expected.score[name] == pytest.approx(np.mean(error**2), rel=1e-5)
    other = fit(np.where(part == 1, target + 1, target))
    np.testing.assert_array_equal(other.stack, expected.stack)
    assert other.fit.train_mse == expected.fit.train_mse
    assert other.fit.validation_mse != expected.fit.validation_mse
    other = fit(np.where(part == 0, target + 1, target))
    assert other.stack[0] == pytest.approx(expected.stack[0] + 1, abs=0.01)


# --- how good it is, where the truth is known -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def full_fit():
    """Sections, hidden entries, and what the default makes of the rest."""
    torch.set_num_threads(1)
    adata = synthetic(n_genes=30, shape=(11, 11), depth=150, random_state=2)
    found = resolved(adata)
    hidden = hide_detected(found.sections.known, 0.2, np.random.default_rng(1))
    visible = found.sections.without(hidden)
    run = _completers.make_run(0, device="cpu", show_progress_bar=False)
    true = adata.layers["rate"][found.order][:, found.genes].astype(float)
    return found.sections, hidden, _completers.complete("residual", visible, run), true


@pytest.mark.slow
def test_hidden_entries_are_estimated_better_than_by_simple_means_and_no_better_than_possible(full_fit):
    sections, hidden, estimate, true = full_fit
    truth, visible = sections.renormalised(hidden)[hidden], sections.without(hidden)

    def error(values):
        return np.mean((values[hidden] - truth) ** 2)

    others = {
        name: error(_completers.complete(name, visible, _completers.Run()).values)
        for name in ("gene_mean", "additive", "kernel", "soft_impute_kernel")
    }
    best, _ = truncated_moments(true, np.full(true.shape[1], np.inf), visible.count_scale())
    assert error(estimate.values) < 0.95 * min(others.values())
    assert error(estimate.values) < 0.6 * others["gene_mean"]
    assert error(estimate.values) > error(best)


@pytest.mark.slow
def test_standard_deviations_are_those_of_the_errors(full_fit):
    sections, hidden, estimate, _ = full_fit
    error = (sections.renormalised(hidden) - estimate.values)[hidden]
    sd = estimate.sd[hidden]
    z = error / sd
    assert 0.8 < z.var() < 1.25
    assert abs(z.mean()) < 0.15
    # entries that are said to be less certain are
    wide = sd > np.median(sd)
    assert error[wide].std() > 1.2 * error[~wide].std()


@pytest.mark.slow
def test_expected_counts_are_calibrated(full_fit):
    sections, _, _, true = full_fit
    half, other = sections.thinned(np.random.default_rng(5))
    run = _completers.make_run(0, device="cpu", show_progress_bar=False)
    rate = _completers.complete("residual", half, run).rate
    assert rate.sum() == pytest.approx(half.counts.sum(), rel=0.05)
    expected = rate * (sections.depth / half.depth - 1)[:, None]
    assert 0.9 < other.sum() / expected.sum() < 1.1
    third = np.digitize(rate, np.quantile(rate, [1 / 3, 2 / 3]))
    for i in range(3):
        assert 0.85 < other[third == i].sum() / expected[third == i].sum() < 1.15
    # zeros count: it is the rate and not the expression given detection
    ours = correlation_within_genes(np.log(rate), true, sections.library)
    kernel = _completers.complete("kernel", half, _completers.Run()).rate
    assert ours > correlation_within_genes(np.log(kernel), true, sections.library) > 0.5


# --- through the public function --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray])
def test_layers_that_are_written(adata, container):
    adata.layers["log2tpm"] = container(adata.layers["log2tpm"].toarray())
    adata.var["mine"] = np.arange(adata.n_vars) % 2 == 0
    mine, counts = adata.var["mine"].to_numpy(), adata.X.toarray()
    result = complete(adata, mask_var="mine")
    assert set(result.layers) - set(adata.layers) == set(LAYERS)
    values, rate, sd = (dense(result.layers[name]) for name in LAYERS)
    detected = counts > 0
    before = dense(adata.layers["log2tpm"])
    np.testing.assert_array_equal(result.X.toarray(), counts)
    np.testing.assert_array_equal(values[detected], before[detected])
    np.testing.assert_array_equal(values[:, ~mine], before[:, ~mine])
    np.testing.assert_array_equal(rate[:, ~mine], counts[:, ~mine])
    assert not sd[:, ~mine].any()
    assert not sd[detected].any()
    filled = ~detected & mine
    assert filled.sum() > 100
    assert (values[filled] > 0).all()
    assert (sd[filled] > 0).all()
    assert (rate[:, mine] > 0).all()
    for name in ("spackle", "spackle_sd"):
        assert sps.issparse(result.layers[name]) == (container is sps.csr_matrix)
    assert sps.issparse(result.layers["spackle_rate"])
    record = result.uns["spared_sc"]["spackle"]
    assert record["params"]["model"] == "residual"
    assert record["params"]["fitted"] == "here"
    assert record["genes"].tolist() == adata.var_names[mine].tolist()
    assert record["n_parameters"] > 1000
    assert record["training"]["step"].tolist() == [4]
    assert {"residual", "stack", "factor", "additive", "n_entries"} <= record["score"].keys()
    assert record["tuned"].keys() >= {"additive", "soft_impute", "ridge"}


def test_hyperparameters_are_recorded_and_have_their_say(adata):
    given = {"n_steps": 6, "dropout": 0.3, "train_batch_size": 64, "learning_rate": 0.01, "patience": 3}
    result, plain = complete(adata, **given), complete(adata, n_steps=6)
    ours, default = (a.uns["spared_sc"]["spackle"]["hyperparameters"] for a in (result, plain))
    assert {name: ours[name] for name in given} == given
    assert ours["factor"]["n_steps"] == default["factor"]["n_steps"] == 6
    assert default["train_batch_size"] == 2048
    assert abs(result.layers["spackle"] - plain.layers["spackle"]).max() > 1e-4


@pytest.mark.parametrize("name", ["n_rings", "mask_share", "precomplete", "loss", "n_layers", "n_heads", "feedforward"])
def test_parameters_of_the_other_model_are_refused(adata, name):
    value = {"mask_share": 0.3, "precomplete": True, "loss": "all"}.get(name, 1)
    with pytest.raises(ValueError, match=f"'{name}' only concern model='paper': leave them out, or pass that model"):
        sp.tl.spackle_complete(adata, **KEYS, **{name: value})
    assert "spackle" not in adata.layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": "search"}, "learning_rate='search'"),
        ({"learning_rate": 0}, "learning_rate=0 cannot"),
        ({"dropout": 1}, "dropout=1 cannot"),
        ({"patience": 0}, "patience=0 cannot"),
        ({"train_batch_size": 2.5}, "train_batch_size=2.5 cannot"),
        ({"n_steps": 0}, "n_steps=0 cannot"),
    ],
)
def test_parameters_out_of_range(adata, options, message):
    with pytest.raises(ValueError, match=message):
        sp.tl.spackle_complete(adata, **KEYS, **options)


@pytest.mark.parametrize("suffix", ["", "_rate", "_sd"])
def test_layers_of_the_user_are_not_overwritten(adata, suffix):
    adata.layers[f"mine{suffix}"] = adata.X.copy()
    with pytest.raises(ValueError, match=f'layers\\["mine{suffix}"\\] exists and was not written by spared_sc'):
        complete(adata, key_added="mine")


def test_one_seed_gives_one_result_whatever_the_order_of_spots_and_libraries(adata):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    expected, other = (complete(adata, random_state=seed) for seed in (0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    rng = np.random.default_rng(0)
    shuffled = adata[rng.permutation(adata.n_obs)].copy()
    shuffled.obs["library_id"] = shuffled.obs["library_id"].cat.reorder_categories(["library_2", "library_1"])
    for result in (complete(adata), complete(shuffled)[adata.obs_names]):
        for name in LAYERS:
            np.testing.assert_array_equal(dense(result.layers[name]), dense(expected.layers[name]))
        assert result.uns["spared_sc"]["spackle"]["score"] == expected.uns["spared_sc"]["spackle"]["score"]
    for name in LAYERS:
        assert abs(other.layers[name] - expected.layers[name]).max() > 1e-4


def test_without_counts_there_are_no_rates(adata):
    adata.layers["detected"] = adata.X > 0
    adata.X = None
    result = complete(adata)
    assert set(result.layers) - set(adata.layers) == {"spackle", "spackle_sd"}
    detected = dense(adata.layers["detected"])
    values, sd = (dense(result.layers[name]) for name in ("spackle", "spackle_sd"))
    np.testing.assert_array_equal(values[detected], dense(adata.layers["log2tpm"])[detected])
    assert (values[~detected] > 0).all()
    assert (sd[~detected] > 0).all()
    assert "factor" not in result.uns["spared_sc"]["spackle"]["score"]


def other_layer(adata, name) -> np.ndarray:
    counts = adata.X.toarray()
    if name == "log1p":
        return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    if name == "centred":
        values = adata.layers["log2tpm"].toarray()
        return np.where(counts > 0, values - 15, 0)
    if name == "combat":
        sp.pp.combat(adata, **KEYS)
        return np.where(counts > 0, dense(adata.layers["log2tpm_combat"]) - 14, 0)
    return 1e4 * counts / counts.sum(axis=1, keepdims=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["log1p", "centred", "combat", "cp10k"])
def test_any_layer_can_be_completed(name):
    adata = synthetic(n_genes=24, shape=(9, 9), depth=200)
    values = other_layer(adata, name)
    if name in ("centred", "combat"):
        assert (values < 0).any()
    hidden = hide_detected(adata.X.toarray() > 0, 0.2, np.random.default_rng(0))
    visible = np.where(hidden, 0, adata.X.toarray())
    given = ad.AnnData(sps.csr_matrix(visible), obs=adata.obs, var=adata.var[[]])
    given.layers["mine"] = np.where(hidden, 0, values).astype(np.float32)
    result = complete(given, layer="mine", n_steps=200)
    filled = result.layers["spackle"]
    assert filled.dtype == np.float32
    assert all(np.isfinite(dense(result.layers[layer])).all() for layer in LAYERS)
    np.testing.assert_array_equal(filled[visible > 0], given.layers["mine"][visible > 0])
    mean = given.layers["mine"].sum(axis=0) / (visible > 0).sum(axis=0)
    truth = values[hidden]
    assert np.mean((filled[hidden] - truth) ** 2) < 0.8 * np.mean(
        (np.tile(mean, (len(values), 1))[hidden] - truth) ** 2
    )


def test_values_too_large_to_compute_with(adata):
    adata.layers["huge"] = adata.layers["log2tpm"] * np.float32(1e30)
    with pytest.raises(FloatingPointError, match="check that the layer holds no extreme values"):
        complete(adata, layer="huge")


def test_too_few_detected_entries(adata):
    with pytest.raises(ValueError, match=r"too few detected entries to hold any out \(\d+ in 3 spots\)"):
        with pytest.warns(UserWarning, match="detected in no spot to learn from"):
            complete(adata[:3].copy())


# --- splits -----------------------------------------------------------------------------------------------------------------


def test_train_libraries_learn_from_nobody_else():
    adata = synthetic(n_libraries=4, n_genes=16, shape=(6, 6))
    names = dict(zip(adata.obs["library_id"].cat.categories, ["train", "val", "train", "test"], strict=True))
    adata.obs["split"] = adata.obs["library_id"].map(names).astype(str)
    rows = {name: (adata.obs["split"] == name).to_numpy() for name in ("train", "val", "test")}
    expected = complete(adata, n_steps=8)
    for name in LAYERS:
        values = dense(expected.layers[name])
        assert np.isfinite(values).all()
        for here in rows.values():
            zero = dense(adata.X)[here] == 0
            assert (values[here][zero] > 0).all()

    def after_a_change(split, **options) -> ad.AnnData:
        counts = adata.X.toarray()
        counts[rows[split]] = counts[rows[split]][:, ::-1] + 2 * (counts[rows[split]][:, ::-1] > 0)
        return complete(with_counts(adata, counts), n_steps=8, **options)

    def differs(one, other, split) -> bool:
        changed = {
            bool((dense(one.layers[name])[rows[split]] != dense(other.layers[name])[rows[split]]).any())
            for name in LAYERS
        }
        assert len(changed) == 1
        return changed.pop()

    for split, same in (("test", ("train", "val")), ("val", ("train", "test"))):
        result = after_a_change(split)
        for name in rows:
            assert differs(result, expected, name) == (name not in same)
        one, other = (a.uns["spared_sc"]["spackle"] for a in (result, expected))
        assert one["score"] == other["score"]
        assert one["data"] == other["data"]
    result = after_a_change("train")
    assert all(differs(result, expected, name) for name in rows)
    # without the split they do
    assert differs(after_a_change("test", split_key=None), complete(adata, n_steps=8, split_key=None), "train")


def test_a_gene_that_train_libraries_did_not_detect_stays(adata):
    adata.obs["split"] = adata.obs["library_id"].map({"library_1": "train", "library_2": "test"}).astype(str)
    counts = adata.X.toarray()
    counts[(adata.obs["split"] == "train").to_numpy(), 0] = 0
    counts[-1, 0] = 1
    adata = with_counts(adata, counts)
    with pytest.warns(
        UserWarning, match="1 genes are detected in no spot to learn from and stay as they are .*Gene001"
    ):
        result = complete(adata)
    for name in ("spackle", "spackle_rate"):
        before = adata.layers["log2tpm"] if name == "spackle" else adata.X
        np.testing.assert_array_equal(dense(result.layers[name])[:, 0], dense(before)[:, 0])


# --- checkpoints --------------------------------------------------------------------------------------------------------------


def fitted_arrays(fitted) -> list[np.ndarray]:
    return [fitted.stack, fitted.center, fitted.spread, *(w.numpy() for w in fitted.network.state_dict().values())]


def test_a_fit_that_broke_off_resumes_to_the_same_result(small, tmp_path, monkeypatch):
    params = replace(TINY, n_steps=200, patience=200)
    expected = residual.fit_residual(small, params, **HOW)
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    folder, draw = tmp_path / "state", torch.randint

    def interrupted_at(step):
        calls = []

        def randint(*args, **kwargs):
            calls.append(1)
            if len(calls) == step:
                raise KeyboardInterrupt
            return draw(*args, **kwargs)

        monkeypatch.setattr(torch, "randint", randint)
        return calls

    interrupted_at(1)  # after the cross-fitted estimates, before the network's first step
    with pytest.raises(KeyboardInterrupt):
        residual.fit_residual(small, params, **HOW, checkpoint=folder)
    monkeypatch.setattr(residual, "cross_fit", None)  # estimates are not made again
    monkeypatch.setattr(residual, "tune_all", None)
    interrupted_at(70)
    with pytest.warns(UserWarning, match="training interrupted after step 50"):
        broken = residual.fit_residual(small, params, **HOW, checkpoint=folder)
    assert broken.fit.stopped == "interrupted"
    calls = interrupted_at(0)
    resumed = residual.fit_residual(small, params, **HOW, checkpoint=folder)
    assert len(calls) == 150
    for one, other in zip(fitted_arrays(resumed), fitted_arrays(expected), strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed.score == expected.score
    assert resumed.tuned == expected.tuned
    assert resumed.fit == expected.fit


def test_an_interrupted_completion_uses_the_best_network(adata, monkeypatch):
    draw, calls = torch.randint, []

    def randint(*args, **kwargs):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(torch, "randint", randint)
    with pytest.warns(UserWarning, match="training interrupted after step 50"):
        result = complete(adata, n_steps=70)
    assert result.uns["spared_sc"]["spackle"]["training"]["stopped"] == "interrupted"
    assert np.isfinite(dense(result.layers["spackle"])).all()


def test_the_public_checkpoint_gives_the_same_layers_and_is_refused_elsewhere(adata, tmp_path, monkeypatch):
    options = {"n_steps": 6, "checkpoint": tmp_path / "state"}
    expected = complete(adata, **options)
    estimates = residual.cross_fit
    monkeypatch.setattr(residual, "cross_fit", None)
    again = complete(adata, **options)
    for name in LAYERS:
        np.testing.assert_array_equal(dense(again.layers[name]), dense(expected.layers[name]))
    monkeypatch.setattr(residual, "cross_fit", estimates)
    other = with_counts(adata, adata.X.toarray() + 1)
    for data, change in ((adata, {"random_state": 1}), (adata, {"dropout": 0.2}), (other, {})):
        with pytest.raises(ValueError, match="belongs to another fit: remove that folder, or choose another one"):
            complete(data, **options, **change)
    weights = next((tmp_path / "state" / "estimates").glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-50])
    with pytest.raises(ValueError, match="damaged or cut short"):
        complete(adata, **options)


# --- saved models ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model fitted on two libraries, these with their layers, and a third library."""
    adata = synthetic(n_libraries=3)
    last = (adata.obs["library_id"] == "library_3").to_numpy()
    folder = tmp_path_factory.mktemp("models") / "residual"
    two = complete(adata[~last].copy(), save_model=folder)
    return folder, two, adata[last].copy()


def load(adata, folder, **options) -> ad.AnnData:
    return sp.tl.spackle_complete(adata, **{**KEYS, "model": folder, "device": "cpu", "copy": True, **options})


def test_a_saved_model_gives_the_same_layers(saved):
    folder, two, _ = saved
    for model in (folder, str(folder)):
        again = load(two, model)
        for name in LAYERS:
            np.testing.assert_array_equal(dense(again.layers[name]), dense(two.layers[name]))
    record, before = (a.uns["spared_sc"]["spackle"] for a in (again, two))
    assert record["params"]["model"] == "residual"
    assert record["params"]["fitted"] == "before"
    assert record["data"] == before["data"]
    assert record["n_parameters"] == before["n_parameters"] - len(residual_stack(folder))
    assert "score" not in record


def residual_stack(folder) -> np.ndarray:
    return checkpoint.load(folder, "residual")[0]["stack"]


def test_a_new_section_in_any_order_of_spots_and_genes(saved):
    folder, _, new = saved
    rng = np.random.default_rng(0)
    expected = load(new, folder)
    result = load(new[rng.permutation(new.n_obs), rng.permutation(new.n_vars)].copy(), folder)
    for name in LAYERS:
        values = dense(expected.layers[name])
        assert np.isfinite(values).all()
        np.testing.assert_array_equal(dense(result[new.obs_names, new.var_names].layers[name]), values)
    assert (dense(expected.layers["spackle"]) > 0).all()


def test_missing_genes_count_as_undetected(saved):
    folder, two, new = saved
    genes = two.uns["spared_sc"]["spackle"]["genes"]
    assert len(genes) == 20
    without = new[:, ~new.var_names.isin(genes[:2])].copy()
    with pytest.warns(UserWarning, match="2 of the model's 20 genes are missing .* count as undetected"):
        result = load(without, folder)
    blank = new.copy()
    at = blank.var_names.get_indexer(genes[:2])
    for name in ("X", "log2tpm"):
        matrix = dense(blank.X if name == "X" else blank.layers[name]).copy()
        matrix[:, at] = 0
        if name == "X":
            blank.X = sps.csr_matrix(matrix)
        else:
            blank.layers[name] = sps.csr_matrix(matrix)
    expected = load(blank, folder)[:, without.var_names]
    for name in LAYERS:
        np.testing.assert_allclose(dense(result.layers[name]), dense(expected.layers[name]), rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="3 of the model's 20 genes are missing .* fit a model to these data"):
        load(new[:, ~new.var_names.isin(genes[:3])].copy(), folder)


def test_a_model_of_counts_needs_counts_and_the_other_way_round(saved, tmp_path):
    folder, two, new = saved
    blind = new.copy()
    blind.layers["detected"] = blind.X > 0
    blind.X = None
    with pytest.raises(ValueError, match="fitted with raw counts, and these data have none: fit a model to these data"):
        load(blind, folder)
    complete(blind, save_model=tmp_path / "blind")
    with pytest.raises(ValueError, match="fitted without raw counts, and these data have some: fit a model"):
        load(new, tmp_path / "blind")
    assert "spackle" in load(blind, tmp_path / "blind").layers


def test_another_layer_is_refused(saved):
    folder, _, new = saved
    new = new.copy()
    new.layers["other"] = new.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="completes layer 'log2tpm', not 'other'"):
        load(new, folder, layer="other")


def edit(folder, **changes):
    card = folder / "card.json"
    content = json.loads(card.read_text()) | changes
    card.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def put_pickle(folder):
    weights = next(folder.glob("weights-*"))
    weights.write_bytes(pickle.dumps({"stack": [1.0]}))
    edit(folder, sha256=hashlib.sha256(weights.read_bytes()).hexdigest())


def put_arrays(folder, change):
    arrays, card = checkpoint.load(folder, "residual")
    card = {
        name: value for name, value in card.items() if name not in ("format", "kind", "version", "weights", "sha256")
    }
    checkpoint.save(folder, "residual", change(arrays), card)


def put_cut(folder):
    weights = next(folder.glob("weights-*"))
    weights.write_bytes(weights.read_bytes()[:-100])


DAMAGE = {
    "weights cut short": (put_cut, "damaged or cut short.*Copy it again"),
    "weights missing": (lambda folder: next(folder.glob("weights-*")).unlink(), "is missing from .*save again"),
    "pickled weights": (put_pickle, "is no safetensors file .*save the model again"),
    "another kind": (lambda folder: edit(folder, kind="combat"), "of kind 'combat', expected 'residual' or 'spackle'"),
    "no parameters": (lambda folder: edit(folder, params=None), "weights and card do not fit"),
    "other parameters": (lambda folder: edit(folder, params={"factor": {}, "depth": 3}), "weights and card do not fit"),
    "nothing tuned": (lambda folder: edit(folder, tuned=None), "weights and card do not fit"),
    "no stack": (lambda f: put_arrays(f, lambda a: {n: v for n, v in a.items() if n != "stack"}), "do not fit"),
    "another network": (lambda f: put_arrays(f, lambda a: a | {"center": a["center"][:-1]}), "do not fit"),
    "a gene twice": (lambda folder: edit(folder, genes=["Gene001", "Gene001"]), "names a gene twice"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_models_are_refused(saved, tmp_path, damage):
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in saved[0].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    harm, message = DAMAGE[damage]
    harm(folder)
    with pytest.raises(ValueError, match=message):
        load(saved[2], folder)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(adata):
    on_cpu, on_gpu = (complete(adata, n_steps=100, device=device) for device in ("cpu", "cuda"))
    assert on_gpu.uns["spared_sc"]["spackle"]["device"] == "cuda"
    scores = [a.uns["spared_sc"]["spackle"]["score"]["residual"] for a in (on_cpu, on_gpu)]
    assert scores[0] == pytest.approx(scores[1], rel=0.2)


# --- spots of which nothing is known ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def silenced():
    """Sections, whole spots of them hidden, and what is left."""
    adata = synthetic(2, 60, shape=(12, 12), depth=400)
    adata.var["few"] = np.arange(adata.n_vars) < 20  # the others tell the depth of a spot
    sections = resolve(adata, layer="log2tpm", mask_var="few", library_key="library_id", spatial_key="spatial").sections
    spots = np.random.default_rng(0).choice(len(sections.known), size=30, replace=False)
    hidden = np.zeros_like(sections.known)
    hidden[spots] = sections.known[spots]
    return sections, hidden, sections.without(hidden)


def test_silent_spots_are_those_without_known_entries(silenced):
    _, hidden, visible = silenced
    assert np.array_equal(visible.silent, hidden.any(axis=1))


def test_depth_and_scale_of_silent_spots(silenced):
    sections, hidden, visible = silenced
    silent = visible.silent
    assert np.array_equal(visible.whole_depth()[~silent], visible.depth[~silent])
    off = np.abs(np.log(visible.whole_depth() / sections.depth))[silent]
    assert np.median(off) < 0.1
    assert np.median(np.abs(np.log(visible.depth / sections.depth))[silent]) > 2 * np.median(off)
    # What a count adds to the scaled expression there, against what it added when it was measured.
    scaled = np.exp2(sections.renormalised(hidden)[hidden]) - 1
    per_count = scaled / sections.counts[hidden]
    assert np.median(np.abs(np.log(visible.count_scale()[hidden] / per_count))) < 0.15
    # Without any count left, a silent spot is as deep as others.
    empty = replace(visible, depth=np.where(silent, 0.0, visible.depth))
    for code in range(2):
        here = empty.library == code
        expected = np.median(empty.depth[here & ~silent])
        assert (empty.whole_depth()[here & silent] == expected).all()


def test_silent_spots_do_not_pull_the_count_model_to_zero(silenced):
    sections, hidden, visible = silenced
    fitted = fit_factor(visible, FactorParams(n_steps=150), device=CPU, seed=0)
    truth = sections.counts[hidden].sum()
    assert 0.8 < np.exp(fitted.log_rate)[visible.silent].sum() / truth < 1.25
    rate = fitted.posterior_rate(visible.counts)
    np.testing.assert_allclose(rate[visible.silent], np.exp(fitted.log_rate)[visible.silent], rtol=1e-6)


def test_whole_spots_are_completed_better_than_by_the_mean(silenced):
    sections, hidden, visible = silenced
    params = residual.ResidualParams(n_steps=100, n_fits=1)
    fitted = residual.fit_residual(visible, params, **HOW)
    estimate = residual.complete_residual(fitted, visible, **HOW)
    truth = sections.renormalised(hidden)[hidden]
    mean = np.sum(visible.values, axis=0, where=visible.known) / visible.known.sum(axis=0)
    error = np.mean((estimate.values[hidden] - truth) ** 2)
    assert error < 0.9 * np.mean((np.broadcast_to(mean, hidden.shape)[hidden] - truth) ** 2)
    inside = np.abs(estimate.values[hidden] - truth) < 1.645 * estimate.sd[hidden]
    assert 0.8 < inside.mean() < 0.97
