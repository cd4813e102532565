"""SpaCKLE as published: what the network reads, hold-outs, losses, the search of the learning rate, devices."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import scipy.sparse as sps
import torch

import spared_sc as sp
from helpers import dense
from helpers.counts_model import CPU
from helpers.spackle import PARAMS, SECTIONS, complete
from spared_sc._core.compute import Compute
from spared_sc._kernels import lattice as lattices
from spared_sc._kernels.median import adaptive_median
from spared_sc._kernels.sections import Sections
from spared_sc._models import training
from spared_sc._models.completion import paper
from spared_sc._models.completion.paper import SpaCKLE

if TYPE_CHECKING:
    from anndata import AnnData

COMPUTE = Compute(device="cpu", seed=3, batch_size=64, show_progress_bar=False)


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
        network = paper.SpackleNet(7, SpaCKLE(n_layers=2)).eval()
    return network, values, known, lattice


def neighbourhoods(values, known, lattice, n_rings) -> paper._Neighbourhoods:
    sections = Sections(values, known, lattice, np.zeros(len(values), dtype=int))
    return paper._Neighbourhoods(values, known, sections, n_rings, CPU)


def output(network, values, known, lattice, n_rings=2, index=None) -> np.ndarray:
    data = neighbourhoods(values, known, lattice, n_rings)
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
    data = neighbourhoods(values, known, lattice, 2)
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


def sections_of(adata: AnnData) -> Sections:
    part = adata[:, adata.var["spared_selected"]]
    library = part.obs["library_id"].cat.codes.to_numpy().astype(np.int64)
    lattice = lattices.from_array(part.obs[["array_row", "array_col"]].to_numpy(), library)
    return Sections(part.layers["log2tpm"].toarray(), part.X.toarray() > 0, lattice, library)


def fit(sections, split=None, **params) -> paper.Fitted:
    model = SpaCKLE(**{**PARAMS["paper"], "n_steps": 20, **params})
    model.fit(sections, split, COMPUTE)
    return model.learned


@pytest.mark.parametrize("split", [None, ["train", "val", "test"], ["train", "train", "test"], ["train", "val", "val"]])
def test_hidden_entries_are_seen_by_nobody(ready, monkeypatch, split):
    sections = sections_of(ready)
    values, detected = sections.values, sections.known
    split = None if split is None else np.array(split)[sections.library]
    hide, predict = paper._hold_out, paper._predict
    masks, predictions = [], []
    monkeypatch.setattr(paper, "_hold_out", lambda *args: masks.append(hide(*args)) or masks[-1])
    monkeypatch.setattr(paper, "_predict", lambda *args: predictions.append(predict(*args)) or predictions[-1])

    def run(values):
        predictions.clear()
        result = fit(replace(sections, values=values), split)
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
    assert result.score["paper"] == pytest.approx(error, rel=1e-6)

    # other values behind the score: the score only
    altered, same = run(np.where(for_score, values + 5, values))
    np.testing.assert_array_equal(same, estimate)
    np.testing.assert_array_equal(altered.fit.train_mse, result.fit.train_mse)
    np.testing.assert_array_equal(altered.fit.validation_mse, result.fit.validation_mse)
    for name in ("paper", "median", "gene_mean"):
        assert altered.score[name] != result.score[name]
    # other values behind the choice: the curve of the choice, but not the training
    altered, same = run(np.where(for_choice, values + 5, values))
    np.testing.assert_array_equal(altered.fit.train_mse, result.fit.train_mse)
    assert altered.fit.validation_mse != result.fit.validation_mse
    np.testing.assert_array_equal(same, estimate)  # there is one step to choose from
    assert altered.score == result.score


def test_scores_of_the_baselines_are_what_they_are_called(ready, monkeypatch):
    sections = sections_of(ready)
    values, detected, lattice, library = sections.values, sections.known, sections.lattice, sections.library
    split = np.array(["train", "val", "test"])[library]
    hide, masks = paper._hold_out, []
    monkeypatch.setattr(paper, "_hold_out", lambda *args: masks.append(hide(*args)) or masks[-1])
    score = fit(sections, split).score
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
    sections = Sections(np.where(detected, values, np.float32(0)), detected, lattice, library)
    score = {
        n_rings: fit(
            sections, split, n_rings=n_rings, n_steps=500, train_batch_size=64, learning_rate=1e-3, patience=500, dropout=0.0
        ).score
        for n_rings in (0, 1, 2)
    }  # fmt: skip
    for n_rings in (1, 2):
        assert score[n_rings]["paper"] < 0.9 * score[0]["paper"]
        assert score[n_rings]["paper"] < score[n_rings]["gene_mean"] < score[n_rings]["median"]


@pytest.mark.filterwarnings("ignore:training diverged:UserWarning")
def test_search_keeps_the_best_of_ten_rates(ready, tmp_path):
    result = complete(ready, params={"n_steps": 50, "learning_rate": "search"}, checkpoint=tmp_path / "state")
    tried = result.uns["spared_sc"]["spackle"]["search"]
    np.testing.assert_allclose(tried["learning_rate"], 10 ** np.linspace(-5, -2, 10))
    best = int(np.argmin(tried["validation_mse"]))
    alone = complete(ready, params={"n_steps": 50, "learning_rate": float(tried["learning_rate"][best])})
    np.testing.assert_array_equal(dense(result.layers["spackle"]), dense(alone.layers["spackle"]))
    training_of_best = result.uns["spared_sc"]["spackle"]["training"]["validation_mse"]
    assert training_of_best.min() == tried["validation_mse"][best]
    assert len(list((tmp_path / "state").iterdir())) == 10


def test_without_precompletion_undetected_entries_are_zero(ready):
    seen = []
    build = paper._Neighbourhoods.__init__

    class Spy(paper._Neighbourhoods):
        def __init__(self, values, known, *rest):
            seen.append((values, known))
            build(self, values, known, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "_Neighbourhoods", Spy)
        for precomplete in (True, False):
            complete(ready, params={"n_steps": 5, "precomplete": precomplete})
    zero = [(values[~known] == 0).all() for values, known in seen]
    assert zero == [False, False, True, True]


def test_the_loss_on_hidden_entries_is_what_it_says():
    params = SpaCKLE(loss="hidden", train_batch_size=6, dropout=0.0)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(9, 5)).astype(np.float32)
    known = rng.random((9, 5)) < 0.7
    lattice = lattices.from_array(np.column_stack(np.divmod(np.arange(9), 3)), np.zeros(9, dtype=int), kind="grid")
    data = neighbourhoods(values, known, lattice, 1)
    network = paper.SpackleNet(5, params).eval()
    spots = torch.arange(9)
    generator = torch.Generator().manual_seed(1)
    loss = paper._training_loss(network, data, spots, params, generator).item()
    generator.manual_seed(1)
    draw = torch.randint(9, (6,), generator=generator)
    target, seen, padding, _ = data.batch(draw)
    hidden = seen & (torch.rand(target.shape, generator=generator) < 0.3)
    estimate = network(target.masked_fill(hidden, 0), padding).detach()
    errors = [(estimate[i, 0, g] - target[i, 0, g]).item() ** 2 for i in range(6) for g in range(5) if hidden[i, 0, g]]
    assert loss == pytest.approx(np.mean(errors), rel=1e-5)


def test_mixed_precision_is_close_to_single(ready):
    single = complete(ready)
    with sp.settings.override(mixed_precision=True):
        mixed = complete(ready)
    difference = np.abs(dense(single.layers["spackle"]) - dense(mixed.layers["spackle"]))
    assert 0 < difference.max() < 0.5
    assert dense(mixed.layers["spackle"]).dtype == np.float32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(ready):
    on_cpu = complete(ready)
    with sp.settings.override(mixed_precision=False):
        on_gpu = complete(ready, device="cuda")
    assert on_gpu.uns["spared_sc"]["spackle"]["device"] == "cuda"
    scores = [a.uns["spared_sc"]["spackle"]["score"]["paper"] for a in (on_cpu, on_gpu)]
    assert scores[0] == pytest.approx(scores[1], rel=0.2)
