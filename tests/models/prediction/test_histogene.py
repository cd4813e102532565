"""_models/prediction/histogene, and what holds for every network of whole sections."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.section_networks import hggep, hist2st, histogene
from spared_sc._models.prediction.networks import GeneNetwork, Shape

N_GENES, N_FEATURES = 5, 6
MODELS = {"histogene": histogene, "hist2st": hist2st, "hggep": hggep}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
tokens = pytest.mark.parametrize("n_features", [None, N_FEATURES], ids=["patches", "embedding"])


pytestmark = pytest.mark.usefixtures("seeded")


def network_of(make, n_features, **params) -> GeneNetwork:
    return make(**params).make_network(Shape(N_GENES, n_features, 1), "random")


def section(n_features, n_rows=4, n_columns=5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens, places and edges of a square array, with one spot that has no neighbours."""
    place = torch.cartesian_prod(torch.arange(n_rows), torch.arange(n_columns))
    place = torch.cat([place, torch.tensor([[n_rows + 3, n_columns + 3]])])
    edges = ((place[:, None] - place).abs().sum(dim=2) == 1).nonzero().T
    n = len(place)
    return (torch.rand(n, 3, 32, 32) * 255 if n_features is None else torch.randn(n, n_features)), place, edges


@every_model
@tokens
def test_the_order_of_the_spots_does_not_matter(make, n_features):
    network = network_of(make, n_features).eval()
    seen, place, edges = section(n_features)
    expected = network(seen, place, edges)
    assert expected.shape == (21, N_GENES)
    assert torch.equal(network(seen, place, edges), expected)
    order = torch.randperm(21)
    shuffled = edges[:, torch.randperm(edges.shape[1])]
    found = network(seen[order], place[order], order.argsort()[shuffled])
    torch.testing.assert_close(found, expected[order], rtol=1e-4, atol=1e-5)
    assert expected.std(dim=0).min() > 1e-4


@every_model
def test_places_matter(make):
    network = network_of(make, N_FEATURES).eval()
    seen, place, edges = section(N_FEATURES)
    assert not torch.allclose(network(seen, place.flip(1), edges), network(seen, place, edges), rtol=1e-3)


@every_model
@tokens
@pytest.mark.parametrize("n", [1, 2])
def test_sections_of_one_or_two_spots_train(make, n_features, n):
    network = network_of(make, n_features)
    seen, place, _ = section(n_features)
    edges = torch.tensor([[0, 1], [1, 0]])[:, : 2 * (n - 1)]
    network(seen[:n], place[:n], edges).square().sum().backward()
    assert all(weights.grad.isfinite().all() for weights in network.parameters() if weights.grad is not None)
    assert network.eval()(seen[:n], place[:n], edges).isfinite().all()


@every_model
@tokens
def test_recomputing_changes_no_gradient(make, n_features):
    seen, place, edges = section(n_features)
    kept = network_of(make, n_features)
    recomputing = network_of(make, n_features, gradient_checkpointing=True)
    recomputing.load_state_dict(kept.state_dict())
    for network in (kept, recomputing):
        torch.manual_seed(1)  # of the dropout
        network(seen, place, edges).square().sum().backward()
    other = recomputing.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in kept.state_dict().items())
    for one, other in zip(kept.parameters(), recomputing.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_the_network_is_a_transformer_between_linear_maps():
    network = network_of(histogene, N_FEATURES, depth=2).eval()
    seen, place, edges = section(N_FEATURES)
    hidden = seen @ network.embed.weight.T + network.embed.bias
    hidden = hidden + network.place.row.weight[place[:, 0]] + network.place.column.weight[place[:, 1].clamp(max=7)]
    for block in network.transformer.blocks:
        hidden = block(hidden[None])[0]
    normed = (hidden - hidden.mean(dim=1, keepdim=True)) / (
        hidden.var(dim=1, unbiased=False, keepdim=True) + 1e-5
    ).sqrt()
    expected = normed @ network.head[1].weight.T + network.head[1].bias
    torch.testing.assert_close(network(seen, place, edges), expected, rtol=1e-4, atol=1e-5)


def test_patches_are_flattened():
    network = network_of(histogene, None).eval()
    seen, _, _ = section(None)
    mean, sd = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = (seen.numpy() / 255 - mean[:, None, None]) / sd[:, None, None]
    expected = (
        pixels.reshape(21, -1) @ network.embed[2].weight.detach().numpy().T + network.embed[2].bias.detach().numpy()
    )
    np.testing.assert_allclose(network.embed(seen).detach().numpy(), expected, rtol=1e-3, atol=1e-4)
