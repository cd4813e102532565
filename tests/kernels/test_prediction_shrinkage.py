"""_kernels/prediction_shrinkage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import xlogy

from spared_sc._kernels.prediction_shrinkage import blocks, level, prediction_weights

SIDE, N_GENES = 20, 60
SCALE = 1e4  # of the expression: counts per ten thousand


def sections(rng, *, amplitude, n_libraries=2, overdispersion=0.0):
    """Counts of genes that follow one smooth pattern with an amplitude each; exposure, pattern, library and position."""
    x, y = (grid.ravel() for grid in np.meshgrid(np.arange(SIDE), np.arange(SIDE)))
    position = np.tile(np.column_stack([x, y]), (n_libraries, 1)).astype(float)
    library = np.repeat(np.arange(n_libraries), SIDE**2)
    pattern = np.sin(position[:, 0] / 3) + np.cos(position[:, 1] / 4 + library)
    depth = rng.lognormal(np.log(3000), 0.4, len(library))
    share = rng.uniform(1e-3, 8e-3, N_GENES)
    truth = share * np.exp(np.outer(pattern, amplitude * np.ones(N_GENES)))
    noise = rng.gamma(1 / overdispersion, overdispersion, truth.shape) if overdispersion else 1.0
    counts = rng.poisson(depth[:, None] * truth * noise).astype(np.float32)
    exposure = np.repeat(depth[:, None] / SCALE, N_GENES, axis=1).astype(np.float32)
    return counts, exposure, share, pattern, library, position


def predicted(share, pattern, amplitude):
    return np.log2(1 + SCALE * share * np.exp(np.outer(pattern, amplitude * np.ones(len(share))))).astype(np.float32)


def test_a_level_is_the_share_in_the_unit_of_the_layer():
    counts = np.array([[2.0, 0.0], [4.0, 0.0]])
    exposure = np.array([[0.5, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(level(counts, exposure), [4.0, 0.0])


@pytest.mark.parametrize("overdispersion", [0.0, 0.3])
def test_a_pattern_twice_as_strong_as_the_truth_counts_by_half(overdispersion):
    rng = np.random.default_rng(0)
    counts, exposure, share, pattern, library, position = sections(rng, amplitude=0.3, overdispersion=overdispersion)
    weight, _ = prediction_weights(counts, exposure, predicted(share, pattern, 0.6), library, position)
    assert weight.mean() == pytest.approx(0.5, abs=0.03)
    assert weight.std() < 0.1


def test_the_skill_is_the_deviance_explained():
    rng = np.random.default_rng(1)
    counts, exposure, share, pattern, library, position = sections(rng, amplitude=0.5, n_libraries=1)
    estimate = predicted(share, pattern, 0.5)
    _, skill = prediction_weights(counts, exposure, estimate, library, position)
    flat = exposure * counts.sum(axis=0) / exposure.sum(axis=0)
    rate = exposure * (2.0**estimate - 1)
    rate *= flat.sum(axis=0) / rate.sum(axis=0)

    def deviance(expected):
        return 2 * (xlogy(counts, counts / expected) - counts + expected).sum(axis=0)

    np.testing.assert_allclose(skill, 1 - deviance(rate) / deviance(flat), atol=2e-3)


def test_one_gene_has_the_likeliest_weight():
    rng = np.random.default_rng(2)
    counts, exposure, share, pattern, library, position = sections(rng, amplitude=0.4, n_libraries=1)
    counts, exposure, share = counts[:, :1], exposure[:, :1], share[:1]
    estimate = predicted(share, pattern, 0.7)
    weight, _ = prediction_weights(counts, exposure, estimate, library, position)
    ratio = 2.0 ** estimate[:, 0] - 1

    def loss(w):
        rate = exposure[:, 0] * ratio**w
        rate *= counts.sum() / rate.sum()
        return -xlogy(counts[:, 0], rate).sum()

    assert weight[0] == pytest.approx(minimize_scalar(loss, bounds=(0, 2), method="bounded").x, abs=0.02)


def test_genes_that_the_image_does_not_predict_are_flat_and_others_are_not():
    rng = np.random.default_rng(3)
    amplitude = np.repeat([0.5, 0.0], N_GENES // 2)
    counts, exposure, share, pattern, library, position = sections(rng, amplitude=amplitude)
    weight, skill = prediction_weights(counts, exposure, predicted(share, pattern, 0.5), library, position)
    assert weight[: N_GENES // 2].min() > 0.9
    assert weight[N_GENES // 2 :].max() < 0.2
    assert skill[: N_GENES // 2].min() > 0.1 > skill[N_GENES // 2 :].max()


def test_smooth_patterns_that_say_nothing_are_taken_for_nothing():
    """Neighbours agree in truth and in prediction by chance: with single spots as units, most of these would count."""
    flat = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        counts, exposure, share, pattern, library, position = sections(rng, amplitude=0.4)
        other = np.sin(position[:, 0] / 3 + rng.uniform(0, 2 * np.pi)) * np.cos(
            position[:, 1] / 4 + rng.uniform(0, 2 * np.pi)
        )
        other -= pattern * (other @ pattern) / (pattern @ pattern)  # nothing on average over the spots
        other += rng.normal() * 0.05 * pattern
        weight, _ = prediction_weights(counts, exposure, predicted(share, other, 0.4), library, position)
        flat += weight.max() == 0
    assert flat >= 15


def test_blocks_are_compact_and_of_one_library():
    rng = np.random.default_rng(0)
    position = rng.uniform(0, 100, (900, 2))
    library = np.repeat([0, 1], [500, 400])
    of_spot = blocks(library, position)
    sizes = np.bincount(of_spot)
    assert len(sizes) == 50
    assert sizes.min() >= 15
    for number in range(50):
        here = of_spot == number
        assert len(np.unique(library[here])) == 1
        assert np.ptp(position[here], axis=0).max() < 40  # of 100
    without = blocks(library, None)
    assert len(np.unique(without)) == 50
    assert (np.diff(without) >= 0).all()
    assert blocks(np.zeros(3, int), position[:3]).tolist() == [0, 0, 0]
