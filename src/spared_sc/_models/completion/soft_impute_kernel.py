"""Additive fit, a low-rank matrix, and a Gaussian kernel of what both leave over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import RateTrial, rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.soft_impute import SoftImpute
from spared_sc._models.completion.trial import BANDWIDTHS, RANK, AdditiveFit, Trial

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True, eq=False)
class SoftImputeKernel(SimpleCompleter):
    """Additive fit, a low-rank matrix, and the residuals of both around the spot.

    Parameters
    ----------
    shrinkage
        Penalty of the singular values, as a share of the largest singular value of the residuals.
    rank
        Largest rank.
    bandwidth
        Width of the Gaussian kernel in hops. It ends at three widths, and at eight hops.
    kernel_shrinkage
        Weight of a residual of zero, in units of a neighbour at no distance.

    Notes
    -----
    The sum of the estimate of `soft_impute` and of its residuals smoothed as in `kernel`. The rate is that of
    `soft_impute` times the ratio of the counts around the spot to those that it expects there; kernel and weight are
    tuned on one half of the molecules to predict the other.
    """

    about: ClassVar[About] = COMPLETERS["soft_impute_kernel"]
    shrinkage: float | None = parameter(None, least=0)
    rank: int = parameter(RANK, least=1, whole=True)
    bandwidth: float | None = parameter(None, least=0.1, grid=BANDWIDTHS)
    kernel_shrinkage: float | None = parameter(None, least=0, grid=(1.0, 2.0, 5.0, 15.0))

    def tune(self, trial: Trial, low_rank: np.ndarray) -> dict[str, Any]:
        """Parameters of the kernel that do best on hidden entries, on top of a low-rank matrix."""
        return trial.pick(self, lambda **params: trial.fit.soft_impute_kernel(low_rank, **params))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values and, with counts, rates."""
        trial = Trial(sections, compute.seed)
        soft = SoftImpute(shrinkage=self.shrinkage, rank=self.rank).tune(trial)
        params = self.tune(trial, trial.fit.low_rank(**soft))
        fit = AdditiveFit(sections, trial.additive, seed=compute.seed)
        values = fit.soft_impute_kernel(fit.low_rank(**soft), **params)
        params |= soft | trial.additive
        rates = rates_of(sections, compute.seed)
        if rates is None:
            return Estimate(values, params=params)
        rate_trial = RateTrial(sections, compute.seed)
        of_base = rate_trial.soft_impute()
        of_rate = rate_trial.soft_impute_kernel(rate_trial.rates.soft_impute(**of_base))
        rate = rates.soft_impute_kernel(rates.soft_impute(**of_base), **of_rate)
        return Estimate(values, rate, params={**params, "rate_base": of_base, **of_rate})
