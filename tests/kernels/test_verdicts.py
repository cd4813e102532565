"""_kernels/verdicts."""

from __future__ import annotations

import numpy as np
from scipy.stats import false_discovery_control, norm

from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED, decide, discoveries


def test_verdicts():
    strong, none = 9.0, -1.0
    given_detection = np.array([strong, none, strong, none, np.nan, np.nan])
    pattern = np.array([strong, strong, none, none, strong, np.nan])
    expected = [COMPLETE, DENOISE, UNDECIDED, UNDECIDED, DENOISE, UNDECIDED]
    assert decide(given_detection, pattern).tolist() == expected


def test_discoveries_are_those_of_benjamini_and_hochberg():
    rng = np.random.default_rng(0)
    for n_true in (0, 5, 50):
        chance = norm.sf(rng.normal(size=200) + 4 * (np.arange(200) < n_true))
        np.testing.assert_array_equal(discoveries(chance), false_discovery_control(chance) <= 0.05)
    assert not discoveries(np.ones(3)).any()
    assert discoveries(np.array([])).size == 0


def test_few_of_the_discoveries_are_false():
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(200):
        varies = np.arange(100) < 30
        verdict = decide(np.full(100, np.nan), rng.normal(size=100) + 4 * varies)
        found = verdict == DENOISE
        shares.append((found & ~varies).sum() / max(found.sum(), 1))
    assert np.mean(shares) < 0.06
