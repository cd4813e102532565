"""Shrinkage of expected counts toward each gene's share, as far as held-out molecules support its pattern."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import nnls

from spared_sc._kernels.lowrank import members
from spared_sc._kernels.metrics import poisson_deviance, ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from spared_sc._kernels.sections import Sections

_ENTRIES = 1 << 20  # that are computed at once
_NEWTON_STEPS, _LARGEST_STEP, _WEIGHTS = 8, 0.5, (-1.0, 3.0)
_LEAST_ENTRIES = 10  # detected, of a gene, for evidence on values given detection
_UNSURE = 3.0  # standard error of a weight that says nothing
_LEAST_EVIDENCE = 2.0  # standard errors of the weight of all genes together, or else everything is flat
_VARIANCES, _VARIANCES_SD = (2.0, 0.3), 0.4  # prior of the factors of the two parts of the variance


@dataclass(frozen=True)
class Split:
    """What a part of the molecules says of the others; arrays are (n_spots, n_genes) unless said otherwise."""

    counts: np.ndarray  # of the others
    rate: np.ndarray  # their expected counts
    share: np.ndarray  # the same from depth and the gene's share in the library alone
    variances: tuple[np.ndarray, ...]  # two parts of the variance of the logarithm of the rate
    values: np.ndarray  # the counts in the unit of the layer
    filled: np.ndarray  # what is expected of these, given detection
    at_depth: np.ndarray  # the same from depth and share alone
    mean: np.ndarray  # (n_genes,) the same from the gene alone
    depth: np.ndarray  # (n_spots,) number of the other molecules
    library: np.ndarray  # (n_spots,)


@dataclass(frozen=True)
class Shrinkage:
    """What is learned of each gene, (n_genes,), and of all of them together."""

    weight: np.ndarray  # of the gene's pattern, 0 (flat) to 1
    skill: np.ndarray  # deviance explained beyond depth and share, before shrinkage
    skill_se: np.ndarray
    pattern: np.ndarray  # evidence for one, in standard errors; standard normal where there is none
    given_detection: np.ndarray  # evidence that values given detection beat averages; NaN with few entries
    variances: np.ndarray  # (2,) factors of the two parts of the variance of the logarithm of the rate

    def __post_init__(self) -> None:
        shapes = {x.shape for x in (self.weight, self.skill, self.skill_se, self.pattern, self.given_detection)}
        if len(shapes) != 1 or self.variances.shape != (2,):
            raise ValueError("there is not one weight for each gene.")


def share_counts(sections: Sections) -> np.ndarray:
    """Counts expected from depth and the gene's share in the library alone, (n_spots, n_genes) float32.

    A library's share has one count at the share in all libraries as its prior.
    """
    counts, depth = sections.need_counts().values, np.maximum(sections.whole_depth(), 1)
    overall = (counts.sum(axis=0, dtype=np.float64) + 0.5) / depth.sum()
    result = np.empty_like(counts)
    for code in range(sections.n_libraries):
        here = sections.library == code
        of_library = counts[here].sum(axis=0, dtype=np.float64)
        share = (of_library + 1) / (depth[here].sum() + 1 / overall)
        result[here] = depth[here, None] * share
    return result


def shrunk(rate: np.ndarray, share: np.ndarray, weight: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Rates with the logarithm of their deviation from the share multiplied by the gene's weight, float32.

    The sum over the spots of a library stays.
    """
    result = np.empty_like(rate)
    for genes in _blocks(rate):
        block = share[:, genes] * np.exp(weight[genes] * np.log(rate[:, genes] / share[:, genes]), dtype=np.float32)
        result[:, genes] = restored(block, rate[:, genes], library)
    return result


