"""Predictors without a network, the functions that fit, apply and score them, and what they refuse."""

from __future__ import annotations

import json
import pickle
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors

import spared_sc as sp
from spared_sc._core.validate import get_libraries
from spared_sc._kernels import agreement
from spared_sc._kernels.bootstrap import unit_weights
from spared_sc._models.prediction import linear
from spared_sc._models.prediction.base import Spots
from spared_sc._models.prediction.novelty import Novelty
from spared_sc._models.prediction.registry import PREDICTORS, make_predictor
from spared_sc.tl import _prediction as prediction

KEY = {"library_key": "library_id"}
LINEAR = ("gene_mean", "depth_only", "position_only", "ridge", "knn")


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
    return Spots(spots.library, spots.position, None, spots.embedding, spots.log_depth, spots.target)


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
    model = linear.Ridge()
    model.fit(spots, None, None)
    assert model.penalty == pytest.approx(penalty)
    np.testing.assert_allclose(model.predict(spots, None), expected, atol=1e-4)


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
    spots = Spots(library, place, target=np.tile(value, 3)[:, None].astype(np.float32))
    model = linear.PositionOnly()
    model.fit(spots.rows(np.flatnonzero(library < 2)), None, None)
    last = spots.rows(np.flatnonzero(library == 2))
    np.testing.assert_allclose(model.predict(last, None)[:, 0], value, atol=0.05)


def test_gene_mean_is_the_mean_of_known_entries(spots):
    model = linear.GeneMean()
    model.fit(spots, None, None)
    expected = [spots.target[spots.known[:, gene], gene].mean() for gene in range(spots.target.shape[1])]
    np.testing.assert_allclose(model.predict(spots.rows(np.arange(3)), None), np.tile(expected, (3, 1)), rtol=1e-5)


def test_knn_is_the_mean_of_the_nearest(spots):
    model = linear.Knn()
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
    one, other = make_predictor(name, {}), make_predictor(name, {})
    one.fit(spots, None, None)
    other.fit(spots.rows(order), None, None)
    expected = one.predict(spots, None)
    np.testing.assert_allclose(other.predict(spots, None), expected, atol=1e-4)
    if name in ("gene_mean", "depth_only"):  # the others look at the whole section
        part = np.arange(7, 20)
        np.testing.assert_allclose(one.predict(spots.rows(part), None), expected[part], atol=1e-5)


@pytest.mark.parametrize("name", LINEAR)
def test_state_is_all_that_was_learned(spots, name):
    model = make_predictor(name, {})
    model.fit(spots, None, None)
    arrays, values = model.state()
    again = PREDICTORS[name].from_state(arrays, json.loads(json.dumps(values)))
    assert np.array_equal(again.predict(spots, None), model.predict(spots, None))


@pytest.mark.parametrize("name", ["ridge", "knn"])
def test_stain_and_scanner_of_a_section_do_not_matter(spots, rng, name):
    shift, zoom = 20 * rng.normal(size=(3, 12)), np.exp(rng.normal(size=(3, 12)))
    other = spots.embedding * zoom[spots.library] + shift[spots.library]
    stained = Spots(spots.library, spots.position, None, other.astype(np.float32), None, spots.target, spots.known)
    one, again = make_predictor(name, {}), make_predictor(name, {})
    one.fit(spots, None, None)
    again.fit(stained, None, None)
    np.testing.assert_allclose(again.predict(stained, None), one.predict(spots, None), atol=1e-3)
    train = make_predictor(name, {"standardize": "train"})
    train.fit(spots, None, None)
    assert np.abs(train.predict(stained, None) - train.predict(spots, None)).max() > 0.5


def test_few_spots_are_standardized_as_the_train_spots(spots):
    model = linear.Ridge()
    model.fit(spots, None, None)
    few = spots.rows(np.arange(3))
    scaled = np.clip((few.embedding - spots.embedding.mean(0)) / spots.embedding.std(0), -5, 5)
    np.testing.assert_allclose(model._standardized(few), scaled, atol=1e-5)
    with pytest.raises(ValueError, match="standardize='slide' is unknown"):
        linear.Ridge(standardize="slide")


def test_constant_features_and_few_spots(rng):
    embedding = np.column_stack([np.full(6, 255.0), rng.normal(size=6)]).astype(np.float32)
    spots = Spots(np.zeros(6, int), embedding=embedding, target=rng.normal(size=(6, 2)).astype(np.float32))
    for name in ("ridge", "knn"):
        model = make_predictor(name, {})
        model.fit(spots, None, None)
        assert np.isfinite(model.predict(spots, None)).all()


def test_a_gene_that_is_known_nowhere_is_predicted_as_its_mean(spots):
    known = spots.known.copy()
    known[:, 2] = False
    spots = Spots(spots.library, spots.position, None, spots.embedding, spots.log_depth, spots.target, known)
    for name in LINEAR:
        model = make_predictor(name, {})
        model.fit(spots, None, None)
        found = model.predict(spots, None)
        assert np.isfinite(found).all()
        np.testing.assert_allclose(found[:, 2], spots.target[:, 2].mean(), rtol=1e-5)


def test_folds_of_one_section_are_strips(spots):
    one = Spots(np.zeros(len(spots), int), spots.position, target=spots.target)
    fold = linear.folds(one)
    axis = np.ptp(spots.position, axis=0).argmax()
    ends = [(spots.position[fold == i, axis].min(), spots.position[fold == i, axis].max()) for i in range(5)]
    assert all(before[1] <= after[0] for before, after in zip(ends, ends[1:], strict=False))
    assert np.bincount(fold).tolist() == [36] * 5
    # On a lattice many spots lie at one place of the axis: the order of rows decides nothing.
    lattice = np.column_stack([one.ravel() for one in np.meshgrid(np.arange(20.0), np.arange(9.0))])
    order = np.random.default_rng(2).permutation(len(lattice))
    first, second = (
        linear.folds(Spots(np.zeros(180, int), place, target=spots.target)) for place in (lattice, lattice[order])
    )
    assert np.array_equal(first[order], second)


