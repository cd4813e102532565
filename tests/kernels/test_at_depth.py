"""_kernels/at_depth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.counts_model import sections_of, synthetic
from spared_sc._kernels.at_depth import detected_values, rate_at_depth
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.sections import Counts, Sections

SHARE, SIZE = np.geomspace(0.0005, 0.02, 20), 3.0


@pytest.fixture(scope="module")
def made() -> Sections:
    """Negative binomial counts at the depth of the spot, as log2(CPM + 1)."""
    sections = sections_of(synthetic(2, 20, shape=(20, 20)))
    rng = np.random.default_rng(0)
    depth = rng.lognormal(6, 0.7, len(sections.known)).round()
    rate = depth[:, None] * SHARE
    counts = rng.negative_binomial(SIZE, SIZE / (SIZE + rate)).astype(np.float32)
    values = np.log2(1 + counts * (1e6 / depth)[:, None]).astype(np.float32)
    total = np.full(len(depth), 1e6)
    return replace(sections, values=values, known=counts > 0, counts=Counts(counts, depth), total=total)


def visible_of(made: Sections, share: float) -> tuple[Sections, np.ndarray]:
    """Sections with hidden entries, and the rates of what is visible."""
    visible = made.without(hide_detected(made.known, share, np.random.default_rng(1)))
    counts = visible.counts
    return visible, counts.depth[:, None] * counts.values.sum(axis=0) / counts.depth.sum()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_values_are_those_of_the_true_rates_however_much_is_hidden(made, share):
    visible, rate = visible_of(made, share)
    found = detected_values(visible, rate)
    # the expectation written out: counts that a detected entry can have, times their chances
    count, off = np.arange(1, 400), []
    for spot, gene in np.random.default_rng(2).integers((800, 20), size=(40, 2)) % [len(found), 20]:
        true = made.counts.depth[spot] * SHARE[gene]
        chance = stats.nbinom.pmf(count, SIZE, SIZE / (SIZE + true))
        unit = 1e6 / visible.counts.depth[spot]
        expected = (chance * np.log2(1 + count * unit)).sum() / chance.sum()
        off.append(found[spot, gene] - expected)
    assert abs(np.mean(off)) < 0.1
    assert np.std(off) < 0.15
    hidden = made.known & ~visible.known
    if share:
        error = (found - made.renormalised(hidden))[hidden]
        assert abs(error.mean()) < 0.05
        naive = np.log2(1 + np.maximum(rate, 1) * (1e6 / visible.counts.depth)[:, None])
        assert np.mean(error**2) < np.mean((naive - made.renormalised(hidden))[hidden] ** 2)


def test_whole_spots_are_at_the_depth_that_they_had(made):
    hidden = made.known & (np.arange(len(made.known)) % 7 == 0)[:, None]
    visible = made.without(hidden)
    rate = visible.counts.depth[:, None] * visible.counts.values.sum(axis=0) / visible.counts.depth.sum()
    error = (detected_values(visible, rate) - made.values)[hidden]
    assert abs(error.mean()) < 0.05


def test_a_gene_without_known_entries_is_a_typical_one(made):
    visible = made.without(made.known & (np.arange(20) == 3))
    values = detected_values(visible, visible_of(made, 0.0)[1])
    assert np.abs(values[:, 3] - values.mean(axis=1)).max() < 3


def test_the_library_changes_the_level_of_a_gene():
    by_depth, of_all = np.full((4, 2), 6.0), np.full((4, 2), 2.0)
    of_library = np.array([[1.0, 2.0], [4.0, 2.0], [2.0, 2.0], [0.0, 2.0]])
    np.testing.assert_allclose(rate_at_depth(by_depth, of_library, of_all), [[3, 6], [12, 6], [6, 6], [0, 6]])
