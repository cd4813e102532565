"""Sections as arrays: hiding, thinning, scales."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.counts_model import resolved, sections_of, synthetic, with_counts, with_silent_spots
from spared_sc._kernels.masking import hide_detected

if TYPE_CHECKING:
    import anndata as ad

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def made() -> ad.AnnData:
    return synthetic()


@pytest.fixture
def adata(made) -> ad.AnnData:
    """Two small libraries; about a third of the entries is not detected."""
    return made.copy()


@pytest.fixture(scope="module")
def small() -> Sections:
    return sections_of(synthetic())


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
    np.testing.assert_array_equal(one.counts.values, two.counts.values)
    np.testing.assert_array_equal(one.counts.depth, two.counts.depth)
    np.testing.assert_allclose(one.values, two.values, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.count_scale(), two.count_scale(), rtol=1e-4)
    # and it is what a section without these molecules is
    alone = sections_of(with_counts(adata, np.where(place, 0, counts)))
    np.testing.assert_allclose(one.values, alone.values, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(one.counts.values, alone.counts.values)
    np.testing.assert_array_equal(one.counts.depth, alone.counts.depth)
    # the truth is in the unit of what is left: that of a count
    truth = found.sections.renormalised(hidden)
    scale = np.expm1(truth[hidden] * np.log(2)) / found.sections.counts.values[hidden]
    np.testing.assert_allclose(scale, one.count_scale()[hidden], rtol=1e-3)
    np.testing.assert_array_equal(truth[one.known], one.values[one.known])


def test_hiding_without_counts_or_of_another_layer_leaves_the_rest_as_it_is(adata, hidden):
    adata.layers["centred"] = adata.layers["log2tpm"].toarray() - 14
    for sections in (
        replace(sections_of(adata), counts=None, total=None),
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
    assert not small.without(hidden).counts.depth[[4, 100]].any()


def test_values_of_whole_spots_stay_and_those_of_parts_follow_what_is_left(silenced):
    sections, hidden, _ = silenced
    np.testing.assert_array_equal(sections.renormalised(hidden), sections.values)
    part = hidden.copy()
    rows = np.flatnonzero(hidden.any(axis=1))
    kept = [np.flatnonzero(hidden[row])[0] for row in rows]
    part[rows, kept] = False  # one entry of each of these spots stays visible
    truth = sections.renormalised(part)
    scaled = np.exp2(sections.values.astype(float)) - 1
    left = [scaled[row].sum() - scaled[row, part[row]].sum() + sections.total[row] - scaled[row].sum() for row in rows]
    expected = np.log2(1 + scaled[rows] * (sections.total[rows] / left)[:, None])
    np.testing.assert_allclose(truth[rows], expected, rtol=1e-5)
    np.testing.assert_array_equal(truth[rows, kept], sections.without(part).values[rows, kept])
    assert (truth[rows] - sections.values[rows])[part[rows]].min() > 0.05


def test_some_spots_of_sections(small):
    spots = np.flatnonzero(small.library == 1)
    with_embedding = replace(small, embedding=np.arange(2.0 * len(small.values)).reshape(-1, 2))
    part = with_embedding.of_spots(spots)
    np.testing.assert_array_equal(part.embedding, with_embedding.embedding[spots])
    for name in ("values", "known", "total"):
        np.testing.assert_array_equal(getattr(part, name), getattr(small, name)[spots])
    np.testing.assert_array_equal(part.counts.values, small.counts.values[spots])
    np.testing.assert_array_equal(part.counts.depth, small.counts.depth[spots])
    assert part.n_libraries == 1
    hops = [small.lattice.hops(1), part.lattice.hops(1)]
    neighbours = [[set(i[p[s] : p[s + 1]].tolist()) for s in range(len(p) - 1)] for p, i, _ in hops]
    assert [{int(np.flatnonzero(spots == n)[0]) for n in neighbours[0][s]} for s in spots] == neighbours[1]


def test_counts_and_embedding_are_asked_for(small):
    assert small.need_counts() is small.counts
    blind = replace(small, counts=None)
    assert blind.of_spots(np.arange(3)).counts is None
    for use in (
        blind.need_counts,
        blind.count_scale,
        blind.whole_depth,
        lambda: blind.thinned(np.random.default_rng(0)),
    ):
        with pytest.raises(ValueError, match=r"no raw counts.*adata\.X or adata\.layers"):
            use()
    with pytest.raises(ValueError, match="no embedding.*`use_rep=`"):
        small.need_embedding()


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
    counts = small.counts.values
    halves = [small.thinned(np.random.default_rng(seed)) for seed in range(200)]
    for half, other in halves[:3]:
        np.testing.assert_array_equal(half.counts.values + other, counts)
        np.testing.assert_array_equal(half.known, half.counts.values > 0)
        assert (half.counts.values % 1 == 0).all()
        assert (half.counts.depth >= half.counts.values.sum(axis=1)).all()
    mean = np.mean([half.counts.values for half, _ in halves], axis=0)
    variance = np.var([half.counts.values for half, _ in halves], axis=0)
    z = (mean - counts / 2)[counts > 0] / np.sqrt(counts[counts > 0] / 4 / 200)
    assert abs(z).max() < 5
    assert z.var() == pytest.approx(1, abs=0.1)
    assert variance.sum() == pytest.approx(counts.sum() / 4, rel=0.03)
    # values are TPM of the half, up to what lengths make of its total
    half = halves[0][0]
    length = adata.var["gene_length"].to_numpy()
    found = resolved(adata)
    full = adata.X.toarray()[found.order]
    scale = 1e6 / (full / length).sum(axis=1) * full.sum(axis=1) / half.counts.depth
    expected = np.log2(1 + half.counts.values * (scale[:, None] / length)[:, found.genes])
    np.testing.assert_allclose(half.values, expected, rtol=0, atol=1e-4)


def test_two_halves_are_alike(small):
    """The same sections with the counts that the first half lacks, as a half of their own."""
    half, other = small.halves(np.random.default_rng(0))
    np.testing.assert_array_equal(half.counts.values + other.counts.values, small.counts.values)
    np.testing.assert_array_equal(half.counts.depth + other.counts.depth, small.counts.depth)
    np.testing.assert_array_equal(other.known, other.counts.values > 0)
    for part in (half, other):  # the layer is log2(count x scale + 1), with a scale of spot and gene
        both = part.known & small.known
        scale = (2.0 ** part.values[both] - 1) / part.counts.values[both]
        whole = (2.0 ** small.values[both] - 1) / small.counts.values[both]
        up = (small.counts.depth / part.counts.depth)[np.nonzero(both)[0]]
        np.testing.assert_allclose(scale, whole * up, rtol=1e-3)


@pytest.fixture(scope="module")
def silenced():
    return with_silent_spots()


def test_silent_spots_are_those_without_known_entries(silenced):
    _, hidden, visible = silenced
    assert np.array_equal(visible.silent, hidden.any(axis=1))


def test_depth_and_scale_of_silent_spots(silenced):
    sections, hidden, visible = silenced
    silent = visible.silent
    assert np.array_equal(visible.whole_depth()[~silent], visible.counts.depth[~silent])
    off = np.abs(np.log(visible.whole_depth() / sections.counts.depth))[silent]
    assert np.median(off) < 0.1
    assert np.median(np.abs(np.log(visible.counts.depth / sections.counts.depth))[silent]) > 2 * np.median(off)
    # What a count adds to the scaled expression there, against what it added when it was measured.
    scaled = np.exp2(sections.values[hidden]) - 1
    per_count = scaled / sections.counts.values[hidden]
    off = np.log(visible.count_scale()[hidden] / per_count)
    assert np.median(np.abs(off)) < 0.15
    assert abs(off.mean()) < 0.05
    # Without any count left, a silent spot is as deep as others.
    empty = replace(visible, counts=replace(visible.counts, depth=np.where(silent, 0.0, visible.counts.depth)))
    for code in range(2):
        here = empty.library == code
        expected = np.median(empty.counts.depth[here & ~silent])
        assert (empty.whole_depth()[here & silent] == expected).all()


def test_exposure_of_silent_spots_is_that_of_their_depth(silenced):
    sections, _, visible = silenced
    np.testing.assert_allclose(sections.exposure() * sections.count_scale(), 1, rtol=1e-6)
    silent = visible.silent
    depth = np.where(np.arange(len(silent)) % 2, 0.0, 25.0)
    shallow = replace(visible, counts=replace(visible.counts, depth=np.where(silent, depth, visible.counts.depth)))
    exposure = shallow.exposure()
    for code in range(2):
        here = shallow.library == code
        per_molecule = exposure[here & ~silent] / shallow.counts.depth[here & ~silent, None]
        usual = np.exp(np.log(per_molecule).mean(axis=0))
        some = here & silent & (depth > 0)
        np.testing.assert_allclose(exposure[some], np.tile(25 * usual, (some.sum(), 1)), rtol=1e-3)
        assert (exposure[here & silent & (depth == 0)] < 1e-4 * exposure[here & ~silent].min()).all()
