"""pl.predicted."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.colors import Normalize, to_hex
from matplotlib.figure import Figure
from scipy.stats import pearsonr

import spared_sc as sp
from helpers.figures import assert_nothing_is_cut_off, circles, colour_bars, panels
from helpers.prediction_plots import KEY, SECTIONS, a_gene, column, predict, with_split

VERMILION = "#d55e00"


PART = {"train": "fitted to this section", "val": "fit chosen on this section"}


pytestmark = pytest.mark.usefixtures("no_traces")


@pytest.fixture
def adata(collection) -> AnnData:
    return collection(**SECTIONS, then=predict)


def test_every_spot_is_at_its_place_in_its_colour(adata):
    gene = a_gene(adata)
    measured, detected, values = column(adata, gene)
    fig = sp.pl.predicted(adata, gene, library_key="library_id", cmap="magma")
    assert isinstance(fig, Figure)
    assert fig.get_suptitle() == gene
    names = sorted(set(adata.obs["library_id"]))
    assert [ax.get_title() for ax in panels(fig)] == ["measured", "predicted (position_only)", "difference", *[""] * 9]
    ends = np.percentile(np.concatenate([measured[detected], values[detected]]), [1, 99])
    norm, cmap = Normalize(*ends), mpl.colormaps["magma"]
    difference = values - measured
    size = np.percentile(np.abs(difference[detected]), 99)
    around = Normalize(-size, size)
    fig.canvas.draw()
    for name, row in zip(names, np.reshape(panels(fig), (-1, 3)), strict=True):
        spots = np.flatnonzero(adata.obs["library_id"].to_numpy() == name)
        scale = adata.uns["spatial"][name]["scalefactors"]["tissue_hires_scalef"]
        here = spots[detected[spots]]
        assert 0 < here.size < spots.size
        drawn = circles(row[0])
        assert set(drawn) == {"detected", "not detected"}
        np.testing.assert_allclose(drawn["detected"].get_offsets(), adata.obsm["spatial"][here] * scale)
        np.testing.assert_allclose(drawn["detected"].get_facecolors(), cmap(norm(measured[here])), atol=1e-6)
        r, g, b, _ = drawn["not detected"].get_facecolors()[0]
        assert r == g == b >= 0.8
        everywhere = circles(row[1])["detected"]
        np.testing.assert_allclose(everywhere.get_offsets(), adata.obsm["spatial"][spots] * scale)
        np.testing.assert_allclose(everywhere.get_facecolors(), cmap(norm(values[spots])), atol=1e-6)
        drawn = circles(row[2])
        assert set(drawn) == {"difference"}
        np.testing.assert_allclose(drawn["difference"].get_offsets(), adata.obsm["spatial"][here] * scale)
        expected = drawn["difference"].get_cmap()(around(difference[here]))
        np.testing.assert_allclose(drawn["difference"].get_facecolors(), expected, atol=1e-6)
        pcc = pearsonr(measured[here], values[here])[0]
        share = 100 * here.size / spots.size
        assert row[0].get_ylabel() == f"{name}\n{share:.0f} % detected, PCC {pcc:.3f}"
        assert to_hex(row[0].yaxis.label.get_color()) == "#000000"
    bars = colour_bars(fig)
    assert [bar.get_ylabel() for bar in bars] == ["log2(TPM + 1)", "predicted - measured, log2(TPM + 1)"]
    np.testing.assert_allclose(bars[0].get_ylim(), ends)
    np.testing.assert_allclose(bars[1].get_ylim(), (-size, size))
    assert_nothing_is_cut_off(fig)


def test_expression_is_compared_in_all_spots(adata):
    gene = a_gene(adata)
    options = {"use_rep": "signal", "key_added": "expression", "library_key": "library_id"}
    adata.obsm["signal"] = np.log(np.asarray(adata.layers["rate"])[:, :8])
    sp.tl.predict_expression(adata, model="ridge", **options)
    measured, detected, values = column(adata, gene, "expression")
    fig = sp.pl.predicted(adata, gene, key="expression", library_key="library_id", libraries="library_1")
    rows = (adata.obs["library_id"] == "library_1").to_numpy()
    shown = panels(fig)
    assert len(circles(shown[2])["difference"].get_offsets()) == rows.sum() > detected[rows].sum()
    assert shown[0].get_ylabel().endswith(f"PCC {pearsonr(measured[rows], values[rows])[0]:.3f}")
    plt.close(fig)
    scatter = panels(sp.pl.prediction_scatter(adata, key="expression", genes=gene, library_key="library_id"))[0]
    assert scatter.get_title().endswith(f", {adata.n_obs} entries")


def test_colours_of_the_difference_are_blue_below_zero_and_red_above(adata):
    gene = a_gene(adata)
    ax = panels(sp.pl.predicted(adata, gene, library_key="library_id"))[2]
    cmap = circles(ax)["difference"].get_cmap()
    low, middle, high = cmap(0.0), cmap(0.5), cmap(1.0)
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert min(middle[:3]) > 0.9


def test_sections_that_the_fit_has_seen_are_marked(adata):
    names = with_split(adata, "train val test train")
    fig = sp.pl.predicted(adata, a_gene(adata), key="split", library_key="library_id")
    labels = [ax.yaxis.label for ax in panels(fig)[::3]]
    for label, name, part in zip(labels, names, ["train", "val", "test", "train"], strict=True):
        first, *rest = label.get_text().split("\n")
        assert first == name
        assert rest[1:] == ([PART[part]] if part in PART else [])
        assert (to_hex(label.get_color()) == VERMILION) == (part in PART)
    assert_nothing_is_cut_off(fig)


def test_parts_in_fitting_belong_to_spots_not_to_names(adata):
    """Predicted with halves of sections as libraries, drawn with the sections as such."""
    one = adata[adata.obs["library_id"] == sorted(set(adata.obs["library_id"]))[0]].copy()
    x = one.obsm["spatial"][:, 0]
    one.obs["half"] = np.where(x < np.median(x), "left", "right")
    one.obs["split"] = one.obs["half"].map({"left": "train", "right": "test"})
    sp.tl.predict_expression(one, model="position_only", target="log2tpm", library_key="half", key_added="halves")
    gene = a_gene(one)
    label = sp.pl.predicted(one, gene, key="halves", library_key="library_id", img=False).axes[0].get_ylabel()
    assert label.endswith("fitted to part of this section")
    plt.close("all")
    fig = sp.pl.predicted(one, gene, key="halves", library_key="half")
    assert [PART["train"] in ax.get_ylabel() for ax in panels(fig)[::3]] == [True, False]
    plt.close("all")
    fig = sp.pl.prediction_scatter(one, key="halves", genes=gene, library_key="half")
    _, detected, _ = column(one, gene)
    n = int((detected & (one.obs["half"] == "right")).sum())
    assert fig.axes[0].get_title().endswith(f" {n} entries")


@pytest.mark.filterwarnings("ignore:layers.'corrected'.:UserWarning")
def test_sections_that_the_target_layer_has_seen_are_marked(adata):
    sp.pp.combat(adata, key_added="corrected", library_key="library_id")
    sp.tl.predict_expression(adata, model="gene_mean", target="corrected", key_added="seen", library_key="library_id")
    fig = sp.pl.predicted(adata, a_gene(adata), key="seen", library_key="library_id", libraries="library_1")
    assert fig.axes[0].get_ylabel().endswith("\ntarget layer made with this section")
    assert_nothing_is_cut_off(fig)


def test_slide_without_measurements(adata):
    gene = a_gene(adata)
    slide = AnnData(
        np.zeros((adata.n_obs, 1), dtype=np.float32), obs=adata.obs[["library_id"]], var=pd.DataFrame(index=["none"])
    )
    slide.obsm["spatial"], slide.uns["spatial"] = adata.obsm["spatial"], adata.uns["spatial"]
    slide.obsm[KEY], slide.uns["spared_sc"] = adata.obsm[KEY], {KEY: adata.uns["spared_sc"][KEY]}
    fig = sp.pl.predicted(slide, gene, library_key="library_id")
    assert [ax.get_title() for ax in panels(fig)] == ["predicted (position_only)", "", "", ""]
    names = sorted(set(slide.obs["library_id"]))
    assert [ax.get_ylabel() for ax in panels(fig)] == names
    _, _, values = column(adata, gene)
    bars = colour_bars(fig)
    assert [bar.get_ylabel() for bar in bars] == ["predicted, scale of layer 'log2tpm' in training"]
    np.testing.assert_allclose(bars[0].get_ylim(), np.percentile(values, [1, 99]))
    assert not fig.legends
    plt.close(fig)
    with pytest.raises(ValueError, match="'difference' needs measured expression.*normalize_tpm.*panels='predicted'"):
        sp.pl.predicted(slide, gene, library_key="library_id", panels=["predicted", "difference"])
    del adata.layers["log2tpm"]  # counts alone are on another scale
    assert len(panels(sp.pl.predicted(adata, gene, library_key="library_id", libraries=names[0]))) == 1


def test_few_detected_spots_have_no_correlation(adata):
    gene = a_gene(adata)
    at, n = adata.var_names.get_loc(gene), 9
    counts = adata.X.tolil()
    for name in set(adata.obs["library_id"]):
        counts[np.flatnonzero((adata.obs["library_id"] == name).to_numpy()), at] = 0
    first = sorted(set(adata.obs["library_id"]))[0]
    counts[np.flatnonzero((adata.obs["library_id"] == first).to_numpy())[:n], at] = 3
    adata.X = counts.tocsr()
    del adata.layers["detected"]
    fig = sp.pl.predicted(adata, gene, library_key="library_id")
    assert [ax.get_ylabel().rpartition("PCC ")[2] for ax in panels(fig)[::3]] == ["none"] * 4
    assert panels(fig)[3].get_ylabel().split("\n")[1] == "0 % detected, PCC none"
    fig.canvas.draw()


def test_choice_of_panels_libraries_and_given_axes(adata):
    gene, names = a_gene(adata), sorted(set(adata.obs["library_id"]))
    fig = sp.pl.predicted(adata, gene, library_key="library_id", panels=["difference", "measured"], libraries=names[:2])
    assert [ax.get_title() for ax in panels(fig)] == ["measured", "difference", "", ""]
    plt.close(fig)
    _, ax = plt.subplots()
    arguments = {"library_key": "library_id", "libraries": names[2], "ax": ax}
    with pytest.raises(ValueError, match=r"one panel, but 1 libraries x 3 panels.*panels="):
        sp.pl.predicted(adata, gene, **arguments)
    assert sp.pl.predicted(adata, gene, panels="difference", **arguments) is ax
    assert ax.get_title() == f"{gene}, difference"
    assert [bar.get_ylabel() for bar in colour_bars(ax.figure)] == ["predicted - measured, log2(TPM + 1)"]


def test_limits_given_by_the_user_hold_for_measured_and_predicted(adata):
    fig = sp.pl.predicted(adata, a_gene(adata), library_key="library_id", vmin=2, vmax=9)
    for ax in panels(fig):
        drawn = circles(ax)
        if "difference" not in drawn:
            assert (drawn["detected"].norm.vmin, drawn["detected"].norm.vmax) == (2, 9)


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"gene": "nothing"}, KeyError, ["'nothing'", "names look like", "gene="]),
        ({"key": "other"}, KeyError, ["'other'", KEY, "sp.tl.predict_expression"]),
        ({"layer": "tpm"}, KeyError, ["'tpm'", "'log2tpm'"]),
        ({"panels": ["measured", "error"]}, ValueError, ["'error'", "'difference'", "panels="]),
        ({"panels": []}, ValueError, ["`panels` is empty", "'difference'"]),
        ({"libraries": "none"}, KeyError, ["'none'", "libraries="]),
        ({"library_key": None}, ValueError, ["library_key="]),
        ({"spatial_key": "xy"}, KeyError, ["'xy'", "spatial_key="]),
        ({"vmin": 3, "vmax": 2}, ValueError, ["vmin=3", "vmax=2"]),
    ],
)
def test_errors_on_the_tissue(adata, change, kind, words):
    arguments = {"gene": a_gene(adata), "library_key": "library_id", **change}
    with pytest.raises(kind) as error:
        sp.pl.predicted(adata, **arguments)
    assert all(word in error.value.args[0] for word in words), error.value
    assert not plt.get_fignums()


def test_gene_that_is_close_to_a_predicted_one_is_named(adata):
    gene = a_gene(adata)
    with pytest.raises(KeyError, match=f"did you mean .*{gene}"):
        sp.pl.predicted(adata, gene.lower() + "x", library_key="library_id")


def test_several_predictions_need_a_name(adata):
    sp.tl.predict_expression(adata, model="gene_mean", library_key="library_id")
    for plot in (
        lambda: sp.pl.predicted(adata, a_gene(adata), library_key="library_id"),
        lambda: sp.pl.prediction_scatter(adata),
    ):
        with pytest.raises(ValueError, match="several predictions.*'predicted_gene_mean'"):
            plot()


def test_object_stays_as_it_was_and_files_keep_what_is_needed(adata, tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "one.h5ad"
    one = adata[adata.obs["library_id"] == adata.obs["library_id"].iloc[0]].copy()
    adata.write_h5ad(path)
    back = ad.read_h5ad(path)
    gene = a_gene(adata)
    keys = {name: set(getattr(adata, name)) for name in ("layers", "obs", "var", "obsm", "uns")}
    titles = []
    for each in (adata, back):
        fig = sp.pl.predicted(each, gene, library_key="library_id")
        titles.append([ax.get_ylabel() for ax in panels(fig)])
        plt.close(fig)
        fig = sp.pl.prediction_scatter(each, library_key="library_id")
        titles[-1] += [ax.get_title() for ax in panels(fig)]
        plt.close(fig)
    assert titles[0] == titles[1]
    assert keys == {name: set(getattr(adata, name)) for name in keys}
    assert len(panels(sp.pl.predicted(one, gene, library_key="library_id"))) == 3


def test_a_tiled_slide_without_genes_is_drawn():
    import matplotlib.pyplot as plt

    image = sp.datasets.synthetic(n_libraries=1).uns["spatial"]["library_1"]["images"]["hires"]
    adata = sp.datasets.synthetic(n_libraries=2)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=12, gene_lengths=None)
    fitted = sp.tl.fit_predictor(adata, model="gene_mean", library_key="library_id")
    slide = sp.pp.tile_slide(image, mpp=4.1)
    sp.tl.predict_expression(slide, model=fitted)
    fig = sp.pl.predicted(slide, fitted.genes[0])
    assert len(panels(fig)) == 1
    plt.close(fig)
