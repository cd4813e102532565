"""Plots of what lies behind the values: the genes' ranking, the batches and the graph of the spots."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData
from figures import assert_nothing_is_cut_off, panels
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure

import spared_sc as sp

KEY = {"library_key": "library_id"}


pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture(scope="module")
def made() -> AnnData:
    adata = sp.datasets.synthetic(n_libraries=3, shape=(10, 10), n_genes=60, library_effect=1.0, missing_spots=0.3)
    adata = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()  # rows of a library need not be together
    sp.pp.recipe_spared(adata, n_genes=20, **KEY)
    sp.pp.combat(adata, **KEY)
    return adata


@pytest.fixture
def adata(made) -> AnnData:
    return made.copy()


def legend_texts(legend) -> list[str]:
    return [text.get_text() for text in legend.get_texts()]


def labelled(ax: Axes) -> dict:
    return {artist.get_label(): artist for artist in [*ax.collections, *ax.lines]}


PLOTS = {
    "moran_ranking": lambda adata, **kw: sp.pl.moran_ranking(adata, **kw),
    "batch_effect": lambda adata, **kw: sp.pl.batch_effect(adata, **KEY, **kw),
    "lattice": lambda adata, **kw: sp.pl.lattice(adata, **KEY, **kw),
}


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_only_show_true_shows(plot, adata, monkeypatch):
    for show in (None, False):
        assert plot(adata, show=show) is not None
        plt.close("all")
    calls = []
    monkeypatch.setattr(plt, "show", lambda: calls.append(1))
    plot(adata, show=True)
    assert calls == [1]


@pytest.mark.parametrize("plot", PLOTS.values(), ids=PLOTS)
def test_figsize_text_and_the_object(plot, adata):
    before = adata.copy()
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must stay
    for size in (None, (9, 6)):
        drawn = plot(adata, figsize=size)
        fig = drawn if isinstance(drawn, Figure) else drawn.figure
        assert size is None or tuple(fig.get_size_inches()) == size
        assert_nothing_is_cut_off(fig)
        plt.close(fig)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert set(adata.layers) == set(before.layers)
    assert not adata.obsp
    for layer in adata.layers:
        assert np.array_equal(
            *(m.toarray() if sps.issparse(m) else m for m in (adata.layers[layer], before.layers[layer]))
        )


# moran_ranking


def ranking(adata: AnnData) -> pd.DataFrame:
    return adata.var[adata.var["spared_keep"]].sort_values("moran_i", ascending=False, kind="stable")


def lower(ax: Axes) -> Axes:
    found = [other for other in ax.figure.axes if other.get_label() == "<expressed fraction>"]
    assert len(found) == 1
    return found[0]


def test_ranking_draws_every_gene_at_its_rank_in_its_colour(adata):
    ax = sp.pl.moran_ranking(adata)
    assert isinstance(ax, Axes)
    genes = ranking(adata)
    chosen = genes["spared_selected"].to_numpy()
    rank = np.arange(1, len(genes) + 1)
    n = len(genes)
    for panel, value in ((ax, genes["moran_i"]), (lower(ax), 100 * genes["expressed_fraction"])):
        drawn = labelled(panel)
        for label, mask, colour in (
            ("selected (20 genes)", chosen, "#0072B2"),
            (f"not selected ({n - 20} genes)", ~chosen, "0.6"),
        ):
            np.testing.assert_allclose(drawn[label].get_offsets(), np.c_[rank, value][mask])
            np.testing.assert_array_equal(drawn[label].get_facecolors(), [to_rgba(colour)])
        assert set(drawn["cut-off"].get_xdata()) == {20.5}
    assert legend_texts(ax.get_legend()) == [
        "selected (20 genes)", f"not selected ({n - 20} genes)", "cut-off", "running median"
    ]  # fmt: skip
    assert lower(ax).get_xlim() == ax.get_xlim()


def test_running_median_is_that_of_a_tenth_of_the_genes(adata):
    line = labelled(lower(sp.pl.moran_ranking(adata)))["running median"]
    genes = ranking(adata)
    half = round(len(genes) / 20)
    expected = (100 * genes["expressed_fraction"]).rolling(2 * half + 1, center=True, min_periods=1).median()
    np.testing.assert_allclose(line.get_ydata(), expected)


@pytest.mark.parametrize("n", [0, 1, 10, 1000])
def test_names_of_the_best_genes(adata, n):
    names = [text.get_text() for text in sp.pl.moran_ranking(adata, n_labelled=n).texts]
    assert names == list(ranking(adata).index[:n])


@pytest.mark.parametrize("figsize", [None, (4, 3), (12, 8)])
@pytest.mark.parametrize("decay", [0.5, 20, 1000])
def test_names_overlap_neither_each_other_nor_the_points(figsize, decay):
    n = 300
    adata = AnnData(
        np.ones((2, n)),
        var=pd.DataFrame({"moran_i": np.exp(-np.arange(n) / decay)}, index=[f"GENE{i}" for i in range(n)]),
    )
    ax = sp.pl.moran_ranking(adata, figsize=figsize, n_labelled=8)
    ax.figure.canvas.draw()
    boxes = [text.get_bbox_patch().get_window_extent() for text in ax.texts]
    assert all(a.y0 >= b.y1 - 0.5 for a, b in zip(boxes, boxes[1:], strict=False))
    points = ax.transData.transform(ax.collections[0].get_offsets())
    for box in boxes:
        assert not any(box.contains(*point) for point in points)


def test_ranking_of_other_columns_and_without_expressed_fraction(adata):
    adata.var["score"] = adata.var["moran_i"].fillna(0)[::-1].to_numpy()
    adata.var["mine"] = adata.var["score"] < adata.var["score"].median()  # not the best ones: there is no cut-off
    del adata.var["expressed_fraction"]
    ax = sp.pl.moran_ranking(adata, key="score", mask_var=None, selected="mine")
    assert "cut-off" not in labelled(ax)
    assert ax.figure.axes == [ax]
    assert "rank" in ax.get_xlabel()
    assert sum(len(c.get_offsets()) for c in ax.collections) == adata.n_vars


def test_genes_without_a_score_are_counted(adata):
    adata.var.loc[adata.var_names[adata.var["spared_keep"]][:3], "moran_i"] = np.nan
    ax = sp.pl.moran_ranking(adata)
    assert "3 without a score" in lower(ax).get_xlabel()
    assert sum(len(c.get_offsets()) for c in ax.collections) == adata.var["spared_keep"].sum() - 3


@pytest.mark.parametrize("without", ["none", "absent"])
def test_ranking_without_selected_genes(adata, without):
    if without == "absent":
        del adata.var["spared_selected"]
    ax = sp.pl.moran_ranking(adata, **({"selected": None} if without == "none" else {}))
    assert len(ax.collections) == 1
    assert legend_texts(ax.get_legend()) == ["running median"]


@pytest.mark.parametrize("placed", ["grid", "by hand"])
def test_ranking_stays_within_given_axes(adata, placed):
    fig = plt.figure()
    ax = fig.add_subplot(1, 2, 2) if placed == "grid" else fig.add_axes([0.5, 0.2, 0.4, 0.6])
    before = ax.get_position()
    assert sp.pl.moran_ranking(adata, ax=ax) is ax
    assert plt.get_fignums() == [fig.number]
    top, bottom = ax.get_position(), lower(ax).get_position()
    assert top.y1 == pytest.approx(before.y1)
    assert bottom.y0 == pytest.approx(before.y0)
    assert (top.x0, top.x1, bottom.x0, bottom.x1) == pytest.approx((before.x0, before.x1) * 2)
    assert bottom.y1 < top.y0


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"key": "geary_c"}, KeyError, ["'geary_c'", "'moran_i'", "sp.pp.moran", "key="]),
        ({"mask_var": "nowhere"}, KeyError, ["'nowhere'", "'spared_keep'"]),
        ({"selected": "nowhere"}, KeyError, ["'nowhere'", "'spared_selected'"]),
        ({"selected": "moran_i"}, TypeError, ["'moran_i'", "astype(bool)"]),
        ({"key": "nothing"}, ValueError, ["finite", "sp.pp.moran"]),
        ({"key": "words"}, TypeError, ["'words'", "numbers", "key="]),
        ({"n_labelled": -1}, ValueError, ["n_labelled=-1"]),
    ],
)
def test_errors_of_the_ranking(adata, change, kind, words):
    adata.var["nothing"] = np.nan
    adata.var["words"] = "a"
    with pytest.raises(kind) as error:
        sp.pl.moran_ranking(adata, **change)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not plt.get_fignums()


# batch_effect


def matrix(adata: AnnData, layer: str) -> np.ndarray:
    return adata[:, adata.var["spared_selected"]].to_df(layer=layer).to_numpy(dtype=float)


def anova_share(values: np.ndarray, batch: np.ndarray) -> np.ndarray:
    """R2 of a regression on the batches' indicators, gene by gene."""
    design = pd.get_dummies(batch).to_numpy(dtype=float)
    fitted = design @ np.linalg.lstsq(design, values, rcond=None)[0]
    return 1 - ((values - fitted) ** 2).sum(axis=0) / ((values - values.mean(axis=0)) ** 2).sum(axis=0)


