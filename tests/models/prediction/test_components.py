"""_models/prediction/components."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from spared_sc._models.prediction.components import principal_components


@pytest.mark.parametrize("shape", [(60, 25), (25, 60)])  # more rows than columns, and fewer
def test_components_are_those_of_scikit_learn(shape):
    rng = np.random.default_rng(0)
    values = rng.normal(size=shape) @ np.diag(np.linspace(1, 3, shape[1]))
    values -= values.mean(axis=0)
    expected = PCA(10, svd_solver="full").fit(values)
    variance, axes = principal_components(values, 10, 1e-6)
    np.testing.assert_allclose(variance, expected.explained_variance_ * (shape[0] - 1) / shape[0])
    assert axes.shape == (shape[1], 10)
    np.testing.assert_allclose(np.abs(expected.components_ @ axes), np.eye(10), atol=1e-8)
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(10)] > 0).all()


def test_components_without_variance_are_left_out():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(12, 3)) @ rng.normal(size=(3, 50))
    for one in (values, values.T):
        variance, axes = principal_components(one, 9, 1e-6)
        assert len(variance) == 3
        np.testing.assert_allclose(axes.T @ axes, np.eye(3), atol=1e-8)
        np.testing.assert_allclose(one @ axes @ axes.T, one)
    assert principal_components(np.zeros((4, 9)), 5, 1e-6)[1].shape == (9, 0)
