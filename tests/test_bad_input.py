"""Input that is wrong or odd: a clear word on what to do, and nothing changed in the user's object."""

from __future__ import annotations

import contextlib
import re

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData

import spared_sc as sp

SMALL = {"n_genes": 40, "shape": (6, 6), "depth": 300, "image": False}


def synthetic(n_libraries=2, **options) -> AnnData:
    return sp.datasets.synthetic(n_libraries, **{**SMALL, **options})


@pytest.fixture
def adata(collection) -> AnnData:
    """Two libraries of raw counts."""
    return collection(n_libraries=2, **SMALL)


@pytest.fixture
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(n_libraries=2, **SMALL, recipe={"n_genes": 8})


def frozen(value):
    """A copy of whatever an AnnData may hold, in a form that compares by value."""
    if sps.issparse(value):
        rows = value.tocsr().copy()
        rows.sum_duplicates()
        return type(value), value.dtype, value.shape, rows.toarray().tobytes()
    if isinstance(value, pd.DataFrame):
        return tuple((name, str(value[name].dtype), repr(value[name].tolist())) for name in value), tuple(value.index)
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, repr(value.tolist()) if value.dtype.kind == "O" else value.tobytes()
    if hasattr(value, "items"):
        return {key: frozen(part) for key, part in value.items()}
    return repr(value)


def snapshot(adata: AnnData) -> dict[str, object]:
    parts = {
        name: frozen(getattr(adata, name)) for name in ("X", "layers", "obs", "var", "obsm", "varm", "obsp", "uns")
    }
    return {**parts, "is_view": adata.is_view, "matrix": id(adata.X) if not adata.is_view else None}


@contextlib.contextmanager
def refused(adata: AnnData, error: type[Exception], match: str):
    """The block raises `error` with words that match, and leaves the object as it was."""
    before = snapshot(adata)
    with pytest.raises(error, match=match):
        yield
    assert snapshot(adata) == before


def normalised(adata: AnnData) -> AnnData:
    sp.pp.normalize_tpm(adata)
    return adata


# Every function that reads raw counts, and every one that reads a layer, with the call that is right but for the fault
COUNT_READERS = {
    "spared_filter": lambda a, **k: sp.pp.spared_filter(a, **{"library_key": "library_id", **k}),
    "normalize_tpm": lambda a, **k: sp.pp.normalize_tpm(a, **k),
    "recipe_spared": lambda a, **k: sp.pp.recipe_spared(a, **{"library_key": "library_id", "n_genes": 8, **k}),
}
SPATIAL = {
    "lattice_neighbors": lambda a, **k: sp.pp.lattice_neighbors(a, **k),
    "moran": lambda a, **k: sp.pp.moran(a, **k),
    "complete": lambda a, **k: sp.tl.complete(a, **{"method": "kernel", **k}),
    "median_complete": lambda a, **k: sp.tl.median_complete(a, **k),
    "spackle_complete": lambda a, **k: sp.tl.spackle_complete(
        a, **{"model_params": {"n_iterations": 1}, "device": "cpu", **k}
    ),
    "spackle_complete, paper": lambda a, **k: sp.tl.spackle_complete(
        a, **{"model": "paper", "model_params": {"n_steps": 2}, "device": "cpu", **k}
    ),
    "audit_completion": lambda a, **k: sp.tl.audit_completion(
        a, **{"method": "soft_impute_kernel", "quick": True, "device": "cpu", **k}
    ),
}
LAYER_READERS = {name: call for name, call in SPATIAL.items() if name != "lattice_neighbors"}
ALL = {**COUNT_READERS, **SPATIAL, "select_genes": lambda a, **k: sp.pp.select_genes(a, n_genes=4, **k)}


def each(calls):
    return pytest.mark.parametrize("call", calls.values(), ids=calls)


# --- counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray], ids=["sparse", "dense"])
@pytest.mark.parametrize("where", ["X", "counts", "mine"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (-1, "holds negative values; raw counts are needed"),
        (1.5, r"holds values that are no integers \(such as 1.5\); raw counts are needed"),
        (np.nan, "holds NaN or infinite values"),
        (np.inf, "holds NaN or infinite values"),
    ],
)
@each(COUNT_READERS)
def test_counts_that_are_no_counts(adata, call, value, words, where, container):
    counts = adata.X.toarray()
    counts[3, 5] = value
    if where == "X":
        adata.X = container(counts)
    else:
        adata.layers[where] = container(counts)
    with refused(adata, ValueError, f"(X|layers\\['{where}'\\]) {words}"):
        call(adata, **({"layer": "mine"} if where == "mine" else {}))


