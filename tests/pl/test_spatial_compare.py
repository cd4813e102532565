"""pl.spatial_compare."""

from __future__ import annotations

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.sparse as sps
from anndata import AnnData
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.transforms import Affine2D

import spared_sc as sp
from helpers.figures import circles, colour_bars, legend_texts, panels
from helpers.tissue_plots import DIAMETER, PITCH, SCALE, collection, hex_positions, spots_of

LAYERS = ["log2tpm", "median", "spackle"]


OUTLINE = "outline"


pytestmark = pytest.mark.usefixtures("no_traces")


def places(collection) -> set:
    return {tuple(xy) for xy in np.asarray(collection.get_offsets()).round(6)}


def dense(adata: AnnData, layer: str, gene: str) -> np.ndarray:
    return adata[:, gene].to_df(layer=layer)[gene].to_numpy()


@pytest.mark.parametrize("sparse", [True, False])
def test_panels_titles_and_labels(sparse):
    adata = collection(sparse=sparse)
    fig = sp.pl.spatial_compare(adata, "GENE1", library_key="section")
    assert isinstance(fig, Figure)
    assert len(panels(fig)) == 2 * 3
    assert [ax.get_title() for ax in panels(fig)] == [*LAYERS, "", "", ""]
    assert fig.get_suptitle() == "GENE1"
    for ax, library in zip(panels(fig)[::3], ["A", "B"], strict=True):
        share = (adata.X.toarray()[spots_of(adata, library), 1] > 0).mean()
        assert ax.get_ylabel() == f"{library}\n{100 * share:.0f} % detected"
    assert [ax.get_ylabel() for ax in panels(fig)[1:3]] == ["", ""]
    assert [ax.get_ylabel() for ax in colour_bars(fig)] == ["log2(TPM + 1)"]
    fig.canvas.draw()


def test_every_spot_is_at_its_place_in_its_colour():
    adata = collection(rows=16)  # so many that the percentiles are not the extremes
    fig = sp.pl.spatial_compare(adata, "GENE2", library_key="section", cmap="magma")
    detected = adata.X.toarray()[:, 2] > 0
    all_values = np.concatenate([dense(adata, layer, "GENE2")[detected] for layer in LAYERS])
    norm, cmap = Normalize(*np.percentile(all_values, [1, 99])), mpl.colormaps["magma"]
    fig.canvas.draw()
    for ax, (library, layer) in zip(panels(fig), [(lib, la) for lib in "AB" for la in LAYERS], strict=True):
        rows = spots_of(adata, library)
        drawn = circles(ax)
        other = "not detected" if layer == "log2tpm" else "filled in"
        assert set(drawn) == {"detected", other}
        for kind, mask in {"detected": detected[rows], other: ~detected[rows]}.items():
            spots = rows[mask]
            np.testing.assert_allclose(drawn[kind].get_offsets(), adata.obsm["spatial"][spots] * SCALE["hires"])
            if kind == "not detected":
                r, g, b, a = drawn[kind].get_facecolors()[0]
                assert r == g == b >= 0.8
                assert a == 1
            else:
                expected = cmap(norm(dense(adata, layer, "GENE2")[spots]))
                np.testing.assert_allclose(drawn[kind].get_facecolors(), expected)
                assert drawn[kind].norm is circles(panels(fig)[0])["detected"].norm


def test_circles_have_the_size_of_the_spots():
    adata = collection(("A",))
    ax = panels(sp.pl.spatial_compare(adata, "GENE0", layers="median", size=0.5))[0]
    ax.figure.canvas.draw()
    drawn = circles(ax)["detected"]
    to_pixels = ax.transData.transform([[0, 0], [DIAMETER * SCALE["hires"] * 0.5, 0]])
    circle = drawn.get_paths()[0].transformed(Affine2D(drawn.get_transforms()[0]) + drawn.get_transform())
    assert circle.get_extents().width == pytest.approx(np.diff(to_pixels[:, 0])[0], rel=1e-3)
    assert circle.get_extents().height == pytest.approx(circle.get_extents().width, rel=1e-3)
    assert ax.get_aspect() == 1