def scatter(ax: Axes) -> tuple[np.ndarray, np.ndarray]:
    xy = np.concatenate([c.get_offsets() for c in ax.collections])
    return xy, np.concatenate([c.get_facecolors() for c in ax.collections])


@pytest.mark.parametrize("dense", [False, True])
def test_share_explained_is_that_of_a_regression(adata, dense):
    if dense:
        adata.layers["log2tpm"] = adata.layers["log2tpm"].toarray()
    fig = sp.pl.batch_effect(adata, **KEY)
    assert isinstance(fig, Figure)
    assert len(fig.axes) == 4
    batch = adata.obs["library_id"].to_numpy()
    shares = [100 * anova_share(matrix(adata, layer), batch) for layer in ("log2tpm", "log2tpm_combat")]
    assert shares[0].mean() > 10 > 1 > shares[1].mean()  # or the test would tell little
    for ax, share in zip(fig.axes[2:], shares, strict=True):
        digits = 1 if share.mean() >= 1 else 2
        assert ax.get_title() == f"mean {share.mean():.{digits}f} %"
        assert ax.lines[0].get_xdata() == pytest.approx([share.mean()] * 2)
        edges = [bar.get_x() for bar in ax.patches] + [ax.patches[-1].get_x() + ax.patches[-1].get_width()]
        edges[-1] += 1e-6  # the largest share lies on it
        np.testing.assert_array_equal([bar.get_height() for bar in ax.patches], np.histogram(share, edges)[0])
        assert sum(bar.get_height() for bar in ax.patches) == len(share)
        assert ax.get_xlim() == fig.axes[2].get_xlim()


