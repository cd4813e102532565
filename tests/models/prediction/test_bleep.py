"""_models/prediction/bleep."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from helpers.networks import COMPUTE, N_GENES, batch_of, contrastive, make_spots, some_known
from spared_sc._models.prediction import bleep
from spared_sc._models.prediction.bleep import contrastive_loss

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def train() -> Spots:
    return make_spots()


@pytest.fixture
def validation() -> Spots:
    return replace(make_spots(10, seed=1), library=np.full(10, 3))


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


def bleep_loss(spots: np.ndarray, images: np.ndarray, temperature: float) -> float:
    """Equations 1 to 4 of the paper, one spot at a time."""
    n = len(spots)
    target = [softmax((images[i] @ images.T + spots[i] @ spots.T) / 2 / temperature) for i in range(n)]
    total = 0.0
    for i in range(n):
        by_spot = np.log(softmax(spots[i] @ images.T / temperature))
        by_image = np.log(softmax(images[i] @ spots.T / temperature))
        for j in range(n):
            total -= target[i][j] * by_spot[j] + target[j][i] * by_image[j]
    return total / 2 / n


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_contrastive_loss_is_the_papers(temperature):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 7, 4))
    ours = contrastive_loss(torch.from_numpy(one), torch.from_numpy(other), temperature).item()
    assert ours == pytest.approx(bleep_loss(one, other, temperature), rel=1e-10)


def test_spots_are_compared_within_chunks(train):
    predictor = contrastive()
    predictor.fit(train, None, COMPUTE)
    network = predictor.network.double()
    rows = np.array([5, 3, 11, 2, 9, 20, 1, 14])
    batch = batch_of(train, rows)
    batch = replace(batch, images=batch.images.double())
    with torch.no_grad():
        spots = network.expression(torch.from_numpy(train.target[rows]).double()).numpy()
        patches = network.image_head(network.body(batch.images)).numpy()
        network.image = lambda images: network.image_head(network.body(images))  # stays in double precision
        ours = predictor.loss(network, batch).item()
    expected = (5 * bleep_loss(spots[:5], patches[:5], 1.0) + 3 * bleep_loss(spots[5:], patches[5:], 1.0)) / 8
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", bleep.RETRIEVALS)
@pytest.mark.parametrize("partly", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_retrieval_takes_the_expression_of_the_nearest(train, validation, how, partly, own):
    train = some_known(train) if partly else train
    if partly:
        train.known[:, 1] = False
    predictor = contrastive(retrieval=how)
    predictor.fit(train, None, COMPUTE)
    own_library = np.array([0, 1, 2, -1, 0, 1, 2, -1, 0, 1]) if own else None
    ours = predictor.predict(validation, COMPUTE, own_library=own_library)
    known = np.ones(train.target.shape, dtype=bool) if train.known is None else train.known
    mean = train.gene_means()
    filled = np.where(known, train.target, mean).astype(np.float32)
    with torch.no_grad():
        patches = predictor.network.image(batch_of(validation, np.arange(len(validation))).images).numpy()
        spots = predictor.network.expression(torch.from_numpy(filled)).numpy()
    for i, patch in enumerate(patches):
        cosine = spots @ patch / np.linalg.norm(spots, axis=1) / np.linalg.norm(patch)
        if own:
            cosine[train.library == own_library[i]] = -np.inf
        nearest = np.argsort(-cosine)[: 1 if how == "simple" else 4]
        distance = ((spots[nearest] - patch) ** 2).sum(axis=1)
        weight = np.exp(-(distance - distance.min() + 1)) if how == "weighted" else np.ones(len(nearest))
        for g in range(N_GENES):
            usable = known[nearest, g]
            expected = np.average(filled[nearest, g][usable], weights=weight[usable]) if usable.any() else mean[g]
            assert ours[i, g] == pytest.approx(expected, rel=1e-3)


def test_new_slides_are_looked_up_everywhere(train, validation):
    """The most neighbours that leave something outside of a section do not limit what is found for a new one."""
    train = replace(train, library=np.repeat([0, 1], [20, 4]))
    predictor = contrastive(n_neighbours=24)
    predictor.fit(train, None, COMPUTE)
    expected = predictor.predict(validation, COMPUTE)
    np.testing.assert_allclose(expected, np.broadcast_to(train.target.mean(axis=0), expected.shape), rtol=1e-4)
    found = predictor.predict(validation, COMPUTE, own_library=np.full(len(validation), -1))
    np.testing.assert_array_equal(found, expected)