def test_diameter_without_scale_factors_comes_from_the_distance_of_the_spots():
    adata = collection(("A",))
    del adata.uns["spatial"]
    ax = panels(sp.pl.spatial_compare(adata, "GENE0", layers="median"))[0]
    assert circles(ax)["detected"].get_widths()[0] == pytest.approx(0.55 * PITCH)
    np.testing.assert_allclose(  # pixels of the full-resolution image
        sorted(places(circles(ax)["detected"]) | places(circles(ax)["filled in"])),
        sorted(map(tuple, adata.obsm["spatial"].round(6))),
    )
    assert not ax.images


def test_y_grows_downward_and_the_image_is_cropped_to_the_spots():
    adata = collection(("A",))
    ax = panels(sp.pl.spatial_compare(adata, "GENE0", layers="log2tpm"))[0]
    xy, margin = adata.obsm["spatial"] * SCALE["hires"], 1.5 * DIAMETER * SCALE["hires"]
    assert ax.get_xlim() == pytest.approx((xy[:, 0].min() - margin, xy[:, 0].max() + margin))
    assert ax.get_ylim() == pytest.approx((xy[:, 1].max() + margin, xy[:, 1].min() - margin))
    left, right, bottom, top = ax.images[0].get_extent()
    assert left <= ax.get_xlim()[0] < ax.get_xlim()[1] <= right
    assert top <= ax.get_ylim()[1] < ax.get_ylim()[0] <= bottom


def test_image_stays_in_place_when_cropped():
    """The pixel below a spot is the same with and without cropping."""
    adata = collection(("A",))
    image = np.full((300, 240, 3), 255, dtype=np.uint8)
    x, y = (adata.obsm["spatial"][7] * SCALE["hires"]).round().astype(int)
    image[y, x] = 0
    adata.uns["spatial"]["A"]["images"]["hires"] = image
    for crop in (True, False):
        fig = sp.pl.spatial_compare(adata, "GENE0", layers="log2tpm", crop=crop)
        shown = panels(fig)[0].images[0]
        left, _, _, top = shown.get_extent()
        row, col = np.argwhere(shown.get_array()[..., 0] < 0.9)[0]
        assert (left + col + 0.5, top + row + 0.5) == (x, y)
        plt.close(fig)


def test_crop_false_shows_the_whole_image():
    adata = collection(("A",))
    ax = panels(sp.pl.spatial_compare(adata, "GENE0", layers="log2tpm", crop=False))[0]
    assert ax.images[0].get_array().shape == (300, 240, 3)
    assert ax.get_xlim() == (-0.5, 239.5)
    assert ax.get_ylim() == (299.5, -0.5)


@pytest.mark.parametrize(("images", "img_key", "used"), [
    (("hires", "lowres"), None, "hires"),
    (("hires", "lowres"), "lowres", "lowres"),
    (("lowres",), None, "lowres"),
])  # fmt: skip
def test_choice_of_the_image(images, img_key, used):
    adata = collection(("A",), images=images)
    ax = panels(sp.pl.spatial_compare(adata, "GENE0", layers="median", img_key=img_key))[0]
    expected = {tuple(xy) for xy in (adata.obsm["spatial"] * SCALE[used]).round(6)}
    assert places(circles(ax)["detected"]) <= expected
    assert len(ax.images) == 1


@pytest.mark.parametrize("lost", ["images", "image", "library", "spatial"])
def test_without_image(lost):
    adata = collection()
    if lost == "spatial":
        del adata.uns["spatial"]
    elif lost == "library":
        del adata.uns["spatial"]["A"]
    elif lost == "images":
        del adata.uns["spatial"]["A"]["images"]
    else:
        adata.uns["spatial"]["A"]["images"] = {}
    fig = sp.pl.spatial_compare(adata, "GENE0", library_key="section")
    assert [len(ax.images) for ax in panels(fig)] == [0, 0, 0] + ([0] * 3 if lost == "spatial" else [1] * 3)
    fig.canvas.draw()