def test_components_are_those_of_scikit_learn(adata):
    from sklearn.decomposition import PCA

    fig = sp.pl.batch_effect(adata, **KEY)
    for ax, layer in zip(fig.axes[:2], ("log2tpm", "log2tpm_combat"), strict=True):
        pca = PCA(2, svd_solver="full")
        expected = pca.fit_transform(matrix(adata, layer))
        drawn, _ = scatter(ax)
        order, sign = np.lexsort(np.abs(expected.round(6)).T), np.lexsort(np.abs(drawn.round(6)).T)
        np.testing.assert_allclose(np.abs(drawn[sign]), np.abs(expected[order]), atol=1e-4)
        first, second = 100 * pca.explained_variance_ratio_
        assert ax.get_title() == layer
        assert ax.get_xlabel() == f"component 1 ({first:.0f} % of variance)"
        assert ax.get_ylabel() == f"component 2 ({second:.0f} %)"


def test_spots_have_the_colour_of_their_batch_and_are_the_same_in_all_panels(adata):
    fig = sp.pl.batch_effect(adata, n_spots=100, **KEY)
    colours = ["#0072b2", "#e69f00", "#009e73"]
    assert legend_texts(fig.legends[0]) == ["library_1", "library_2", "library_3"]
    assert [to_hex(handle.get_color()) for handle in fig.legends[0].legend_handles] == colours
    assert fig.legends[0].get_title().get_text() == "library_id"
    (_, first), (_, second) = (scatter(ax) for ax in fig.axes[:2])
    np.testing.assert_array_equal(first, second)
    assert len(first) == 100
    plt.close(fig)
    fig = sp.pl.batch_effect(adata, **KEY)
    _, every = scatter(fig.axes[0])
    found = pd.Series([to_hex(c) for c in every]).value_counts()
    sizes = adata.obs["library_id"].value_counts()
    assert [found[c] for c in colours] == [sizes[f"library_{i}"] for i in (1, 2, 3)]


