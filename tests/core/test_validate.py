"""Raw counts and libraries are found, or refused with a remedy."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY, dense
from spared_sc._core import validate


@pytest.fixture
def adata(collection) -> ad.AnnData:
    return collection(n_libraries=2, n_genes=30, shape=(6, 6), image=False)


def logged(adata: ad.AnnData) -> ad.AnnData:
    """`adata.X` as scanpy's `log1p` leaves it."""
    adata.X = adata.X.log1p()
    return adata


def counts_in_raw(adata: ad.AnnData) -> ad.AnnData:
    adata.raw = adata.copy()
    return logged(adata)


def test_counts_in_raw_are_found_by_the_names_of_their_genes(adata):
    counts = adata.X.toarray()
    adata = counts_in_raw(adata)[:, [7, 2, 20]].copy()
    matrix, slot = validate.get_counts(adata)
    assert slot == "raw.X"
    np.testing.assert_array_equal(matrix.toarray(), counts[:, [7, 2, 20]])
    view = adata[::2]
    np.testing.assert_array_equal(validate.get_counts(view)[0].toarray(), counts[::2, [7, 2, 20]])


def test_the_recipe_on_counts_in_raw_is_that_on_counts_in_x(adata):
    expected = adata.copy()
    sp.pp.recipe_spared(expected, n_genes=8, **KEY)
    adata = counts_in_raw(adata)
    sp.pp.recipe_spared(adata, n_genes=8, **KEY)
    for layer in ("detected", "log2tpm"):
        np.testing.assert_array_equal(adata.layers[layer].toarray(), expected.layers[layer].toarray())
    assert adata.uns["spared_sc"]["log2tpm"]["params"]["counts"] == "raw.X"


@pytest.mark.parametrize("kind", [None, "h5ad", "zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
@pytest.mark.filterwarnings("ignore:.* is probably no raw counts")  # multiples of counts
def test_a_layer_that_was_named_once_is_found_again(adata, kind, tmp_path):
    adata.layers["spliced"] = adata.X * 2
    adata.layers["counts"] = adata.X * 3
    sp.pp.spared_filter(adata, layer="spliced", **KEY)
    if kind is not None:
        getattr(adata, f"write_{kind}")(tmp_path / "a")
        adata = getattr(ad, f"read_{kind}")(tmp_path / "a")
    matrix, slot = validate.get_counts(adata)
    assert slot == 'layers["spliced"]'
    np.testing.assert_array_equal(dense(matrix), dense(adata.layers["spliced"]))
    sp.pp.normalize_tpm(adata)
    assert adata.uns["spared_sc"]["log2tpm"]["params"]["counts"] == slot
    sp.pp.spared_filter(adata, layer="counts", **KEY)  # a name that is given counts
    assert validate.get_counts(adata)[1] == 'layers["counts"]'
    del adata.layers["spliced"], adata.layers["counts"]
    assert validate.get_counts(adata)[1] == "X"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (None, "adata.raw is None"),
        ("logged", "raw.X holds values that are no integers"),
        ("other genes", "adata.raw lacks 30 of 30 genes"),
        ("repeated genes", "gene names of adata.raw occur twice"),
    ],
)
def test_counts_that_are_nowhere(adata, raw, words):
    if raw is not None:
        adata.raw = logged(adata.copy()) if raw == "logged" else adata.copy()
    if raw == "other genes":
        adata.var_names = [f"other_{name}" for name in adata.var_names]
    if raw == "repeated genes":
        adata.raw.var.index = ["same"] * adata.n_vars
    logged(adata)
    remedy = r'put them into adata.X or adata.layers\["counts"\]'
    with pytest.raises(ValueError, match=rf'no layers\["counts"\], {words}.*, and X holds values.*{remedy}'):
        sp.pp.normalize_tpm(adata)


def test_functions_that_work_without_counts_say_so(adata):
    sp.pp.recipe_spared(adata, n_genes=8, **KEY)
    logged(adata)
    with pytest.warns(UserWarning, match="expected counts are not estimated: .* X holds values.*raw counts are needed"):
        sp.tl.complete(adata, method="additive", **KEY)
    adata.layers["counts"] = sps.csr_matrix(adata.X * 0.5)
    with pytest.warns(UserWarning, match=r"expected counts are not estimated: layers\['counts'\] holds values"):
        sp.tl.complete(adata, method="additive", **KEY)


