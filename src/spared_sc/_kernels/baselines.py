"""Baselines of completion by name. Each is tuned on known entries that are hidden for the purpose, and refitted to all.

Values are expression given detection; rates are expected counts at the depth of the spot, true zeros included.
"""

from __future__ import annotations

import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from spared_sc._kernels import lowrank, regression, smoothing, stack
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.metrics import masked_mse, poisson_deviance
from spared_sc._kernels.sections import Estimate, Sections

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Tuned = dict[str, dict[str, Any]]  # completer -> parameters

# The matrices are small: threads of the linear algebra gain little, and on a busy machine cost a hundred times as much.
_one_blas_thread = threadpool_limits.wrap(limits=1, user_api="blas")

_HIDDEN_SHARE = 0.1  # of the known entries, to choose parameters on
_SHARE_SPOTS = 5.0  # spots of mean depth by which a library's share of a gene is shrunken to the share in all
_RIDGE_BANDWIDTH = 1.0  # rings, of the neighbourhood that genes are regressed on
_BANDWIDTHS = (0.7, 1.0, 1.5, 2.0, 2.7)

# What is tried where a parameter is None.
_GRIDS: dict[str, dict[str, tuple]] = {
    "library_gene_mean": {"shrinkage": (0.5, 2.0, 8.0, 32.0)},
    "depth_only": {"shrinkage": (2.0, 20.0, 200.0)},
    "additive": {"spot_shrinkage": (1.0, 3.0, 10.0, 30.0), "library_shrinkage": (1.0, 3.0, 10.0)},
    "neighbor_mean": {"n_rings": (1, 2, 3, 4)},
    "kernel": {"bandwidth": _BANDWIDTHS, "shrinkage": (0.5, 1.0, 3.0, 10.0)},
    "diffusion": {"strength": (10.0, 3.0, 1.0, 0.3, 0.1)},
    "soft_impute": {"shrinkage": (0.5, 0.35, 0.25, 0.18, 0.13, 0.1, 0.07, 0.05)},
    "soft_impute_kernel": {"bandwidth": _BANDWIDTHS, "kernel_shrinkage": (1.0, 2.0, 5.0, 15.0)},
    "ridge": {"penalty": (30.0, 100.0, 300.0, 1000.0, 3000.0)},
    "sme": {"n_neighbors": (3, 6, 12, 24)},
    "magic": {"t": (1, 3, 6, 12)},
}
_RATE_GRIDS: dict[str, dict[str, tuple]] = {
    "kernel": {"rate_bandwidth": (0.5, *_BANDWIDTHS), "rate_shrinkage": (0.1, 0.3, 1.0, 3.0)},
    "soft_impute": {"rate_rank": (4, 8, 16, 32), "rate_bandwidth": (0.35, 0.5, 0.7, 1.0, 1.5)},
    "soft_impute_kernel": {"rate_bandwidth": _BANDWIDTHS, "rate_shrinkage": (1.0, 3.0, 10.0)},
}
_RANK = 24  # of soft-impute at most


def _generator(seed: int, purpose: int) -> np.random.Generator:
    """A stream of its own for each purpose: who hides or thins by the same seed must not draw the same numbers."""
    return np.random.default_rng([seed, 41, purpose])


