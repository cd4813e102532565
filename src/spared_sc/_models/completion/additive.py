"""Additive model of gene, spot, and gene in the library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial, additive_values


@dataclass(kw_only=True, eq=False)
class Additive(SimpleCompleter):
    r"""Sum of an effect of the gene, of the spot, and of the gene in the library. Many methods complete its residuals.

    Parameters
    ----------
    spot_shrinkage
        Penalty of the effects of spots, as a number of detected values.
    library_shrinkage
        Penalty of the effects of genes in libraries, as a number of detected values.

    Notes
    -----
    :math:`\hat x_{sg} = \mu_g + a_s + l_{b(s) g}` minimises, over the detected entries,

    .. math:: \sum_{sg} (x_{sg} - \hat x_{sg})^2 + \tau_a \sum_s a_s^2 + \tau_l \sum_{bg} l_{bg}^2.

    The rate is the depth times the gene's share of the library's counts, shrunk towards its share of all counts.
    """

    about: ClassVar[About] = COMPLETERS["additive"]
    spot_shrinkage: float | None = parameter(None, least=0, grid=(1.0, 3.0, 10.0, 30.0))
    library_shrinkage: float | None = parameter(None, least=0, grid=(1.0, 3.0, 10.0))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """The additive fit."""
        trial = Trial(sections, compute.seed)
        params = trial.pick(self, lambda **params: additive_values(trial.train, **params))
        rates = rates_of(sections, compute.seed)
        return Estimate(additive_values(sections, **params), None if rates is None else rates.library(), params=params)
