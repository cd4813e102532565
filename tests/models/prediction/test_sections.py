"""_models/prediction/sections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import special, stats

from helpers.networks import COMPUTE, CPU, N_GENES, make_spots, on_lattice, some_known
from helpers.section_networks import hggep, hist2st, histogene
from spared_sc._kernels.lattice import from_array, nearest_on_grids
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._models.prediction import sections
from spared_sc._models.prediction.batch import Batch, Targets
from spared_sc._models.prediction.hggep import HggepNet
from spared_sc._models.prediction.hist2st import Hist2STNet
from spared_sc._models.prediction.networks import Shape
from spared_sc._models.prediction.sampling import Chosen

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots

MODELS = {"histogene": histogene, "hist2st": hist2st, "hggep": hggep}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
of_counts = pytest.mark.parametrize("make", [hist2st, hggep])


def embedded(n=24, **options) -> Spots:
    """Spots with the mean colour of their patch, and noise, as an embedding."""
    spots = make_spots(n, **options)
    noise = np.random.default_rng(n).normal(size=(n, 3))
    embedding = np.column_stack([spots.patches.pixels.mean(axis=(1, 2)), noise])
    return replace(spots, patches=None, embedding=embedding.astype(np.float32))


def training_batch(spots: Spots, rows: np.ndarray, predicted: np.ndarray) -> Batch:
    patches = None if spots.patches is None else spots.patches.pixels[rows]
    targets = Targets.of(spots, CPU)
    return Batch.of(spots, Chosen(rows, predicted), patches, CPU, image_size=None, own=None, targets=targets)


@every_model
def test_an_embedding_takes_the_place_of_patches(make):
    train, validation = embedded(), embedded(9, n_libraries=1, seed=1)
    predictor = make(n_steps=6)
    predictor.fit(train, validation, COMPUTE)
    expected = predictor.predict(train, COMPUTE)
    again = type(predictor).from_state(*predictor.state())
    np.testing.assert_array_equal(again.predict(train, COMPUTE), expected)
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_allclose(predictor.predict(train.take(order), COMPUTE), expected[order], rtol=1e-4, atol=1e-5)
    other = make(n_steps=6)
    other.fit(train.take(order), validation, COMPUTE)
    np.testing.assert_allclose(other.predict(train, COMPUTE), expected, rtol=1e-3, atol=1e-4)


@every_model
def test_a_section_is_predicted_without_the_others(make):
    spots = embedded()
    predictor = make(n_steps=2)
    predictor.fit(spots, None, COMPUTE)
    expected = predictor.predict(spots, COMPUTE)
    for code in range(3):
        rows = np.flatnonzero(spots.library == code)
        alone = predictor.predict(spots.take(rows), COMPUTE)
        np.testing.assert_allclose(alone, expected[rows], rtol=1e-4, atol=1e-5)


def told_by_section() -> Spots:
    """Spots whose expression and embedding are those of their section."""
    train, rng = embedded(), np.random.default_rng(0)
    target = rng.normal(2, 1, size=(3, N_GENES)).astype(np.float32)[train.library]
    embedding = np.eye(3)[train.library] + 0.1 * rng.normal(size=(24, 3))
    counts = rng.poisson(2 * np.expm1(np.log(2) * target).clip(0)).astype(np.float32)
    return replace(train, target=target, embedding=embedding.astype(np.float32), counts=counts)


@every_model
def test_expression_is_learned(make):
    train = told_by_section()
    predictor = make(n_steps=60, learning_rate=1e-2, delta=True)
    predictor.fit(train, None, COMPUTE)
    error = ((predictor.predict(train, COMPUTE) - train.target) ** 2).mean()
    assert error < train.target.var(axis=0).mean() / 2


@every_model
def test_counts_can_be_the_target(make):
    train = told_by_section()
    exposure = np.full(train.counts.shape, 2, np.float32)
    train = replace(train, exposure=exposure, loss="poisson")
    predictor = make(n_steps=60, learning_rate=1e-2)
    predictor.fit(train, None, COMPUTE)
    expected = exposure * np.expm1(np.log(2) * predictor.predict(train, COMPUTE))
    share = np.broadcast_to(train.counts.mean(axis=0), expected.shape)
    found, constant = (poisson_deviance(train.counts, rate).mean() for rate in (expected, share))
    assert found < 0.8 * constant


@every_model
def test_tiles_see_their_rim(make):
    spots = embedded(30)
    predictor = make(n_steps=2, most_spots=6, halo=1)
    predictor.fit(spots, None, COMPUTE)
    expected = np.full((30, N_GENES), np.nan)
    for tile in predictor.sampler(spots).tiles:
        batch = Batch.of(predictor._scaled(spots), tile, None, CPU, image_size=None, own=None)
        with torch.no_grad():
            whole = predictor.network(batch.tokens, batch.place, batch.edges)
        expected[tile.centres] = whole.numpy()[tile.predicted]
    np.testing.assert_allclose(predictor.predict(spots, COMPUTE), expected, rtol=1e-4, atol=1e-5)


@every_model
def test_the_range_of_places_is_that_of_training(make):
    train = embedded(60)
    predictor = make(n_steps=1)
    predictor.fit(train, None, COMPUTE)
    assert predictor.network.place.last.tolist() == train.place.max(axis=0).tolist()
    far = replace(train, place=train.place + [100, 300])  # a larger array than any in training
    assert np.isfinite(predictor.predict(far, COMPUTE)).all()


def fitted(make, train, **params):
    """A predictor whose network has no dropout, and a batch of which one spot is context."""
    predictor = make(n_steps=1, dropout=0.0, **params)
    predictor.fit(train, None, COMPUTE)
    rows = np.arange(8)
    return predictor, training_batch(predictor._scaled(train), rows, rows != 3)


@of_counts
def test_loss_adds_the_likelihood_of_counts(make):
    train = some_known(embedded())
    predictor, batch = fitted(make, train, zinb_weight=0.7, distillation_weight=0.0)
    network, rows = predictor.network, np.flatnonzero(batch.predicted)
    with torch.no_grad():
        found = predictor.loss(network, batch).item()
        values = network.hidden(batch.tokens, batch.place, batch.edges)[rows]
        expression = network.heads.expression(values).numpy()
        log_mean, dispersion, dropout = (
            getattr(network.heads, name)(values).double().numpy() for name in ("log_mean", "dispersion", "dropout")
        )
    total = train.counts[:8].sum(axis=1)
    mean = np.exp(log_mean) * (total / np.median(total))[rows, None]
    size, counts = np.log1p(np.exp(dispersion)), train.counts[rows]
    drawn = special.log_expit(-dropout) + stats.nbinom.logpmf(counts, size, size / (size + mean))
    chance = np.where(counts == 0, np.logaddexp(special.log_expit(dropout), drawn), drawn)
    error = ((expression - train.target[rows]) ** 2)[train.known[rows]].mean()
    assert found == pytest.approx(error - 0.7 * chance.mean(), rel=1e-4)


@of_counts
def test_loss_adds_the_distance_from_copies(make, monkeypatch):
    train = make_spots()
    predictor, batch = fitted(make, train, zinb_weight=0.0, distillation_weight=0.3, n_copies=3)
    network = predictor.network
    seen = []

    def darker(images):
        seen.append(images * (0.9 - 0.2 * len(seen)))
        return seen[-1]

    monkeypatch.setattr(sections, "augmented", darker)
    with torch.no_grad():
        found = predictor.loss(network, batch).item()
        assert len(seen) == 3
        hidden = [network.hidden(images, batch.place, batch.edges)[batch.predicted] for images in (batch.images, *seen)]
        expression, *copies = [network.heads.expression(values).numpy() for values in hidden]
        scores = np.stack([network.heads.scored(values).numpy() for values in hidden[1:]])
    average = (special.softmax(scores, axis=0) * np.stack(copies)).sum(axis=0)
    rows = np.flatnonzero(batch.predicted)
    expected = ((expression - train.target[rows]) ** 2).mean() + 0.3 * ((average - expression) ** 2).mean()
    assert found == pytest.approx(expected, rel=1e-4)


@of_counts
def test_counts_have_to_be_there(make):
    train = replace(embedded(), counts=None)
    with pytest.raises(ValueError, match="the spots have no counts"):
        make().fit(train, None, COMPUTE)
    make(zinb_weight=0).fit(train, None, COMPUTE)


@of_counts
def test_the_width_is_shared_by_the_positions_of_a_patch(make):
    n_positions = {hist2st: 16, hggep: 4}[make]
    with pytest.raises(ValueError, match=f"width=30 is no multiple of {n_positions}.*image_size=32: change one"):
        make(width=30).make_network(Shape(N_GENES, None, 2), "random")
    make(width=30).make_network(Shape(N_GENES, 6, 2), "random")  # of an embedding any
    with pytest.raises(ValueError, match="change one of the two"):
        hist2st(image_size=6).make_network(Shape(N_GENES, None, 2), "random")


@pytest.mark.parametrize("kind", ["hex", "grid"])
@pytest.mark.parametrize(("make", "network", "k"), [(hist2st, Hist2STNet, 4), (hggep, HggepNet, 8)])
def test_neighbours_on_square_arrays_are_those_of_the_authors(make, network, k, kind, monkeypatch):
    """In training and in prediction; on hexagonal arrays they are those that touch."""
    library = np.zeros(30, dtype=int)
    place = on_lattice(1, (6, 6)).place[:30] if kind == "hex" else np.stack(np.divmod(np.arange(30), 6), axis=1)
    touching = from_array(place, library, kind=kind)
    seen, plain = [], network.hidden

    def hidden(self, tokens, places, edges):
        seen.append((places, edges))
        return plain(self, tokens, places, edges)

    monkeypatch.setattr(network, "hidden", hidden)
    predictor, spots = make(n_steps=1), replace(embedded(30), place=place, library=library, lattice=touching)
    predictor.fit(spots, None, COMPUTE)
    n_training = len(seen)
    predictor.predict(spots, COMPUTE)
    assert 0 < n_training < len(seen)
    expected = nearest_on_grids(touching, place, library, k)
    sizes = {tuple(one): size for one, size in zip(place.tolist(), np.diff(expected.indptr), strict=True)}
    for places, edges in (seen[n_training - 1], seen[-1]):
        assert edges.shape[1] == len(expected.indices)
        found = {tuple(one): int((edges[0] == i).sum()) for i, one in enumerate(places.tolist())}
        assert found == sizes
        far = ((places[edges[0]] - places[edges[1]]) ** 2).sum(dim=1)
        assert far.max() <= 4
