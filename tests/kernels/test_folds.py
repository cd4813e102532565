"""_kernels/folds."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from spared_sc._kernels.folds import (
    connected,
    detected_in_training,
    draw_splits,
    plan,
    shares_in_training,
    split_fold,
)


def test_genes_that_training_has_detected():
    library = np.array([0, 0, 1, 2])
    detected = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    folds, _ = plan(np.array(["train", "val", "test"]), np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(detected_in_training(folds, library, detected), [[True, False, False]] * 4)
    folds, _ = plan(None, np.array(["a", "a", "b"]))  # libraries 0 and 1 by a fit to 2, and the other way round
    expected = [[False, True, False]] * 3 + [[True, True, False]]
    np.testing.assert_array_equal(detected_in_training(folds, library, detected), expected)


def test_with_a_split_there_is_one_fold():
    split = np.array(["train", "val", "test", "train"])
    (fold,), roles = plan(split, np.array(["a", "a", "b", "c"]), validates=True)
    assert roles == split.tolist()
    assert fold.train.tolist() == [True, False, False, True]
    assert fold.validation.tolist() == [False, True, False, False]
    assert fold.predicted.all()
    every = split_fold(None, 3)
    assert every.train.all()
    assert not every.validation.any()
    assert every.predicted.all()


def test_groups_are_held_out_together():
    groups = np.array(["a", "b", "a"])
    folds, roles = plan(None, groups)
    assert roles == ["held out"] * 3
    assert [fold.predicted.tolist() for fold in folds] == [[True, False, True], [False, True, False]]
    assert [fold.train.tolist() for fold in folds] == [[False, True, False], [True, False, True]]


def test_a_section_selects_where_enough_are_left():
    groups = np.array(["a", "b", "c", "d"])
    for least, n_groups, expected in ((1, 4, True), (1, 3, True), (2, 4, True), (2, 3, False), (1, 2, False)):
        folds, roles = plan(None, groups[:n_groups], validates=True, least_train=least)
        assert roles == ["held out"] * n_groups
        for fold in folds:
            assert fold.validation.any() == expected
            assert fold.train.sum() >= least
            assert (fold.train.astype(int) + fold.validation + fold.predicted == 1).all()


def test_shares_of_the_genes_in_training():
    library = np.array([0, 0, 1, 2])
    counts = np.array([[1, 0], [2, 1], [4, 4], [0, 3]])
    depth = np.array([10.0, 20.0, 40.0, 50.0])
    folds, _ = plan(np.array(["train", "val", "test"]), np.array(["a", "b", "c"]))
    np.testing.assert_allclose(shares_in_training(folds, library, counts, depth), [[3 / 30, 1 / 30]] * 3)
    folds, _ = plan(None, np.array(["a", "a", "b"]))
    expected = [[0, 3 / 50], [0, 3 / 50], [7 / 70, 5 / 70]]
    np.testing.assert_allclose(shares_in_training(folds, library, counts, depth), expected)


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