def test_unknown_predictors_and_parameters():
    with pytest.raises(KeyError, match=r"no predictor 'rigde': choose among .*'ridge'"):
        make_predictor("rigde", {})
    with pytest.raises(
        TypeError, match=r"'ridge' has no parameter 'steps'; its parameters: 'standardize', 'n_components'"
    ):
        make_predictor("ridge", {"steps": 3})


# --- novelty ----------------------------------------------------------------------------------------------------------


def test_novelty_flags_what_is_far_away_and_one_in_a_thousand_of_training(rng):
    train = rng.normal(size=(4000, 30)) @ rng.normal(size=(30, 30))
    novelty = Novelty.of(train)
    assert 0 < novelty.unlike(train).mean() <= 0.0015
    assert np.sqrt((novelty.distance(train) ** 2).mean()) == pytest.approx(1, abs=0.01)
    assert novelty.unlike(train[:50] + 20 * train.std(axis=0)).all()
    away = np.zeros(30)
    away[3] = 1e3  # in one direction only
    assert novelty.unlike(train[:5] + away).all()


# --- agreement --------------------------------------------------------------------------------------------------------


def test_scores_are_those_of_loops(rng):
    n, g = 90, 12
    library = np.repeat([0, 1, 2], 30)
    truth, guess = rng.normal(3, 1, size=(2, n, g))
    guess = 0.5 * (truth + guess)
    known = rng.random((n, g)) < 0.7
    known[library == 2, 4] = False
    found = agreement.by_gene(truth, known, guess, library, 3)
    total = agreement.by_library(truth, known, guess, library, 3)
    for code in range(3):
        squares, deviations, errors = [], [], []
        for gene in range(g):
            rows = np.flatnonzero((library == code) & known[:, gene])
            if not rows.size:
                assert np.isnan([found[name][code, gene] for name in found]).all()
                continue
            one, other = truth[rows, gene], guess[rows, gene]
            assert found["mse"][code, gene] == pytest.approx(np.mean((one - other) ** 2))
            assert found["mae"][code, gene] == pytest.approx(np.mean(np.abs(one - other)))
            assert found["pcc"][code, gene] == pytest.approx(stats.pearsonr(one, other).statistic)
            r2 = 1 - ((one - other) ** 2).sum() / ((one - one.mean()) ** 2).sum()
            assert found["r2"][code, gene] == pytest.approx(r2)
            squares += [(one - other) ** 2]
            deviations += [(one - one.mean()) ** 2]
            errors += [np.abs(one - other)]
        squares, deviations, errors = map(np.concatenate, (squares, deviations, errors))
        assert total["mse"][code] == pytest.approx(squares.mean())
        assert total["mae"][code] == pytest.approx(errors.mean())
        assert total["r2"][code] == pytest.approx(1 - squares.sum() / deviations.sum())
        per_spot = [
            stats.pearsonr(truth[spot, known[spot]], guess[spot, known[spot]]).statistic
            for spot in np.flatnonzero(library == code)
            if known[spot].sum() >= 10
        ]
        if per_spot:
            assert total["pcc_spot"][code] == pytest.approx(np.mean(per_spot))
        else:
            assert np.isnan(total["pcc_spot"][code])


def test_a_prediction_that_does_not_vary_correlates_with_nothing(rng):
    """Left out of the mean over genes, it would make a model look better the fewer genes it says anything about."""
    truth = rng.normal(size=(40, 2))
    truth[:, 1] = 3  # nothing to correlate with
    known = np.ones(truth.shape, bool)
    found = agreement.by_gene(truth, known, np.full(truth.shape, 2.0), np.repeat([0, 1], 20), 2)["pcc"]
    np.testing.assert_array_equal(found, [[0, np.nan], [0, np.nan]])


def test_donors_are_drawn_as_a_whole():
    weights = unit_weights(["x", "y", "x", "z"], 5000, np.random.default_rng(0))
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    # Of three draws, "x" makes up 0 to 3; then its two sections are that many of all that are drawn.
    drawn = {tuple(row) for row in (weights[:, [0, 1, 3]]).round(9)}
    expected = {
        tuple(np.round([x / (2 * x + y + z), y / (2 * x + y + z), z / (2 * x + y + z)], 9))
        for x in range(4)
        for y in range(4 - x)
        for z in [3 - x - y]
    }
    assert drawn == expected


def test_the_ceiling_is_the_correlation_with_the_expectation(rng):
    expectation = rng.normal(size=(20_000, 2)) * [1.0, 3.0]
    noise = 0.8
    truth = expectation + noise * rng.normal(size=expectation.shape)
    known = np.ones(truth.shape, bool)
    library = np.zeros(len(truth), int)
    found = agreement.ceiling(truth, known, np.full(truth.shape, noise**2), library, 1)[0]
    expected = [stats.pearsonr(truth[:, i], expectation[:, i]).statistic for i in range(2)]
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert (agreement.ceiling(truth, known, np.full(truth.shape, 99.0), library, 1) == 0).all()


# --- public functions -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made():
    """Four sections with an embedding of which one column follows expression."""
    adata = sp.datasets.synthetic(n_libraries=4, shape=(9, 9), n_genes=60, depth=500, image=False)
    sp.pp.recipe_spared(adata, **KEY, n_genes=12, gene_lengths=None)
    level = adata[:, adata.var["spared_selected"]].layers["log2tpm"].toarray()
    # As on real slides, no two sections have their spots at the same pixels.
    adata.obsm["spatial"] = adata.obsm["spatial"] + 13.7 * adata.obs["library_id"].cat.codes.to_numpy()[:, None]
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(adata.n_obs, 8))
    adata.obsm["X_test"] = np.column_stack([level[:, :4] + rng.normal(size=(adata.n_obs, 4)), noise]).astype(np.float32)
    return adata


@pytest.fixture
def adata(made):
    return made.copy()


