"""_models/prediction/sampling."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
import torch

from spared_sc._kernels.lattice import from_array
from spared_sc._models.prediction.sampling import Neighbourhoods, SingleSpots, WholeSections, edges_among
from spared_sc._models.prediction.spots import Spots


def spots_of(shape=(9, 7), n_libraries=2, kind="hex", seed=0) -> Spots:
    """Sections with gaps, in random order of rows."""
    rng = np.random.default_rng(seed)
    step = 2 if kind == "hex" else 1
    place = np.array(
        [(r, step * c + (r % 2 if kind == "hex" else 0)) for r in range(shape[0]) for c in range(shape[1])]
    )
    places, library = np.tile(place, (n_libraries, 1)), np.repeat(np.arange(n_libraries), len(place))
    kept = rng.permutation(len(library))[: int(0.9 * len(library))]
    places, library = places[kept], library[kept]
    lattice = from_array(places, library, kind=kind)
    return Spots(library, place=places, lattice=lattice, target=np.zeros((len(library), 1), np.float32))


def neighbours(spots: Spots) -> list[set[int]]:
    """By their distance on the array: two columns, or a row and a column, apart."""
    near = []
    for i, (row, column) in enumerate(spots.place):
        apart = np.abs(spots.place - (row, column))
        touch = ((apart == (0, 2)).all(axis=1) | (apart == (1, 1)).all(axis=1)) & (spots.library == spots.library[i])
        near.append(set(np.flatnonzero(touch)))
    return near


def within(near: list[set[int]], start: set[int], n_rings: int) -> set[int]:
    """Breadth-first search."""
    hops, queue = dict.fromkeys(start, 0), deque(start)
    while queue:
        spot = queue.popleft()
        for other in near[spot] if hops[spot] < n_rings else ():
            if other not in hops:
                hops[other] = hops[spot] + 1
                queue.append(other)
    return set(hops)


SAMPLERS = {
    "single": lambda spots: SingleSpots(spots, 10),
    "neighbourhoods": lambda spots: Neighbourhoods(spots, 2, 10),
    "sections": lambda spots: WholeSections(spots),
    "tiles": lambda spots: WholeSections(spots, 20, 2),
}


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_sweep_predicts_every_spot_once(make, size):
    spots = spots_of()
    sampler = make(spots)
    batches = list(sampler.sweep(size))
    assert sorted(np.concatenate([batch.centres for batch in batches])) == list(range(len(spots)))
    for batch in batches:
        assert len(set(batch.rows)) == len(batch.rows) == len(batch.predicted)
        assert not sampler.divisible or len(batch.centres) <= size
    some = np.array([5, 3, 40])
    found = np.concatenate([batch.centres for batch in sampler.sweep(size, some)])
    assert set(some) <= set(found)
    assert not sampler.divisible or sorted(found) == sorted(some)


@pytest.mark.parametrize("make", SAMPLERS.values(), ids=SAMPLERS)
def test_draws_follow_the_generator(make):
    sampler = make(spots_of())
    draws = [[sampler.draw(torch.Generator().manual_seed(seed)).rows.tolist() for seed in (0, 0, *range(20))]]
    assert draws[0][0] == draws[0][1]
    assert len({tuple(rows) for rows in draws[0]}) > 1
    assert {len(sampler.draw(torch.Generator()).centres)} <= set(range(1, 64))


@pytest.mark.parametrize("n_rings", [1, 3])
def test_neighbourhoods_are_unions_of_balls(n_rings):
    spots = spots_of()
    near = neighbours(spots)
    for batch in Neighbourhoods(spots, n_rings, 5).sweep(5):
        assert set(batch.rows) == within(near, set(batch.centres), n_rings)


def test_a_section_is_whole_and_sorted_by_place():
    spots = spots_of()
    for code, batch in enumerate(WholeSections(spots).sweep(3)):
        assert set(spots.library[batch.rows]) == {code}
        assert batch.predicted.all()
        assert [tuple(place) for place in spots.place[batch.rows]] == sorted(
            tuple(place) for place in spots.place[spots.library == code]
        )


@pytest.mark.parametrize("halo", [0, 1, 3])
def test_tiles_have_a_rim(halo):
    spots = spots_of()
    near, tiles = neighbours(spots), WholeSections(spots, 20, halo).tiles
    assert len(tiles) == 8  # 56 spots of a section are halved twice
    for tile in tiles:
        assert 0 < len(tile.centres) <= 20
        assert set(tile.rows) == within(near, set(tile.centres), halo)


def test_tiles_depend_on_places_alone():
    spots = spots_of()
    order = np.random.default_rng(1).permutation(len(spots))
    alone = spots.take(np.flatnonzero(spots.library == 1))

    def places(spots, tiles):
        return {
            (spots.library[tile.rows[0]], frozenset(map(tuple, spots.place[tile.centres])), len(tile.rows))
            for tile in tiles
        }

    whole = places(spots, WholeSections(spots, 20, 1).tiles)
    assert places(spots.take(order), WholeSections(spots.take(order), 20, 1).tiles) == whole
    assert places(alone, WholeSections(alone, 20, 1).tiles) == {one for one in whole if one[0] == 1}


def test_the_longer_side_is_halved():
    wide = spots_of((4, 12), 1, "grid4")
    low, high = WholeSections(wide, 30).tiles
    assert wide.place[low.rows][:, 1].max() <= wide.place[high.rows][:, 1].min()
    hexagonal = spots_of((12, 8), 1)  # 11 steps of 1.73 down, 15 of 1 across
    low, high = WholeSections(hexagonal, 60).tiles
    assert hexagonal.place[low.rows][:, 0].max() <= hexagonal.place[high.rows][:, 0].min()


def test_edges_are_those_between_the_spots():
    spots = spots_of()
    near = neighbours(spots)
    rows = np.random.default_rng(2).permutation(len(spots))[:50]
    expected = {(i, j) for i, one in enumerate(rows) for j, other in enumerate(rows) if other in near[one]}
    edges = edges_among(spots.lattice, rows)
    assert len(edges.T) == len(expected)
    assert {tuple(edge) for edge in edges.T} == expected
    assert edges_among(spots.lattice, rows[:0]).shape == (2, 0)
