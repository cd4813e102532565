"""_kernels/audit."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import poisson

from helpers.evaluation import SECTIONS, sections_of
from spared_sc._kernels.at_depth import size_by_moments
from spared_sc._kernels.audit import Evidence, conclude, evidence_of
from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.sections import Estimate
from spared_sc._kernels.shrinkage import share_counts
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED


@pytest.fixture
def sections(collection):
    return sections_of(collection(**SECTIONS))


def wave(sections) -> np.ndarray:
    """A pattern over the spots, the same for all genes."""
    return np.sin(np.arange(len(sections.known)) / 7)[:, None]


def flat(half) -> Estimate:
    """Mean of each gene; counts in proportion to depth."""
    values = np.broadcast_to(gene_means(half.values, half.known), half.values.shape)
    return Estimate(values.astype(np.float32), share_counts(half))


def wavy(half) -> Estimate:
    bent = np.exp(0.5 * wave(half)).astype(np.float32)
    return Estimate(flat(half).values + np.log2(bent), share_counts(half) * bent)


def halves_of(sections, seed=3):
    """Both halves as `evidence_of` draws them, with depth and share of the other half, and its spots."""
    half, other = sections.halves(np.random.default_rng(seed))
    depth = other.counts.depth
    relative = (depth / half.whole_depth())[:, None]
    spots = ~sections.silent & (depth > 0)
    return half, other, relative, spots


def test_rates_are_compared_with_the_other_half(sections):
    half, other, relative, spots = halves_of(sections)
    evidence = evidence_of(sections, wavy, np.random.default_rng(3))
    share = share_counts(half).astype(float) * relative
    bent = np.exp(0.5 * wave(half))
    for gene in range(sections.known.shape[1]):
        counts = other.counts.values[spots, gene]
        one, two = share[spots, gene], (share * bent)[spots, gene]
        saturated = poisson.logpmf(counts, np.maximum(counts, 1e-12))
        of_share = 2 * (saturated - poisson.logpmf(counts, one))
        difference = of_share - 2 * (saturated - poisson.logpmf(counts, two))
        assert evidence.deviance[gene] == pytest.approx(of_share.sum(), rel=1e-4)
        assert evidence.explained[gene] == pytest.approx(difference.sum(), rel=1e-3, abs=1e-2)
        assert evidence.explained_variance[gene] == pytest.approx(difference.size * difference.var(), rel=1e-3)


def test_the_weight_of_a_pattern_is_the_likeliest(sections):
    half, other, relative, spots = halves_of(sections)
    evidence = evidence_of(sections, wavy, np.random.default_rng(3))
    share, library = (share_counts(half) * relative)[spots], sections.library[spots]
    bent = np.exp(0.5 * wave(half))[spots]
    for gene in range(4):
        counts, one = other.counts.values[spots, gene], share[:, gene]

        def loss(weight, counts=counts, one=one):
            rate = one * bent[:, 0] ** weight
            for code in np.unique(library):
                here = library == code
                rate[here] *= (one * bent[:, 0])[here].sum() / rate[here].sum()
            return -poisson.logpmf(counts, rate).sum()

        best = minimize_scalar(loss, bounds=(-1, 3), method="bounded").x
        assert evidence.weighted[gene] / evidence.information[gene] == pytest.approx(best, abs=0.02)


def test_filled_values_are_compared_where_the_other_half_alone_detected(sections):
    half, other, relative, spots = halves_of(sections)
    evidence = evidence_of(sections, wavy, np.random.default_rng(3))
    share, scale = share_counts(half), half.count_scale()
    size = size_by_moments(other.counts.values, share * relative)
    at_depth = truncated_moments(share * relative, size, scale / relative)[0]
    # What the depth changes, the method cannot know.
    shift = at_depth - truncated_moments(share, size, scale)[0]
    filled, mean = wavy(half).values + shift, flat(half).values + shift
    for gene in range(sections.known.shape[1]):
        rows = spots & other.known[:, gene]
        truth = other.values[rows, gene].astype(float)
        errors = [((truth - values[rows, gene]) ** 2) for values in (at_depth, mean)]
        best = min(errors, key=np.sum)
        removed = best - (truth - filled[rows, gene]) ** 2
        assert evidence.n_entries[gene] == rows.sum()
        assert evidence.error[gene] == pytest.approx(best.sum(), rel=1e-3)
        assert evidence.removed[gene] == pytest.approx(removed.sum(), rel=1e-3, abs=1e-2)
        assert evidence.removed_variance[gene] == pytest.approx(rows.sum() * removed.var(), rel=1e-3)


def test_averages_are_no_better_than_themselves(sections):
    evidence = evidence_of(sections, flat, np.random.default_rng(0))
    np.testing.assert_allclose(evidence.explained, 0, atol=1e-3)
    assert (evidence.removed <= 1e-3).all()
    audit = conclude(evidence + evidence, 2)
    assert audit.harm
    assert audit.count(UNDECIDED) == audit.verdict.size
    assert audit.summary("mine").startswith("Nothing is gained with 'mine'")


def test_values_alone_have_a_pattern_if_counts_rise_with_them(sections):
    """Without expected counts, evidence is standard normal where the values say nothing."""
    rng = np.random.default_rng(0)
    counts = sections.counts
    share = counts.values.sum(axis=0) / counts.depth.sum()

    def noise(half):
        values = flat(half).values + rng.normal(0, 3, half.values.shape)
        return Estimate(values.astype(np.float32))

    def knowing(half):
        more = (counts.values - half.counts.values) > share * counts.depth[:, None] / 2
        return Estimate((flat(half).values + more).astype(np.float32))

    found = [evidence_of(sections, noise, np.random.default_rng(seed)) for seed in range(20)]
    z = np.concatenate([(one.weighted / np.sqrt(one.information + 1e-9))[one.n_entries > 20] for one in found])
    assert abs(z.mean()) < 0.3
    assert 0.7 < z.std() < 1.15
    assert np.isnan(found[0].explained).all()
    known = evidence_of(sections, knowing, np.random.default_rng(0))
    z = known.weighted / np.sqrt(known.information + 1e-9)
    assert (z[known.information > 0.5] > 0).all()
    assert np.median(z) > 2


def evidence(**changed) -> Evidence:
    """Of four genes and one split: strong in all respects, but for what is changed."""
    strong = {
        "information": 100.0,
        "weighted": 100.0,
        "deviance": 100.0,
        "explained": 50.0,
        "explained_variance": 25.0,
        "n_entries": 100.0,
        "error": 100.0,
        "removed": 50.0,
        "removed_variance": 25.0,
    }
    return Evidence(**{name: np.broadcast_to(changed.get(name, value), (4,)) * 1.0 for name, value in strong.items()})


def test_verdicts_need_what_they_say():
    audit = conclude(evidence(removed=[50, 0, 50, 50], weighted=[100, 100, 0, 100], n_entries=[100, 100, 100, 9]), 1)
    assert audit.verdict.tolist() == [COMPLETE, DENOISE, UNDECIDED, DENOISE]
    assert not audit.harm
    # Rates with a pattern that are worse than those without, and values alone.
    assert conclude(evidence(removed=0, explained=[-1, 1, 1, 1]), 1).verdict.tolist() == [UNDECIDED, *[DENOISE] * 3]
    alone = conclude(evidence(removed=[50, 0, 0, 0], explained=np.nan, deviance=np.nan), 1)
    assert alone.verdict.tolist() == [COMPLETE, *[UNDECIDED] * 3]
    assert np.isnan(alone.skill.value).all()
    assert "no expected counts" in alone.summary("mine")


def test_intervals_are_normal_and_pooled_over_the_genes():
    one = evidence(explained=[50, 10, 0, -10])
    audit = conclude(one, 1)
    np.testing.assert_allclose(audit.skill.value, [0.5, 0.1, 0, -0.1])
    np.testing.assert_allclose(audit.skill.high - audit.skill.value, 1.959964 * 5 / 100)
    np.testing.assert_allclose(audit.skill.value - audit.skill.low, 1.959964 * 5 / 100)
    assert audit.pooled_skill.value == pytest.approx(50 / 400)
    assert audit.pooled_skill.high - audit.pooled_skill.value == pytest.approx(1.959964 * 10 / 400)
    assert audit.pooled_gain.value == pytest.approx(0.5)
    # Five splits of the same molecules have 0.6 of the variance of one.
    five = conclude(one + one + one + one + one, 5)
    np.testing.assert_allclose(five.skill.value, audit.skill.value)
    np.testing.assert_allclose(five.skill.high - five.skill.value, 1.959964 * 0.05 * np.sqrt(0.6))


def test_harm_is_that_nothing_is_gained():
    assert conclude(evidence(weighted=0), 1).harm  # no gene has a verdict
    assert conclude(evidence(explained=[1, -9, -9, -9], removed=[50, -90, -90, -90]), 1).harm
    assert not conclude(evidence(explained=[50, -1, -1, -1], removed=-50), 1).harm