def predict(adata, model="ridge", **options):
    return sp.tl.predict_expression(adata, **{"model": model, "use_rep": "X_test", **KEY, **options})


def test_every_library_is_predicted_by_a_fit_to_the_others(adata):
    predict(adata)
    table = adata.obsm["predicted_ridge"]
    assert table.columns.tolist() == adata.var_names[adata.var["spared_selected"]].tolist()
    assert table.dtypes.eq(np.float32).all()
    rows = np.flatnonzero(adata.obs["library_id"] == "library_2")
    changed = adata.copy()
    for name in ("log2tpm", "detected"):  # what is measured in a library has no part in its prediction
        values = changed.layers[name].tolil()
        values[rows] = values[rows][::-1]
        changed.layers[name] = values.tocsr()
    predict(changed)
    assert np.array_equal(changed.obsm["predicted_ridge"].iloc[rows], table.iloc[rows])
    others = np.flatnonzero(adata.obs["library_id"] != "library_2")
    assert not np.array_equal(changed.obsm["predicted_ridge"].iloc[others], table.iloc[others])
    assert set(adata.uns["spared_sc"]["predicted_ridge"]["roles"].values()) == {"held out"}


def test_subjects_are_held_out_together(adata):
    adata.obs["donor"] = adata.obs["library_id"].astype(str).str[-1].isin(["1", "2"]).map({True: "a", False: "b"})
    predict(adata, subject_key="donor")
    of_a = (adata.obs["donor"] == "a").to_numpy()
    alone = sp.tl.fit_predictor(adata[~of_a].copy(), use_rep="X_test", **KEY)
    new = adata[of_a].copy()
    sp.tl.predict_expression(new, model=alone, key_added="alone", **KEY)
    np.testing.assert_allclose(new.obsm["alone"], adata.obsm["predicted_ridge"][of_a], atol=1e-5)


def with_split(adata, **roles):
    adata.obs["split"] = adata.obs["library_id"].astype(str).map({f"library_{k[-1]}": v for k, v in roles.items()})
    return adata


def test_with_a_split_only_train_libraries_are_learned_from(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata)
    train = (adata.obs["split"] == "train").to_numpy()
    alone = sp.tl.fit_predictor(adata[train].copy(), use_rep="X_test", split_key=None, **KEY)
    whole = adata.copy()
    sp.tl.predict_expression(whole, model=alone, key_added="alone", **KEY)
    np.testing.assert_allclose(whole.obsm["alone"], adata.obsm["predicted_ridge"], atol=1e-5)
    roles = adata.uns["spared_sc"]["predicted_ridge"]["roles"]
    assert roles == {"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"}


def test_scores_stand_beside_anchors_and_noise(adata):
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    summary = scores[(scores["library"] == "all") & (scores["gene"] == "all")].pivot(
        index="prediction", columns="metric", values="value"
    )
    assert summary.loc["predicted_ridge", "skill"] > 0.02
    assert summary.loc["predicted_ridge", "pcc"] > 0.2
    assert summary.loc["gene_mean", "skill"] == 0
    assert (
        0 < summary.loc["floor_low", "mse"] <= summary.loc["floor_high", "mse"] < summary.loc["predicted_ridge", "mse"]
    )
    assert summary.loc["predicted_ridge", "pcc"] < summary.loc["floor_high", "pcc"] <= 1
    # The anchors are what the predictors of that name give.
    for name in ("gene_mean", "depth_only", "position_only"):
        predict(adata, name)
    again = sp.tl.score_prediction(adata, **KEY)
    again = again[(again["library"] == "all") & (again["gene"] == "all") & (again["metric"] == "mse")]
    value = again.set_index("prediction")["value"]
    for name in ("gene_mean", "depth_only", "position_only"):
        assert value[name] == pytest.approx(value[f"predicted_{name}"])


def test_scores_are_on_detected_entries_of_the_measured_layer(adata):
    predict(adata)
    genes = adata.var_names.get_indexer(adata.obsm["predicted_ridge"].columns)
    truth = adata.layers["log2tpm"].toarray()[:, genes]
    known = adata.layers["detected"].toarray()[:, genes]
    guess = adata.obsm["predicted_ridge"].to_numpy()
    scores = sp.tl.score_prediction(adata, **KEY)
    mine = scores[(scores["prediction"] == "predicted_ridge") & (scores["gene"] == "all")]
    by_library = mine[mine["metric"] == "mse"].set_index("library")["value"]
    expected = []
    for name in by_library.index.drop("all"):
        rows = (adata.obs["library_id"] == name).to_numpy()
        entries = known[rows]
        expected.append(((truth - guess)[rows][entries] ** 2).mean())
        assert by_library[name] == pytest.approx(expected[-1], rel=1e-4)
    assert by_library["all"] == pytest.approx(np.mean(expected), rel=1e-4)
    row = mine[(mine["metric"] == "mse") & (mine["library"] == "all")].iloc[0]
    assert min(expected) <= row["lower"] < row["value"] < row["upper"] <= max(expected)
    pooled = [stats.pearsonr(truth[known[:, g], g], guess[known[:, g], g]).statistic for g in range(len(genes))]
    assert mine[mine["metric"] == "pcc_pooled"]["value"].item() == pytest.approx(np.mean(pooled), abs=1e-4)


def test_only_honest_libraries_are_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    assert set(scores["library"]) == {"library_4", "all"}
    assert scores.loc[scores["library"] == "all", "lower"].isna().all()  # one library has no interval
    adata.obs["split"] = adata.obs["split"].replace({"test": "val"})
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    assert set(scores.loc[scores["library"] != "all", "role"]) == {"val"}
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", split_key=None, **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="seen", **KEY)
    with pytest.raises(ValueError, match="all libraries had a part in fitting"):
        sp.tl.score_prediction(adata, "seen", **KEY)


