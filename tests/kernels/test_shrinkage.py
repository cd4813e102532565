"""_kernels/shrinkage."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import poisson

from helpers.counts_model import sections_of, synthetic
from spared_sc._kernels.shrinkage import Shrinkage, Split, learn, share_counts, shrunk

N_SPOTS, N_GENES = 600, 40
LIBRARY = np.repeat([0, 1], N_SPOTS // 2)


def a_split(seed=0, *, strength=1.0, mean=2.0, error=0.0) -> tuple[Split, np.ndarray]:
    """Held-out counts whose pattern is `strength` times the one that is estimated; the true rates."""
    rng = np.random.default_rng(seed)
    depth = rng.integers(500, 1500, N_SPOTS)
    share = (depth[:, None] / 1000 * mean * np.exp(rng.normal(0, 0.3, N_GENES))).astype(np.float32)
    pattern = 0.5 * rng.normal(size=(N_SPOTS, N_GENES))
    rate = share * np.exp(pattern)
    true = share * np.exp(strength * pattern + error * rng.normal(size=pattern.shape))
    counts = rng.poisson(true).astype(np.float32)
    variances = np.full(share.shape, 0.04, np.float32), np.full(share.shape, 0.01, np.float32)
    values = np.log2(1 + counts)
    split = Split(
        counts=counts,
        rate=rate.astype(np.float32),
        share=share,
        variances=variances,
        values=values,
        filled=np.log2(1 + true).astype(np.float32),
        at_depth=np.log2(1 + share),
        mean=values.mean(axis=0),
        depth=np.full(N_SPOTS, 1e9),
        library=LIBRARY,
    )
    return split, true


def test_shares_are_those_of_the_libraries():
    sections = sections_of(synthetic(n_genes=8))
    counts, depth = sections.counts.values.astype(float), sections.counts.depth
    found = share_counts(sections)
    for code in range(2):
        here = sections.library == code
        expected = counts[here].sum(axis=0) / depth[here].sum()
        np.testing.assert_allclose(found[here], depth[here, None] * expected, rtol=0.03)
    silent = replace(sections.counts, values=np.where(sections.library[:, None] == 0, 0, sections.counts.values))
    found = share_counts(replace(sections, counts=silent))
    assert (found > 0).all()  # one count is expected where there is none


def test_shrunk_rates_keep_their_sums():
    split, _ = a_split()
    weight = np.linspace(0, 1, N_GENES)
    result = shrunk(split.rate, split.share, weight, split.library)
    for code in (0, 1):
        here = LIBRARY == code
        np.testing.assert_allclose(result[here].sum(axis=0), split.rate[here].sum(axis=0), rtol=1e-4)
        kept = np.log(result[here] / split.share[here])
        expected = weight * np.log(split.rate[here] / split.share[here])
        np.testing.assert_allclose(kept - kept.mean(axis=0), expected - expected.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(result[:, -1], split.rate[:, -1], rtol=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.4, 1.0])
def test_weights_are_the_likeliest_ones(strength):
    split, _ = a_split(strength=strength)
    found = learn([split])
    of_genes = []
    for gene in range(N_GENES):
        rate, share, counts = (x[:, [gene]].astype(float) for x in (split.rate, split.share, split.counts))

        def loss(weight, rate=rate, share=share, counts=counts):
            expected = shrunk(rate, share, np.array([weight]), LIBRARY)
            return -poisson.logpmf(counts, expected).sum()

        of_genes.append(minimize_scalar(loss, bounds=(-1, 3), method="bounded").x)
    # Posterior means lie between the gene's own weight and that of all of them.
    own, mean = np.array(of_genes), np.mean(of_genes)
    low, high = (np.clip(end(own, mean), 0, 1) for end in (np.minimum, np.maximum))
    assert ((found.weight >= low - 0.03) & (found.weight <= high + 0.03)).all()
    assert found.weight.mean() == pytest.approx(strength, abs=0.06)
    assert np.abs(found.weight - mean).max() <= np.abs(own - mean).max() + 0.01


def test_without_a_pattern_everything_is_flat():
    found = learn([a_split(seed, strength=0.0)[0] for seed in (0, 1)])
    assert not found.weight.any()
    assert (found.skill < 0).all()
    one = learn([a_split(3, strength=0.0)[0]])
    assert one.pattern.std() == pytest.approx(1, abs=0.25)  # standard normal
    assert one.pattern.mean() == pytest.approx(0, abs=0.5)


def test_skill_is_the_deviance_explained():
    split, _ = a_split()
    found = learn([split])

    def deviance(expected):
        return 2 * (poisson.logpmf(split.counts, split.counts) - poisson.logpmf(split.counts, expected)).sum(axis=0)

    np.testing.assert_allclose(found.skill, 1 - deviance(split.rate) / deviance(split.share), rtol=1e-4)
    repeated = [learn([a_split(seed)[0]]).skill[0] for seed in range(40)]  # of other counts, patterns and levels
    assert 0.5 < found.skill_se[0] / np.std(repeated) < 2


def test_the_variance_is_that_of_the_errors():
    """Errors of a tenth, whose two parts have a variance of 0.04 and 0.01 for a factor of one."""
    split, _ = a_split(mean=30.0, error=np.sqrt(0.1))
    found = learn([split])
    variance = found.variances @ [0.04, 0.01]
    assert variance == pytest.approx(0.1, rel=0.25)
    none = learn([a_split(mean=30.0)[0]])
    assert none.variances @ [0.04, 0.01] < 0.01
    few = learn([replace(split, **{name: getattr(split, name)[:2] for name in OF_SPOTS}, variances=_first(split))])
    np.testing.assert_allclose(few.variances, (2.0, 0.3), atol=1.0)  # the prior has its say


OF_SPOTS = ("counts", "rate", "share", "values", "filled", "at_depth", "depth", "library")


def _first(split):
    return tuple(variance[:2] for variance in split.variances)


def test_held_out_counts_of_few_molecules_vary_less():
    """Multinomial counts: at a depth of 40, their variance is not that of Poisson counts."""
    rng = np.random.default_rng(0)
    n, depth = 4000, 40
    share = np.array([0.4, 0.3, 0.2, 0.1])
    counts = rng.multinomial(depth, share, size=n).astype(np.float32)
    rate = np.tile(depth * share, (n, 1)).astype(np.float32)
    values = np.log2(1 + counts)
    parts = np.full(rate.shape, 0.1, np.float32), np.full(rate.shape, 1e-9, np.float32)
    split = Split(counts, rate, rate, parts, values, values, values, values[0], np.full(n, depth), np.zeros(n, int))
    assert learn([split]).variances[0] < 0.05


def test_values_given_detection_beat_averages():
    split, _ = a_split(mean=20.0)
    assert (learn([split]).given_detection > 3).all()
    same = replace(split, filled=split.at_depth)
    assert not (learn([same]).given_detection > 0).any()
    rare = replace(split, counts=np.where(np.arange(N_SPOTS)[:, None] < 9, split.counts, 0))
    assert np.isnan(learn([rare]).given_detection).all()


def test_weights_of_different_lengths_are_refused():
    found = learn([a_split()[0]])
    values = {f.name: getattr(found, f.name) for f in fields(Shrinkage)}
    with pytest.raises(ValueError, match="one weight for each gene"):
        Shrinkage(**{**values, "skill": values["skill"][:-1]})
    with pytest.raises(ValueError, match="one weight for each gene"):
        Shrinkage(**{**values, "variances": np.ones(3)})
