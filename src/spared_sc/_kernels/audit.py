"""Audit of a completer, gene by gene: errors on hidden entries, and agreement of two halves of the molecules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._kernels.floor import noise_variances
from spared_sc._kernels.lowrank import members
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.metrics import WIDTH_90, poisson_deviance, ratio
from spared_sc._kernels.truncated import truncated_moments

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import scipy.sparse as sps

    from spared_sc._kernels.sections import CompletionFunction, Estimate, Sections

COMPLETE, AS_IS, DROP, NOT_AUDITED = "complete", "use as is", "drop", "not audited"
REFERENCES = ("depth_only", "additive", "gene_mean")  # simple completers that the method is compared with
_LEAST_SKILL = 0.05  # of all genes together; less may come from better averages alone
_HIDDEN_SHARE = 0.3  # of the detected entries
_LEAST_HIDDEN = 30  # entries of a gene, over all masks, for a verdict
_LEAST_MISSING = 0.01  # share of undetected spots below which there is nothing to complete
_LEAST_AGREEMENT = 2.33  # standard errors of the correlation of the halves, which chance exceeds once in a hundred
_FALSE_DISCOVERIES = 0.05
_N_BOOTSTRAP = 1000
_BLOCK_HOPS = 2


@dataclass(frozen=True)
class _Skill:
    """1 - error / error of the reference, with its 95 % interval; arrays are (n_genes,)."""

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    chance: np.ndarray  # share of the resamples in which the skill is not above zero


@dataclass(frozen=True)
class Audit:
    """Verdict and numbers of every gene, and the skill over all genes together."""

    verdict: np.ndarray  # (n_genes,) strings
    columns: dict[str, np.ndarray]  # (n_genes,) each
    skill: float
    skill_low: float
    skill_high: float
    coverage_90: float  # NaN for a method without standard deviations

    @property
    def negligible(self) -> bool:
        """Whether the skill of all genes together is above zero, and too small to matter."""
        return self.skill_low > 0 and self.skill < _LEAST_SKILL

    @property
    def harm(self) -> bool:
        """Whether the sections are better left alone."""
        return self.negligible or not self.skill_low > 0 or self.count(COMPLETE) == 0

    def count(self, verdict: str) -> int:
        """Number of genes with a verdict."""
        return int((self.verdict == verdict).sum())


def audit(
    sections: Sections,
    method: CompletionFunction,
    references: Mapping[str, CompletionFunction],
    *,
    n_masks: int,
    seed: int,
    on_fit: Callable[[], object],
) -> Audit:
    """Compare a completer with simple ones on hidden entries, and its expected counts with the other half of the molecules.

    Parameters
    ----------
    sections
        All that was measured, with counts.
    method
        The completer.
    references
        The completers `REFERENCES`.
    n_masks
        How often entries are hidden.
    seed
        Of masks, halves, blocks and resamples.
    on_fit
        Called whenever the method was run, `n_masks + 1` times.
    """
    blocks = members(divide_into_blocks(sections, np.random.default_rng([seed, 101])))
    errors = _Errors(sections, seed)
    for mask in range(n_masks):
        hidden = hide_detected(sections.known, _HIDDEN_SHARE, np.random.default_rng([seed, 104, 1 + mask]))
        errors.add(hidden, method, references)
        on_fit()
    halves = _compare_halves(sections, method, references["depth_only"], blocks, np.random.default_rng([seed, 105]))
    on_fit()
    return _judge(sections, errors, halves, blocks, np.random.default_rng([seed, 102]))


class _Errors:
    """Squared errors on hidden entries, added up over the masks, (n_spots, n_genes)."""

    def __init__(self, sections: Sections, seed: int) -> None:
        shape = sections.known.shape
        self.sections = sections
        self.n = np.zeros(shape)
        names = ("mse", *(f"mse_{name}" for name in REFERENCES), "mse_counts")
        self.squares = {name: np.zeros(shape) for name in names}
        self.noise = np.zeros(shape)
        self.covered: list[float] = []  # share of the hidden entries of every mask inside of the interval of 90 %
        self.variance = np.full(shape, np.nan)
        if sections.total is not None:
            self.variance = noise_variances(sections, np.random.default_rng([seed, 103]))[0]

    def add(self, hidden: np.ndarray, method: CompletionFunction, references: Mapping[str, CompletionFunction]) -> None:
        """Hide entries, complete the rest, and add the errors."""
        visible, truth = self.sections.without(hidden), self.sections.renormalised(hidden)
        estimate = method(visible)
        simple = {name: references[name](visible) for name in REFERENCES}
        filled = {"mse": estimate.values} | {f"mse_{name}": one.values for name, one in simple.items()}
        if self.sections.total is not None:
            filled["mse_counts"] = _values_at_depth(visible, simple)
        self.n += hidden
        for name, values in filled.items():
            self.squares[name] += np.where(hidden, (values - truth) ** 2, 0)
        self.noise += np.where(hidden, self.variance, 0)
        if estimate.sd is not None:
            inside = np.abs(estimate.values - truth) <= WIDTH_90 * estimate.sd
            self.covered.append(inside[hidden].mean())

    def sums(self, blocks: sps.csr_matrix) -> dict[str, np.ndarray]:
        """Sums over the spots of every block, (n_blocks, n_genes); depth alone is the better of its two estimates."""
        squares = dict(self.squares)
        counts = squares.pop("mse_counts")
        if self.sections.total is not None:
            better = counts.sum(axis=0) < squares["mse_depth_only"].sum(axis=0)
            squares["mse_depth_only"] = np.where(better, counts, squares["mse_depth_only"])
        squares["floor"] = self.noise
        return {name: blocks @ values for name, values in squares.items()}


def _values_at_depth(visible: Sections, simple: Mapping[str, Estimate]) -> np.ndarray:
    """Values given detection, expected from the depth and the library alone.

    Negative binomial, with a dispersion for every gene by moments, corrected for the share of the counts that is hidden.
    """
    counts = visible.need_counts().values.astype(float)
    rate, of_library, of_all = (_rate(simple[name]) for name in ("depth_only", "additive", "gene_mean"))
    rate *= ratio(of_library, of_all, default=1.0) / (1 - _HIDDEN_SHARE)
    squares = (rate**2).sum(axis=0)
    excess = (counts**2).sum(axis=0) / (1 - _HIDDEN_SHARE) - squares - rate.sum(axis=0)
    size = 1 / np.maximum(ratio(excess, squares, default=0.0), 1e-3)
    return truncated_moments(rate, size, visible.count_scale())[0]


def _rate(estimate: Estimate) -> np.ndarray:
    if estimate.rate is None:
        raise ValueError("this completer gives no expected counts")
    return estimate.rate.astype(float)


@dataclass(frozen=True)
class _Halves:
    """Deviance of the other half of the molecules by block, and agreement of the halves by gene."""

    method: np.ndarray | None  # (n_blocks, n_genes)
    depth_only: np.ndarray
    reliability: np.ndarray  # (n_genes,) correlation of the halves
    reliable: np.ndarray  # (n_genes,) whether it is more than chance


def _compare_halves(
    sections: Sections,
    method: CompletionFunction,
    depth_only: CompletionFunction,
    blocks: sps.csr_matrix,
    rng: np.random.Generator,
) -> _Halves:
    half, other = sections.thinned(rng)
    estimate, reference = method(half), depth_only(half)
    counts = half.need_counts()
    depth = np.maximum(counts.depth, 1)[:, None]
    other_depth = np.maximum(sections.need_counts().depth - counts.depth, 1)[:, None]
    # A half has about as many molecules as the other, but not exactly.
    scale = other_depth / depth
    first, second = (
        _within_libraries(np.sqrt(values / total * total.mean()), sections.library)
        for values, total in ((counts.values, depth), (other, other_depth))
    )
    spread = np.sqrt((first**2).sum(axis=0) * (second**2).sum(axis=0))
    correlation = ratio((first * second).sum(axis=0), spread, default=0.0)

    def deviance(rate: np.ndarray) -> np.ndarray:
        return blocks @ poisson_deviance(other, rate * scale)

    return _Halves(
        None if estimate.rate is None else deviance(estimate.rate),
        deviance(_rate(reference)),
        correlation,
        correlation * np.sqrt(len(first)) > _LEAST_AGREEMENT,
    )


def _judge(
    sections: Sections, errors: _Errors, halves: _Halves, blocks: sps.csr_matrix, rng: np.random.Generator
) -> Audit:
    n, squares = errors.n.sum(axis=0), errors.sums(blocks)
    columns = {name: ratio(values.sum(axis=0), n) for name, values in squares.items()}
    by_depth = columns["mse_depth_only"] <= columns["mse_additive"]
    reference = np.where(by_depth, squares["mse_depth_only"], squares["mse_additive"])
    # Over all genes together, the simple completer with the smaller error is the reference.
    over_genes = {name: values.sum(axis=1, keepdims=True) for name, values in squares.items()}
    best = min((over_genes["mse_depth_only"], over_genes["mse_additive"]), key=np.sum)
    n_blocks = blocks.shape[0]
    weights = rng.multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), _N_BOOTSTRAP)
    skill = _skill(squares["mse"], reference, weights)
    overall = _skill(over_genes["mse"], best, weights)
    rate_skill, signal = np.full(n.size, np.nan), halves.reliable
    if halves.method is not None:
        by_rate = _skill(halves.method, halves.depth_only, weights)
        rate_skill, signal = by_rate.value, by_rate.low > 0
    missing = 1 - sections.known.mean(axis=0)
    enough = n >= _LEAST_HIDDEN
    helps = enough & (missing >= _LEAST_MISSING) & signal
    helps[helps] = discoveries(skill.chance[helps])
    verdict = np.where(helps, COMPLETE, np.where(halves.reliable, AS_IS, DROP)).astype(object)
    verdict[~enough] = NOT_AUDITED
    columns |= {"skill": skill.value, "skill_low": skill.low, "skill_high": skill.high}
    columns |= {"rate_skill": rate_skill, "missing": missing, "reliability": halves.reliability}
    return Audit(
        verdict=verdict,
        columns=columns,
        skill=float(overall.value[0]),
        skill_low=float(overall.low[0]),
        skill_high=float(overall.high[0]),
        coverage_90=float(np.mean(errors.covered)) if errors.covered else np.nan,
    )


def divide_into_blocks(sections: Sections, rng: np.random.Generator) -> np.ndarray:
    """(n_spots,) number of the block that each spot belongs to: a random spot and the free spots within two hops."""
    indptr, indices, _ = sections.lattice.hops(_BLOCK_HOPS)
    block = np.full(len(sections.known), -1)
    number = 0
    for spot in rng.permutation(block.size):
        if block[spot] < 0:
            around = indices[indptr[spot] : indptr[spot + 1]]
            block[around[block[around] < 0]] = number
            block[spot] = number
            number += 1
    return block


def discoveries(chance: np.ndarray) -> np.ndarray:
    """Which of the tests pass at a false discovery rate of 5 % (Benjamini and Hochberg, 1995)."""
    order = np.argsort(chance, kind="stable")
    passes = chance[order] <= _FALSE_DISCOVERIES * np.arange(1, chance.size + 1) / max(chance.size, 1)
    last = np.flatnonzero(passes).max(initial=-1)
    result = np.zeros(chance.size, dtype=bool)
    result[order[: last + 1]] = True
    return result


def _skill(squares: np.ndarray, reference: np.ndarray, weights: np.ndarray) -> _Skill:
    """_Skill from sums over blocks, (n_blocks, n_genes), and weights of the blocks in every resample."""
    drawn = 1 - ratio(weights @ squares, weights @ reference)
    low, high = np.nanquantile(np.nan_to_num(drawn), [0.025, 0.975], axis=0)
    return _Skill(
        value=1 - ratio(squares.sum(axis=0), reference.sum(axis=0)),
        low=low,
        high=high,
        chance=(1 + (drawn <= 0).sum(axis=0)) / (1 + len(weights)),
    )


def _within_libraries(values: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Deviations from the mean of the library."""
    of_library = members(library)
    mean = (of_library @ values) / np.asarray(of_library.sum(axis=1)).reshape(-1, 1)
    return values - mean[library]