def test_genes_that_training_has_not_seen_are_not_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    gene = adata.var_names[adata.var["spared_selected"]][3]
    rows = adata.obs["split"].eq("train").to_numpy()
    for values in (adata.X, adata.layers["log2tpm"], adata.layers["detected"]):
        column = values[:, adata.var_names.get_loc(gene)].tocoo()
        at = column.row[rows[column.row]]
        values[at, adata.var_names.get_loc(gene)] = 0
        values.eliminate_zeros()
    with pytest.warns(UserWarning, match=f"1 genes are detected in no library that is learned from .*{gene}"):
        predict(adata)
    with pytest.warns(UserWarning, match="1 genes are detected in no library"):
        predict(adata, "knn")
    scores = sp.tl.score_prediction(adata, **KEY)
    of_gene = scores[(scores["gene"] == gene) & ~scores["prediction"].str.startswith("floor")]
    assert of_gene["value"].isna().all()
    genes = adata.obsm["predicted_knn"].columns
    test = adata[adata.obs["split"] == "test", genes]
    truth, known = test.layers["log2tpm"].toarray(), test.layers["detected"].toarray()
    known[:, genes.get_loc(gene)] = False
    errors = scores[(scores["gene"] == "all") & (scores["metric"] == "mse") & (scores["library"] == "library_4")]
    for key in ("predicted_ridge", "predicted_knn"):
        expected = ((test.obsm[key].to_numpy() - truth)[known] ** 2).mean()
        assert errors.set_index("prediction")["value"][key] == pytest.approx(expected, rel=1e-4)
    # The same of a model that was fitted before.
    with pytest.warns(UserWarning, match="1 genes are detected in no library"):
        fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="before", **KEY)
    again = sp.tl.score_prediction(adata, "before", **KEY)
    again = again[(again["gene"] == "all") & (again["metric"] == "mse") & (again["library"] == "library_4")]
    expected = errors.set_index("prediction")["value"]["predicted_ridge"]
    assert again.set_index("prediction")["value"]["before"] == pytest.approx(expected)


def test_intervals_come_from_drawing_donors(adata):
    predict(adata)
    scores = {}
    for donors in ("a a b c", "a a b b", "1 2 3 4"):
        names = dict(zip([f"library_{i}" for i in (1, 2, 3, 4)], donors.split(), strict=True))
        adata.obs["donor"] = adata.obs["library_id"].astype(str).map(names)
        found = sp.tl.score_prediction(adata, subject_key="donor", **KEY)
        scores[donors] = found[(found["metric"] == "mse") & (found["gene"] == "all")].reset_index(drop=True)
    alone = sp.tl.score_prediction(adata, **KEY)
    alone = alone[(alone["metric"] == "mse") & (alone["gene"] == "all")].reset_index(drop=True)
    for donors in ("a a b b", "1 2 3 4"):  # too few donors to draw from; each section a donor
        pd.testing.assert_frame_equal(scores[donors].drop(columns="subject"), alone.drop(columns="subject"))
    mine = scores["a a b c"].query("prediction == 'predicted_ridge'").set_index("library")
    values = mine["value"][["library_1", "library_2", "library_3", "library_4"]].to_numpy()
    rng = np.random.default_rng(5)
    means = []
    for _ in range(4000):
        drawn = np.concatenate([{0: [0, 1], 1: [2], 2: [3]}[i] for i in rng.integers(3, size=3)])
        means.append(values[drawn].mean())
    spread = np.ptp(values)
    assert mine.loc["all", "lower"] == pytest.approx(np.quantile(means, 0.025), abs=0.05 * spread)
    assert mine.loc["all", "upper"] == pytest.approx(np.quantile(means, 0.975), abs=0.05 * spread)


@pytest.mark.parametrize("made_by", ["combat", "additive"])
def test_what_saw_the_predicted_sections_is_not_scored(adata, made_by):
    def make(layer_of):
        if made_by == "combat":
            sp.pp.combat(layer_of, key_added="made", **KEY)
        else:
            sp.tl.additive_complete(layer_of, key_added="made", **KEY)

    make(adata)
    with pytest.warns(
        UserWarning, match=r"layers\['made'\], made by `.*`, has learned from all sections, also from those"
    ):
        predict(adata, layer="made")
    assert set(adata.uns["spared_sc"]["predicted_ridge"]["roles"].values()) == {"seen"}
    with pytest.raises(ValueError, match="the layer that was predicted has learned from all libraries"):
        sp.tl.score_prediction(adata, **KEY)
    # A fitted predictor remembers which sections its layer has seen.
    with_split(adata, l1="train", l2="train", l3="train", l4="test")
    fitted = sp.tl.fit_predictor(adata, layer="made", use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, **KEY)
    assert adata.uns["spared_sc"]["predicted_ridge"]["roles"]["library_4"] == "seen"
    # Also through a step that by itself looks at one section at a time.
    sp.tl.median_complete(adata, layer="made", key_added="filled", **KEY)
    with pytest.raises(ValueError, match=r"layers\['made'\].*has learned from all sections: train values"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)


