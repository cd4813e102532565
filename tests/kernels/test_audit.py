"""_kernels/audit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from helpers.evaluation import SECTIONS, sections_of
from spared_sc._kernels import audit
from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.sections import Estimate


@pytest.fixture
def sections(collection):
    return sections_of(collection(**SECTIONS))


def test_blocks_are_spots_within_two_hops(sections):
    block = audit.divide_into_blocks(sections, np.random.default_rng(0))
    np.testing.assert_array_equal(np.unique(block), np.arange(block.max() + 1))
    indptr, indices, _ = sections.lattice.hops(2)
    near = [{s, *indices[indptr[s] : indptr[s + 1]].tolist()} for s in range(len(block))]
    for number in range(block.max() + 1):
        spots = set(np.flatnonzero(block == number).tolist())
        assert any(spots <= near[spot] for spot in spots)
    assert 4 < len(block) / (block.max() + 1) <= 19


@pytest.mark.parametrize("n", [0, 1, 7, 200])
def test_false_discoveries_as_scipy_controls_them(n):
    rng = np.random.default_rng(n)
    chance = np.where(rng.random(n) < 0.3, rng.beta(0.1, 5, n), rng.random(n))
    expected = stats.false_discovery_control(chance) <= 0.05 if n else np.zeros(0, dtype=bool)
    np.testing.assert_array_equal(audit.discoveries(chance), expected)
    tied = np.repeat(chance, 3).round(2)
    expected = stats.false_discovery_control(tied) <= 0.05 if n else np.zeros(0, dtype=bool)
    np.testing.assert_array_equal(audit.discoveries(tied), expected)


def mean(sections) -> Estimate:
    """Mean of each gene; expected counts in proportion to depth."""
    counts = sections.counts
    share = counts.values.sum(axis=0) / counts.depth.sum()
    values = np.broadcast_to(gene_means(sections.values, sections.known), sections.values.shape)
    return Estimate(values.astype(np.float32), (counts.depth[:, None] * share).astype(np.float32))


def test_a_method_that_equals_its_references_has_no_skill(sections):
    calls = []
    result = audit.audit(
        sections, mean, dict.fromkeys(audit.REFERENCES, mean), n_masks=2, seed=3, on_fit=lambda: calls.append(1)
    )
    assert len(calls) == 3
    errors = result.columns
    np.testing.assert_allclose(errors["mse"], errors["mse_additive"])
    np.testing.assert_allclose(errors["mse"], errors["mse_gene_mean"])
    assert (errors["mse_depth_only"] <= errors["mse"] * (1 + 1e-12)).all()  # the better of two estimates from depth
    assert result.skill <= 1e-12
    np.testing.assert_allclose(errors["rate_skill"], 0, atol=1e-12)
    assert result.harm
    assert not result.negligible
    assert result.count(audit.COMPLETE) == 0
    assert np.isnan(result.coverage_90)
    assert sum(result.count(v) for v in (audit.AS_IS, audit.DROP, audit.NOT_AUDITED)) == len(result.verdict)


def test_the_share_of_entries_inside_of_the_intervals(sections):
    def wide(visible):
        return replace(mean(visible), sd=np.full(visible.values.shape, 1e3, np.float32))

    result = audit.audit(sections, wide, dict.fromkeys(audit.REFERENCES, mean), n_masks=1, seed=0, on_fit=lambda: None)
    assert result.coverage_90 == 1
    assert result.count(audit.COMPLETE) == 0


def test_references_without_expected_counts_are_refused(sections):
    def without(visible):
        return Estimate(mean(visible).values)

    with pytest.raises(ValueError, match="no expected counts"):
        audit.audit(sections, mean, dict.fromkeys(audit.REFERENCES, without), n_masks=1, seed=0, on_fit=lambda: None)
