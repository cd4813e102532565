"""_models/prediction/novelty."""

from __future__ import annotations

import numpy as np
import pytest

from spared_sc._models.prediction.novelty import Novelty


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_novelty_flags_what_is_far_away_and_one_in_a_thousand_of_training(rng):
    train = rng.normal(size=(4000, 30)) @ rng.normal(size=(30, 30))
    novelty = Novelty.of(train)
    assert 0 < novelty.out_of_distribution(train).mean() <= 0.0015
    assert np.sqrt((novelty.distance(train) ** 2).mean()) == pytest.approx(1, abs=0.01)
    assert novelty.out_of_distribution(train[:50] + 20 * train.std(axis=0)).all()
    away = np.zeros(30)
    away[3] = 1e3  # in one direction only
    assert novelty.out_of_distribution(train[:5] + away).all()
