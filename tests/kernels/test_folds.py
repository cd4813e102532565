"""_kernels/folds."""

from __future__ import annotations

import numpy as np

from spared_sc._kernels.folds import detected_in_training, plan, split_fold


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
