"""Counts at the depth of the spot: no neighbours, no other genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spared_sc._kernels.at_depth import detected_values
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter
from spared_sc._models.completion.rates import Rates, mean_depth
from spared_sc._models.completion.registry import COMPLETERS


@dataclass(kw_only=True, eq=False)
class CountsAtDepth(SimpleCompleter):
    r"""Negative binomial counts at the depth of the spot and the library's share of the gene.

    What a method adds to this baseline is knowledge of where a gene is expressed. The layer is taken for log2(1 + scaled
    count).

    Notes
    -----
    The rate is :math:`\lambda_{sg} = \rho_g(d_s)\, \pi_{b(s) g} / \pi_g`, with :math:`\rho_g` a Poisson regression of the
    gene on the logarithm of the depth *d*, and :math:`\pi` the gene's share of the counts of the library and of all
    counts. Every gene has a dispersion, by moments. :math:`\hat x_{sg} = E[\log_2(1 + k_{sg} c) \mid c > 0]`, where one
    count adds :math:`k_{sg}` to the scaled expression, and *c* has the mean :math:`\lambda_{sg} / (1 - h)`. The share *h*
    of counts that are hidden is the one at which the known entries have as many counts as is expected of detected ones.
    """

    about: ClassVar[About] = COMPLETERS["counts_at_depth"]

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values and rates."""
        rate = Rates(sections, mean_depth(sections), seed=compute.seed).at_depth()
        return Estimate(detected_values(sections, rate), rate)
