"""Audit of a completer, gene by gene: what it makes of one half of the molecules, beside the other half."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from scipy.stats import norm

from spared_sc._kernels.at_depth import size_by_moments
from spared_sc._kernels.lowrank import gene_means, members
from spared_sc._kernels.metrics import ratio
from spared_sc._kernels.sections import CompletionFunction, Sections
from spared_sc._kernels.shrinkage import evidence_on_values, fit_weights, gains, improvements, sd_of_sums, share_counts
from spared_sc._kernels.truncated import truncated_moments
from spared_sc._kernels.verdicts import COMPLETE, DENOISE, UNDECIDED, decide

NOT_AUDITED = "not audited"
_Z_95 = float(norm.ppf(0.975))
_LEAST_RATE = 1e-6  # of the share, for the logarithm


@dataclass(frozen=True)
class Evidence:
    """What splits of the molecules say of each gene; sums over the splits, (n_genes,)."""

    information: np.ndarray  # on the weight of the gene's pattern
    weighted: np.ndarray  # this, times the likeliest weight
    deviance: np.ndarray  # of the counts expected from depth and share; NaN for a method without rates
    explained: np.ndarray  # what the rates take from it
    explained_variance: np.ndarray
    n_entries: np.ndarray  # that the other half detected
    error: np.ndarray  # squared, of the better average
    removed: np.ndarray  # what the filled values take from it
    removed_variance: np.ndarray

    def __add__(self, other: Evidence) -> Evidence:
        return Evidence(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})


@dataclass(frozen=True)
class Interval:
    """Estimates and their 95 % intervals: (n_genes,), or () of all genes together."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def __str__(self) -> str:
        return f"{self.value.item():.1%} ({self.low.item():.1%} to {self.high.item():.1%})"


@dataclass(frozen=True)
class Audit:
    """Verdict and numbers of every gene, and of all genes together."""

    verdict: np.ndarray  # (n_genes,) strings
    skill: Interval  # (n_genes,) share of the deviance beyond depth and share that the rates explain
    gain: Interval  # (n_genes,) share of the squared error of averages that the filled values remove
    pooled_skill: Interval
    pooled_gain: Interval

    @property
    def harm(self) -> bool:
        """Whether nothing is gained: no gene has evidence, or all genes together have none."""
        gained = self.pooled_skill.low > 0 or self.pooled_gain.low > 0
        return not gained or self.count(UNDECIDED) == self.verdict.size

    def count(self, verdict: str) -> int:
        """Number of genes with a verdict."""
        return int((self.verdict == verdict).sum())

    def summary(self, method: str) -> str:
        """The result in three sentences."""
        kinds = ", ".join(f"{self.count(kind)} {kind}" for kind in (COMPLETE, DENOISE, UNDECIDED))
        rates = f"Its expected counts explain {self.pooled_skill} of the deviance that depth and the gene's share leave"
        if np.isnan(self.pooled_skill.value):
            rates = "It gives no expected counts"
        nothing = f"Nothing is gained with {method!r} over all genes. " if self.harm else ""
        return (
            f"{nothing}{method!r} on {self.verdict.size} genes: {kinds}. {rates}. Its filled values remove "
            f"{self.pooled_gain} of the squared error of averages."
        )


def evidence_of(
    sections: Sections, method: CompletionFunction, rng: np.random.Generator, *, n_threads: int = 1
) -> Evidence:
    """Complete one half of the molecules, and compare with the other half. The sections need counts."""
    half, other = sections.halves(rng)
    estimate = method(half)
    counts, depth = other.need_counts().values, other.need_counts().depth
    spots = np.flatnonzero(~sections.silent & (depth > 0))
    library = np.unique(sections.library[spots], return_inverse=True)[1]
    # The halves of a spot are not equally large.
    relative = np.maximum(depth / half.whole_depth(), 1e-9).astype(np.float32)[:, None]
    share, scale = share_counts(half), half.count_scale()
    size = size_by_moments(counts, share * relative)
    here, _ = truncated_moments(share, size, scale, n_threads=n_threads)
    at_depth, _ = truncated_moments(share * relative, size, scale / relative, n_threads=n_threads)
    shift = at_depth - here
    filled, mean = estimate.need_values() + shift, gene_means(half.values, half.known) + shift
    share, counts, filled, at_depth = (x[spots] for x in (share * relative, counts, filled, at_depth))
    n_entries, error, removed, removed_variance = improvements(
        other.values[spots], filled, (mean[spots], at_depth), other.known[spots]
    )
    if estimate.rate is None:
        pattern = (filled - at_depth) * np.log(2)
        weighted, information = _score(counts, share, pattern, ~half.known[spots], library)
        deviance, explained, explained_variance = np.full((3, counts.shape[1]), np.nan)
    else:
        rate = (estimate.rate * relative)[spots]
        weight, information = fit_weights(counts, np.maximum(rate, _LEAST_RATE * share), share, library)
        weighted = information * weight
        deviance, explained, explained_variance = gains(counts, rate, share)
    return Evidence(
        information=information,
        weighted=weighted,
        deviance=deviance,
        explained=explained,
        explained_variance=explained_variance,
        n_entries=n_entries,
        error=error,
        removed=removed,
        removed_variance=removed_variance,
    )


def conclude(evidence: Evidence, n_splits: int) -> Audit:
    """Verdicts and intervals from the evidence of several splits."""
    sd = sd_of_sums(n_splits)
    pattern = ratio(evidence.weighted, sd * np.sqrt(evidence.information))
    given_detection = evidence_on_values(evidence.n_entries, evidence.removed, evidence.removed_variance, n_splits)
    of_rates = evidence.explained, evidence.explained_variance, evidence.deviance
    of_values = evidence.removed, evidence.removed_variance, evidence.error
    skill, gain = _interval(*of_rates, sd), _interval(*of_values, sd)
    verdict = decide(given_detection, pattern)
    # A pattern is not enough for rates that are nobody's, or worse than those without it.
    verdict[(verdict == DENOISE) & ~(skill.value > 0)] = UNDECIDED
    pooled_skill, pooled_gain = (
        _interval(taken.sum(), variance.sum(), total.sum(), sd) for taken, variance, total in (of_rates, of_values)
    )
    return Audit(verdict, skill, gain, pooled_skill, pooled_gain)


def _interval(taken: np.ndarray, variance: np.ndarray, total: np.ndarray, sd: float) -> Interval:
    """Share of a total that is taken from it."""
    value, margin = ratio(taken, total), _Z_95 * sd * ratio(np.sqrt(variance), total)
    return Interval(value, value - margin, value + margin)


def _score(
    counts: np.ndarray, share: np.ndarray, pattern: np.ndarray, where: np.ndarray, library: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Score of the pattern's weight at zero, (n_genes,), and its variance: whether counts rise with it at all.

    Of the entries `where`; the sums of the libraries over these are as counted.
    """
    of_library, found = members(library), np.where(where, counts, 0).astype(np.float64)
    expected = np.where(where, share, 0).astype(np.float64)
    totals = of_library @ expected
    mean = ratio(of_library @ (expected * pattern), totals, default=0.0)
    expected *= ratio(of_library @ found, totals, default=0.0)[library]
    slope = (found - expected) * (pattern - mean[library])
    variance = np.maximum((expected * (pattern - mean[library]) ** 2).sum(axis=0), (slope**2).sum(axis=0))
    return slope.sum(axis=0), variance
