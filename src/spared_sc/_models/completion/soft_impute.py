"""Additive fit and a low-rank matrix of its residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import RateTrial, rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import RANK, AdditiveFit, Trial


@dataclass(kw_only=True, eq=False)
class SoftImpute(SimpleCompleter):
    r"""Additive fit, and a low-rank matrix: programmes of genes that vary together, wherever the spots lie.

    Parameters
    ----------
    shrinkage
        Penalty of the singular values, as a share of the largest singular value of the residuals.
    rank
        Largest rank.

    Notes
    -----
    With the residuals :math:`r` of the additive fit and the detected entries :math:`\Omega`, the matrix minimises
    :math:`\tfrac12 \sum_\Omega (r_{sg} - z_{sg})^2 + \lambda \lVert Z \rVert_*`, by alternating least squares
    (Mazumder, Hastie and Tibshirani 2010; Hastie et al. 2015).

    The rate is a Poisson factorisation with the depth as exposure (Lee and Seung 2001), whose factors of the spots are
    smoothed over their neighbours. Rank and smoothing are tuned on one half of the molecules to predict the other.
    """

    about: ClassVar[About] = COMPLETERS["soft_impute"]
    shrinkage: float | None = parameter(None, least=0, grid=(0.5, 0.35, 0.25, 0.18, 0.13, 0.1, 0.07, 0.05))
    rank: int = parameter(RANK, least=1, whole=True)

    def tune(self, trial: Trial) -> dict[str, Any]:
        """Parameters that do best on hidden entries."""
        return {"rank": self.rank, **trial.pick(self, lambda shrinkage: trial.fit.soft_impute(shrinkage, self.rank))}

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values and, with counts, rates."""
        trial = Trial(sections, compute.seed)
        params = self.tune(trial)
        values = AdditiveFit(sections, trial.additive, seed=compute.seed).soft_impute(**params)
        params |= trial.additive
        rates = rates_of(sections, compute.seed)
        if rates is None:
            return Estimate(values, params=params)
        of_rate = RateTrial(sections, compute.seed).soft_impute()
        return Estimate(values, rates.soft_impute(**of_rate), params={**params, **of_rate})
