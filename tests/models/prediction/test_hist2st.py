"""_models/prediction/hist2st."""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage, special
from torch import nn

from helpers.section_networks import hist2st
from spared_sc._models.prediction.hist2st import ConvMixer
from spared_sc._models.prediction.networks import Shape


def dense_edges(n, seed=0, share=0.25) -> np.ndarray:
    """Random neighbours of n spots, not always in both directions; the last spot has none."""
    adjacency = np.random.default_rng(seed).random((n, n)) < share
    adjacency[:, -1] = adjacency[-1] = False
    np.fill_diagonal(adjacency, False)
    return adjacency


def convolved(images, layer) -> np.ndarray:
    """Depthwise cross-correlation with zeros around the images (n, c, side, side)."""
    weight, bias = layer.weight.detach().numpy()[:, 0], layer.bias.detach().numpy()
    planes = [
        [ndimage.correlate(image[c], weight[c], mode="constant") + bias[c] for c in range(len(weight))]
        for image in images
    ]
    return np.array(planes)


def normed(images, layer) -> np.ndarray:
    """Batch normalisation with running statistics."""
    mean, variance, weight, bias = (
        value.detach().numpy()[:, None, None]
        for value in (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    )
    return (images - mean) / np.sqrt(variance + layer.eps) * weight + bias


def gelu(values) -> np.ndarray:
    return values * special.ndtr(values)


def test_a_mixer_is_two_depthwise_convolutions_and_a_pointwise_one():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = ConvMixer(4, 5)
        for part in layer.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.normal_(part.running_mean)
                nn.init.uniform_(part.running_var, 0.5, 2)
                nn.init.normal_(part.weight)
        images = torch.rand(3, 4, 6, 6)
    found = layer.eval()(images).detach().numpy()
    one, norm_one, _, two, norm_two, _ = layer.depthwise
    inner = gelu(normed(convolved(images.numpy(), one), norm_one))
    added = images.numpy() + gelu(normed(convolved(inner, two), norm_two))
    mix, _, norm = layer.pointwise
    mixed = np.einsum("oc,nchw->nohw", mix.weight.detach().numpy()[:, :, 0, 0], added)
    expected = normed(gelu(mixed + mix.bias.detach().numpy()[:, None, None]), norm)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_graph_layers_average_neighbours_without_the_spot_itself():
    network = hist2st().make_network(Shape(5, 6, 1), "random").eval()
    adjacency = dense_edges(9)
    place, tokens = torch.arange(18).reshape(9, 2) % 7, torch.rand(9, 6)
    found = network.hidden(tokens, place, torch.from_numpy(np.stack(adjacency.nonzero())))
    spots = network.transformer(network.stem(tokens) + network.place(place)).detach().numpy()
    layers = []
    for graph in network.graph:
        weight = graph.lin_l.weight.detach().numpy()
        near = [np.flatnonzero(row) if row.any() else [i] for i, row in enumerate(adjacency)]
        spots = np.stack([np.maximum(weight @ spots[rows].mean(axis=0), 0) for rows in near])
        spots = spots / np.maximum(np.linalg.norm(spots, axis=1, keepdims=True), 1e-12)
        layers.append(torch.from_numpy(spots))
    assert len(layers) == 3
    for spot in range(9):  # a sequence of layers for each spot
        outputs, _ = network.fusion(torch.stack([layer[spot] for layer in layers]))
        torch.testing.assert_close(found[spot], outputs.mean(dim=0), rtol=1e-4, atol=1e-6)
