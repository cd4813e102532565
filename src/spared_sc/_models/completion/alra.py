"""ALRA: a low-rank approximation that keeps likely true zeros at zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spared_sc._kernels import lowrank
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS


@dataclass(kw_only=True, eq=False)
class Alra(SimpleCompleter):
    """Low-rank matrix in which likely true zeros are zero (still undetected). Positions play no role.

    Undetected entries of the layer, which must hold normalised log counts, are taken for zeros.

    Parameters
    ----------
    rank
        Rank of the matrix. `None` takes the last singular value before a gap that stands out by six standard deviations
        from the gaps of the last fifth.

    Notes
    -----
    The matrix comes from a randomised singular value decomposition. For each gene, entries that are no larger than the
    magnitude of its most negative one become zero, and the others are brought to the mean and the standard deviation of
    the detected values. Source: Linderman et al. (2022).
    """

    about: ClassVar[About] = COMPLETERS["alra"]
    rank: int | None = parameter(None, least=1, whole=True)

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        values, rank = lowrank.alra(sections.values, sections.known, rank=self.rank, seed=compute.seed)
        return Estimate(values, params={"rank": rank})
