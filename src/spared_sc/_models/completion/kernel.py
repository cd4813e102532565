"""Additive fit and a Gaussian kernel of its residuals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import RateTrial, rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import BANDWIDTHS, AdditiveFit, Trial


@dataclass(kw_only=True, eq=False)
class Kernel(SimpleCompleter):
    r"""Additive fit, and its residuals around the spot.

    Parameters
    ----------
    bandwidth
        Width of the Gaussian kernel in hops. It ends at three widths, and at eight hops.
    shrinkage
        Weight of a residual of zero, in units of a neighbour at no distance.

    Notes
    -----
    With the residuals :math:`r` of the additive fit :math:`\hat a`, the detected entries :math:`\Omega` and
    :math:`K_{st} = \exp(-h_{st}^2 / 2 b^2)`, where *h* counts hops:

    .. math:: \hat x_{sg} = \hat a_{sg} + \frac{\sum_{t \ne s} K_{st} r_{tg} [(t, g) \in \Omega]}
        {\sum_{t \ne s} K_{st} [(t, g) \in \Omega] + \tau}.

    The rate is the mean of a gamma-Poisson model whose prior has the library's share of the gene and the weight of some
    spots. Its kernel includes the spot. Kernel and weight are tuned on one half of the molecules to predict the other.
    """

    about: ClassVar[About] = COMPLETERS["kernel"]
    bandwidth: float | None = parameter(None, least=0.1, grid=BANDWIDTHS)
    shrinkage: float | None = parameter(None, least=0, grid=(0.5, 1.0, 3.0, 10.0))

    def tune(self, trial: Trial) -> dict[str, Any]:
        """Parameters that do best on hidden entries."""
        return trial.pick(self, trial.fit.kernel)

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values and, with counts, rates."""
        trial = Trial(sections, compute.seed)
        params = self.tune(trial)
        values = AdditiveFit(sections, trial.additive, seed=compute.seed).kernel(**params)
        params |= trial.additive
        rates = rates_of(sections, compute.seed)
        if rates is None:
            return Estimate(values, params=params)
        of_rate = RateTrial(sections, compute.seed).kernel()
        return Estimate(values, rates.kernel(**of_rate), params={**params, **of_rate})
