"""_kernels/prediction_scores."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from spared_sc._kernels.prediction_scores import Measured


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_scores_are_those_of_loops(rng):
    n, g = 90, 12
    library = np.repeat([0, 1, 2], 30)
    truth, guess = rng.normal(3, 1, size=(2, n, g))
    guess = 0.5 * (truth + guess)
    known = rng.random((n, g)) < 0.7
    known[library == 2, 4] = False
    measured = Measured(truth, known, library, 3)
    found, total = measured.by_gene(guess), measured.by_library(guess)
    for code in range(3):
        squares, deviations, errors = [], [], []
        for gene in range(g):
            rows = np.flatnonzero((library == code) & known[:, gene])
            if not rows.size:
                assert np.isnan([found[name][code, gene] for name in found]).all()
                continue
            one, other = truth[rows, gene], guess[rows, gene]
            assert found["mse"][code, gene] == pytest.approx(np.mean((one - other) ** 2))
            assert found["mae"][code, gene] == pytest.approx(np.mean(np.abs(one - other)))
            assert found["pcc"][code, gene] == pytest.approx(stats.pearsonr(one, other).statistic)
            r2 = 1 - ((one - other) ** 2).sum() / ((one - one.mean()) ** 2).sum()
            assert found["r2"][code, gene] == pytest.approx(r2)
            squares += [(one - other) ** 2]
            deviations += [(one - one.mean()) ** 2]
            errors += [np.abs(one - other)]
        squares, deviations, errors = map(np.concatenate, (squares, deviations, errors))
        assert total["mse"][code] == pytest.approx(squares.mean())
        assert total["mae"][code] == pytest.approx(errors.mean())
        assert total["r2"][code] == pytest.approx(1 - squares.sum() / deviations.sum())
        per_spot = [
            stats.pearsonr(truth[spot, known[spot]], guess[spot, known[spot]]).statistic
            for spot in np.flatnonzero(library == code)
            if known[spot].sum() >= 10
        ]
        if per_spot:
            assert total["pcc_spot"][code] == pytest.approx(np.mean(per_spot))
        else:
            assert np.isnan(total["pcc_spot"][code])


def test_a_prediction_that_does_not_vary_correlates_with_nothing(rng):
    """Left out of the mean over genes, it would make a model look better the fewer genes it says anything about."""
    truth = rng.normal(size=(40, 2))
    truth[:, 1] = 3  # nothing to correlate with
    known = np.ones(truth.shape, bool)
    found = Measured(truth, known, np.repeat([0, 1], 20), 2).by_gene(np.full(truth.shape, 2.0))["pcc"]
    np.testing.assert_array_equal(found, [[0, np.nan], [0, np.nan]])


def test_the_ceiling_is_the_correlation_with_the_expectation(rng):
    expectation = rng.normal(size=(20_000, 2)) * [1.0, 3.0]
    noise = 0.8
    truth = expectation + noise * rng.normal(size=expectation.shape)
    known = np.ones(truth.shape, bool)
    measured = Measured(truth, known, np.zeros(len(truth), int), 1)
    found = measured.ceiling(np.full(truth.shape, noise**2))[0]
    expected = [stats.pearsonr(truth[:, i], expectation[:, i]).statistic for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert (measured.ceiling(np.full(truth.shape, 99.0)) == 0).all()


def test_scores_over_all_genes_come_first(rng):
    truth, guess = rng.normal(size=(2, 60, 12))
    known = rng.random((60, 12)) < 0.8
    library = np.repeat([0, 1], 30)
    measured = Measured(truth, known, library, 2)
    scores, genes, total = measured.scores(guess), measured.by_gene(guess), measured.by_library(guess)
    for name in ("mse", "mae", "r2"):
        np.testing.assert_array_equal(scores[name], np.column_stack([total[name], genes[name]]))
    np.testing.assert_allclose(scores["pcc"][:, 0], np.nanmean(genes["pcc"], axis=1))
    np.testing.assert_array_equal(scores["pcc_spot"][:, 0], total["pcc_spot"])
    pooled = [stats.pearsonr(truth[known[:, g], g], guess[known[:, g], g]).statistic for g in range(12)]
    assert scores["pcc_pooled"] == pytest.approx(np.mean(pooled))


def test_limits_are_in_the_order_of_the_error(rng):
    truth = rng.normal(size=(40, 3))
    measured = Measured(truth, np.ones(truth.shape, dtype=bool), np.repeat([0, 1], 20), 3)
    limits = measured.limits([np.full(truth.shape, 0.4), np.full(truth.shape, 0.1)])
    assert list(limits) == ["floor_low", "floor_high"]
    np.testing.assert_allclose(limits["floor_low"]["mse"][:, 0], [0.1, 0.1, np.nan])  # the third library is empty
    np.testing.assert_allclose(limits["floor_high"]["mse"][:, 0], [0.4, 0.4, np.nan])
    assert (limits["floor_low"]["pcc"][:2] >= limits["floor_high"]["pcc"][:2]).all()
