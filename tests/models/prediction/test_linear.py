"""_models/prediction/linear."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

from helpers.prediction import LINEAR
from spared_sc._models.prediction import linear
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def spots(rng):
    n, g = 180, 5
    embedding = rng.normal(size=(n, 12)).astype(np.float32)
    target = embedding @ rng.normal(size=(12, g)) + rng.normal(size=(n, g)) + np.arange(g)
    return Spots(
        library=np.repeat([0, 1, 2], n // 3),
        position=rng.uniform(0, 50, size=(n, 2)),
        embedding=embedding,
        log_depth=rng.normal(7, 1, size=n),
        target=target.astype(np.float32),
        known=rng.random((n, g)) < 0.6,
    )


def every_entry(spots: Spots) -> Spots:
    return replace(spots, known=None)


def standardized(spots):
    """Within each of the sections, which have 60 spots, and cut off at five standard deviations."""
    result = np.empty(spots.embedding.shape)
    for code in np.unique(spots.library):
        rows = spots.library == code
        here = spots.embedding[rows].astype(float)
        result[rows] = np.clip((here - here.mean(axis=0)) / here.std(axis=0), -5, 5)
    return result


def cross_validated(inputs, spots, known):
    """The penalty of lowest error, and the fit with it, by scikit-learn and loops."""
    target = spots.target.astype(float)
    errors = []
    for factor in np.logspace(-2, 4, 13):
        error = 0.0
        for fold in np.unique(spots.library):
            inside = spots.library != fold
            for gene in range(target.shape[1]):
                rows, out = np.flatnonzero(inside & known[:, gene]), np.flatnonzero(~inside & known[:, gene])
                error += (
                    (one_ridge(inputs, target, rows, gene, factor).predict(inputs[out]) - target[out, gene]) ** 2
                ).sum()
        errors.append(error)
    best = np.logspace(-2, 4, 13)[int(np.argmin(errors))]
    fits = [one_ridge(inputs, target, np.flatnonzero(known[:, gene]), gene, best) for gene in range(target.shape[1])]
    return best, np.column_stack([fit.predict(inputs) for fit in fits])


def one_ridge(inputs, target, rows, gene, factor):
    """scikit-learn's penalty is absolute; ours is in units of the mean eigenvalue."""
    centred = inputs[rows] - inputs[rows].mean(axis=0)
    unit = np.trace(centred.T @ centred) / inputs.shape[1]
    return Ridge(alpha=factor * unit).fit(inputs[rows], target[rows, gene])


@pytest.mark.parametrize("masked", [True, False])
def test_ridge_is_that_of_scikit_learn(spots, masked):
    spots = spots if masked else every_entry(spots)
    known = spots.known if masked else np.ones(spots.target.shape, bool)
    penalty, expected = cross_validated(standardized(spots), spots, known)
    model = linear.Ridge(standardize="library")
    model.fit(spots, None, None)
    assert model.penalty == pytest.approx(penalty)
    np.testing.assert_allclose(model.predict(spots, None), expected, atol=1e-4)


def test_ridge_on_more_features_than_spots_is_that_of_scikit_learn(spots, rng):
    wide = np.hstack([spots.embedding, rng.normal(size=(len(spots), 388)).astype(np.float32)])
    spots = every_entry(replace(spots, embedding=wide))
    inputs = PCA(len(spots) - 3, svd_solver="full").fit_transform(standardized(spots))  # each section is centred
    penalty, expected = cross_validated(inputs, spots, np.ones(spots.target.shape, bool))
    model = linear.Ridge(standardize="library")
    model.fit(spots, None, None)
    assert model.penalty == pytest.approx(penalty)
    np.testing.assert_allclose(model.predict(spots, None), expected, atol=1e-3)


def test_depth_only_is_a_regression_on_a_parabola(spots):
    depth = (spots.log_depth - spots.log_depth.mean()) / spots.log_depth.std()
    penalty, expected = cross_validated(np.column_stack([depth, depth**2]), spots, spots.known)
    model = linear.DepthOnly()
    model.fit(spots, None, None)
    assert model.penalty == pytest.approx(penalty)
    np.testing.assert_allclose(model.predict(spots, None), expected, atol=1e-4)


def test_position_only_learns_what_layout_explains(rng):
    """A pattern that repeats from section to section at the same relative place, at another size and origin."""
    side = np.linspace(-1, 1, 12)
    x, y = (one.ravel() for one in np.meshgrid(side, side))
    value = x**2 - 0.5 * x * y
    library = np.repeat([0, 1, 2], x.size)
    place = np.concatenate([np.column_stack([x, y]) * size + origin for size, origin in ((1, 0), (30, 500), (7, -9))])
    spots = Spots(library, position=place, target=np.tile(value, 3)[:, None].astype(np.float32))
    model = linear.PositionOnly()
    model.fit(spots.take(np.flatnonzero(library < 2)), None, None)
    last = spots.take(np.flatnonzero(library == 2))
    np.testing.assert_allclose(model.predict(last, None)[:, 0], value, atol=0.05)


