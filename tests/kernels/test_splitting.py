"""_kernels/splitting."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spared_sc._kernels.splitting import connected, draw_splits


@given(st.integers(1, 8).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_groups_are_the_connected_components(case):
    n, pairs = case
    groups = connected(n, pairs)
    rows, columns = np.array(pairs, dtype=int).reshape(-1, 2).T
    _, label = connected_components(coo_matrix((np.ones(len(pairs)), (rows, columns)), shape=(n, n)), directed=False)
    assert groups == [np.flatnonzero(label == group).tolist() for group in dict.fromkeys(label.tolist())]


@given(st.lists(st.integers(1, 50), min_size=3, max_size=12), st.integers(0, 20))
def test_every_split_gets_a_group_and_groups_stay_together(sizes, seed):
    groups = [[2 * i, 2 * i + 1] for i in range(len(sizes))]
    n_spots, share = np.repeat(sizes, 2), np.array([0.6, 0.2, 0.2])
    splits = draw_splits(groups, n_spots, share, seed)
    assert set(splits) == {0, 1, 2}
    assert (splits[::2] == splits[1::2]).all()
    np.testing.assert_array_equal(splits, draw_splits(groups, n_spots, share, seed))


def test_a_share_of_zero_stays_empty_and_large_shares_get_most():
    splits = draw_splits([[i] for i in range(10)], np.full(10, 7), np.array([0.8, 0.0, 0.2]), 3)
    assert np.bincount(splits, minlength=3).tolist() == [8, 0, 2]
