"""_models/prediction/head."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, PoissonRegressor

from helpers.networks import COMPUTE
from spared_sc._models.prediction.head import Head
from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def spots() -> Spots:
    rng = np.random.default_rng(0)
    embedding = (rng.normal(size=(300, 4)) * [1, 10, 0.1, 0] + [0, 5, 0, 2]).astype(np.float32)
    target = embedding @ rng.normal(size=(4, 3)) + rng.normal(size=(300, 3))
    return Spots(np.arange(300) % 3, embedding=embedding, target=target.astype(np.float32))


def fitted(spots: Spots, **params) -> Head:
    model = Head(
        **{"n_steps": 400, "train_batch_size": 300, "optimizer": "sgd", "learning_rate": 0.1, "delta": True, **params}
    )
    model.fit(spots, None, COMPUTE)
    return model


def test_a_linear_layer_is_least_squares(spots):
    expected = LinearRegression().fit(spots.embedding, spots.target).predict(spots.embedding)
    np.testing.assert_allclose(fitted(spots).predict(spots, COMPUTE), expected, atol=2e-3)


def test_counts_with_depth_as_offset_are_poisson_regression(spots):
    rng = np.random.default_rng(1)
    exposure = np.repeat(rng.uniform(0.5, 4, (300, 1)), 3, axis=1).astype(np.float32)
    standard = (spots.embedding - spots.embedding.mean(axis=0)) / np.maximum(spots.embedding.std(axis=0), 1e-6)
    rate = 5 * np.exp(0.4 * standard @ rng.normal(size=(4, 3)))
    counts = rng.poisson(exposure * rate).astype(np.float32)
    counted = replace(spots, counts=counts, exposure=exposure, loss="poisson")
    found = fitted(counted, delta=False).predict(counted, COMPUTE)
    for g in range(3):
        model = PoissonRegressor(alpha=0, max_iter=1000)
        model.fit(standard, counts[:, g] / exposure[:, g], sample_weight=exposure[:, g])
        np.testing.assert_allclose(found[:, g], np.log2(1 + model.predict(standard)), atol=5e-3)


def test_a_hidden_layer_learns_what_is_not_linear(spots):
    curved = replace(spots, target=np.abs(spots.embedding[:, :1] * [1, -1, 2]).astype(np.float32))
    error = [
        ((fitted(curved, hidden=hidden, optimizer="adam").predict(curved, COMPUTE) - curved.target) ** 2).mean()
        for hidden in (None, 16)
    ]
    assert error[1] < 0.1 * error[0]


def test_an_embedding_of_another_width_is_refused(spots):
    narrow = replace(spots, embedding=spots.embedding[:, :3])
    with pytest.raises(ValueError, match="the embedding has 3 columns, and head was fitted on one of 4"):
        fitted(spots, n_steps=1).predict(narrow, COMPUTE)
