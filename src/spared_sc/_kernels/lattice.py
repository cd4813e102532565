"""Neighbours on the capture array: exact hexagonal and square lattices, and hops through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from spared_sc._kernels.jit import compiled

# Steps (row, column) to the neighbouring places. On Visium's array, columns of one row are two apart.
_STEPS = {
    "hex": ((0, -2), (0, 2), (-1, -1), (-1, 1), (1, -1), (1, 1)),
    "grid": ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
    "grid4": ((-1, 0), (0, -1), (0, 1), (1, 0)),
}
KINDS = ("auto", *_STEPS)
_REACH = 2  # steps to the farthest of the nearest spots on a square array
_NEAREST = sorted(
    (
        (row, col)
        for row in range(-_REACH, _REACH + 1)
        for col in range(-_REACH, _REACH + 1)
        if 0 < row**2 + col**2 <= _REACH**2
    ),
    key=lambda step: (step[0] ** 2 + step[1] ** 2, step),
)


@dataclass(frozen=True)
class Lattice:
    """Which spots touch, as a graph in CSR form over all spots; libraries are never joined."""

    indptr: np.ndarray  # (n_spots + 1,)
    # (n_edges,), sorted within a spot; each edge in both directions, but for `nearest_on_grids`
    indices: np.ndarray
    kinds: np.ndarray  # (n_spots,) "hex", "grid", "grid4" or "pixels"; one kind within a library

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return self.indptr.size - 1

    def hops(self, n_rings: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Spots within `n_rings` hops of every spot: indptr, indices and hops, in CSR form without the spot itself.

        A hop goes from a spot to a present neighbour, so a gap in the tissue is walked around. The spots around one are
        sorted by hops, then by index.
        """
        return _hops(self.indptr, self.indices, min(n_rings, self.n_spots))  # no spot is farther away

    def subset(self, spots: np.ndarray) -> Lattice:
        """The lattice of some of the spots, with spot `spots[i]` at place i; the others are no neighbours any more."""
        place = np.full(self.n_spots, -1)
        place[spots] = np.arange(spots.size)
        source = place[np.repeat(np.arange(self.n_spots), np.diff(self.indptr))]
        target = place[self.indices]
        kept = (source >= 0) & (target >= 0)
        return _from_edges(source[kept], target[kept], self.kinds[spots])

    def table(self, n_rings: int) -> np.ndarray:
        """Spots within `n_rings` hops as an int64 table (n_spots, k), padded with `n_spots`."""
        indptr, indices, _ = self.hops(n_rings)
        size = np.diff(indptr)
        table = np.full((self.n_spots, int(size.max(initial=0))), self.n_spots, dtype=np.int64)
        row = np.repeat(np.arange(self.n_spots), size)
        table[row, np.arange(indices.size) - indptr[row]] = indices
        return table


def guess_kind(position: np.ndarray) -> str:
    """`"hex"` where row + column of all spots of a library has one parity, as on Visium's array; `"grid"` otherwise."""
    parity = position.sum(axis=1) % 2
    return "hex" if (parity == parity[:1]).all() else "grid"


def from_array(position: np.ndarray, library: np.ndarray, *, kind: str | Sequence[str] = "auto") -> Lattice:
    """Lattice from integer places on the array, (n_spots, 2) row and column; no place occurs twice within a library.

    `library` (n_spots,) is 0, 1, ...; `kind` is `"hex"` (6 neighbours), `"grid"` (8), `"grid4"` (4) or `"auto"`, for all
    libraries or for each.
    """
    kinds = _kinds(position, library, kind)
    at = _at(position, library)
    source, target = [], []
    for name in np.unique(kinds):
        spots = np.flatnonzero(kinds == name)
        for step in _STEPS[name]:
            found = at(spots, step)
            source.append(spots[found >= 0])
            target.append(found[found >= 0])
    return _from_edges(np.concatenate(source), np.concatenate(target), kinds)


def nearest_on_grids(lattice: Lattice, position: np.ndarray, library: np.ndarray, k: int) -> Lattice:
    """A lattice whose spots on square arrays have their `k` nearest spots as neighbours, at most two places away.

    Arguments are as of `from_array`, `lattice` its result. An edge leads from a spot to its nearest, and not always
    back. Of spots at the same distance the first by row, then by column, is taken.
    """
    if not len(position):
        return lattice
    at = _at(position, library)
    spots = np.flatnonzero(lattice.kinds == "grid")
    taken = np.zeros(len(spots), dtype=int)
    others = lattice.kinds[np.repeat(np.arange(lattice.n_spots), np.diff(lattice.indptr))] != "grid"
    source = [np.repeat(np.arange(lattice.n_spots), np.diff(lattice.indptr))[others]]
    target = [lattice.indices[others]]
    for step in _NEAREST:
        found = at(spots, step)
        new = (found >= 0) & (taken < k)
        source.append(spots[new])
        target.append(found[new])
        taken += new
    return _from_edges(np.concatenate(source), np.concatenate(target), lattice.kinds)