@each(COUNT_READERS)
def test_normalised_data_given_as_counts(adata, call):
    adata.X = sps.csr_matrix(np.log1p(adata.X.toarray() / adata.X.sum(axis=1).A1[:, None] * 1e4))
    with refused(adata, ValueError, r'no integers.*put them into adata.X or adata.layers\["counts"\]'):
        call(adata)


@each(COUNT_READERS)
def test_no_counts_at_all(adata, call):
    del adata.X
    with refused(
        adata, ValueError, r'no layers\["counts"\].*X is None.*put them into adata.X or adata.layers\["counts"\]'
    ):
        call(adata)


@each(COUNT_READERS)
def test_counts_layer_without_x(adata, call):
    expected = adata.copy()
    call(expected)
    adata.layers["counts"] = adata.X
    del adata.X
    call(adata)
    assert adata.X is None
    assert adata.obs_names.equals(expected.obs_names)
    pd.testing.assert_frame_equal(adata.var, expected.var)


CONTAINERS = {
    "dense": lambda x: x,
    "fortran": np.asfortranarray,
    "csr": sps.csr_matrix,
    "csc": sps.csc_matrix,
    "csr_array": sps.csr_array,
    "csc_array": sps.csc_array,
}


# scipy has no sparse matrices of half-precision floats
@pytest.mark.parametrize(
    ("container", "dtype"),
    [(name, dtype) for name in CONTAINERS for dtype in ("float64", "int64", "int32", "uint8", "bool")]
    + [("dense", "float16"), ("fortran", "float16")],
)
def test_containers_and_types_of_the_counts(container, dtype):
    adata = synthetic(depth=100)
    raw = adata.X.toarray().clip(0, 1 if dtype == "bool" else 255)
    expected = adata.copy()
    expected.X = sps.csr_matrix(raw)
    adata.X = CONTAINERS[container](raw.astype(dtype))
    before = frozen(adata.X)
    options = {"library_key": "library_id", "n_genes": 8, "spot_counts": (0, 1e6)}
    for each_one in (adata, expected):
        sp.pp.recipe_spared(each_one, **options)
        sp.tl.median_complete(each_one, library_key="library_id")
    assert frozen(adata.X) == before
    pd.testing.assert_frame_equal(adata.var, expected.var)
    for name in ("detected", "log2tpm", "median"):
        ours = adata.layers[name]
        np.testing.assert_allclose(
            ours.toarray() if sps.issparse(ours) else ours, expected.layers[name].toarray(), rtol=1e-6
        )
    assert sps.issparse(adata.layers["median"]) == sps.issparse(adata.X)


def test_arrays_that_cannot_be_written(adata):
    expected = adata.copy()
    counts = adata.X.toarray()
    counts.flags.writeable = False
    adata.X = counts
    for each_one in (adata, expected):
        sp.pp.recipe_spared(each_one, library_key="library_id", n_genes=8)
        sp.tl.median_complete(each_one, library_key="library_id")
    np.testing.assert_allclose(adata.layers["median"], expected.layers["median"].toarray(), rtol=1e-6)

    sparse = synthetic()
    for part in (sparse.X.data, sparse.X.indices, sparse.X.indptr):
        part.flags.writeable = False
    sp.pp.recipe_spared(sparse, library_key="library_id", n_genes=8)
    for part in (sparse.layers["log2tpm"].data, sparse.layers["detected"].data):
        part.flags.writeable = False
    sp.tl.median_complete(sparse, library_key="library_id")
    np.testing.assert_array_equal(sparse.layers["median"].toarray(), expected.layers["median"].toarray())


# --- the object ------------------------------------------------------------------------------------------------------


@each(ALL)
def test_objects_that_are_no_anndata(ready, call):
    with pytest.raises(TypeError, match=r"expected an AnnData or a SpatialData object, found DataFrame.*read_visium"):
        call(ready.to_df())
    with pytest.raises(TypeError, match="expected an AnnData or a SpatialData object, found ndarray"):
        call(ready.X.toarray())


