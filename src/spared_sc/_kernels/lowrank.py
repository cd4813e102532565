"""Fits of few parameters to a table with gaps: additive effects, soft-impute, Poisson matrix factorisation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sps


def gene_means(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Mean of each gene's known values, (n_genes,) float64; the mean of all known values where there are none.

    `values` are zero where not known, here and in all functions below.
    """
    n = known.sum(axis=0)
    total = values.sum(axis=0, dtype=np.float64)
    return np.where(n > 0, total / np.maximum(n, 1), total.sum() / max(n.sum(), 1))


def members(library: np.ndarray) -> sps.csr_matrix:
    """(n_libraries, n_spots): 1 where the spot is of the library."""
    n = library.size
    return sps.csr_matrix((np.ones(n), (library, np.arange(n))))


def library_gene_means(values: np.ndarray, known: np.ndarray, library: np.ndarray, shrinkage: float) -> np.ndarray:
    """Mean of each gene in each library, shrunken to the gene's mean as if by `shrinkage` more entries of that value.

    (n_libraries, n_genes) float64.
    """
    mean = gene_means(values, known)
    of_library = members(library)
    n = of_library @ known
    return mean + (of_library @ values - n * mean) / np.maximum(n + shrinkage, 1e-6)


def additive(
    values: np.ndarray,
    known: np.ndarray,
    library: np.ndarray,
    *,
    spot_shrinkage: float,
    library_shrinkage: float,
    tolerance: float = 1e-4,
) -> np.ndarray:
    """Fit gene mean + spot effect + effect of the gene in the library to the known entries by penalised least squares.

    Spot and library effects are penalised by `spot_shrinkage` and `library_shrinkage` times their squares, which is the
    variance of an entry over that of the effect. Spots and genes take turns; given the spots, gene means and library
    effects are solved for together. The fit of every entry, (n_spots, n_genes) float32; a gene without known entries has
    the mean of all known ones.
    """
    weight = known.astype(np.float32)
    of_library = members(library)
    n_of_spot, sum_of_spot = weight.sum(axis=1, dtype=np.float64), values.sum(axis=1, dtype=np.float64)
    n, total = of_library @ weight, of_library @ values
    spot_shrinkage, library_shrinkage = max(spot_shrinkage, 1e-6), max(library_shrinkage, 1e-6)
    keep = library_shrinkage / (n + library_shrinkage)
    has_known = n.sum(axis=0) > 0
    spot = np.zeros(len(values))
    seen = n_of_spot > 0
    start = gene_means(values, known)
    level = np.broadcast_to(start, n.shape)
    enough = tolerance * np.sqrt(max(np.mean((total.sum(axis=0) / np.maximum(n.sum(axis=0), 1)) ** 2), 1e-12))
    for _ in range(100):
        before = spot
        fitted = np.einsum("sg,sg->s", weight, level.astype(np.float32)[library])
        spot = (sum_of_spot - fitted) / (n_of_spot + spot_shrinkage)
        # The gene means, which cost nothing, take over what all spots have in common.
        spot[seen] -= spot[seen].mean() if seen.any() else 0
        left = total - (of_library.multiply(spot)).tocsr() @ weight
        mean = np.where(has_known, (keep * left).sum(axis=0) / np.maximum((keep * n).sum(axis=0), 1e-12), start)
        level = mean + (left - n * mean) / (n + library_shrinkage)
        if np.abs(spot - before).max(initial=0) <= enough:
            break
    return (level[library] + spot[:, None]).astype(np.float32)


@dataclass(frozen=True)
class Factors:
    """A matrix of low rank as left * scale @ right.T, with orthonormal columns in `left` and `right`."""

    left: np.ndarray  # (n_spots, rank)
    scale: np.ndarray  # (rank,)
    right: np.ndarray  # (n_genes, rank)

    def product(self) -> np.ndarray:
        """The matrix, (n_spots, n_genes)."""
        return (self.left * self.scale) @ self.right.T


