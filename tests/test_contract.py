"""What every public function promises: its signature, its slots, its files, and that it leaves the user's data alone."""

from __future__ import annotations

import inspect
import pickle
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import scipy.sparse as sps
import torch
from threadpoolctl import threadpool_info, threadpool_limits

import spared_sc as sp
from helpers import KEY, dense
from helpers.completion import WITH_RATE
from helpers.contract import check_completed, check_copy, check_files, check_measurements, written_by
from spared_sc._models.completion.registry import COMPLETERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData

SHORT = {"show_progress_bar": False, "device": "cpu"}

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
    "tl.audit_completion": (["pp.recipe_spared"], {**KEY, "method": "soft_impute_kernel", "quick": True}),
    "tl.median_complete": (["pp.recipe_spared"], KEY),
    "tl.spackle_complete": (["pp.recipe_spared"], {**KEY, **SHORT, "model_params": {"n_iterations": 1}}),
}
OPTIONS = {  # of completion methods, where the defaults take long or do not do
    "stack": {"method_params": {"n_folds": 2}},
    "sme": {"use_rep": "programs", "allow_unrecorded_rep": True},
    "counts": {**SHORT, "method_params": {"n_iterations": 1}},
    "factor": {**SHORT, "method_params": {"n_iterations": 1}},
    "paper": {**SHORT, "method_params": {"n_steps": 4, "width": 16, "feedforward": 16, "learning_rate": "search"}},
}
# a name after the colon tells runs of one function apart
RUNS |= {
    f"tl.complete:{method}": (["pp.recipe_spared"], {**KEY, "method": method, **OPTIONS.get(method, {})})
    for method in COMPLETERS
}
RUNS |= {
    "pp.extract_patches": ([], KEY),
    "tl.embed_patches": ([], KEY),
    "tl.predict_expression": (["pp.recipe_spared"], {**KEY, "use_rep": "programs", "novelty": True}),
}


def function(name: str):
    module, _, short = name.partition(":")[0].partition(".")
    return getattr(getattr(sp, module), short)


def public_names(*modules: str) -> list[str]:
    return [f"{module}.{name}" for module in modules for name in getattr(sp, module).__all__]


@pytest.fixture(scope="module")
def raw(collection) -> AnnData:
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


TABLES = [
    "pl.benchmark_categories",
    "pl.benchmark_data_sets",
    "pl.benchmark_methods",
    "pl.benchmark_parameters",
    "pl.benchmark_wins",
    "pl.completion_scores",
    "pl.completion_curve",
    "pl.gene_scores",
    "get.compare_completions",
    "get.prediction_summary",
]  # work on a table of scores
READING = [  # write nothing
    "pp.find_duplicate_libraries",
    "pp.check_alignment",
    "tl.evaluate_completion",
    "tl.fit_predictor",
    "tl.hide_entries",
    "tl.score_prediction",
    "tl.compare_targets",
]
LISTS = ["tl.completers", "tl.encoders", "tl.predictors"]  # take nothing, or a name
LOADING = ["tl.load_predictor"]  # take a folder
OTHER = {"pl.catalogue": "table", "pl.critical_difference": "comparison"}  # what they take
MAKING = ["pp.tile_slide"]  # make an AnnData out of something else
SUFFIXES = dict.fromkeys(("_rate", "_denoised"), {*WITH_RATE, "counts", "factor"})  # slots that not every method has
SUFFIXES |= dict.fromkeys(("_sd", "_denoised_sd"), {"counts", "factor"})
SUFFIXES |= dict.fromkeys(("_skill", "_skill_se", "_verdict"), {"counts"})
WRITING = sorted({name.partition(":")[0] for name in RUNS})


def test_every_writing_function_is_covered():
    assert sorted([*WRITING, *READING, *LISTS, *MAKING, *LOADING]) == sorted(public_names("pp", "tl"))