@each(ALL)
def test_backed_anndata(ready, call, tmp_path):
    import anndata

    ready.write_h5ad(tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(tmp_path / "a.h5ad", backed="r")
    with pytest.raises(ValueError, match=r"backed by a file: load it with `adata = adata.to_memory\(\)`"):
        call(backed)
    backed.file.close()


@pytest.mark.parametrize("axis", ["obs", "var"])
@each(ALL)
def test_names_that_occur_twice(ready, call, axis):
    names = getattr(ready, f"{axis}_names").to_numpy(dtype=object, copy=True)
    names[1] = names[0]
    setattr(ready, f"{axis}_names", names)
    what = {"obs": "spot", "var": "gene"}[axis]
    with refused(ready, ValueError, f"1 {what} names occur twice .*{names[0]}.*call `adata.{axis}_names_make_unique"):
        call(ready)


@each(ALL)
def test_empty_objects(ready, call):
    for part in (ready[:0].copy(), ready[:, :0].copy()):
        with refused(part, ValueError, "the AnnData is empty"):
            call(part)


@pytest.mark.parametrize("part", [np.s_[:, :30], np.s_[5:60], np.s_[::2, ::2]], ids=["genes", "spots", "both"])
@each(COUNT_READERS)
def test_views_become_objects_and_leave_their_parent(adata, call, part):
    before = snapshot(adata)
    view, copied = adata[part], adata[part].copy()
    call(view)
    call(copied)
    assert snapshot(adata) == before
    assert not view.is_view
    assert snapshot(view) | {"matrix": None} == snapshot(copied) | {"matrix": None}


@each(SPATIAL)
def test_views_of_a_finished_object(ready, call):
    before = snapshot(ready)
    view, copied = ready[3:65, ::-1], ready[3:65, ::-1].copy()
    for one in (view, copied):
        call(one, library_key="library_id")
    assert snapshot(ready) == before
    assert not view.is_view
    for attr in ("layers", "obsp"):
        assert frozen(getattr(view, attr)) == frozen(getattr(copied, attr))
    pd.testing.assert_frame_equal(view.var, copied.var)


@each(ALL)
def test_copy_leaves_the_original(ready, call):
    before = snapshot(ready)
    needs_library = call in SPATIAL.values()
    result = call(ready, copy=True, **({"library_key": "library_id"} if needs_library else {}))
    assert isinstance(result, AnnData)
    assert snapshot(ready) == before


# --- libraries, splits, layers, columns ------------------------------------------------------------------------------


def without_key(adata: AnnData, sign: str) -> AnnData:
    """Several libraries that one sign only gives away."""
    adata.obs["who"] = adata.obs.pop("library_id").astype(str).to_numpy()
    if sign != "uns":
        adata.uns["spatial"] = {"library_1": adata.uns["spatial"]["library_1"]}
    if sign != "places":
        second = (adata.obs["who"] == "library_2").to_numpy()
        adata.obs.loc[second, "array_row"] += 100
    if sign == "column":
        adata.obs["sample_id"] = adata.obs["who"]
    return adata


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ("uns", r'uns\["spatial"\] holds 2 libraries.*`library_key=`; plausible columns: .who.'),
        ("places", r"several spots share one place on the array.*`library_key=`"),
        ("column", r"adata.obs\['sample_id'\] has 2 values.*`library_key=`; plausible columns: 'sample_id'"),
    ],
)
@each({**SPATIAL, "spared_filter": sp.pp.spared_filter, "recipe_spared": sp.pp.recipe_spared})
def test_several_libraries_and_no_key(call, sign, words):
    adata = without_key(normalised(synthetic()), sign)
    with refused(adata, ValueError, words):
        call(adata)


def test_one_library_of_several_needs_no_key(ready):
    one = ready[ready.obs["library_id"] == "library_2"].copy()
    assert len(one.uns["spatial"]) == 2
    with_key = sp.tl.median_complete(one, library_key="library_id", copy=True)
    sp.tl.median_complete(one)
    assert frozen(one.layers["median"]) == frozen(with_key.layers["median"])


