"""tl.complete."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps

import spared_sc as sp
from helpers import KEY, dense, spackle
from helpers.completion import SECTIONS, WITH_RATE, estimate_of, sections_of
from spared_sc._core.compute import Compute
from spared_sc._core.keys import Key
from spared_sc._core.record import from_record
from spared_sc._models.completion.base import About, Estimate, SimpleCompleter, parameter
from spared_sc._models.completion.counts import CountsModel
from spared_sc._models.completion.kernel import Kernel
from spared_sc._models.completion.paper import SpaCKLE
from spared_sc._models.completion.registry import COMPLETERS
from spared_sc.tl._resolve import resolve

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.sections import Sections


SIMPLE = [name for name in COMPLETERS if name not in ("counts", "factor", "paper", "median")]
FITTED = ("counts", "paper")


def complete(adata, method, **options) -> AnnData:
    """A completed copy."""
    if method == "magic":
        pytest.importorskip("magic")
    if method == "sme":
        options = {"use_rep": "programs", "allow_unrecorded_rep": True, **options}
    return sp.tl.complete(adata, method=method, copy=True, **{**KEY, **options})


def params_of(adata, key) -> dict:
    return from_record(adata.uns["spared_sc"][key]["params"])


@pytest.fixture(scope="module")
def ready(collection) -> AnnData:
    """Two libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.fixture(scope="module")
def sections(ready) -> Sections:
    return sections_of(ready)


@pytest.fixture(scope="module")
def three(collection) -> AnnData:
    """Three small libraries: one to train on, one to validate, one to test."""
    adata = collection(**spackle.SECTIONS)
    names = {"library_1": "val", "library_2": "train", "library_3": "test"}
    adata.obs["split"] = adata.obs["library_id"].map(names).astype(str)
    return adata


@pytest.mark.parametrize("name", [*SIMPLE, "median"])
def test_layers_hold_the_estimate(ready, sections, name):
    adata = complete(ready, name, key_added="result", random_state=2)
    place = resolve(ready, layer="log2tpm", mask_var="spared_selected", spatial_key="spatial", **KEY)
    estimate = estimate_of(name, sections, seed=2)
    known = place.to_rows(sections.known)
    before, after = dense(ready.layers["log2tpm"]), dense(adata.layers["result"])
    filled = np.where(known, before[:, place.genes], place.to_rows(estimate.values))
    np.testing.assert_array_equal(after[:, place.genes], filled)
    others = np.setdiff1d(np.arange(ready.n_vars), place.genes)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    of_rate = {"result_rate", "result_denoised"} if name in WITH_RATE else set()
    assert set(adata.layers) - set(ready.layers) == {"result"} | of_rate
    if name in WITH_RATE:
        rate, denoised = (dense(adata.layers[layer]) for layer in ("result_rate", "result_denoised"))
        np.testing.assert_allclose(rate[:, place.genes], place.to_rows(estimate.rate), rtol=1e-6)
        np.testing.assert_array_equal(rate[:, others], dense(ready.X)[:, others])
        np.testing.assert_array_equal(denoised[:, others], before[:, others])
        scaled = rate[:, place.genes] * place.to_rows(sections.count_scale())
        np.testing.assert_allclose(denoised[:, place.genes], np.log2(1 + scaled), rtol=1e-5)
    record = from_record(adata.uns["spared_sc"]["result"])
    assert record["function"] == "tl.complete"
    assert record["scope"] == ("library" if name == "median" else "collection")
    assert record["genes"] == ready.var_names[place.genes].tolist()
    assert record["params"]["method"] == name
    assert record["params"]["random_state"] == 2
    assert record["params"]["use_rep"] == ("programs" if name == "sme" else None)
    tuned = record["params"]["method_params"]
    assert tuned.keys() == COMPLETERS.make(name, {}).params().keys() | estimate.params.keys()
    assert {parameter: tuned[parameter] for parameter in estimate.params} == from_record(estimate.params)


