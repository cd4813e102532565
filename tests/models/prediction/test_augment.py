"""_models/prediction/augment."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from helpers.networks import COMPUTE, Patches, make_spots, regression
from spared_sc._models.prediction import augment
from spared_sc._models.prediction.image_regression import ImageRegression

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def train() -> Spots:
    return make_spots()


def eight(image: np.ndarray) -> list[np.ndarray]:
    """The symmetries of an image (side, side, channels), by numpy."""
    return [np.rot90(one, turns) for one in (image, np.fliplr(image)) for turns in range(4)]


def test_symmetries_are_the_eight_of_a_square():
    image = np.random.default_rng(0).integers(0, 255, size=(7, 7, 3))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = {augment.symmetry(tensor, code)[0].permute(1, 2, 0).numpy().tobytes() for code in range(8)}
    assert ours == {np.ascontiguousarray(one).tobytes() for one in eight(image)}
    assert len(ours) == 8


def test_every_image_gets_its_own_symmetry():
    images = torch.rand(20, 3, 6, 6)
    codes = torch.arange(20) % 8
    for image, code, result in zip(images, codes, augment.transformed(images, codes), strict=True):
        torch.testing.assert_close(result, augment.symmetry(image, int(code)), rtol=0, atol=0)


@pytest.mark.parametrize("augmented", [True, False])
def test_training_patches_are_turned_one_by_one(train, augmented, monkeypatch):
    batches, loss = [], ImageRegression.loss

    def recorded(self, network, batch):
        batches.append((batch.images.clone(), batch.rows.clone()))
        return loss(self, network, batch)

    monkeypatch.setattr(ImageRegression, "loss", recorded)
    regression(augment=augmented, n_steps=6).fit(train, None, COMPUTE)
    assert len(batches) == 6
    drawn = []
    for images, rows in batches:
        assert len(set(rows.tolist())) == 8  # no spot twice in a batch
        kinds = []
        for image, row in zip(images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
            alike = [np.array_equal(image, one) for one in eight(train.patches.pixels[row])]
            assert sum(alike) == 1
            kinds.append(alike.index(True))
        drawn.append(kinds)
    if augmented:
        assert all(len(set(kinds)) > 1 for kinds in drawn)
        assert set(sum(drawn, [])) == set(range(8))
    else:
        assert set(sum(drawn, [])) == {0}


def test_predictions_average_the_symmetries(train):
    predictor = regression(symmetries=True)
    predictor.fit(train, None, COMPUTE)
    arrays, values = predictor.state()
    plain = ImageRegression.from_state(arrays, {**values, "params": regression().params()})
    turned = [
        replace(train, patches=Patches(np.stack([eight(patch)[code] for patch in train.patches.pixels])))
        for code in range(8)
    ]
    each = [plain.predict(spots, COMPUTE) for spots in turned]
    assert np.ptp(each, axis=0).max() > 1e-4
    for spots in turned[:3]:
        np.testing.assert_allclose(predictor.predict(spots, COMPUTE), np.mean(each, axis=0), rtol=1e-4, atol=1e-5)
