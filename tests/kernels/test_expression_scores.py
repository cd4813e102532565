"""_kernels/expression_scores."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import mean_poisson_deviance
from sklearn.preprocessing import SplineTransformer

from spared_sc._kernels.expression_scores import (
    Counted,
    depth_terms,
    expected_poisson_deviance,
    log_cp10k,
    pearson_given_depth,
)


@dataclass(frozen=True)
class Drawn:
    """Counts from known rates."""

    counts: np.ndarray
    depth: np.ndarray
    rate: np.ndarray
    share: np.ndarray  # (n_genes,) mean share
    rng: np.random.Generator

    def counted(self) -> Counted:
        everything = np.ones((1, len(self.share)), dtype=bool)
        baseline = self.share * self.depth[:, None]
        return Counted(self.counts, self.depth, np.zeros(len(self.depth), dtype=int), everything, baseline)


def draw(n_spots: int, n_genes: int, *, pattern: float = 0.6, depth: float = 3000, seed: int = 0) -> Drawn:
    """Poisson counts of genes with varied shares (together half of a spot), whose rates vary over the spots."""
    rng = np.random.default_rng(seed)
    share = np.exp(rng.normal(0, 1.3, n_genes))
    share *= 0.5 / share.sum()
    factor = np.exp(pattern * rng.normal(size=(n_spots, n_genes)) - pattern**2 / 2)
    expected_depth = depth * np.exp(rng.normal(0, 0.6, n_spots))
    rate = share * factor * expected_depth[:, None]
    counts = rng.poisson(rate).astype(np.float32)
    others = rng.poisson(0.5 * expected_depth)
    return Drawn(counts, counts.sum(axis=1, dtype=float) + others, rate, share, rng)


def spline_residual(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """What a cubic spline with knots at the terciles leaves, by scikit-learn."""
    x = np.log1p(depth)[:, None]
    knots = np.quantile(x, [0, 1 / 3, 2 / 3, 1])[:, None]
    terms = SplineTransformer(degree=3, knots=knots, include_bias=True).fit_transform(x)
    return values - LinearRegression().fit(terms, values).predict(terms)


def test_correlations_are_those_of_loops_over_genes():
    data = draw(400, 8, depth=40)
    group = np.repeat([0, 1], [250, 150])
    guess = np.log2(1 + 1e4 * data.rate / data.depth[:, None]) + data.rng.normal(size=data.rate.shape)
    counted = replace(data.counted(), group=group, learned=np.ones((2, 8), dtype=bool))
    found = counted.correlations(guess)
    for code in range(2):
        rows = group == code
        truth = np.log1p(1e4 * data.counts[rows] / data.depth[rows, None])
        assert (data.counts[rows] == 0).any()
        for gene in range(8):
            expected = stats.pearsonr(guess[rows, gene], truth[:, gene]).statistic
            assert found["pcc"][code, 1 + gene] == pytest.approx(expected, rel=1e-6)
            both = []
            for depth in (data.depth[rows], data.depth[rows] - data.counts[rows, gene]):
                left = (spline_residual(values, depth) for values in (guess[rows, gene], truth[:, gene]))
                both.append(stats.pearsonr(*left).statistic)
            expected = min(both, key=abs) if both[0] * both[1] > 0 else 0
            assert found["pcc_given_depth"][code, 1 + gene] == pytest.approx(expected, rel=1e-6)
        for metric in ("pcc", "pcc_given_depth"):
            assert found[metric][code, 0] == pytest.approx(found[metric][code, 1:].mean())
        for metric, share in (("negative", found["pcc"][code, 1:] < 0), ("positive", found["pcc"][code, 1:] > 0)):
            assert found[metric][code, 0] == pytest.approx(share.mean())


@pytest.mark.parametrize("metric", ["d2", "d2_own"])
def test_explained_deviance_is_that_of_loops_over_genes(metric):
    data = draw(300, 6)
    group = np.repeat([0, 1], 150)
    baseline = 0.8 * data.share * data.depth[:, None]
    guess = 1.5 * data.rate * np.exp(data.rng.normal(0, 0.3, data.rate.shape))
    counted = Counted(data.counts, data.depth, group, np.ones((2, 6), dtype=bool), baseline)
    found = counted.deviance_explained(guess)[metric]
    for code in range(2):
        rows = group == code
        deviances = []
        for gene in range(6):
            counts, expected, share = data.counts[rows, gene], guess[rows, gene], baseline[rows, gene]
            if metric == "d2_own":
                expected = expected * counts.sum() / expected.sum()
                share = data.depth[rows] * counts.sum() / data.depth[rows].sum()
            deviances.append([mean_poisson_deviance(counts, rate) for rate in (expected, share)])
            assert found[code, 1 + gene] == pytest.approx(1 - deviances[-1][0] / deviances[-1][1], rel=1e-6)
        left, total = np.sum(deviances, axis=0)
        assert found[code, 0] == pytest.approx(1 - left / total, rel=1e-6)


def test_the_share_itself_explains_nothing():
    data = draw(200, 5)
    counted = data.counted()
    found = counted.deviance_explained(counted.baseline)
    np.testing.assert_allclose(found["d2"], 0, atol=1e-12)
    np.testing.assert_allclose(found["d2_own"], 0, atol=1e-12)
    twice = counted.deviance_explained(2 * counted.baseline)  # the level counts for one, the pattern for the other
    assert (twice["d2"] < -0.1).all()
    np.testing.assert_allclose(twice["d2_own"], 0, atol=1e-12)
    nothing = counted.deviance_explained(np.zeros_like(counted.counts))
    assert (nothing["d2"] < -1).all()
    np.testing.assert_allclose(nothing["d2_own"], 0, atol=1e-12)
    for metric, values in counted.deviance_explained(None).items():
        assert np.isnan(values).all(), metric


@pytest.mark.parametrize("noise", [0, 0.3])
@pytest.mark.parametrize("curve", ["log", "bent"])
def test_an_image_that_knows_only_depth_has_no_score_given_depth(noise, curve):
    data = draw(600, 220, pattern=0.3, depth=400)
    known = np.log1p(data.depth) if curve == "log" else np.log2(1 + 3e5 / data.depth)
    guess = known[:, None] + noise * data.rng.normal(size=data.counts.shape)
    found = data.counted().correlations(guess.astype(np.float32))
    assert abs(found["pcc_given_depth"][0, 0]) < 0.02
    assert np.abs(found["pcc_given_depth"][0, 1:]).mean() < 0.05
    assert np.abs(found["pcc"][0, 1:]).mean() > 0.15
    if noise == 0 and curve == "log":
        assert (found["pcc_given_depth"] == 0).all()


def test_neither_depth_alone_would_do():
    """Beside the depth without the gene, knowing the whole depth is knowing the gene."""
    data = draw(600, 60, pattern=0.3, depth=400)
    truth = log_cp10k(data.counts, data.depth)
    follows = np.log1p(data.depth)
    gene = int(data.share.argmax())
    one_sided = [spline_residual(v, data.depth - data.counts[:, gene]) for v in (follows, truth[:, gene])]
    assert stats.pearsonr(*one_sided).statistic > 0.8
    assert pearson_given_depth(follows[:, None] * np.ones(60), data.counts, data.depth)[gene] == 0


def test_an_image_that_knows_the_rates_keeps_its_score():
    data = draw(800, 220)
    guess = np.log2(1 + 1e6 * data.rate / data.depth[:, None])
    counted = data.counted()
    found, ceiling = counted.correlations(guess), counted.ceilings(np.random.default_rng(1))
    for metric in ("pcc", "pcc_given_depth"):
        assert found[metric][0, 0] > 0.4
        assert abs(found[metric][0, 0] - ceiling[metric][0, 0]) < 0.07
    assert found["positive"][0, 0] > 0.95
    explained = counted.deviance_explained(data.rate)
    for metric in ("d2", "d2_own"):
        assert explained[metric][0, 0] > 0.2
        # The noise is taken at the mean rate, which is a little too much.
        assert -0.01 < explained[metric][0, 0] - ceiling[metric][0, 0] < 0.06


def test_ceilings_are_the_scores_of_the_expectation():
    """With the expectation of every entry, from many draws at the true rates."""
    data = draw(600, 60, depth=2000)
    draws = 200
    expected = np.zeros(data.rate.shape)
    for _ in range(draws):
        counts = data.rng.poisson(data.rate)
        others = data.rng.poisson(np.maximum(data.depth - data.counts.sum(axis=1), 0))
        expected += log_cp10k(counts, counts.sum(axis=1) + others) / draws
    counted = data.counted()
    found, ceiling = counted.correlations(expected), counted.ceilings(np.random.default_rng(1))
    for metric in ("pcc", "pcc_given_depth"):
        gap = found[metric][0, 1:] - ceiling[metric][0, 1:]
        assert abs(gap.mean()) < 0.03
        assert np.abs(gap).mean() < 0.06


def test_pure_noise_has_no_ceiling():
    data = draw(600, 60, pattern=0)
    ceiling = data.counted().ceilings(np.random.default_rng(1))
    assert np.median(ceiling["pcc_given_depth"][0, 1:]) < 0.25  # chance correlations of 600 spots
    assert ceiling["d2"][0, 0] < 0.02
    assert (ceiling["d2"] >= 0).all()
    again = data.counted().ceilings(np.random.default_rng(1))
    np.testing.assert_array_equal(again["pcc"], ceiling["pcc"])


def test_constants_and_genes_without_counts():
    data = draw(100, 4)
    data.counts[:, 2] = 0  # nothing to correlate with
    counted = replace(data.counted(), learned=np.array([[True, True, True, False]]))
    guess = np.log1p(data.rate).astype(np.float32)
    guess[:, 0] = 7.3
    found = counted.correlations(guess)
    for metric in ("pcc", "pcc_given_depth"):
        assert found[metric][0, 1] == 0
        assert found[metric][0, 2] > 0.1
        assert np.isnan(found[metric][0, 3:]).all()
        assert found[metric][0, 0] == pytest.approx(found[metric][0, 2] / 2)
    assert (found["constant"], found["negative"], found["positive"]) == (0.5, 0, 0.5)
    explained = counted.deviance_explained(data.rate)
    assert np.isnan(explained["d2_own"][0, 3:]).all()
    assert np.isnan(explained["d2"][0, 4])


def test_the_curve_in_depth_has_fewer_terms_for_few_spots():
    rng = np.random.default_rng(0)
    depth = rng.integers(100, 5000, 200).astype(float)
    assert [depth_terms(depth[:n]).shape for n in (9, 10, 25, 49, 50, 200)] == [
        (9, 1), (10, 2), (25, 3), (49, 5), (50, 6), (200, 6)
    ]  # fmt: skip
    counts = rng.poisson(3, (200, 2)).astype(float)
    guess = rng.normal(size=(200, 2))
    assert np.isnan(pearson_given_depth(guess[:9], counts[:9], depth[:9])).all()
    assert np.isfinite(pearson_given_depth(guess[:10], counts[:10], depth[:10])).all()
    equal = np.full(200, 900.0)
    truth = log_cp10k(counts, equal)
    expected = [stats.pearsonr(guess[:, gene], truth[:, gene]).statistic for gene in range(2)]
    found = np.abs(pearson_given_depth(guess, counts, equal))
    assert (found <= np.abs(expected) + 1e-9).all()


def test_expected_deviance_of_poisson_counts():
    mean = np.array([1e-7, 1e-3, 0.02, 0.5, 1, 3, 20, 49, 60, 1000])
    for value, found in zip(mean, expected_poisson_deviance(mean), strict=True):
        count = np.arange(int(value + 12 * np.sqrt(value)) + 30)
        deviance = 2 * (count * np.log(np.maximum(count, 1) / value) - count + value)
        assert found == pytest.approx((stats.poisson(value).pmf(count) * deviance).sum(), rel=1e-3)
    assert expected_poisson_deviance(np.zeros(1)) == 0
