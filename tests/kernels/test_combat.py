"""_kernels/combat."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest

from spared_sc._kernels.combat import apply_combat, fit_combat


@pytest.fixture
def batches():
    """Expression with a shift and a spread per batch, and the batch of each spot."""
    rng = np.random.default_rng(0)
    batch = np.repeat(["a", "b", "c"], [70, 90, 40])
    values = rng.normal(size=(200, 40)) * rng.gamma(3, size=40) + 3 * rng.normal(size=40)
    for i, name in enumerate("abc"):
        rows = batch == name
        values[rows] = values[rows] * rng.gamma(20, 1 / 20, size=40) + rng.normal(0.5 * i, 0.3, size=40)
    return values, batch


def johnson(values, batch, location_ddof):
    """Johnson et al. (2007) gene by gene in plain loops; the two libraries differ in `location_ddof` only."""
    names = np.unique(batch)
    mean = sum((batch == n).mean() * values[batch == n].mean(axis=0) for n in names)
    residual = values - np.array([values[batch == n].mean(axis=0) for n in batch])
    variance = (residual**2).mean(axis=0)
    standard = (values - mean) / np.sqrt(variance)
    result = np.empty_like(standard)
    for name in names:
        z = standard[batch == name]
        n = len(z)
        gamma_hat, delta_hat = z.mean(axis=0), z.var(axis=0, ddof=1)
        gamma_bar, tau = gamma_hat.mean(), gamma_hat.var(ddof=location_ddof)
        v, s = delta_hat.mean(), delta_hat.var(ddof=1)
        shape, rate = 2 + v**2 / s, v + v**3 / s
        gamma, delta = gamma_hat.copy(), delta_hat.copy()
        moved = 1.0
        while moved > 1e-4:
            new_gamma = (n * tau * gamma_hat + delta * gamma_bar) / (n * tau + delta)
            new_delta = (rate + ((z - new_gamma) ** 2).sum(axis=0) / 2) / (n / 2 + shape - 1)
            # without an absolute value below, as both libraries have it
            moved = max((abs(new_gamma - gamma) / gamma).max(), (abs(new_delta - delta) / delta).max())
            gamma, delta = new_gamma, new_delta
        result[batch == name] = (z - gamma) / np.sqrt(delta)
    return result * np.sqrt(variance) + mean


def test_combat_equals_pycombat(batches):
    from pycombat import Combat

    values, batch = batches
    assert np.allclose(
        apply_combat(fit_combat(values, batch), values, batch), Combat().fit_transform(values, batch), atol=1e-12
    )


def test_combat_equals_scanpy_but_for_one_ddof(batches):
    import scanpy as sc

    values, batch = batches
    adata = ad.AnnData(values.copy())
    adata.obs["batch"] = batch
    adata.obs["batch"] = adata.obs["batch"].astype("category")
    scanpy = sc.pp.combat(adata, "batch", inplace=False)
    ours = apply_combat(fit_combat(values, batch), values, batch)
    assert np.allclose(johnson(values, batch, location_ddof=1), ours, atol=1e-8)
    assert np.allclose(johnson(values, batch, location_ddof=0), scanpy, atol=1e-8)
    assert 1e-6 < abs(ours - scanpy).max() < 0.05


def test_a_constant_gene_stays_and_harms_no_other(batches):
    values, batch = batches
    with_constant = np.column_stack([values, np.full(len(values), 3.5), np.zeros(len(values))])
    corrected = apply_combat(fit_combat(with_constant, batch), with_constant, batch)
    assert np.array_equal(corrected[:, -2:], with_constant[:, -2:])
    assert np.allclose(corrected[:, :-2], apply_combat(fit_combat(values, batch), values, batch))


def test_a_gene_that_differs_between_batches_only_stays(batches):
    values, batch = batches
    stepped = np.column_stack([values, np.where(batch == "a", 1.0, 2.0)])
    corrected = apply_combat(fit_combat(stepped, batch), stepped, batch)
    assert np.isfinite(corrected).all()
    assert np.array_equal(corrected[:, -1], stepped[:, -1])


def test_a_new_batch_is_brought_to_the_others(batches):
    values, batch = batches
    known = batch != "c"
    fit = fit_combat(values[known], batch[known])
    corrected = apply_combat(fit, values, batch)
    assert np.array_equal(corrected[known], apply_combat(fit, values[known], batch[known]))

    def distance(x):
        reference = x[known].mean(axis=0)
        return np.abs(x[~known].mean(axis=0) - reference).mean(), np.abs(
            np.log(x[~known].std(axis=0) / x[known].std(axis=0))
        ).mean()

    assert distance(corrected)[0] < 0.4 * distance(values)[0]
    assert distance(corrected)[1] < 0.8 * distance(values)[1]


def test_a_new_batch_of_many_spots_is_hardly_shrunk():
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3000, 30))
    batch = np.repeat(["a", "b", "new"], 1000)
    values[batch == "a"] += 2 * rng.normal(size=30)  # batches do differ, says the prior
    values[batch == "b"] *= rng.gamma(2, size=30)
    values[batch == "new"] = 3 * values[batch == "new"] + 2
    fit = fit_combat(values[batch != "new"], batch[batch != "new"])
    corrected = apply_combat(fit, values, batch)[batch == "new"]
    assert np.allclose(corrected.mean(axis=0), fit.mean, atol=0.1)
    assert np.allclose(corrected.std(axis=0), np.sqrt(fit.variance), rtol=0.05)


def test_a_new_batch_of_one_spot_is_shrunk_to_the_prior(batches):
    values, batch = batches
    fit = fit_combat(values, batch)
    one = apply_combat(fit, values[:1], np.array(["new"]))
    assert np.isfinite(one).all()
