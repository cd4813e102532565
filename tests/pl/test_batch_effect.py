"""pl.batch_effect."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import spared_sc as sp
from helpers import KEY
from helpers.figures import legend_texts
from helpers.structure_plots import SECTIONS, correct

if TYPE_CHECKING:
    from matplotlib.axes import Axes

pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=correct)


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
        assert ax.get_xlabel().endswith(f"mean {share.mean():.{digits}f}")
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
        fig.axes[1].get_xlabel().split()[-1]
        == f"{100 * anova_share(matrix(adata, 'log2tpm')[:, 2:], adata.obs['half']).mean():.2f}"
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


def test_corrected_layers_are_drawn_after_what_they_correct(adata):
    assert [ax.get_title() for ax in sp.pl.batch_effect(adata, **KEY).axes[:2]] == ["log2tpm", "log2tpm_combat"]
    plt.close("all")
    del adata.layers["log2tpm_combat"]
    fig = sp.pl.batch_effect(adata, **KEY)
    assert [ax.get_title() for ax in fig.axes if "component" in ax.get_xlabel()] == ["log2tpm"]