def _pick(score: Callable[..., float], grids: dict[str, tuple]) -> dict[str, Any]:
    """The parameters of lowest score, sought one at a time from the middle of the grids until none of them moves.

    A grid is left when two values in a row are no better than one before. The middle stays where there is no score, for
    want of entries.
    """
    scores: dict[tuple, float] = {}

    def score_of(values: dict[str, Any]) -> float:
        place = tuple(values.values())
        if place not in scores:
            scores[place] = score(**values)
        return scores[place]

    chosen = {name: values[len(values) // 2] for name, values in grids.items()}
    while any(len(values) > 1 for values in grids.values()):
        before = dict(chosen)
        for name, values in grids.items():
            least, n_worse = np.inf, 0
            for value in values:
                found = score_of({**chosen, name: value})
                if found < least:
                    least, best, n_worse = found, value, 0
                else:
                    n_worse += 1
                if n_worse == 2:
                    break
            if least < scores.get(tuple(chosen.values()), np.inf):  # never to a worse place, so this comes to an end
                chosen[name] = best
        if chosen == before:
            break
    return chosen


def _grids(source: dict[str, dict[str, tuple]], name: str, given: dict[str, Any]) -> dict[str, tuple]:
    return {key: values if given.get(key) is None else (given[key],) for key, values in source[name].items()}


# --- values ----------------------------------------------------------------------------------------------------------


def _library_gene_values(sections: Sections, shrinkage: float) -> np.ndarray:
    of_library = lowrank.library_gene_means(sections.values, sections.known, sections.library, shrinkage)
    return of_library.astype(np.float32)[sections.library]


def _depth_values(sections: Sections, shrinkage: float) -> np.ndarray:
    return regression.depth_trend(sections.values, sections.known, sections.need_counts().depth, shrinkage)


def _additive_values(sections: Sections, spot_shrinkage: float, library_shrinkage: float) -> np.ndarray:
    return lowrank.additive(
        sections.values,
        sections.known,
        sections.library,
        spot_shrinkage=spot_shrinkage,
        library_shrinkage=library_shrinkage,
    )


def _neighbor_values(sections: Sections, default: np.ndarray, n_rings: int) -> np.ndarray:
    weights = smoothing.rings(sections.lattice, n_rings)
    return smoothing.known_mean(weights, sections.values, sections.known, default)


class _Fit:
    """The additive fit of some sections, and the estimates that add something to it."""

    def __init__(self, sections: Sections, additive: dict[str, float], *, seed: int):
        self.sections = sections
        self.seed = seed
        self.base = _additive_values(sections, **additive)
        self.residual = np.where(sections.known, sections.values - self.base, np.float32(0))
        self.factors: lowrank.Factors | None = None  # of soft-impute, where the next fit starts
        self._diffused: np.ndarray | None = None  # the same for diffusion

    @cached_property
    def largest(self) -> float:
        """Largest singular value of the residual, the unit of soft-impute's penalty."""
        return lowrank.largest_singular_value(self.residual)

    def kernel(self, bandwidth: float, shrinkage: float) -> np.ndarray:
        return self.base + self._smooth(self.residual, bandwidth, shrinkage)

    def _smooth(self, residual: np.ndarray, bandwidth: float, shrinkage: float) -> np.ndarray:
        weights = smoothing.hop_kernel(self.sections.lattice, bandwidth)
        return smoothing.shrunken_ratio(weights @ residual, weights @ self.sections.known.astype(np.float32), shrinkage)

    def diffusion(self, strength: float) -> np.ndarray:
        self._diffused = smoothing.diffuse(
            self.residual, self.sections.known, self.sections.lattice, strength, start=self._diffused
        )
        return self.base + self._diffused

    def low_rank(self, shrinkage: float, rank: int) -> np.ndarray:
        """Soft-impute of the residual."""
        self.factors = lowrank.soft_impute(
            self.residual, self.sections.known, shrinkage * self.largest, rank=rank, start=self.factors, seed=self.seed
        )
        return self.factors.product()

    def soft_impute(self, shrinkage: float, rank: int) -> np.ndarray:
        return self.base + self.low_rank(shrinkage, rank)

    def soft_impute_kernel(self, low_rank: np.ndarray, bandwidth: float, kernel_shrinkage: float) -> np.ndarray:
        left = np.where(self.sections.known, self.residual - low_rank, np.float32(0))
        return self.base + low_rank + self._smooth(left, bandwidth, kernel_shrinkage)

    def ridge(self, low_rank: np.ndarray, penalties: Sequence[float]) -> list[np.ndarray]:
        known = self.sections.known
        filled = np.where(known, self.residual, low_rank)
        weights = smoothing.hop_kernel(self.sections.lattice, _RIDGE_BANDWIDTH)
        around = smoothing.weighted_mean(weights, filled, default=low_rank)
        return [self.base + x for x in regression.ridge_genes(self.residual, known, filled, around, penalties)]


class _Tuner:
    """Sections with a tenth of the known entries hidden, and the parameters that do best on these."""

    def __init__(self, sections: Sections, seed: int):
        self.seed = seed
        self.hidden = hide_detected(sections.known, _HIDDEN_SHARE, _generator(seed, 0))
        self.truth = sections.renormalised(self.hidden)
        self.train = sections.without(self.hidden)

    def pick(self, name: str, estimate: Callable[..., np.ndarray], **given: Any) -> dict[str, Any]:
        return _pick(
            lambda **params: masked_mse(self.truth, estimate(**params), self.hidden), _grids(_GRIDS, name, given)
        )

    def library_gene_mean(self, **given: Any) -> dict[str, Any]:
        return self.pick("library_gene_mean", lambda **params: _library_gene_values(self.train, **params), **given)

    def depth_only(self, **given: Any) -> dict[str, Any]:
        return self.pick("depth_only", lambda **params: _depth_values(self.train, **params), **given)

    def neighbor_mean(self, default: dict[str, Any], **given: Any) -> dict[str, Any]:
        default = _library_gene_values(self.train, **default)
        return self.pick("neighbor_mean", lambda **params: _neighbor_values(self.train, default, **params), **given)

    def additive(self, **given: Any) -> dict[str, Any]:
        return self.pick("additive", lambda **params: _additive_values(self.train, **params), **given)

    @cached_property
    def fit(self) -> _Fit:
        return _Fit(self.train, self.best_additive, seed=self.seed)

    @cached_property
    def best_additive(self) -> dict[str, Any]:
        return self.additive()

    def kernel(self, **given: Any) -> dict[str, Any]:
        return self.pick("kernel", self.fit.kernel, **given)

    def diffusion(self, **given: Any) -> dict[str, Any]:
        return self.pick("diffusion", self.fit.diffusion, **given)

    def soft_impute(self, rank: int = _RANK, **given: Any) -> dict[str, Any]:
        return {
            "rank": rank,
            **self.pick("soft_impute", lambda shrinkage: self.fit.soft_impute(shrinkage, rank), **given),
        }

    def soft_impute_kernel(self, low_rank: np.ndarray, **given: Any) -> dict[str, Any]:
        return self.pick(
            "soft_impute_kernel", lambda **params: self.fit.soft_impute_kernel(low_rank, **params), **given
        )

    def ridge(self, low_rank: np.ndarray, penalty: float | None = None) -> dict[str, Any]:
        if penalty is not None:
            return {"penalty": penalty}
        penalties = _GRIDS["ridge"]["penalty"]
        estimates = dict(zip(penalties, self.fit.ridge(low_rank, penalties), strict=True))
        return self.pick("ridge", lambda penalty: estimates[penalty])


# --- rates -----------------------------------------------------------------------------------------------------------


class _Rates:
    """Expected counts of some sections, by several models."""

    def __init__(self, sections: Sections, unit: float, *, seed: int):
        self.sections = sections
        self.seed = seed
        self.counts = sections.need_counts().values
        self.depths = sections.need_counts().depth
        self.exposure = (self.depths / unit).astype(np.float32)[:, None]  # in spots of the depth `unit`
        self._factors: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    @cached_property
    def share(self) -> np.ndarray:
        """Expected count of each gene in a spot of unit depth, over all libraries, (n_genes,)."""
        total = self.counts.sum(axis=0, dtype=np.float64) / max(float(self.exposure.sum(dtype=np.float64)), 1e-12)
        return np.maximum(total, 1e-9).astype(np.float32)

    @cached_property
    def library_share(self) -> np.ndarray:
        """The same in the library of each spot, shrunken to that, (n_spots, n_genes)."""
        of_library = lowrank.members(self.sections.library)
        share = (of_library @ self.counts + _SHARE_SPOTS * self.share) / (of_library @ self.exposure + _SHARE_SPOTS)
        return share.astype(np.float32)[self.sections.library]

    def gene(self) -> np.ndarray:
        return self.exposure * self.share

    def library(self) -> np.ndarray:
        return self.exposure * self.library_share

    def depth(self) -> np.ndarray:
        return regression.depth_rate(self.counts, self.depths)

    def neighbors(self, n_rings: int) -> np.ndarray:
        return self._smooth(smoothing.rings(self.sections.lattice, n_rings), 1.0)

    def kernel(self, rate_bandwidth: float, rate_shrinkage: float) -> np.ndarray:
        return self._smooth(smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True), rate_shrinkage)

    def _smooth(self, weights, shrinkage: float) -> np.ndarray:
        """Gamma-Poisson: counts around the spot, and `shrinkage` spots with the library's share."""
        share = (weights @ self.counts + shrinkage * self.library_share) / (weights @ self.exposure + shrinkage)
        return self.exposure * share

    def soft_impute(self, rate_rank: int, rate_bandwidth: float) -> np.ndarray:
        if rate_rank not in self._factors:
            self._factors[rate_rank] = lowrank.poisson_nmf(self.counts, self.exposure[:, 0], rate_rank, seed=self.seed)
        left, right = self._factors[rate_rank]
        weights = smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True)
        return self.exposure * (smoothing.weighted_mean(weights, left, default=left) @ right)

    def soft_impute_kernel(self, base: np.ndarray, rate_bandwidth: float, rate_shrinkage: float) -> np.ndarray:
        weights = smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True)
        prior = rate_shrinkage * np.minimum(self.share, 1)
        return base * ((weights @ self.counts + prior) / (weights @ base + prior))


