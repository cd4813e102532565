"""Completers scored on entries that are hidden from them, mask after mask."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from spared_sc._kernels import masking, metrics
from spared_sc._kernels.floor import noise_variances
from spared_sc._kernels.lowrank import gene_means
from spared_sc._kernels.moran import lattice_weights
from spared_sc._kernels.sections import CompletionFunction, Estimate, Sections

TOGETHER = -1  # in place of a library: all of them
_MOST_PAIRED = 500  # genes whose correlations are compared
_CPM = 1e6
_TARGET_SUM = 1e4  # total of a spot before the logarithm, in Open Problems
_LEAST_FLAGGED = 200  # hidden entries, for a verdict on an error below the floor


@dataclass(frozen=True)
class Mask:
    """One random mask."""

    regime: str
    share: float
    number: int

    def generator(self, seed: int) -> np.random.Generator:
        """Source of randomness of this mask, whatever other masks there are."""
        regime = list(masking.REGIMES).index(self.regime)
        return np.random.default_rng([seed, regime, round(1000 * self.share), self.number])


class Score(NamedTuple):
    """One value, and the entries (genes, pairs of genes) behind it."""

    library: int
    genes: str
    metric: str
    value: float
    n: int


@dataclass(frozen=True)
class MethodScore:
    """A score of one method on one mask."""

    mask: Mask
    method: str
    score: Score
    below_floor: bool = False  # the error is lower than sampling noise allows


def list_masks(regimes: Sequence[str], shares: Sequence[float], n_masks: int) -> list[Mask]:
    """Every mask, in the order of the regimes; `shares` are those of the regime `"detected"`."""
    of_regime = {regime: shares if regime == "detected" else [masking.REGIMES[regime]] for regime in regimes}
    pairs = [(regime, share) for regime in regimes for share in of_regime[regime]]
    return [Mask(regime, share, number) for regime, share in pairs for number in range(n_masks)]


def evaluate(
    truth: Truth,
    masks: Sequence[Mask],
    methods: Mapping[str, CompletionFunction],
    *,
    without_rate: Collection[str],
    seed: int,
    on_fit: Callable[[], object],
) -> Iterator[list[MethodScore]]:
    """Scores of all methods and of what they are compared with, one list for each mask; all methods get the same masks.

    Methods `without_rate` give no expected counts, and are not run where nothing else is scored. `on_fit` is called for
    each method and mask. An estimate that cannot be scored is a ValueError that names method and regime.
    """
    rateless = set(without_rate)
    for mask in masks:
        task = truth.hide(mask.regime, mask.share, mask.generator(seed))
        scores = [MethodScore(mask, name, score) for name, score in task.references()]
        for name, method in methods.items():
            if mask.regime not in masking.THINNINGS or name not in rateless:
                try:
                    estimate = method(task.visible)
                    task.check(estimate)
                except ValueError as error:
                    raise ValueError(f"method {name!r}, regime {mask.regime!r}: {error}") from error
                below = task.is_below_floor(estimate)
                scores += [MethodScore(mask, name, score, below) for score in task.scores(estimate)]
                if estimate.rate is None:
                    rateless.add(name)
            on_fit()
        yield scores


class Truth:
    """All that was measured, and the parts of it that every score needs."""

    def __init__(self, sections: Sections, rng: np.random.Generator):
        self.sections = sections
        known = sections.known
        n_genes = known.shape[1]
        by_detection = np.argsort(known.mean(axis=0), kind="stable")
        thirds = zip(("sparse", "medium", "dense"), np.array_split(by_detection, 3), strict=True)
        self.groups = {"all": np.arange(n_genes)} | {name: genes for name, genes in thirds if genes.size}
        self.members = np.array([np.isin(np.arange(n_genes), genes) for genes in self.groups.values()], dtype=float).T
        self.rows = [np.flatnonzero(sections.library == code) for code in range(sections.n_libraries)]
        self.weights = [lattice_weights(sections.lattice.subset(rows)) for rows in self.rows]
        evenly = np.unique(np.linspace(0, n_genes - 1, min(n_genes, _MOST_PAIRED)).astype(int))
        self.paired = np.sort(by_detection[evenly])
        self.follows_counts = sections.total is not None
        self.variances = noise_variances(sections, rng) if self.follows_counts else None

    def structure(self, code: int, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moran's I of all genes and the correlations of the paired ones over detected entries of one library."""
        rows, paired, known = self.rows[code], self.paired, self.sections.known
        return (
            metrics.detected_morans_i(self.weights[code], values[rows], known[rows]),
            metrics.detected_correlations(values[np.ix_(rows, paired)], known[np.ix_(rows, paired)]),
        )

    def hide(self, regime: str, share: float, rng: np.random.Generator) -> Hidden | Thinned:
        """Hide a part, which methods are scored on; a regime that hides nothing or everything is an error."""
        if regime in masking.THINNINGS:
            return Thinned(self, share, rng)
        return Hidden(self, masking.hide_entries(self.sections, regime, share, rng))

    def over_genes(self, values: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the genes of every group that have a value, and the sum of their n, (n_libraries, n_groups)."""
        has = np.isfinite(values)
        return metrics.ratio(np.where(has, values, 0) @ self.members, has @ self.members), (n * has) @ self.members

    def over_pairs(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean over the pairs of paired genes of every group that have a value, and their number, (n_groups,)."""
        upper = np.triu(np.isfinite(values), 1)
        mean, n = np.full((2, len(self.groups)), np.nan)
        for group, genes in enumerate(self.groups.values()):
            inside = np.isin(self.paired, genes)
            pairs = values[np.ix_(inside, inside)][upper[np.ix_(inside, inside)]]
            if pairs.size:
                mean[group], n[group] = pairs.mean(), pairs.size
        return mean, n

    def table(self, metric: str, value: np.ndarray, n: np.ndarray, library: int | None = None) -> Iterator[Score]:
        """Scores from arrays (n_libraries, n_groups), without those that are not defined."""
        for (code, group), number in np.ndenumerate(value):
            if np.isfinite(number):
                where = code if library is None else library
                yield Score(where, list(self.groups)[group], metric, float(number), int(n[code, group]))


class Hidden:
    """Hidden entries, and the sections without them."""

    def __init__(self, truth: Truth, hidden: np.ndarray):
        sections = truth.sections
        self.truth, self.hidden = truth, hidden
        self.visible = sections.without(hidden)
        self.renormalised = sections.renormalised(hidden)
        self.values = self.renormalised[hidden].astype(np.float64)
        spot, self.gene = np.nonzero(hidden)
        self.library = sections.library[spot]
        self.cell = self.library * hidden.shape[1] + self.gene
        self.n = self._by_gene()
        self.structures = [truth.structure(code, self.renormalised) for code in range(len(truth.rows))]
        mean = gene_means(self.visible.values, self.visible.known)
        self.squares_of_mean = self._by_gene((self.values - mean[self.gene]) ** 2)

    def _by_gene(self, values: np.ndarray | None = None) -> np.ndarray:
        """Sum over hidden entries, or without values their number, (n_libraries, n_genes)."""
        shape = len(self.truth.rows), self.hidden.shape[1]
        return np.bincount(self.cell, values, shape[0] * shape[1]).reshape(shape)

    def _mean(self, values: np.ndarray) -> np.ndarray:
        """Mean over hidden entries, (n_libraries, n_groups)."""
        return metrics.ratio(self._by_gene(values) @ self.truth.members, self.n @ self.truth.members)

    def check(self, estimate: Estimate) -> None:
        """Refuse values that cannot be scored."""
        for name, block in (("values", estimate.need_values()), ("standard deviations", estimate.sd)):
            if block is None:
                continue
            if block.shape != self.hidden.shape:
                raise ValueError(f"{name} of the shape {block.shape}, expected {self.hidden.shape} (spots x genes)")
            n_wrong = int((~np.isfinite(block[self.hidden])).sum())
            if n_wrong:
                raise ValueError(f"NaN or infinite {name} for {n_wrong} hidden entries")
        if estimate.sd is not None and (estimate.sd[self.hidden] < 0).any():
            raise ValueError("negative standard deviations")

    def references(self) -> Iterator[tuple[str, Score]]:
        """The noise floor of the squared error as a range."""
        if self.truth.variances is None:
            return
        means = [self._mean(variance[self.hidden]) for variance in self.truth.variances]
        for name, end in zip(metrics.FLOORS, (np.minimum(*means), np.maximum(*means)), strict=True):
            for score in self.truth.table("mse", end, self.n @ self.truth.members):
                yield name, score

    def is_below_floor(self, estimate: Estimate) -> bool:
        """Whether the squared error over all libraries is below the lower floor, by more than two standard errors."""
        n = self.values.size
        if self.truth.variances is None or n < _LEAST_FLAGGED:
            return False
        floor = min((variance[self.hidden] for variance in self.truth.variances), key=np.mean)
        excess = (estimate.need_values()[self.hidden] - self.values) ** 2 - floor
        return bool(excess.mean() < -2 * excess.std() / np.sqrt(n))

    def scores(self, estimate: Estimate) -> Iterator[Score]:
        """All metrics of one method."""
        truth, members = self.truth, self.truth.members
        n = self.n @ members
        filled = estimate.need_values()[self.hidden].astype(np.float64)
        error = filled - self.values
        squares = self._by_gene(error**2) @ members
        yield from truth.table("mse", metrics.ratio(squares, n), n)
        yield from truth.table("mae", self._mean(np.abs(error)), n)
        yield from truth.table("r2", 1 - metrics.ratio(squares, self.squares_of_mean @ members), n)
        pcc = metrics.grouped_pearson(filled, self.values, self.cell, self.n.size).reshape(self.n.shape)
        yield from truth.table("pcc", *truth.over_genes(pcc, self.n))
        pooled = metrics.grouped_pearson(filled, self.values, self.gene, self.n.shape[1])[None]
        yield from truth.table("pcc_pooled", *truth.over_genes(pooled, self.n.sum(axis=0)[None]), library=TOGETHER)
        yield from self._structure(estimate)
        if estimate.sd is not None:
            yield from self._uncertainty(filled, error, estimate.sd[self.hidden].astype(np.float64))

    def _structure(self, estimate: Estimate) -> Iterator[Score]:
        """Change of spatial structure and of correlations between genes by the filled values."""
        truth = self.truth
        filled = np.where(self.hidden, estimate.need_values(), self.renormalised)
        change = np.full(self.n.shape, np.nan)
        error, n_pairs = np.full((2, len(truth.rows), len(truth.groups)), np.nan)
        for code, (moran, correlation) in enumerate(self.structures):
            filled_moran, filled_correlation = truth.structure(code, filled)
            change[code] = filled_moran - moran
            error[code], n_pairs[code] = truth.over_pairs(np.abs(filled_correlation - correlation))
        yield from truth.table("moran_change", *truth.over_genes(change, np.ones(change.shape)))
        yield from truth.table("correlation_error", error, n_pairs)

    def _uncertainty(self, filled: np.ndarray, error: np.ndarray, sd: np.ndarray) -> Iterator[Score]:
        """Scores of the standard deviations."""
        truth, members = self.truth, self.truth.members
        n, mse = self.n @ members, self._mean(error**2)
        inside = np.abs(error) <= metrics.WIDTH_90 * sd
        yield from truth.table("crps", self._mean(metrics.gaussian_crps(error, sd)), n)
        constant = np.empty(n.shape)
        of_decile, n_decile = np.zeros((2, 10, *n.shape))
        for group, genes in enumerate(truth.groups.values()):
            width = np.sqrt(np.nan_to_num(mse[:, group]))[self.library]
            constant[:, group] = self._by_gene(metrics.gaussian_crps(error, width)) @ members[:, group]
            in_group = np.isin(self.gene, genes)
            for code in range(len(truth.rows)):
                here = in_group & (self.library == code)
                if here.any():
                    decile = metrics.decile(filled[here])
                    n_decile[:, code, group] = np.bincount(decile, minlength=10)
                    of_decile[:, code, group] = np.bincount(decile, inside[here], 10)
        yield from truth.table("crps_constant", metrics.ratio(constant, n), n)
        yield from truth.table("coverage_90", self._mean(inside), n)
        for number in range(10):
            share = metrics.ratio(of_decile[number], n_decile[number])
            yield from truth.table(f"coverage_90_d{number + 1}", share, n_decile[number])


class Thinned:
    """A part of the molecules, and the rest to score expected counts on."""

    def __init__(self, truth: Truth, share: float, rng: np.random.Generator):
        self.truth = truth
        self.visible, held_out = truth.sections.halves(rng, 1 - share)
        self.counts = held_out.need_counts().values
        self.odds = share / (1 - share)  # held-out molecules for each that is visible
        seen, rest = self.visible.need_counts(), held_out.need_counts()
        self.depth = np.maximum(seen.depth, 1)[:, None]
        self.seen, self.other = seen.values / self.depth, rest.values / np.maximum(rest.depth, 1)[:, None]
        self.clear = [metrics.reliable(self.seen[rows], self.other[rows]) for rows in truth.rows]
        self.structures = [self._structure_of(code, self.seen, self.other) for code in range(len(truth.rows))]
        log_depth = np.log(np.maximum(truth.sections.need_counts().depth, 1))
        self.terms = np.vander((log_depth - log_depth.mean()) / max(log_depth.std(), 1e-6), 3)

    def check(self, estimate: Estimate) -> None:
        """Refuse expected counts that cannot be scored."""
        rate = estimate.rate
        if rate is not None and rate.shape != self.counts.shape:
            raise ValueError(f"rates of the shape {rate.shape}, expected {self.counts.shape} (spots x genes)")
        if rate is not None and not (np.isfinite(rate) & (rate >= 0)).all():
            raise ValueError("NaN, infinite or negative rates")

    def references(self) -> Iterator[tuple[str, Score]]:
        """The visible counts as they are, and the held-out ones themselves."""
        nothing_done = self.odds * self.visible.need_counts().values, self.seen
        for name, control in zip(metrics.CONTROLS, (nothing_done, (self.counts, self.other)), strict=True):
            for score in self._losses(*control):
                yield name, score

    def is_below_floor(self, estimate: Estimate) -> bool:
        """The deviance has no floor."""
        return False

    def scores(self, estimate: Estimate) -> Iterator[Score]:
        """All metrics; nothing for a method without rates."""
        if estimate.rate is None:
            return
        expected = self.odds * estimate.rate.astype(np.float64)
        yield from self._mean("deviance", metrics.poisson_deviance(self.counts, expected))
        yield from self._calibration(expected)
        share = estimate.rate / self.depth
        yield from self._losses(expected, share)
        yield from self._agreement(share)

    def _mean(self, metric: str, values: np.ndarray) -> Iterator[Score]:
        """Means over all entries."""
        truth = self.truth
        sums = np.array([values[rows].sum(axis=0) for rows in truth.rows])
        n = np.array([np.full(values.shape[1], rows.size) for rows in truth.rows]) @ truth.members
        yield from truth.table(metric, metrics.ratio(sums @ truth.members, n), n)

    def _losses(self, expected: np.ndarray, share: np.ndarray) -> Iterator[Score]:
        """The two scores of denoising in Open Problems, of expected counts and of their share of the depth."""
        error = np.log1p(_TARGET_SUM * share) - np.log1p(_TARGET_SUM * self.other)
        yield from self._mean("mse_log", error**2)
        yield from self._mean("poisson_loss", metrics.poisson_loss(self.counts, expected))

    def _calibration(self, expected: np.ndarray) -> Iterator[Score]:
        """Held-out counts over expected ones, by deciles of the latter."""
        truth = self.truth
        found, predicted, n = np.zeros((3, 10, 1, len(truth.groups)))
        for group, genes in enumerate(truth.groups.values()):
            of_group = expected[:, genes].ravel()
            decile = metrics.decile(of_group)
            found[:, 0, group] = np.bincount(decile, self.counts[:, genes].ravel(), 10)
            predicted[:, 0, group] = np.bincount(decile, of_group, 10)
            n[:, 0, group] = np.bincount(decile, minlength=10)
        for number in range(10):
            ratio = metrics.ratio(found[number], predicted[number])
            yield from truth.table(f"calibration_d{number + 1}", ratio, n[number], library=TOGETHER)

    def _agreement(self, share: np.ndarray) -> Iterator[Score]:
        """Expected counts over depth against the held-out ones: within genes, in space, and between genes."""
        truth = self.truth
        log_cpm, other_log_cpm = np.log2(1 + _CPM * share), np.log2(1 + _CPM * self.other)
        shape = len(truth.rows), share.shape[1]
        pcc, moran = np.full((2, *shape), np.nan)
        error, n_pairs = np.full((2, len(truth.rows), len(truth.groups)), np.nan)
        for code, (true_moran, true_correlation) in enumerate(self.structures):
            rows = truth.rows[code]
            pcc[code] = metrics.partial_pearson(log_cpm[rows], other_log_cpm[rows], self.terms[rows])
            found_moran, found_correlation = self._structure_of(code, share, share)
            moran[code] = np.abs(found_moran - true_moran)
            error[code], n_pairs[code] = truth.over_pairs(np.abs(found_correlation - true_correlation))
        n_spots = np.broadcast_to([[rows.size] for rows in truth.rows], shape)
        yield from truth.table("pcc_depth", *truth.over_genes(pcc, n_spots))
        yield from truth.table("moran_error", *truth.over_genes(moran, np.ones(shape)))
        yield from truth.table("correlation_error", error, n_pairs)

    def _structure_of(self, code: int, one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moran's I of the genes and correlations of the paired ones in one library, from two halves of the data.

        NaN for genes of which the two parts of the molecules do not agree.
        """
        truth, rows, clear = self.truth, self.truth.rows[code], self.clear[code]
        moran = metrics.cross_morans_i(truth.weights[code], one[rows], other[rows])
        pairs = np.ix_(rows, truth.paired)
        correlation = metrics.cross_correlations(one[pairs], other[pairs])
        both = np.outer(clear[truth.paired], clear[truth.paired])
        return np.where(clear, moran, np.nan), np.where(both, correlation, np.nan)