def learn(splits: Iterable[Split]) -> Shrinkage:
    """Weights by empirical Bayes, skill and evidence, and the variance that the errors of the rates show.

    Every split has one half of the molecules held out, drawn again for each. A weight maximises the likelihood of the
    held-out counts; over the genes, weights are normal with a mean and a variance that are learned.
    """
    sums: np.ndarray | float = 0.0
    normal, right, n_splits = np.zeros((2, 2)), np.zeros(2), 0
    for split in splits:
        weight, information = fit_weights(split.counts, split.rate, split.share, split.library)
        of_rates = gains(split.counts, split.rate, split.share)
        n, _, *of_values = improvements(split.values, split.filled, (split.mean, split.at_depth), split.counts > 0)
        sums = sums + np.stack([information, information * weight, *of_rates, n, *of_values])
        used = posterior_weights(weight, 1 / np.sqrt(information))
        of_normal, of_right = _variance_equations(split, used)
        normal, right, n_splits = normal + of_normal, right + of_right, n_splits + 1
    information, weighted, total, gain, gain_variance, n, nearer, nearer_variance = np.asarray(sums)
    scale = sd_of_sums(n_splits)
    weight, se = weighted / information, scale / np.sqrt(information)
    # To second order, the gain of all genes at their common weight.
    supported = weighted.sum() > _LEAST_EVIDENCE * scale * np.sqrt(information.sum())
    return Shrinkage(
        weight=posterior_weights(weight, se) if supported else np.zeros_like(weight),
        skill=ratio(gain, total, default=0.0),
        skill_se=ratio(scale * np.sqrt(gain_variance), total, default=np.inf),
        pattern=weight / se,
        given_detection=evidence_on_values(n, nearer, nearer_variance, n_splits),
        variances=_solve_variances(normal / n_splits, right / n_splits),
    )


def sd_of_sums(n_splits: int) -> float:
    """Standard deviation of a sum over splits, in terms of that of as many independent ones.

    The molecules are the same in every split: averages of n of them have 1/2 + 1/2n of the variance of one.
    """
    return float(np.sqrt((n_splits + 1) / 2))


def evidence_on_values(n: np.ndarray, nearer: np.ndarray, variance: np.ndarray, n_splits: int) -> np.ndarray:
    """Sums of `improvements` over splits in standard errors, (n_genes,); NaN for a gene with few detected entries."""
    enough = n >= _LEAST_ENTRIES * n_splits
    return np.where(enough, ratio(nearer, sd_of_sums(n_splits) * np.sqrt(variance)), np.nan)