class _RateTuner:
    """A thinned half of the counts, and the parameters that predict the other half best."""

    def __init__(self, sections: Sections, seed: int):
        self.unit = _unit(sections)
        half, self.other = sections.thinned(_generator(seed, 1))
        self.other_depth = sections.need_counts().depth - half.need_counts().depth
        self.rates = _Rates(half, self.unit, seed=seed)

    def pick(self, name: str, rate: Callable[..., np.ndarray]) -> dict[str, Any]:
        return _pick(lambda **params: poisson_deviance(self.other, rate(**params)).mean(), _RATE_GRIDS[name])

    def kernel(self) -> dict[str, Any]:
        return self.pick("kernel", self.rates.kernel)

    def soft_impute(self) -> dict[str, Any]:
        return self.pick("soft_impute", self.rates.soft_impute)

    def soft_impute_kernel(self, base: np.ndarray) -> dict[str, Any]:
        return self.pick("soft_impute_kernel", lambda **params: self.rates.soft_impute_kernel(base, **params))


def _unit(sections: Sections) -> float:
    return max(float(sections.need_counts().depth.mean()), 1e-12)


def _rates(sections: Sections, seed: int) -> _Rates | None:
    return None if sections.counts is None else _Rates(sections, _unit(sections), seed=seed)


