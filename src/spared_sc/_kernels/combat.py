"""ComBat (Johnson et al. 2007): pycombat fits it, this module applies it batch by batch, and to new batches."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from spared_sc._kernels.threads import limited_threads

_LEAST = 1e-12  # variance of what does not vary, so that nothing is divided by zero
_CONVERGED = 1e-4  # relative change of the posterior at which pycombat stops, too


@dataclass(frozen=True)
class CombatFit:
    """Batch effects as location and scale of standardised expression."""

    batches: list[str]  # fitted batches
    mean: np.ndarray  # (n_genes,) intercept
    variance: np.ndarray  # (n_genes,) pooled residual variance; zero for genes that are left as they are
    location: np.ndarray  # (n_batches, n_genes) posterior
    scale: np.ndarray  # (n_batches, n_genes) posterior, a variance
    location_prior: tuple[float, float]  # mean and variance over all fitted batches and genes
    scale_prior: tuple[float, float]  # shape and rate of the inverse gamma, likewise

    def of_genes(self, genes: np.ndarray) -> CombatFit:
        """The same for some of the genes."""
        return replace(
            self,
            mean=self.mean[genes],
            variance=self.variance[genes],
            location=self.location[:, genes],
            scale=self.scale[:, genes],
        )


@limited_threads(1)
def fit_combat(values: np.ndarray, batch: np.ndarray) -> CombatFit:
    """Estimate location and scale of every batch, shrunk over the genes, in float64.

    `values` are (n_spots, n_genes); there are at least two batches, each of two spots or more. A gene without variance
    within the batches has variance 0 and is left as it is.
    """
    from pycombat import Combat

    values = values.astype(np.float64)
    batches, code = np.unique(batch, return_inverse=True)
    n_genes = values.shape[1]
    residual = np.zeros(n_genes)
    for i in range(batches.size):
        residual += ((values[code == i] - values[code == i].mean(axis=0)) ** 2).sum(axis=0)
    # One constant gene turns every value of pycombat's result into NaN.
    varies = residual > 1e-12 * np.maximum((values**2).sum(axis=0), 1e-300)
    mean, variance = values.mean(axis=0), np.zeros(n_genes)
    location, scale = np.zeros((batches.size, n_genes)), np.ones((batches.size, n_genes))
    if varies.sum() < 2:  # the prior is a variance over genes
        varies[:] = False
    else:
        with np.errstate(divide="ignore", invalid="ignore"):
            model = Combat().fit(values[:, varies], code)
        mean[varies], variance[varies] = model.intercept_, model.epsilon_
        location[:, varies], scale[:, varies] = model.gamma_, model.delta_sq_
    raw_location, raw_scale = [], []
    for i in range(batches.size):
        standard = (values[code == i][:, varies] - mean[varies]) / np.sqrt(variance[varies])
        raw_location.append(standard.mean(axis=0))
        raw_scale.append(standard.var(axis=0, ddof=1))
        if not np.isfinite([location[i], scale[i]]).all():
            # All genes vary alike in this batch, or none does: pycombat divides by the variance of their variances.
            moments = _moments([raw_location[-1]]), _moments([raw_scale[-1]])
            location[i, varies], scale[i, varies] = _posterior(standard, moments[0], _inverse_gamma(*moments[1]))
    return CombatFit(
        batches=[str(name) for name in batches],
        mean=mean,
        variance=variance,
        location=location,
        scale=scale,
        location_prior=_moments(raw_location),
        scale_prior=_inverse_gamma(*_moments(raw_scale)),
    )


def apply_combat(fit: CombatFit, values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """Remove batch effects; a batch that was not fitted gets its own, shrunk with the prior of the fitted ones."""
    result = values.astype(np.float64)
    varies = np.flatnonzero(fit.variance > 0)
    mean, sd = fit.mean[varies], np.sqrt(fit.variance[varies])
    for name in np.unique(batch):
        rows = np.flatnonzero(batch == name)
        standard = (result[np.ix_(rows, varies)] - mean) / sd
        if name in fit.batches:
            at = fit.batches.index(name)
            location, scale = fit.location[at, varies], fit.scale[at, varies]
        else:
            location, scale = _posterior(standard, fit.location_prior, fit.scale_prior)
        result[np.ix_(rows, varies)] = (standard - location) / np.sqrt(scale) * sd + mean
    return result


def _moments(values: list[np.ndarray]) -> tuple[float, float]:
    everything = np.concatenate(values)
    if everything.size < 2:
        return 0.0, 0.0
    return float(everything.mean()), float(everything.var(ddof=1))


def _inverse_gamma(mean: float, variance: float) -> tuple[float, float]:
    """Shape and rate of the inverse gamma distribution with these moments."""
    variance = max(variance, _LEAST)
    return (2 * variance + mean**2) / variance, (mean * variance + mean**3) / variance


def _posterior(
    standard: np.ndarray, location_prior: tuple[float, float], scale_prior: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior location and scale per gene: equations 10 and 11 of Johnson et al., iterated to convergence."""
    n = len(standard)
    prior_mean, prior_variance = location_prior
    prior_variance = max(prior_variance, _LEAST)
    shape, rate = scale_prior
    observed = standard.mean(axis=0)
    location = observed
    scale = standard.var(axis=0, ddof=1) if n > 1 else np.full(observed.size, rate / (shape - 1))
    scale = np.maximum(scale, _LEAST)
    for _ in range(1000):
        new_location = (n * prior_variance * observed + scale * prior_mean) / (n * prior_variance + scale)
        new_scale = (rate + 0.5 * ((standard - new_location) ** 2).sum(axis=0)) / (n / 2 + shape - 1)
        new_scale = np.maximum(new_scale, _LEAST)
        steps = (new_location, location), (new_scale, scale)
        moved = max(np.max(np.abs(new - old) / np.maximum(np.abs(old), 1e-12), initial=0) for new, old in steps)
        location, scale = new_location, new_scale
        if moved < _CONVERGED:
            break
    return location, scale
