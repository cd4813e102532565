"""A count model of sections: genes load on factors that vary smoothly, or not, over the tissue."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import scipy.sparse as sps
import torch
from scipy.special import expit

from spared_sc._core.report import warn
from spared_sc._kernels.threads import limited_threads
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._models.completion.base import About, Completer, Compute, Estimate, Sections, parameter
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc._models.training import local_seed, resolve_device

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice

_LIMITS = -12.0, 12.0  # of the logarithm of an expected count
_CHUNK = 1 << 22  # entries whose likelihood is computed at once
_CHECK_EVERY = 50  # steps
_WARM_UP = 0.2  # share of the steps


@dataclass(frozen=True)
class FactorParams:
    """Hyper-parameters; none depends on the data set."""

    bands: tuple[float, ...] = (0.0, 0.7, 1.5, 4.0)  # widths in hops of the factors' smoothness; 0: not smooth
    ranks: tuple[int, ...] = (16, 8, 8, 8)  # factors of each width; those that do not pay shrink to nothing
    spot_precision: float = 30.0  # of the prior of a spot's departure from its depth
    library_precision: float = 100.0  # of the prior of a gene's departure in a library
    lost_precision: float = 10.0  # of the prior of a gene's share of lost detections around that of all genes
    n_steps: int = 400
    learning_rate: float = 0.08


@dataclass(frozen=True)
class FactorFit:
    """What the counts say."""

    log_rate: np.ndarray  # (n_spots, n_genes) float32, logarithm of the expected count
    size: np.ndarray  # (n_genes,) dispersion: variance = rate + rate^2 / size
    lost: np.ndarray  # (n_genes,) share of detections that were lost beyond what the counts explain

    def posterior_rate(self, counts: np.ndarray) -> np.ndarray:
        """Expected count of every entry, its own count taken into account (gamma-Poisson posterior mean).

        A spot without any count was not measured, rather than measured as empty.
        """
        rate = np.exp(self.log_rate)
        informed = rate * (self.size + counts) / (self.size + rate)
        zero = np.exp(self.size * -np.log1p(rate / self.size))
        said_nothing = self.lost / (self.lost + (1 - self.lost) * zero)  # a zero may be a lost detection
        said_nothing = np.where(counts.any(axis=1, keepdims=True), said_nothing, 1)
        return np.where(counts > 0, informed, said_nothing * rate + (1 - said_nothing) * informed).astype(np.float32)

    def given_detection(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of log2(1 + count x scale), given a count above zero."""
        return truncated_moments(np.exp(self.log_rate), self.size, scale)


@dataclass(kw_only=True, eq=False)
class Factor(Completer):
    r"""Count model: genes load on factors that vary smoothly over the tissue, or not.

    Parameters
    ----------
    n_steps
        Steps of stochastic variational inference.
    learning_rate
        Of Adam, at its highest.

    Notes
    -----
    The count of gene g in spot s of library l is zero-inflated negative binomial with

    .. math:: \log \lambda_{sg} = \log d_s + a_s + m_g + b_{lg} + \sum_k (K_k z_k)_s v_{kg},
              \qquad z_{sk} \sim N(0, 1), \quad v_{kg} \sim N(0, \tau_k^2),

    where d is the depth and :math:`K_k` smooths over the lattice with a Gaussian of a given width. The factors z have a
    posterior of their own (mean and standard deviation for each spot and factor); :math:`\tau_k` is learned, so a
    factor that does not pay vanishes (automatic relevance determination).
    """

    about: ClassVar[About] = COMPLETERS["factor"]
    n_steps: int = parameter(FactorParams.n_steps, least=1, whole=True)
    learning_rate: float = parameter(FactorParams.learning_rate, least=1e-8, most=1)

    @limited_threads(1)
    def complete(self, sections: Sections, compute: Compute) -> Estimate:
        """Fit the count model, and complete."""
        self.check(sections)
        params = FactorParams(n_steps=self.n_steps, learning_rate=self.learning_rate)
        device = resolve_device(compute.device)
        with compute.bar(params.n_steps, "factor") as bar:
            fitted = fit_factor(sections, params, device=device, seed=compute.seed, on_step=bar.update)
        values, sd = fitted.given_detection(sections.count_scale())
        return Estimate(values, fitted.posterior_rate(sections.need_counts().values), sd)