# --- several at once -------------------------------------------------------------------------------------------------


@_one_blas_thread
def tune_all(sections: Sections, seed: int) -> Tuned:
    """Parameters of the values of all completers that `base_features` runs."""
    tuner = _Tuner(sections, seed)
    tuned = {"library_gene_mean": tuner.library_gene_mean()}
    if sections.counts is not None:
        tuned["depth_only"] = tuner.depth_only()
    tuned["additive"] = tuner.best_additive
    tuned["neighbor_mean"] = tuner.neighbor_mean(tuned["library_gene_mean"])
    tuned["kernel"] = tuner.kernel()
    tuned["diffusion"] = tuner.diffusion()
    tuned["soft_impute"] = tuner.soft_impute()
    low_rank = tuner.fit.low_rank(**tuned["soft_impute"])
    tuned["soft_impute_kernel"] = tuner.soft_impute_kernel(low_rank)
    tuned["ridge"] = tuner.ridge(low_rank)
    return tuned


@_one_blas_thread
def base_features(sections: Sections, tuned: Tuned, *, seed: int = 0) -> tuple[list[str], list[np.ndarray]]:
    """Estimates of the values by the completers that can be stacked, and their names.

    `tuned` as of `tune_all`. Soft-impute comes with half and twice its penalty, too, ridge with a third and thrice.
    """
    fit = _Fit(sections, tuned["additive"], seed=seed)
    library = _library_gene_values(sections, **tuned["library_gene_mean"])
    soft = tuned["soft_impute"]
    strong, low_rank, weak = (
        fit.low_rank(factor * soft["shrinkage"], soft["rank"]) for factor in (2, 1, 0.5)
    )  # in this order, since each starts from the one before
    penalty = tuned["ridge"]["penalty"]
    ridges = fit.ridge(low_rank, (penalty / 3, penalty, penalty * 3))
    features = {"library_gene_mean": library}
    if "depth_only" in tuned:
        features["depth_only"] = _depth_values(sections, **tuned["depth_only"])
    features |= {
        "additive": fit.base,
        "neighbor_mean": _neighbor_values(sections, library, **tuned["neighbor_mean"]),
        "kernel": fit.kernel(**tuned["kernel"]),
        "diffusion": fit.diffusion(**tuned["diffusion"]),
        "soft_impute_weak": fit.base + weak,
        "soft_impute": fit.base + low_rank,
        "soft_impute_strong": fit.base + strong,
        "soft_impute_kernel": fit.soft_impute_kernel(low_rank, **tuned["soft_impute_kernel"]),
        "ridge_weak": ridges[0],
        "ridge": ridges[1],
        "ridge_strong": ridges[2],
    }
    return list(features), list(features.values())


