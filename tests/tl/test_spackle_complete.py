"""tl.spackle_complete."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import pytest
import scipy.sparse as sps
import torch
from anndata import AnnData

import spared_sc as sp
from helpers import KEY, dense
from helpers.spackle import LAYERS, PARAMS, SECTIONS, complete

LIBRARIES = ["library_1", "library_2", "library_3"]


@pytest.fixture
def ready(collection) -> AnnData:
    """Three libraries after the recipe."""
    return collection(**SECTIONS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", [sps.csr_matrix, sps.csc_matrix, sps.csr_array, np.asarray])
@pytest.mark.parametrize("method", LAYERS)
def test_only_undetected_entries_of_the_modelled_genes_change(ready, method, container, dtype):
    ready.layers["log2tpm"] = container(dense(ready.layers["log2tpm"]).astype(dtype))
    before = dense(ready.layers["log2tpm"])
    layer = complete(ready, method).layers[LAYERS[method]]
    if container is np.asarray:
        assert isinstance(layer, np.ndarray)
    else:
        assert sps.issparse(layer)
        assert layer.format == "csr"
        assert isinstance(layer, sps.sparray) == (container is sps.csr_array)
    assert layer.dtype == dtype
    after = dense(layer)
    selected, detected = ready.var["spared_selected"].to_numpy(), ready.X.toarray() > 0
    np.testing.assert_array_equal(after[detected], before[detected])
    np.testing.assert_array_equal(after[:, ~selected], before[:, ~selected])
    holes = ~detected & selected
    assert holes.sum() > 100
    assert (after[holes] != 0).mean() > 0.99
    assert np.isfinite(after).all()
    np.testing.assert_array_equal(dense(ready.layers["log2tpm"]), before)


@pytest.mark.parametrize("method", LAYERS)
def test_the_layer_the_genes_and_the_name_can_be_chosen(ready, method):
    counts = ready.X.toarray()
    ready.layers["cpm"] = 100 * counts / counts.sum(axis=1, keepdims=True)
    ready.var["mine"] = ready.var_names.isin(ready.var_names[[3, 20, 21]])
    said = pytest.warns(UserWarning, match="no denoised values") if method == "counts" else nullcontext()
    with said:
        result = complete(ready, method, layer="cpm", mask_var="mine", key_added="filled")
    changed = (result.layers["filled"] != ready.layers["cpm"]).any(axis=0)
    assert set(ready.var_names[changed]) <= set(ready.var_names[ready.var["mine"]])
    assert changed.any()
    others = {"filled_rate", "filled_sd"} if method == "counts" else set()
    assert set(result.layers) - set(ready.layers) == {"filled"} | others
    record = result.uns["spared_sc"]["filled"]
    assert record["function"] == "tl.complete"
    assert record["params"]["method"] == method
    assert record["params"]["layer"] == "cpm"
    with said:
        everything = complete(ready, method, layer="cpm", mask_var=None, key_added="filled")
    assert (everything.layers["filled"] != ready.layers["cpm"]).any(axis=0).sum() > 20


@pytest.mark.parametrize("method", LAYERS)
def test_completed_objects_survive_files(ready, method, tmp_path):
    import anndata

    result = complete(ready, method)
    result.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    name = LAYERS[method]
    for layer in set(result.layers) - set(ready.layers):
        np.testing.assert_array_equal(dense(back.layers[layer]), dense(result.layers[layer]))
    record, kept = back.uns["spared_sc"][name], result.uns["spared_sc"][name]
    assert record["params"]["library_key"] == "library_id"
    assert set(record) == set(kept)


def test_one_seed_gives_one_result_and_another_another(ready):
    first, again, other = (complete(ready, random_state=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(dense(first.layers["spackle"]), dense(again.layers["spackle"]))
    records = [adata.uns["spared_sc"]["spackle"] for adata in (first, again, other)]
    assert records[0]["score"] == records[1]["score"] != records[2]["score"]
    np.testing.assert_array_equal(records[0]["training"]["train_mse"], records[1]["training"]["train_mse"])
    assert abs(dense(first.layers["spackle"]) - dense(other.layers["spackle"])).max() > 1e-3


@pytest.mark.parametrize("batch_size", [1, 7, 100_000])
def test_batch_size_does_not_change_results(ready, batch_size):
    ours, expected = complete(ready, batch_size=batch_size), complete(ready)
    np.testing.assert_allclose(dense(ours.layers["spackle"]), dense(expected.layers["spackle"]), rtol=0, atol=1e-5)
    score, of = (adata.uns["spared_sc"]["spackle"]["score"] for adata in (ours, expected))
    assert score == pytest.approx(of, rel=1e-5)


@pytest.mark.parametrize("split", [False, True])
def test_order_of_rows_and_libraries_does_not_change_results(ready, split):
    if split:
        ready.obs["split"] = ready.obs["library_id"].map(dict(zip(LIBRARIES, ["val", "train", "test"], strict=True)))
    expected = complete(ready)
    order = np.random.default_rng(0).permutation(ready.n_obs)
    shuffled = ready[order].copy()
    shuffled.obs["library_id"] = shuffled.obs["library_id"].cat.reorder_categories(LIBRARIES[::-1])
    by_library = ready[np.argsort(-ready.obs["library_id"].cat.codes.to_numpy(), kind="stable")].copy()
    for other in (shuffled, by_library):
        result = complete(other)[expected.obs_names]
        np.testing.assert_allclose(
            dense(result.layers["spackle"]), dense(expected.layers["spackle"]), rtol=0, atol=1e-5
        )
        assert result.uns["spared_sc"]["spackle"]["score"] == pytest.approx(
            expected.uns["spared_sc"]["spackle"]["score"], rel=1e-5
        )


def test_global_random_state_stays_as_it_was(ready):
    before = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    complete(ready, random_state=5)
    assert torch.equal(torch.get_rng_state(), before[0])
    after = np.random.get_state()  # noqa: NPY002
    assert after[0] == before[1][0]
    np.testing.assert_array_equal(after[1], before[1][1])
    assert after[2:] == before[1][2:]


def test_global_random_state_does_not_matter(ready):
    torch.manual_seed(1)
    first = complete(ready)
    torch.manual_seed(2)
    np.testing.assert_array_equal(dense(complete(ready).layers["spackle"]), dense(first.layers["spackle"]))


@pytest.mark.parametrize("split", [["train", "val", "test"], ["train", "train", "val"], ["train", "test", "test"]])
def test_libraries_outside_of_training_teach_nothing(ready, split):
    ready.obs["split"] = ready.obs["library_id"].map(dict(zip(LIBRARIES, split, strict=True)))
    train, val, test = ((ready.obs["split"] == name).to_numpy() for name in ("train", "val", "test"))
    expected = complete(ready)
    layer = expected.layers["spackle"].toarray()
    curve = expected.uns["spared_sc"]["spackle"]["training"]

    def changed(rows) -> AnnData:
        other = ready.copy()
        values = other.layers["log2tpm"].toarray()
        values[rows] *= 1.5
        other.layers["log2tpm"] = sps.csr_matrix(values)
        return complete(other)

    if test.any():
        result = changed(test)
        np.testing.assert_array_equal(result.layers["spackle"].toarray()[~test], layer[~test])
        assert abs(result.layers["spackle"].toarray()[test] - layer[test]).max() > 0.1
        record = result.uns["spared_sc"]["spackle"]
        np.testing.assert_array_equal(record["training"]["validation_mse"], curve["validation_mse"])
        assert record["score"]["paper"] != expected.uns["spared_sc"]["spackle"]["score"]["paper"]
    if val.any():
        # validation libraries choose the step (there is one here), and teach nothing
        result = changed(val)
        record = result.uns["spared_sc"]["spackle"]
        np.testing.assert_array_equal(record["training"]["train_mse"], curve["train_mse"])
        assert record["training"]["validation_mse"] != curve["validation_mse"]
        np.testing.assert_array_equal(result.layers["spackle"].toarray()[train], layer[train])
    result = changed(train)
    assert (result.uns["spared_sc"]["spackle"]["training"]["train_mse"] != curve["train_mse"]).all()


def test_a_network_without_rings_ignores_the_neighbours(ready):
    def filled(n_rings, moved):
        other = ready.copy()
        # the split keeps the library out of training, so only what the network reads can change
        other.obs["split"] = other.obs["library_id"].map(dict(zip(LIBRARIES, ["train", "val", "test"], strict=True)))
        test = np.flatnonzero(other.obs["split"] == "test")
        if moved:
            values = other.layers["log2tpm"].toarray()
            values[test[1:]] *= 1.5
            other.layers["log2tpm"] = sps.csr_matrix(values)
        return complete(other, params={"n_rings": n_rings}).layers["spackle"].toarray()[test[0]]

    np.testing.assert_array_equal(filled(0, False), filled(0, True))
    assert abs(filled(2, False) - filled(2, True)).max() > 1e-4


def test_training_lowers_the_error(ready):
    training_curve = complete(ready, params={"n_steps": 300}).uns["spared_sc"]["spackle"]["training"]
    assert training_curve["step"].tolist() == list(range(50, 301, 50))
    assert training_curve["train_mse"][-1] < 0.9 * training_curve["train_mse"][0]
    best = int(np.argmin(training_curve["validation_mse"]))
    assert training_curve["best_step"] == training_curve["step"][best]
    assert training_curve["stopped"] == "finished"


def test_an_interrupted_completion_still_writes_its_layer(ready, monkeypatch):
    draw, calls = torch.randint, []

    def interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(torch, "randint", interrupt)
    with pytest.warns(UserWarning, match="interrupted after step 50"):
        result = complete(ready, params={"n_steps": 200})
    calls.clear()
    assert result.uns["spared_sc"]["spackle"]["training"]["stopped"] == "interrupted"
    shorter = complete(ready, params={"n_steps": 50})
    np.testing.assert_array_equal(result.layers["spackle"].toarray(), shorter.layers["spackle"].toarray())
    calls.clear()
    slots, records = set(ready.layers), set(ready.uns["spared_sc"])
    calls.extend([1] * 50)
    with pytest.raises(KeyboardInterrupt):
        complete(ready, copy=False)
    assert set(ready.layers) == slots
    assert set(ready.uns["spared_sc"]) == records


def test_values_too_large_for_training_are_an_error(ready):
    ready.layers["huge"] = ready.layers["log2tpm"] * np.float32(1e30)
    slots = set(ready.layers)
    with pytest.raises(FloatingPointError, match="extreme values"):
        complete(ready, layer="huge", copy=False)
    assert set(ready.layers) == slots


def test_too_few_detected_entries_to_hold_any_out(ready):
    counts = np.zeros(ready.shape, dtype=np.float32)
    genes = np.flatnonzero(ready.var["spared_selected"])
    counts[0, genes[:2]] = 20
    few = AnnData(sps.csr_matrix(counts), obs=ready.obs, var=ready.var[["spared_selected"]])
    few.layers["log2tpm"] = few.X.copy()
    few.var["spared_selected"] = few.var_names.isin(few.var_names[genes[:2]])
    with pytest.raises(ValueError, match="too few detected entries"):
        complete(few)


def test_the_default_is_the_counts_model(ready):
    adata = ready.copy()
    sp.tl.spackle_complete(adata, model_params=PARAMS["counts"], device="cpu", show_progress_bar=False, **KEY)
    expected = complete(ready, "counts")
    for name in ("spackle", "spackle_rate", "spackle_sd"):
        np.testing.assert_array_equal(dense(adata.layers[name]), dense(expected.layers[name]))
    assert adata.uns["spared_sc"]["spackle"]["params"]["method"] == "counts"


@pytest.mark.parametrize("model", ["counts", "paper"])
def test_parameters_of_the_model_travel_by_name(ready, model):
    given = {"counts": {"hidden_share": 0.3}, "paper": {"n_rings": 1, "width": 16, "loss": "hidden"}}[model]
    recorded = complete(ready, model, params=given).uns["spared_sc"]["spackle"]["params"]["method_params"]
    assert {name: recorded[name] for name in given} == given
    assert {name: recorded[name] for name in PARAMS[model]} == PARAMS[model]
    close = {"counts": "n_iterations", "paper": "n_steps"}[model]
    with pytest.raises(TypeError, match=f"'{model}' has no parameter 'n_step'; .*'{close}'"):
        complete(ready, model, params={"n_step": 3})
    with pytest.raises(TypeError, match="n_steps"):
        sp.tl.spackle_complete(ready, n_steps=3, **KEY)
