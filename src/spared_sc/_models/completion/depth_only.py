"""Regression of each gene on the depth of the spot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spared_sc._kernels import regression
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True, eq=False)
class DepthOnly(SimpleCompleter):
    r"""Value of the gene given the depth of the spot alone.

    In normalised data the value of a detected gene falls with the depth of the spot: a count of one is a large share of
    few counts. What a method adds to this baseline is knowledge of expression.

    Parameters
    ----------
    shrinkage
        How strongly a gene's curve is drawn to that of all genes, as a number of detected values.

    Notes
    -----
    With the standardised logarithm *d* of the depth, the sum of all counts of a spot, :math:`\hat x_{sg} = \mu_g + a_g +
    b_g d_s + c_g d_s^2`. The coefficients minimise the squared error over the detected entries plus :math:`\tau` times
    the squared distance to the coefficients that all genes have in common. The rate is a Poisson regression of each gene
    on the logarithm of the depth, with a slope shrunk towards 1.
    """

    about: ClassVar[About] = COMPLETERS["depth_only"]
    shrinkage: float | None = parameter(None, least=0, grid=(2.0, 20.0, 200.0))

    def tune(self, trial: Trial) -> dict[str, Any]:
        """Parameters that do best on hidden entries."""
        return trial.pick(self, lambda **params: depth_values(trial.train, **params))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """A curve of the depth for each gene."""
        params = self.tune(Trial(sections, compute.seed))
        rates = rates_of(sections, compute.seed)
        return Estimate(depth_values(sections, **params), None if rates is None else rates.by_depth(), params=params)


def depth_values(sections: Sections, shrinkage: float) -> np.ndarray:
    """Trend of each gene with the depth, (n_spots, n_genes) float32."""
    return regression.depth_trend(sections.values, sections.known, sections.whole_depth(), shrinkage)
