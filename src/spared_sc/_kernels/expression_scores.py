"""Agreement of predicted expression with raw counts, zeros included: scores that knowing the depth does not raise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, xlogy

from spared_sc._kernels.metrics import finite_mean, partial_pearson, poisson_deviance, ratio

_MOST_TERMS = 5  # of the curve in depth, beside the constant
_SPOTS_PER_TERM = 10
_CHUNK = 64  # genes with a basis of their own at a time
_N_DRAWS = 5  # of halves
_LEAST_DEVIANCE = 1e-3  # of a gene with a count; without one, rounding leaves less
_LARGE_MEAN = 50.0  # from here on, the expected deviance of a Poisson count has a closed form


@dataclass(frozen=True)
class Counted:
    """Raw counts of the scored spots; predictions and expected counts are (n_spots, n_genes), too."""

    counts: np.ndarray  # (n_spots, n_genes)
    depth: np.ndarray  # (n_spots,) total count over all genes of the data
    group: np.ndarray  # (n_spots,) 0, 1, ...: spots to score together, such as those of a library
    learned: np.ndarray  # (n_groups, n_genes) booleans: genes that training has seen; the others are not scored
    baseline: np.ndarray | None = None  # (n_spots, n_genes) depth times the share of the gene in training

    def correlations(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """`pcc` with log1p(CP10K) and `pcc_given_depth`, (n_groups, 1 + n_genes): mean over genes, then of each gene.

        `constant`, `negative` and `positive`, (n_groups, 1), are shares of the genes by the sign of `pcc`.
        """
        pcc, given_depth = np.full((2, *self.learned.shape), np.nan)
        for code, rows in enumerate(self._rows()):
            truth = log_cp10k(self.counts[rows], self.depth[rows])
            pcc[code] = partial_pearson(prediction[rows], truth, np.ones((len(rows), 1)))
            given_depth[code] = pearson_given_depth(prediction[rows], self.counts[rows], self.depth[rows])
        scores = {"pcc": self._with_mean(pcc), "pcc_given_depth": self._with_mean(given_depth)}
        sign = np.sign(np.where(self.learned, pcc, np.nan))
        for name, wanted in (("constant", 0), ("negative", -1), ("positive", 1)):
            share = finite_mean(np.where(np.isfinite(sign), sign == wanted, np.nan), axis=1)
            scores[name] = share[:, None]
        return scores

    def deviance_explained(self, expected: np.ndarray | None) -> dict[str, np.ndarray]:
        """`d2` and `d2_own`, (n_groups, 1 + n_genes): of all genes together, then of each gene.

        `d2` is 1 - deviance of the expected counts / deviance of the baseline. For `d2_own`, the baseline is depth times
        the group's own share, and expected counts are scaled to the observed total of the gene. NaN without expected
        counts or, for `d2`, without a baseline.
        """
        own = self._own_baseline()
        if expected is None:
            nothing = np.full((len(self.learned), 1 + self.learned.shape[1]), np.nan)
            return {"d2": nothing, "d2_own": nothing}
        factor = ratio(self._sums(self.counts), self._sums(expected))[self.group]
        scaled = np.where(np.isfinite(factor), factor * expected, own)
        return {
            "d2": self._explained(self._deviance(expected), self._deviance(self.baseline)),
            "d2_own": self._explained(self._deviance(scaled), self._deviance(own)),
        }

    def ceilings(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """The scores of a prediction without any error, as far as the counts show them, (n_groups, 1 + n_genes).

        Of correlations, from the halves of the counts: with the correlation r of two halves, the whole has the reliability
        2 r / (1 + r), and correlates with its expectation by the root of that. Of the deviance, what remains is that of
        Poisson counts at the gene's mean share.
        """
        pcc, given_depth = np.full((2, *self.learned.shape), np.nan)
        for code, rows in enumerate(self._rows()):
            draws = [_halves_correlate(self.counts[rows], self.depth[rows], rng) for _ in range(_N_DRAWS)]
            pcc[code], given_depth[code] = (_ceiling(np.array(of_draws)) for of_draws in zip(*draws, strict=True))
        own = self._own_baseline()
        noise = self._sums(expected_poisson_deviance(own))
        d2, d2_own = (self._explained(noise, self._deviance(rate)) for rate in (self.baseline, own))
        return {
            "d2": np.maximum(d2, 0),
            "d2_own": np.maximum(d2_own, 0),
            "pcc": self._with_mean(pcc),
            "pcc_given_depth": self._with_mean(given_depth),
        }

    def _rows(self) -> list[np.ndarray]:
        """The spots of every group."""
        return [np.flatnonzero(self.group == code) for code in range(len(self.learned))]

    def _sums(self, values: np.ndarray) -> np.ndarray:
        """Sum over the spots of every group, (n_groups, n_genes)."""
        return np.array([values[rows].sum(axis=0, dtype=np.float64) for rows in self._rows()])

    def _own_baseline(self) -> np.ndarray:
        """Depth times the gene's share in the spot's group."""
        of_all = np.array([self.depth[rows].sum() for rows in self._rows()])
        share = self._sums(self.counts) / np.maximum(of_all, 1)[:, None]
        return share[self.group] * self.depth[:, None]

    def _deviance(self, expected: np.ndarray | None) -> np.ndarray:
        if expected is None:
            return np.full(self.learned.shape, np.nan)
        return self._sums(poisson_deviance(self.counts, expected))

    def _explained(self, deviance: np.ndarray, of_baseline: np.ndarray) -> np.ndarray:
        """1 - deviance / that of the baseline, over all genes that can be scored, then of each."""
        defined = self.learned & np.isfinite(deviance) & (of_baseline > _LEAST_DEVIANCE)
        both = (np.where(defined, values, 0) for values in (deviance, of_baseline))
        deviance, of_baseline = (np.column_stack([values.sum(axis=1), values]) for values in both)
        return 1 - ratio(deviance, of_baseline)

    def _with_mean(self, genes: np.ndarray) -> np.ndarray:
        """The mean over genes, then each gene; NaN for genes that training has not seen."""
        genes = np.where(self.learned, genes, np.nan)
        return np.column_stack([finite_mean(genes, axis=1), genes])


def log_cp10k(counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """log(1 + count per 10,000 molecules of the spot), (n_spots, n_genes); zero in a spot without molecules."""
    return np.log1p(1e4 * counts / np.maximum(depth, 1)[:, None])


def pearson_given_depth(prediction: np.ndarray, counts: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Correlation of every gene, (n_genes,), of what a curve in depth leaves of the prediction and of log1p(CP10K).

    The depth counts all molecules of the spot, or all but those of the gene, and the correlation nearer to zero is
    returned; zero if their signs differ. Beside the depth without the gene, a prediction that knows the whole depth knows
    the gene's count, and correlates with it almost perfectly. Beside the whole depth it correlates with nothing, but an
    abundant gene is a part of the depth, and so loses signal: the better of the two only ever forgives depth.
    """
    truth = log_cp10k(counts, depth)
    whole = partial_pearson(prediction, truth, depth_terms(depth))
    parts = [slice(start, start + _CHUNK) for start in range(0, counts.shape[1], _CHUNK)]
    others = np.concatenate(
        [partial_pearson(prediction[:, part], truth[:, part], depth_terms(depth - counts[:, part].T)) for part in parts]
    )
    nearer = np.where(np.abs(whole) <= np.abs(others), whole, others)
    return np.where(whole * others > 0, nearer, 0 * np.abs(whole * others))


