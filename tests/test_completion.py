"""Completion: what the adaptive median and the models fill in and leave alone, and what the paper's may not know."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import scipy.sparse as sps
import torch
from anndata import AnnData

import spared_sc as sp
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.median import adaptive_median
from spared_sc._models import training
from spared_sc._models.completion import spackle

CPU = torch.device("cpu")
LIBRARIES = ["library_1", "library_2", "library_3"]
QUICK = {
    "model": "paper",
    "n_steps": 25,
    "train_batch_size": 32,
    "feedforward": 64,
    "n_layers": 1,
    "device": "cpu",
}
METHODS = {"median": "median", "paper": "spackle", "residual": "spackle"}  # and the name of their layer


@pytest.fixture(autouse=True)
def _one_torch_thread():
    """Networks this small lose time to threads, and all of it where the cores are busy."""
    numba.get_num_threads()  # starts numba's threads, which sets the number of OpenMP threads for torch as well
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


@pytest.fixture(scope="module")
def finished() -> AnnData:
    adata = sp.datasets.synthetic(n_libraries=3, n_genes=40, shape=(7, 6), depth=100, missing_spots=0.15, image=False)
    sp.pp.recipe_spared(adata, library_key="library_id", n_genes=12, real_data_share=0.5)
    return adata


@pytest.fixture
def ready(finished) -> AnnData:
    """Three libraries after the recipe."""
    return finished.copy()


def complete(adata: AnnData, method: str = "paper", **options) -> AnnData:
    run = sp.tl.median_complete if method == "median" else sp.tl.spackle_complete
    quick = {"median": {}, "paper": QUICK, "residual": {"n_steps": 4, "device": "cpu"}}[method]
    return run(adata, library_key="library_id", copy=True, **{**quick, **options})


# --- all methods -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("container", [sps.csr_matrix, sps.csc_matrix, sps.csr_array, np.asarray])
@pytest.mark.parametrize("method", METHODS)
def test_only_undetected_entries_of_the_modelled_genes_change(ready, method, container, dtype):
    ready.layers["log2tpm"] = container(dense(ready.layers["log2tpm"]).astype(dtype))
    before = dense(ready.layers["log2tpm"])
    layer = complete(ready, method).layers[METHODS[method]]
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


@pytest.mark.parametrize("method", METHODS)
def test_the_layer_the_genes_and_the_name_can_be_chosen(ready, method):
    counts = ready.X.toarray()
    ready.layers["cpm"] = 100 * counts / counts.sum(axis=1, keepdims=True)
    ready.var["mine"] = ready.var_names.isin(ready.var_names[[3, 20, 21]])
    result = complete(ready, method, layer="cpm", mask_var="mine", key_added="filled")
    changed = (result.layers["filled"] != ready.layers["cpm"]).any(axis=0)
    assert set(ready.var_names[changed]) <= set(ready.var_names[ready.var["mine"]])
    assert changed.any()
    others = {"filled_rate", "filled_sd"} if method == "residual" else set()
    assert set(result.layers) - set(ready.layers) == {"filled"} | others
    record = result.uns["spared_sc"]["filled"]
    assert record["function"] == f"tl.{METHODS[method]}_complete"
    assert record["params"]["layer"] == "cpm"
    everything = complete(ready, method, layer="cpm", mask_var=None, key_added="filled")
    assert (everything.layers["filled"] != ready.layers["cpm"]).any(axis=0).sum() > 20


@pytest.mark.parametrize("method", METHODS)
def test_completed_objects_survive_files(ready, method, tmp_path):
    import anndata

    result = complete(ready, method)
    result.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    name = METHODS[method]
    for layer in set(result.layers) - set(ready.layers):
        np.testing.assert_array_equal(dense(back.layers[layer]), dense(result.layers[layer]))
    record, kept = back.uns["spared_sc"][name], result.uns["spared_sc"][name]
    assert record["params"]["library_key"] == "library_id"
    assert set(record) == set(kept)


# --- median_complete -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_rings", [1, 4])
def test_median_complete_is_the_kernel_on_every_library(ready, n_rings):
    rng = np.random.default_rng(0)
    ready = ready[rng.permutation(ready.n_obs)].copy()
    result = complete(ready, "median", n_rings=n_rings)
    selected = ready.var["spared_selected"].to_numpy()
    for name in ready.obs["library_id"].unique():
        part = ready[ready.obs["library_id"] == name, selected]
        alone = np.zeros(part.n_obs, dtype=int)
        lattice = lattices.from_array(part.obs[["array_row", "array_col"]].to_numpy(), alone, kind="hex")
        expected = adaptive_median(
            part.layers["log2tpm"].toarray(), part.X.toarray() > 0, lattice, alone, n_rings=n_rings, n_threads=1
        )
        ours = result[result.obs["library_id"] == name, selected].layers["median"].toarray()
        np.testing.assert_array_equal(ours, expected)


def test_median_complete_of_integers_is_not_rounded(ready):
    ready.layers["integers"] = sps.csr_matrix(ready.X, dtype=np.int64)
    ready.layers["floats"] = sps.csr_matrix(ready.X, dtype=np.float64)
    ours, expected = (
        complete(ready, "median", layer=name, key_added="filled").layers["filled"].toarray()
        for name in ("integers", "floats")
    )
    np.testing.assert_array_equal(ours, expected)
    assert (expected % 1 == 0.5).any()


# --- SpaCKLE: the network --------------------------------------------------------------------------------------------


@pytest.fixture
def network_data():
    """A network with fixed weights, and two libraries of random values with holes in the lattice."""
    rng = np.random.default_rng(0)
    row, col = (index.ravel() for index in np.indices((8, 8)))
    position = np.column_stack([row, 2 * col + row % 2])
    position = np.vstack([position[rng.permutation(64)[:50]], position[rng.permutation(64)[:40]]])
    lattice = lattices.from_array(position, np.repeat([0, 1], [50, 40]))
    values = rng.normal(4, 2, size=(90, 7)).astype(np.float32)
    known = rng.random(values.shape) < 0.6
    with training.local_seed(1, CPU):
        network = spackle.SpackleNet(7, spackle.SpackleParams(n_layers=2)).eval()
    return network, values, known, lattice


def output(network, values, known, lattice, n_rings=2, index=None) -> np.ndarray:
    data = spackle._Neighbourhoods(values, known, lattice, n_rings, CPU)
    with torch.no_grad():
        return data.complete(network, torch.arange(len(values)) if index is None else index).numpy()


@pytest.mark.parametrize("n_rings", [0, 1, 2])
def test_output_depends_on_the_neighbourhood_and_on_nothing_else(network_data, n_rings):
    network, values, known, lattice = network_data
    before = output(network, values, known, lattice, n_rings)
    indptr, indices, _ = lattice.hops(n_rings)
    for spot in (0, 17, 60, 89):
        within = {spot, *indices[indptr[spot] : indptr[spot + 1]].tolist()}
        others = np.array([other not in within for other in range(len(values))])
        moved = values.copy()
        moved[others] += 3
        after = output(network, moved, known, lattice, n_rings)
        np.testing.assert_allclose(after[spot], before[spot], rtol=0, atol=1e-6)
        for neighbour in within - {spot}:
            moved = values.copy()
            moved[neighbour] += 3
            after = output(network, moved, known, lattice, n_rings)
            assert abs(after[spot] - before[spot]).max() > 1e-4
            # and what is not near the neighbour stays
            far = [s for s in range(90) if neighbour != s and neighbour not in indices[indptr[s] : indptr[s + 1]]]
            np.testing.assert_allclose(after[far], before[far], rtol=0, atol=1e-6)


def test_own_unknown_values_are_not_read(network_data):
    network, values, known, lattice = network_data
    before = output(network, values, known, lattice)
    for spot in (3, 55):
        moved = values.copy()
        moved[spot, ~known[spot]] = 100
        np.testing.assert_array_equal(output(network, moved, known, lattice)[spot], before[spot])
        moved = values.copy()
        moved[spot, known[spot]] += 1
        assert abs(output(network, moved, known, lattice)[spot] - before[spot]).max() > 1e-4


def test_output_does_not_depend_on_the_rest_of_the_batch(network_data):
    network, values, known, lattice = network_data
    together = output(network, values, known, lattice)
    alone = np.vstack([output(network, values, known, lattice, index=torch.tensor([spot])) for spot in range(90)])
    np.testing.assert_allclose(alone, together, rtol=0, atol=1e-5)
    order = np.random.default_rng(2).permutation(90)
    shuffled = output(network, values, known, lattice, index=torch.as_tensor(order))
    np.testing.assert_allclose(shuffled, together[order], rtol=0, atol=1e-5)


def test_padding_is_not_read(network_data):
    network, values, known, lattice = network_data
    padded = np.flatnonzero((lattice.table(2) == 90).any(axis=1))
    assert len(padded) > 10
    data = spackle._Neighbourhoods(values, known, lattice, 2, CPU)
    with torch.no_grad():
        before = data.complete(network, torch.as_tensor(padded))
        data.values[90] = 1e3
        data.known[90] = True
        after = data.complete(network, torch.as_tensor(padded))
    np.testing.assert_allclose(after, before, rtol=0, atol=1e-6)


def test_a_larger_table_changes_nothing(network_data):
    # The padding grows with the largest neighbourhood of the collection: a spot may not notice.
    network, values, known, lattice = network_data
    part = lattices.Lattice(lattice.indptr[50:] - lattice.indptr[50], lattice.indices[lattice.indptr[50] :] - 50, "hex")
    assert part.table(2).shape[1] != lattice.table(2).shape[1] or (part.table(2) == 40).any()
    np.testing.assert_allclose(
        output(network, values[50:], known[50:], part),
        output(network, values, known, lattice)[50:],
        rtol=0,
        atol=1e-5,
    )


# --- SpaCKLE: the fit ------------------------------------------------------------------------------------------------


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
        assert record["score"]["spackle"] != expected.uns["spared_sc"]["spackle"]["score"]["spackle"]
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
        return complete(other, n_rings=n_rings).layers["spackle"].toarray()[test[0]]

    np.testing.assert_array_equal(filled(0, False), filled(0, True))
    assert abs(filled(2, False) - filled(2, True)).max() > 1e-4


def arrays(adata: AnnData):
    part = adata[:, adata.var["spared_selected"]]
    library = part.obs["library_id"].cat.codes.to_numpy().astype(np.int64)
    values = part.layers["log2tpm"].toarray()
    lattice = lattices.from_array(part.obs[["array_row", "array_col"]].to_numpy(), library)
    return values, part.X.toarray() > 0, lattice, library


def fit(values, detected, lattice, library, split=None, **params):
    options = {"n_steps": 20, "train_batch_size": 32, "feedforward": 64, "n_layers": 1, **params}
    return spackle.fit_spackle(
        values, detected, lattice, library, split, spackle.SpackleParams(**options),
        device=CPU, batch_size=64, seed=3, n_threads=1, show_progress_bar=False,
    )  # fmt: skip


@pytest.mark.parametrize("split", [None, ["train", "val", "test"], ["train", "train", "test"], ["train", "val", "val"]])
def test_hidden_entries_are_seen_by_nobody(ready, monkeypatch, split):
    values, detected, lattice, library = arrays(ready)
    split = None if split is None else np.array(split)[library]
    hide, predict = spackle._hold_out, spackle._predict
    masks, predictions = [], []
    monkeypatch.setattr(spackle, "_hold_out", lambda *args: masks.append(hide(*args)) or masks[-1])
    monkeypatch.setattr(spackle, "_predict", lambda *args: predictions.append(predict(*args)) or predictions[-1])

    def run(values):
        predictions.clear()
        result = fit(values, detected, lattice, library, split)
        return result, predictions[0]  # the first is the one that is scored

    result, estimate = run(values)
    for_choice, for_score = masks[0]
    assert for_choice.any()
    assert for_score.any()
    assert not (for_choice & for_score).any()
    assert not ((for_choice | for_score) & ~detected).any()
    if split is not None:
        assert set(split[for_choice.any(axis=1)]) == {"val" if "val" in split else "train"}
        assert set(split[for_score.any(axis=1)]) == {"test" if "test" in split else "val"}
    error = ((values - estimate)[for_score].astype(float) ** 2).mean()
    assert result.score["spackle"] == pytest.approx(error, rel=1e-6)

    # other values behind the score: the score only
    altered, same = run(np.where(for_score, values + 5, values))
    np.testing.assert_array_equal(same, estimate)
    np.testing.assert_array_equal(altered.fit.train_mse, result.fit.train_mse)
    np.testing.assert_array_equal(altered.fit.validation_mse, result.fit.validation_mse)
    for name in ("spackle", "median", "gene_mean"):
        assert altered.score[name] != result.score[name]
    # other values behind the choice: the curve of the choice, but not the training
    altered, same = run(np.where(for_choice, values + 5, values))
    np.testing.assert_array_equal(altered.fit.train_mse, result.fit.train_mse)
    assert altered.fit.validation_mse != result.fit.validation_mse
    np.testing.assert_array_equal(same, estimate)  # there is one step to choose from
    assert altered.score == result.score


def test_scores_of_the_baselines_are_what_they_are_called(ready, monkeypatch):
    values, detected, lattice, library = arrays(ready)
    split = np.array(["train", "val", "test"])[library]
    hide, masks = spackle._hold_out, []
    monkeypatch.setattr(spackle, "_hold_out", lambda *args: masks.append(hide(*args)) or masks[-1])
    score = fit(values, detected, lattice, library, split).score
    for_choice, for_score = masks[0]
    known = detected & ~for_choice & ~for_score
    median = adaptive_median(values, known, lattice, library, n_threads=1)
    assert score["median"] == pytest.approx(np.mean((median - values)[for_score].astype(float) ** 2), rel=1e-6)
    errors = []
    for gene in range(values.shape[1]):
        mean = values[known[:, gene] & (split == "train"), gene].astype(float).mean()
        errors += ((values[for_score[:, gene], gene] - mean) ** 2).tolist()
    assert score["gene_mean"] == pytest.approx(np.mean(errors), rel=1e-5)
    assert score["n_entries"] == for_score.sum() == len(errors)
    share = for_score[split == "test"].sum() / detected[split == "test"].sum()
    assert share == pytest.approx(0.3, abs=0.08)


def test_training_lowers_the_error(ready):
    training_curve = complete(ready, n_steps=300).uns["spared_sc"]["spackle"]["training"]
    assert training_curve["step"].tolist() == list(range(50, 301, 50))
    assert training_curve["train_mse"][-1] < 0.9 * training_curve["train_mse"][0]
    best = int(np.argmin(training_curve["validation_mse"]))
    assert training_curve["best_step"] == training_curve["step"][best]
    assert training_curve["stopped"] == "finished"


# --- the training loop -----------------------------------------------------------------------------------------------


def loop(errors, *, losses=None, n_steps=10, patience=None, learning_rate=0.1):
    """Fit one weight; the validation error of every step is given, and what the weight was then is noted."""
    weight = torch.nn.Linear(1, 1, bias=False)
    errors, losses, seen = iter(errors), iter(losses or [1.0] * n_steps), []

    def training_loss():
        loss = next(losses)
        if isinstance(loss, BaseException):
            raise loss
        return weight.weight.sum() * loss

    def validation_error():
        seen.append(weight.weight.item())
        error = next(errors)
        if isinstance(error, BaseException):
            raise error
        return error

    result = training.fit(
        weight, training_loss=training_loss, validation_error=validation_error, n_steps=n_steps,
        learning_rate=learning_rate, validate_every=1, patience=patience, show_progress_bar=False, desc="test",
        generator=torch.Generator(),
    )  # fmt: skip
    return result, weight.weight.item(), seen


def test_the_best_weights_are_kept():
    result, weight, seen = loop([5, 3, 4, 2, 6, 7], n_steps=6)
    assert result.best_step == 4
    assert weight == seen[3] != seen[-1]
    assert result.validation_mse == [5, 3, 4, 2, 6, 7]


def test_patience_counts_steps_since_the_best():
    result, weight, seen = loop([5, 3, 4, 4, 3, 1], n_steps=6, patience=3)
    assert (result.stopped, result.best_step, len(seen)) == ("patience", 2, 5)
    assert weight == seen[1]


@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_interrupt_keeps_the_best_model_and_warns(where):
    options = {"losses": [1, 1, 1, KeyboardInterrupt()]} if where == "training" else {}
    errors = [5, 3, 4, KeyboardInterrupt() if where == "validation" else 1]
    with pytest.warns(UserWarning, match=r"training interrupted after step 3: the best model so far \(step 2"):
        result, weight, seen = loop(errors, **options)
    assert (result.stopped, result.best_step) == ("interrupted", 2)
    assert weight == seen[1]


def test_an_interrupt_before_the_first_validation_propagates():
    with pytest.raises(KeyboardInterrupt):
        loop([1], losses=[KeyboardInterrupt()])
    with pytest.raises(KeyboardInterrupt):
        loop([KeyboardInterrupt()])


def test_divergence_keeps_the_best_model_and_warns_or_raises():
    with pytest.warns(UserWarning, match=r"training diverged after step 2: the best model so far \(step 2"):
        result, weight, seen = loop([5, 3, np.nan, 1])
    assert result.stopped == "diverged"
    assert weight == seen[1]
    with pytest.warns(UserWarning, match="training diverged after step 1"):
        loop([5, 3, 2], losses=[1, np.inf, 1])
    with pytest.raises(FloatingPointError, match=r"lower the learning rate \(it is 0.1\)"):
        loop([np.nan])


def test_an_interrupted_completion_still_writes_its_layer(ready, monkeypatch):
    draw, calls = torch.randint, []

    def interrupt(*args, **kwargs):
        calls.append(1)
        if len(calls) > 60:
            raise KeyboardInterrupt
        return draw(*args, **kwargs)

    monkeypatch.setattr(torch, "randint", interrupt)
    with pytest.warns(UserWarning, match="training interrupted after step 50"):
        result = complete(ready, n_steps=200)
    calls.clear()
    assert result.uns["spared_sc"]["spackle"]["training"]["stopped"] == "interrupted"
    np.testing.assert_array_equal(
        result.layers["spackle"].toarray(), complete(ready, n_steps=50).layers["spackle"].toarray()
    )
    calls.clear()
    slots, records = set(ready.layers), set(ready.uns["spared_sc"])
    calls.extend([1] * 50)
    with pytest.raises(KeyboardInterrupt):
        sp.tl.spackle_complete(ready, library_key="library_id", **QUICK)
    assert set(ready.layers) == slots
    assert set(ready.uns["spared_sc"]) == records


def test_values_too_large_for_training_are_an_error(ready):
    ready.layers["huge"] = ready.layers["log2tpm"] * np.float32(1e30)
    slots = set(ready.layers)
    with pytest.raises(FloatingPointError, match="check that the layer holds no extreme values"):
        sp.tl.spackle_complete(ready, layer="huge", library_key="library_id", **QUICK)
    assert set(ready.layers) == slots


def test_too_few_detected_entries_to_hold_any_out(ready):
    counts = np.zeros(ready.shape, dtype=np.float32)
    genes = np.flatnonzero(ready.var["spared_selected"])
    counts[0, genes[:2]] = 20
    few = AnnData(sps.csr_matrix(counts), obs=ready.obs, var=ready.var[["spared_selected"]])
    few.layers["log2tpm"] = few.X.copy()
    few.var["spared_selected"] = few.var_names.isin(few.var_names[genes[:2]])
    with pytest.raises(ValueError, match="too few detected entries"):
        sp.tl.spackle_complete(few, library_key="library_id", **QUICK)


# --- what neighbours are worth ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_neighbours_help_where_the_signal_is_theirs():
    """Genes 0 to 3 are noise; gene 4 + i of a spot is the mean of gene i over its neighbours."""
    rng = np.random.default_rng(0)
    row, col = (index.ravel() for index in np.indices((14, 14)))
    n_libraries, n = 8, row.size
    position = np.tile(np.column_stack([row, 2 * col + row % 2]), (n_libraries, 1))
    library = np.repeat(np.arange(n_libraries), n)
    lattice = lattices.from_array(position, library)
    source = np.repeat(np.arange(len(position)), np.diff(lattice.indptr))
    mean = sps.csr_matrix((1 / np.diff(lattice.indptr)[source], lattice.indices, lattice.indptr))
    noise = rng.normal(size=(len(position), 4))
    values = np.hstack([5 + noise, 5 + np.sqrt(6) * (mean @ noise)]).astype(np.float32)
    detected = rng.random(values.shape) < 0.97
    split = np.array(["train"] * 6 + ["val", "test"])[library]
    score = {
        n_rings: fit(
            values, detected, lattice, library, split, n_rings=n_rings, n_steps=500, train_batch_size=64,
            learning_rate=1e-3, patience=None, dropout=0.0,
        ).score
        for n_rings in (0, 1, 2)
    }  # fmt: skip
    for n_rings in (1, 2):
        assert score[n_rings]["spackle"] < 0.9 * score[0]["spackle"]
        assert score[n_rings]["spackle"] < score[n_rings]["gene_mean"] < score[n_rings]["median"]
