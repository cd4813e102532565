"""_kernels/stack."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from helpers.completion import SECTIONS, estimate_of, sections_of
from spared_sc._kernels import stack
from spared_sc._kernels.sections import Counts
from spared_sc._models.completion.features import base_features, tune_all

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


def test_stack_weights_are_those_of_sklearn():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(300, 4)) * [1, 5, 0.1, 0] + 3).astype(np.float32)
    target = (features @ [1, 0.2, -3, 0] + rng.normal(size=300)).astype(np.float32)
    weights = stack.ridge_stack(features, target)
    model = make_pipeline(StandardScaler(), Ridge(1.0)).fit(features[:, :3].astype(float), target)
    expected = model.predict(features[:, :3])
    np.testing.assert_allclose(weights[0] + features @ weights[1:], expected, atol=1e-4)
    blocks = [column.reshape(30, 10) for column in features.T]
    np.testing.assert_allclose(stack.combine(weights, blocks).ravel(), expected, atol=1e-4)


def test_every_known_entry_is_hidden_once(sections):
    seen = []

    def fit(part):
        seen.append(part.known)
        return [part.values, np.full(part.values.shape, len(seen), dtype=np.float32)]

    rows, genes, features, target, fold = stack.cross_fit(sections, fit, n_folds=4, seed=0)
    found = np.zeros(sections.known.shape, dtype=int)
    np.add.at(found, (rows, genes), 1)
    np.testing.assert_array_equal(found, sections.known)
    assert (np.lexsort((genes, rows)) == np.arange(rows.size)).all()
    assert not features[:, 0].any()  # the value itself is gone
    np.testing.assert_array_equal(features[:, 1] - 1, fold)  # from the fit that did not see it
    sizes = np.bincount(fold)
    assert sizes.size == 4
    assert np.ptp(sizes) <= 1
    for number, known in enumerate(seen):
        hidden = sections.known & ~known
        np.testing.assert_array_equal(np.argwhere(hidden), np.column_stack([rows, genes])[fold == number])
        np.testing.assert_array_equal(target[fold == number], sections.renormalised(hidden)[hidden])

    kept = stack.cross_fit(sections, fit, n_folds=4, seed=0, most_entries=100)
    assert np.ptp(np.bincount(kept[4])) <= 1
    place = {entry: i for i, entry in enumerate(zip(rows, genes, strict=True))}
    at = [place[entry] for entry in zip(kept[0], kept[1], strict=True)]
    assert len(at) == 100
    np.testing.assert_array_equal(fold[at], kept[4])
    np.testing.assert_array_equal(target[at], kept[3])


def test_features_of_an_entry_do_not_know_its_value(sections):
    tuned = tune_all(sections, 0)

    def fit(part):
        return base_features(part, tuned)[1]

    # without totals, which would change the scale of the whole spot
    plain = replace(sections, total=None)
    first = stack.cross_fit(plain, fit, n_folds=3)
    changed = np.flatnonzero(first[4] == 1)[::7]
    values, counts, depth = plain.values.copy(), plain.counts.values.copy(), plain.counts.depth.copy()
    at = first[0][changed], first[1][changed]
    values[at] += 3
    counts[at] += 50
    np.add.at(depth, at[0], 50)
    second = stack.cross_fit(replace(plain, values=values, counts=Counts(counts, depth)), fit, n_folds=3)
    np.testing.assert_array_equal(first[4], second[4])
    np.testing.assert_array_equal(second[2][first[4] == 1], first[2][first[4] == 1])
    assert (second[2][first[4] != 1] != first[2][first[4] != 1]).any(axis=0).all()


def test_stack_is_made_of_named_features(sections):
    estimate = estimate_of("stack", sections, n_folds=3)
    tuned = estimate.params["tuned"]
    names, features = base_features(sections, tuned)
    weights = estimate.params["weights"]
    assert list(weights) == ["intercept", *names]
    total = weights["intercept"] + sum(weights[n] * f.astype(float) for n, f in zip(names, features, strict=True))
    np.testing.assert_allclose(estimate.values, total, atol=1e-3)
    for name, parameters in [
        ("additive", tuned["additive"]),
        ("kernel", {k: tuned["kernel"][k] for k in ("bandwidth", "shrinkage")}),
        ("neighbor_mean", tuned["neighbor_mean"]),
        ("depth_only", tuned["depth_only"]),
    ]:
        alone = estimate_of(name, sections, **parameters)
        np.testing.assert_allclose(features[names.index(name)], alone.values, atol=1e-4)