def test_gene_mean_is_the_mean_of_known_entries(spots):
    model = linear.GeneMean()
    model.fit(spots, None, None)
    expected = [spots.target[spots.known[:, gene], gene].mean() for gene in range(spots.target.shape[1])]
    np.testing.assert_allclose(model.predict(spots.take(np.arange(3)), None), np.tile(expected, (3, 1)), rtol=1e-5)


def test_knn_is_the_mean_of_the_nearest(spots):
    model = linear.Knn(standardize="library")
    model.fit(spots, None, None)
    assert model.k in (5, 10, 20, 50, 100, 200)
    scaled = standardized(spots)
    near = NearestNeighbors(n_neighbors=model.k).fit(scaled).kneighbors(scaled, return_distance=False)
    expected = np.empty(spots.target.shape)
    for spot, gene in np.ndindex(*expected.shape):
        rows = [row for row in near[spot] if spots.known[row, gene]]
        rows = rows or np.flatnonzero(spots.known[:, gene])
        expected[spot, gene] = spots.target[rows, gene].mean()
    np.testing.assert_allclose(model.predict(spots, None), expected, atol=1e-4)


def test_knn_chooses_the_number_of_neighbours_on_other_libraries(rng):
    """Copies within a library would make one neighbour look best; other libraries say that all are alike."""
    embedding = np.repeat(rng.normal(size=(90, 3)), 6, axis=0).astype(np.float32)
    target = np.repeat(rng.normal(size=(90, 1)), 6, axis=0).astype(np.float32)
    library = np.repeat([0, 1, 2], 180)
    model = linear.Knn()
    model.fit(Spots(library, embedding=embedding, target=target), None, None)
    assert model.k >= 100


