"""What every public function promises: its signature, its slots, its files, and that it leaves the user's data alone."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY, dense

# function -> (what runs before it, its arguments)
RUNS = {
    "pp.spared_filter": ([], KEY),
    "pp.normalize_tpm": ([], {}),
    "pp.lattice_neighbors": ([], KEY),
    "pp.moran": (["pp.normalize_tpm"], KEY),
    "pp.select_genes": (["pp.normalize_tpm", "pp.moran"], {"n_genes": 24}),
    "pp.recipe_spared": ([], {**KEY, "n_genes": 24}),
    "pp.split_libraries": ([], {**KEY, "intra_subject": True, "fractions": (0.5, 0.5, 0)}),
    "pp.combat": (["pp.recipe_spared"], KEY),
    "pp.center": (["pp.recipe_spared"], KEY),
    "pp.uncenter": (["pp.recipe_spared", "pp.center"], {}),
    "tl.gene_mean_complete": (["pp.recipe_spared"], KEY),
    "tl.library_gene_mean_complete": (["pp.recipe_spared"], KEY),
    "tl.depth_only_complete": (["pp.recipe_spared"], KEY),
    "tl.additive_complete": (["pp.recipe_spared"], KEY),
    "tl.neighbor_mean_complete": (["pp.recipe_spared"], KEY),
    "tl.kernel_complete": (["pp.recipe_spared"], KEY),
    "tl.diffusion_complete": (["pp.recipe_spared"], KEY),
    "tl.soft_impute_complete": (["pp.recipe_spared"], KEY),
    "tl.soft_impute_kernel_complete": (["pp.recipe_spared"], KEY),
    "tl.ridge_complete": (["pp.recipe_spared"], KEY),
    "tl.stack_complete": (["pp.recipe_spared"], KEY),
    "tl.sme_complete": (["pp.recipe_spared"], {**KEY, "use_rep": "programs"}),
    "tl.magic_complete": (["pp.recipe_spared"], KEY),
    "tl.alra_complete": (["pp.recipe_spared"], KEY),
    "tl.audit_completion": (["pp.recipe_spared"], {**KEY, "method": "soft_impute_kernel", "n_masks": 1}),
    "tl.median_complete": (["pp.recipe_spared"], KEY),
    "tl.spackle_complete": (["pp.recipe_spared"], {**KEY, "n_steps": 4, "show_progress_bar": False, "device": "cpu"}),
}
RUNS |= {
    "pp.extract_patches": ([], KEY),
    "tl.embed_patches": ([], KEY),
    "tl.predict_expression": (["pp.recipe_spared"], {**KEY, "use_rep": "programs"}),
}
MATRICES = ("layers", "obsm", "obsp", "varm", "varp")


def function(name: str):
    module, _, short = name.partition(".")
    return getattr(getattr(sp, module), short)


def public_names(*modules: str) -> list[str]:
    return [f"{module}.{name}" for module in modules for name in getattr(sp, module).__all__]


@pytest.fixture(scope="module")
def raw(collection) -> ad.AnnData:
    return collection(n_libraries=2, shape=(9, 9), n_genes=60, depth=400, missing_spots=0.1)


@pytest.fixture(scope="module")
def ready(raw):
    """The AnnData as each function meets it."""
    made = {}
    for name, (before, _) in RUNS.items():
        adata = raw.copy()
        for step in before:
            function(step)(adata, **RUNS[step][1])
        made[name] = adata
    return made


def snapshot(adata: ad.AnnData) -> dict[str, object]:
    """Every slot by the name that docstrings give it."""
    found = {"X": adata.X.copy()}
    for attr in ("obs", "var"):
        found |= {f'{attr}["{c}"]': getattr(adata, attr)[c].copy() for c in getattr(adata, attr)}
    for attr in MATRICES:
        found |= {f'{attr}["{k}"]': getattr(adata, attr)[k].copy() for k in getattr(adata, attr)}
    for key, value in adata.uns.items():
        if key == "spared_sc":
            found |= {f'uns["spared_sc"]["{k}"]': repr(v) for k, v in value.items()}
        else:
            found[f'uns["{key}"]'] = repr(value)
    return found


def same(one, other) -> bool:
    if isinstance(one, str):
        return one == other
    if isinstance(one, pd.Series):
        return one.equals(other)
    one, other = dense(one), dense(other)
    return one.dtype == other.dtype and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def assert_same(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    changed = [slot for slot in one if not same(one[slot], other[slot])]
    assert not changed


TABLES = [
    "pl.completion_scores",
    "pl.completion_curve",
    "pl.gene_scores",
    "get.compare_completions",
]  # work on a table of scores
READING = [  # write nothing
    "pp.find_duplicate_libraries",
    "pp.check_alignment",
    "tl.evaluate_completion",
    "tl.fit_predictor",
    "tl.score_prediction",
    "tl.compare_targets",
]
LISTS = ["tl.predictors", "tl.encoders"]  # take nothing, or a name
LOADING = ["tl.load_predictor"]
MAKING = ["pp.tile_slide"]  # make an AnnData out of something else


def test_every_writing_function_is_covered():
    assert sorted([*RUNS, *READING, *LISTS, *LOADING, *MAKING]) == sorted(public_names("pp", "tl"))


@pytest.mark.parametrize("name", public_names("pp", "tl", "pl", "get", "datasets"))
def test_functions_can_be_sent_to_other_processes_and_take_spatialdata(name):
    assert pickle.loads(pickle.dumps(function(name))) is function(name)
    takes_adata = "adata" in inspect.signature(function(name)).parameters
    assert takes_adata == (function(name).__code__ is sp.pp.moran.__code__)  # that of `accepts_spatialdata`


@pytest.mark.parametrize("name", public_names("pp", "tl", "pl", "get"))
def test_signature(name):
    parameters = inspect.signature(function(name)).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    if name not in LISTS:
        first = {
            **dict.fromkeys(TABLES, "scores"),
            **dict.fromkeys(MAKING, "image"),
            **dict.fromkeys(LOADING, "folder"),
        }
        assert positional[0].name == first.get(name, "adata")
    assert len(positional) <= 2
    assert all(p.annotation is not p.empty for p in parameters.values())
    if name in RUNS:
        assert len(positional) == 1
        assert parameters["copy"].default is False
    for shared, default in {
        "library_key": None,
        "spatial_key": "spatial",
        "n_jobs": None,
        "device": None,
        "batch_size": None,
        "show_progress_bar": None,
        "random_state": 0,
        "ax": None,
        "show": None,
    }.items():
        if shared in parameters and name not in MAKING:
            assert parameters[shared].default == default


@pytest.mark.parametrize("name", public_names("pp", "tl", "pl", "get", "datasets"))
def test_docstring(name):
    doc = inspect.getdoc(function(name))
    for section in ("Returns", "Examples") if name in LISTS else ("Parameters", "Returns", "Raises", "Examples"):
        assert f"{section}\n{'-' * len(section)}" in doc
    described = doc[doc.find("Parameters\n") : doc.index("Returns\n")]
    for parameter in inspect.signature(function(name)).parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)*$", described, flags=re.M), parameter


def documented_slots(name: str) -> set[str]:
    doc = inspect.getdoc(function(name))
    returns = doc[doc.index("Returns\n-------") : doc.index("Raises\n------")]
    return set(re.findall(r'`((?:layers|obs|var|obsm|obsp|varm|uns)(?:\["[^"\]]+"\])+)`', returns))


@pytest.mark.parametrize("name", RUNS)
def test_documented_slots_are_the_written_ones(name, ready):
    adata = ready[name].copy()
    before = snapshot(adata)
    adata_spots = adata.n_obs
    assert function(name)(adata, **RUNS[name][1]) is None
    after = snapshot(adata)
    if adata.n_obs == adata_spots:
        changed = {slot for slot in before if not same(before[slot], after[slot])}
    else:
        changed = set()
    written = (after.keys() - before.keys()) | changed
    # A length that is known already is written again, unchanged.
    assert documented_slots(name) - {'var["gene_length"]'} == written - {'var["gene_length"]'}
    assert not before.keys() - after.keys()


@pytest.mark.parametrize("name", RUNS)
def test_copy_leaves_the_input_alone(name, ready):
    adata = ready[name]
    before = snapshot(adata)
    result = function(name)(adata, copy=True, **RUNS[name][1])
    assert_same(before, snapshot(adata))
    assert isinstance(result, ad.AnnData)
    in_place = adata.copy()
    function(name)(in_place, **RUNS[name][1])
    assert_same(snapshot(in_place), snapshot(result))


@pytest.mark.parametrize("name", RUNS)
def test_counts_and_detected_values_stay(name, ready):
    adata = ready[name].copy()
    function(name)(adata, **RUNS[name][1])
    before = ready[name][adata.obs_names]
    assert same(before.X, adata.X)
    detected = dense(adata.X) > 0
    for layer in before.layers:
        assert np.array_equal(dense(before.layers[layer])[detected], dense(adata.layers[layer])[detected])
    if name.endswith("_complete"):
        key = name.removeprefix("tl.").removesuffix("_complete")
        assert np.array_equal(dense(adata.layers[key])[detected], dense(adata.layers["log2tpm"])[detected])
        assert type(adata.layers[key]) is type(adata.layers["log2tpm"])
        assert adata.layers[key].dtype == adata.layers["log2tpm"].dtype


@pytest.mark.parametrize("format", ["h5ad", "zarr"])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_results_survive_files(name, format, ready, tmp_path):
    adata = ready[name].copy()
    function(name)(adata, **RUNS[name][1])
    path = tmp_path / f"result.{format}"
    getattr(adata, f"write_{format}")(path)
    back = getattr(ad, f"read_{format}")(path)
    one, other = snapshot(adata), snapshot(back)
    assert one.keys() == other.keys()
    assert all(same(one[slot], other[slot]) for slot in one if not slot.startswith("uns"))
    for key, record in adata.uns["spared_sc"].items():
        read = back.uns["spared_sc"][key]
        assert record.keys() == read.keys()
        assert record["function"] == read["function"]
        assert record["params"].keys() == read["params"].keys()
    # and the result can be worked on again
    function(name)(back, **RUNS[name][1])


def test_every_public_name_is_tested():
    text = "".join(p.read_text() for p in Path(__file__).parent.rglob("test_*.py") if p.name != Path(__file__).name)
    untested = [name for name in public_names("pp", "tl", "pl", "get", "datasets") if f"sp.{name}(" not in text]
    assert not untested


def test_warnings_point_at_the_users_line(raw):
    adata = raw.copy()
    counts = dense(adata.X).copy()
    counts[3] = 0
    adata.X = sps.csr_matrix(counts)
    with pytest.warns(UserWarning, match="no count") as caught:
        sp.pp.normalize_tpm(adata, gene_lengths=None)
    assert [warning.filename for warning in caught] == [__file__]
