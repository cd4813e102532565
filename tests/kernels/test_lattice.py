"""_kernels/lattice."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sps

from helpers.lattices import STEPS, collection, neighbours_by_dictionary, places
from spared_sc._kernels import lattice as lattices

# squidpy's docstrings name parameters that docrep does not know
pytestmark = pytest.mark.filterwarnings("ignore:.*is not a valid key!:SyntaxWarning")


def neighbours(lattice: lattices.Lattice) -> list[set[int]]:
    parts = [part.tolist() for part in np.split(lattice.indices, lattice.indptr[1:-1])]
    assert all(part == sorted(set(part)) for part in parts)
    return [set(part) for part in parts]


@pytest.mark.parametrize("missing", [0, 0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("kind", ["hex", "grid", "grid4"])
def test_array_neighbours_are_those_of_a_dictionary_of_places(kind, missing):
    position, library = collection(kind, missing)
    lattice = lattices.from_array(position, library, kind=kind)
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])
    assert lattice.n_spots == len(position)
    assert set(lattice.kinds) == {kind}


@pytest.mark.parametrize("offset", [(0, 0), (1, 0), (0, 1), (-3, -5), (-8, 3), (1000, 70_001)])
@pytest.mark.parametrize("kind", ["hex", "grid"])
def test_lattice_kind_is_guessed_at_any_offset(kind, offset):
    position, library = collection(kind, 0.3, offset=offset, sizes=((9, 8), (7, 11)))
    lattice = lattices.from_array(position, library)
    assert set(lattice.kinds) == {kind}
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])


def test_hex_libraries_may_differ_in_parity():
    position, library = collection("hex", 0.2)
    position[library == 1] += (1, 0)
    lattice = lattices.from_array(position, library)
    assert set(lattice.kinds) == {"hex"}
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS["hex"])


def test_every_library_has_its_own_kind_of_lattice():
    position, library = collection("hex", 0.2, sizes=((9, 8), (7, 11)))
    square, squares = collection("grid", 0.2, sizes=((6, 7), (8, 5)))
    order = np.random.default_rng(1).permutation(len(library) + len(squares))
    position = np.concatenate([position, square])[order]
    library = np.concatenate([2 * library, 2 * squares + 1])[order]
    expected = [
        neighbours_by_dictionary(position, library, STEPS[kind])[spot]
        for spot, kind in enumerate(np.where(library % 2, "grid", "hex"))
    ]
    lattice = lattices.from_array(position, library)
    assert neighbours(lattice) == expected
    np.testing.assert_array_equal(lattice.kinds, np.where(library % 2, "grid", "hex"))
    named = lattices.from_array(position, library, kind=["auto", "grid4", "hex", "auto"])
    assert [str(named.kinds[library == code][0]) for code in range(4)] == ["hex", "grid4", "hex", "grid"]
    part = np.flatnonzero(library > 0)[::-1]
    np.testing.assert_array_equal(lattice.subset(part).kinds, lattice.kinds[part])


def nearest_by_hand(position, library, spot, k) -> list[int]:
    """Spots of the same library by distance, then row, then column; at most `k`, at most two places away."""
    step = position - position[spot]
    far = (step**2).sum(axis=1)
    near = [other for other in range(len(position)) if library[other] == library[spot] and 0 < far[other] <= 4]
    return sorted(near, key=lambda other: (far[other], *step[other]))[:k]


@pytest.mark.parametrize("missing", [0, 0.1, 0.5, 0.8])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_nearest_spots_of_square_arrays_by_brute_force(missing, k):
    """Libraries of hexagonal arrays keep their neighbours."""
    position, library = collection("hex", missing, sizes=((9, 8), (7, 11)))
    square, squares = collection("grid", missing, sizes=((6, 7), (8, 5), (1, 1)))
    order = np.random.default_rng(1).permutation(len(library) + len(squares))
    position = np.concatenate([position, square - 40])[order]
    library = np.concatenate([2 * library, 2 * squares + 1])[order]
    kinds = np.array(["hex", "grid"])[np.arange(library.max() + 1) % 2]
    lattice = lattices.from_array(position, library, kind=list(kinds))
    found = neighbours(lattices.nearest_on_grids(lattice, position, library, k))
    for spot, before in enumerate(neighbours(lattice)):
        by_hand = set(nearest_by_hand(position, library, spot, k)) if library[spot] % 2 else before
        assert found[spot] == by_hand


def test_inside_a_square_array_the_nearest_are_those_that_touch():
    position, library = places("grid", 7, 6), np.zeros(42, dtype=int)
    inside = ((position > 0) & (position < position.max(axis=0))).all(axis=1)
    for k, kind in ((4, "grid4"), (8, "grid")):
        lattice = lattices.from_array(position, library, kind="grid")
        nearest = neighbours(lattices.nearest_on_grids(lattice, position, library, k))
        touching = neighbours(lattices.from_array(position, library, kind=kind))
        assert [nearest[spot] for spot in np.flatnonzero(inside)] == [touching[spot] for spot in np.flatnonzero(inside)]
        assert {len(one) for one in nearest} == ({4} if k == 4 else {5, 7, 8})  # at the border from two places away


def test_spots_at_opposite_borders_of_a_library_or_of_two_do_not_touch():
    # A wrap-around over the last column, or from one library's last row into the next one's first, would join these.
    position = np.array([[0, 0], [0, 9], [1, 0], [1, 9], [9, 0], [9, 9], [0, 0], [0, 9]])
    library = np.array([0, 0, 0, 0, 0, 0, 1, 1])
    assert neighbours(lattices.from_array(position, library, kind="grid")) == [
        {2}, {3}, {0}, {1}, set(), set(), set(), set(),
    ]  # fmt: skip


def test_fragments_of_three_spots():
    triangle, line, corner = [[0, 0], [0, 2], [1, 1]], [[4, 0], [4, 2], [4, 4]], [[0, 20], [1, 21], [2, 20]]
    position = np.array(triangle + line + corner)
    lattice = lattices.from_array(position, np.repeat([0, 1, 0], 3))
    assert neighbours(lattice) == [{1, 2}, {0, 2}, {0, 1}, {4}, {3, 5}, {4}, {7}, {6, 8}, {7}]


def test_one_spot_has_no_neighbours():
    lattice = lattices.from_array(np.array([[5, 7]]), np.array([0]))
    assert neighbours(lattice) == [set()]
    assert lattice.table(3).shape == (1, 0)
    assert [part.tolist() for part in lattice.hops(2)] == [[0, 0], [], []]


def test_unknown_lattice_kind_is_named():
    with pytest.raises(ValueError, match="'hexagon' is unknown; choose 'auto', 'hex', 'grid', 'grid4'"):
        lattices.from_array(np.zeros((1, 2), dtype=int), np.zeros(1, dtype=int), kind="hexagon")


@pytest.mark.parametrize("n_rings", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("missing", [0, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["hex", "grid"])
def test_hops_are_shortest_paths_through_present_spots(kind, missing, n_rings):
    import networkx

    position, library = collection(kind, missing, sizes=((8, 8), (5, 9)))
    lattice = lattices.from_array(position, library)
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(position)))
    graph.add_edges_from(
        (i, j) for i, near in enumerate(neighbours_by_dictionary(position, library, STEPS[kind])) for j in near
    )
    indptr, indices, hops = lattice.hops(n_rings)
    table = lattice.table(n_rings)
    for spot in range(len(position)):
        expected = networkx.single_source_shortest_path_length(graph, spot, cutoff=n_rings)
        expected = sorted((hop, other) for other, hop in expected.items() if other != spot)
        part = slice(indptr[spot], indptr[spot + 1])
        assert list(zip(hops[part], indices[part], strict=True)) == expected
        padding = [lattice.n_spots] * (table.shape[1] - len(expected))
        assert table[spot].tolist() == [other for _, other in expected] + padding
    assert table.shape[1] == np.diff(indptr).max()


@pytest.mark.parametrize(("n_rings", "size"), [(1, 6), (2, 18), (3, 36), (4, 60)])
def test_size_of_a_full_hexagonal_neighbourhood(n_rings, size):
    position = places("hex", 9, 9)
    table = lattices.from_array(position, np.zeros(81, dtype=int)).table(n_rings)
    assert table.shape == (81, size)
    assert (table[40] < 81).all()  # the middle spot has them all


def test_reordered_lattice_is_the_lattice_of_reordered_spots():
    position, library = collection("hex", 0.4)
    order = np.random.default_rng(1).permutation(len(position))
    reordered = lattices.from_array(position, library).subset(order)
    expected = lattices.from_array(position[order], library[order])
    np.testing.assert_array_equal(reordered.indptr, expected.indptr)
    np.testing.assert_array_equal(reordered.indices, expected.indices)
    np.testing.assert_array_equal(reordered.kinds, expected.kinds)


@pytest.mark.parametrize("n_rings", [1, 2])
@pytest.mark.parametrize(("kind", "n_neighs"), [("hex", 6), ("grid4", 4), ("grid", 8)])
def test_full_lattice_equals_squidpys_grid(kind, n_neighs, n_rings):
    import squidpy as sq
    from anndata import AnnData

    position = places(kind, 10, 11)
    xy = position[:, ::-1] * ([0.5, np.sqrt(0.75)] if kind == "hex" else [1.0, 1.0])
    adata = AnnData(np.zeros((len(position), 1), dtype=np.float32), obsm={"spatial": xy * 100})
    if hasattr(sq.gr, "spatial_neighbors_grid"):
        sq.gr.spatial_neighbors_grid(adata, n_neighs=n_neighs, n_rings=n_rings)
    else:  # of older versions
        sq.gr.spatial_neighbors(adata, coord_type="grid", n_neighs=n_neighs, n_rings=n_rings)
    indptr, indices, _ = lattices.from_array(position, np.zeros(len(position), dtype=int), kind=kind).hops(n_rings)
    ours = sps.csr_matrix((np.ones(indices.size), indices, indptr), shape=(len(position),) * 2)
    np.testing.assert_array_equal(ours.toarray(), adata.obsp["spatial_connectivities"].toarray() > 0)


@pytest.mark.parametrize("missing", [0, 0.3, 0.6])
@pytest.mark.parametrize("kind", ["hex", "grid4"])
def test_pixel_neighbours_are_those_of_the_array(kind, missing):
    position, library = collection(kind, missing, sizes=((12, 12), (9, 14)))
    pitch = np.array([100.0, 37.0])[library][:, None]  # libraries of different resolution
    xy = position[:, ::-1] * ([0.5, np.sqrt(0.75)] if kind == "hex" else [1.0, 1.0]) * pitch
    xy += np.random.default_rng(2).uniform(-0.04, 0.04, xy.shape) * pitch
    lattice = lattices.from_pixels(xy, library)
    assert set(lattice.kinds) == {"pixels"}
    assert neighbours(lattice) == neighbours_by_dictionary(position, library, STEPS[kind])


def test_pixel_libraries_of_one_spot_have_no_neighbours():
    xy = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 1.0]])
    assert neighbours(lattices.from_pixels(xy, np.array([0, 1, 2]))) == [set(), set(), set()]