@pytest.mark.parametrize("name", LINEAR)
def test_order_of_rows_and_batches_do_not_matter(spots, rng, name):
    order = rng.permutation(len(spots))
    one, other = PREDICTORS.make(name, {}), PREDICTORS.make(name, {})
    one.fit(spots, None, None)
    other.fit(spots.take(order), None, None)
    expected = one.predict(spots, None)
    np.testing.assert_allclose(other.predict(spots, None), expected, atol=1e-4)
    if name != "position_only":  # which looks at the whole section
        part = np.arange(7, 20)
        np.testing.assert_allclose(one.predict(spots.take(part), None), expected[part], atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_state_is_all_that_was_learned(spots, name):
    model = PREDICTORS.make(name, {})
    model.fit(spots, None, None)
    arrays, values = model.state()
    again = PREDICTORS.load(name).from_state(arrays, json.loads(json.dumps(values)))
    assert np.array_equal(again.predict(spots, None), model.predict(spots, None))


def stained(spots, rng, *codes):
    """The spots with other means and spreads of the features in some sections."""
    shift, zoom = np.zeros((3, 12)), np.ones((3, 12))
    for code in codes:
        shift[code], zoom[code] = 20 * rng.normal(size=12), np.exp(rng.normal(0, 0.5, size=12))
    embedding = spots.embedding * zoom[spots.library] + shift[spots.library]
    return replace(spots, embedding=embedding.astype(np.float32))


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_stain_and_scanner_of_a_section_do_not_matter_within_it(spots, rng, name):
    other = stained(spots, rng, 0, 1, 2)
    one, again = (PREDICTORS.make(name, {"standardize": "library"}) for _ in range(2))
    one.fit(spots, None, None)
    again.fit(other, None, None)
    np.testing.assert_allclose(again.predict(other, None), one.predict(spots, None), atol=1e-3)


def test_stain_of_train_sections_does_not_matter_for_the_weights(spots, rng):
    """They are those of the regression on features that are standardised within sections."""
    one, again = linear.Ridge(), linear.Ridge()
    one.fit(spots, None, None)
    again.fit(stained(spots, rng, 1), None, None)
    assert again.penalty == one.penalty
    np.testing.assert_allclose(again.components @ again.weights, one.components @ one.weights, atol=1e-3)


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_a_prediction_does_not_depend_on_the_other_spots(spots, rng, name):
    model = PREDICTORS.make(name, {})
    model.fit(spots, None, None)
    whole = model.predict(spots, None)
    for part in (np.flatnonzero(spots.embedding[:, 0] > 0), np.arange(51), np.array([7])):
        np.testing.assert_allclose(model.predict(spots.take(part), None), whole[part], atol=1e-6)
    moved = PREDICTORS.make(name, {"standardize": "library"})
    moved.fit(spots, None, None)
    part = np.argsort(spots.embedding[:60, 0])[:50]
    assert np.abs(moved.predict(spots.take(part), None) - moved.predict(spots, None)[part]).max() > 0.1


def test_new_spots_are_standardized_by_mean_and_spread_within_train_sections(spots):
    few = spots.take(np.arange(3))
    sections = [spots.embedding[spots.library == code].astype(float) for code in range(3)]
    spread = np.sqrt(np.mean([section.var(axis=0) for section in sections], axis=0))
    scaled = np.clip((few.embedding - spots.embedding.mean(axis=0)) / spread, -5, 5)
    for standardize in ("train", "library"):  # a section of three spots has no statistics of its own
        model = linear.Ridge(standardize=standardize)
        model.fit(spots, None, None)
        np.testing.assert_allclose(model._inputs(few), scaled @ model.components, atol=1e-5)
    with pytest.raises(ValueError, match="standardize='slide' is unknown"):
        linear.Ridge(standardize="slide")


def test_sections_unlike_the_train_sections_are_named(spots):
    shifted = replace(spots, embedding=spots.embedding + 0.2 * spots.library[:, None].astype(np.float32))
    model, own = linear.Ridge(), linear.Ridge(standardize="library")
    model.fit(shifted, None, None)
    own.fit(shifted, None, None)
    another = replace(spots.take(np.arange(60)), embedding=spots.embedding[:60] + np.float32(0.4))
    far = replace(another, embedding=another.embedding + 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.predict(another, None)
        model.predict(another.take(np.arange(7)), None)
        own.predict(another, None)
    with pytest.warns(UserWarning, match="lies 2.* standard deviations .*none lies more than 0.*stain='macenko'"):
        model.predict(far, None)
    with pytest.warns(UserWarning, match="lies 2.* standard deviations .*use standardize='train'"):
        own.predict(far, None)
    own.fewest = 200
    with pytest.warns(UserWarning, match="has 60 spots, the smallest train section has 200.*use standardize='train'"):
        own.predict(another, None)


def test_constant_features_and_few_spots(rng):
    embedding = np.column_stack([np.full(6, 255.0), rng.normal(size=6)]).astype(np.float32)
    spots = Spots(np.zeros(6, int), embedding=embedding, target=rng.normal(size=(6, 2)).astype(np.float32))
    for name in ("ridge", "knn"):
        model = PREDICTORS.make(name, {})
        model.fit(spots, None, None)
        assert np.isfinite(model.predict(spots, None)).all()


def test_a_gene_that_is_known_nowhere_is_predicted_as_its_mean(spots):
    known = spots.known.copy()
    known[:, 2] = False
    spots = replace(spots, known=known)
    for name in LINEAR:
        model = PREDICTORS.make(name, {})
        model.fit(spots, None, None)
        found = model.predict(spots, None)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:, 2], spots.target[:, 2].mean(), rtol=1e-5)


def test_folds_are_donors_where_these_are_known(spots):
    library = np.repeat([0, 1, 2, 3], [50, 50, 40, 40])
    by_donor = replace(spots, library=library, group=np.repeat([7, 7, 2, 4], [50, 50, 40, 40]))
    assert linear.folds(by_donor).tolist() == np.repeat([2, 2, 0, 1], [50, 50, 40, 40]).tolist()
    assert linear.folds(replace(by_donor, group=np.zeros(180, int))).tolist() == library.tolist()  # siblings all
    assert linear.folds(by_donor, most=2).max() == 1
    copies = replace(by_donor, group=np.zeros(180, int), section=np.repeat([0, 0, 1, 2], [50, 50, 40, 40]))
    assert linear.folds(copies).tolist() == np.repeat([0, 0, 1, 2], [50, 50, 40, 40]).tolist()
    lonely = replace(by_donor, group=np.repeat([0, 1], [170, 10]))  # ten spots to fit to say nothing
    assert linear.folds(lonely).tolist() == library.tolist()


def test_folds_of_one_section_are_strips(spots):
    one = Spots(np.zeros(len(spots), int), position=spots.position, target=spots.target)
    fold = linear.folds(one)
    axis = np.ptp(spots.position, axis=0).argmax()
    ends = [(spots.position[fold == i, axis].min(), spots.position[fold == i, axis].max()) for i in range(5)]
    assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))
    assert np.bincount(fold).tolist() == [36] * 5
    # On a lattice many spots lie at one place of the axis: the order of rows decides nothing.
    lattice = np.column_stack([one.ravel() for one in np.meshgrid(np.arange(20.0), np.arange(9.0))])
    order = np.random.default_rng(2).permutation(len(lattice))
    first, second = (
        linear.folds(Spots(np.zeros(180, int), position=place, target=spots.target))
        for place in (lattice, lattice[order])
    )
    assert np.array_equal(first[order], second)
