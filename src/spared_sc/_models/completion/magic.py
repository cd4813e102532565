"""MAGIC: diffusion over a graph of spots with similar expression."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from spared_sc._kernels import regression
from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import Trial


@dataclass(kw_only=True, eq=False)
class Magic(SimpleCompleter):
    """MAGIC: diffusion over a graph of spots with similar expression. Positions play no role.

    Uses the package `magic-impute`, an optional dependency: `pip install "spared-sc[impute]"`.

    Parameters
    ----------
    knn
        Number of nearest spots that set the width of the kernel.
    t
        Number of diffusion steps. MAGIC's own default is 3.

    Notes
    -----
    Counts of the genes to complete are scaled to the median depth and their square roots diffused, as its authors advise.
    The result is brought to the unit of the layer by a straight line for each gene, fitted to the detected entries.
    Source: van Dijk et al. (2018).
    """

    about: ClassVar[About] = COMPLETERS["magic"]
    knn: int = parameter(5, least=1, whole=True)
    t: int | None = parameter(None, least=1, whole=True, grid=(1, 3, 6, 12))

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        trial = Trial(sections, compute.seed)
        params = trial.pick(self, lambda t: self._values(trial.train, t, compute))
        return Estimate(self._values(sections, params["t"], compute), params={"knn": self.knn, **params})

    def _values(self, sections: Sections, t: int, compute: Compute) -> np.ndarray:
        return regression.line_by_gene(self._diffused(sections, t, compute), sections.values, sections.known)

    def _diffused(self, sections: Sections, t: int, compute: Compute) -> np.ndarray:
        """MAGIC on the square roots of counts that are scaled to one depth."""
        counts = sections.need_counts()
        depth = np.maximum(counts.depth, 1)
        inputs = np.sqrt(counts.values * (np.median(depth) / depth)[:, None])
        knn = min(self.knn, (len(inputs) - 1) // 3)  # the library looks for three times as many
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the library calls deprecated functions of others
            try:
                from magic import MAGIC
            except ImportError as error:
                raise ImportError(
                    'MAGIC is an optional dependency: install it with `pip install "spared-sc[impute]"`.'
                ) from error
            if knn < 1:
                return inputs
            operator = MAGIC(knn=knn, t=t, n_jobs=compute.n_threads, random_state=compute.seed, verbose=0)
            return operator.fit_transform(inputs)
