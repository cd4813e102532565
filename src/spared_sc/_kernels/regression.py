"""Regressions, gene by gene: on the depth of the spots, and on other genes and the neighbourhood."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from spared_sc._kernels.lowrank import gene_means

_ALL_GENES = 256  # up to so many genes, each is regressed on all others
_MOST_GENES = 128  # beyond, on so many
_MOST_SPOTS = 20_000  # that weights are learned from; far more than there are weights


def depth_trend(values: np.ndarray, known: np.ndarray, depth: np.ndarray, shrinkage: float) -> np.ndarray:
    """For every gene, a parabola in the log of the depth, shrunken to that of all genes together.

    Least squares of the deviations from the gene's mean on 1, d and d^2, d the standardised log depth, plus
    `shrinkage` times the squared distance to the coefficients that fit all genes best. `values` are zero where not
    known. (n_spots, n_genes) float32.
    """
    mean = gene_means(values, known)
    log_depth = np.log(np.maximum(depth, 1))
    terms = np.vander((log_depth - log_depth.mean()) / max(log_depth.std(), 1e-6), 3, increasing=True)
    products = (terms[:, :, None] * terms[:, None, :]).reshape(len(terms), 9)
    normal = (known.T.astype(np.float64) @ products).reshape(-1, 3, 3)
    right = terms.T @ values - normal[:, :, 0].T * mean
    together = np.linalg.lstsq(normal.sum(axis=0), right.sum(axis=1), rcond=None)[0]
    normal += max(shrinkage, 1e-6) * np.eye(3)
    coefficients = np.linalg.solve(normal, (right.T + max(shrinkage, 1e-6) * together)[:, :, None])[:, :, 0]
    return (mean + terms @ coefficients.T).astype(np.float32)


def depth_rate(counts: np.ndarray, depth: np.ndarray, *, prior: float = 10.0) -> np.ndarray:
    """For every gene, the Poisson regression log(expected count) = a + b log(depth), with b shrunken to 1.

    The penalty is `prior` / 2 times (b - 1)^2. A spot without counts expects none. (n_spots, n_genes) float32.
    """
    used = depth > 0
    log_depth = np.log(np.maximum(depth, 1))
    centre = np.average(log_depth, weights=np.maximum(depth, 1e-12))
    x = (log_depth - centre)[used, None]
    total = counts.sum(axis=0, dtype=np.float64)
    # A gene without counts gets the level of a tiny count, so that its logarithm exists.
    level = np.log(np.maximum(total, 1e-6) / max(np.exp(x).sum(), 1e-12))
    slope = np.ones(counts.shape[1])
    cross = (x * counts[used]).sum(axis=0)
    for _ in range(20):
        rate = np.exp(np.clip(level + slope * x, -30, 30))
        first, second, third = rate.sum(axis=0), (rate * x).sum(axis=0), (rate * x * x).sum(axis=0)
        gap_level = np.maximum(total, 1e-6) - first
        gap_slope = cross - second - prior * (slope - 1)
        third = third + prior
        determinant = np.maximum(first * third - second**2, 1e-12)
        move = (first * gap_slope - second * gap_level) / determinant
        level += np.clip((third * gap_level - second * gap_slope) / determinant, -2, 2)
        slope += np.clip(move, -0.5, 0.5)
        if np.abs(move).max(initial=0) < 1e-6:
            break
    result = np.zeros(counts.shape, dtype=np.float32)
    result[used] = np.exp(np.clip(level + slope * x, -30, 30))
    return result


def ridge_genes(
    residual: np.ndarray, known: np.ndarray, filled: np.ndarray, around: np.ndarray, penalties: Sequence[float]
) -> list[np.ndarray]:
    """Regress every gene on the other genes of the spot and on all genes around the spot.

    All arrays are (n_spots, n_genes). `residual` is learned where `known`; `filled` is the residual with its gaps
    filled, of which a gene's own column is not used, and `around` its mean around each spot, without the spot. The
    penalties are on the sum of squared weights; the intercept is free.

    With more than 256 genes, a gene is regressed on the 128 others of largest absolute correlation (of the filled
    residuals), and on these and itself around the spot: time grows linearly with the genes.

    The prediction of every entry for each penalty, float32; zero for a gene without known entries.
    """
    n, n_genes = residual.shape
    results = [np.zeros((n, n_genes), dtype=np.float32) for _ in penalties]
    partners = _partners(filled)
    for gene in range(n_genes):
        rows = np.flatnonzero(known[:, gene])
        if not rows.size:
            continue
        rows = rows[:: -(-rows.size // _MOST_SPOTS)]
        others = partners(gene)
        inputs = np.concatenate(
            [filled[:, others], around[:, [gene]], around[:, others], np.ones((n, 1), dtype=np.float32)], axis=1
        )
        learned = inputs[rows]
        gram = (learned.T @ learned).astype(np.float64)
        right = (learned.T @ residual[rows, gene]).astype(np.float64)
        for result, penalty in zip(results, penalties, strict=True):
            penalised = gram.copy()
            np.einsum("ii->i", penalised)[:-1] += max(penalty, 1e-6)
            result[:, gene] = inputs @ np.linalg.solve(penalised, right).astype(np.float32)
    return results


def _partners(filled: np.ndarray):
    """A function from a gene to the genes that it is regressed on."""
    n_genes = filled.shape[1]
    every = np.arange(n_genes)
    if n_genes <= _ALL_GENES:
        return lambda gene: np.delete(every, gene)
    centred = filled - filled.mean(axis=0)
    centred /= np.maximum(np.linalg.norm(centred, axis=0), 1e-12)

    def nearest(gene: int) -> np.ndarray:
        likeness = np.abs(centred.T @ centred[:, gene])
        likeness[gene] = -1
        return np.sort(np.argpartition(-likeness, _MOST_GENES)[:_MOST_GENES])

    return nearest


def poisson_regression(
    features: np.ndarray, counts: np.ndarray, offset: np.ndarray, *, penalty: float = 1.0
) -> np.ndarray:
    """Weights of log(expected count) = offset + intercept + features @ weights, the intercept first.

    Newton's method with halved steps; `penalty` / 2 times the squared weights of the standardised features is added.
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-6, spread, 1)
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / spread])
    penalties = np.r_[0.0, np.full(features.shape[1], penalty)]
    weights = np.zeros(inputs.shape[1])
    weights[0] = np.log(max(counts.sum(dtype=np.float64), 1e-6) / max(np.exp(offset).sum(), 1e-12))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_rate = np.clip(offset + inputs @ weights, -30, 30)
        rate = np.exp(log_rate)
        return float(rate.sum() - (counts * log_rate).sum() + (penalties * weights**2).sum() / 2), rate

    current, rate = loss(weights)
    for _ in range(50):
        gradient = inputs.T @ (rate - counts) + penalties * weights
        curvature = inputs.T @ (rate[:, None] * inputs) + np.diag(np.maximum(penalties, 1e-9))
        step = np.linalg.solve(curvature, gradient)
        for _ in range(30):
            trial, trial_rate = loss(weights - step)
            if trial <= current:
                break
            step /= 2
        else:
            break
        gained, weights, current, rate = current - trial, weights - step, trial, trial_rate
        if gained <= 1e-9 * abs(current):
            break
    slopes = weights[1:] / spread
    return np.r_[weights[0] - mean @ slopes, slopes]