@pytest.mark.parametrize("name", SIMPLE)
def test_order_of_spots_and_threads_do_not_matter(ready, name):
    first = complete(ready, name, n_jobs=1)
    order = np.random.default_rng(0).permutation(ready.n_obs)
    second = complete(ready[order].copy(), name, n_jobs=2)
    assert {name} <= set(first.layers) - set(ready.layers) <= {name, f"{name}_rate", f"{name}_denoised"}
    for layer in set(first.layers) - set(ready.layers):
        np.testing.assert_array_equal(dense(second.layers[layer]), dense(first.layers[layer])[order])


@pytest.mark.parametrize("name", [n for n in SIMPLE if n not in ("depth_only", "counts_at_depth", "magic")])
@pytest.mark.filterwarnings("ignore:expected counts are not estimated:UserWarning")
def test_without_raw_counts_there_is_no_rate(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    result = complete(adata, name)
    assert set(result.layers) - set(ready.layers) == {name}
    detected = dense(ready.layers["detected"])
    np.testing.assert_array_equal(dense(result.layers[name])[detected], dense(ready.layers["log2tpm"])[detected])


@pytest.mark.parametrize("name", ["depth_only", "counts_at_depth", "magic", "factor"])
@pytest.mark.filterwarnings("ignore:expected counts are not estimated:UserWarning")
def test_counts_are_asked_for_where_they_are_needed(ready, name):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match=f"'{name}' needs raw counts.*'additive'"):
        sp.tl.complete(adata, method=name, **KEY)


