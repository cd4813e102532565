"""Mean of each gene in the spots around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from spared_sc._kernels import smoothing
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.library_gene_mean import LibraryGeneMean, library_values
from spared_sc._models.completion.rates import rates_of
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True, eq=False)
class NeighborMean(SimpleCompleter):
    r"""Mean of the gene's detected values in the spots around; undetected neighbours do not count.

    Where no neighbour has detected the gene, the value is that of `library_gene_mean`.

    Parameters
    ----------
    n_rings
        Size of the neighbourhood in hops.

    Notes
    -----
    With :math:`N(s)` the spots within `n_rings` hops, and :math:`\Omega` the detected entries:
    :math:`\hat x_{sg} = \sum_{t \in N(s), (t, g) \in \Omega} x_{tg} / \sum_{t \in N(s), (t, g) \in \Omega} 1`. The rate
    is the depth times the gene's share of the neighbours' counts, together with one spot of the library's share.
    """

    about: ClassVar[About] = COMPLETERS["neighbor_mean"]
    n_rings: int | None = parameter(None, least=1, whole=True, grid=(1, 2, 3, 4))

    def tune(self, trial: Trial, of_library: dict[str, Any]) -> dict[str, Any]:
        """Parameters that do best on hidden entries, with those of `library_gene_mean`."""
        default = library_values(trial.train, **of_library)
        return trial.pick(self, lambda **params: neighbor_values(trial.train, default, **params))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Mean over the rings."""
        trial = Trial(sections, compute.seed)
        of_library = LibraryGeneMean().tune(trial)
        params = self.tune(trial, of_library)
        values = neighbor_values(sections, library_values(sections, **of_library), **params)
        rates = rates_of(sections, compute.seed)
        return Estimate(values, None if rates is None else rates.neighbors(**params), params={**params, **of_library})


def neighbor_values(sections: Sections, default: np.ndarray, n_rings: int) -> np.ndarray:
    """Mean of the known values within some rings, `default` where there are none."""
    return smoothing.known_mean(smoothing.rings(sections.lattice, n_rings), sections.values, sections.known, default)