def test_layers_that_were_made_with_the_split_are_scored(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    sp.pp.combat(adata, key_added="made", **KEY)
    predict(adata, layer="made")
    assert adata.uns["spared_sc"]["predicted_ridge"]["roles"]["library_4"] == "test"
    with_split(adata, l1="train", l2="test", l3="val", l4="train")  # the same name, another split
    with pytest.warns(UserWarning, match="has learned from another split, which had the same name"):
        predict(adata, layer="made")


@pytest.mark.parametrize("name", ["median", "neighbor_mean"])
def test_what_looks_at_one_section_at_a_time_is_scored(adata, name):
    complete = getattr(sp.tl, f"{name}_complete")
    complete(adata, key_added="filled", **KEY)
    before = adata.layers["filled"].toarray()
    other = (adata.obs["library_id"] == "library_2").to_numpy()
    changed = adata.copy()
    changed.layers["log2tpm"] = changed.layers["log2tpm"].toarray()
    changed.layers["log2tpm"][other] *= 3
    complete(changed, key_added="filled", **KEY)
    after = np.asarray(changed.layers["filled"])
    np.testing.assert_array_equal(after[~other], before[~other])
    assert (after[other] != before[other]).any()
    predict(adata, layer="filled")  # without a warning
    assert set(adata.uns["spared_sc"]["predicted_ridge"]["roles"].values()) == {"held out"}


def test_a_correction_that_was_learned_elsewhere_is_scored(adata, tmp_path):
    old, new = ["library_1", "library_2"], ["library_3", "library_4"]
    sp.pp.combat(adata[adata.obs["library_id"].isin(old)].copy(), save_model=tmp_path / "combat", **KEY)
    here = adata[adata.obs["library_id"].isin(new)].copy()
    sp.pp.combat(here, model=tmp_path / "combat", key_added="made", **KEY)
    predict(here, layer="made")
    assert set(here.uns["spared_sc"]["predicted_ridge"]["roles"].values()) == {"held out"}
    alone = here[here.obs["library_id"] == "library_4"].copy()  # by itself, the same
    sp.pp.combat(alone, model=tmp_path / "combat", key_added="made", **KEY)
    rows = (here.obs["library_id"] == "library_4").to_numpy()
    np.testing.assert_allclose(alone.layers["made"].toarray(), here.layers["made"][rows].toarray(), rtol=1e-5)
    sp.pp.combat(adata, model=tmp_path / "combat", key_added="made", **KEY)  # two of the sections it has learned from
    with pytest.warns(UserWarning, match="has learned from all sections"):
        predict(adata, layer="made")


def test_layers_that_were_made_of_one_another_come_to_an_end(adata):
    sp.pp.center(adata)
    sp.pp.uncenter(adata, key_added="log2tpm")
    sp.tl.median_complete(adata, key_added="one", **KEY)
    sp.tl.median_complete(adata, layer="one", key_added="two", **KEY)
    sp.tl.median_complete(adata, layer="two", key_added="one", **KEY)
    predict(adata, "gene_mean", key_added="a")
    predict(adata, "gene_mean", layer="one", key_added="b")
    assert set(adata.uns["spared_sc"]["b"]["roles"].values()) == {"held out"}


def test_rates_have_seen_what_their_layer_has(adata):
    sp.tl.additive_complete(adata, key_added="made", **KEY)
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    with pytest.warns(UserWarning, match=r"layers\['made_rate'\].*has learned from all sections"):
        predict(adata, layer="made_rate")
    fitted = sp.tl.fit_predictor(adata, layer="made_rate", use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, key_added="saved", **KEY)
    roles = {"library_1": "train", "library_2": "train", "library_3": "seen", "library_4": "seen"}
    for key in ("predicted_ridge", "saved"):
        assert adata.uns["spared_sc"][key]["roles"] == roles


def test_a_split_is_recorded_so_that_zarr_can_hold_it(adata, tmp_path):
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    adata.obs["split"] = np.where(adata.obs["library_id"] == "library/4", "test", "train")
    del adata.uns["spatial"]
    sp.pp.combat(adata, key_added="made", **KEY)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        adata.write_zarr(tmp_path / "a.zarr")
    back = ad.read_zarr(tmp_path / "a.zarr")
    predict(back, layer="made")  # without a warning: made with this split
    assert back.uns["spared_sc"]["predicted_ridge"]["roles"]["library/4"] == "test"


def test_places_that_sections_share_do_not_tell_them_apart(adata):
    adata.obsm["spatial"] = adata.obs[["array_row", "array_col"]].to_numpy(dtype=float)
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    sp.tl.predict_expression(adata, model=fitted, **KEY)
    roles = adata.uns["spared_sc"]["predicted_ridge"]["roles"]
    assert roles == {"library_1": "train", "library_2": "train", "library_3": "train", "library_4": "test"}
    alone = adata[adata.obs["library_id"] == "library_1"].copy()  # by the names of its spots, whatever it is called
    del alone.obs["library_id"], alone.uns["spatial"]
    sp.tl.predict_expression(alone, model=fitted)
    assert list(alone.uns["spared_sc"]["predicted_ridge"]["roles"].values()) == ["train"]


def test_a_section_is_known_again_under_another_name(adata):
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    adata.obs["other"] = adata.obs["library_id"].astype(str).map(lambda name: f"section {name}")
    sp.tl.predict_expression(adata, model=fitted, library_key="other")
    roles = adata.uns["spared_sc"]["predicted_ridge"]["roles"]
    assert [roles[f"section library_{i}"] for i in (1, 2, 3, 4)] == ["train", "train", "train", "test"]


def test_sections_are_told_apart_by_their_spots(rng):
    def sketch(places):
        adata = ad.AnnData(obs=pd.DataFrame(index=map(str, range(len(places)))), obsm={"spatial": places})
        return prediction.fingerprints(adata, get_libraries(adata, None), "spatial", "places")["library"]

    places = rng.uniform(0, 5000, size=(900, 2))
    assert prediction.same_section(sketch(places), sketch(places[::-1]))
    assert prediction.same_section(sketch(places), sketch(places[rng.random(900) < 0.7]))  # after a filter
    many = rng.uniform(0, 5000, size=(20_000, 2))
    assert prediction.same_section(sketch(many), sketch(many[:2000]))  # a small part
    assert not prediction.same_section(sketch(many[2000:]), sketch(many[:2000]))
    assert not prediction.same_section(sketch(places), sketch(places + 0.4))
    assert not prediction.same_section(sketch(places), sketch(rng.uniform(0, 5000, size=(900, 2))))
    assert not prediction.same_section([], [])


def test_a_section_without_positions_is_known_again(adata):
    """A cut-out as well; otherwise its own values would make an honest score."""
    del adata.obsm["spatial"]
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    part = adata[np.random.default_rng(0).random(adata.n_obs) < 0.2].copy()
    sp.tl.predict_expression(part, model=fitted, **KEY)
    roles = part.uns["spared_sc"]["predicted_ridge"]["roles"]
    assert [roles[f"library_{i}"] for i in (1, 2, 3, 4)] == ["train", "train", "train", "test"]


def test_the_gene_mean_of_a_saved_model_is_that_of_detected_entries(adata):
    """Scores are on detected entries: a mean with zeros in it would be a straw man, and every skill too high."""
    train = adata[adata.obs["library_id"] != "library_4"].copy()
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    for loss in ("all", "detected"):
        fitted = sp.tl.fit_predictor(train, use_rep="X_test", loss=loss, **KEY)
        genes = train[:, fitted.genes]
        known = genes.layers["detected"].toarray()
        expected = [genes.layers["log2tpm"].toarray()[known[:, i], i].mean() for i in range(12)]
        np.testing.assert_allclose(fitted.gene_mean, expected, rtol=1e-5)
        sp.tl.predict_expression(new, model=fitted, key_added=loss)
    scores = sp.tl.score_prediction(new)
    assert {"all", "detected", "gene_mean"} <= set(scores["prediction"])
    # Another model's training is another mean to beat.
    fewer = sp.tl.fit_predictor(train[train.obs["library_id"] != "library_1"].copy(), use_rep="X_test", **KEY)
    sp.tl.predict_expression(new, model=fewer, key_added="fewer")
    with pytest.raises(ValueError, match="fitted to different data"):
        sp.tl.score_prediction(new)
    # Where the train sections are at hand only in part, the recorded mean still counts.
    some = adata[adata.obs["library_id"].isin(["library_1", "library_4"])].copy()
    sp.tl.predict_expression(some, model=fitted, key_added="detected", **KEY)
    again = sp.tl.score_prediction(some, "detected", **KEY)
    mse = [
        t[(t["prediction"] == "gene_mean") & (t["metric"] == "mse") & (t["library"] == "all")] for t in (scores, again)
    ]
    np.testing.assert_allclose(mse[0]["value"], mse[1]["value"], rtol=1e-5)


def test_targets_in_another_unit_are_told(adata):
    sp.pp.center(adata)
    predict(adata, layer="log2tpm_delta")
    with pytest.warns(UserWarning, match="in the unit of 'log2tpm_delta'.*Pass layer='log2tpm_delta'"):
        sp.tl.score_prediction(adata, **KEY)
    with pytest.warns(UserWarning, match="no noise floor"):  # and no other
        scores = sp.tl.score_prediction(adata, layer="log2tpm_delta", **KEY)
    overall = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "skill")]
    assert overall.set_index("prediction").loc["predicted_ridge", "value"] > 0.02
    sp.tl.median_complete(adata, **KEY)
    sp.pp.uncenter(adata)
    assert prediction.unit_of(adata, "median") == "log2tpm"
    assert prediction.unit_of(adata, "log2tpm_delta_restored") == "log2tpm"
    assert prediction.unit_of(adata, "log2tpm_delta") == "log2tpm_delta"