@each({name: call for name, call in ALL.items() if name not in ("normalize_tpm", "select_genes")})
def test_unknown_library_key(ready, call):
    with refused(ready, KeyError, "no column 'section' in adata.obs; .* 'library_id'"):
        call(ready, library_key="section")


@each({name: call for name, call in ALL.items() if name not in ("normalize_tpm", "select_genes")})
def test_spots_without_a_library(ready, call):
    ready.obs.loc[ready.obs_names[[4, 9]], "library_id"] = np.nan
    with refused(
        ready, ValueError, r"2 of 72 spots have no value in adata.obs\['library_id'\]: give every spot its value"
    ):
        call(ready, library_key="library_id")


@pytest.mark.parametrize("kind", ["string", "object", "unused categories", "other order", "integers"])
def test_kinds_of_library_columns(kind):
    adata, expected = synthetic(), synthetic()
    column = adata.obs["library_id"]
    adata.obs["library_id"] = {
        "string": lambda: column.astype("string"),
        "object": lambda: column.astype(object),
        "unused categories": lambda: column.cat.add_categories(["nobody", "a"]).cat.reorder_categories(
            ["nobody", "library_1", "a", "library_2"]
        ),
        "other order": lambda: column.cat.reorder_categories(["library_2", "library_1"]),
        "integers": lambda: column.cat.codes.astype(int),
    }[kind]()
    for one in (adata, expected):
        sp.pp.recipe_spared(one, library_key="library_id", n_genes=8)
        sp.pp.lattice_neighbors(one, library_key="library_id")
        sp.tl.median_complete(one, library_key="library_id")
        sp.tl.spackle_complete(one, library_key="library_id", model_params={"n_iterations": 1}, device="cpu")
    pd.testing.assert_frame_equal(adata.var, expected.var)
    assert frozen(adata.layers) == frozen(expected.layers)
    assert frozen(adata.obsp) == frozen(expected.obsp)


SPLIT_READERS = {
    name: ALL[name]
    for name in ("spared_filter", "recipe_spared", "moran", "complete", "spackle_complete", "spackle_complete, paper")
}


@each(SPLIT_READERS)
def test_splits_that_are_none(ready, call):
    options = {"library_key": "library_id"}
    with refused(ready, KeyError, r"no column 'fold' in adata.obs \(columns: .*'library_id'"):
        call(ready, split_key="fold", **options)
    ready.obs["split"] = ready.obs["library_id"].map({"library_1": "train", "library_2": "validation"})
    with refused(ready, ValueError, r"holds 'validation'; expected only 'train', 'val', 'test'.*split_key=None"):
        call(ready, **options)
    ready.obs["split"] = ready.obs["split"].astype(object).where(ready.obs["library_id"] == "library_1", np.nan)
    with refused(ready, ValueError, r"36 of 72 spots have no value in adata.obs\['split'\]: give every spot its value"):
        call(ready, **options)
    ready.obs["split"] = ["train", "test"] * (ready.n_obs // 2)
    with refused(ready, ValueError, "library 'library_1' is in several splits .*a library is in one only"):
        call(ready, **options)
    ready.obs["split"] = "test"
    with refused(ready, ValueError, r"adata.obs\['split'\] puts no library into 'train'"):
        call(ready, **options)


@each(LAYER_READERS)
def test_unknown_layer(ready, call):
    with refused(ready, KeyError, r"no layer 'lognorm' \(layers: .*'log2tpm'.*pass the name of one that is there"):
        call(ready, layer="lognorm", library_key="library_id")
    del ready.layers["log2tpm"]
    with refused(ready, KeyError, r"no layer 'log2tpm'.*sp.pp.normalize_tpm"):
        call(ready, library_key="library_id")


@each(COUNT_READERS)
def test_unknown_counts_layer(adata, call):
    with refused(adata, KeyError, r"no layer 'raw' \(layers: 'rate'\)"):
        call(adata, layer="raw")


@each(LAYER_READERS)
def test_layers_with_nan(ready, call):
    ready.layers["log2tpm"].data[7] = np.nan
    with refused(ready, ValueError, r"layers\['log2tpm'\] holds NaN or infinite values: repair or recompute"):
        call(ready, library_key="library_id")


@each(LAYER_READERS)
def test_layers_of_text(ready, call):
    ready.layers["words"] = np.full(ready.shape, "many", dtype=object)
    with refused(ready, TypeError, r"layers\['words'\] has the type object: numbers are needed"):
        call(ready, layer="words", library_key="library_id")


@each({name: ALL[name] for name in (*LAYER_READERS, "normalize_tpm", "select_genes")})
def test_gene_masks_that_are_none(ready, call):
    options = {} if call in (ALL["normalize_tpm"], ALL["select_genes"]) else {"library_key": "library_id"}
    ready.var["numbers"], ready.var["nobody"] = np.arange(ready.n_vars), False
    with refused(ready, KeyError, r"no column 'hvg' in adata.var \(columns: .*'spared_selected'"):
        call(ready, mask_var="hvg", **options)
    with refused(ready, TypeError, r"must hold booleans, found '2' \(int64\).*astype\(bool\)"):
        call(ready, mask_var="numbers", **options)
    with refused(ready, ValueError, r"adata.var\['nobody'\] selects no gene: pass another `mask_var`, or None"):
        call(ready, mask_var="nobody", **options)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "tpu:0"])