def tune_rates(tuner: _RateTuner) -> Tuned:
    """Parameters of all rates."""
    tuned = {"kernel": tuner.kernel(), "soft_impute": tuner.soft_impute()}
    tuned["soft_impute_kernel"] = tuner.soft_impute_kernel(tuner.rates.soft_impute(**tuned["soft_impute"]))
    return tuned


def _all_rates(rates: _Rates, tuned: Tuned, n_rings: int) -> list[np.ndarray]:
    base = rates.soft_impute(**tuned["soft_impute"])
    return [
        rates.gene(),
        rates.library(),
        rates.depth(),
        rates.neighbors(n_rings),
        rates.kernel(**tuned["kernel"]),
        base,
        rates.soft_impute_kernel(base, **tuned["soft_impute_kernel"]),
    ]


# --- completers ------------------------------------------------------------------------------------------------------


def gene_mean(sections: Sections, *, seed: int, n_threads: int) -> Estimate:
    """Mean of the gene's known values."""
    mean = lowrank.gene_means(sections.values, sections.known).astype(np.float32)
    rates = _rates(sections, seed)
    return Estimate(np.tile(mean, (len(sections.values), 1)), rates and rates.gene())


def library_gene_mean(sections: Sections, *, seed: int, n_threads: int, shrinkage: float | None = None) -> Estimate:
    """Mean of the gene's known values in the library, shrunken to the mean over all libraries."""
    params = _Tuner(sections, seed).library_gene_mean(shrinkage=shrinkage)
    rates = _rates(sections, seed)
    return Estimate(_library_gene_values(sections, **params), rates and rates.library(), params=params)