def test_donors_on_both_sides_of_a_split_are_told(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    adata.obs["donor"] = adata.obs["library_id"].astype(str).replace({"library_4": "library_1"})
    with pytest.warns(UserWarning, match="'library_1' have libraries in 'train' and in other parts"):
        predict(adata, "gene_mean", subject_key="donor")


def test_scores_without_positions_or_entries(adata):
    predict(adata)
    bare = adata.copy()
    del bare.obsm["spatial"]
    bare.obs = bare.obs.drop(columns=["array_row", "array_col"])
    with pytest.warns(UserWarning, match=r"'position_only' is left out|no noise floor: the spots have no positions"):
        scores = sp.tl.score_prediction(bare, **KEY)
    assert list(scores["prediction"].unique()) == ["predicted_ridge", "gene_mean", "depth_only"]
    # A library in which nothing was detected has no score, and does not spoil those of the others.
    rows = np.flatnonzero(adata.obs["library_id"] == "library_4")
    for values in (adata.layers["log2tpm"], adata.layers["detected"], adata.X):
        values.data[values.indptr[rows[0]] : values.indptr[rows[-1] + 1]] = 0  # its rows follow one another
        values.eliminate_zeros()
    predict(adata)
    scores = sp.tl.score_prediction(adata, **KEY)
    mse = scores[(scores["gene"] == "all") & (scores["metric"] == "mse") & (scores["prediction"] == "predicted_ridge")]
    mse = mse.set_index("library")
    assert np.isnan(mse.loc["library_4", "value"])
    assert mse.loc["all", "lower"] <= mse["value"][:3].mean() <= mse.loc["all", "upper"]
    assert mse.loc["all", "value"] == pytest.approx(mse["value"][:3].mean())


def test_spots_at_no_place_are_refused(adata):
    adata.obsm["spatial"][3] = np.nan
    refused(lambda adata: predict(adata, "position_only"), adata, ValueError, "NaN or infinite positions")


def test_what_a_table_replaces_goes(adata):
    predict(adata, key_added="table")
    assert "table_unlike" in adata.obs
    predict(adata, "gene_mean", key_added="table")
    assert "table_unlike" not in adata.obs


@pytest.mark.filterwarnings("ignore:Element:anndata.OldFormatWarning")
def test_names_with_a_slash_survive_a_file(adata, tmp_path):
    adata.obs["library_id"] = adata.obs["library_id"].astype(str).str.replace("_", "/")
    del adata.uns["spatial"]
    predict(adata)
    expected = sp.tl.score_prediction(adata, **KEY)
    with pytest.warns(FutureWarning, match="slash"):
        adata.write_h5ad(tmp_path / "a.h5ad")
    back = ad.read_h5ad(tmp_path / "a.h5ad")
    pd.testing.assert_frame_equal(sp.tl.score_prediction(back, **KEY), expected)


def test_genes_with_a_slash_are_told_of(adata, tmp_path):
    gene = adata.var_names[adata.var["spared_selected"]][0]
    adata.var_names = [f"{name}/x" if name == gene else name for name in adata.var_names]
    with pytest.warns(
        UserWarning, match=f"'{gene}/x': a table with such names cannot be written to zarr.*get.predicted"
    ):
        predict(adata)
    del adata.uns["spatial"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Writing zarr v2")
        sp.get.predicted(adata).write_zarr(tmp_path / "a.zarr")
    assert f"{gene}/x" in ad.read_zarr(tmp_path / "a.zarr").var_names


def test_public_functions_can_be_sent_to_other_processes():
    for function in (sp.tl.score_prediction, sp.pp.center, sp.get.predicted):
        assert pickle.loads(pickle.dumps(function)) is function


def test_a_saved_model_gives_the_same(adata, tmp_path):
    train, new = (
        adata[adata.obs["library_id"].isin(names)].copy() for names in (["library_1", "library_2"], ["library_3"])
    )
    fitted = sp.tl.fit_predictor(train, use_rep="X_test", **KEY)
    fitted.save(tmp_path / "model")
    for model, key in ((fitted, "before"), (tmp_path / "model", "path"), (str(tmp_path / "model"), "text")):
        sp.tl.predict_expression(new, model=model, key_added=key)
    assert new.obsm["before"].equals(new.obsm["path"])
    assert new.obsm["before"].equals(new.obsm["text"])
    card = json.loads((tmp_path / "model" / "card.json").read_text())
    assert card["genes"] == fitted.genes
    assert card["layer"] == "log2tpm"
    assert card["libraries"]["train"].keys() == {"library_1", "library_2"}
    # Only the mean of training is at hand as an anchor, and it is that of the train sections.
    scores = sp.tl.score_prediction(new, "path")
    assert {"path", "gene_mean"} <= set(scores["prediction"])
    assert "depth_only" not in set(scores["prediction"])


def test_a_slide_without_expression(adata, tmp_path):
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    new = ad.AnnData(obs=adata.obs[["library_id"]].copy(), obsm={n: adata.obsm[n] for n in ("spatial", "X_test")})
    sp.tl.predict_expression(new, model=fitted, **KEY)
    expression = sp.get.predicted(new)
    assert expression.var_names.tolist() == fitted.genes
    expression.write_h5ad(tmp_path / "a.h5ad")
    new.write_h5ad(tmp_path / "b.h5ad")
    back = ad.read_h5ad(tmp_path / "b.h5ad")
    assert np.array_equal(back.obsm["predicted_ridge"], new.obsm["predicted_ridge"])


def test_spots_unlike_training_are_flagged(adata):
    fitted = sp.tl.fit_predictor(adata[adata.obs["library_id"] != "library_4"].copy(), use_rep="X_test", **KEY)
    new = adata[adata.obs["library_id"] == "library_4"].copy()
    new.obsm["X_test"][:10] += 100  # more than the section's own spread takes in
    sp.tl.predict_expression(new, model=fitted)
    flag = new.obs["predicted_ridge_unlike"].to_numpy()
    assert flag[:10].all()
    assert flag[10:].mean() < 0.1


def test_losses_differ_and_all_includes_zeros(adata):
    predict(adata, "gene_mean", loss="detected", key_added="detected")
    predict(adata, "gene_mean", loss="all", key_added="all")
    genes = adata.obsm["all"].columns
    values = adata[:, genes].layers["log2tpm"].toarray()
    out = (adata.obs["library_id"] == "library_1").to_numpy()
    np.testing.assert_allclose(adata.obsm["all"].to_numpy()[out][0], values[~out].mean(axis=0), rtol=1e-5)
    assert (adata.obsm["detected"].to_numpy() >= adata.obsm["all"].to_numpy() - 1e-4).all()
    assert not np.allclose(adata.obsm["detected"], adata.obsm["all"], atol=0.01)


def test_compare_targets_has_four_arms(adata):
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    sp.tl.median_complete(adata, **KEY)
    before = adata.copy()
    scores = sp.tl.compare_targets(adata, completed="median", use_rep="X_test", **KEY)
    arms = ["raw, all", "raw, detected", "completed, all", "completed, detected"]
    assert list(scores["prediction"].unique()[:4]) == arms
    assert set(adata.obsm) == set(before.obsm)
    value = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "mse")]
    value = value.set_index("prediction")["value"]
    # Completion changes no detected value, so these two arms are the same; zeros in the target cost much.
    assert value["raw, detected"] == pytest.approx(value["completed, detected"])
    assert value["raw, all"] > value["raw, detected"]


