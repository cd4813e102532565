"""_kernels/floor."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sps
from scipy import optimize, stats

import spared_sc as sp
from helpers.evaluation import QUICK, SECTIONS, registers, resolved_of, sections_of
from spared_sc._kernels import floor
from spared_sc._kernels.sections import Estimate, Sections


@pytest.fixture
def ready(collection):
    """Two libraries after the recipe, with 12 of the genes to complete."""
    return collection(**SECTIONS)


@pytest.fixture
def fake(monkeypatch):
    """Registers a completion method; what it is given is kept."""
    return registers(monkeypatch)


def test_rate_of_the_truncated_poisson():
    for count in (1.5, 2, 3, 8, 40, 1e4):
        expected = optimize.brentq(lambda rate, c=count: rate / -np.expm1(-rate) - c, 1e-9, count + 1)
        assert floor.truncated_rate(count) == pytest.approx(expected, rel=1e-8)
    assert floor.truncated_rate(1) == 0


def estimated_floor(sections: Sections, hidden: np.ndarray, seed: int) -> tuple[float, float]:
    """Both ends of the floor of some entries."""
    low, high = sorted(v[hidden].mean() for v in floor.noise_variances(sections, np.random.default_rng(seed)))
    return low, high


def floor_at(rate: np.ndarray, scale: np.ndarray, known: np.ndarray, n: int = 60) -> float:
    """Mean sampling variance of the known entries at given rates, by drawing counts anew."""
    rng = np.random.default_rng(5)
    rate, scale = rate[known], scale[known]
    draws = rng.poisson(rate, size=(n, rate.size))
    values = np.where(draws > 0, np.log2(1 + draws * scale), np.nan)
    enough = (draws > 0).sum(axis=0) >= 8
    assert enough.mean() > 0.3
    # entries that are seldom detected are too few of the draws; their variance comes from the closed form
    variance = np.empty(rate.size)
    variance[enough] = np.nanvar(values[:, enough], axis=0, ddof=1)
    k = np.arange(1, 60)[:, None]
    p = stats.poisson.pmf(k, rate[~enough])
    p /= p.sum(axis=0)
    x = np.log2(1 + k * scale[~enough])
    variance[~enough] = (p * x**2).sum(axis=0) - (p * x).sum(axis=0) ** 2
    return variance.mean()


@pytest.mark.parametrize("overdispersion", [0, 1])
@pytest.mark.parametrize("depth", [40, 300, 3000])
def test_the_floor_brackets_the_truth(depth, overdispersion):
    adata = sp.datasets.synthetic(n_libraries=2, depth=depth, image=False)
    rate = adata.layers["rate"].astype(float)
    if overdispersion:
        rng = np.random.default_rng(1)
        rate *= rng.gamma(1 / overdispersion, overdispersion, rate.shape)
        adata.X = sps.csr_matrix(rng.poisson(rate), dtype=np.float32)
    sp.pp.normalize_tpm(adata)
    resolved = resolved_of(adata, mask_var=None)
    sections = resolved.sections
    known = sections.known
    low, high = estimated_floor(sections, known, 0)
    assert low < high
    rate = rate[resolved.order][:, resolved.genes]
    scale = np.expm1(sections.values * np.log(2)) / np.maximum(sections.counts.values, 1)
    truth = floor_at(rate, scale, known)
    assert low < truth
    assert abs(high / truth - 1) < 0.1
    assert low / truth > 0.55
    # part of the entries
    hidden = known & (np.random.default_rng(2).random(known.shape) < 0.3)
    some = estimated_floor(sections, hidden, 0)
    np.testing.assert_allclose(some, (low, high), rtol=0.05)


def test_floor_rows_are_the_floor_of_their_entries(ready, fake):
    seen = fake(lambda sections: Estimate(np.full_like(sections.values, 5)))
    scores = sp.tl.evaluate_completion(ready, methods="fake", regimes="released", **QUICK)
    whole = sections_of(ready)
    hidden = whole.known & ~seen[0].known
    scores = scores[scores["metric"] == "mse"].set_index(["method", "library", "genes"])["value"]
    for code, name in enumerate(("library_1", "library_2")):
        here = hidden & (whole.library == code)[:, None]
        # other thinnings differ by chance only
        draws = [estimated_floor(whole, here, seed) for seed in range(8)]
        low, high = scores["floor_low", name, "all"], scores["floor_high", name, "all"]
        np.testing.assert_allclose((low, high), np.mean(draws, axis=0), rtol=0.08)
        assert low < high < scores["fake", name, "all"]


def test_which_layers_are_logarithms_of_scaled_counts(ready):
    assert floor.is_log2_of_counts(sections_of(ready))
    sections = sections_of(ready)
    for values in (
        sections.values * np.float32(np.log(2)),
        sections.values**1.2,
        sections.values * (1 + np.float32(0.2) * sections.library[:, None]),
    ):
        wrong = replace(sections, values=values)
        assert not floor.is_log2_of_counts(wrong)
