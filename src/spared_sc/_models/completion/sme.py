"""Mean over nearby spots of similar morphology and expression, the method of stLearn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from spared_sc._kernels import smoothing
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial

if TYPE_CHECKING:
    import numpy as np


@dataclass(kw_only=True, eq=False)
class SME(SimpleCompleter):
    r"""Mean over nearby spots of similar morphology and expression, zeros counted.

    The method of stLearn, on any embedding of the spots. Undetected neighbours count as zero, so the values are low, and
    zero (still undetected) where no neighbour has the gene.

    Parameters
    ----------
    n_rings
        Size of the neighbourhood in hops.
    n_neighbors
        Number of neighbours that the mean is taken over, those of largest weight. stLearn takes 3.

    Notes
    -----
    :math:`\hat x_{sg} = \sum_t w_{st} x_{tg} / \sum_t w_{st}` over the `n_neighbors` spots of largest weight within
    `n_rings` hops, where :math:`w_{st}` is the cosine between the embeddings of the spots times the correlation between
    their expression, both zero where negative. Source: Pham et al. (2023), stLearn. There, expression is compared by
    principal components, and the spot itself is among its neighbours.
    """

    about: ClassVar[About] = COMPLETERS["sme"]
    uses_embedding: ClassVar[bool] = True
    n_rings: int = parameter(3, least=1, whole=True)
    n_neighbors: int | None = parameter(None, least=1, whole=True, grid=(3, 6, 12, 24))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        trial = Trial(sections, compute.seed)
        params = trial.pick(self, lambda n_neighbors: self._values(trial.train, n_neighbors))
        return Estimate(self._values(sections, **params), params={"n_rings": self.n_rings, **params})

    def _values(self, sections: Sections, n_neighbors: int) -> np.ndarray:
        centred = sections.values - sections.values.mean(axis=1, keepdims=True)  # its cosine is the correlation
        tables = (sections.need_embedding(), centred)
        return smoothing.similar_neighbors(sections.lattice, self.n_rings, n_neighbors, tables) @ sections.values