@each({name: ALL[name] for name in ("complete", "spackle_complete", "spackle_complete, paper")})
def test_unknown_device(ready, call, device):
    with refused(ready, ValueError, f"device '{device}' cannot be used.*cpu"):
        call(ready, library_key="library_id", device=device)


@pytest.mark.parametrize("n_jobs", [0, -1])
@each({"moran": SPATIAL["moran"], "median": SPATIAL["median_complete"], "recipe": ALL["recipe_spared"]})
def test_thread_counts(ready, call, n_jobs):
    with refused(ready, ValueError, f"n_jobs={n_jobs} cannot be used: give a whole number from 1"):
        call(ready, n_jobs=n_jobs, library_key="library_id")


# --- names of new slots ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a/b", "", 3])
@each({name: call for name, call in ALL.items() if name not in ("spared_filter", "recipe_spared", "lattice_neighbors")})
def test_names_that_files_cannot_hold(ready, call, key):
    options = {} if call in (ALL["normalize_tpm"], ALL["select_genes"]) else {"library_key": "library_id"}
    error, remedy = (ValueError, "a non-empty name without '/'") if isinstance(key, str) else (TypeError, "text")
    with refused(ready, error, f"key_added={key!r} cannot be used: give {remedy}"):
        call(ready, key_added=key, **options)


def test_a_graph_name_that_files_cannot_hold(adata):
    with refused(adata, ValueError, "cannot be used: give a non-empty name without '/'"):
        sp.pp.lattice_neighbors(adata, key_added="a/b", library_key="library_id")


@each({name: ALL[name] for name in ("normalize_tpm", "complete", "median_complete", "spackle_complete")})
def test_a_layer_of_the_user_is_not_overwritten(ready, call):
    options = {} if call is ALL["normalize_tpm"] else {"library_key": "library_id"}
    with refused(
        ready, ValueError, r'layers\["rate"\] exists and was not written by spared_sc: pass another key_added'
    ):
        call(ready, key_added="rate", **options)
    call(ready, key_added="mine", **options)
    call(ready, key_added="mine", **options)  # a layer of ours may be renewed


@pytest.mark.parametrize("name", ["detected", "log2tpm"])
def test_the_recipe_does_not_overwrite_a_layer_of_the_user(adata, name):
    adata.layers[name] = adata.X.copy()
    with refused(adata, ValueError, re.escape(f'layers["{name}"] exists and was not written by spared_sc')):
        sp.pp.recipe_spared(adata, library_key="library_id")


def test_recipe_twice(adata):
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    before = snapshot(adata)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    after = snapshot(adata)
    for part in ("X", "layers", "obs"):
        assert after[part] == before[part]
    assert adata.var["spared_selected"].sum() == 8


# --- places ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, 2.5, np.inf])
@each(SPATIAL)
def test_places_that_are_no_places(ready, call, value):
    ready.obs["array_row"] = ready.obs["array_row"].astype(float)
    ready.obs.loc[ready.obs_names[3], "array_row"] = value
    with refused(ready, ValueError, "'array_row'.*must hold a whole number for every spot.*remove both columns"):
        call(ready, library_key="library_id")


