"""Additive fit and its residuals spread over the lattice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from spared_sc._models.completion.base import About, Compute, Estimate, Sections, SimpleCompleter, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.trial import AdditiveFit, Trial


@dataclass(kw_only=True, eq=False)
class Diffusion(SimpleCompleter):
    r"""Additive fit, and its residuals spread over the graph of neighbours.

    Parameters
    ----------
    strength
        How strongly neighbours are held together.

    Notes
    -----
    The residual of gene *g* is replaced by the :math:`z` that minimises :math:`\sum_{s \in \Omega_g} (z_s - r_{sg})^2
    + \lambda \sum_{s \sim t} (z_s - z_t)^2`, which solves :math:`(W_g + \lambda L) z = W_g r_g` with the detected
    entries on the diagonal of :math:`W_g` and the graph Laplacian :math:`L`. All genes are solved for at once by
    conjugate gradients. Source: label propagation on graphs, Zhou et al. (2004), in the form of a ridge penalty on
    differences.
    """

    about: ClassVar[About] = COMPLETERS["diffusion"]
    strength: float | None = parameter(None, least=0, grid=(10.0, 3.0, 1.0, 0.3, 0.1))

    def tune(self, trial: Trial) -> dict[str, Any]:
        """Parameters that do best on hidden entries."""
        return trial.pick(self, trial.fit.diffusion)

    def estimate(self, sections: Sections, compute: Compute) -> Estimate:
        """Values; there is no rate."""
        trial = Trial(sections, compute.seed)
        params = self.tune(trial)
        values = AdditiveFit(sections, trial.additive, seed=compute.seed).diffusion(**params)
        return Estimate(values, params={**params, **trial.additive})