def _blocks(block: np.ndarray) -> list[slice]:
    n_genes = block.shape[1]
    size = max(_ENTRIES // len(block), 1)
    return [slice(start, start + size) for start in range(0, n_genes, size)]


def restored(block: np.ndarray, target: np.ndarray, library: np.ndarray) -> np.ndarray:
    """The block with the target's sums over the spots of each library."""
    of_library = members(library)
    factor = ratio(of_library @ target.astype(np.float64), of_library @ block.astype(np.float64), default=1.0)
    return block * factor[library].astype(np.float32)


def fit_weights(
    counts: np.ndarray, rate: np.ndarray, share: np.ndarray, library: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The likeliest weight of every gene's pattern for the held-out counts, and its Fisher information, (n_genes,)."""
    weight, information = np.empty((2, counts.shape[1]))
    of_library = members(library)
    for genes in _blocks(counts):
        of_rate, of_share, found = (x[:, genes].astype(np.float64) for x in (rate, share, counts))
        pattern, totals = np.log(of_rate / of_share), of_library @ of_rate
        here = np.ones(pattern.shape[1])
        for _ in range(_NEWTON_STEPS):
            expected = of_share * np.exp(here * pattern)
            expected *= ratio(totals, of_library @ expected, default=1.0)[library]
            # The sums of the libraries stay, whatever the weight.
            mean = ratio(of_library @ (expected * pattern), of_library @ expected, default=0.0)
            centred = pattern - mean[library]
            slope, curvature = ((found - expected) * centred).sum(axis=0), (expected * centred**2).sum(axis=0)
            step = np.clip(ratio(slope, curvature, default=0.0), -_LARGEST_STEP, _LARGEST_STEP)
            here = np.clip(here + step, *_WEIGHTS)
        weight[genes], information[genes] = here, np.maximum(curvature, 1e-12)
    return weight, information


def posterior_weights(weight: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Posterior means of the weights, between 0 and 1; mean and variance of the prior by moments (DerSimonian, Laird)."""
    sure = se < _UNSURE
    if not sure.any():
        return np.zeros_like(weight)
    precision = 1 / se[sure] ** 2
    mean = np.average(weight[sure], weights=precision)
    excess = (precision * (weight[sure] - mean) ** 2).sum() - (sure.sum() - 1)
    free = precision.sum() - (precision**2).sum() / precision.sum()
    variance = max(excess / free, 0.0) if free > 0 else 0.0
    mean = np.average(weight[sure], weights=1 / (se[sure] ** 2 + variance))
    pull = se**2 / (se**2 + variance) if variance > 0 else np.ones_like(se)
    return np.clip(np.where(sure, weight + pull * (mean - weight), mean), 0, 1)


def gains(counts: np.ndarray, rate: np.ndarray, share: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Deviance of the share, what the rates take from it, and the sampling variance of that, (n_genes,) each."""
    total, gain, variance = np.empty((3, counts.shape[1]))
    for genes in _blocks(counts):
        of_share = poisson_deviance(counts[:, genes], share[:, genes])
        difference = of_share - poisson_deviance(counts[:, genes], rate[:, genes])
        total[genes], gain[genes] = of_share.sum(axis=0), difference.sum(axis=0)
        variance[genes] = len(difference) * difference.var(axis=0)
    return total, gain, variance


def improvements(
    values: np.ndarray, filled: np.ndarray, averages: Sequence[np.ndarray], where: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Number of entries, squared error of averages, that less the error of the filled values, and its variance.

    (n_genes,) each. The average is the one of several that is nearest to the values.
    """
    n = where.sum(axis=0)
    squares = np.stack([(values - average) ** 2 for average in averages])
    best = squares.sum(axis=1, where=where, dtype=np.float64).argmin(axis=0)
    of_best = np.take_along_axis(squares, best[None, None], axis=0)[0]
    difference = np.where(where, of_best - (values - filled) ** 2, 0).astype(np.float64)
    total = difference.sum(axis=0)
    mean = total / np.maximum(n, 1)
    variance = np.where(where, (difference - mean) ** 2, 0).sum(axis=0)
    return n, of_best.sum(axis=0, where=where, dtype=np.float64), total, variance


def _variance_equations(split: Split, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations of the factors of the two parts of the variance.

    The squared error on held-out counts, less the variance of multinomial counts of that depth, is that of the rate.
    """
    normal, right = np.zeros((2, 2)), np.zeros(2)
    for genes in _blocks(split.counts):
        rate = shrunk(split.rate[:, genes], split.share[:, genes], weight[genes], split.library).astype(np.float64)
        counts = split.counts[:, genes].astype(np.float64)
        parts = [(rate**2 * variance[:, genes]).ravel() for variance in split.variances]
        precision = (1 / (rate + 2 * rate**2 + 0.4 * rate**3)).ravel()
        excess = ((counts - rate) ** 2 - counts + rate**2 / split.depth[:, None]).ravel()
        weighted = np.stack([precision * part for part in parts])
        normal += weighted @ np.stack(parts, axis=1)
        right += weighted @ excess
    return normal, right


def _solve_variances(normal: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Posterior mode of the two factors under their prior; none is below zero."""
    prior = np.eye(2) / _VARIANCES_SD**2
    root = np.linalg.cholesky(normal + prior)
    return nnls(root.T, np.linalg.solve(root, right + prior @ _VARIANCES))[0]