def test_places_written_as_text(ready):
    expected = sp.pp.lattice_neighbors(ready, library_key="library_id", copy=True)
    ready.obs["array_row"] = ready.obs["array_row"].astype(str).astype(object)
    sp.pp.lattice_neighbors(ready, library_key="library_id")
    assert frozen(ready.obsp) == frozen(expected.obsp)
    ready.obs["array_col"] = "left"
    with refused(ready, ValueError, "must hold a whole number for every spot"):
        sp.pp.lattice_neighbors(ready, library_key="library_id")


@each(SPATIAL)
def test_two_spots_on_one_place(ready, call):
    for column in ("array_row", "array_col"):
        ready.obs[column] = ready.obs[column].to_numpy()[[1, *range(1, ready.n_obs)]]
    with refused(ready, ValueError, "1 spots share their place on the array.*'library_1'.*drop the repeated spots"):
        call(ready, library_key="library_id")


@each(SPATIAL)
def test_no_places(ready, call):
    del ready.obs["array_row"]
    with refused(ready, KeyError, r"neither array_row and array_col in adata.obs, nor adata.obsm\['where'\]"):
        call(ready, library_key="library_id", spatial_key="where")
    ready.obsm["spatial"][2, 1] = np.nan
    with refused(ready, ValueError, r"adata.obsm\['spatial'\] holds NaN or infinite positions: drop those spots"):
        call(ready, library_key="library_id")


# --- poor data -------------------------------------------------------------------------------------------------------


def test_a_section_with_one_spot():
    adata = synthetic()
    adata = adata[[*range(36), 50]].copy()
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    sp.pp.lattice_neighbors(adata, library_key="library_id")
    sp.tl.median_complete(adata, library_key="library_id")
    for model, params in (("paper", {"n_steps": 3}), ("counts", {})):
        sp.tl.spackle_complete(
            adata, library_key="library_id", model=model, key_added=f"{model}_model", model_params=params, device="cpu"
        )
        assert np.isfinite(adata.layers[f"{model}_model"].data).all()
    assert adata.n_obs == 37
    assert adata.obsp["spatial_connectivities"][36].nnz == 0
    alone = adata.layers["median"][[36]].toarray().ravel()
    # nothing to fill from: what was not detected stays zero
    np.testing.assert_array_equal(alone, adata.layers["log2tpm"][[36]].toarray().ravel())
    # its only spot has no variance, so the ranking is the other section's
    first = synthetic()[:36].copy()
    first.var["spared_keep"] = adata.var["spared_keep"]
    sp.pp.normalize_tpm(first)
    sp.pp.moran(first, median_completed=True, library_key="library_id")
    np.testing.assert_allclose(first.var["moran_i"], adata.var["moran_i"], rtol=1e-12)


def test_one_spot_in_all(adata):
    one = adata[[0]].copy()
    sp.pp.spared_filter(one)
    sp.pp.normalize_tpm(one)
    sp.pp.lattice_neighbors(one)
    with pytest.warns(UserWarning, match="genes are detected in no spot"):
        sp.tl.median_complete(one)
    np.testing.assert_array_equal(one.layers["median"].toarray(), one.layers["log2tpm"].toarray())
    sp.pp.moran(one)
    assert one.var["moran_i"].isna().all()
    with refused(one, ValueError, r"no gene has a finite 'moran_i': run `sp.pp.moran\(adata\)`"):
        sp.pp.select_genes(one)


def test_a_gene_without_counts(adata):
    counts = adata.X.toarray()
    counts[:, 4] = 0
    adata.X = sps.csr_matrix(counts)
    whole = adata.copy()
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    assert not adata.var["spared_keep"].iloc[4]
    assert adata.var["expressed_fraction"].iloc[4] == 0
    assert adata.n_vars == 40
    sp.pp.normalize_tpm(whole)
    sp.pp.moran(whole, library_key="library_id")
    assert np.isnan(whole.var["moran_i"].iloc[4])
    with pytest.warns(UserWarning, match="1 genes are detected in no spot"):
        sp.tl.median_complete(whole, library_key="library_id")
    assert whole.layers["median"][:, [4]].nnz == 0
    for model, params in (("counts", {}), ("paper", {"n_steps": 3})):
        with pytest.warns(UserWarning, match="1 genes are detected in no spot to learn from.*'Gene005'.*recipe_spared"):
            sp.tl.spackle_complete(whole, library_key="library_id", model=model, model_params=params, device="cpu")
        assert whole.layers["spackle"][:, [4]].nnz == 0