def depth_only(sections: Sections, *, seed: int, n_threads: int, shrinkage: float | None = None) -> Estimate:
    """What the depth of the spot alone says of each gene."""
    if sections.counts is None:
        raise ValueError(
            "there are no raw counts, and without them no depths: put raw counts into adata.X or "
            'adata.layers["counts"], or complete by another method, such as `sp.tl.additive_complete(adata)`.'
        )
    params = _Tuner(sections, seed).depth_only(shrinkage=shrinkage)
    rates = _rates(sections, seed)
    return Estimate(_depth_values(sections, **params), rates and rates.depth(), params=params)


def additive(
    sections: Sections,
    *,
    seed: int,
    n_threads: int,
    spot_shrinkage: float | None = None,
    library_shrinkage: float | None = None,
) -> Estimate:
    """Gene + spot + gene in the library."""
    params = _Tuner(sections, seed).additive(spot_shrinkage=spot_shrinkage, library_shrinkage=library_shrinkage)
    rates = _rates(sections, seed)
    return Estimate(_additive_values(sections, **params), rates and rates.library(), params=params)


def neighbor_mean(sections: Sections, *, seed: int, n_threads: int, n_rings: int | None = None) -> Estimate:
    """Mean of the known values within some rings, or of the library where there are none."""
    tuner = _Tuner(sections, seed)
    of_library = tuner.library_gene_mean()
    params = tuner.neighbor_mean(of_library, n_rings=n_rings)
    values = _neighbor_values(sections, _library_gene_values(sections, **of_library), **params)
    rates = _rates(sections, seed)
    return Estimate(values, rates and rates.neighbors(**params), params={**params, **of_library})


def kernel(
    sections: Sections,
    *,
    seed: int,
    n_threads: int,
    bandwidth: float | None = None,
    shrinkage: float | None = None,
) -> Estimate:
    """Additive, plus its residual smoothed by a kernel of the hops."""
    tuner = _Tuner(sections, seed)
    params = tuner.kernel(bandwidth=bandwidth, shrinkage=shrinkage)
    values = _Fit(sections, tuner.best_additive, seed=seed).kernel(**params)
    params |= tuner.best_additive
    if sections.counts is None:
        return Estimate(values, params=params)
    of_rate = _RateTuner(sections, seed).kernel()
    return Estimate(values, _rates(sections, seed).kernel(**of_rate), params={**params, **of_rate})


def diffusion(sections: Sections, *, seed: int, n_threads: int, strength: float | None = None) -> Estimate:
    """Additive, plus its residual spread over the graph of neighbours."""
    tuner = _Tuner(sections, seed)
    params = tuner.diffusion(strength=strength)
    values = _Fit(sections, tuner.best_additive, seed=seed).diffusion(**params)
    return Estimate(values, params={**params, **tuner.best_additive})


def soft_impute(
    sections: Sections, *, seed: int, n_threads: int, shrinkage: float | None = None, rank: int = _RANK
) -> Estimate:
    """Additive, plus a matrix of low rank."""
    tuner = _Tuner(sections, seed)
    params = tuner.soft_impute(shrinkage=shrinkage, rank=rank)
    values = _Fit(sections, tuner.best_additive, seed=seed).soft_impute(**params)
    params |= tuner.best_additive
    if sections.counts is None:
        return Estimate(values, params=params)
    of_rate = _RateTuner(sections, seed).soft_impute()
    return Estimate(values, _rates(sections, seed).soft_impute(**of_rate), params={**params, **of_rate})


