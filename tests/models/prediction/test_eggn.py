"""_models/prediction/eggn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from helpers.networks import COMPUTE, CPU, N_GENES, on_lattice
from helpers.section_networks import eggn
from spared_sc._models.prediction.bank import Bank
from spared_sc._models.prediction.batch import Batch, Targets
from spared_sc._models.prediction.eggn import Eggn, EggnNet, ExemplarBridge, Exemplars, Layer, Readout

if TYPE_CHECKING:
    from torch_geometric.nn import SAGEConv
from spared_sc._models.prediction.networks import Shape

WIDTH, N_FEATURES = 8, 7


def leaky(values, slope=0.01):
    return np.where(values > 0, values, slope * values)


def weights_of(module: torch.nn.Module):
    """The linear map of each layer of a name, on arrays."""
    state = {name: value.numpy() for name, value in module.state_dict().items()}
    return state, lambda name, values: values @ state[f"{name}.weight"].T + state.get(f"{name}.bias", 0)


def random(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def section(n_spots=7, n_bank=12, k=3, seed=0):
    """Features of spots, edges among some, and retrieved training spots."""
    generator = np.random.default_rng(seed)
    line = np.arange(n_spots - 2)  # the last spot is isolated
    edges = torch.from_numpy(np.hstack([[line, line + 1], [line + 1, line]]))
    retrieved = np.stack([generator.permutation(n_bank - 2)[:k] for _ in range(n_spots)])
    bank = Bank(n_bank, N_FEATURES, N_GENES)
    bank.feature.copy_(random(n_bank, N_FEATURES, seed=seed + 1))
    bank.fill(random(n_bank, N_GENES, seed=seed + 2).abs().numpy(), np.zeros(n_bank))
    return random(n_spots, N_FEATURES, seed=seed), edges, bank, torch.from_numpy(retrieved)


def network(**sizes) -> EggnNet:
    torch.manual_seed(0)
    return EggnNet(Shape(N_GENES, N_FEATURES, 2), **{"width": WIDTH, "n_layers": 2, **sizes}).eval()


def test_exemplars_and_their_nearest_by_brute_force():
    _, _, bank, retrieved = section()
    feature, expression = bank.feature, bank.expression
    found = Exemplars.gather(bank, retrieved, 2)
    rows = sorted(set(retrieved.flatten().tolist()))
    assert torch.equal(found.feature, feature[rows])
    assert torch.equal(found.expression, expression[rows])
    assert torch.equal(torch.tensor(rows)[found.of_spot], retrieved)
    joined = np.hstack([feature[rows], expression[rows]])
    expected = set()
    for i in range(len(rows)):
        order = np.argsort([np.inf if i == j else np.linalg.norm(joined[i] - joined[j]) for j in range(len(rows))])
        expected |= {(j, i) for j in order[:2].tolist()}
    assert set(zip(*found.edges.tolist(), strict=True)) == expected
    assert found.edges.shape[1] == len(expected)


def test_bridge_by_loops():
    spots, exemplars, expression = random(4, WIDTH), random(3, WIDTH, seed=1), random(3, WIDTH, seed=2)
    of_spot = torch.tensor([[0, 1], [1, 2], [2, 0], [1, 0]])
    torch.manual_seed(0)
    bridge = ExemplarBridge(WIDTH)
    with torch.no_grad():
        bridge.bias.copy_(random(WIDTH, seed=3))
        to_spots, to_exemplars = bridge(spots, exemplars, expression, of_spot)
    state, linear = weights_of(bridge)
    spot, exemplar = linear("spot", spots.numpy()), linear("exemplar", exemplars.numpy())
    value = linear("expression", expression.numpy())
    for_spots, for_exemplars = [[] for _ in range(4)], [[] for _ in range(3)]
    for i in range(4):
        for j in of_spot[i].tolist():
            difference = linear("compare", leaky(exemplar[j])) - linear("compare", leaky(spot[i]))
            gate = 1 / (1 + np.exp(-linear("gates", leaky(difference))))
            joined = np.concatenate([exemplar[j], value[j], spot[i]])  # gated as a whole, then the mean of the parts
            for n, (messages, k) in enumerate(((for_spots, i), (for_exemplars, j))):
                gated = np.tile(gate[2 * n : 2 * n + 2], 12) * joined
                messages[k].append(gated.reshape(3, WIDTH).mean(axis=0))
    for name, messages, ours in (("to_spot", for_spots, to_spots), ("to_exemplar", for_exemplars, to_exemplars)):
        means = np.array([np.mean(one, axis=0) for one in messages]) + state["bias"]
        np.testing.assert_allclose(ours, linear(name, means), rtol=1e-4, atol=1e-5)


def test_layer_is_the_mean_of_its_messages():
    feature, edges, bank, retrieved = section()
    found = Exemplars.gather(bank, retrieved, 2)
    n = len(found.feature)
    spots, exemplars, expression = random(7, WIDTH), random(n, WIDTH, seed=1), random(n, WIDTH, seed=2)
    torch.manual_seed(0)
    layer = Layer(WIDTH)

    def expected(convolution: SAGEConv, values: torch.Tensor, edges: torch.Tensor, told: torch.Tensor) -> np.ndarray:
        adjacency = np.zeros((len(values), len(values)))
        adjacency[edges[1], edges[0]] = 1
        mean = adjacency / adjacency.sum(axis=1, keepdims=True).clip(min=1) @ values.numpy()
        _, linear = weights_of(convolution)
        return leaky((linear("lin_l", mean) + linear("lin_r", values.numpy()) + told.numpy()) / 2, 0.2)

    with torch.no_grad():
        told = layer.bridge(spots, exemplars, expression, found.of_spot)
        ours = layer(spots, exemplars, expression, edges, found)
        np.testing.assert_allclose(ours[0], expected(layer.adjacent, spots, edges, told[0]), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(
            ours[1], expected(layer.alike, exemplars, found.edges, told[1]), rtol=1e-4, atol=1e-5
        )


def test_readout_by_loops():
    spots, exemplars, of_spot = random(3, WIDTH), random(4, WIDTH, seed=1), torch.tensor([[0, 1], [2, 3], [3, 0]])
    torch.manual_seed(0)
    readout = Readout(WIDTH)
    with torch.no_grad():
        ours = readout(spots, exemplars, of_spot)
    _, linear = weights_of(readout)
    spot = linear("spot", spots.numpy())
    for i in range(3):
        for c in range(WIDTH):
            own = exemplars[of_spot[i], c].numpy()
            weight = np.exp(0.1 * (own - spot[i, c]))
            assert ours[i, c] == pytest.approx(
                spot[i, c] + 0.1 * (weight / weight.sum() * own).sum(), rel=1e-4, abs=1e-6
            )


def test_network_without_layers_by_matrices():
    feature, edges, bank, retrieved = section()
    found = Exemplars.gather(bank, retrieved, 2)
    whole = network(n_layers=0)
    with torch.no_grad():
        ours = whole(feature, edges, found)
        _, linear = weights_of(whole)
        joined = np.hstack([found.feature, found.expression])
        spots, exemplars = (
            torch.from_numpy(leaky(linear("shared.1", leaky(linear(name, values), 0.2)))).float()
            for name, values in (("spot", feature.numpy()), ("exemplar", joined))
        )
        expected = linear("head", whole.readout(spots, exemplars, found.of_spot).numpy())
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_the_expression_of_exemplars_reaches_the_bridge():
    feature, edges, bank, retrieved = section()
    whole = network()
    with torch.no_grad():
        whole.exemplar.weight[:, N_FEATURES:] = 0  # so that it comes in through the branch of its own only
        found = Exemplars.gather(bank, retrieved, 2)
        before = whole(feature, edges, found)
        found.expression[found.of_spot[0, 0]] += 1
        after = whole(feature, edges, found)
    assert (after - before)[0].abs().max() > 1e-4


def test_the_order_of_rows_does_not_matter():
    feature, edges, bank, retrieved = section()
    whole, order = network(), torch.tensor([3, 6, 0, 5, 2, 1, 4])
    with torch.no_grad():
        expected = whole(feature, edges, Exemplars.gather(bank, retrieved, 2))
        other = whole(feature[order], order.argsort()[edges], Exemplars.gather(bank, retrieved[order], 2))
    torch.testing.assert_close(other, expected[order])
    assert (expected[0] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize("n_spots", [1, 2])
@pytest.mark.parametrize("k", [1, 3])
def test_small_sections(n_spots, k):
    _, _, bank, retrieved = section(k=k)
    none = torch.empty(2, 0, dtype=torch.int64)
    output = network()(random(n_spots, N_FEATURES), none, Exemplars.gather(bank, retrieved[:n_spots], 3))
    assert output.shape == (n_spots, N_GENES)
    assert output.isfinite().all()


def fitted(spots, **params) -> Eggn:
    predictor = eggn(**params)
    predictor.fit(spots, None, COMPUTE)
    return predictor


@pytest.fixture(params=["patches", "embedding"])
def train(request):
    return on_lattice(3, tokens=request.param)


def test_a_section_is_predicted_by_itself(train):
    predictor = fitted(train)
    expected = predictor.predict(train, COMPUTE)
    assert np.ptp(expected, axis=0).min() > 1e-4
    order = np.random.default_rng(0).permutation(len(train))
    np.testing.assert_allclose(predictor.predict(train.take(order), COMPUTE), expected[order], rtol=1e-4, atol=1e-5)
    one = np.flatnonzero(train.library == 1)
    np.testing.assert_allclose(predictor.predict(train.take(one), COMPUTE), expected[one], rtol=1e-4, atol=1e-5)
    small = replace(COMPUTE, batch_size=2)
    np.testing.assert_allclose(predictor.predict(train, small), expected, rtol=1e-4, atol=1e-5)


def test_tiles_see_their_rim_and_predict_every_spot_once(train, monkeypatch):
    predictor = fitted(train)
    whole = predictor.predict(train, COMPUTE)
    seen, run = [], EggnNet.forward

    def forward(self, feature, edges, found):
        seen.append(len(feature))
        return run(self, feature, edges, found)

    monkeypatch.setattr(EggnNet, "forward", forward)
    predictor.most_spots, predictor.halo = 10, 100
    np.testing.assert_allclose(predictor.predict(train, COMPUTE), whole, rtol=1e-4, atol=1e-5)  # the rim is all
    assert sorted(seen) == sorted(np.repeat(np.bincount(train.library), 2))
    predictor.halo = 0
    seen.clear()
    assert np.isfinite(predictor.predict(train, COMPUTE)).all()
    assert sum(seen) == len(train)
    assert max(seen) <= 10


def test_exemplars_are_the_nearest_by_absolute_differences(train, monkeypatch):
    calls, run = [], Exemplars.gather

    def gather(bank, retrieved, n_alike):
        calls.append(retrieved.tolist())
        return run(bank, retrieved, n_alike)

    monkeypatch.setattr(Exemplars, "gather", gather)
    predictor = fitted(train, n_steps=1)
    bank = predictor.network.bank
    feature, library = bank.feature.numpy(), bank.library.numpy()
    assert library.tolist() == train.library.tolist()

    def expected(rows, leave_out):
        order = [np.argsort(np.abs(feature[i] - feature).sum(axis=1), kind="stable") for i in rows]
        return [[j for j in one if library[j] not in leave_out][:3] for one in order]

    def rows_of(code):
        rows = np.flatnonzero(train.library == code)
        return rows[np.lexsort(train.place[rows].T[::-1])]

    assert calls[0] in [expected(rows_of(code), {code}) for code in range(3)]
    calls.clear()
    predictor.predict(train, COMPUTE)
    assert calls == [expected(rows_of(code), set()) for code in range(3)]
    calls.clear()
    predictor.predict(train, COMPUTE, own_library=train.library)
    assert calls == [expected(rows_of(code), {code}) for code in range(3)]


def test_the_loss_is_on_the_unit_scale(train):
    section = train.take(np.flatnonzero(train.library == 0))
    predictor = fitted(train, correlation_weight=0.7, n_steps=30, learning_rate=1e-2)
    features = replace(train, patches=None, embedding=predictor.network.bank.feature.numpy())
    chosen = predictor.sampler(features).tiles[0]
    batch = Batch.of(features, chosen, None, CPU, image_size=None, own=train.library, targets=Targets.of(features, CPU))
    with torch.no_grad():
        loss = predictor.loss(predictor.network, batch).item()
    prediction = predictor.predict(section, COMPUTE, own_library=section.library)
    low, high = train.target.min(axis=0), train.target.max(axis=0)
    estimate, target = (prediction - low) / (high - low), (section.target - low) / (high - low)
    correlation = np.mean([np.corrcoef(estimate[:, g], target[:, g])[0, 1] for g in range(N_GENES)])
    assert loss == pytest.approx(((estimate - target) ** 2).mean() + 0.7 * (1 - correlation), rel=1e-3)


def test_a_width_that_gates_do_not_divide():
    with pytest.raises(ValueError, match="width=6: expected a multiple of 4"):
        Eggn(width=6)
    with pytest.raises(ValueError, match="augment=True is unknown"):
        Eggn(augment=True)