def fit_factor(
    sections: Sections,
    params: FactorParams,
    *,
    device: torch.device,
    seed: int,
    on_step: Callable[[], object] = lambda: None,
) -> FactorFit:
    """Fit the count model to sections with counts by stochastic variational inference; `on_step` shows progress."""
    with local_seed(seed, device):
        model = _Model(sections, params, device)
        optimizer = torch.optim.Adam(model.parameters, lr=params.learning_rate)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate_at(step / params.n_steps))
        best = None
        for step in range(1, params.n_steps + 1):
            loss = model.loss()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            on_step()
            if step % _CHECK_EVERY and step != params.n_steps:
                continue
            if not all(torch.isfinite(parameter).all() for parameter in model.parameters):
                if best is None:
                    raise FloatingPointError(
                        "the count model diverged in its first steps: check that the counts hold no extreme values."
                    )
                warn(f"the count model diverged before step {step}: its state at step {best[0]} is used.")
                model.restore(best[1])
                break
            best = step, [parameter.detach().clone() for parameter in model.parameters]
        return model.result()


def _rate_at(progress: float) -> float:
    """Share of the learning rate: up to it in the first fifth of the steps, then down along a cosine."""
    if progress < _WARM_UP:
        return 0.04 + 0.96 * progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((progress - _WARM_UP) / (1 - _WARM_UP), 1)))


class _Model:
    def __init__(self, sections: Sections, params: FactorParams, device: torch.device):
        self.params = params
        counts = torch.as_tensor(sections.need_counts().values, dtype=torch.float32)
        n, n_genes = counts.shape
        depth = np.maximum(sections.whole_depth(), 1)
        # Silent spots get their factors from around them alone.
        self.speaking = (
            None if not sections.silent.any() else torch.as_tensor(np.flatnonzero(~sections.silent)).to(device)
        )
        log_depth = torch.as_tensor(np.log(depth / np.median(depth)), dtype=torch.float32)
        share = counts.sum(0) / log_depth.exp().sum()
        self.counts, self.log_depth = counts.to(device), log_depth.to(device)
        library = torch.as_tensor(sections.library, device=device)
        self.library = torch.nn.functional.one_hot(library, sections.n_libraries).float()
        self.smooth = [_Smooth.of(sections.lattice, band, device) for band in params.bands]
        rank = sum(params.ranks)

        self.parameters: list[torch.Tensor] = []

        def parameter(values: torch.Tensor) -> torch.Tensor:
            self.parameters.append(values.to(device).requires_grad_())
            return self.parameters[-1]

        self.gene = parameter(torch.log(share + 1e-4))
        self.library_gene = parameter(torch.zeros(sections.n_libraries, n_genes))
        self.spot = parameter(torch.zeros(n))
        self.mean = parameter(torch.randn(n, rank))
        self.log_sd = parameter(torch.full((n, rank), np.log(0.5)))
        self.loadings = parameter(0.1 * torch.randn(n_genes, rank))
        self.log_relevance = parameter(torch.full((rank,), np.log(0.3)))
        self.log_size = parameter(torch.full((n_genes,), 2.0))
        self.logit_lost = parameter(torch.full((n_genes,), -2.0))

    def log_rate(self, factors: torch.Tensor) -> torch.Tensor:
        smoothed = [
            part if smooth is None else _Smooth.apply(part, *smooth)
            for part, smooth in zip(factors.split(self.params.ranks, dim=1), self.smooth, strict=True)
        ]
        left = torch.cat([*smoothed, self.library, (self.log_depth + self.spot)[:, None]], dim=1)
        ones = torch.ones_like(self.gene)[:, None]
        right = torch.cat([self.loadings, (self.library_gene + self.gene).T, ones], dim=1)
        return left @ right.T

    def loss(self) -> torch.Tensor:
        factors = self.mean + torch.exp(self.log_sd) * torch.randn_like(self.mean)
        log_rate, counts = self.log_rate(factors), self.counts
        if self.speaking is not None:
            log_rate, counts = log_rate[self.speaking], counts[self.speaking]
        likelihood = _Likelihood.apply(log_rate, counts, torch.exp(self.log_size), torch.sigmoid(self.logit_lost))
        divergence = 0.5 * (self.mean**2 + torch.exp(2 * self.log_sd) - 1).sum() - self.log_sd.sum()
        relevance = (0.5 * self.loadings**2 / torch.exp(2 * self.log_relevance) + self.log_relevance).sum()
        priors = (
            self.params.spot_precision * (self.spot**2).sum()
            + self.params.library_precision * (self.library_gene**2).sum()
            + self.params.lost_precision * ((self.logit_lost - self.logit_lost.mean()) ** 2).sum()
            + (self.log_relevance**2).sum()
        )
        return (divergence + relevance + 0.5 * priors - likelihood) / len(self.counts)

    def restore(self, values: list[torch.Tensor]) -> None:
        with torch.no_grad():
            for parameter, value in zip(self.parameters, values, strict=True):
                parameter.copy_(value)

    def result(self) -> FactorFit:
        with torch.no_grad():
            log_rate = self.log_rate(self.mean).clamp(*_LIMITS).cpu().numpy()
            size = torch.exp(self.log_size).double().cpu().numpy()
            return FactorFit(log_rate, size, expit(self.logit_lost.double().cpu().numpy()))


