"""Audit of a completer, gene by gene: errors on hidden entries, and agreement of two halves of the molecules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from spared_sc._kernels.at_depth import values_at_depth
from spared_sc._kernels.floor import noise_variances
from spared_sc._kernels.lowrank import members
from spared_sc._kernels.masking import hide_detected
from spared_sc._kernels.metrics import WIDTH_90, poisson_deviance, ratio
from spared_sc._kernels.sections import CompletionFunction, Estimate, Sections
from spared_sc._kernels.verdicts import discoveries

COMPLETE, AS_IS, DROP, NOT_AUDITED = "complete", "use as is", "drop", "not audited"
REFERENCES = ("depth_only", "additive", "gene_mean")  # simple completers that the method is compared with
_LEAST_SKILL = 0.05  # of all genes together; less may come from better averages alone
_HIDDEN_SHARE = 0.3  # of the detected entries
_LEAST_HIDDEN = 30  # entries of a gene, over all masks, for a verdict
_LEAST_MISSING = 0.01  # share of undetected spots below which there is nothing to complete
_LEAST_AGREEMENT = 2.33  # standard errors of the correlation of the halves, which chance exceeds once in a hundred
_N_BOOTSTRAP = 1000
_BLOCK_HOPS = 2


@dataclass(frozen=True)
class Audit:
    """Verdict and numbers of every gene, and the skill over all genes together with its 95 % interval."""

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

    def summary(self, method: str) -> str:
        """The result in two sentences."""
        interval = f"95 % interval {self.skill_low:.0%} to {self.skill_high:.0%}"
        if self.harm:
            hardly = "hardly" if self.negligible else "not reliably"
            first = (
                f"Do not complete these sections with {method!r}: filled values are {hardly} nearer to the truth than "
                f"simple averages (error removed: {self.skill:.0%}, {interval})."
            )
        else:
            first = f"Completion with {method!r} removes {self.skill:.0%} of the error of simple averages ({interval})."
        n_audited = len(self.verdict) - self.count(NOT_AUDITED)
        return (
            f"{first} Of {n_audited} genes, complete {self.count(COMPLETE)}, use {self.count(AS_IS)} as measured, and "
            f"leave out {self.count(DROP)} whose counts are little more than noise."
        )


def audit(
    sections: Sections,
    method: CompletionFunction,
    references: Mapping[str, CompletionFunction],
    *,
    n_masks: int,
    seed: int,
    on_fit: Callable[[], object],
) -> Audit:
    """Compare a completer with the simple `REFERENCES` on hidden entries, and its expected counts with hidden counts.

    The sections need counts. `on_fit` is called after each of the `n_masks + 1` runs of the method.
    """
    blocks = members(divide_into_blocks(sections, np.random.default_rng([seed, 101])))
    n_blocks = blocks.shape[0]
    weights = np.random.default_rng([seed, 102]).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), _N_BOOTSTRAP)
    n, of_spots, coverage = _errors_on_hidden(sections, method, references, n_masks, seed, on_fit)
    squares = {name: blocks @ values for name, values in of_spots.items()}
    columns = {name: ratio(values.sum(axis=0), n) for name, values in squares.items()}
    by_depth = columns["mse_depth_only"] <= columns["mse_additive"]
    reference = np.where(by_depth, squares["mse_depth_only"], squares["mse_additive"])
    skill, low, high, chance = _skill(squares["mse"], reference, weights)
    # Over all genes together, the simple completer with the smaller error is the reference.
    over_genes = {name: values.sum(axis=1, keepdims=True) for name, values in squares.items()}
    best = min((over_genes["mse_depth_only"], over_genes["mse_additive"]), key=np.sum)
    overall, overall_low, overall_high = (float(value[0]) for value in _skill(over_genes["mse"], best, weights)[:3])
    rng = np.random.default_rng([seed, 105])
    deviance, depth_deviance, reliability = _compare_halves(sections, method, references["depth_only"], rng)
    on_fit()
    reliable = reliability * np.sqrt(len(sections.known)) > _LEAST_AGREEMENT
    rate_skill, signal = np.full(n.size, np.nan), reliable
    if deviance is not None:
        rate_skill, rate_low, *_ = _skill(blocks @ deviance, blocks @ depth_deviance, weights)
        signal = rate_low > 0
    missing = 1 - sections.known.mean(axis=0)
    enough = n >= _LEAST_HIDDEN
    helps = enough & (missing >= _LEAST_MISSING) & signal
    helps[helps] = discoveries(chance[helps])
    verdict = np.where(helps, COMPLETE, np.where(reliable, AS_IS, DROP)).astype(object)
    verdict[~enough] = NOT_AUDITED
    columns |= {"skill": skill, "skill_low": low, "skill_high": high}
    columns |= {"rate_skill": rate_skill, "missing": missing, "reliability": reliability}
    return Audit(verdict, columns, overall, overall_low, overall_high, coverage)


def _errors_on_hidden(
    sections: Sections,
    method: CompletionFunction,
    references: Mapping[str, CompletionFunction],
    n_masks: int,
    seed: int,
    on_fit: Callable[[], object],
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Number of hidden entries of every gene, squared errors on them, and the coverage of the method's 90 % intervals.

    The errors, (n_spots, n_genes), are sums over the masks; those of depth alone are the smaller ones of two estimates.
    """
    shape, follows_counts = sections.known.shape, sections.total is not None
    names = ("mse", *(f"mse_{name}" for name in REFERENCES), "mse_counts", "floor")
    squares = {name: np.zeros(shape) for name in names}
    n, coverage = np.zeros(shape[1]), []
    variance = np.full(shape, np.nan)
    if follows_counts:
        variance = noise_variances(sections, np.random.default_rng([seed, 103]))[0]
    for mask in range(n_masks):
        hidden = hide_detected(sections.known, _HIDDEN_SHARE, np.random.default_rng([seed, 104, 1 + mask]))
        visible, truth = sections.without(hidden), sections.renormalised(hidden)
        estimate = method(visible)
        simple = {name: references[name](visible) for name in REFERENCES}
        filled = {f"mse_{name}": reference.need_values() for name, reference in simple.items()}
        filled["mse"] = estimate.need_values()
        if follows_counts:
            filled["mse_counts"] = values_at_depth(visible, simple)
        n += hidden.sum(axis=0)
        for name, values in filled.items():
            squares[name] += np.where(hidden, (values - truth) ** 2, 0)
        squares["floor"] += np.where(hidden, variance, 0)
        if estimate.sd is not None:
            inside = np.abs(filled["mse"] - truth) <= WIDTH_90 * estimate.sd
            coverage.append(inside[hidden].mean())
        on_fit()
    at_depth = squares.pop("mse_counts")
    if follows_counts:
        better = at_depth.sum(axis=0) < squares["mse_depth_only"].sum(axis=0)
        squares["mse_depth_only"] = np.where(better, at_depth, squares["mse_depth_only"])
    return n, squares, float(np.mean(coverage)) if coverage else np.nan