def test_compare_targets_refuses_leaks(adata):
    with pytest.raises(KeyError, match="split_libraries"):
        sp.tl.compare_targets(adata, completed="median", use_rep="X_test", **KEY)
    sp.tl.additive_complete(adata, **KEY, key_added="filled")
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    with pytest.raises(ValueError, match="has learned from all sections: train values may have been filled"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    adata.uns["spared_sc"]["filled"]["params"]["split_key"] = "other"  # made with another split
    with pytest.raises(ValueError, match="has learned from all sections: train values may have been filled"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    del adata.uns["spared_sc"]["filled"]
    with pytest.raises(ValueError, match="not known to be made with the split 'split'"):
        sp.tl.compare_targets(adata, completed="filled", use_rep="X_test", **KEY)
    for name in ("copy", "key_added", "loss"):
        with pytest.raises(TypeError, match=f"sets '{name}' itself"):
            sp.tl.compare_targets(adata, completed="log2tpm", use_rep="X_test", **{name: "all"}, **KEY)
    with pytest.raises(KeyError, match="no predictor 'path/to/saved' to fit"):
        sp.tl.compare_targets(adata, model="path/to/saved", completed="filled", use_rep="X_test", **KEY)


def test_predictors_are_listed():
    table = sp.tl.predictors()
    assert set(LINEAR) <= set(table.index)
    assert table.loc["depth_only", "needs"] == "log_depth"
    assert (table["needs"] != "").all()


def test_same_seed_same_result_whatever_the_order(adata):
    predict(adata)
    order = np.random.default_rng(3).permutation(adata.n_obs)
    other = adata[order].copy()
    del other.obsm["predicted_ridge"]
    predict(other)
    np.testing.assert_allclose(other.obsm["predicted_ridge"], adata.obsm["predicted_ridge"].iloc[order], atol=1e-5)


def refused(call, adata, error, match):
    before = adata.copy()
    with pytest.raises(error, match=match):
        call(adata)
    assert set(adata.obsm) == set(before.obsm)
    assert set(adata.uns) == set(before.uns)
    assert adata.obs.equals(before.obs)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"model": "rigde"}, KeyError, "no predictor and no folder 'rigde'"),
        ({"model": 3}, TypeError, "model is a int"),
        ({"loss": "some"}, ValueError, "loss='some' is unknown"),
        ({"use_rep": "X_resnet18"}, KeyError, r"embed_patches\(adata, encoder='resnet18'\)"),
        ({"layer": "spackle"}, KeyError, "no layer 'spackle'"),
        ({"model_params": {"n_step": 3}}, TypeError, "no parameter 'n_step'"),
        ({"subject_key": "donor"}, KeyError, "no column 'donor'"),
        ({"split_key": "fold"}, KeyError, "no column 'fold'"),
        ({"key_added": "a/b"}, ValueError, "without '/'"),
        ({"key_added": "spatial"}, ValueError, "was not written by spared_sc"),
        ({"key_added": "log2tpm"}, ValueError, "is the name of a record of pp.normalize_tpm"),
        ({"key_added": "gene_mean"}, ValueError, "is the name of an anchor"),
        ({"key_added": "floor_low"}, ValueError, "is the name of an anchor"),
        ({"model_params": {"n_components": 0}}, ValueError, "n_components=0"),
        ({"library_key": None}, ValueError, "library_key="),
        ({"random_state": -1}, ValueError, "random_state"),
        ({"device": "abacus"}, ValueError, "abacus"),
    ],
)
def test_wrong_arguments(adata, options, error, match):
    refused(lambda adata: predict(adata, **options), adata, error, match)


