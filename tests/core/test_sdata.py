"""SpatialData objects in place of an AnnData."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata import models, transformations

import spared_sc as sp
from helpers.sdata import as_spatialdata
from spared_sc._core.sdata import as_anndata
from spared_sc._images.scale import recipe_of

pytestmark = pytest.mark.filterwarnings("ignore")  # spatialdata's and dask's own


@pytest.fixture
def adata(collection):
    return collection(n_libraries=2, shape=(8, 8), n_genes=40, depth=300)


@pytest.mark.parametrize("image", ["small", "pyramid"])
@pytest.mark.parametrize("positions", [True, False])
def test_a_spatialdata_object_gives_what_its_anndata_gives(adata, image, positions):
    sdata = as_spatialdata(adata, image=image, positions=positions)
    before = set(sdata.tables["table"].uns), set(sdata.tables["table"].obsm)
    for data, key in ((adata, {"library_key": "library_id"}), (sdata, {})):
        sp.pp.recipe_spared(data, n_genes=12, gene_lengths=None, **key)
        sp.tl.median_complete(data, **key)
        sp.tl.embed_patches(data, encoder="classical", **key)
        sp.tl.predict_expression(data, model="ridge", **key)
    table = sdata.tables["table"]
    assert np.array_equal(table.layers["median"].toarray(), adata.layers["median"].toarray())
    np.testing.assert_allclose(table.obsm["X_classical"], adata.obsm["X_classical"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(table.obsm["predicted_ridge"], adata.obsm["predicted_ridge"], atol=0.02)
    # What was lent for the call is taken back.
    assert (set(table.uns) - {"spared_sc"}, set(table.obsm) - {"X_classical", "predicted_ridge"}) == before


def test_regions_are_the_libraries(adata):
    sdata = as_spatialdata(adata)
    share = sp.get.missing_share(sdata)
    assert share.columns.tolist() == ["library_1", "library_2"]


def test_filtering_keeps_shapes_and_table_together(adata, tmp_path):
    sdata = as_spatialdata(adata)
    counts = np.asarray(adata.X.sum(axis=1)).ravel()
    least = float(np.quantile(counts, 0.3))
    sp.pp.spared_filter(sdata, spot_counts=(least, 1e6))
    table = sdata.tables["table"]
    assert 0 < table.n_obs < adata.n_obs
    for name in ("library_1", "library_2"):
        of_region = table.obs["spot"][table.obs["region"] == name]
        assert set(sdata.shapes[name].index) == set(of_region)
    sdata.write(tmp_path / "filtered.zarr")
    back = spatialdata.read_zarr(tmp_path / "filtered.zarr")
    assert back.tables["table"].n_obs == table.n_obs
    assert len(back.shapes["library_1"]) == (table.obs["region"] == "library_1").sum()


def test_plots_find_the_images(adata):
    import matplotlib.pyplot as plt

    sdata = as_spatialdata(adata)
    sp.pp.recipe_spared(sdata, n_genes=12, gene_lengths=None)
    table = sdata.tables["table"]
    gene = table.var_names[table.var["spared_selected"]][0]
    fig = sp.pl.spatial_compare(sdata, gene, layers=["log2tpm"])
    assert [len(ax.images) for ax in fig.axes[:2]] == [1, 1]
    plt.close(fig)


def test_regions_in_one_coordinate_system_tell_their_images_apart_by_name(adata):
    """The name of one region begins with that of another."""
    sdata = as_spatialdata(adata)
    table = sdata.tables["table"]
    images, shapes = {}, {}
    for old, new, shift in (("library_1", "s1", 0), ("library_2", "s10", 2000)):
        to_all = transformations.Translation([shift, 0], axes=("x", "y"))
        shape, image = sdata.shapes[old], sdata.images[f"{old}_image"]
        for element in (shape, image):
            own = transformations.get_transformation(element, old)
            transformations.set_transformation(
                element, {"global": transformations.Sequence([own, to_all])}, set_all=True
            )
        shapes[new], images[f"{new}_image"] = shape, image
    table.obs["region"] = table.obs["region"].cat.rename_categories({"library_1": "s1", "library_2": "s10"})
    del table.uns["spatialdata_attrs"], table.obsm["spatial"]
    table = models.TableModel.parse(table, region=["s1", "s10"], region_key="region", instance_key="spot")
    with as_anndata(spatialdata.SpatialData(images=images, shapes=shapes, tables={"table": table})) as lent:
        slides = lent.uns["spatial"]
        for name in ("s1", "s10"):
            assert slides[name]["metadata"]["source_image"] == f"{name}_image"
            assert slides[name]["metadata"]["source_images"][f"{name}_image"] is images[f"{name}_image"]


def test_spots_without_a_shape_and_errors_leave_the_table_as_it_was(adata):
    sdata = as_spatialdata(adata, positions=False)
    table = sdata.tables["table"]
    sdata.shapes["library_1"] = sdata.shapes["library_1"].iloc[:-3]
    sp.pp.normalize_tpm(sdata, gene_lengths=None)
    assert "log2tpm" in table.layers
    before = set(table.uns), set(table.obsm)
    with pytest.raises(KeyError, match="no positions"):
        sp.tl.embed_patches(sdata)
    assert (set(table.uns), set(table.obsm)) == before


def test_an_image_without_a_small_version_is_thinned(adata):
    sdata = as_spatialdata(adata)
    big = models.Image2DModel.parse(
        np.zeros((3, 4100, 40), np.uint8),
        dims=("c", "y", "x"),
        transformations={"library_1": transformations.Identity()},
    )
    sdata.images["library_1_image"] = big
    with as_anndata(sdata) as lent:
        slide = lent.uns["spatial"]["library_1"]
    assert slide["images"]["hires"].shape == (1367, 14, 3)
    assert slide["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1 / 3)


def test_a_table_of_no_region(adata):
    plain = ad.AnnData(adata.X.copy(), var=adata.var[[]].copy(), obs=adata.obs[[]].copy())
    sdata = spatialdata.SpatialData(tables={"table": models.TableModel.parse(plain)})
    sp.pp.normalize_tpm(sdata, gene_lengths=None)
    assert "log2tpm" in sdata.tables["table"].layers


def test_keyword_and_copy(adata):
    sdata = as_spatialdata(adata)
    result = sp.pp.normalize_tpm(adata=sdata, gene_lengths=None, copy=True)
    assert isinstance(result, ad.AnnData)
    assert "log2tpm" in result.layers
    assert "log2tpm" not in sdata.tables["table"].layers


def test_what_cannot_be_used(adata):
    sdata = as_spatialdata(adata)
    with pytest.raises(ValueError, match="no table"):
        sp.pp.normalize_tpm(spatialdata.SpatialData(images=dict(sdata.images)))
    table = sdata.tables["table"]
    two = spatialdata.SpatialData(shapes=dict(sdata.shapes), tables={"one": table, "other": table.copy()})
    with pytest.raises(ValueError, match="several tables"):
        sp.pp.normalize_tpm(two)


def test_recorded_patches_and_results_of_their_own(adata, tmp_path):
    sdata = as_spatialdata(adata)
    sp.pp.extract_patches(sdata, size=2, output_size=32)
    sp.tl.embed_patches(sdata)  # finds the image again, which the table does not hold
    sp.pp.extract_patches(adata, size=2, output_size=32, library_key="library_id")
    sp.tl.embed_patches(adata, library_key="library_id")
    table = sdata.tables["table"]
    np.testing.assert_allclose(table.obsm["X_classical"], adata.obsm["X_classical"], rtol=1e-3, atol=1e-3)
    sp.pp.recipe_spared(sdata, n_genes=12, gene_lengths=None)
    sp.tl.predict_expression(sdata)
    for result in (sp.get.predicted(sdata), sp.pp.normalize_tpm(sdata, gene_lengths=None, copy=True)):
        result.write_h5ad(tmp_path / "result.h5ad")
        assert result.uns["spatial"]["library_1"]["images"]["hires"].dtype == np.uint8


def with_full_image(adata):
    """One region with two images: the hires one, and one of four times as many pixels a side."""
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    one.uns["spatial"] = {"library_1": adata.uns["spatial"]["library_1"]}
    sdata = as_spatialdata(one)
    small = sdata.images["library_1_image"]
    factor = 1 / one.uns["spatial"]["library_1"]["scalefactors"]["tissue_hires_scalef"]
    sdata.images["library_1_full"] = models.Image2DModel.parse(
        np.kron(np.asarray(small.data), np.ones((1, 4, 4), np.uint8)),
        dims=("c", "y", "x"),
        transformations={"library_1": transformations.Scale([factor / 4, factor / 4], axes=("y", "x"))},
    )
    return sdata, factor


def test_an_image_that_is_passed_lies_where_the_spots_do(adata):
    sdata, factor = with_full_image(adata)
    table = sdata.tables["table"]
    small = sdata.images["library_1_image"]
    sp.pp.extract_patches(sdata, image=small, output_size=32)
    expected = table.uns["spared_sc"]["patches"]
    # Other coordinate systems, one of them with the name that is taken where nothing says which.
    other = transformations.Scale([factor / 2, factor / 2], axes=("y", "x"))
    for name in ("downscaled", "global"):
        transformations.set_transformation(small, other, name)
        sp.pp.extract_patches(sdata, image=small, output_size=32)
        assert table.uns["spared_sc"]["patches"]["fingerprint"] == expected["fingerprint"]
        assert recipe_of(table.uns["spared_sc"]["patches"])["sources"] == recipe_of(expected)["sources"]


def test_the_image_that_was_passed_is_the_one_that_is_used(adata, tmp_path):
    sdata, _ = with_full_image(adata)
    table = sdata.tables["table"]
    sp.tl.embed_patches(sdata, key_added="X_full")
    full = recipe_of(table.uns["spared_sc"]["X_full"]["patches"])["sources"]["library_1"]
    assert full["where"] == "the image 'library_1_full' of the SpatialData object"
    sp.pp.extract_patches(sdata, image=sdata.images["library_1_image"])
    sdata.write(tmp_path / "a.zarr")
    for one in (sdata, spatialdata.read_zarr(tmp_path / "a.zarr")):
        sp.tl.embed_patches(one, key_added="X_small")
        source = recipe_of(one.tables["table"].uns["spared_sc"]["X_small"]["patches"])["sources"]["library_1"]
        assert source["where"] == "the image 'library_1_image' of the SpatialData object"
        assert source["patch_px"] == pytest.approx(full["patch_px"] / 4)
    del sdata.images["library_1_image"]
    with pytest.raises(ValueError, match="the image 'library_1_image' of the SpatialData object.* pass it again"):
        sp.tl.embed_patches(sdata, key_added="X_small")


@pytest.mark.parametrize(
    ("matrix", "lent"),
    [
        ([[1, 0, 0], [0, 1, 0]], True),
        ([[1, 0.004, 0.8], [-0.004, 1.004, -0.8]], True),  # as alignments by hand are
        ([[1, 0, 3], [0, 1, 0]], False),
        ([[1, 0, 0], [0, 1.5, 0]], False),
        ([[0.94, -0.342, 0], [0.342, 0.94, 0]], False),  # 20 degrees
        ([[-1, 0, 0], [0, -1, 0]], False),
    ],
)
def test_only_an_image_that_is_scaled_is_lent_as_the_hires_one(adata, matrix, lent):
    one = adata[adata.obs["library_id"] == "library_1"].copy()
    one.uns["spatial"] = {"library_1": adata.uns["spatial"]["library_1"]}
    sdata = as_spatialdata(one)
    factor = 1 / one.uns["spatial"]["library_1"]["scalefactors"]["tissue_hires_scalef"]
    affine = transformations.Affine(np.array([*(factor * np.array(matrix)), [0, 0, 1]]), ("x", "y"), ("x", "y"))
    transformations.set_transformation(sdata.images["library_1_image"], affine, "library_1")
    with as_anndata(sdata) as table:
        assert ("hires" in table.uns["spatial"]["library_1"]["images"]) == lent


def test_a_region_that_loses_all_spots_goes(adata, tmp_path):
    sdata = as_spatialdata(adata)
    sdata.write(tmp_path / "read.zarr")
    sdata = spatialdata.read_zarr(tmp_path / "read.zarr")
    table = sdata.tables["table"]
    lost = (table.obs["region"] == "library_1").to_numpy()
    table.X = table.X.multiply(~lost[:, None]).tocsr()
    changed = ["table", *sdata.shapes]
    sp.pp.spared_filter(sdata, spot_counts=(1, 1e9))
    table = sdata.tables["table"]
    n_left = int((~lost).sum())
    assert (table.n_obs, list(sdata.shapes), len(sdata.shapes["library_2"])) == (n_left, ["library_2"], n_left)
    assert sp.get.missing_share(sdata).columns.tolist() == ["library_2"]
    # As the page about prediction says it is written back, and as a new object.
    sdata.delete_element_from_disk(changed)
    sdata.write_element(["table", *sdata.shapes])
    sdata.write(tmp_path / "new.zarr")
    for name in ("read.zarr", "new.zarr"):
        back = spatialdata.read_zarr(tmp_path / name)
        assert (back.tables["table"].n_obs, list(back.shapes)) == (n_left, ["library_2"])
        assert len(back.images) == 2


@pytest.mark.parametrize(("region", "um"), [("d_square_016um", 0.5), ("square_016um", 0.5), ("bins", np.nan)])
def test_a_spot_is_a_whole_bin_of_known_or_unknown_width(region, um):
    """Squares of Visium HD, 32 px apart, as spatialdata-io gives them: no radius, no scale factors."""
    geopandas, box = pytest.importorskip("geopandas"), pytest.importorskip("shapely.geometry").box
    n, pitch = 12, 32
    row, column = (index.ravel() for index in np.indices((n, n)))
    x, y = pitch * (column + 1.0), pitch * (row + 1.0)
    half = pitch / 2
    squares = [box(i - half, j - half, i + half, j + half) for i, j in zip(x, y, strict=True)]
    obs = {"array_row": row, "array_col": column, "region": pd.Categorical([region] * n**2), "location_id": range(n**2)}
    table = ad.AnnData(np.ones((n**2, 2), np.float32), obs=pd.DataFrame(obs, index=[f"s{i}" for i in range(n**2)]))
    table.obsm["spatial"] = np.column_stack([x, y])
    own = {"d": transformations.Identity()}
    image = np.full((3, 450, 450), 200, np.uint8)
    sdata = spatialdata.SpatialData(
        images={"d_full_image": models.Image2DModel.parse(image, dims=("c", "y", "x"), transformations=own)},
        shapes={region: models.ShapesModel.parse(geopandas.GeoDataFrame(geometry=squares), transformations=own)},
        tables={"t": models.TableModel.parse(table, region=region, region_key="region", instance_key="location_id")},
    )
    sp.pp.extract_patches(sdata, output_size=16)
    source = recipe_of(sdata.tables["t"].uns["spared_sc"]["patches"])["sources"][region]
    assert source["patch_px"] == pytest.approx(pitch)
    assert source["um_per_px"] == pytest.approx(um, nan_ok=True)
    if np.isnan(um):
        with pytest.raises(ValueError, match=r"scale of the image .* is unknown.*mpp="):
            sp.pp.extract_patches(sdata, size=56, unit="um")
        sp.pp.extract_patches(sdata, size=56, unit="um", mpp=0.5)
        assert recipe_of(sdata.tables["t"].uns["spared_sc"]["patches"])["sources"][region]["patch_px"] == 112


BROKEN_LINKS = {
    "text": "text",
    "a list": [1],
    "no columns": {"region": "library_1"},
    "unknown column": {"region": ["library_1"], "region_key": "nothing", "instance_key": "spot"},
    "unknown instances": {"region": ["library_1"], "region_key": "region", "instance_key": "nothing"},
    "columns that are no names": {"region": ["library_1"], "region_key": 3, "instance_key": None},
}


@pytest.mark.parametrize("link", BROKEN_LINKS.values(), ids=BROKEN_LINKS)
def test_a_table_whose_link_is_broken_is_refused(adata, link):
    sdata = as_spatialdata(adata)
    sdata.tables["table"].uns["spatialdata_attrs"] = link
    with pytest.raises((KeyError, TypeError), match=r"`spatialdata.models.TableModel.parse`"):
        sp.pp.normalize_tpm(sdata, gene_lengths=None)


@pytest.mark.parametrize("slides", ["text", [1], {"library_1": 3}])
def test_slides_of_a_table_that_are_something_else_are_refused(adata, slides):
    sdata = as_spatialdata(adata)
    sdata.tables["table"].uns["spatial"] = slides
    with pytest.raises(TypeError, match="expected a dictionary"):
        sp.pp.normalize_tpm(sdata, gene_lengths=None)
    assert sdata.tables["table"].uns["spatial"] == slides
