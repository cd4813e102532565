"""pl.lattice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import spared_sc as sp
from helpers import KEY
from helpers.figures import panels
from helpers.structure_plots import SECTIONS, correct, labelled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=correct)


def edges(ax: Axes) -> list[frozenset]:
    return [frozenset(map(tuple, np.round(segment, 4))) for segment in labelled(ax)["edges"].get_segments()]


def expected_edges(adata: AnnData, rows: np.ndarray, scale: float) -> tuple[set, np.ndarray]:
    """Pairs of spots one step apart on the hexagonal array, by comparing all with all."""
    row, col = adata.obs[["array_row", "array_col"]].to_numpy()[rows].T
    d_row, d_col = abs(row[:, None] - row), abs(col[:, None] - col)
    touch = ((d_row == 0) & (d_col == 2)) | ((d_row == 1) & (d_col == 1))
    xy = np.round(adata.obsm["spatial"][rows] * scale, 4)
    pairs = {frozenset([tuple(xy[i]), tuple(xy[j])]) for i, j in zip(*np.nonzero(touch), strict=True)}
    return pairs, touch.sum(axis=1)


def rows_of(adata: AnnData, library: str) -> np.ndarray:
    return np.flatnonzero(adata.obs["library_id"] == library)


def scale_of(adata: AnnData, library: str) -> float:
    return adata.uns["spatial"][library]["scalefactors"]["tissue_hires_scalef"]


def test_lattice_draws_every_edge_once_and_colours_spots_by_neighbours(adata):
    fig = sp.pl.lattice(adata, **KEY)
    assert isinstance(fig, Figure)
    fig.canvas.draw()
    assert len(panels(fig)) == 3
    seen = set()
    for ax, library in zip(panels(fig), ["library_1", "library_2", "library_3"], strict=True):
        rows, scale = rows_of(adata, library), scale_of(adata, library)
        pairs, number = expected_edges(adata, rows, scale)
        drawn = edges(ax)
        assert len(drawn) == len(pairs)
        assert set(drawn) == pairs
        spots = labelled(ax)["spots"]
        np.testing.assert_allclose(spots.get_offsets(), adata.obsm["spatial"][rows] * scale)
        np.testing.assert_array_equal(spots.get_array(), number)
        colours = [tuple(c) for c in spots.get_facecolors().round(4)]
        assert len(set(zip(number, colours, strict=True))) == len(set(number)) == len(set(colours))
        seen |= set(zip(number, colours, strict=True))
        assert ax.get_title() == f"{library}\n{rows.size} spots, {(number == 0).sum()} without a neighbour"
        assert labelled(ax)["edges"].get_zorder() < spots.get_zorder()
        assert len(ax.images) == 1
    assert len(dict(seen)) == len(seen)  # one colour per number over all panels
    bar = next(ax for ax in fig.axes if ax.get_label() == "<colorbar>")
    assert bar.get_yticks().tolist() == list(range(7))


def test_spots_alone_stand_out():
    row_col = np.array([[0, 0], [0, 2], [0, 10]])
    obs = pd.DataFrame(row_col, columns=["array_row", "array_col"], index=["a", "b", "c"])
    adata = AnnData(np.ones((3, 2)), obs=obs, obsm={"spatial": 50.0 * row_col[:, ::-1]})
    ax = panels(sp.pl.lattice(adata))[0]
    ax.figure.canvas.draw()
    spots = labelled(ax)["spots"]
    together, also, alone = spots.get_widths()
    assert together == also < alone < 100  # the pitch
    assert [to_hex(colour) == "#d55e00" for colour in spots.get_facecolors()] == [False, False, True]
    assert ax.get_title().endswith("3 spots, 1 without a neighbour")
    plt.close(ax.figure)
    sp.pl.lattice(adata[["c"]].copy()).canvas.draw()


def test_graph_without_any_edge():
    adata = AnnData(np.ones((3, 2)), obsm={"spatial": np.eye(3, 2) * 100})
    adata.obsp["none"] = sps.csr_matrix((3, 3))
    fig = sp.pl.lattice(adata, connectivity_key="none")
    fig.canvas.draw()
    assert not edges(panels(fig)[0])
    assert fig.axes[-1].get_yticks().tolist() == [0]


def test_lattice_of_several_rings_is_the_written_graph(adata):
    sp.pp.lattice_neighbors(adata, n_rings=2, key_added="two", **KEY)
    fig = sp.pl.lattice(adata, n_rings=2, libraries=["library_3", "library_1"], **KEY)
    assert [ax.get_title().split("\n")[0] for ax in panels(fig)] == ["library_3", "library_1"]
    ours = [(sorted(map(sorted, edges(ax))), labelled(ax)["spots"].get_array()) for ax in panels(fig)]
    assert "within 2 hops" in fig.axes[-1].get_ylabel()
    plt.close(fig)
    fig = sp.pl.lattice(adata, connectivity_key="two_connectivities", libraries=["library_3", "library_1"], **KEY)
    for ax, (pairs, number), library in zip(panels(fig), ours, ["library_3", "library_1"], strict=True):
        assert sorted(map(sorted, edges(ax))) == pairs
        np.testing.assert_array_equal(labelled(ax)["spots"].get_array(), number)
        rows = rows_of(adata, library)
        graph = adata.obsp["two_connectivities"][rows][:, rows]
        assert len(pairs) == graph.nnz // 2


def test_graph_in_one_direction_with_loops_and_stored_zeros():
    adata = AnnData(np.ones((5, 2)), obsm={"spatial": np.c_[np.arange(5), np.zeros(5)] * 100.0})
    graph = sps.csr_matrix((np.array([0.5, 2, 0, 1, 1]), ([0, 1, 2, 3, 4], [1, 0, 3, 3, 2])), shape=(5, 5))
    adata.obsp["mine"] = graph
    ax = panels(sp.pl.lattice(adata, connectivity_key="mine"))[0]
    assert sorted(map(sorted, edges(ax))) == [[(0, 0), (100, 0)], [(200, 0), (400, 0)]]
    np.testing.assert_array_equal(labelled(ax)["spots"].get_array(), [1, 1, 1, 0, 1])
    assert adata.obsp["mine"].nnz == 5  # stored zeros and loops are left alone


@pytest.mark.parametrize(("kind", "most"), [("hex", 6), ("grid", 8)])
def test_scale_ends_at_a_full_neighbourhood(kind, most):
    adata = sp.datasets.synthetic(n_libraries=1, n_genes=5, shape=(4, 4), lattice=kind, image=False)
    few = adata[:2].copy()
    fig = sp.pl.lattice(few if kind == "hex" else adata)
    assert fig.axes[-1].get_yticks().tolist() == list(range(most + 1))
    assert not panels(fig)[0].images


def test_lattice_in_given_axes_and_window(adata):
    fig, axes = plt.subplots(1, 2)
    assert sp.pl.lattice(adata, libraries="library_2", ax=axes[1], crop=False, **KEY) is axes[1]
    assert plt.get_fignums() == [fig.number]
    assert not axes[0].collections
    height, width = adata.uns["spatial"]["library_2"]["images"]["hires"].shape[:2]
    assert axes[1].get_xlim() == (-0.5, width - 0.5)
    assert axes[1].get_ylim() == (height - 0.5, -0.5)
    plt.close(fig)
    ax = panels(sp.pl.lattice(adata, libraries="library_2", img=False, **KEY))[0]
    assert not ax.images
    assert labelled(ax)["spots"].get_offsets().max() > width  # full-resolution pixels


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"connectivity_key": "nowhere"}, KeyError, ["'nowhere'", "'across'", "connectivity_key"]),
        ({"connectivity_key": "across"}, ValueError, ["1 pairs", "different libraries", "sp.pp.lattice_neighbors"]),
        ({"libraries": "Z"}, KeyError, ["'Z'", "'library_1'"]),
        ({"libraries": []}, ValueError, ["empty", "'library_1'"]),
        ({"library_key": None}, ValueError, ["library_key=", "'library_id'"]),
        ({"spatial_key": "X_umap"}, KeyError, ["'X_umap'", "spatial_key="]),
        ({"img_key": "fullres"}, KeyError, ["'fullres'", "img=False"]),
        ({"n_rings": 0}, ValueError, ["n_rings=0"]),
        ({"n_rings": 1.5}, ValueError, ["n_rings=1.5", "whole number"]),
    ],
)
def test_errors_of_the_lattice(adata, change, kind, words):
    one, other = rows_of(adata, "library_1")[0], rows_of(adata, "library_2")[0]
    adata.obsp["across"] = sps.csr_matrix(([1.0], ([one], [other])), shape=(adata.n_obs, adata.n_obs))
    with pytest.raises(kind) as error:
        sp.pl.lattice(adata, **{**KEY, **change})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not plt.get_fignums()


def test_axes_hold_one_library_only(adata):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"one panel, but 3 libraries.*libraries="):
        sp.pl.lattice(adata, ax=ax, **KEY)