def test_one_library_needs_something_to_predict(adata):
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    refused(predict, one, ValueError, "nothing is left to predict.*fit_predictor")


def test_embeddings_of_another_width_are_refused(adata):
    fitted = sp.tl.fit_predictor(adata, use_rep="X_test", **KEY)
    adata.obsm["X_test"] = adata.obsm["X_test"][:, :5]
    refused(
        lambda adata: sp.tl.predict_expression(adata, model=fitted, **KEY),
        adata,
        ValueError,
        "has 5 features.*fitted on 12",
    )


@pytest.mark.parametrize("what", ["cut", "pickled", "another kind", "card", "nothing"])
def test_broken_models(adata, tmp_path, what):
    folder = tmp_path / "model"
    sp.tl.fit_predictor(adata, use_rep="X_test", **KEY).save(folder)
    weights = next(folder.glob("weights-*.safetensors"))
    if what == "cut":
        weights.write_bytes(weights.read_bytes()[:-10])
        match = "damaged or cut short"
    elif what == "pickled":
        weights.write_bytes(b"\x80\x04\x95whatever.")
        match = "damaged or cut short"
    elif what == "another kind":
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps({**card, "kind": "spackle"}))
        match = "kind 'spackle', expected 'predictor'"
    elif what == "card":
        card = json.loads((folder / "card.json").read_text())
        (folder / "card.json").write_text(json.dumps({**card, "model": "oracle"}))
        match = "is damaged: weights and card do not fit"
    else:
        (folder / "card.json").unlink()
        match = "no saved model"
    error = FileNotFoundError if what == "nothing" else ValueError
    refused(lambda adata: sp.tl.predict_expression(adata, model=folder, **KEY), adata, error, match)


def test_scores_refuse_what_does_not_fit(adata):
    with pytest.raises(KeyError, match="there is no prediction"):
        sp.tl.score_prediction(adata, **KEY)
    predict(adata)
    with pytest.raises(KeyError, match="no prediction 'X_test'"):
        sp.tl.score_prediction(adata, "X_test", **KEY)
    adata.var["few"] = adata.var["spared_selected"] & (np.arange(adata.n_vars) % 2 == 0)
    predict(adata, "gene_mean", mask_var="few", key_added="few")
    with pytest.raises(ValueError, match="predict different genes"):
        sp.tl.score_prediction(adata, **KEY)
    with_split(adata, l1="train", l2="train", l3="val", l4="test")
    predict(adata, "gene_mean")
    with pytest.raises(ValueError, match="fitted to different libraries"):
        sp.tl.score_prediction(adata, ["predicted_ridge", "predicted_gene_mean"], **KEY)
    with pytest.raises(ValueError, match="pass the same `library_key`"):
        sp.tl.score_prediction(adata, "predicted_ridge", library_key="split")
    part = adata[adata.obs["library_id"] == "library_1"].copy()
    with pytest.raises(ValueError, match="score the whole AnnData"):
        sp.tl.score_prediction(part, "predicted_ridge", **KEY)
    fewer = adata[:, adata.obsm["predicted_ridge"].columns[1:]].copy()
    with pytest.raises(ValueError, match="has no genes"):
        sp.tl.score_prediction(fewer, "predicted_ridge", **KEY)


def test_predicted_is_an_anndata_for_plots(adata):
    predict(adata)
    predict(adata, "knn")
    with pytest.raises(ValueError, match="several predictions"):
        sp.get.predicted(adata)
    with pytest.raises(KeyError, match="no prediction 'ridge'"):
        sp.get.predicted(adata, "ridge")
    found = sp.get.predicted(adata, "predicted_knn")
    assert np.array_equal(found.X, adata.obsm["predicted_knn"].to_numpy())
    assert found.obs.equals(adata.obs)
    assert np.array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert isinstance(found.var, pd.DataFrame)
    found.obsm["spatial"][:] = 0
    assert adata.obsm["spatial"].any()
