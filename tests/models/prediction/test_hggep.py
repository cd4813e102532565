"""_models/prediction/hggep."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import special
from torch import nn

from helpers.section_networks import hggep
from spared_sc._models.prediction.hggep import (
    Association,
    BlockAttention,
    CrossDifference,
    GradientEnhancement,
    HypergraphConvolution,
    PatchStages,
    hyperedges,
)

pytestmark = pytest.mark.usefixtures("seeded")


def neighbours(n, seed=0, share=0.4) -> np.ndarray:
    """Random symmetric neighbours of n spots, and one spot, the last, that is its own."""
    adjacency = np.triu(np.random.default_rng(seed).random((n, n)) < share, 1)
    adjacency[:, -1] = False
    adjacency |= adjacency.T
    isolated = np.flatnonzero(~adjacency.any(axis=1))
    adjacency[isolated, isolated] = True
    return adjacency


def test_the_difference_is_taken_from_the_centre_of_a_plus():
    layer, images = CrossDifference(), torch.rand(2, 3, 7, 8)
    found = layer(images).detach().numpy()
    weight = layer.weight.detach().numpy()  # up, left, centre, right, down
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    assert found.shape == (2, 3, 4, 4)
    for row in range(4):
        for column in range(4):
            y, x = 2 * row + 1, 2 * column + 1
            arms = [padded[:, :, y + dy, x + dx] for dy, dx in ((-1, 0), (0, -1), (0, 0), (0, 1), (1, 0))]
            plain = sum(arm @ weight[:, :, i].T for i, arm in enumerate(arms))
            expected = plain - 0.7 * padded[:, :, y, x] @ weight.sum(axis=2).T
            np.testing.assert_allclose(found[:, :, row, column], expected, rtol=1e-4, atol=1e-5)


def test_enhancement_halves_and_adds_two_pixels():
    assert GradientEnhancement()(torch.rand(2, 3, 112, 112)).shape == (2, 3, 58, 58)


def test_block_attention_weighs_channels_then_positions():
    layer, images = BlockAttention(32), torch.rand(2, 32, 5, 4) - 0.3
    found = layer(images).detach().numpy()
    down, up = (layer.channel[i].weight.detach().numpy()[:, :, 0, 0] for i in (0, 2))
    kernel = layer.position.weight.detach().numpy()[0]
    for image, result in zip(images.numpy(), found, strict=True):
        pooled = (image.mean(axis=(1, 2)), image.max(axis=(1, 2)))
        image = image * special.expit(sum(up @ np.maximum(down @ one, 0) for one in pooled))[:, None, None]
        both = np.pad(np.stack([image.mean(axis=0), image.max(axis=0)]), ((0, 0), (3, 3), (3, 3)))
        weight = [[(both[:, y : y + 7, x : x + 7] * kernel).sum() for x in range(4)] for y in range(5)]
        np.testing.assert_allclose(result, image * special.expit(np.array(weight)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("image_size", [32, 57, 112])
def test_views_have_the_width_at_any_size_of_the_patch(image_size):
    positions = {32: 4, 57: 4, 112: 16}[image_size]
    stages = PatchStages(hggep(image_size=image_size, width=3 * positions), "random").eval()
    images = torch.rand(2, 3, image_size, image_size) * 255
    found = stages(images)
    assert found.shape == (2, 3, 3 * positions)
    fifth = stages.last(stages.first(stages.enhance(stages.normalise(images))))
    torch.testing.assert_close(found[:, 2], stages.views[2](nn.functional.adaptive_max_pool2d(fifth, 1)))


@pytest.mark.parametrize("similar", [True, False])
def test_spots_associate_with_some_of_their_neighbours(similar):
    adjacency = neighbours(14)
    rng = np.random.default_rng(1)
    features = rng.normal(size=(14, 5))
    place = rng.permutation(40)[:14, None] // [1, 5] % [5, 40]
    edges = torch.from_numpy(np.stack(adjacency.nonzero()))[:, torch.randperm(int(adjacency.sum()))]
    incidences, weight = hyperedges(torch.from_numpy(features), torch.from_numpy(place), edges, 4, similar=similar)
    chosen, scores = set(), [[] for _ in range(14)]
    for i in range(14):
        near = np.flatnonzero(adjacency[i])
        distance = np.linalg.norm(features[i] - features[near], axis=1)
        total = distance.sum() or 1
        order = np.argsort(distance if similar else -distance)[:4]
        for j, d in zip(near[order], distance[order], strict=True):
            chosen.add((i, j))
            scores[j].append(1 / len(near) + (1 - d / total if similar else d / total))
    assert len(chosen) == incidences.shape[1]
    assert {(int(i), int(j)) for i, j in incidences.T} == chosen
    assert adjacency.sum(axis=1).max() > 4
    np.testing.assert_allclose(weight.numpy(), [np.mean(one) if one else 0 for one in scores], rtol=1e-5)


def test_ties_are_broken_by_place():
    n = 7
    place = torch.tensor([[0, 5], [9, 9], [1, 0], [0, 2], [2, 2], [0, 9], [1, 9]])
    features = torch.zeros(n, 3)
    features[1] = 1  # in the middle, as far from all others
    edges = torch.tensor([[1, j] for j in range(n) if j != 1]).T
    edges = torch.cat([edges, edges.flip(0)], dim=1)
    for order in (torch.arange(n), torch.randperm(n)):
        new = order.argsort()
        incidences, _ = hyperedges(features[order], place[order], new[edges], 3, similar=True)
        members = order[incidences]
        assert set(members[1, members[0] == 1].tolist()) == {3, 0, 5}  # of the first row, from the left


def test_hypergraph_convolution_is_the_formula_with_weights():
    rng = np.random.default_rng(2)
    incidence = rng.random((9, 9)) < 0.3  # spots by hyperedges
    incidence[np.arange(9), (np.arange(9) + 1) % 9] = True
    incidence[:, 4] = False  # empty
    incidence[3] = np.arange(9) == 0
    weight = rng.uniform(0.1, 2, 9).astype(np.float32)
    layer, values = HypergraphConvolution(5, 3), torch.rand(9, 5)
    index = torch.from_numpy(np.stack(incidence.nonzero()))
    found = layer(values, index, torch.from_numpy(weight)).detach().numpy()
    of_spots = np.diag(1 / (incidence @ weight))
    of_edges = np.diag(1 / np.maximum(incidence.sum(axis=0), 1))
    spread = of_spots @ incidence @ np.diag(weight) @ of_edges @ incidence.T @ values.numpy()
    expected = spread @ layer.linear.weight.detach().numpy().T + layer.linear.bias.detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_equal_weights_give_the_convolution_of_torch_geometric():
    from torch_geometric.nn import HypergraphConv

    ours, theirs = HypergraphConvolution(5, 3), HypergraphConv(5, 3)
    with torch.no_grad():
        theirs.lin.weight.copy_(ours.linear.weight)
        theirs.bias.copy_(ours.linear.bias)
    values, index = torch.rand(8, 5), torch.from_numpy(np.stack(neighbours(8).nonzero()))
    expected = theirs(values, index, num_edges=8)
    for weight in (1.0, 0.3):
        torch.testing.assert_close(ours(values, index, torch.full((8,), weight)), expected)
    # Why it is not used: its weights scale the result instead of weighing the hyperedges.
    scaled = theirs(values, index, torch.full((8,), 0.5), num_edges=8)
    torch.testing.assert_close(scaled - theirs.bias, 2 * (expected - theirs.bias))


def test_association_has_no_dropout_at_inference():
    layer = Association(6, 2, similar=True)
    features, place = torch.rand(9, 6), torch.arange(18).reshape(9, 2)
    edges = torch.from_numpy(np.stack(neighbours(9).nonzero()))
    assert not torch.equal(layer(features, place, edges), layer(features, place, edges))
    layer.eval()
    found = layer(features, place, edges)
    torch.testing.assert_close(layer(features, place, edges), found, rtol=0, atol=0)
    incidences, weight = hyperedges(features, place, edges, 2, similar=True)
    inner = nn.functional.layer_norm(layer.inner(features, incidences, weight).relu(), (512,))
    torch.testing.assert_close(found, features + layer.outer(inner, incidences, weight))