def test_img_false_and_float_images():
    adata = collection(("A",))
    assert not panels(sp.pl.spatial_compare(adata, "GENE0", img=False))[0].images
    plt.close("all")
    as_bytes = panels(sp.pl.spatial_compare(adata, "GENE0"))[0].images[0].get_array()
    plt.close("all")
    images = adata.uns["spatial"]["A"]["images"]
    before = images["hires"].copy()
    images["hires"] = before / 255
    as_floats = panels(sp.pl.spatial_compare(adata, "GENE0"))[0].images[0].get_array()
    np.testing.assert_allclose(as_bytes, as_floats, atol=1e-6)
    np.testing.assert_array_equal(images["hires"], before / 255)  # the user's image is left alone


def test_filled_spots_alone_have_an_outline():
    adata = collection()
    fig = sp.pl.spatial_compare(adata, "GENE0", library_key="section", mark_filled=True)
    for ax, layer in zip(panels(fig), LAYERS * 2, strict=True):
        drawn = circles(ax)
        assert (OUTLINE in drawn) == (layer != "log2tpm")
        assert len(drawn["detected"].get_edgecolors()) == 0
        if layer != "log2tpm":
            assert places(drawn[OUTLINE]) == places(drawn["filled in"])
            assert not places(drawn[OUTLINE]) & places(drawn["detected"])
            assert tuple(drawn[OUTLINE].get_edgecolors()[0]) == to_rgba("black")
            assert drawn[OUTLINE].get_linewidths()[0] > 0
            assert drawn[OUTLINE].get_widths()[0] > drawn["filled in"].get_widths()[0]
    assert legend_texts(fig.legends[0]) == ["not detected", "detected", "filled in"]
    plt.close(fig)
    fig = sp.pl.spatial_compare(adata, "GENE0", library_key="section")
    assert not any(OUTLINE in circles(ax) for ax in panels(fig))
    assert legend_texts(fig.legends[0]) == ["not detected"]


def test_zero_in_a_completed_layer_is_a_value():
    adata = collection(("A",))
    gap = np.flatnonzero(adata.X.toarray()[:, 0] == 0)[0]
    layer = adata.layers["median"].toarray()
    layer[gap, 0] = 0
    adata.layers["median"] = layer
    drawn = circles(panels(sp.pl.spatial_compare(adata, "GENE0", layers=["median"]))[0])
    assert "not detected" not in drawn
    assert 0 in drawn["filled in"].get_array()


def test_gene_detected_nowhere():
    adata = collection(("A",))
    for layer in ["log2tpm", "detected"]:
        matrix = adata.layers[layer].toarray()
        matrix[:, 0] = 0
        adata.layers[layer] = sps.csr_matrix(matrix)
    fig = sp.pl.spatial_compare(adata, "GENE0", layers="log2tpm")
    assert len(circles(panels(fig)[0])["not detected"].get_offsets()) == adata.n_obs
    assert "0 % detected" in panels(fig)[0].get_ylabel()
    fig.canvas.draw()


def test_detected_comes_from_the_counts_when_there_is_no_mask():
    adata = collection(("A",))
    mask = adata.layers["detected"].toarray()[:, 0]
    del adata.layers["detected"]
    drawn = circles(panels(sp.pl.spatial_compare(adata, "GENE0", layers="median"))[0])
    assert len(drawn["detected"].get_offsets()) == mask.sum()


def test_limits_given_by_the_user_and_ends_of_the_colour_bar():
    adata = collection(("A",))
    fig = sp.pl.spatial_compare(adata, "GENE0", vmin=0, vmax=30)
    norm = circles(panels(fig)[0])["detected"].norm
    assert (norm.vmin, norm.vmax) == (0, 30)
    assert colour_bars(fig)[0]._colorbar.extend == "neither"
    plt.close(fig)
    fig = sp.pl.spatial_compare(adata, "GENE0", vmin=9.9, vmax=10)
    assert colour_bars(fig)[0]._colorbar.extend == "both"


def test_colour_bar_of_another_layer_has_its_name():
    adata = collection(("A",))
    adata.layers["median_combat"] = adata.layers["median"] * 2
    fig = sp.pl.spatial_compare(adata, "GENE0", layers="median_combat")
    assert colour_bars(fig)[0].get_ylabel() == "median_combat"