def depth_terms(depth: np.ndarray) -> np.ndarray:
    """Terms of a curve in the log of depth, (..., n_spots, n_terms), of depths (..., n_spots): a constant comes first.

    A cubic spline with knots at the terciles; with fewer than ten spots for each term, a polynomial of lower degree.
    """
    x = np.log1p(depth)
    x = x - x.mean(axis=-1, keepdims=True)
    x = x / np.maximum(np.abs(x).max(axis=-1, keepdims=True), 1e-6)
    knots = np.quantile(x, [1 / 3, 2 / 3], axis=-1)[..., None]
    bent = [np.maximum(x - knot, 0) ** 3 for knot in knots]
    terms = [np.ones_like(x), x, x**2, x**3, *bent]
    return np.stack(terms[: 1 + min(_MOST_TERMS, depth.shape[-1] // _SPOTS_PER_TERM)], axis=-1)


def expected_poisson_deviance(mean: np.ndarray) -> np.ndarray:
    """Expected deviance of a Poisson count from its own mean, per entry."""
    grid = np.geomspace(1e-9, _LARGE_MEAN, 400)
    count = np.arange(4 * int(_LARGE_MEAN))
    chance = np.exp(xlogy(count, grid[:, None]) - grid[:, None] - gammaln(count + 1))
    of_grid = 2 * (chance * xlogy(count, count / grid[:, None])).sum(axis=1)
    # The quotient is close to linear in the logarithm.
    small = mean * np.interp(np.log(np.maximum(mean, grid[0])), np.log(grid), of_grid / grid)
    return np.where(mean < _LARGE_MEAN, small, 1 + 1 / (6 * np.maximum(mean, 1)))


def _halves_correlate(counts: np.ndarray, depth: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Correlation of log1p(CP10K) of two halves of the molecules, and the same given the depths of both: (n_genes,)."""
    whole = np.rint(counts).astype(np.int64)
    others = np.maximum(np.rint(depth - whole.sum(axis=1)), 0).astype(np.int64)
    half, other_half = rng.binomial(whole, 0.5), rng.binomial(others, 0.5)
    rest, other_rest = whole - half, others - other_half
    depths = half.sum(axis=1) + other_half, rest.sum(axis=1) + other_rest
    one, other = log_cp10k(half, depths[0]), log_cp10k(rest, depths[1])
    of_both = np.column_stack([depth_terms(depths[0]), depth_terms(depths[1])[:, 1:]])
    return partial_pearson(one, other, np.ones((len(counts), 1))), partial_pearson(one, other, of_both)


def _ceiling(correlation: np.ndarray) -> np.ndarray:
    """Highest correlation with the whole, from those of the halves in several draws, (n_draws, n_genes)."""
    mean = np.clip(finite_mean(correlation, axis=0), 0, None)
    return np.sqrt(2 * mean / (1 + mean))
