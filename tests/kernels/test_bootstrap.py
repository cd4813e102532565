"""_kernels/bootstrap."""

from __future__ import annotations

import numpy as np

from spared_sc._kernels.bootstrap import unit_weights


def test_donors_are_drawn_as_a_whole():
    weights = unit_weights(["x", "y", "x", "z"], 5000, np.random.default_rng(0))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    # Of three draws, "x" makes up 0 to 3; then its two sections are that many of all that are drawn.
    drawn = {tuple(row) for row in (weights[:, [0, 1, 3]]).round(9)}
    expected = {
        tuple(np.round([x / (2 * x + y + z), y / (2 * x + y + z), z / (2 * x + y + z)], 9))
        for x in range(4)
        for y in range(4 - x)
        for z in [3 - x - y]
    }
    assert drawn == expected
