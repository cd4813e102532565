"""_kernels/folds."""

from __future__ import annotations

import numpy as np

from spared_sc._kernels.folds import detected_in_training, plan


def test_genes_that_training_has_detected():
    library = np.array([0, 0, 1, 2])
    detected = np.array([[1, 0, 0], [0, 0, 0], [1, 1, 0], [0, 1, 0]], dtype=bool)
    folds, _ = plan(np.array(["train", "val", "test"]), np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(detected_in_training(folds, library, detected), [[True, False, False]] * 4)
    folds, _ = plan(None, np.array(["a", "a", "b"]))  # libraries 0 and 1 by a fit to 2, and the other way round
    expected = [[False, True, False]] * 3 + [[True, True, False]]
    np.testing.assert_array_equal(detected_in_training(folds, library, detected), expected)