class _Smooth(torch.autograd.Function):
    """Product with a sparse matrix, whose transpose is kept for the way back."""

    @staticmethod
    def of(lattice: Lattice, band: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Gaussian weights over hops, and their transpose; rows of unit norm keep the variance of what they smooth."""
        if band == 0:
            return None
        indptr, indices, hops = lattice.hops(int(min(np.ceil(3 * band), 8)))
        weights = np.exp(-(hops**2) / (2 * band**2)).astype(np.float32)
        matrix = sps.csr_matrix((weights, indices, indptr), shape=(lattice.n_spots,) * 2)
        matrix += sps.identity(lattice.n_spots, dtype=np.float32, format="csr")
        norm = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix = sps.csr_matrix(sps.diags(1 / norm) @ matrix, dtype=np.float32)
        return _sparse(matrix, device), _sparse(matrix.T, device)

    @staticmethod
    def forward(ctx, values, matrix, transposed):
        ctx.transposed = transposed
        return torch.sparse.mm(matrix, values)

    @staticmethod
    def backward(ctx, gradient):
        return torch.sparse.mm(ctx.transposed, gradient), None, None


def _sparse(matrix: sps.spmatrix, device: torch.device) -> torch.Tensor:
    rows = matrix.tocsr()
    indptr, indices = torch.as_tensor(rows.indptr.astype(np.int64)), torch.as_tensor(rows.indices.astype(np.int64))
    with warnings.catch_warnings():
        # Torch calls its compressed rows a beta; their product with a dense matrix is six times faster than the other.
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        return torch.sparse_csr_tensor(indptr, indices, torch.as_tensor(rows.data), size=rows.shape, device=device)


class _Likelihood(torch.autograd.Function):
    """Log-likelihood of zero-inflated negative binomial counts, up to a constant, with its gradient in closed form."""

    @staticmethod
    def forward(ctx, log_rate, counts, size, lost):
        total = torch.zeros((), dtype=torch.float64, device=log_rate.device)
        by_rate, by_size, by_lost = torch.empty_like(log_rate), torch.zeros_like(size), torch.zeros_like(lost)
        rows = max(_CHUNK // log_rate.shape[1], 1)
        log_size, digamma_size = torch.log(size), torch.digamma(size)
        for out, eta, c in zip(by_rate.split(rows), log_rate.split(rows), counts.split(rows), strict=True):
            none = (c == 0).float()
            n_none = none.sum(0)
            rate = torch.exp(eta.clamp(*_LIMITS))
            inverse = 1 / (rate + size)
            log_ratio = torch.log(size * inverse)
            zero = torch.exp(size * log_ratio)  # chance of no count
            seen_zero = lost + (1 - lost) * zero
            honest = (1 - lost) * zero / seen_zero  # chance that a zero is none that was lost
            weight = 1 + none * (honest - 1)
            torch.mul(weight * size, (c - rate) * inverse, out=out)
            # digamma(c + size) - digamma(size) is zero where there is no count
            by_size += (weight * (log_ratio + 1 - (c + size) * inverse) + torch.digamma(c + size) - digamma_size).sum(0)
            by_lost += (none * (1 - zero) / seen_zero).sum(0) - (len(c) - n_none) / (1 - lost)
            total += ((1 - none) * size * log_ratio + c * (eta - log_size + log_ratio)).sum()
            total += (none * torch.log(seen_zero)).sum() + ((len(c) - n_none) * torch.log1p(-lost)).sum()
        ctx.save_for_backward(by_rate, by_size, by_lost)
        return total.float()

    @staticmethod
    def backward(ctx, gradient):
        by_rate, by_size, by_lost = ctx.saved_tensors
        return gradient * by_rate, None, gradient * by_size, gradient * by_lost