def test_a_spot_without_counts(adata):
    counts = adata.X.toarray()
    counts[10] = 0
    adata.X = sps.csr_matrix(counts)
    whole = adata.copy()
    name = adata.obs_names[10]
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=8)
    assert name not in adata.obs_names
    with pytest.warns(UserWarning, match=r"1 spots have no count in the genes to scale.*sp.pp.spared_filter"):
        sp.pp.normalize_tpm(whole)
    assert whole.layers["log2tpm"][[10]].nnz == 0
    sp.tl.median_complete(whole, library_key="library_id")
    assert whole.layers["median"][[10]].nnz > 0


def test_a_warning_turned_into_an_error_changes_nothing(adata):
    counts = adata.X.toarray()
    counts[10] = 0
    adata.X = sps.csr_matrix(counts)
    with refused(adata, UserWarning, "1 spots have no count"):  # warnings are errors in these tests
        sp.pp.normalize_tpm(adata)
    adata.var["gene_length"] = [np.nan, *[1000.0] * 39]
    with refused(adata, UserWarning, "1 of .* genes have no length.*'Gene001'"):
        sp.pp.recipe_spared(adata, library_key="library_id")


def test_no_gene_has_a_length(adata):
    del adata.var["gene_length"]
    with refused(adata, ValueError, "none of the 40 genes .*gene_lengths=None for counts"):
        sp.pp.normalize_tpm(adata, gene_lengths={"TP53": 2000})
    with refused(adata, ValueError, "none of the 40 genes .*gene_lengths=None for counts"):
        sp.pp.recipe_spared(adata, library_key="library_id", gene_lengths=pd.Series({"TP53": 2000}))
    adata.var["spared_keep"] = adata.var_names == "Gene001"
    with refused(adata, ValueError, "no gene has a length .*gene_lengths=None for CPM"):
        sp.pp.normalize_tpm(adata, gene_lengths={"Gene002": 2000})


def test_counts_that_nobody_can_have_counted(adata):
    counts = adata.X.astype(np.float64).toarray()
    counts[0, 0] = 1e300
    adata.X = counts
    with refused(adata, ValueError, r"X holds values that no count reaches \(such as 1e\+300\)"):
        sp.pp.normalize_tpm(adata)


@pytest.mark.parametrize("other", ["v1", [1], 3])
def test_somebody_else_s_entry_under_the_name_of_the_records(adata, other):
    adata.uns["spared_sc"] = other
    with refused(adata, TypeError, r'adata.uns\["spared_sc"\] is a (str|list|int), and records are kept .* rename it'):
        sp.pp.normalize_tpm(adata)


@pytest.mark.parametrize("other", ["hello", {}, {"params": {}}, {"function": 3, "params": {}}])
def test_records_of_somebody_else_stay_as_they_are(adata, other):
    adata.uns["spared_sc"] = {"mine": other}
    sp.pp.spared_filter(adata, library_key="library_id")
    sp.pp.normalize_tpm(adata)
    assert adata.uns["spared_sc"]["mine"] == other
    assert "spared_filter" in adata.uns["spared_sc"]


def test_filters_that_leave_nothing(adata):
    with refused(adata, ValueError, r"no spot has between 1e\+06 and 1e\+07 counts .*change `spot_counts`"):
        sp.pp.spared_filter(adata, library_key="library_id", spot_counts=(1e6, 1e7))
    with refused(adata, ValueError, "no gene passes the filter: .*widen `gene_counts`"):
        sp.pp.spared_filter(adata, library_key="library_id", gene_counts=(1e6, 1e7))
    with refused(adata, ValueError, r"spot_counts=\(10, 5\) leaves nothing"):
        sp.pp.spared_filter(adata, library_key="library_id", spot_counts=(10, 5))
    with refused(adata, ValueError, "real_data_share=70 cannot be used: give a number from 0 to 1"):
        sp.pp.spared_filter(adata, library_key="library_id", real_data_share=70)
    with refused(adata, KeyError, r"1 of the 2 `genes` are not in adata.var_names: 'TP53'"):
        sp.pp.spared_filter(adata, library_key="library_id", genes=["Gene001", "TP53"])
    with refused(adata, TypeError, "genes='Gene001' is one name: pass a list"):
        sp.pp.spared_filter(adata, library_key="library_id", genes="Gene001")
    with refused(adata, TypeError, "unexpected keyword argument 'min_counts'"):
        sp.pp.recipe_spared(adata, library_key="library_id", min_counts=3)
    counts = adata.X.toarray()
    counts[:, 0] = 0
    adata.X = sps.csr_matrix(counts)
    with refused(adata, ValueError, "none of the kept genes is detected in a spot .*name other `genes`"):
        sp.pp.spared_filter(adata, library_key="library_id", genes=["Gene001"])


