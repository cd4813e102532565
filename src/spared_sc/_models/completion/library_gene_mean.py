"""Mean of each gene in its library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from spared_sc._kernels import lowrank
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.rates import rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial


@dataclass(kw_only=True, eq=False)
class LibraryGeneMean(SimpleCompleter):
    r"""Mean of the gene's detected values in the library, shrunk towards the mean over all libraries.

    Parameters
    ----------
    shrinkage
        Number of detected values that the mean over all libraries counts for.

    Notes
    -----
    With :math:`n_{lg}` detected values in library *l*, of mean :math:`m_{lg}`, and the mean :math:`\mu_g` of the
    gene: :math:`\hat x_{sg} = (n_{lg} m_{lg} + \tau \mu_g) / (n_{lg} + \tau)`. The rate is the depth times the gene's
    share of the library's counts, shrunk towards its share of all counts.
    """

    about: ClassVar[About] = COMPLETERS["library_gene_mean"]
    shrinkage: float | None = parameter(None, least=0, grid=(0.5, 2.0, 8.0, 32.0))

    def tune(self, trial: Trial) -> dict[str, Any]:
        """Parameters that do best on hidden entries."""
        return trial.pick(self, lambda **params: library_values(trial.train, **params))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """One value for each gene and library."""
        params = self.tune(Trial(sections, compute.seed))
        rates = rates_of(sections, compute.seed)
        return Estimate(library_values(sections, **params), None if rates is None else rates.library(), params=params)


def library_values(sections: Sections, shrinkage: float) -> np.ndarray:
    """Shrunken mean of the gene in the library of each spot, (n_spots, n_genes) float32."""
    of_library = lowrank.library_gene_means(sections.values, sections.known, sections.library, shrinkage)
    return of_library.astype(np.float32)[sections.library]