def largest_singular_value(matrix: np.ndarray) -> float:
    """By power iteration, good to about a thousandth."""
    vector = np.ones(matrix.shape[1], dtype=np.float32) + np.arange(matrix.shape[1], dtype=np.float32) % 7
    value = 0.0
    for _ in range(100):
        norm = np.linalg.norm(vector)
        if norm == 0:
            return 0.0
        image = matrix @ (vector / norm)
        before, value = value, float(np.linalg.norm(image))
        if abs(value - before) <= 1e-4 * value:
            break
        vector = matrix.T @ image
    return value


def soft_impute(
    residual: np.ndarray,
    known: np.ndarray,
    penalty: float,
    *,
    rank: int,
    start: Factors | None = None,
    seed: int = 0,
    tolerance: float = 1e-3,
    most_steps: int = 100,
) -> Factors:
    """Minimise 1/2 ||known entries of (residual - Z)||^2 + penalty * (sum of the singular values of Z).

    Alternating ridge regressions on the matrix whose gaps hold the current Z, over Z of at most the given rank (Hastie,
    Mazumder, Lee and Zadeh, 2015). Iteration ends once Z changes by less than `tolerance` times its norm.
    """
    rank = min(rank, *residual.shape)
    if start is None:
        draws = np.random.default_rng(seed).standard_normal((len(residual), rank), dtype=np.float32)
        right = np.zeros((residual.shape[1], rank), dtype=np.float32)
        left, scale = np.linalg.qr(draws)[0], np.zeros(rank, dtype=np.float32)
        half = np.full(rank, np.sqrt(max(penalty, 1e-6)), dtype=np.float32)
    else:
        left, scale, right = start.left, start.scale, start.right
        # A direction that fell out may come back: it starts small, not at zero.
        half = np.sqrt(np.maximum(scale, 1e-3 * max(penalty, 1e-6)))
    single = np.float32(penalty)  # of the matrices' type

    def filled() -> np.ndarray:
        matrix = (left * scale) @ right.T
        np.copyto(matrix, residual, where=known)
        return matrix

    for _ in range(most_steps):
        before = Factors(left, scale, right)
        # given left * half, ridge regressions for the genes; the same with sides changed for the spots
        ridge = (filled().T @ left) * (half / np.maximum(half**2 + single, 1e-12))
        right, scale, turn = _thin_svd(ridge * half)
        left, half = left @ turn, np.sqrt(scale)
        ridge = (filled() @ right) * (half / np.maximum(half**2 + single, 1e-12))
        left, scale, turn = _thin_svd(ridge * half)
        right, half = right @ turn, np.sqrt(scale)
        if _distance(before, Factors(left, scale, right)) <= tolerance * np.linalg.norm(scale):
            break
    # one exact step, which makes small singular values zero
    left, scale, turn = _thin_svd(filled() @ right)
    return Factors(left, np.maximum(scale - single, 0), right @ turn)


