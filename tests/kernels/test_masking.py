"""_kernels/masking."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from spared_sc._kernels import lattice as lattices
from spared_sc._kernels import masking
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.moran import lattice_weights


def test_every_detected_entry_has_the_chance_of_its_regime():
    rng = np.random.default_rng(0)
    expressed = np.array([0.05, 0.2, 0.32, 0.5, 1.0])
    detected = rng.random((40_000, 5)) < expressed
    for share in (0.1, 0.7):
        hidden = masking.hide_detected(detected, share, rng)
        assert not (hidden & ~detected).any()
        np.testing.assert_allclose(hidden.sum(axis=0) / detected.sum(axis=0), share, atol=0.04)
    hidden = masking.hide_share_of_all(detected, 0.3, rng)
    assert not (hidden & ~detected).any()
    np.testing.assert_allclose(hidden.sum(axis=0) / detected.sum(axis=0), [0.9, 0.9, 0.9, 0.6, 0.3], atol=0.03)
    np.testing.assert_allclose(hidden.mean(axis=0)[3:], 0.3, atol=0.01)


@pytest.fixture(scope="module")
def tissue():
    """Two full hexagonal arrays, of 400 and 100 spots, and one single spot."""
    position, library = [], []
    for code, size in enumerate(((20, 20), (10, 10), (1, 1))):
        row, col = (index.ravel() for index in np.indices(size))
        position.append(np.column_stack([row, 2 * col + row % 2]))
        library.append(np.full(row.size, code))
    position, library = np.concatenate(position), np.concatenate(library)
    detected = np.random.default_rng(0).random((library.size, 6)) < 0.7
    return detected, library, lattices.from_array(position, library)


@pytest.mark.parametrize("kind", ["spots", "blocks"])
def test_a_tenth_of_the_spots_of_every_library_is_hidden_wholly(tissue, kind):
    detected, library, lattice = tissue
    share = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        if kind == "spots":
            hidden = masking.hide_spots(detected, library, 0.1, rng)
        else:
            hidden = masking.hide_blocks(detected, library, lattice, 0.1, rng)
        chosen = hidden.any(axis=1)
        np.testing.assert_array_equal(hidden, detected & chosen[:, None])
        share.append(np.bincount(library, chosen & detected.any(axis=1)))
    np.testing.assert_allclose(np.mean(share, axis=0), [40, 10, 0], atol=0.2)  # some spots detected nothing


def test_blocks_are_contiguous(tissue):
    detected, library, lattice = tissue
    detected = np.ones_like(detected)
    weights = lattice_weights(lattice)
    indptr, indices, _ = lattice.hops(2)
    in_the_middle, n_patches = [], []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        chosen = masking.hide_blocks(detected, library, lattice, 0.1, rng).any(axis=1)
        for code, n_hidden in ((0, 40), (1, 10)):
            spots = np.flatnonzero(chosen & (library == code))
            assert spots.size == n_hidden
            n_patches.append(connected_components(weights[spots][:, spots])[0])
            # 40 spots are two or three patches inside, five in the corners; 40 single ones would be about 25
            assert n_patches[-1] <= (5 if code == 0 else 2)
        within = [chosen[indices[indptr[s] : indptr[s + 1]]].all() for s in np.flatnonzero(chosen)]
        in_the_middle.append(np.any(within))
    assert np.mean(in_the_middle) > 0.9
    assert len(set(n_patches)) > 1


# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 1.0])
def test_the_share_of_hidden_entries_is_the_one_asked_for(share):
    rng = np.random.default_rng(0)
    detected = rng.random((500, 200)) < 0.4
    hidden = hide_detected(detected, share, rng)
    assert not (hidden & ~detected).any()
    n = detected.sum()
    # five standard deviations of the binomial
    assert abs(hidden.sum() - share * n) <= 5 * np.sqrt(n * share * (1 - share))
    by_gene = hidden.sum(axis=0) / detected.sum(axis=0)
    assert abs(by_gene - share).max() <= 5 * np.sqrt(share * (1 - share) / detected.sum(axis=0).min())


def test_hidden_entries_follow_the_generator():
    detected = np.ones((30, 20), dtype=bool)
    first, again, other = (hide_detected(detected, 0.5, np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