def test_missing_counts_are_said(ready):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.warns(UserWarning, match="expected counts are not estimated"):
        sp.tl.complete(adata, method="gene_mean", **KEY)


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("kernel", {"method_params": {"bandwidth": 0}}, ValueError, "bandwidth=0 cannot be used.*from 0.1"),
        ("kernel", {"method_params": {"shrinkage": -1}}, ValueError, "shrinkage=-1 cannot be used"),
        ("neighbor_mean", {"method_params": {"n_rings": 1.5}}, ValueError, "n_rings=1.5 cannot be used.*whole"),
        ("soft_impute", {"method_params": {"rank": 0}}, ValueError, "rank=0 cannot be used"),
        ("soft_impute", {"method_params": {"rank": None}}, ValueError, "rank=None cannot be used"),
        ("stack", {"method_params": {"n_folds": 1}}, ValueError, "n_folds=1 cannot be used"),
        ("ridge", {"method_params": {"penalty": np.nan}}, ValueError, "penalty=nan cannot be used"),
        ("diffusion", {"random_state": -1}, ValueError, "random_state=-1 cannot be used"),
        ("gene_mean", {"key_added": "log2tpm"}, ValueError, "is the layer that is read"),
        ("gene_mean", {"key_added": "counts"}, ValueError, "raw counts"),
        ("alra", {"library_key": None}, ValueError, "library_key="),
        ("kernel", {"method_params": {"strength": 1, "rings": 2}}, TypeError, "'kernel' .*'rings', 'strength'; .*"
         "'bandwidth', 'shrinkage'"),
        ("gene_mean", {"method_params": {"rank": 1}}, TypeError, "'gene_mean' has no parameter 'rank'"),
        ("paper", {"method_params": {"n_folds": 3}}, TypeError, "'paper' .*'n_folds'; .*'n_rings', 'mask_share'"),
        ("kernl", {}, KeyError, "no completion method and no folder 'kernl': .*'kernel'.*folder"),
        ("kernl", {"method_params": {"rank": 1}}, TypeError, "method_params are for methods given by name"),
        (3, {}, TypeError, "method is a int: give a name, a Completer or the folder"),
        (Kernel, {}, TypeError, "give a name, a Completer or the folder"),
        (Kernel(), {"method_params": {"bandwidth": 1}}, TypeError, "method_params are for methods given by name"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(ready, method, options, error, message):
    adata = ready.copy()
    slots, records = set(adata.layers), set(adata.uns["spared_sc"])
    with pytest.raises(error, match=message):
        sp.tl.complete(adata, method=method, **{**KEY, **options})
    assert set(adata.layers) == slots
    assert set(adata.uns["spared_sc"]) == records


@pytest.mark.parametrize("method", ["kernel", "median", "factor", Kernel()])
@pytest.mark.parametrize("option", ["save_model", "checkpoint"])
def test_folders_are_refused_where_nothing_is_fitted(ready, method, option, tmp_path):
    name = method if isinstance(method, str) else "kernel"
    with pytest.raises(ValueError, match=f"'{name}' is not fitted here.*`{option}`"):
        sp.tl.complete(ready.copy(), method=method, **KEY, **{option: tmp_path / "folder"})
    assert not (tmp_path / "folder").exists()


def test_an_absent_embedding_is_named(ready):
    with pytest.raises(KeyError, match=r"there is no obsm\['X_none'\]"):
        sp.tl.complete(ready.copy(), method="sme", use_rep="X_none", **KEY)
    with pytest.raises(ValueError, match="'sme' needs an embedding.*`use_rep=`"):
        sp.tl.complete(ready.copy(), method="sme", **KEY)


@pytest.mark.parametrize("options", [{"method": "sme"}, {"method": "paper", "method_params": {"n_steps": 1}}])
def test_an_embedding_without_a_record_is_refused_where_entries_are_hidden(ready, options):
    with pytest.raises(ValueError, match=r"obsm\['programs'\] is not recorded.*allow_unrecorded_rep=True"):
        sp.tl.complete(ready.copy(), use_rep="programs", **options, **KEY)
    # nothing is hidden where nothing is tuned
    params = {"n_neighbors": 6}
    given = sp.tl.complete(ready, method="sme", method_params=params, use_rep="programs", copy=True, **KEY)
    allowed = complete(ready, "sme", method_params=params)
    np.testing.assert_array_equal(dense(given.layers["sme"]), dense(allowed.layers["sme"]))


@pytest.mark.parametrize("name", ["kernel", "counts", "magic"])
def test_an_embedding_is_refused_where_it_would_play_no_role(ready, name):
    with pytest.raises(ValueError, match=f"'{name}' uses no embedding: leave out `use_rep`"):
        sp.tl.complete(ready.copy(), method=name, use_rep="programs", **KEY)


def test_values_too_large_to_square_are_an_error(ready):
    adata = ready.copy()
    adata.layers["huge"] = adata.layers["log2tpm"] * np.float32(1e30)
    with pytest.raises(FloatingPointError, match="extreme values"):
        sp.tl.complete(adata, method="additive", layer="huge", **KEY)


@pytest.mark.parametrize("name", SIMPLE)
def test_train_values_come_from_train_libraries_only(three, name):
    """Each split is what the method makes of its libraries together with the train libraries."""
    result = complete(three, name)
    genes = dict(zip(three.var_names, range(three.n_vars), strict=True))
    at = [genes[gene] for gene in result.uns["spared_sc"][name]["genes"]]
    three.var["learned"] = np.isin(np.arange(three.n_vars), at)
    for part, names in {"train": ["train"], "val": ["train", "val"], "test": ["train", "test"]}.items():
        some = three[three.obs["split"].isin(names)].copy()
        del some.obs["split"]
        alone = complete(some, name, mask_var="learned")
        here = result.obs_names[(result.obs["split"] == part).to_numpy()]
        for layer in {name, f"{name}_rate"} & set(result.layers):
            np.testing.assert_array_equal(dense(alone[here].layers[layer]), dense(result[here].layers[layer]))
        if part == "train":
            assert params_of(alone, name)["method_params"] == params_of(result, name)["method_params"]
    record = result.uns["spared_sc"][name]
    assert record["params"]["split_key"] == "split"
    assert dict(zip(record["split"]["libraries"], record["split"]["parts"], strict=True)) == {
        "library_1": "val", "library_2": "train", "library_3": "test",
    }  # fmt: skip
    if name == "sme":  # libraries have no common values, but for the number of neighbours
        return
    together = complete(three, name, split_key=None)
    assert abs(dense(together.layers[name]) - dense(result.layers[name])).max() > 1e-4


def test_the_median_completes_every_library_alone(three):
    with_split, without = complete(three, "median"), complete(three, "median", split_key=None)
    np.testing.assert_array_equal(dense(with_split.layers["median"]), dense(without.layers["median"]))
    assert params_of(with_split, "median") == params_of(without, "median")
    assert from_record(with_split.uns["spared_sc"]["median"]["split"]) is None


def test_the_default_is_the_counts_model_under_a_name_that_is_free(ready):
    adata = ready.copy()
    params = {"n_iterations": 1}
    sp.tl.complete(adata, method_params=params, device="cpu", show_progress_bar=False, **KEY)
    assert set(adata.layers) - set(ready.layers) == set(Key.completed("spackle"))
    assert params_of(adata, "spackle")["method"] == "counts"
    door = spackle.complete(ready, "counts", params=params)
    for layer in Key.completed("spackle"):
        np.testing.assert_array_equal(dense(adata.layers[layer]), dense(door.layers[layer]))


@pytest.mark.parametrize("model", FITTED)
def test_spackle_complete_is_a_door_to_complete(ready, model):
    door = spackle.complete(ready, model, random_state=3, batch_size=50)
    params = spackle.PARAMS[model]
    options = {"device": "cpu", "show_progress_bar": False, "random_state": 3, "batch_size": 50, "key_added": "spackle"}
    result = complete(ready, model, method_params=params, **options)
    assert set(door.layers) == set(result.layers)
    for layer in door.layers:
        np.testing.assert_array_equal(dense(door.layers[layer]), dense(result.layers[layer]))
    one, other = (adata.uns["spared_sc"]["spackle"] for adata in (door, result))
    assert one["function"] == other["function"] == "tl.complete"
    assert one["params"] == other["params"]
    assert one["params"]["method"] == model
    assert one["score"] == other["score"]
    assert one["device"] == other["device"] == "cpu"


def test_the_factor_model_has_rates_and_standard_deviations(ready):
    result = complete(ready, "factor", method_params={"n_iterations": 1}, device="cpu", show_progress_bar=False)
    assert set(result.layers) - set(ready.layers) == set(Key.completed("factor"))
    assert params_of(result, "factor")["method_params"] == {"n_iterations": 1}


def test_layers_of_the_method_before_do_not_stay_behind(ready):
    adata = ready.copy()
    adata.layers["mine_other"] = adata.layers["log2tpm"].copy()
    options = {**KEY, "key_added": "mine", "device": "cpu", "show_progress_bar": False}
    of_rate = {"mine_rate", "mine_denoised"}
    of_method = {"factor": of_rate | {"mine_sd", "mine_denoised_sd"}, "kernel": of_rate, "alra": set()}
    for method, written in of_method.items():
        for _ in range(2):
            sp.tl.complete(
                adata, method=method, method_params={"n_iterations": 1} if method == "factor" else None, **options
            )
            assert set(adata.layers) - set(ready.layers) == {"mine", "mine_other"} | written
    sp.tl.complete(adata, method="factor", method_params={"n_iterations": 1}, **options)
    assert {"mine_rate", "mine_sd"} < set(adata.layers)
    del adata.uns["spared_sc"]["mine"]  # nobody knows whose they are
    with pytest.raises(ValueError, match=r'layers\["mine"\] exists'):
        sp.tl.complete(adata, method="alra", **options)


BLOCKS = {"completed": "mine"} | {block: f"mine_{block}" for block in ("rate", "sd", "denoised", "denoised_sd")}
QUICK = {"device": "cpu", "show_progress_bar": False, "key_added": "mine"}


@pytest.mark.parametrize("method", ["counts", "factor"])
def test_only_the_layers_asked_for_are_written(ready, method):
    options = {**QUICK, "method_params": {"n_iterations": 1}}
    everything = complete(ready, method, **options)
    assert set(everything.layers) - set(ready.layers) == set(BLOCKS.values())
    for write in (*combinations(BLOCKS, 1), ("denoised", "sd"), "rate"):
        result = complete(ready, method, write=write, **options)
        written = {BLOCKS[block] for block in ([write] if isinstance(write, str) else write)}
        assert set(result.layers) - set(ready.layers) == written
        for layer in written:
            np.testing.assert_array_equal(dense(result.layers[layer]), dense(everything.layers[layer]))
        slots = {slot for slot in result.uns["spared_sc"]["mine"]["slots"] if slot.startswith("layers")}
        assert slots == {f'layers["{layer}"]' for layer in written}


@pytest.mark.parametrize("name", SIMPLE)
def test_simple_methods_write_what_is_asked_for(ready, name):
    everything = complete(ready, name, key_added="mine")
    for block in ("completed", "rate", "denoised") if name in WITH_RATE else ("completed",):
        result = complete(ready, name, key_added="mine", write={block})
        layer = BLOCKS[block]
        assert set(result.layers) - set(ready.layers) == {layer}
        np.testing.assert_array_equal(dense(result.layers[layer]), dense(everything.layers[layer]))


def test_fewer_layers_the_next_time_leave_none_behind(ready):
    adata = ready.copy()
    options = {**QUICK, **KEY, "method": "factor", "method_params": {"n_iterations": 1}}
    for write in (None, ("rate", "sd"), ["sd"], {"completed"}):
        sp.tl.complete(adata, write=write, **options)
        assert set(adata.layers) - set(ready.layers) == {BLOCKS[block] for block in write or BLOCKS}


@pytest.mark.parametrize(
    ("method", "write", "message"),
    [
        ("kernel", ["completed", "sd"], "'kernel' gives no 'sd'.*leave that out of `write=`"),
        ("alra", ["rate", "sd"], "'alra' gives no 'rate', 'sd'"),
        ("kernel", ["completed", "rates"], r"write=\['completed', 'rates'\] cannot be used: .*'rate'"),
        ("kernel", "values", r"write=\['values'\] cannot be used"),
        ("kernel", [], r"write=\[\] cannot be used"),
    ],
)
def test_layers_that_cannot_be_written_are_refused(ready, method, write, message):
    adata = complete(ready, "kernel", key_added="mine")
    layers = {name: dense(layer).copy() for name, layer in adata.layers.items()}
    records = from_record(adata.uns["spared_sc"])
    with pytest.raises(ValueError, match=message):
        sp.tl.complete(adata, method=method, write=write, key_added="mine", **KEY)
    assert set(adata.layers) == set(layers)
    for name, layer in layers.items():
        np.testing.assert_array_equal(dense(adata.layers[name]), layer)
    np.testing.assert_equal(from_record(adata.uns["spared_sc"]), records)


@pytest.mark.filterwarnings("ignore:expected counts are not estimated:UserWarning")
def test_rates_without_raw_counts_are_refused(ready):
    adata = ready.copy()
    adata.X = adata.layers["log2tpm"].copy()
    with pytest.raises(ValueError, match="no raw counts, hence no 'rate': leave that out of `write=`"):
        sp.tl.complete(adata, method_params={"n_iterations": 1}, write=["rate"], **QUICK, **KEY)
    assert set(adata.layers) == set(ready.layers)


@pytest.mark.parametrize("name", [*SIMPLE, "median", "factor", "counts", "paper"])
def test_the_order_of_genes_does_not_matter(ready, name):
    options = {**QUICK, "method_params": spackle.PARAMS.get(name, {"n_iterations": 1} if name == "factor" else None)}
    first = complete(ready, name, **options)
    order = np.random.default_rng(1).permutation(ready.n_vars)
    second = complete(ready[:, order].copy(), name, **options)
    for layer in set(first.layers) - set(ready.layers):
        np.testing.assert_array_equal(dense(second.layers[layer]), dense(first.layers[layer])[:, order])
    one, other = (adata.uns["spared_sc"]["mine"].get("score") for adata in (first, second))
    assert one == other


@pytest.mark.parametrize("method", ["kernel", "counts"])
def test_a_device_that_is_absent_is_refused(ready, method):
    with pytest.raises(ValueError, match="device 'cuda:99' cannot be used"):
        sp.tl.complete(ready.copy(), method=method, device="cuda:99", **KEY)


@dataclass(kw_only=True, eq=False)
class Level(SimpleCompleter):
    """The same value everywhere."""

    about = About("level", "", "the same value everywhere")
    value: float = parameter(5.0, least=0)

    def estimate(self, sections, compute):
        values = np.full(sections.values.shape, self.value + compute.seed, np.float32)
        return Estimate(values, sd=values / 10, params={"seen": int(sections.known.sum())})


def test_a_completer_of_your_own(ready):
    result = complete(ready, Level(value=7.0), random_state=1)
    assert set(result.layers) - set(ready.layers) == {"level", "level_sd"}
    missing = ~dense(ready.layers["detected"]) & ready.var["spared_selected"].to_numpy()
    values, before = dense(result.layers["level"]), dense(ready.layers["log2tpm"])
    assert (values[missing] == 8).all()
    np.testing.assert_array_equal(values[~missing], before[~missing])
    np.testing.assert_allclose(dense(result.layers["level_sd"]), 0.8 * missing)
    known = int(dense(ready.layers["detected"])[:, ready.var["spared_selected"]].sum())
    assert params_of(result, "level")["method"] == "level"
    assert params_of(result, "level")["method_params"] == {"value": 7.0, "seen": known}
    named = complete(ready, Level(), key_added="mine")
    assert set(named.layers) - set(ready.layers) == {"mine", "mine_sd"}


def test_an_instance_of_ours_is_the_same_as_its_name(ready):
    by_name = complete(ready, "kernel", method_params={"bandwidth": 1.5})
    instance = Kernel(bandwidth=1.5)
    by_instance = complete(ready, instance)
    for layer in ("kernel", "kernel_rate"):
        np.testing.assert_array_equal(dense(by_name.layers[layer]), dense(by_instance.layers[layer]))
    assert params_of(by_name, "kernel") == params_of(by_instance, "kernel")
    assert instance.params() == {"bandwidth": 1.5, "shrinkage": None}


@pytest.mark.parametrize("model", FITTED)
def test_an_instance_that_is_fitted_is_applied_the_next_time(three, model, tmp_path):
    cls = {"counts": CountsModel, "paper": SpaCKLE}[model]
    completer = cls(**spackle.PARAMS[model])
    options = {"device": "cpu", "show_progress_bar": False, "key_added": "mine"}
    first = complete(three, completer, save_model=tmp_path / "model", **options)
    assert completer.fitted
    assert params_of(first, "mine")["fitted"] == "here"
    learned = completer.learned
    second = complete(three, completer, **options)
    assert completer.learned is learned
    assert params_of(second, "mine")["fitted"] == "before"
    saved = complete(three, tmp_path / "model", **options)
    for layer in set(first.layers) - set(three.layers):
        np.testing.assert_array_equal(dense(second.layers[layer]), dense(first.layers[layer]))
        np.testing.assert_array_equal(dense(saved.layers[layer]), dense(first.layers[layer]))
    with pytest.raises(ValueError, match="is not fitted here.*`checkpoint`"):
        complete(three, completer, checkpoint=tmp_path / "state", **options)


def test_the_estimate_does_not_depend_on_the_container(ready):
    expected = dense(complete(ready, "kernel").layers["kernel"])
    for container in (sps.csc_matrix, sps.csr_array, np.asarray):
        adata = ready.copy()
        adata.layers["log2tpm"] = container(dense(ready.layers["log2tpm"]))
        np.testing.assert_array_equal(dense(complete(adata, "kernel").layers["kernel"]), expected)


@pytest.mark.parametrize("container", [sps.csr_matrix, np.asarray])
def test_a_view_becomes_an_object_of_its_own(ready, container):
    parent = ready.copy()
    parent.layers["log2tpm"] = container(dense(parent.layers["log2tpm"]))
    before = dense(parent.layers["log2tpm"]).copy()
    view = parent[parent.obs["library_id"] == "library_1"]
    expected = complete(view.copy(), "kernel")
    sp.tl.complete(view, method="kernel", **KEY)
    assert not view.is_view
    np.testing.assert_array_equal(dense(view.layers["kernel"]), dense(expected.layers["kernel"]))
    np.testing.assert_array_equal(dense(parent.layers["log2tpm"]), before)
    assert set(parent.layers) == set(ready.layers)


def test_the_seed_is_passed_on(ready, monkeypatch):
    seen: list[Compute] = []
    monkeypatch.setattr(Level, "estimate", lambda self, sections, compute: seen.append(compute) or Estimate(
        np.ones(sections.values.shape, np.float32)))  # fmt: skip
    complete(ready, Level(), random_state=4, batch_size=9, n_jobs=1, show_progress_bar=False)
    assert seen == [Compute(seed=4, batch_size=9, n_threads=1, show_progress_bar=False)]
