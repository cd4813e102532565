"""_models/prediction/image_regression."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from helpers.networks import COMPUTE, TINY, make_spots, regression, some_known
from spared_sc._models.prediction import backbones
from spared_sc._models.prediction.image_regression import STNet, STNetHe
from spared_sc._models.prediction.networks import Shape

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def train() -> Spots:
    return make_spots()


@pytest.fixture
def validation() -> Spots:
    return replace(make_spots(10, seed=1), library=np.full(10, 3))


def test_delta_learns_deviations_and_adds_the_mean(train, validation):
    mean = train.target.mean(axis=0)
    predictor, centred = regression(delta=True), regression()
    predictor.fit(train, validation, COMPUTE)
    centred.fit(
        replace(train, target=train.target - mean), replace(validation, target=validation.target - mean), COMPUTE
    )
    np.testing.assert_allclose(
        predictor.predict(validation, COMPUTE), centred.predict(validation, COMPUTE) + mean, rtol=1e-4, atol=1e-4
    )
    assert np.abs(mean).max() > 1


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("partly", [False, True])
def test_stnet_of_he_starts_as_the_mean_expression(train, validation, delta, partly):
    train = some_known(train) if partly else train
    predictor = STNetHe(**TINY, delta=delta, n_steps=1, train_batch_size=8, learning_rate=1e-12)
    predictor.fit(train, None, COMPUTE)
    mean = train.gene_means()
    np.testing.assert_allclose(predictor.predict(validation, COMPUTE), np.tile(mean, (10, 1)), rtol=1e-5)


def test_stnet_of_spared_has_a_plain_head(train):
    predictor = STNet(**TINY)
    network = predictor.make_network(Shape(5, None, 24), "random")
    before = network.head.weight.clone(), network.head.bias.clone()
    predictor.prepare(network, train)
    torch.testing.assert_close([network.head.weight, network.head.bias], list(before), rtol=0, atol=0)
    assert network.head.weight.std() > 0


@pytest.mark.parametrize("model", [STNet, STNetHe])
def test_predictions_of_stnet_are_means_over_rotated_and_mirrored_patches(model, train):
    predictor = model(**TINY, n_steps=1, train_batch_size=8)
    predictor.fit(train, None, COMPUTE)
    torch.nn.init.normal_(predictor.network.head.weight, generator=torch.Generator().manual_seed(0))
    pixels = train.patches.pixels
    views = [np.rot90(flipped, k, axes=(1, 2)) for flipped in (pixels, pixels[:, :, ::-1]) for k in range(4)]
    with torch.no_grad():
        each = [predictor.network(torch.tensor(view.copy()).permute(0, 3, 1, 2).float()).numpy() for view in views]
    np.testing.assert_allclose(predictor.predict(train, COMPUTE), np.mean(each, axis=0), rtol=1e-4, atol=1e-4)
    assert np.std(each, axis=0).max() > 1e-2


def test_images_are_brought_to_the_size_of_the_network(train):
    seen = []
    predictor = regression(image_size=20, augment=False)
    predictor.fit(train, None, COMPUTE)
    predictor.network.body.normalise.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    predictor.predict(train, replace(COMPUTE, batch_size=64))
    images = torch.cat([inputs[0] for inputs, _ in seen])
    normalised = torch.cat([output for _, output in seen])
    pixels = torch.from_numpy(train.patches.pixels.copy()).permute(0, 3, 1, 2).float()
    expected = nn.functional.interpolate(pixels, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(normalised, (expected / 255 - 0.5) / 0.5)  # timm's card of this network says 0.5
    body = backbones.Backbone("torchvision:shufflenet_v2_x0_5", "random")
    channels = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(body.normalise(pixels), (pixels / 255 - channels[0]) / channels[1])


def test_regression_learns_colours(train):
    predictor = regression(n_steps=60, train_batch_size=24, learning_rate=1e-3, start_at_mean=True)
    predictor.fit(train, None, COMPUTE)
    new = make_spots(20, seed=5)
    error = ((predictor.predict(new, COMPUTE) - new.target) ** 2).mean()
    assert error < 0.5 * ((train.target.mean(axis=0) - new.target) ** 2).mean()
