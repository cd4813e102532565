"""Additive fit and a regression on other genes and on the neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.soft_impute import SoftImpute
from spared_sc._models.completion.trial import RANK, AdditiveFit, Trial

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True, eq=False)
class Ridge(SimpleCompleter):
    """Additive fit, and its residuals regressed on the other genes and on the spots around.

    Parameters
    ----------
    penalty
        Ridge penalty.
    rank
        Largest rank of soft-impute, which fills the gaps of the other genes.

    Notes
    -----
    For each gene, the residuals of the additive fit are regressed on those of the other genes in the spot, gaps filled by
    soft-impute, and on the mean of all genes' filled residuals around the spot, with Gaussian weights of width one hop.
    With more than 256 genes, a gene is regressed on the 128 others that it correlates with most. Weights are learned from
    20,000 spots at most.
    """

    about: ClassVar[About] = COMPLETERS["ridge"]
    penalty: float | None = parameter(None, least=0, grid=(30.0, 100.0, 300.0, 1000.0, 3000.0))
    rank: int = parameter(RANK, least=1, whole=True)

    def tune(self, trial: Trial, low_rank: np.ndarray) -> dict[str, Any]:
        """Penalty that does best on hidden entries, with gaps filled by a low-rank matrix."""
        penalties = self.grids()["penalty"]
        if len(penalties) == 1:
            return {"penalty": penalties[0]}
        estimates = dict(zip(penalties, trial.fit.ridge(low_rank, penalties), strict=True))
        return trial.pick(self, lambda penalty: estimates[penalty])

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        trial = Trial(sections, compute.seed)
        soft = SoftImpute(rank=self.rank).tune(trial)
        params = self.tune(trial, trial.fit.low_rank(**soft))
        fit = AdditiveFit(sections, trial.additive, seed=compute.seed)
        (values,) = fit.ridge(fit.low_rank(**soft), (params["penalty"],))
        return Estimate(values, params={**params, **soft, **trial.additive})
