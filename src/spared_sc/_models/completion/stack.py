"""Linear combination of the simple methods, learned on hidden entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spared_sc._kernels import regression, stack
from spared_sc._kernels.tuning import generator
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.features import base_features, tune_all
from spared_sc._models.completion.rates import Rates, RateTrial
from spared_sc._models.completion.registry import COMPLETERS

if TYPE_CHECKING:
    from spared_sc._models.completion.trial import Tuned


@dataclass(kw_only=True, eq=False)
class Stack(SimpleCompleter):
    """Combination of simple methods that does best on hidden entries.

    The methods are the mean of the gene in the library, depth alone (with raw counts), additive, mean of the
    neighbours, kernel, diffusion, soft-impute (at half, once and twice the penalty), soft-impute with kernel, and ridge
    (at a third, once and thrice the penalty).

    Parameters
    ----------
    n_folds
        Parts of the detected entries, each of which is hidden once.
    most_entries
        Largest number of hidden entries that the weights are learned from.

    Notes
    -----
    Stacked regression (Wolpert 1992, Breiman 1996): every detected entry is hidden once, the methods estimate it from
    the rest, and their estimates are combined by least squares, with a ridge penalty of 1 on the standardised
    estimates. Each method is tuned once, on all detected entries.

    The rate is a Poisson regression of one half of the molecules on the logarithms of the methods' rates from the other
    half, applied to their rates from all.
    """

    about: ClassVar[About] = COMPLETERS["stack"]
    n_folds: int = parameter(5, least=2, whole=True)
    most_entries: int = parameter(1_000_000, least=1, whole=True)

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values and, with counts, rates."""
        seed = compute.seed
        tuned = tune_all(sections, seed)

        def fit(part: Sections) -> list[np.ndarray]:
            return base_features(part, tuned, seed=seed)[1]

        _, _, features, target, _ = stack.cross_fit(
            sections, fit, n_folds=self.n_folds, seed=seed, most_entries=self.most_entries
        )
        weights = stack.ridge_stack(features, target)
        del features
        names, estimates = base_features(sections, tuned, seed=seed)
        params = {"tuned": tuned, "weights": dict(zip(["intercept", *names], weights.tolist(), strict=True))}
        rate = None
        if sections.counts is not None:
            rate, params["tuned_rates"] = self._rate(sections, tuned["neighbor_mean"]["n_rings"], seed)
        return Estimate(stack.combine(weights, estimates), rate, params=params)

    def _rate(self, sections: Sections, n_rings: int, seed: int) -> tuple[np.ndarray, Tuned]:
        """Log-linear combination of the rates of half the counts that predicts the other half best, applied to all."""
        trial = RateTrial(sections, seed)
        tuned = trial.all()
        n_genes = sections.values.shape[1]
        entries = np.flatnonzero(np.repeat((trial.rates.exposure[:, 0] > 0) & (trial.other_depth > 0), n_genes))
        if entries.size > self.most_entries:
            entries = np.sort(generator(seed, 2).choice(entries, self.most_entries, replace=False))
        features = np.stack(
            [_log_share(rate, trial.rates).ravel()[entries] for rate in _all_rates(trial.rates, tuned, n_rings)], axis=1
        )
        offset = np.log(trial.other_depth[entries // n_genes] / trial.unit)
        weights = regression.poisson_regression(features, trial.other.ravel()[entries], offset)
        rates = Rates(sections, trial.unit, seed=seed)
        log_rates = [_log_share(rate, rates) for rate in _all_rates(rates, tuned, n_rings)]
        return rates.exposure * np.exp(stack.combine(weights, log_rates)), tuned


def _log_share(rate: np.ndarray, rates: Rates) -> np.ndarray:
    """Logarithm of the rate per unit of depth, with a floor where it is next to nothing."""
    share = rate / np.maximum(rates.exposure, 1e-9)
    return np.log(np.maximum(share, 1e-3 * rates.share))


def _all_rates(rates: Rates, tuned: Tuned, n_rings: int) -> list[np.ndarray]:
    base = rates.soft_impute(**tuned["soft_impute"])
    return [
        rates.gene(),
        rates.library(),
        rates.by_depth(),
        rates.neighbors(n_rings),
        rates.kernel(**tuned["kernel"]),
        base,
        rates.soft_impute_kernel(base, **tuned["soft_impute_kernel"]),
    ]