def _at(position: np.ndarray, library: np.ndarray) -> Callable[[np.ndarray, tuple[int, int]], np.ndarray]:
    """A function that finds the spots (n,) a step of rows and columns, each up to two, from given ones; -1 for none."""
    row, col = (position - position.min(axis=0)).T.astype(np.int64)
    # One number for every place of every library; the margin keeps steps over the border from wrapping around.
    width, height = col.max() + 5, row.max() + 3
    place = (library.astype(np.int64) * height + row + 1) * width + col + 2
    order = np.argsort(place, kind="stable")
    sorted_place = place[order]

    def at(spots: np.ndarray, step: tuple[int, int]) -> np.ndarray:
        wanted = place[spots] + step[0] * width + step[1]
        found = np.minimum(np.searchsorted(sorted_place, wanted), len(place) - 1)
        return np.where(sorted_place[found] == wanted, order[found], -1)

    return at


def _kinds(position: np.ndarray, library: np.ndarray, kind: str | Sequence[str]) -> np.ndarray:
    """Kind of the lattice of every spot, the same within a library."""
    n_libraries = int(library.max()) + 1
    of_library = [kind] * n_libraries if isinstance(kind, str) else list(kind)
    for name in of_library:
        if name not in KINDS:
            raise ValueError(f"lattice kind {name!r} is unknown; choose {', '.join(map(repr, KINDS))}.")
    return np.array(
        [guess_kind(position[library == code]) if name == "auto" else name for code, name in enumerate(of_library)]
    )[library]


def nearest_distance(position: np.ndarray) -> float:
    """Median distance from a spot to its nearest neighbour; 1 for a single spot."""
    return float(np.median(cKDTree(position).query(position, k=2)[0][:, 1])) if len(position) > 1 else 1.0


def from_pixels(position: np.ndarray, library: np.ndarray) -> Lattice:
    """Lattice from positions alone: spots within 1.2 times the library's pitch touch.

    The pitch is the lower quartile of the distances to the nearest spot. The reach of 1.2 lies between the
    first and the second ring of both lattices (hexagonal: 1 and 1.73; square: 1 and 1.41, so four neighbours).
    """
    source, target = [], []
    for code in np.unique(library):
        rows = np.flatnonzero(library == code)
        if rows.size < 2:
            continue
        tree = cKDTree(position[rows])
        nearest = tree.query(position[rows], k=2)[0][:, 1]
        pairs = tree.query_pairs(1.2 * np.quantile(nearest, 0.25), output_type="ndarray")
        source += [rows[pairs[:, 0]], rows[pairs[:, 1]]]
        target += [rows[pairs[:, 1]], rows[pairs[:, 0]]]
    empty = np.zeros(0, dtype=np.int64)
    return _from_edges(
        np.concatenate([empty, *source]), np.concatenate([empty, *target]), np.full(len(position), "pixels")
    )


def fill_image(kind: str, pitch: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Places (row, column) and positions (x, y) of a lattice, `"hex"` or `"grid"`, that fills an image.

    `pitch` is the distance of neighbouring spots, and `shape` the height and width of the image, in pixels.
    """
    height, width = shape
    row_step, column_step = (pitch * np.sqrt(3) / 2, pitch / 2) if kind == "hex" else (pitch, pitch)
    rows, columns = np.arange(int(height // row_step)), np.arange(int(width // column_step))
    row, column = (index.ravel() for index in np.meshgrid(rows, columns, indexing="ij"))
    if kind == "hex":  # every other place, as on Visium's array
        used = (row + column) % 2 == 0
        row, column = row[used], column[used]
    xy = np.column_stack([(column + 0.5) * column_step, (row + 0.5) * row_step])
    return np.column_stack([row, column]), xy


def _from_edges(source: np.ndarray, target: np.ndarray, kinds: np.ndarray) -> Lattice:
    order = np.lexsort((target, source))
    indptr = np.zeros(kinds.size + 1, dtype=np.int64)
    np.cumsum(np.bincount(source, minlength=kinds.size), out=indptr[1:])
    return Lattice(indptr=indptr, indices=target[order].astype(np.int64), kinds=kinds)


@compiled
def _hops(indptr, indices, n_rings):
    """Breadth-first search from every spot, as far as `n_rings`."""
    n = indptr.size - 1
    seen = np.full(n, -1, dtype=np.int64)
    reached = np.empty(n, dtype=np.int64)
    out_ptr = np.zeros(n + 1, dtype=np.int64)
    out_idx = np.empty(max(16, indices.size), dtype=np.int64)
    out_hop = np.empty(out_idx.size, dtype=np.int64)
    total = 0
    for spot in range(n):
        seen[spot] = spot
        reached[0] = spot
        start, end = 0, 1
        for ring in range(1, n_rings + 1):
            ring_start = end
            for q in range(start, ring_start):
                for e in range(indptr[reached[q]], indptr[reached[q] + 1]):
                    other = indices[e]
                    if seen[other] != spot:
                        seen[other] = spot
                        reached[end] = other
                        end += 1
            reached[ring_start:end].sort()
            start = ring_start
            before, total = total, total + end - ring_start
            if total > out_idx.size:
                room = np.empty(max(out_idx.size, total), dtype=np.int64)
                out_idx, out_hop = np.concatenate((out_idx, room)), np.concatenate((out_hop, room))
            out_idx[before:total] = reached[ring_start:end]
            out_hop[before:total] = ring
        out_ptr[spot + 1] = total
    return out_ptr, out_idx[:total].copy(), out_hop[:total].copy()
