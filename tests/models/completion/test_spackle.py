"""_models/completion/spackle."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps
import torch

from helpers.spackle import SECTIONS
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.median import adaptive_median
from spared_sc._models import training
from spared_sc._models.completion import spackle

if TYPE_CHECKING:
    from anndata import AnnData

CPU = torch.device("cpu")


@pytest.fixture
def ready(collection) -> AnnData:
    """Three libraries after the recipe."""
    return collection(**SECTIONS)


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