def _thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Left vectors, singular values and right vectors (as columns) of a tall matrix."""
    basis, small = np.linalg.qr(matrix)
    left, scale, right = np.linalg.svd(small)
    return basis @ left, scale, right.T


def _distance(one: Factors, other: Factors) -> float:
    """Frobenius norm of the difference, without forming the matrices."""
    across = np.sum((one.left.T @ other.left) * np.outer(one.scale, other.scale) * (one.right.T @ other.right))
    squares = np.sum(one.scale.astype(np.float64) ** 2) + np.sum(other.scale.astype(np.float64) ** 2)
    return float(np.sqrt(max(squares - 2 * float(across), 0)))


def poisson_nmf(
    counts: np.ndarray, exposure: np.ndarray, rank: int, *, seed: int, n_steps: int = 100, prior: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Factors W (n_spots, rank) and H (rank, n_genes), not negative, with counts ~ Poisson(exposure * (W @ H)).

    Multiplicative updates for the Kullback-Leibler divergence (Lee and Seung, 2001), with a gamma prior of mean 1 on W.
    """
    rng = np.random.default_rng(seed)
    n, n_genes = counts.shape
    exposure = exposure.astype(np.float32)[:, None]
    share = counts.sum(axis=0) / max(float(exposure.sum()), 1e-12) + 1e-9
    left = rng.gamma(5, 0.2, (n, rank)).astype(np.float32)
    right = (rng.gamma(2, 0.5, (rank, n_genes)) * share / rank).astype(np.float32)
    single = np.float32(prior)  # of the matrices' type
    for _ in range(n_steps):
        ratio = counts / np.maximum(left @ right, 1e-9)
        left *= (ratio @ right.T + single) / (exposure * right.sum(axis=1) + single)
        ratio = counts / np.maximum(left @ right, 1e-9)
        right *= (left.T @ ratio) / np.maximum((left * exposure).sum(axis=0)[:, None], 1e-9)
    return left, right


def alra(values: np.ndarray, known: np.ndarray, *, rank: int | None, seed: int) -> tuple[np.ndarray, int]:
    """Approximation of low rank, with a threshold for each gene below which an entry is a true zero (Linderman 2022).

    The matrix, unknown entries being zero, is approximated by singular vectors. An error around zero is as often
    negative as positive, so what is no larger than the gene's most negative value becomes zero. The rest is brought to
    the mean and the standard deviation of the gene's known values.

    The approximation, (n_spots, n_genes) float32, and its rank, chosen by the gaps between singular values if `None`.
    """
    if rank is None:
        rank = _rank_by_gaps(random_svd(values, min(100, *values.shape), seed=seed)[1])
    left, scale, right = random_svd(values, min(rank, *values.shape), seed=seed)
    result = (left * scale) @ right.T
    result[result <= np.maximum(-result.min(axis=0), 0)] = 0
    kept = result > 0
    mean, spread = _moments(result, kept)
    wanted_mean, wanted_spread = _moments(values, known)
    slope = np.where((spread > 1e-6) & (wanted_spread > 1e-6), wanted_spread / np.maximum(spread, 1e-6), 1)
    scaled = ((result - mean) * slope + wanted_mean).astype(np.float32)
    return np.where(kept, np.maximum(scaled, 0), np.float32(0)), rank


def random_svd(matrix: np.ndarray, rank: int, *, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular vectors and values by random projection with power iterations (Halko et al. 2011)."""
    n_draws = min(rank + 10, *matrix.shape)
    draws = np.random.default_rng(seed).standard_normal((matrix.shape[1], n_draws), dtype=np.float32)
    basis = np.linalg.qr(matrix @ draws)[0]
    for _ in range(7):
        basis = np.linalg.qr(matrix @ np.linalg.qr(matrix.T @ basis)[0])[0]
    left, scale, right = np.linalg.svd(basis.T @ matrix, full_matrices=False)
    return basis @ left[:, :rank], scale[:rank], right[:rank].T


def _rank_by_gaps(scale: np.ndarray) -> int:
    """The last singular value before a gap that stands out from the gaps of the last fifth, which are noise."""
    gaps = scale[:-1] - scale[1:]
    noise = gaps[int(0.8 * scale.size) - 1 :]
    if noise.size < 2:
        return max(scale.size // 2, 1)
    large = np.flatnonzero(gaps > noise.mean() + 6 * noise.std(ddof=1))
    return int(large.max()) + 1 if large.size else 1


def _moments(values: np.ndarray, used: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each gene's used entries."""
    n = np.maximum(used.sum(axis=0), 1)
    mean = values.sum(axis=0, where=used, dtype=np.float64) / n
    square = (values.astype(np.float64) ** 2).sum(axis=0, where=used) / n
    return mean, np.sqrt(np.maximum(square - mean**2, 0))
