"""_kernels/lowrank."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from helpers.completion import SECTIONS, estimate_of, residual_of, sections_of
from spared_sc._kernels import lowrank
from spared_sc._kernels.lattice import from_array
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._kernels.sections import Sections

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


@pytest.fixture(scope="module")
def residual(sections) -> np.ndarray:
    return residual_of(sections)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_soft_impute_is_optimal(sections, residual, share):
    """Of a minimum Z = U D V', the known residuals over the penalty are U V' plus a matrix across it of norm 1 at most."""
    penalty = share * np.linalg.norm(residual, 2)
    rank = min(residual.shape)
    factors = lowrank.soft_impute(residual, sections.known, penalty, rank=rank, tolerance=1e-6, most_steps=3000)
    left = np.where(sections.known, residual - factors.product(), 0) / penalty
    assert np.linalg.norm(left, 2) < 1.002
    active = factors.scale > 1e-3
    assert active.sum() == rank if share == 0.05 else active.any()
    assert share != 0.5 or active.sum() < rank
    gradient = factors.left[:, active].T @ left @ factors.right[:, active]
    np.testing.assert_allclose(gradient, np.eye(active.sum()), atol=5e-3)


def test_soft_impute_as_it_is_run_is_near_the_minimum(sections, residual):
    penalty = 0.15 * np.linalg.norm(residual, 2)
    matrix = np.zeros(residual.shape)
    for _ in range(3000):  # plain iterated thresholding of singular values
        left, scale, right = np.linalg.svd(np.where(sections.known, residual, matrix), full_matrices=False)
        matrix = (left * np.maximum(scale - penalty, 0)) @ right
    found = lowrank.soft_impute(residual, sections.known, penalty, rank=24).product()
    assert np.linalg.norm(found - matrix) < 0.03 * np.linalg.norm(matrix)
    assert lowrank.largest_singular_value(residual) == pytest.approx(np.linalg.norm(residual, 2), rel=0.01)


def test_soft_impute_finds_programmes():
    rng = np.random.default_rng(0)
    truth = (rng.normal(size=(200, 3)) @ rng.normal(size=(3, 30))).astype(np.float32)
    known = rng.random(truth.shape) < 0.6
    row, column = (index.ravel() for index in np.indices((20, 10)))
    lattice = from_array(np.column_stack([row, column]), np.zeros(200, dtype=int), kind="grid")
    sections = Sections(np.where(known, truth, 0), known, lattice, np.zeros(200, dtype=int))

    def error(name):
        values = estimate_of(name, sections).values
        return np.mean((values - truth)[~known] ** 2) / truth.var()

    assert error("soft_impute") < 0.05
    assert error("ridge") < 0.05
    assert error("kernel") > 0.5  # there is nothing in the places


def test_factorisation_of_rank_one_is_known():
    rng = np.random.default_rng(0)
    counts = rng.poisson(rng.gamma(2, size=(40, 1)) * rng.gamma(2, size=(1, 9)) * 3).astype(np.float32)
    exposure = rng.gamma(3, size=40)
    left, right = lowrank.poisson_nmf(counts, exposure, 1, seed=0, prior=0)
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    np.testing.assert_allclose(exposure[:, None] * (left @ right), expected, rtol=1e-3, atol=1e-4)


def test_factorisation_approaches_that_of_sklearn():
    from sklearn.decomposition import NMF

    rng = np.random.default_rng(0)
    rate = rng.gamma(0.5, size=(150, 3)) @ rng.gamma(0.5, size=(3, 20)) * 8
    counts = rng.poisson(rate).astype(np.float32)
    model = NMF(3, init="nndsvda", solver="mu", beta_loss="kullback-leibler", max_iter=2000, tol=1e-6)
    other = model.fit_transform(counts.astype(float)) @ model.components_
    left, right = lowrank.poisson_nmf(counts, np.ones(150), 3, seed=0, n_steps=400, prior=1e-3)

    def deviance(rate):
        return poisson_deviance(counts, rate).mean()

    assert deviance(left @ right) < 1.03 * deviance(other)
    few = lowrank.poisson_nmf(counts, np.ones(150), 3, seed=0, n_steps=5)
    assert deviance(left @ right) < 0.9 * deviance(few[0] @ few[1])


def test_alra_is_what_its_paper_says(sections):
    rank = 3
    found, used = lowrank.alra(sections.values, sections.known, rank=rank, seed=0)
    assert used == rank
    left, scale, right = np.linalg.svd(sections.values.astype(float), full_matrices=False)
    matrix = (left[:, :rank] * scale[:rank]) @ right[:rank]
    n_zero = 0
    for gene in range(matrix.shape[1]):
        column = matrix[:, gene]
        kept = column > max(-column.min(), 0)
        known = sections.values[sections.known[:, gene], gene].astype(float)
        expected = (column[kept] - column[kept].mean()) / column[kept].std() * known.std() + known.mean()
        np.testing.assert_allclose(found[kept, gene], np.maximum(expected, 0), atol=5e-3)
        assert not found[~kept, gene].any()
        n_zero += (~kept).sum()
    assert n_zero > 0


def test_alra_finds_the_rank():
    rng = np.random.default_rng(0)
    matrix = rng.gamma(1, size=(300, 4)) @ rng.gamma(1, size=(4, 150)) + 0.1 * rng.normal(size=(300, 150))
    left, scale, right = lowrank.random_svd(matrix.astype(np.float32), 20, seed=0)
    np.testing.assert_allclose(scale[:4], np.linalg.svd(matrix, compute_uv=False)[:4], rtol=1e-4)
    np.testing.assert_allclose(left.T @ left, np.eye(20), atol=1e-4)
    known = np.ones(matrix.shape, dtype=bool)
    assert lowrank.alra(np.maximum(matrix, 0).astype(np.float32), known, rank=None, seed=0)[1] == 4
