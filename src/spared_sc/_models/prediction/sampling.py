"""Which spots come together in a batch of a network, and which of them it predicts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
import torch

from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    from collections.abc import Iterator

    from spared_sc._kernels.lattice import Lattice
    from spared_sc._models.prediction.spots import Spots


@dataclass(frozen=True)
class Chosen:
    """Rows of the spots in a batch."""

    rows: np.ndarray  # (m,)
    predicted: np.ndarray  # (m,) bool: what the batch is for; the others are context

    @property
    def centres(self) -> np.ndarray:
        """Rows that are predicted."""
        return self.rows[self.predicted]


class Sampler(Protocol):
    """Batches of some spots."""

    divisible: ClassVar[bool]  # whether predictions are the same from smaller batches
    alone: ClassVar[bool]  # whether every spot is computed without the others of its batch

    def draw(self, generator: torch.Generator) -> Chosen:
        """A random batch to train on."""
        ...

    def sweep(self, size: int, centres: np.ndarray | None = None) -> Iterator[Chosen]:
        """Batches of `size` that predict all spots, or the `centres` among them, once each."""
        ...


def _shuffled(n: int, size: int, generator: torch.Generator) -> np.ndarray:
    """`size` of the numbers below `n` in random order."""
    return torch.randperm(n, generator=generator, device=generator.device)[:size].cpu().numpy()


def _parts(rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Rows in pieces of at most `size`."""
    return (rows[start : start + size] for start in range(0, len(rows), size))


@dataclass(frozen=True)
class SingleSpots:
    """Spots one by one."""

    divisible: ClassVar[bool] = True
    alone: ClassVar[bool] = True
    spots: Spots
    size: int  # of a training batch

    def draw(self, generator: torch.Generator) -> Chosen:
        """Random spots."""
        return _all_of(_shuffled(len(self.spots), self.size, generator))

    def sweep(self, size: int, centres: np.ndarray | None = None) -> Iterator[Chosen]:
        """Spots in order."""
        return map(_all_of, _parts(_rows(self.spots, centres), size))


@dataclass(frozen=True)
class Neighbourhoods:
    """Some spots and all that lie within `n_rings` hops of one of them.

    As many rounds of message passing as rings give the result of the whole graph, whichever spots share a batch.
    """

    divisible: ClassVar[bool] = True
    alone: ClassVar[bool] = False
    spots: Spots
    n_rings: int
    size: int  # centres of a training batch

    @cached_property
    def _reached(self) -> tuple[np.ndarray, np.ndarray]:
        indptr, indices, _ = present(self.spots.lattice, "lattice").hops(self.n_rings)
        return indptr, indices

    def _around(self, centres: np.ndarray) -> Chosen:
        indptr, indices = self._reached
        rows = np.unique(np.concatenate([centres, ranges_of(indptr, indices, centres)]))
        return Chosen(rows, np.isin(rows, centres))

    def draw(self, generator: torch.Generator) -> Chosen:
        """The surroundings of random spots."""
        return self._around(_shuffled(len(self.spots), self.size, generator))

    def sweep(self, size: int, centres: np.ndarray | None = None) -> Iterator[Chosen]:
        """The surroundings of spots in order."""
        return map(self._around, _parts(_rows(self.spots, centres), size))


@dataclass(frozen=True)
class WholeSections:
    """One section at a time, or a tile of one, with a rim of context.

    A section of more than `most_spots` is halved along its longer side, and its halves again. Spots within `halo` hops of
    a tile are computed with it. Tiles depend on the places of a section's spots alone.
    """

    divisible: ClassVar[bool] = False
    alone: ClassVar[bool] = False
    spots: Spots
    most_spots: int | None = None
    halo: int = 0

    @cached_property
    def tiles(self) -> list[Chosen]:
        """All tiles of all sections."""
        place = present(self.spots.place, "place")
        tiles = []
        for code in np.unique(self.spots.library):
            rows = np.flatnonzero(self.spots.library == code)
            rows = rows[np.lexsort(place[rows].T[::-1])]
            for tile in _halved(rows, place * self._steps(code), self.most_spots or len(rows)):
                tiles.append(self._with_rim(tile) if len(tile) < len(rows) else _all_of(tile))
        return tiles

    def _steps(self, code: int) -> tuple[float, float]:
        """Distance of two rows and of two columns on the array; of Visium's, neighbours in a row are two columns apart."""
        kind = present(self.spots.lattice, "lattice").kinds[self.spots.library == code][0]
        return (np.sqrt(3), 1.0) if kind == "hex" else (1.0, 1.0)

    def _with_rim(self, tile: np.ndarray) -> Chosen:
        lattice = present(self.spots.lattice, "lattice")
        rows = tile
        for _ in range(self.halo):
            rows = np.union1d(rows, ranges_of(lattice.indptr, lattice.indices, rows))
        place = present(self.spots.place, "place")
        rows = rows[np.lexsort(place[rows].T[::-1])]
        return Chosen(rows, np.isin(rows, tile))

    def draw(self, generator: torch.Generator) -> Chosen:
        """A random tile."""
        return self.tiles[int(torch.randint(len(self.tiles), (), generator=generator, device=generator.device))]

    def sweep(self, size: int, centres: np.ndarray | None = None) -> Iterator[Chosen]:
        """All tiles, or those with some of the `centres`; `size` changes nothing."""
        return (tile for tile in self.tiles if centres is None or np.isin(tile.centres, centres).any())


def _rows(spots: Spots, centres: np.ndarray | None) -> np.ndarray:
    return np.arange(len(spots)) if centres is None else centres


def _all_of(rows: np.ndarray) -> Chosen:
    return Chosen(rows, np.ones(len(rows), dtype=bool))


def _halved(rows: np.ndarray, place: np.ndarray, most: int) -> Iterator[np.ndarray]:
    """Tiles of at most `most` spots, halved across their longer side until they are small enough."""
    if len(rows) <= most:
        yield rows
        return
    across = int(np.ptp(place[rows], axis=0).argmax())
    order = np.lexsort((place[rows][:, 1 - across], place[rows][:, across]))
    half = len(rows) // 2
    for part in (order[:half], order[half:]):
        yield from _halved(rows[np.sort(part)], place, most)


def ranges_of(indptr: np.ndarray, indices: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The entries of some rows of a matrix in CSR form, one row after the other."""
    size = indptr[rows + 1] - indptr[rows]
    start = np.repeat(indptr[rows] - np.concatenate([[0], np.cumsum(size)[:-1]]), size)
    return indices[start + np.arange(int(size.sum()))] if len(rows) else indices[:0]


def edges_among(lattice: Lattice, rows: np.ndarray) -> np.ndarray:
    """Edges (2, e) of the lattice between some of its spots, as numbers of these; both directions of each."""
    here = np.full(lattice.n_spots, -1)
    here[rows] = np.arange(len(rows))
    source = np.repeat(np.arange(len(rows)), lattice.indptr[rows + 1] - lattice.indptr[rows])
    target = here[ranges_of(lattice.indptr, lattice.indices, rows)]
    return np.stack([source[target >= 0], target[target >= 0]])
