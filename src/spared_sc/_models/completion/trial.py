"""Additive fit, what other estimates add to it, and the trial on hidden entries by which all of them are tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._kernels import lowrank, regression, smoothing
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.metrics import masked_mse, ratio
from spared_sc._kernels.tuning import generator, pick
from spared_sc._models.completion.registry import COMPLETERS

if TYPE_CHECKING:
    from spared_sc._kernels.sections import Sections
    from spared_sc._models.completion.base import Completer

Tuned = dict[str, dict[str, Any]]  # method -> parameters

BANDWIDTHS = (0.7, 1.0, 1.5, 2.0, 2.7)
RANK = 24  # of soft-impute at most
_HIDDEN_SHARE = 0.1  # of the known entries, to choose parameters on
_RIDGE_BANDWIDTH = 1.0  # rings, of the neighbourhood that genes are regressed on


def additive_values(sections: Sections, spot_shrinkage: float, library_shrinkage: float) -> np.ndarray:
    """Gene + spot + gene in the library, (n_spots, n_genes) float32."""
    return lowrank.additive(
        sections.values,
        sections.known,
        sections.library,
        spot_shrinkage=spot_shrinkage,
        library_shrinkage=library_shrinkage,
    )


class AdditiveFit:
    """The additive fit of some sections, and the estimates that add something to it."""

    def __init__(self, sections: Sections, additive: dict[str, float], *, seed: int):
        self.sections = sections
        self.seed = seed
        self.base = additive_values(sections, **additive)
        self.residual = np.where(sections.known, sections.values - self.base, np.float32(0))
        self.factors: lowrank.Factors | None = None  # of soft-impute, where the next fit starts
        self._diffused: np.ndarray | None = None  # the same for diffusion

    @cached_property
    def largest(self) -> float:
        """Largest singular value of the residual, the unit of soft-impute's penalty."""
        return lowrank.largest_singular_value(self.residual)

    def kernel(self, bandwidth: float, shrinkage: float) -> np.ndarray:
        """Residual smoothed by a kernel of the hops."""
        return self.base + self._smooth(self.residual, bandwidth, shrinkage)

    def _smooth(self, residual: np.ndarray, bandwidth: float, shrinkage: float) -> np.ndarray:
        weights = smoothing.hop_kernel(self.sections.lattice, bandwidth)
        total = weights @ self.sections.known.astype(np.float32) + np.float32(shrinkage)
        return ratio(weights @ residual, total, default=0.0).astype(np.float32)

    def diffusion(self, strength: float) -> np.ndarray:
        """Residual spread over the graph of neighbours."""
        self._diffused = smoothing.diffuse(
            self.residual, self.sections.known, self.sections.lattice, strength, start=self._diffused
        )
        return self.base + self._diffused

    def low_rank(self, shrinkage: float, rank: int) -> np.ndarray:
        """Soft-impute of the residual, without the additive fit."""
        self.factors = lowrank.soft_impute(
            self.residual, self.sections.known, shrinkage * self.largest, rank=rank, start=self.factors, seed=self.seed
        )
        return self.factors.product()

    def soft_impute(self, shrinkage: float, rank: int) -> np.ndarray:
        """Low-rank matrix of the residual."""
        return self.base + self.low_rank(shrinkage, rank)

    def soft_impute_kernel(self, low_rank: np.ndarray, bandwidth: float, kernel_shrinkage: float) -> np.ndarray:
        """What `low_rank` leaves over, smoothed by a kernel of the hops."""
        left = np.where(self.sections.known, self.residual - low_rank, np.float32(0))
        return self.base + low_rank + self._smooth(left, bandwidth, kernel_shrinkage)

    def ridge(self, low_rank: np.ndarray, penalties: Sequence[float]) -> list[np.ndarray]:
        """Residual regressed on other genes, gaps filled by `low_rank`, and on the neighbourhood; one for each penalty."""
        known = self.sections.known
        filled = np.where(known, self.residual, low_rank)
        weights = smoothing.hop_kernel(self.sections.lattice, _RIDGE_BANDWIDTH)
        around = smoothing.weighted_mean(weights, filled, default=low_rank)
        return [self.base + x for x in regression.ridge_genes(self.residual, known, filled, around, penalties)]


class Trial:
    """Sections with some of the known entries hidden, to choose the parameters of methods on.

    A score is computed on `score_share` of them, which nothing is chosen on.
    """

    def __init__(self, sections: Sections, seed: int, *, hidden_share: float = _HIDDEN_SHARE, score_share: float = 0.0):
        self.seed = seed
        rng = generator(seed, 0)
        self.hidden = hide_detected(sections.known, hidden_share, rng)
        self.tuning = self.hidden
        if score_share:
            self.tuning = self.hidden & ~hide_detected(self.hidden, score_share, rng)
        self.truth = sections.renormalised(self.hidden)
        self.train = sections.without(self.hidden)

    def pick(self, completer: Completer, estimate: Callable[..., np.ndarray]) -> dict[str, Any]:
        """Parameters of lowest error: tuned ones that were not given."""
        return pick(lambda **params: masked_mse(self.truth, estimate(**params), self.tuning), completer.grids())

    @cached_property
    def additive(self) -> dict[str, Any]:
        """Parameters of the additive fit that other methods build on."""
        return self.pick(COMPLETERS.make("additive", {}), lambda **params: additive_values(self.train, **params))

    @cached_property
    def fit(self) -> AdditiveFit:
        """The additive fit of the visible entries."""
        return AdditiveFit(self.train, self.additive, seed=self.seed)
