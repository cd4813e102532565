"""_models/prediction/sepal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch_geometric.nn import GraphConv, SAGPooling
from torch_geometric.utils import dense_to_sparse

from helpers.networks import COMPUTE, N_GENES, on_lattice
from helpers.section_networks import sepal
from spared_sc._models import training
from spared_sc._models.prediction.sampling import Neighbourhoods
from spared_sc._models.prediction.sepal import FirstStage, Sepal, SepalNet, TopSpot, encoded_place, local_graphs

N_FEATURES = 6


def lattice(n_rows=5, n_columns=5, left_out=(3, 11)) -> np.ndarray:
    """Places of a hexagonal lattice with holes."""
    places = [(row, 2 * column + row % 2) for row in range(n_rows) for column in range(n_columns)]
    return np.array([place for i, place in enumerate(places) if i not in left_out])


def edges_of(place: np.ndarray, section: np.ndarray | None = None) -> np.ndarray:
    """Pairs of adjacent places of one section, (2, e)."""
    section = np.zeros(len(place)) if section is None else section
    step = np.abs(place[:, None] - place[None]).tolist()
    near = [[one in ([0, 2], [1, 1]) for one in row] for row in step]
    return np.array(np.nonzero(np.array(near) & (section[:, None] == section)))


def expected_graph(place: np.ndarray, edges: np.ndarray, centre: int, n_rings: int) -> tuple[list[int], np.ndarray]:
    """The spots around a centre, by place, and which of them are within the rings of each other, by breadth-first search."""

    def around(start: int, allowed: set[int]) -> set[int]:
        seen = {start}
        for _ in range(n_rings):
            seen |= {b for a, b in edges.T if a in seen and b in allowed}
        return seen

    spots = around(centre, set(range(len(place))))
    ordered = sorted(spots, key=lambda spot: tuple(place[spot]))
    return ordered, np.array([[b != a and b in around(a, spots) for b in ordered] for a in ordered])


def tensors(*arrays) -> list[torch.Tensor]:
    return [torch.as_tensor(array) for array in arrays]


def head(n_rings=1, **params) -> SepalNet:
    torch.manual_seed(0)
    sizes = {"combine": "concat", "width": 8, "n_layers": 2, "pooling": "top"}
    return SepalNet(N_FEATURES, N_GENES, **{**sizes, **params})


@pytest.mark.parametrize("n_rings", [1, 2, 3])
def test_local_graphs_by_breadth_first_search(n_rings):
    place = np.random.default_rng(0).permutation(lattice())
    edges = edges_of(place)
    centres = np.array([7, 0, 19])
    graphs = local_graphs(*tensors(place, edges, centres), n_rings)
    for i, centre in enumerate(centres):
        spots, linked = expected_graph(place, edges, centre, n_rings)
        n = len(spots)
        assert graphs.present[i].tolist() == [True] * n + [False] * (graphs.present.shape[1] - n)
        assert graphs.spot[i, :n].tolist() == spots
        assert graphs.relative[i, :n].tolist() == (place[spots] - place[centre]).tolist()
        assert (graphs.linked[i, :n, :n].numpy() == linked).all()
        assert not graphs.linked[i, n:].any()
        assert not graphs.linked[i, :, n:].any()


def test_paths_stay_within_the_graph():
    # Eight spots in a circle. Spots 5 and 7 are in the graph of spot 2, and spot 6 between them is not.
    edges = np.array([[i for i in range(8) for _ in range(2)], [(i + step) % 8 for i in range(8) for step in (-1, 1)]])
    graphs = local_graphs(*tensors(np.stack([np.arange(8)] * 2, axis=1), edges, np.array([2])), 3)
    assert graphs.spot.tolist() == [[0, 1, 2, 3, 4, 5, 7]]
    assert [int(n) for n in graphs.linked[0, 5]] == [0, 0, 1, 1, 1, 0, 0]


def test_encoded_places_are_sines_and_cosines():
    place, width = np.array([[3, -4], [0, 0]]), 10
    half = 6
    expected = np.zeros((2, 2 * half))
    for i in range(half // 2):
        for axis in range(2):
            angle = place[:, axis] / 10000 ** (2 * i / half)
            expected[:, axis * half + 2 * i] = np.sin(angle)
            expected[:, axis * half + 2 * i + 1] = np.cos(angle)
    np.testing.assert_allclose(encoded_place(torch.as_tensor(place), width), expected[:, :width], atol=1e-6)


def test_top_spot_is_that_of_sag_pooling():
    place = lattice()
    graphs = local_graphs(*tensors(place, edges_of(place), np.arange(len(place))), 1)
    spots = torch.randn(*graphs.spot.shape, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = TopSpot(4), SAGPooling(4, ratio=1)
    score = theirs.gnn
    assert isinstance(score, GraphConv)
    with torch.no_grad():
        theirs.select.weight.fill_(1)
        ours.score.lin_rel.load_state_dict(score.lin_rel.state_dict())
        ours.score.lin_root.load_state_dict(score.lin_root.state_dict())
        for i, pooled in enumerate(ours(spots, graphs)):
            n = int(graphs.present[i].sum())
            expected = theirs(spots[i, :n], dense_to_sparse(graphs.linked[i, :n, :n])[0])[0]
            torch.testing.assert_close(pooled[None], expected)


def test_equal_scores_take_the_first_place():
    place = np.array([[0, 2], [0, 0], [0, 4]])
    graphs = local_graphs(*tensors(place, edges_of(place), np.array([0])), 1)
    assert graphs.spot.tolist() == [[1, 0, 2]]
    pool = TopSpot(2)
    with torch.no_grad():
        for weight in pool.parameters():
            weight.zero_()
        pool.score.lin_rel.bias.fill_(0.5)
        pooled = pool(torch.tensor([[[1.0, 2], [3, 4], [5, 6]]]), graphs)
    np.testing.assert_allclose(pooled, np.tanh(0.5) * np.array([[1, 2]]), rtol=1e-6)


@pytest.mark.parametrize("combine", ["concat", "sum"])
@pytest.mark.parametrize("pooling", ["top", "mean"])
@pytest.mark.parametrize(("n_layers", "n_rings"), [(2, 1), (1, 2), (0, 1)])
def test_head_by_dense_matrices(combine, pooling, n_layers, n_rings):
    place = lattice()
    edges, features = edges_of(place), np.random.default_rng(0).normal(size=(len(place), N_FEATURES)).astype(np.float32)
    network, centres = head(combine=combine, pooling=pooling, n_layers=n_layers), np.array([2, 12])
    with torch.no_grad():
        output = network(torch.from_numpy(features), local_graphs(*tensors(place, edges, centres), n_rings)).numpy()
    weights = {name: value.numpy().T for name, value in network.state_dict().items()}

    def elu(values):
        return np.where(values > 0, values, np.expm1(values))

    def graph_convolution(name, spots, linked):
        return (
            linked @ spots @ weights[f"{name}.lin_rel.weight"]
            + weights[f"{name}.lin_rel.bias"]
            + (spots @ weights[f"{name}.lin_root.weight"])
        )

    for centre, ours in zip(centres, output, strict=True):
        rows, linked = expected_graph(place, edges, centre, n_rings)
        where = encoded_place(torch.as_tensor(place[rows] - place[centre]), N_FEATURES).numpy()
        spots = np.hstack([features[rows], where]) if combine == "concat" else features[rows] + where
        if n_layers:
            spots = elu(spots @ weights["enter.weight"] + weights["enter.bias"])
            with_loops = linked + np.eye(len(rows))
            root = np.sqrt(with_loops.sum(axis=1))
            for i in range(n_layers):
                mixed = with_loops / np.outer(root, root) @ spots @ weights[f"layers.{i}.lin.weight"]
                spots = elu(mixed + weights[f"layers.{i}.bias"])
        else:
            spots = graph_convolution("single", spots, linked)
        if pooling == "top":
            score = graph_convolution("pool.score", spots, linked)[:, 0]
            pooled = spots[score.argmax()] * np.tanh(score.max())
        else:
            pooled = spots.mean(axis=0)
        expected = pooled @ weights["leave.weight"] + weights["leave.bias"] if n_layers else pooled
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n_rings", [1, 3])
@pytest.mark.parametrize("params", [{}, {"combine": "sum", "n_layers": 0}, {"pooling": "mean"}])
def test_output_depends_on_the_surroundings_only(n_rings, params):
    place = np.concatenate([lattice(), lattice(left_out=(12,))])  # two sections at the same places
    section = np.repeat([0, 1], [23, 24])
    edges = edges_of(place, section)
    generator = np.random.default_rng(0)
    features = generator.normal(size=(47, N_FEATURES)).astype(np.float32)
    network = head(**params).eval()

    def output(rows, centres):
        """Of centres, from a batch of some rows in any order."""
        at = {row: i for i, row in enumerate(rows)}
        some = np.array([(at[a], at[b]) for a, b in edges.T if a in at and b in at]).reshape(-1, 2).T
        batch = tensors(place[rows], some, np.array([at[row] for row in centres]))
        with torch.no_grad():
            return network(torch.from_numpy(features[rows]), local_graphs(*batch, n_rings)).numpy()

    everything = output(np.arange(47), np.arange(47))
    order = generator.permutation(47)
    np.testing.assert_allclose(output(order, order), everything[order], atol=1e-5)
    for centre in (0, 9, 30):
        ball, _ = expected_graph(place, edges, centre, n_rings)
        np.testing.assert_allclose(output(np.array(ball), [centre]), everything[[centre]], atol=1e-5)


@pytest.mark.parametrize("params", [{}, {"n_layers": 0}, {"pooling": "mean"}])
@pytest.mark.parametrize("n_spots", [1, 2])
def test_spots_without_neighbours(params, n_spots):
    network = head(**params)
    graphs = local_graphs(
        torch.tensor([[4, 7], [9, 0]])[:n_spots], torch.zeros(2, 0, dtype=torch.int64), torch.arange(n_spots), 2
    )
    assert graphs.spot.shape == (n_spots, 1)
    output = network(torch.randn(n_spots, N_FEATURES), graphs)
    assert output.shape == (n_spots, N_GENES)
    assert output.isfinite().all()


def test_size_of_the_head_for_spatial_transcriptomics():
    found = []
    for n_genes in (32, 128, 785):
        with torch.device("meta"):
            network = SepalNet(768, n_genes, combine="sum", width=512, n_layers=0, pooling="top")
        found.append(f"{sum(weight.numel() for weight in network.parameters()) / 1e6:.2f}")
    assert found == ["0.05", "0.20", "1.21"]


def fitted(spots, validation=None, compute=COMPUTE, **params) -> Sepal:
    predictor = sepal(**params)
    predictor.fit(spots, validation, compute)
    return predictor


@pytest.fixture(params=["patches", "embedding"])
def train(request):
    return on_lattice(tokens=request.param)


def test_predictions_are_the_same_from_any_batch(train):
    predictor = fitted(train, n_rings=2)
    expected = predictor.predict(train, COMPUTE)
    assert np.ptp(expected, axis=0).min() > 1e-3
    one_by_one = predictor.predict(train, replace(COMPUTE, batch_size=1))
    np.testing.assert_allclose(one_by_one, expected, atol=1e-5)
    order = np.random.default_rng(0).permutation(len(train))
    np.testing.assert_allclose(predictor.predict(train.take(order), COMPUTE), expected[order], atol=1e-5)
    section = np.flatnonzero(train.library == 1)
    np.testing.assert_allclose(predictor.predict(train.take(section), COMPUTE), expected[section], atol=1e-5)


def test_the_second_stage_adds_to_the_first(train):
    predictor = fitted(train)
    first = predictor._first_stage()
    first.fit(train, None, COMPUTE)
    correction = predictor.predict(train, COMPUTE) - first.predict(train, COMPUTE)
    assert np.abs(correction).max() > 1e-3
    for weight in predictor.trained().parameters():
        weight.data.zero_()
    np.testing.assert_allclose(predictor.predict(train, COMPUTE), first.predict(train, COMPUTE), rtol=1e-4, atol=1e-4)


def test_the_surroundings_are_learned():
    def sections(seed):
        spots = on_lattice(seed=seed, tokens="embedding", shape=(12, 12))
        around = np.array([spots.embedding[row].mean(axis=0) for row in neighbours(spots)])
        return replace(spots, target=(spots.embedding + 2 * around)[:, :N_GENES].astype(np.float32))

    def neighbours(spots):
        return [Neighbourhoods(spots, 1, 1)._around(np.array([i])).rows for i in range(len(spots))]

    train, test = sections(0), sections(1)
    predictor = fitted(
        train,
        width=32,
        first_width=32,
        first_steps=200,
        n_steps=200,
        first_rate=1e-2,
        learning_rate=1e-2,
        pooling="mean",
    )
    error = ((predictor.predict(test, COMPUTE) - test.target) ** 2).mean()
    alone = predictor.trained()
    for weight in alone.parameters():
        weight.data.zero_()
    first = ((predictor.predict(test, COMPUTE) - test.target) ** 2).mean()
    assert error < 0.7 * first


@pytest.mark.parametrize("loss", ["mse", "poisson"])
def test_resumes_in_either_stage(train, loss, tmp_path, monkeypatch):
    if loss == "poisson":
        counts = np.random.default_rng(0).poisson(5, size=train.target.shape).astype(np.float32)
        train = replace(train, counts=counts, exposure=np.ones_like(counts), loss=loss)
    validation = replace(train.take(np.arange(10)), library=np.full(10, 2))
    expected = fitted(train, validation).predict(train, COMPUTE)
    how, tried = replace(COMPUTE, checkpoint=tmp_path / "state"), []
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)

    def interrupted(kind, at):
        run = kind.loss

        def loss(self, network, batch):
            tried.append(kind.__name__)
            if len(tried) == at:
                raise KeyboardInterrupt
            return run(self, network, batch)

        tried.clear()
        return loss

    with monkeypatch.context() as patched:
        patched.setattr(FirstStage, "loss", interrupted(FirstStage, 4))
        with (
            pytest.raises(KeyboardInterrupt, match="in the first stage"),
            pytest.warns(UserWarning, match="interrupted"),
        ):
            fitted(train, validation, how)
    with monkeypatch.context() as patched:
        patched.setattr(Sepal, "loss", interrupted(Sepal, 4))
        with pytest.warns(UserWarning, match="training interrupted after step 2"):
            fitted(train, validation, how)
    with monkeypatch.context() as patched:
        patched.setattr(FirstStage, "loss", interrupted(FirstStage, 0))
        patched.setattr(Sepal, "loss", interrupted(Sepal, 0))
        np.testing.assert_array_equal(fitted(train, validation, how).predict(train, COMPUTE), expected)
        assert tried == ["Sepal"] * 2


def test_a_graph_network_too_narrow_for_its_layers():
    with pytest.raises(ValueError, match="width=3: expected at least 4, as each of the 2 layers halves it"):
        Sepal(width=3)