def soft_impute_kernel(
    sections: Sections,
    *,
    seed: int,
    n_threads: int,
    shrinkage: float | None = None,
    rank: int = _RANK,
    bandwidth: float | None = None,
    kernel_shrinkage: float | None = None,
) -> Estimate:
    """Additive, plus a matrix of low rank, plus what both leave over, smoothed by a kernel of the hops."""
    tuner = _Tuner(sections, seed)
    soft = tuner.soft_impute(shrinkage=shrinkage, rank=rank)
    params = tuner.soft_impute_kernel(
        tuner.fit.low_rank(**soft), bandwidth=bandwidth, kernel_shrinkage=kernel_shrinkage
    )
    fit = _Fit(sections, tuner.best_additive, seed=seed)
    values = fit.soft_impute_kernel(fit.low_rank(**soft), **params)
    params |= soft | tuner.best_additive
    if sections.counts is None:
        return Estimate(values, params=params)
    rate_tuner = _RateTuner(sections, seed)
    of_base = rate_tuner.soft_impute()
    of_rate = rate_tuner.soft_impute_kernel(rate_tuner.rates.soft_impute(**of_base))
    rates = _rates(sections, seed)
    rate = rates.soft_impute_kernel(rates.soft_impute(**of_base), **of_rate)
    return Estimate(values, rate, params={**params, "rate_base": of_base, **of_rate})


def ridge(
    sections: Sections, *, seed: int, n_threads: int, penalty: float | None = None, rank: int = _RANK
) -> Estimate:
    """Additive, plus its residual regressed on the other genes and the neighbourhood, gene by gene."""
    tuner = _Tuner(sections, seed)
    soft = tuner.soft_impute(rank=rank)
    params = tuner.ridge(tuner.fit.low_rank(**soft), penalty)
    fit = _Fit(sections, tuner.best_additive, seed=seed)
    (values,) = fit.ridge(fit.low_rank(**soft), (params["penalty"],))
    return Estimate(values, params={**params, **soft, **tuner.best_additive})


def stacked(
    sections: Sections, *, seed: int, n_threads: int, n_folds: int = 5, most_entries: int = 1_000_000
) -> Estimate:
    """The linear combination of all of these that does best on entries hidden from them."""
    tuned = tune_all(sections, seed)

    def fit(part: Sections) -> list[np.ndarray]:
        return base_features(part, tuned, seed=seed)[1]

    _, _, features, target, _ = stack.cross_fit(sections, fit, n_folds=n_folds, seed=seed, most_entries=most_entries)
    weights = stack.ridge_stack(features, target)
    del features
    names, estimates = base_features(sections, tuned, seed=seed)
    params = {"tuned": tuned, "weights": dict(zip(["intercept", *names], weights.tolist(), strict=True))}
    rate = None
    if sections.counts is not None:
        rate, params["tuned_rates"] = _stacked_rate(
            sections, tuned["neighbor_mean"]["n_rings"], seed=seed, most_entries=most_entries
        )
    return Estimate(stack.combine(weights, estimates), rate, params=params)


