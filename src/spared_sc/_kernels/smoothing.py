"""Smoothing over the lattice: hop kernels, neighbour means and graph diffusion, all genes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sps

from spared_sc._kernels.jit import compiled
from spared_sc._kernels.metrics import ratio

if TYPE_CHECKING:
    from spared_sc._kernels.lattice import Lattice

_MOST_RINGS = 8  # about 200 spots on a hexagonal lattice
_PAIRS = 65_536  # of spots whose features are compared at a time


def hop_kernel(lattice: Lattice, bandwidth: float, *, itself: bool = False) -> sps.csr_matrix:
    """Gaussian weights exp(-hops^2 / (2 bandwidth^2)) out to three bandwidths, eight rings at most.

    The spot itself has the weight 1 with `itself`, none otherwise.
    """
    n_rings = min(int(np.ceil(3 * bandwidth)), _MOST_RINGS)
    indptr, indices, hops = lattice.hops(n_rings)
    weights = np.exp(-(np.arange(n_rings + 1) ** 2) / (2 * bandwidth**2)).astype(np.float32)
    kernel = _square(weights[hops], indices, indptr)
    return kernel + sps.identity(lattice.n_spots, dtype=np.float32, format="csr") if itself else kernel


def centre_kernel(lattice: Lattice, bandwidth: float, spacing: int) -> sps.csr_matrix:
    """Gaussian weights of some spots, the centres, on all spots, (n_spots, n_centres); each row has the norm 1.

    No two centres are fewer than `spacing` hops apart, and every spot has one nearer than that: a smooth surface needs no
    more. The weights are those of `hop_kernel`, the spot itself among them.
    """
    weights = hop_kernel(lattice, bandwidth, itself=True)[:, _centres(*lattice.hops(spacing - 1)[:2])]
    norm = np.sqrt(np.asarray(weights.multiply(weights).sum(axis=1)).ravel())
    return sps.csr_matrix(sps.diags(1 / np.maximum(norm, 1e-12)) @ weights, dtype=np.float32)


@compiled
def _centres(indptr, indices):
    """Every spot that is not near an earlier one."""
    n = indptr.size - 1
    near = np.zeros(n, dtype=np.bool_)
    centres = np.empty(n, dtype=np.int64)
    n_centres = 0
    for spot in range(n):
        if not near[spot]:
            centres[n_centres] = spot
            n_centres += 1
            near[indices[indptr[spot] : indptr[spot + 1]]] = True
    return centres[:n_centres]


def rings(lattice: Lattice, n_rings: int) -> sps.csr_matrix:
    """Weight 1 for all spots within `n_rings` hops, the spot itself not among them."""
    indptr, indices, _ = lattice.hops(n_rings)
    return _square(np.ones(indices.size, dtype=np.float32), indices, indptr)


def _square(data: np.ndarray, indices: np.ndarray, indptr: np.ndarray) -> sps.csr_matrix:
    n = indptr.size - 1
    return sps.csr_matrix((data, indices.astype(np.int32), indptr), shape=(n, n))


def weighted_mean(weights: sps.csr_matrix, values: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Mean of `values` (n_spots, k) over the weights of every spot, and the `default` where a spot has no weights."""
    total = np.asarray(weights.sum(axis=1), dtype=np.float32).reshape(-1, 1)
    return np.where(total > 0, (weights @ values) / np.where(total > 0, total, 1), default)


def known_mean(weights: sps.csr_matrix, values: np.ndarray, known: np.ndarray, default: np.ndarray) -> np.ndarray:
    """Weighted mean over the known entries, and the `default` where there are none; `values` are zero elsewhere."""
    total = weights @ known.astype(np.float32)
    return np.where(total > 0, (weights @ values) / np.where(total > 0, total, 1), default)


def diffuse(
    residual: np.ndarray,
    known: np.ndarray,
    lattice: Lattice,
    strength: float,
    *,
    start: np.ndarray | None = None,
    tolerance: float = 1e-4,
) -> np.ndarray:
    """Minimise, for every gene, sum over known (x - r)^2 + strength * sum over edges (x_i - x_j)^2.

    The solution of (W + strength L) x = W r, with W the known entries and L the graph Laplacian, by conjugate
    gradients with the diagonal as preconditioner. It is zero where no known entry can be reached. `residual`, (n_spots,
    n_genes) float32, is zero where not known. Iteration ends once the norm of the remainder is below `tolerance` times
    that of the right side of the gene's equation.
    """
    weight = known.astype(np.float32)
    single = np.float32(strength)  # of the values' type
    graph = rings(lattice, 1)
    degree = np.diff(graph.indptr).astype(np.float32)[:, None]
    diagonal = weight + single * degree

    def product(x: np.ndarray) -> np.ndarray:
        return diagonal * x - single * (graph @ x)

    scale = np.divide(1, diagonal, out=np.ones_like(diagonal), where=diagonal > 0)
    x = np.zeros_like(residual) if start is None else start.copy()
    left = residual - product(x)
    left[:, ~known.any(axis=0)] = 0  # nothing to learn from, whatever the start is
    enough = tolerance**2 * _dot(residual, residual)
    direction = scale * left
    old = _dot(left, direction)
    for _ in range(500):
        if (_dot(left, left) <= enough).all():
            break
        image = product(direction)
        curvature = _dot(direction, image)
        step = ratio(old, curvature, default=0.0).astype(np.float32)
        x += step * direction
        left -= step * image
        image = scale * left
        new = _dot(left, image)
        direction *= ratio(new, old, default=0.0).astype(np.float32)
        direction += image
        old = new
    return x


def _dot(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Inner products of the columns, summed in double precision."""
    return np.einsum("sg,sg->g", one, other, dtype=np.float64)


def similar_neighbors(
    lattice: Lattice, n_rings: int, n_neighbors: int, tables: tuple[np.ndarray, ...]
) -> sps.csr_matrix:
    """Weights of the most similar spots within `n_rings` hops, adding up to 1, or none where no spot is similar.

    The similarity is the product of the cosines between the rows of each table (n_spots, k), negative ones as zero. Of
    every spot the `n_neighbors` largest are kept, the nearer and earlier one first among equals.
    """
    indptr, indices, _ = lattice.hops(n_rings)
    source = np.repeat(np.arange(lattice.n_spots), np.diff(indptr))
    weight = np.ones(indices.size, dtype=np.float32)
    for table in tables:
        unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
        for start in range(0, indices.size, _PAIRS):
            part = slice(start, start + _PAIRS)
            cosine = np.einsum("ek,ek->e", unit[source[part]], unit[indices[part]])
            weight[part] *= np.maximum(cosine, 0)
    order = np.lexsort((-weight, source))  # stable, so ties stay in the order of the hops
    place = np.arange(indices.size) - indptr[source]  # rank within the spot, in that order
    weight[order[place >= n_neighbors]] = 0
    total = np.bincount(source, weight, lattice.n_spots)
    weight = np.divide(weight, total[source], out=np.zeros_like(weight), where=weight > 0, casting="unsafe")
    kernel = _square(weight, indices, indptr)
    kernel.eliminate_zeros()
    return kernel
