"""A count model of sections: genes load on factors that vary smoothly, or not, over the tissue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from spared_sc._core.compute import OF_RATES
from spared_sc._kernels.threads import limited_threads
from spared_sc._kernels.truncated import detected_moments
from spared_sc._models.completion.base import About, Completer, Compute, Estimate, Sections, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.completion.variational import FactorParams, Rates, fit_rates, n_steps
from spared_sc._models.training import resolve_device

if TYPE_CHECKING:
    from collections.abc import Callable


_ENTRIES = 1 << 20  # that are computed at once


@dataclass(frozen=True)
class FactorFit:
    """What the counts say."""

    rates: Rates
    counts: np.ndarray  # (n_spots, n_genes)
    silent: np.ndarray  # (n_spots,) of which nothing is known

    def posterior_rate(self) -> np.ndarray:
        """Expected count of every entry, its own count taken into account (gamma-Poisson posterior mean).

        A spot of which nothing is known was not measured, rather than measured as empty.
        """
        result = np.empty_like(self.rates.log_rate)
        rows = 1 + _ENTRIES // (1 + result.shape[1])
        for start in range(0, len(result), rows):
            spots = slice(start, start + rows)
            result[spots] = self._posterior_rate(spots)
        return result

    def _posterior_rate(self, spots: slice) -> np.ndarray:
        rate, counts = np.exp(self.rates.log_rate[spots]), self.counts[spots]
        size, lost = self.rates.size.astype(np.float32), self.rates.lost.astype(np.float32)
        informed = rate * (size + counts) / (size + rate)
        zero = np.exp(size * -np.log1p(rate / size))
        said_nothing = lost / (lost + (1 - lost) * zero)  # a zero may be a lost detection
        said_nothing = np.where(self.silent[spots, None], np.float32(1), said_nothing)
        return np.where(counts > 0, informed, said_nothing * rate + (1 - said_nothing) * informed)

    def log_variances(self) -> tuple[np.ndarray, np.ndarray]:
        """Two parts of the variance of the logarithm of that: of the factors, and of what they do not explain.

        The second is the variance of a gamma posterior; both are for errors that are independent, and small.
        """
        rate, size = np.exp(self.rates.log_rate), self.rates.size.astype(np.float32)
        rate[self.silent] = 0
        unexplained = 1 / (size + self.counts)
        return (self.rates.log_rate_sd * size / (size + rate)) ** 2, unexplained

    def given_detection(self, scale: np.ndarray, *, n_threads: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log2(1 + count x scale), given a count above zero."""
        return detected_moments(
            self.rates.log_rate, self.rates.log_rate_sd, self.rates.size, scale, n_threads=n_threads
        )


@dataclass(kw_only=True, eq=False)
class Factor(Completer):
    r"""Count model: genes load on factors that vary smoothly over the tissue, or not.

    Parameters
    ----------
    n_iterations
        Most iterations of the fit, once all factors are there. It ends when an iteration gains little.

    Notes
    -----
    The count of gene g in spot s of library l is zero-inflated negative binomial with

    .. math:: \log \lambda_{sg} = \log d_s + a_s + m_g + b_{lg} + \sum_k (K_k z_k)_s v_{kg},
              \qquad z_{jk} \sim N(0, 1), \quad v_{kg} \sim N(0, \tau_k^2),

    where d is the depth and :math:`K_k` a Gaussian kernel of a given width, from centres *j* to spots. Factors and loadings
    have a posterior of their own (mean and standard deviation of each); :math:`\tau_k` is learned, so a factor that does
    not pay vanishes (automatic relevance determination). The fit maximises the variational lower bound by Newton steps for
    genes and spots in turn. It starts from singular vectors and draws nothing.
    """

    about: ClassVar[About] = COMPLETERS["factor"]
    n_iterations: int = parameter(FactorParams.n_iterations, least=1, whole=True)

    @limited_threads(1)
    def complete(self, sections: Sections, compute: Compute) -> Estimate:
        """Fit the count model, and complete."""
        self.check(sections)
        params = FactorParams(n_iterations=self.n_iterations)
        with compute.bar(n_steps(params, sections.values.shape[1]), "factor") as bar:
            fitted = fit_factor(sections, params, compute, on_step=bar.update)
        values = sd = None
        if compute.write & {"completed", "sd"}:
            values, sd = fitted.given_detection(sections.count_scale(), n_threads=compute.n_threads)
        rate = log_rate_sd = None
        if compute.write & OF_RATES:
            rate = fitted.posterior_rate()
        if "denoised_sd" in compute.write:
            log_rate_sd = np.sqrt(sum(fitted.log_variances()))
        return Estimate(values, rate, sd, log_rate_sd=log_rate_sd, interrupted=fitted.rates.interrupted)


def fit_factor(
    sections: Sections,
    params: FactorParams,
    compute: Compute,
    *,
    identity: dict[str, Any] | None = None,
    keep_interrupted: bool = True,
    on_step: Callable[[], object] = lambda: None,
) -> FactorFit:
    """Fit the count model to sections with counts; the arguments are those of `fit_rates`."""
    device = resolve_device(compute.device, alone=True)
    rates = fit_rates(
        sections,
        params,
        device=torch.device("cpu") if device.type == "mps" else device,  # which has no sparse matrices
        n_threads=compute.n_threads,
        checkpoint=compute.checkpoint,
        identity=identity,
        keep_interrupted=keep_interrupted,
        on_step=on_step,
    )
    return FactorFit(rates, sections.need_counts().values, sections.silent)