def _stacked_rate(sections: Sections, n_rings: int, *, seed: int, most_entries: int) -> tuple[np.ndarray, Tuned]:
    """Log-linear combination of the rates of half the counts that predicts the other half best, applied to all."""
    tuner = _RateTuner(sections, seed)
    tuned = tune_rates(tuner)
    n_genes = sections.values.shape[1]
    entries = np.flatnonzero(np.repeat((tuner.rates.exposure[:, 0] > 0) & (tuner.other_depth > 0), n_genes))
    if entries.size > most_entries:
        entries = np.sort(_generator(seed, 2).choice(entries, most_entries, replace=False))

    def log_share(rate: np.ndarray, rates: _Rates) -> np.ndarray:
        """Logarithm of the rate per unit of depth, with a floor where it is next to nothing."""
        share = rate / np.maximum(rates.exposure, 1e-9)
        return np.log(np.maximum(share, 1e-3 * rates.share))

    features = np.stack(
        [log_share(rate, tuner.rates).ravel()[entries] for rate in _all_rates(tuner.rates, tuned, n_rings)], axis=1
    )
    offset = np.log(tuner.other_depth[entries // n_genes] / tuner.unit)
    weights = regression.poisson_regression(features, tuner.other.ravel()[entries], offset)
    rates = _Rates(sections, tuner.unit, seed=seed)
    log_rates = [log_share(rate, rates) for rate in _all_rates(rates, tuned, n_rings)]
    return rates.exposure * np.exp(stack.combine(weights, log_rates)), tuned


def sme(sections: Sections, *, seed: int, n_threads: int, n_rings: int = 3, n_neighbors: int | None = None) -> Estimate:
    """Weighted mean over nearby spots of like morphology and expression, zeros counted."""
    if sections.embedding is None:
        raise ValueError(
            "an embedding of the spots is needed, such as of the image: name a table of obsm as `use_rep`."
        )

    def values(part: Sections, n_neighbors: int) -> np.ndarray:
        centred = part.values - part.values.mean(axis=1, keepdims=True)  # its cosine is the correlation
        tables = (part.embedding, centred)
        return smoothing.similar_neighbors(part.lattice, n_rings, n_neighbors, tables) @ part.values

    tuner = _Tuner(sections, seed)
    params = tuner.pick("sme", lambda n_neighbors: values(tuner.train, n_neighbors), n_neighbors=n_neighbors)
    return Estimate(values(sections, **params), params={"n_rings": n_rings, **params})


def magic(sections: Sections, *, seed: int, n_threads: int, knn: int = 5, t: int | None = None) -> Estimate:
    """Diffusion over a graph of spots of like expression, brought to the unit of the layer by a line for each gene."""
    if sections.counts is None:
        raise ValueError(
            'MAGIC needs raw counts, and there are none: put them into adata.X or adata.layers["counts"], or complete '
            "by another method, such as `sp.tl.additive_complete(adata)`."
        )

    def values(part: Sections, t: int) -> np.ndarray:
        return regression.line_by_gene(_magic(part, knn, t, seed, n_threads), part.values, part.known)

    tuner = _Tuner(sections, seed)
    params = tuner.pick("magic", lambda t: values(tuner.train, t), t=t)
    return Estimate(values(sections, **params), params={"knn": knn, **params})


def _magic(sections: Sections, knn: int, t: int, seed: int, n_threads: int) -> np.ndarray:
    """MAGIC on the square roots of counts that are scaled to one depth."""
    depth = np.maximum(sections.counts.depth, 1)
    inputs = np.sqrt(sections.counts.values * (np.median(depth) / depth)[:, None])
    knn = min(knn, (len(inputs) - 1) // 3)  # the library looks for three times as many
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the library calls deprecated functions of others
        try:
            from magic import MAGIC
        except ImportError as error:
            raise ImportError(
                'MAGIC is an optional part: install it with `pip install "spared-sc[impute]"`.'
            ) from error
        if knn < 1:
            return inputs
        return MAGIC(knn=knn, t=t, n_jobs=n_threads, random_state=seed, verbose=0).fit_transform(inputs)


def alra(sections: Sections, *, seed: int, n_threads: int, rank: int | None = None) -> Estimate:
    """Approximation of low rank in which what is likely to be a true zero is zero."""
    values, rank = lowrank.alra(sections.values, sections.known, rank=rank, seed=seed)
    return Estimate(values, params={"rank": rank})


def median(sections: Sections, *, seed: int, n_threads: int, n_rings: int = 4) -> Estimate:
    """The adaptive median of the surrounding spots, zeros counted."""
    values = adaptive_median(
        sections.values, sections.known, sections.lattice, sections.library, n_rings=n_rings, n_threads=n_threads
    )
    return Estimate(values, params={"n_rings": n_rings})


BASELINES: dict[str, Callable[..., Estimate]] = {
    name: _one_blas_thread(function)
    for name, function in {
        "gene_mean": gene_mean,
        "library_gene_mean": library_gene_mean,
        "depth_only": depth_only,
        "additive": additive,
        "neighbor_mean": neighbor_mean,
        "kernel": kernel,
        "diffusion": diffusion,
        "soft_impute": soft_impute,
        "soft_impute_kernel": soft_impute_kernel,
        "ridge": ridge,
        "stack": stacked,
        "sme": sme,
        "magic": magic,
        "alra": alra,
        "median": median,
    }.items()
}
