"""Mean of each gene: what any other method must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spared_sc._kernels import lowrank
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter
from spared_sc._models.completion.rates import rates_of
from spared_sc._models.completion.registry import COMPLETERS


@dataclass(kw_only=True, eq=False)
class GeneMean(SimpleCompleter):
    r"""Mean of the gene's detected values over all libraries.

    Notes
    -----
    :math:`\hat x_{sg} = \mu_g`, the mean of :math:`x_{sg}` over the detected entries. The rate is the depth times the
    gene's share of all counts.
    """

    about: ClassVar[About] = COMPLETERS["gene_mean"]

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """The same value in every spot."""
        mean = lowrank.gene_means(sections.values, sections.known).astype(np.float32)
        rates = rates_of(sections, compute.seed)
        return Estimate(np.tile(mean, (len(sections.values), 1)), None if rates is None else rates.gene())