def test_a_library_key_of_the_settings_is_used_and_recorded(adata):
    expected = adata.copy()
    sp.pp.recipe_spared(expected, n_genes=8, **KEY)
    with sp.settings.override(**KEY):
        sp.pp.recipe_spared(adata, n_genes=8)
        assert adata.uns["spared_sc"].keys() == expected.uns["spared_sc"].keys()
        for key, record in adata.uns["spared_sc"].items():
            assert record["params"].get("library_key") == expected.uns["spared_sc"][key]["params"].get("library_key")
        adata.obs["half"] = "one"
        assert validate.get_libraries(adata, "half").names == ["one"]  # an argument comes first
    with sp.settings.override(library_key="section"), pytest.raises(KeyError, match="no column 'section'.*settings"):
        sp.pp.lattice_neighbors(adata)
    with pytest.raises(ValueError, match="library_key"):
        sp.pp.lattice_neighbors(adata)


@pytest.mark.parametrize("where", ["X", "layers"])
def test_a_dask_matrix_is_refused_with_the_call_that_loads_it(where, collection):
    da = pytest.importorskip("dask.array")
    adata = collection(n_libraries=2, shape=(6, 6), n_genes=20)
    expected = dense(adata.X)
    lazy = da.from_array(expected, chunks=(20, 20))
    if where == "X":
        adata.X = lazy
    else:
        adata.layers["counts"] = lazy
    with pytest.raises((TypeError, ValueError), match=r"is a dask Array: .*adata = adata\.to_memory\(\)"):
        sp.pp.normalize_tpm(adata, gene_lengths=None)
    loaded = adata.to_memory()
    sp.pp.normalize_tpm(loaded, gene_lengths=None)
    assert np.array_equal(dense(validate.get_counts(loaded)[0]), expected)


def offset_columns(adata):
    """Columns that count the spots of a row, not the places of the array."""
    adata.obs["array_col"] = adata.obs["array_col"] // 2


def other_rows(adata):
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for name in ("array_row", "array_col"):
        adata.obs[name] = adata.obs[name].to_numpy()[order]


@pytest.mark.parametrize("spoil", [offset_columns, other_rows])
def test_places_that_contradict_the_positions_are_doubted(spoil):
    adata = sp.datasets.synthetic(n_libraries=1, n_genes=4, shape=(10, 10), image=False)
    sp.pp.lattice_neighbors(adata)  # no warning
    spoil(adata)
    with pytest.warns(
        UserWarning, match=r"library 'library_1': \d+% of the neighbours .* lie far apart in obsm\['spatial'\]"
    ):
        sp.pp.lattice_neighbors(adata)


@pytest.mark.parametrize("lattice", ["hex", "grid"])
def test_places_with_positions_that_are_a_little_off_are_not_doubted(lattice):
    adata = sp.datasets.synthetic(n_libraries=2, n_genes=4, shape=(10, 10), lattice=lattice, image=False)
    rng = np.random.default_rng(0)
    adata.obsm["spatial"] = 3.7 * adata.obsm["spatial"] @ [[0.8, 0.6], [-0.6, 0.8]] + rng.normal(
        0, 15, (adata.n_obs, 2)
    )
    sp.pp.lattice_neighbors(adata, library_key="library_id")


TABLE = pd.DataFrame({"method": ["a", "b"], "share": [0.1, np.nan], "value": [1.0, 2.0]})
WRONG_TABLES = {
    "numbers as text": TABLE.astype(str),
    "lists": TABLE.assign(method=[["a"], ["b"]]),
    "several kinds": TABLE.assign(method=["a", ("b",)]),
    "text among numbers": TABLE.assign(value=[1, "b"]),
    "dates": TABLE.assign(value=pd.Timestamp("2020-01-01")),
    "a column twice": pd.concat([TABLE, TABLE[["value"]]], axis=1),
}


@pytest.mark.parametrize("table", WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_tables_of_scores_hold_what_they_were_made_with(table):
    with pytest.raises((TypeError, ValueError), match="pass the table that `here` returns"):
        validate.check_table(table, TABLE.columns, "here")


@pytest.mark.parametrize(
    "table",
    [TABLE, TABLE.iloc[:0], TABLE.astype({"method": "category"}), TABLE.assign(method=[1, 2]), TABLE.convert_dtypes()],
    ids=["whole", "empty", "categories", "names that are numbers", "nullable"],
)
def test_tables_of_scores_that_went_through_files_are_taken(table):
    validate.check_table(table, TABLE.columns, "here")