def test_too_few_train_spots(adata):
    adata.obs["split"] = adata.obs["library_id"].map({"library_1": "train", "library_2": "test"})
    counts = adata.X.toarray()
    counts[:36] = 0
    adata.X = sps.csr_matrix(counts)
    with refused(adata, ValueError, "no spot of a train library passes `spot_counts`.*split_key=None"):
        sp.pp.spared_filter(adata, library_key="library_id")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda a: sp.pp.lattice_neighbors(a, library_key="library_id", n_rings=0),
            "n_rings=0 cannot be used: give a whole number from 1",
        ),
        (
            lambda a: sp.pp.lattice_neighbors(a, library_key="library_id", kind="hexagon"),
            "'hexagon' is unknown; choose",
        ),
        (
            lambda a: sp.tl.median_complete(a, library_key="library_id", n_rings=1.5),
            "n_rings=1.5 cannot be used: give a whole number from 1",
        ),
        (lambda a: sp.pp.select_genes(a, n_genes=0), "n_genes=0 cannot be used: give a whole number from 1"),
        (lambda a: sp.pp.recipe_spared(a, moran_layer="spackle"), "moran_layer='spackle' is unknown: choose 'median'"),
        (lambda a: sp.pp.normalize_tpm(a, target_sum=0), "target_sum=0 must be positive"),
        (lambda a: sp.pp.normalize_tpm(a, target_sum="a"), "target_sum='a' cannot be used: give a number"),
        (
            lambda a: sp.pp.spared_filter(a, library_key="library_id", spot_counts=3),
            "spot_counts=3 cannot be used: give a lower and a higher bound",
        ),
        (
            lambda a: sp.pp.spared_filter(a, library_key="library_id", gene_counts=("a", 3)),
            "gene_counts='a' cannot be used: give a number",
        ),
        (
            lambda a: sp.tl.complete(a, method="paper", library_key="library_id", random_state=2**64),
            "random_state=18446744073709551616 cannot be used: give a whole number from 0 to",
        ),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"n_rings": 9}),
            "n_rings=9 cannot be used",
        ),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"n_rings": 1.5}),
            "n_rings=1.5 cannot be used",
        ),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"n_heads": 3}),
            "does not divide the width",
        ),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"n_layers": 0}),
            "n_layers=0 cannot be used",
        ),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"feedforward": 0}),
            "feedforward=0 cannot be used",
        ),
        (lambda a: sp.tl.spackle_complete(a, library_key="library_id", batch_size=0), "batch_size=0 cannot be used"),
        (lambda a: sp.tl.spackle_complete(a, library_key="library_id", random_state=-1), "random_state=-1 cannot"),
        (lambda a: sp.tl.spackle_complete(a, library_key="library_id", random_state=None), "random_state=None cannot"),
        (
            lambda a: ALL["spackle_complete, paper"](a, library_key="library_id", model_params={"mask_share": 30}),
            "mask_share=30 cannot be used",
        ),
        (
            lambda a: sp.tl.spackle_complete(a, library_key="library_id", model_params={"n_iterations": 0}),
            "n_iterations=0 cannot be used",
        ),
    ],
)
def test_parameters_out_of_range(ready, call, words):
    with refused(ready, ValueError, words):
        call(ready)


def test_scores_and_graphs_that_are_not_there(ready):
    with refused(ready, KeyError, r"no column 'geary' in adata.var .*run `sp.pp.moran\(adata\)`"):
        sp.pp.select_genes(ready, score="geary")
    with refused(ready, KeyError, "no graph 'knn' in adata.obsp .*leave `connectivity_key` out"):
        sp.pp.moran(ready, connectivity_key="knn", library_key="library_id")