def _rate(estimate: Estimate) -> np.ndarray:
    if estimate.rate is None:
        raise ValueError("this completer gives no expected counts")
    return estimate.rate.astype(float)


def _compare_halves(
    sections: Sections, method: CompletionFunction, depth_only: CompletionFunction, rng: np.random.Generator
) -> tuple[np.ndarray | None, np.ndarray, np.ndarray]:
    """Deviance of one half of the molecules from the counts that method and depth alone expect from the other.

    (n_spots, n_genes); `None` for a method without expected counts. Last, the correlation of the halves, (n_genes,).
    """
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
    deviance = None if estimate.rate is None else poisson_deviance(other, estimate.rate * scale)
    return (
        deviance,
        poisson_deviance(other, _rate(reference) * scale),
        ratio((first * second).sum(axis=0), spread, default=0.0),
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


def _skill(
    squares: np.ndarray, reference: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Skill 1 - error / error of the reference, its 95 % interval, and the chance that it is not positive, (n_genes,).

    From sums over blocks, (n_blocks, n_genes), and the weights of the blocks in every resample.
    """
    drawn = 1 - ratio(weights @ squares, weights @ reference)
    low, high = np.nanquantile(np.nan_to_num(drawn), [0.025, 0.975], axis=0)
    chance = (1 + (drawn <= 0).sum(axis=0)) / (1 + len(weights))
    return 1 - ratio(squares.sum(axis=0), reference.sum(axis=0)), low, high, chance


def _within_libraries(values: np.ndarray, library: np.ndarray) -> np.ndarray:
    """Deviations from the mean of the library."""
    of_library = members(library)
    mean = (of_library @ values) / np.asarray(of_library.sum(axis=1)).reshape(-1, 1)
    return values - mean[library]