def test_colours_go_with_the_right_spots(adata):
    """A gene that tells the batches apart makes the components tell the colours apart."""
    adata.layers["marker"] = adata.layers["log2tpm"].toarray()
    code = adata.obs["library_id"].cat.codes.to_numpy(dtype=float)
    adata.layers["marker"][:, np.flatnonzero(adata.var["spared_selected"])[0]] = 1000 * code
    ax = sp.pl.batch_effect(adata, layers="marker", **KEY).axes[0]
    xy, colours = scatter(ax)
    hexes = np.array([to_hex(c) for c in colours])
    mean = [xy[hexes == c, 0].mean() for c in ("#0072b2", "#e69f00", "#009e73")]
    np.testing.assert_allclose(np.diff(mean), 1000, rtol=0.05)  # and the sign: the largest weight is positive


def test_choice_of_spots_follows_the_seed_not_the_order_of_rows(adata):
    def drawn(data, seed):
        fig = sp.pl.batch_effect(data, layers="log2tpm", n_spots=50, random_state=seed, **KEY)
        xy, _ = scatter(fig.axes[0])
        plt.close(fig)
        return xy

    np.testing.assert_allclose(drawn(adata, 1), drawn(adata[::-1].copy(), 1), atol=1e-3)
    assert not np.allclose(drawn(adata, 1), drawn(adata, 2), atol=1e-3)


def test_many_batches_are_told_apart():
    rng = np.random.default_rng(0)
    names = [f"batch {i:02d}" for i in range(30)]
    adata = AnnData(
        np.ones((300, 5)),
        obs=pd.DataFrame({"donor": np.repeat(names, 10)}, index=[f"s{i}" for i in range(300)]),
        layers={"values": rng.normal(size=(300, 5))},
    )
    fig = sp.pl.batch_effect(adata, layers=["values"], batch_key="donor")
    assert legend_texts(fig.legends[0]) == names
    styles = {(to_hex(h.get_color()), h.get_marker()) for h in fig.legends[0].legend_handles}
    assert len(styles) == 30
    fig.canvas.draw()
    box = fig.legends[0].get_window_extent()
    assert box.y0 >= 0
    assert box.x0 > fig.axes[0].get_window_extent().x1


def test_batches_other_than_libraries_and_genes_that_do_not_vary(adata):
    adata.obs["half"] = np.where(np.arange(adata.n_obs) % 2, "odd", "even")
    values = adata.layers["log2tpm"].toarray()
    values[:, np.flatnonzero(adata.var["spared_selected"])[:2]] = 3.3
    adata.layers["log2tpm"] = values
    fig = sp.pl.batch_effect(adata, layers="log2tpm", batch_key="half")
    assert legend_texts(fig.legends[0]) == ["even", "odd"]
    assert sum(bar.get_height() for bar in fig.axes[1].patches) == 18
    assert (
        fig.axes[1].get_title()
        == f"mean {100 * anova_share(matrix(adata, 'log2tpm')[:, 2:], adata.obs['half']).mean():.2f} %"
    )


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"layers": ["log2tpm", "magic"]}, KeyError, ["'magic'", "'log2tpm_combat'", "layers=", "sp.pp.combat"]),
        ({"layers": []}, ValueError, ["empty", "'log2tpm'"]),
        ({"layers": "flat"}, ValueError, ["no gene varies", "'flat'", "mask_var"]),
        ({"mask_var": "nowhere"}, KeyError, ["'nowhere'"]),
        ({"mask_var": "one"}, ValueError, ["two principal components", "mask_var"]),
        ({"library_key": None}, ValueError, ["library_key=", "'library_id'"]),
        ({"batch_key": "nowhere"}, KeyError, ["'nowhere'", "'library_id'"]),
        ({"batch_key": "same"}, ValueError, ["one batch", "'a'", "batch_key="]),
        ({"n_spots": 2}, ValueError, ["n_spots=2"]),
    ],
)
def test_errors_of_batch_effect(adata, change, kind, words):
    adata.layers["flat"] = np.full(adata.shape, 0.1)
    adata.obs["same"] = "a"
    adata.var["one"] = np.arange(adata.n_vars) == 4
    with pytest.raises(kind) as error:
        sp.pl.batch_effect(adata, **{**KEY, **change})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not plt.get_fignums()


# lattice


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
