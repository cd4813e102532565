"""From images to expression through the public functions: patches, embeddings, networks, new slides, the command line."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import tifffile
from PIL import Image

import spared_sc as sp
from spared_sc import cli
from spared_sc._core.validate import get_libraries
from spared_sc._images.resolve import resolve_patches

KEY = {"library_key": "library_id"}
TINY = {  # a network that is trained in a second
    "weights": "random",
    "backbone": "timm:resnet10t",
    "n_steps": 4,
    "train_batch_size": 8,
    "validate_every": 2,
    "learning_rate": 1e-3,
}


@pytest.fixture(scope="module")
def made():
    adata = sp.datasets.synthetic(n_libraries=4, shape=(8, 8), n_genes=50, depth=400)
    adata.obsm["spatial"] = adata.obsm["spatial"] + 3.1 * adata.obs["library_id"].cat.codes.to_numpy()[:, None]
    sp.pp.recipe_spared(adata, **KEY, n_genes=12, gene_lengths=None)
    sp.pp.extract_patches(adata, size=2, output_size=32, **KEY)
    sp.tl.embed_patches(adata, encoder="classical", **KEY)
    return adata


@pytest.fixture
def adata(made):
    return made.copy()


def of_libraries(adata, *numbers):
    return adata[adata.obs["library_id"].isin([f"library_{number}" for number in numbers])].copy()


def slide_of(adata, number, path):
    """The image of a section as a file, and the same spots on it."""
    one = of_libraries(adata, number)
    slide = one.uns["spatial"][f"library_{number}"]
    Image.fromarray(slide["images"]["hires"]).save(path)
    scale = slide["scalefactors"]["tissue_hires_scalef"]
    return one, scale


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_the_embedding_is_that_of_the_patches(adata):
    from spared_sc._images.features import classical

    patches = resolve_patches(adata, get_libraries(adata, "library_id"))
    rows = np.array([0, 70, 200])
    np.testing.assert_array_equal(adata.obsm["X_classical"][rows], classical(patches.read(rows)))
    record = adata.uns["spared_sc"]["X_classical"]
    assert record["encoder"]["name"] == "classical"
    assert record["patches"]["size"] == 2


@pytest.mark.filterwarnings("ignore:a patch has:UserWarning")  # few pixels for this encoder
def test_order_and_batch_size_do_not_change_an_embedding(adata):
    options = {"encoder": "resnet10t", "weights": "random", **KEY}
    sp.tl.embed_patches(adata, **options)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    other = adata[order].copy()
    del other.obsm["X_resnet10t"]
    sp.tl.embed_patches(other, batch_size=7, **options)
    np.testing.assert_allclose(other.obsm["X_resnet10t"], adata.obsm["X_resnet10t"][order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5])
def test_batch_sizes_that_cannot_be(adata, batch_size):
    before = adata.obsm["X_classical"].copy()
    with pytest.raises(ValueError, match=f"batch_size={batch_size} cannot be used"):
        sp.tl.embed_patches(adata, batch_size=batch_size, **KEY)
    assert np.array_equal(adata.obsm["X_classical"], before)


def test_finished_sections_are_not_embedded_again(adata, tmp_path, monkeypatch):
    from spared_sc._images import features
    from spared_sc._models import encoders

    done, original = [], encoders.embed_all

    def interrupted(encoder, patches, **options):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(patches))
        return original(encoder, patches, **options)

    monkeypatch.setattr(encoders, "embed_all", interrupted)
    options = {"encoder": "classical", "checkpoint": tmp_path / "state", "key_added": "X_again", **KEY}
    with pytest.raises(KeyboardInterrupt):
        sp.tl.embed_patches(adata, **options)
    assert "X_again" not in adata.obsm
    done[:] = [0]  # one more call is allowed than is needed
    monkeypatch.setattr(encoders, "embed_all", lambda *args, **kw: done.append(1) or original(*args, **kw))
    sp.tl.embed_patches(adata, **options)
    assert len(done) == 3  # the two sections that were left
    assert np.array_equal(adata.obsm["X_again"], adata.obsm["X_classical"])
    sp.pp.extract_patches(adata, size=3, output_size=32, **KEY)
    with pytest.raises(ValueError, match="other patches or by another encoder"):
        sp.tl.embed_patches(adata, **options)
    assert features.classical(np.zeros((1, 32, 32, 3), np.uint8)).shape[1] == adata.obsm["X_again"].shape[1]


# --- networks ---------------------------------------------------------------------------------------------------------


def test_a_network_is_fitted_and_selected_on_its_own_libraries(adata):
    adata.obs["split"] = (
        adata.obs["library_id"]
        .astype(str)
        .map({"library_1": "train", "library_2": "train", "library_3": "val", "library_4": "test"})
    )
    sp.tl.predict_expression(adata, model="shufflenet", model_params=TINY, **KEY)
    record = adata.uns["spared_sc"]["predicted_shufflenet"]
    assert record["fits"]["fit_0"]["n_parameters"] > 1e6
    table = adata.obsm["predicted_shufflenet"]
    assert np.isfinite(table.to_numpy()).all()
    changed = adata.copy()
    rows = np.flatnonzero(adata.obs["split"] == "test")
    values = changed.layers["log2tpm"].tolil()
    values[rows] = values[rows][::-1]
    changed.layers["log2tpm"] = values.tocsr()
    sp.tl.predict_expression(changed, model="shufflenet", model_params=TINY, **KEY)
    assert changed.obsm["predicted_shufflenet"].equals(table)  # measured test values have no part


@pytest.mark.parametrize("model", ["shufflenet", "bleep", "egn"])
def test_saved_networks_predict_the_same(adata, tmp_path, model):
    params = dict(TINY)
    if model == "bleep":
        params |= {"n_neighbours": 5}
    if model == "egn":
        del params["backbone"]
        params |= {"encoder": "timm:resnet10t", "width": 32, "depth": 2, "n_heads": 2, "feedforward": 32}
        params |= {"token_size": 4, "image_size": 32}
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), model=model, model_params=params, **KEY)
    fitted.save(tmp_path / "model")
    new = of_libraries(adata, 3)
    sp.tl.predict_expression(new, model=fitted, key_added="one")
    sp.tl.predict_expression(new, model=tmp_path / "model", key_added="other", batch_size=5)
    np.testing.assert_allclose(new.obsm["one"], new.obsm["other"], rtol=1e-4, atol=1e-5)
    assert set(new.uns["spared_sc"]["one"]["roles"].values()) == {"test"}


def test_retrieval_from_one_train_section(adata):
    """All exemplars are of it, for the other section as for its own."""
    two = of_libraries(adata, 1, 2)
    two.obs["split"] = np.where(two.obs["library_id"] == "library_1", "train", "val")
    sp.tl.predict_expression(two, model="bleep", model_params={**TINY, "n_neighbours": 5}, loss="all", **KEY)
    table = two.obsm["predicted_bleep"]
    values = two[two.obs["split"] == "train", table.columns].layers["log2tpm"].toarray()
    assert (table.min() >= values.min(axis=0) - 1e-4).all()
    assert (table.max() <= values.max(axis=0) + 1e-4).all()


def test_retrieval_leaves_out_the_section_itself(adata):
    """Predicting a train section, no spot may find itself among the exemplars."""
    params = {**TINY, "n_neighbours": 1}
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2), model="bleep", model_params=params, **KEY)
    again = of_libraries(adata, 1)
    sp.tl.predict_expression(again, model=fitted)
    genes = again.obsm["predicted_bleep"].columns
    other = of_libraries(adata, 2)[:, genes].layers["log2tpm"].toarray()
    own = again[:, genes].layers["log2tpm"].toarray()

    def contained(row, rows):
        return np.isclose(rows, row, atol=1e-3).all(axis=1).any()

    found = again.obsm["predicted_bleep"].to_numpy()
    # With every entry known, a prediction from one exemplar would be a row of the train sections.
    whole = [row for row in found if contained(row, own) or contained(row, other)]
    assert not [row for row in whole if contained(row, own) and not contained(row, other)]


# --- new slides -------------------------------------------------------------------------------------------------------


def test_a_new_slide_is_embedded_as_the_train_sections_were(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    expected = of_libraries(adata, 4)
    sp.tl.predict_expression(expected, model=fitted)
    bare = ad.AnnData(obs=expected.obs[["array_row", "array_col"]].copy(), obsm={"spatial": expected.obsm["spatial"]})
    bare.uns["spatial"] = {"library_4": expected.uns["spatial"]["library_4"]}
    sp.tl.predict_expression(bare, model=fitted)
    assert "X_classical" not in bare.obsm
    np.testing.assert_allclose(bare.obsm["predicted_ridge"], expected.obsm["predicted_ridge"], atol=1e-4)


def test_patches_of_another_size_or_resolution_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    new = of_libraries(adata, 4)
    del new.obsm["X_classical"]
    sp.pp.extract_patches(new, size=3, output_size=32)
    with pytest.raises(
        ValueError, match=r"the patches of library 'library_4' are .* um .*those of training.*extract_patches"
    ):
        sp.tl.predict_expression(new, model=fitted)
    assert "predicted_ridge" not in new.obsm
    sp.tl.predict_expression(new, model=fitted, force=True)
    coarse = of_libraries(adata, 4)
    del coarse.obsm["X_classical"]
    slide = coarse.uns["spatial"]["library_4"]
    slide["images"]["hires"] = slide["images"]["hires"][::4, ::4]
    slide["scalefactors"]["tissue_hires_scalef"] /= 4
    sp.pp.extract_patches(coarse, size=2, output_size=32)
    with pytest.raises(ValueError, match="um per pixel"):
        sp.tl.predict_expression(coarse, model=fitted)


def test_one_library_of_another_resolution_is_found_among_others(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1), **KEY)
    new = of_libraries(adata, 2, 3, 4)
    del new.obsm["X_classical"]
    slide = new.uns["spatial"]["library_3"]
    slide["images"]["hires"] = slide["images"]["hires"][::4, ::4]
    slide["scalefactors"]["tissue_hires_scalef"] /= 4
    with pytest.raises(ValueError, match="the patches of library 'library_3' are"):
        sp.tl.predict_expression(new, model=fitted, **KEY)


def test_an_unknown_scale_hides_no_coarse_image(adata, monkeypatch):
    from spared_sc._models import encoders

    found = []
    monkeypatch.setattr(encoders, "check_resolution", lambda card, px, um, **more: found.append(um))
    patches = resolve_patches(adata, get_libraries(adata, "library_id"))
    patches.recipe["sources"]["library_1"]["um_per_px"] = np.nan
    monkeypatch.setattr(sp.tl._prediction, "get_patches", lambda *args: patches)
    sp.tl.embed_patches(adata, **KEY)
    assert found == [max(patches.recipe["sources"][f"library_{i}"]["um_per_px"] for i in (2, 3, 4))]


def test_embeddings_by_another_encoder_are_refused(adata):
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    new = of_libraries(adata, 4)
    new.uns["spared_sc"]["X_classical"]["encoder"]["name"] = "resnet18"
    with pytest.raises(ValueError, match="name is 'resnet18' instead of 'classical'"):
        sp.tl.predict_expression(new, model=fitted)
    del new.uns["spared_sc"]["X_classical"]
    with pytest.raises(ValueError, match="nothing is recorded about it"):
        sp.tl.predict_expression(new, model=fitted)


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_command_line(adata, tmp_path, capsys, ending):
    one, scale = slide_of(adata, 4, tmp_path / "slide.png")
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), **KEY)
    fitted.save(tmp_path / "model")
    um = fitted.card["patches"]["um_per_px"]
    output = tmp_path / f"out.{ending}"
    options = [str(tmp_path / "slide.png"), "--model", str(tmp_path / "model"), "-o", str(output), "--mpp", str(um)]
    assert cli.main(["predict", *options]) == 0
    said = capsys.readouterr().out
    assert "scale: that of layer 'log2tpm' in training, with the unit of 'log2tpm'" in said
    assert "look unlike anything in training" in said
    result = getattr(ad, f"read_{ending}")(output)
    assert result.var_names.tolist() == fitted.genes
    assert result.n_obs > 20
    assert {"array_row", "array_col", "predicted_unlike"} <= set(result.obs)
    assert result.uns["spared_sc"]["predicted"]["card"]["layer"] == "log2tpm"
    # Much finer than in training, by what the user says of the file: refused, and nothing written.
    output.rename(tmp_path / "before")
    assert cli.main(["predict", *options[:-1], str(um / 3)]) == 1
    said = capsys.readouterr().err
    assert "those of training" in said
    assert "--force" in said
    assert "force=True" not in said
    assert not output.exists()


def test_command_line_says_the_unit_of_a_completed_layer_and_names_a_damaged_file(adata, tmp_path, capsys):
    sp.tl.median_complete(adata, **KEY)
    fitted = sp.tl.fit_predictor(of_libraries(adata, 1, 2, 3), layer="median", **KEY)
    fitted.save(tmp_path / "model")
    slide = adata.uns["spatial"]["library_4"]["images"]["hires"]
    path = tmp_path / "slide.tif"
    tifffile.imwrite(path, slide, photometric="rgb", tile=(64, 64), compression="zlib")
    options = ["--model", str(tmp_path / "model"), "-o", str(tmp_path / "out.h5ad")]
    options += ["--mpp", str(fitted.card["patches"]["um_per_px"])]
    assert cli.main(["predict", str(path), *options]) == 0
    assert "layer 'median' in training, with the unit of 'log2tpm'" in capsys.readouterr().out
    content = bytearray(path.read_bytes())
    content[3000:3100] = bytes(100)
    path.write_bytes(content)
    assert cli.main(["predict", str(path), *options]) == 1
    assert "slide.tif cannot be read" in capsys.readouterr().err


def test_command_line_says_what_is_wrong(tmp_path, capsys):
    image = tmp_path / "slide.png"
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "out.csv")]) == 2
    assert "neither the ending .h5ad nor .zarr" in capsys.readouterr().err
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "out.h5ad")]) == 1
    assert "slide.png" in capsys.readouterr().err
    assert cli.main(["predict", str(image), "--model", "nowhere", "-o", str(tmp_path / "no" / "out.h5ad")]) == 2
    assert "there is no folder" in capsys.readouterr().err


def test_networks_refuse_a_split_without_validation(adata):
    adata.obs["split"] = np.where(adata.obs["library_id"] == "library_4", "test", "train")
    before = adata.copy()
    for function in (sp.tl.predict_expression, sp.tl.fit_predictor):
        with pytest.raises(ValueError, match="'shufflenet' chooses its best step on validation libraries.*has none"):
            function(adata, model="shufflenet", model_params=TINY, **KEY)
    assert set(adata.obsm) == set(before.obsm)
    sp.tl.predict_expression(adata, model="ridge", **KEY)  # has no use for one
    two = of_libraries(adata, 1, 2)  # nothing is left to validate on: the last step
    sp.tl.predict_expression(two, model="shufflenet", model_params=TINY, split_key=None, **KEY)
    assert np.isfinite(two.obsm["predicted_shufflenet"].to_numpy()).all()
    params = {**TINY, "learning_rate": "search"}
    with pytest.raises(ValueError, match="learning_rate='search' compares rates on validation spots"):
        sp.tl.predict_expression(two, model="shufflenet", model_params=params, split_key=None, **KEY)