@pytest.mark.parametrize("name", public_names("pp", "tl", "pl", "get", "datasets"))
def test_functions_can_be_sent_to_other_processes_and_take_spatialdata(name):
    assert pickle.loads(pickle.dumps(function(name))) is function(name)
    takes_adata = "adata" in inspect.signature(function(name)).parameters
    assert takes_adata == (function(name).__code__ is sp.pp.moran.__code__)  # that of `accepts_spatialdata`


@pytest.mark.parametrize("name", public_names("pp", "tl", "pl", "get"))
def test_signature(name):
    parameters = inspect.signature(function(name)).parameters
    positional = [p for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    first = dict.fromkeys(TABLES, "scores") | dict.fromkeys(MAKING, "image") | dict.fromkeys(LOADING, "folder") | OTHER
    if name not in LISTS:
        assert positional[0].name == first.get(name, "adata")
    assert len(positional) <= 2
    assert all(p.annotation is not p.empty for p in parameters.values())
    if name in WRITING:
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
    takes_nothing = not inspect.signature(function(name)).parameters
    for section in ("Returns", "Examples") if takes_nothing else ("Parameters", "Returns", "Raises", "Examples"):
        assert f"{section}\n{'-' * len(section)}" in doc
    described = doc[doc.find("Parameters\n") : doc.index("Returns\n")]
    for parameter in inspect.signature(function(name)).parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)*$", described, flags=re.M), parameter


def documented_slots(name: str) -> set[str]:
    doc = inspect.getdoc(function(name))
    returns = doc[doc.index("Returns\n-------") : doc.index("Raises\n------")]
    return set(re.findall(r'`((?:layers|obs|var|obsm|obsp|varm|uns)(?:\["[^"\]]+"\])+)`', returns))


def key_of(method: str) -> str:
    """Layer that a completion method writes."""
    return "spackle" if method == "counts" else method


def expected_slots(name: str) -> set[str]:
    """Documented slots; those of completion methods go by the name of the method, and not every method has all."""
    slots = documented_slots(name)
    _, _, method = name.partition(":")
    if method:
        absent = [suffix for suffix, methods in SUFFIXES.items() if method not in methods]
        slots = {slot for slot in slots if not any(f'{suffix}"]' in slot for suffix in absent)}
        slots = {slot.replace("kernel", key_of(method)) for slot in slots}
    return slots


@pytest.mark.parametrize("name", RUNS)
def test_documented_slots_are_the_written_ones(name, ready):
    written = written_by(function(name), ready[name], RUNS[name][1])
    # A length that is known already is written again, unchanged.
    assert expected_slots(name) - {'var["gene_length"]'} == written - {'var["gene_length"]'}


def threads() -> dict[str, int]:
    return {library["filepath"]: library["num_threads"] for library in threadpool_info()}


@pytest.fixture
def threads_as_found() -> Iterator[None]:
    """Numbers of threads that no function sets by itself, and that are the same in the end."""
    with threadpool_limits(3):
        torch.set_num_threads(3)
        before = threads()
        yield
        assert torch.get_num_threads() == 3
        assert before.items() <= threads().items()


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.usefixtures("threads_as_found")
def test_copy_leaves_the_input_alone(name, ready):
    check_copy(function(name), ready[name], RUNS[name][1])


@pytest.mark.parametrize("name", RUNS)
def test_counts_and_detected_values_stay(name, ready):
    adata = check_measurements(function(name), ready[name], RUNS[name][1])
    whole, _, method = name.partition(":")
    if method or whole.endswith("_complete"):
        check_completed(adata, key_of(method) if method else whole.removeprefix("tl.").removesuffix("_complete"))


@pytest.mark.parametrize("format", ["h5ad", "zarr"])
@pytest.mark.parametrize("name", RUNS)
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data:UserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata:UserWarning")
def test_results_survive_files(name, format, ready, tmp_path):
    check_files(function(name), ready[name], RUNS[name][1], tmp_path / f"result.{format}")


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
