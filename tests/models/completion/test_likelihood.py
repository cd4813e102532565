"""_models/completion/likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.counts_model import log_likelihood_in_plain_words
from spared_sc._models.completion.likelihood import Tally, likelihood


@pytest.fixture
def entries():
    """Logarithms of the rates, counts, sizes and shares lost, in double precision."""
    rng = np.random.default_rng(0)
    log_rate = rng.normal(0.5, 2.0, size=(50, 6))
    counts = rng.poisson(np.exp(log_rate))
    size, lost = rng.uniform(0.3, 30, 6), rng.uniform(0.01, 0.5, 6)
    assert 0.2 < (counts == 0).mean() < 0.8
    return [torch.tensor(part, dtype=torch.float64) for part in (log_rate, counts, size, lost)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-4)])
def test_derivatives_are_those_of_autograd(entries, dtype, tolerance):
    log_rate, counts, size, lost = entries
    inputs = [x.clone().requires_grad_() for x in (log_rate, size, torch.logit(lost))]
    value = log_likelihood_in_plain_words(inputs[0], counts, inputs[1], torch.sigmoid(inputs[2])).sum()
    by_rate, by_size, by_logit = torch.autograd.grad(value, inputs)
    ours = (x.to(dtype) for x in entries)
    _, slope, _, sums = likelihood(*ours, torch.zeros((), dtype=dtype), None)
    tally = Tally.of(counts.numpy())
    found = {
        "rate": (slope, by_rate),
        "size": (sums[0] + tally.by_size(size)[0], by_size),
        "lost": (sums[2] - len(counts) * lost, by_logit),
    }
    for name, (one, other) in found.items():
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * float(abs(other).max()), err_msg=name)


def test_the_weight_is_the_expected_curvature_of_counts_that_were_not_lost(entries):
    log_rate, counts, size, lost = entries
    _, slope, weight, _ = likelihood(*entries, torch.zeros(()), None)
    rate = torch.exp(log_rate)
    fisher = rate * size / (rate + size)
    np.testing.assert_allclose(weight[counts > 0], fisher[counts > 0])
    zero = (size / (rate + size)) ** size
    np.testing.assert_allclose(
        (weight / fisher)[counts == 0], ((1 - lost) * zero / (lost + (1 - lost) * zero))[counts == 0]
    )


def test_the_second_derivative_by_the_size(entries):
    log_rate, counts, size, _ = entries
    none_lost = torch.zeros_like(size)

    def slope(size):
        size = size.clone().requires_grad_()
        value = log_likelihood_in_plain_words(log_rate, counts, size, none_lost).sum()
        return torch.autograd.grad(value, size)[0]

    step = 1e-4
    expected = (slope(size + step) - slope(size - step)) / (2 * step)
    sums = likelihood(log_rate, counts, size, none_lost, torch.zeros(()), None)[3]
    ours = sums[1] + Tally.of(counts.numpy()).by_size(size)[1]
    np.testing.assert_allclose(ours, expected, rtol=1e-4)


def test_the_tally_of_genes_without_counts():
    tally = Tally.of(np.array([[0, 2, 0], [0, 2, 0], [0, 7, 1.0]], dtype=np.float32))
    assert tally.gene.tolist() == [1, 1, 2]
    assert tally.count.tolist() == [2, 7, 1]
    assert tally.times.tolist() == [2, 1, 1]
    assert tally.n_detected.tolist() == [0, 3, 1]
    assert Tally.of(np.zeros((3, 2), np.float32)).n_detected.tolist() == [0, 0]