def variance_regression(features: np.ndarray, squares: np.ndarray, *, penalty: float = 1.0) -> np.ndarray:
    """Weights of log(expected square) = intercept + features @ weights, the intercept first.

    Maximum likelihood of normal errors with these variances, by Fisher's scoring; `penalty` / 4 times the squared weights
    of the standardised features is added.
    """
    mean, spread = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    spread = np.where(spread > 1e-6, spread, 1)
    inputs = np.column_stack([np.ones(len(features)), (features - mean) / spread])
    penalties = np.r_[0.0, np.full(features.shape[1], penalty)]
    curvature = inputs.T @ inputs + np.diag(penalties)
    weights = np.zeros(inputs.shape[1])
    weights[0] = np.log(max(squares.mean(dtype=np.float64), 1e-12))

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        log_variance = np.clip(inputs @ weights, -30, 30)
        ratio = squares * np.exp(-log_variance)
        return float((log_variance + ratio).sum() + (penalties * weights**2).sum() / 2), ratio

    current, ratio = loss(weights)
    for _ in range(50):
        step = np.linalg.solve(curvature, inputs.T @ (ratio - 1) - penalties * weights)
        for _ in range(30):
            trial, trial_ratio = loss(weights + step)
            if trial <= current:
                break
            step /= 2
        else:
            break
        gained, weights, current, ratio = current - trial, weights + step, trial, trial_ratio
        if gained <= 1e-9 * abs(current):
            break
    slopes = weights[1:] / spread
    return np.r_[weights[0] - mean @ slopes, slopes]


def line_by_gene(inputs: np.ndarray, values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """For every gene, the least-squares line of its known values on its inputs, at all inputs; (n_spots, n_genes).

    The gene's mean where the inputs of the known entries do not vary. `values` are zero where not known.
    """
    n = np.maximum(known.sum(axis=0), 1)
    mean = gene_means(values, known)
    centre = (inputs * known).sum(axis=0, dtype=np.float64) / n
    offset = (inputs - centre) * known
    spread = (offset**2).sum(axis=0, dtype=np.float64)
    slope = np.where(spread > 1e-9 * n, (offset * values).sum(axis=0, dtype=np.float64) / np.maximum(spread, 1e-12), 0)
    return (mean + slope * (inputs - centre)).astype(np.float32)