def test_denoised_layer_takes_the_place_of_the_completed_one():
    adata = collection(("A",), rows=16)
    adata.layers["spackle_denoised"] = 0.5 * adata.layers["spackle"].toarray()
    slots = [f'layers["{name}"]' for name in ("spackle", "spackle_denoised")]
    params = {"method": "counts", "layer": "log2tpm"}
    adata.uns["spared_sc"] = {"spackle": {"function": "tl.complete", "params": params, "slots": slots}}
    fig = sp.pl.spatial_compare(adata, "GENE0")
    assert [ax.get_title() for ax in panels(fig)] == ["log2tpm", "median", "spackle_denoised\ncounts model"]
    assert [ax.get_ylabel() for ax in colour_bars(fig)] == ["log2(TPM + 1)"]
    detected = adata.X.toarray()[:, 0] > 0
    measured = [dense(adata, layer, "GENE0")[detected] for layer in ("log2tpm", "median")]
    expected = np.percentile(np.concatenate([*measured, dense(adata, "spackle_denoised", "GENE0")]), [1, 99])
    norm = circles(panels(fig)[0])["detected"].norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], expected)
    plt.close(fig)
    fig = sp.pl.spatial_compare(adata, "GENE0", layers=["log2tpm", "spackle_denoised", "detected"])
    assert [ax.get_ylabel() for ax in colour_bars(fig)] == ["log2tpm, spackle_denoised, detected"]


def test_libraries_are_shown_in_the_order_asked_for():
    adata = collection(("A", "B", "C"))
    fig = sp.pl.spatial_compare(adata, "GENE0", layers="median", library_key="section", libraries=["C", "A"])
    assert [ax.get_ylabel()[0] for ax in panels(fig)] == ["C", "A"]
    plt.close(fig)
    fig = sp.pl.spatial_compare(adata, "GENE0", layers="median", library_key="section", libraries="B")
    assert [ax.get_ylabel()[0] for ax in panels(fig)] == ["B"]


def test_one_library_needs_no_key_and_one_spot_is_enough():
    adata = collection(("A",))
    assert len(panels(sp.pl.spatial_compare(adata, "GENE0"))) == 3
    plt.close("all")
    del adata.uns["spatial"]
    fig = sp.pl.spatial_compare(adata[:1].copy(), "GENE0")
    fig.canvas.draw()


def test_alpha_leaves_missing_outlines_missing():
    ax = panels(sp.pl.spatial_compare(collection(("A",)), "GENE0", alpha=0.5))[0]
    ax.figure.canvas.draw()
    drawn = circles(ax)["detected"]
    assert set(drawn.get_facecolors()[:, 3]) == {0.5}
    assert len(drawn.get_edgecolors()) == 0


@pytest.mark.parametrize("figsize", [None, (12, 4), (5, 9)])
@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("libraries", ["A", "ABC"])
def test_no_text_is_cut_off(figsize, n_layers, libraries):
    adata = collection(tuple(libraries))
    fig = sp.pl.spatial_compare(
        adata, "GENE0", layers=LAYERS[:n_layers], library_key="section", mark_filled=True, figsize=figsize
    )
    fig.canvas.draw()
    width, height = fig.canvas.get_width_height()
    texts = [ax.yaxis.label for ax in fig.axes] + [ax.title for ax in fig.axes] + list(fig.legends)
    for text in texts:
        box = text.get_window_extent()
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= width
        assert box.y1 <= height


def test_given_axes_are_used():
    adata = collection()
    fig, axes = plt.subplots(1, 2)
    out = sp.pl.spatial_compare(
        adata, "GENE2", layers="log2tpm", library_key="section", libraries="A", ax=axes[1], mark_filled=True
    )
    assert out is axes[1]
    assert not axes[0].collections
    assert out.get_title() == "GENE2, log2tpm"
    assert legend_texts(out.get_legend()) == ["not detected"]
    assert plt.get_fignums() == [fig.number]
    fig.canvas.draw()


def test_figsize_and_the_object_stay_as_given():
    adata = collection()
    before = adata.copy()
    fig = sp.pl.spatial_compare(adata, "GENE0", library_key="section", figsize=(7, 3))
    assert tuple(fig.get_size_inches()) == (7, 3)
    assert set(adata.layers) == set(before.layers)
    assert set(adata.uns) == set(before.uns)
    for layer in LAYERS:
        assert (adata.layers[layer] != before.layers[layer]).nnz == 0


