"""Adaptive median of the surrounding spots: SEPAL's completion, and the step before SpaCKLE."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from spared_sc._kernels.median import adaptive_median
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS


@dataclass(kw_only=True, eq=False)
class Median(SimpleCompleter):
    """Median over growing neighbourhoods, undetected entries counting as zero.

    For an undetected entry and h = 1 to `n_rings`, the median over the spot itself and all spots within h hops is taken;
    the first median that is not zero is the value. Where there is none, it is the median of the gene's detected values
    in the library. A gene that is detected nowhere in a library stays zero there.

    Parameters
    ----------
    n_rings
        Largest neighbourhood, in hops.

    Notes
    -----
    Source: Mejia et al. (2023), SEPAL; SpaRED (Ruiz et al. 2025) uses it as the step before SpaCKLE.
    """

    about: ClassVar[About] = COMPLETERS["median"]
    alone: ClassVar[bool] = True
    uses_counts: ClassVar[bool] = False
    n_rings: int = parameter(4, least=1, whole=True)

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        values = adaptive_median(
            sections.values,
            sections.known,
            sections.lattice,
            sections.library,
            n_rings=self.n_rings,
            n_threads=compute.n_threads,
        )
        return Estimate(values, params={"n_rings": self.n_rings})
