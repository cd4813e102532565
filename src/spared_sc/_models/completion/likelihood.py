"""Likelihood of zero-inflated negative binomial counts, and its derivatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch


def likelihood(
    log_rate: torch.Tensor,
    counts: torch.Tensor,
    size: torch.Tensor,
    lost: torch.Tensor,
    half_variance: torch.Tensor,
    speaks: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Zero-inflated negative binomial counts: what of their log-likelihood depends on the rate, and its derivatives.

    Returns the sum over entries of the mean log-likelihood, given that `log_rate` contains half of its variance and with
    Fisher weights for the curvature; slope
    and negative curvature by the logarithm of the rate; and (3, n_genes) sums over spots: first and second derivative
    by the size, and the number of zeros that were lost.
    """
    none = counts == 0
    rate = log_rate.exp()
    inverse = 1 / (rate + size)
    ratio = size * inverse
    log_ratio = ratio.log()
    honest = (size * log_ratio).exp_().mul_(1 - lost)
    zero = honest + lost
    value = torch.where(none, zero.log(), log_ratio * size - counts * torch.log1p(size / rate))
    honest = torch.where(none, honest / zero, 1.0)  # chance that a zero is none that was lost
    if speaks is not None:
        honest, value = honest * speaks, value * speaks
    weight = honest * ratio
    value -= half_variance * weight * counts
    excess = (counts + size) * inverse
    sums = torch.stack(
        [
            (honest * (log_ratio + 1 - excess)).sum(dim=0),
            (honest * ((excess - 2) * inverse + 1 / size)).sum(dim=0),
            (none * (1 - honest) if speaks is None else none * (1 - honest) * speaks).sum(dim=0),
        ]
    )
    return value.sum(), weight * (counts - rate), weight * rate, sums


@dataclass(frozen=True)
class Tally:
    """How often each gene has each count above zero: what the likelihood says of the size depends on that alone."""

    gene: torch.Tensor
    count: torch.Tensor
    times: torch.Tensor
    n_detected: torch.Tensor  # (n_genes,)

    @classmethod
    def of(cls, counts: np.ndarray) -> Tally:
        # Spots with the same count of the same gene, counted.
        genes, spots = np.nonzero(counts.T)
        found = counts[spots, genes].astype(np.float64)
        order = np.lexsort((found, genes))
        genes, found = genes[order], found[order]
        other = (genes[1:] != genes[:-1]) | (found[1:] != found[:-1])
        first = np.flatnonzero(np.r_[True, other][: genes.size])
        times = np.diff(np.r_[first, genes.size]).astype(np.float64)
        n_detected = (counts > 0).sum(axis=0).astype(np.float64)
        return cls(*(torch.from_numpy(x) for x in (genes[first], found[first], times, n_detected)))

    def log_likelihood(self, size: torch.Tensor, lost: torch.Tensor) -> float:
        """The part that depends on size and lost detections, but on no rate."""
        of_size = torch.lgamma(self.count + size[self.gene]) - torch.lgamma(size[self.gene])
        return float((self.times * of_size).sum() + (self.n_detected * torch.log1p(-lost)).sum())

    def by_size(self, size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second derivative of that by the size, (n_genes,)."""
        whole, part = self.count + size[self.gene], size[self.gene]
        first = self.times * (torch.digamma(whole) - torch.digamma(part))
        second = self.times * (torch.polygamma(1, whole) - torch.polygamma(1, part))
        zero = torch.zeros_like(size)
        return zero.index_add(0, self.gene, first), zero.index_add(0, self.gene, second)