def test_real_section_size_is_quick_and_draws():
    rng = np.random.default_rng(0)
    xy = hex_positions(60, 60)
    counts = rng.poisson(0.7, size=(len(xy), 1)).astype(np.float32)
    adata = AnnData(sps.csr_matrix(counts), obsm={"spatial": xy}, layers={"log2tpm": np.log2(1 + counts)})
    sp.pl.spatial_compare(adata, "0", layers="log2tpm").canvas.draw()


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"gene": "gene1"}, KeyError, ["'gene1'", "did you mean", "'GENE1'"]),
        ({"gene": "xyz"}, KeyError, ["'xyz'", "names look like", "'GENE0'"]),
        ({"layers": ["log2tpm", "magic"]}, KeyError, ["'magic'", "'spackle'", "tl.spackle_complete"]),
        ({"layers": []}, ValueError, ["empty", "'median'"]),
        ({"libraries": ["A", "Z"]}, KeyError, ["'Z'", "'A', 'B'"]),
        ({"library_key": "nowhere"}, KeyError, ["'nowhere'", "'section'"]),
        ({"library_key": None}, ValueError, ["library_key=", "'section'"]),
        ({"img_key": "fullres"}, KeyError, ["'fullres'", "'hires', 'lowres'", "img=False"]),
        ({"spatial_key": "X_umap"}, KeyError, ["'X_umap'", "'spatial'", "spatial_key="]),
        ({"vmin": 3, "vmax": 3}, ValueError, ["vmin=3", "vmax=3"]),
    ],
)
def test_errors_name_the_remedy(change, kind, words):
    arguments = {"gene": "GENE0", "library_key": "section", **change}
    with pytest.raises(kind) as error:
        sp.pl.spatial_compare(collection(), **arguments)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not plt.get_fignums()


def test_axes_hold_one_panel_only():
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=r"one panel, but 2 libraries x 3 layers.*libraries=.*layers="):
        sp.pl.spatial_compare(collection(), "GENE0", library_key="section", ax=ax)
    with pytest.raises(ValueError, match="1 libraries x 3 layers"):
        sp.pl.spatial_compare(collection(), "GENE0", library_key="section", libraries="A", ax=ax)


def test_errors_about_images_and_positions():
    adata = collection(("A",))
    del adata.uns["spatial"]["A"]["scalefactors"]["tissue_hires_scalef"]
    with pytest.raises(KeyError, match="tissue_hires_scalef.*img_key=.*img=False"):
        sp.pl.spatial_compare(adata, "GENE0")
    assert sp.pl.spatial_compare(adata, "GENE0", img_key="lowres")
    adata.uns["spatial"]["A"]["scalefactors"]["tissue_hires_scalef"] = 20.0
    with pytest.raises(ValueError, match="outside its image.*scale factors"):
        sp.pl.spatial_compare(adata, "GENE0")
    adata.obsm["spatial"][3] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        sp.pl.spatial_compare(adata, "GENE0", img=False)


def test_layers_that_exist_are_drawn_by_default():
    adata = collection(("A",))
    del adata.layers["median"], adata.layers["spackle"]
    assert [ax.get_title() for ax in panels(sp.pl.spatial_compare(adata, "GENE0"))] == ["log2tpm"]
    plt.close("all")
    adata.layers["mine"] = adata.layers["log2tpm"].copy()
    params = {"method": "counts", "layer": "log2tpm"}
    adata.uns["spared_sc"] = {"mine": {"function": "tl.complete", "params": params, "slots": ['layers["mine"]']}}
    fig = sp.pl.spatial_compare(adata, "GENE0")
    assert [ax.get_title() for ax in panels(fig)] == ["log2tpm", "mine\ncounts model"]
    plt.close("all")
    del adata.layers["log2tpm"], adata.layers["mine"]
    with pytest.raises(ValueError, match=r"no layer to draw.*'detected'.*tl\.spackle_complete"):
        sp.pl.spatial_compare(adata, "GENE0")
