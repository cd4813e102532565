"""_models/prediction/egn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from helpers.networks import COMPUTE, N_GENES, batch_of, guided, make_spots
from spared_sc._models.prediction.egn import Egn, EgnNet

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def train() -> Spots:
    return make_spots()


@pytest.fixture
def validation() -> Spots:
    return replace(make_spots(10, seed=1), library=np.full(10, 3))


def recorded_exemplars(monkeypatch) -> list[tuple[np.ndarray, np.ndarray]]:
    calls, run = [], EgnNet.forward

    def recorded(self, images, feature, exemplars):
        calls.append((feature.numpy(), exemplars.numpy()))
        return run(self, images, feature, exemplars)

    monkeypatch.setattr(EgnNet, "forward", recorded)
    return calls


def expected_exemplars(feature, own, reference, library) -> list[list[int]]:
    order = [np.argsort([np.linalg.norm(one - other) for other in reference]) for one in feature]
    return [[j for j in row if library[j] != code][:3] for row, code in zip(order, own, strict=True)]


def test_exemplars_are_the_nearest_of_other_libraries(train, validation, monkeypatch):
    calls = recorded_exemplars(monkeypatch)
    predictor = guided(n_steps=1, train_batch_size=24)
    validation = replace(validation, library=np.arange(10) % 4)  # some are of libraries that are trained on
    predictor.fit(train, validation, COMPUTE)
    (feature, found), (validation_feature, validation_found) = calls
    reference = predictor.network.bank.feature.numpy()
    rows = [int(np.argmin(((reference - one) ** 2).sum(axis=1))) for one in feature]  # of the only batch
    assert sorted(rows) == list(range(24))
    for row, exemplars in zip(rows, found, strict=True):
        assert train.library[row] not in train.library[exemplars]
    assert found.tolist() == expected_exemplars(feature, train.library[rows], reference, train.library)
    expected = expected_exemplars(validation_feature, validation.library, reference, train.library)
    assert validation_found.tolist() == expected
    calls.clear()
    predictor.predict(validation, COMPUTE)
    assert calls[0][1].tolist() == expected_exemplars(validation_feature, [-1] * 10, reference, train.library)
    calls.clear()
    predictor.predict(validation, COMPUTE, own_library=validation.library)
    assert calls[0][1].tolist() == expected


def test_features_are_of_pixels_between_minus_one_and_one(train):
    predictor = guided()
    predictor.fit(train, None, COMPUTE)
    pixels = torch.from_numpy(train.patches.pixels.copy()).permute(0, 3, 1, 2) / 255
    for fitted in (predictor, Egn.from_state(*predictor.state())):
        with torch.no_grad():
            expected = fitted.front.network((pixels - 0.5) / 0.5)
        torch.testing.assert_close(predictor.network.bank.feature, expected, rtol=1e-4, atol=1e-4)


def test_exemplars_are_of_other_sections_than_copies(train, monkeypatch):
    calls = recorded_exemplars(monkeypatch)
    train = replace(train, section=np.where(train.library == 1, 0, train.library))  # library 1 is a copy of library 0
    predictor = guided(n_steps=1, train_batch_size=24)
    predictor.fit(train, None, COMPUTE)
    ((feature, found),) = calls
    reference = predictor.network.bank.feature.numpy()
    for one, exemplars in zip(feature, found, strict=True):
        row = int(np.argmin(((reference - one) ** 2).sum(axis=1)))
        assert train.section[row] not in train.section[exemplars]


def test_exemplars_need_two_libraries(train):
    with pytest.raises(ValueError, match="all training spots are of one library.*train egn on two or more"):
        guided().fit(replace(train, library=np.zeros(24, dtype=int)), None, COMPUTE)


def test_loss_of_egn_is_on_the_unit_scale(train):
    predictor = guided(correlation_weight=0.7)
    predictor.fit(train, None, COMPUTE)
    rows = np.arange(12)
    features = replace(train, embedding=predictor.network.bank.feature.numpy())
    with torch.no_grad():
        loss = predictor.loss(predictor.network, batch_of(features, rows, train.library)).item()
    prediction = predictor.predict(train.take(rows), COMPUTE, own_library=train.library[:12])
    low, high = train.target.min(axis=0), train.target.max(axis=0)
    estimate, target = (prediction - low) / (high - low), (train.target[:12] - low) / (high - low)
    correlation = np.mean([np.corrcoef(estimate[:, g], target[:, g])[0, 1] for g in range(N_GENES)])
    assert loss == pytest.approx(((estimate - target) ** 2).mean() + 0.7 * (1 - correlation), rel=1e-3)


def test_egn_heeds_its_exemplars_and_not_their_order(train):
    predictor = guided()
    predictor.fit(train, None, COMPUTE)
    images, bank = batch_of(train, np.arange(4)).images, predictor.network.bank
    feature, exemplars = bank.feature[:4], torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 5], [6, 7, 11]])
    with torch.no_grad():
        result = predictor.network(images, feature, exemplars)
        torch.testing.assert_close(predictor.network(images, feature, exemplars[:, [2, 0, 1]]), result)
        bank.expression[10] += 1
        other = predictor.network(images, feature, exemplars)
    assert (other[1] - result[1]).abs().max() > 1e-4
    torch.testing.assert_close(other[[0, 2, 3]], result[[0, 2, 3]])
