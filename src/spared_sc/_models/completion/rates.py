"""Expected counts by simple methods, and the trial on one half of the molecules by which they are tuned."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._kernels import lowrank, regression, smoothing
from spared_sc._kernels.at_depth import rate_at_depth
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._kernels.tuning import generator, pick
from spared_sc._models.completion.trial import BANDWIDTHS

if TYPE_CHECKING:
    import scipy.sparse as sps

    from spared_sc._kernels.sections import Sections
    from spared_sc._models.completion.trial import Tuned

_SHARE_SPOTS = 5.0  # spots of mean depth by which a library's share of a gene is shrunken to the share in all
_GRIDS: dict[str, dict[str, tuple[Any, ...]]] = {
    "kernel": {"rate_bandwidth": (0.5, *BANDWIDTHS), "rate_shrinkage": (0.1, 0.3, 1.0, 3.0)},
    "soft_impute": {"rate_rank": (4, 8, 16, 32), "rate_bandwidth": (0.35, 0.5, 0.7, 1.0, 1.5)},
    "soft_impute_kernel": {"rate_bandwidth": BANDWIDTHS, "rate_shrinkage": (1.0, 3.0, 10.0)},
}


class Rates:
    """Expected counts of some sections, by several models."""

    def __init__(self, sections: Sections, unit: float, *, seed: int):
        counts = sections.need_counts()
        self.sections = sections
        self.seed = seed
        self.counts, self.depth = counts.values, counts.depth
        self.exposure = (counts.depth / unit).astype(np.float32)[:, None]  # in spots of the depth `unit`
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
        """Share of the gene in all libraries."""
        return self.exposure * self.share

    def library(self) -> np.ndarray:
        """Share of the gene in the library."""
        return self.exposure * self.library_share

    def by_depth(self) -> np.ndarray:
        """Poisson regression on the logarithm of the depth."""
        return regression.depth_rate(self.counts, self.depth)

    def at_depth(self) -> np.ndarray:
        """The same regression, times what the library's share of the gene is beside its share in all."""
        return rate_at_depth(self.by_depth(), self.library(), self.gene()).astype(np.float32)

    def neighbors(self, n_rings: int) -> np.ndarray:
        """Share of the gene within some rings."""
        return self._smooth(smoothing.rings(self.sections.lattice, n_rings), 1.0)

    def kernel(self, rate_bandwidth: float, rate_shrinkage: float) -> np.ndarray:
        """Share of the gene around the spot."""
        return self._smooth(smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True), rate_shrinkage)

    def _smooth(self, weights: sps.csr_matrix, shrinkage: float) -> np.ndarray:
        """Gamma-Poisson: counts around the spot, and `shrinkage` spots with the library's share."""
        share = (weights @ self.counts + shrinkage * self.library_share) / (weights @ self.exposure + shrinkage)
        return self.exposure * share

    def soft_impute(self, rate_rank: int, rate_bandwidth: float) -> np.ndarray:
        """Poisson factorisation with smoothed factors."""
        if rate_rank not in self._factors:
            self._factors[rate_rank] = lowrank.poisson_nmf(self.counts, self.exposure[:, 0], rate_rank, seed=self.seed)
        left, right = self._factors[rate_rank]
        weights = smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True)
        return self.exposure * (smoothing.weighted_mean(weights, left, default=left) @ right)

    def soft_impute_kernel(self, base: np.ndarray, rate_bandwidth: float, rate_shrinkage: float) -> np.ndarray:
        """Another rate, corrected by the counts around the spot."""
        weights = smoothing.hop_kernel(self.sections.lattice, rate_bandwidth, itself=True)
        prior = rate_shrinkage * np.minimum(self.share, 1)
        return base * ((weights @ self.counts + prior) / (weights @ base + prior))


class RateTrial:
    """A thinned half of the counts, and the parameters that predict the other half best."""

    def __init__(self, sections: Sections, seed: int):
        self.unit = mean_depth(sections)
        half, self.other = sections.thinned(generator(seed, 1))
        self.other_depth = sections.need_counts().depth - half.need_counts().depth
        self.rates = Rates(half, self.unit, seed=seed)

    def _pick(self, name: str, rate: Callable[..., np.ndarray]) -> dict[str, Any]:
        return pick(lambda **params: poisson_deviance(self.other, rate(**params)).mean(), _GRIDS[name])

    def kernel(self) -> dict[str, Any]:
        """Parameters of `Rates.kernel`."""
        return self._pick("kernel", self.rates.kernel)

    def soft_impute(self) -> dict[str, Any]:
        """Parameters of `Rates.soft_impute`."""
        return self._pick("soft_impute", self.rates.soft_impute)

    def soft_impute_kernel(self, base: np.ndarray) -> dict[str, Any]:
        """Parameters of `Rates.soft_impute_kernel` on another rate."""
        return self._pick("soft_impute_kernel", lambda **params: self.rates.soft_impute_kernel(base, **params))

    def all(self) -> Tuned:
        """Parameters of all of these."""
        tuned = {"kernel": self.kernel(), "soft_impute": self.soft_impute()}
        tuned["soft_impute_kernel"] = self.soft_impute_kernel(self.rates.soft_impute(**tuned["soft_impute"]))
        return tuned


def mean_depth(sections: Sections) -> float:
    """The unit of exposures: the depth of a typical spot."""
    return max(float(sections.need_counts().depth.mean()), 1e-12)


def rates_of(sections: Sections, seed: int) -> Rates | None:
    """Rates of sections with raw counts."""
    return None if sections.counts is None else Rates(sections, mean_depth(sections), seed=seed)
