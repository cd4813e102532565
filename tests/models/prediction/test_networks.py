"""_models/prediction/networks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from helpers.networks import COMPUTE, CPU, N_GENES, contrastive, guided, make_spots, regression, some_known, weights_of
from helpers.section_networks import eggn, hggep, hist2st, histogene, sepal
from spared_sc._kernels.metrics import poisson_deviance
from spared_sc._models import checkpoint, training
from spared_sc._models.prediction import networks
from spared_sc._models.prediction.batch import Targets
from spared_sc._models.prediction.bleep import Bleep
from spared_sc._models.prediction.eggn import Eggn
from spared_sc._models.prediction.egn import Egn
from spared_sc._models.prediction.hggep import Hggep
from spared_sc._models.prediction.hist2st import Hist2ST
from spared_sc._models.prediction.histogene import HisToGene
from spared_sc._models.prediction.image_regression import (
    ImageRegression,
    ShuffleNet,
    STNet,
    STNetHe,
    ViT,
    ViTDelta,
)
from spared_sc._models.prediction.networks import SectionPredictor, Shape
from spared_sc._models.prediction.sepal import Sepal
from spared_sc._models.training import trainable

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots

SPOT_MODELS = {"regression": regression, "bleep": contrastive, "egn": guided}
MODELS = SPOT_MODELS | {"histogene": histogene, "hist2st": hist2st, "hggep": hggep, "sepal": sepal, "eggn": eggn}


every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


@pytest.fixture
def train() -> Spots:
    return make_spots()


@pytest.fixture
def validation() -> Spots:
    return replace(make_spots(10, seed=1), library=np.full(10, 3))


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (ShuffleNet, ("0.37", "0.47", "1.15")),
        (ViT, ("85.8", "85.9", "86.4")),
        (ViTDelta, ("85.8", "85.9", "86.4")),
        (STNet, ("6.99", "7.09", "7.76")),
        (STNetHe, ("6.99", "7.09", "7.76")),
        (Bleep, ("24.2", "24.2", "24.4")),
        (Egn, ("132.5", "132.9", "135.5")),
        (HisToGene, ("105.9", "106.0", "106.6")),
        (Hist2ST, ("72.7", "73.1", "75.8")),
        (Hggep, ("113.3", "113.7", "116.4")),
        (Sepal, ("0.96", "0.97", "1.05")),  # of the second stage; the first one is that of ViT
        (Eggn, ("10.9", "11.1", "12.1")),
    ],
)
def test_numbers_of_parameters_are_the_published(model, millions):
    for n_genes, expected in zip((32, 128, 785), millions, strict=True):
        digits = len(expected.partition(".")[2])
        assert f"{n_weights(model(), n_genes) / 1e6:.{digits}f}" == expected


@pytest.mark.parametrize(
    ("model", "optimizer", "rate", "decay", "schedule", "batch"),
    [
        (STNet, "adam", None, 0, ("none", 0, 0), 256),  # SpaRED searches the rate
        (STNetHe, "sgd", 32 * 1e-6, 0, ("none", 0, 0), 32),  # a mean over 32 patches, where the authors have a sum
        (Bleep, "adamw", 1e-3, 1e-3, ("none", 0, 0), 256),
        (Egn, "adamw", 5e-4, 1e-4, ("cosine", 1 / 5, 100), 256),
        (Sepal, "adam", 1e-4, 0, ("none", 0, 0), 256),
    ],
)
def test_training_is_as_published(model, optimizer, rate, decay, schedule, batch):
    ours = model()
    assert (ours.optimizer, ours.weight_decay, ours.train_batch_size) == (optimizer, decay, batch)
    assert (ours.schedule, ours.final_rate, ours.warmup_steps) == schedule
    assert rate is None or ours.learning_rate == pytest.approx(rate)


@every_model
def test_the_count_is_that_of_the_fitted_network(make, train):
    predictor = make()
    predictor.fit(train, None, COMPUTE)
    first = sum(weights.numel() for weights in predictor.front.parameters()) if make is sepal else 0
    assert predictor.n_parameters() == predictor.report()["n_parameters"] == first + n_weights(make(), N_GENES)


def n_weights(predictor, n_genes) -> int:
    with torch.device("meta"):
        front = predictor.make_front(Shape(n_genes, None, 2), "random")
        features = None if front is None else front.n_features
        return sum(
            weights.numel() for weights in trainable(predictor.make_network(Shape(n_genes, features, 2), "random"))
        )


def test_error_and_means_are_of_known_entries(train):
    spots = some_known(train)
    spots.known[:, 2] = False
    estimate = np.random.default_rng(3).normal(size=spots.target.shape).astype(np.float32)
    squared = [
        (estimate[i, g] - spots.target[i, g]) ** 2 for i in range(24) for g in range(N_GENES) if spots.known[i, g]
    ]
    assert Targets.of(spots, CPU).loss(torch.from_numpy(estimate)).item() == pytest.approx(np.mean(squared), rel=1e-5)
    everything = ((estimate - train.target) ** 2).mean()
    assert Targets.of(train, CPU).loss(torch.from_numpy(estimate)).item() == pytest.approx(everything, rel=1e-5)
    mean = [spots.target[spots.known[:, g], g].mean() if g != 2 else spots.target[:, g].mean() for g in range(N_GENES)]
    np.testing.assert_allclose(spots.gene_means(), mean, rtol=1e-5)
    np.testing.assert_allclose(train.gene_means(), train.target.mean(axis=0), rtol=1e-5)


def counted(spots, loss):
    """The spots with counts whose depth varies, to be compared by a loss of counts."""
    rng = np.random.default_rng(4)
    exposure = np.outer(rng.uniform(0.5, 4, len(spots)), np.ones(N_GENES)).astype(np.float32)
    level = (spots.target - spots.target.mean()) / spots.target.std()
    counts = rng.poisson(5 * exposure * np.exp(level)).astype(np.float32)
    return replace(spots, counts=counts, exposure=exposure, loss=loss)


@pytest.mark.parametrize("loss", ["poisson", "nb"])
def test_losses_of_counts_are_likelihoods(train, loss):
    spots = counted(train, loss)
    targets = Targets.of(spots, CPU)
    output = torch.from_numpy(np.random.default_rng(5).normal(size=spots.counts.shape).astype(np.float32))
    share = spots.counts.sum(axis=0) / spots.exposure.sum(axis=0)
    rate = spots.exposure * share * np.exp(output.numpy())
    counts = torch.from_numpy(spots.counts)

    def log_likelihood(rate):
        if loss == "poisson":
            return torch.distributions.Poisson(torch.as_tensor(rate)).log_prob(counts)
        size = targets.size.double()
        return stats_nbinom(counts.numpy(), size.numpy(), rate)

    at_share = log_likelihood(spots.exposure * share)
    expected = float((log_likelihood(rate) - at_share).mean())
    found = float(targets.loss(torch.zeros_like(output)) - targets.loss(output))
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["poisson", "nb"])
def test_losses_of_counts_are_bounded(train, loss):
    spots = counted(train, loss)
    output = torch.full(spots.counts.shape, 20.0, requires_grad=True)
    Targets.of(spots, CPU).loss(output).backward()
    assert (output.grad == 0).all()  # beyond the largest rate nothing is gained


def stats_nbinom(counts, size, rate):
    return stats.nbinom.logpmf(counts, size, size / (size + rate))


@pytest.mark.parametrize("loss", ["poisson", "nb"])
def test_a_network_of_counts_predicts_expression(train, validation, loss):
    spots, others = counted(train, loss), counted(validation, loss)
    predictor = regression(n_steps=60, learning_rate=1e-2, augment=False)
    predictor.fit(spots, None, COMPUTE)
    found = predictor.predict(spots, COMPUTE)
    assert (found >= 0).all()
    rate = spots.exposure * (2.0**found - 1)
    share = spots.exposure * spots.counts.sum(axis=0) / spots.exposure.sum(axis=0)
    deviance = [poisson_deviance(spots.counts, expected).mean() for expected in (rate, share)]
    assert deviance[0] < 0.9 * deviance[1]  # it fits the counts better than a constant share of the depth
    again = ImageRegression.from_state(*predictor.state())
    np.testing.assert_allclose(again.predict(spots, COMPUTE), found, rtol=1e-5)
    deeper = replace(spots, exposure=spots.exposure * 10, counts=spots.counts * 10)
    np.testing.assert_allclose(predictor.predict(deeper, COMPUTE), found)  # no depth in it
    chosen = regression(n_steps=4, validate_every=2)
    chosen.fit(spots, others, COMPUTE)
    estimate = chosen.predict(others, COMPUTE)
    expected = poisson_deviance(others.counts, others.exposure * (2.0**estimate - 1)).mean()
    assert min(chosen.fit_report.validation_mse) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "params"),
    [*((make, {}) for make in MODELS.values()), (regression, {"delta": True, "start_at_mean": True})],
)
def test_unknown_entries_leave_no_trace(make, params, train, validation):
    train, validation = some_known(train), some_known(validation, 1)
    predictor = make(**params)
    predictor.fit(train, validation, COMPUTE)

    def changed(spots):
        return replace(spots, target=np.where(spots.known, spots.target, np.float32(1e3)))

    again = make(**params)
    again.fit(changed(train), changed(validation), COMPUTE)
    assert_same(weights_of(again), weights_of(predictor))
    assert again.fit_report == predictor.fit_report


@every_model
def test_saved_and_loaded_it_predicts_the_same(make, train, validation, tmp_path):
    predictor = make()
    predictor.fit(some_known(train), validation, COMPUTE)
    arrays, values = predictor.state()
    checkpoint.save(tmp_path / "model", "predictor", arrays, values)
    arrays, values = checkpoint.load(tmp_path / "model", "predictor")
    before = torch.get_rng_state()
    again = type(predictor).from_state(arrays, values)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(again.predict(validation, COMPUTE), predictor.predict(validation, COMPUTE))
    assert again.n_parameters() == predictor.n_parameters()
    assert again.params() == predictor.params()
    json.dumps(predictor.state()[1], allow_nan=False)
    for damage in (
        lambda arrays, values: arrays.pop(min(name for name in arrays if name.startswith("network."))),
        lambda arrays, values: values["shape"].update(n_genes=9),
        lambda arrays, values: values["shape"].update(n_train=True),
        lambda arrays, values: values.update(counted=1e12),
        lambda arrays, values: values["params"].update(nothing=1),
    ):
        broken = dict(arrays), copy.deepcopy(values)
        damage(*broken)
        with pytest.raises(ValueError, match="the model is damaged"):
            type(predictor).from_state(*broken)


@every_model
def test_one_seed_gives_one_result(make, train, validation):
    fits = []
    before = torch.get_rng_state()
    for seed, batch_size in ((0, 16), (0, 16), (1, 16)):
        predictor = make()
        predictor.fit(train, validation, replace(COMPUTE, seed=seed, batch_size=batch_size))
        fits.append(predictor)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights_of(fits[0]), weights_of(fits[1]))
    assert fits[0].fit_report == fits[1].fit_report
    assert not np.array_equal(fits[0].predict(validation, COMPUTE), fits[2].predict(validation, COMPUTE))


@every_model
def test_batches_and_order_of_reading_do_not_matter(make, train, validation):
    predictor, other = make(), make()
    predictor.fit(train, validation, COMPUTE)
    other.fit(train, validation, replace(COMPUTE, batch_size=5))
    np.testing.assert_allclose(other.predict(validation, COMPUTE), predictor.predict(validation, COMPUTE), rtol=1e-4)
    expected = predictor.predict(train, replace(COMPUTE, batch_size=24))
    assert expected.shape == (24, N_GENES)
    assert expected.dtype == np.float32
    for size in (1, 7):
        ours = predictor.predict(train, replace(COMPUTE, batch_size=size))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_allclose(predictor.predict(train.take(order), COMPUTE), expected[order], rtol=1e-4, atol=1e-4)
    assert predictor.predict(train.take(np.arange(0)), COMPUTE).shape == (0, N_GENES)


@every_model
def test_predictions_do_not_depend_on_threads(make, train, monkeypatch):
    monkeypatch.setattr(networks, "_CPU_CHUNK", 3)
    predictor = make()
    predictor.fit(train, None, COMPUTE)
    one, two, three = (predictor.predict(train, replace(COMPUTE, n_threads=n)) for n in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_patches_are_read_batch_by_batch(train, validation):
    predictor = regression(n_steps=6)
    predictor.fit(train, None, COMPUTE)
    assert train.patches.reads[0] <= 16  # a sample, to tell the data by
    assert set(train.patches.reads[1:]) == {8}
    assert len(train.patches.reads[1:]) in (6, 7)  # one batch ahead
    train.patches.reads.clear()
    predictor.predict(train, replace(COMPUTE, batch_size=10))
    assert train.patches.reads == [10, 10, 4]


@pytest.mark.parametrize("make", SPOT_MODELS.values(), ids=SPOT_MODELS)
def test_pieces_are_halved_until_they_fit(make, train, monkeypatch):
    predictor = make()
    predictor.fit(train, None, COMPUTE)
    expected = predictor.predict(train, COMPUTE)
    tried, run = [], type(predictor).output

    def limited(limit):
        def output(self, network, batch):
            tried.append(len(batch))
            if len(batch) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(self, network, batch)

        monkeypatch.setattr(type(predictor), "output", output)

    limited(5)
    np.testing.assert_allclose(predictor.predict(train, COMPUTE), expected, rtol=1e-4, atol=1e-4)
    assert tried == [16, 8, 4, 4, 4, 4, 4, 4]
    limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(train, COMPUTE)


def test_a_batch_that_does_not_fit_in_training(train, monkeypatch):
    def loss(self, network, batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ImageRegression, "loss", loss)
    with pytest.raises(MemoryError, match="a batch does not fit into the memory of cpu.*lower `train_batch_size`"):
        regression().fit(train, None, COMPUTE)


def test_the_best_step_is_kept(train, validation, monkeypatch):
    validation = some_known(validation)
    predictor = regression(n_steps=12, learning_rate=3e-3)
    predictor.fit(train, validation, COMPUTE)
    report = predictor.fit_report
    assert report.step == [2, 4, 6, 8, 10, 12]
    assert report.best_error == min(report.validation_mse)
    error = (predictor.predict(validation, COMPUTE) - validation.target)[validation.known]
    assert report.best_error == pytest.approx((error**2).mean(), rel=1e-4)
    errors = iter([3.0, 2.0, 2.5, 2.5, 1.0, 1.0])
    monkeypatch.setattr(networks, "masked_mse", lambda *args: next(errors))
    predictor = regression(n_steps=12, patience=4)
    predictor.fit(train, validation, COMPUTE)
    assert (predictor.fit_report.stopped, predictor.fit_report.best_step) == ("patience", 4)
    assert predictor.fit_report.step == [2, 4, 6, 8]
    assert predictor.report()["training"]["validation_mse"].tolist() == [3.0, 2.0, 2.5, 2.5]


def test_validation_takes_a_sample_of_many_spots(train, validation, monkeypatch):
    monkeypatch.setattr(networks, "_VALIDATION_SPOTS", 4)
    predictor = regression()
    predictor.fit(train, validation, COMPUTE)
    assert sum(validation.patches.reads) == 10 + 4  # all ten to tell the data by
    errors = ((predictor.predict(validation, COMPUTE) - validation.target) ** 2).mean(axis=1)
    chosen = np.random.default_rng(0).permutation(10)[:4]
    assert predictor.fit_report.best_error == pytest.approx(errors[chosen].mean(), rel=1e-4)


@every_model
def test_without_validation_the_last_weights_are_used(make, train, validation):
    predictor, once = make(n_steps=5, patience=1), make(n_steps=5, validate_every=5)
    predictor.fit(train, None, COMPUTE)
    report = predictor.fit_report
    assert (report.step, report.best_step, report.stopped) == ([2, 4, 5], 5, "finished")
    assert report.validation_mse == []
    once.fit(train, validation, COMPUTE)  # validated at the last step alone
    assert_same(weights_of(predictor), weights_of(once))
    empty = make(n_steps=5)
    empty.fit(train, validation.take(np.arange(0)), COMPUTE)
    assert_same(weights_of(predictor), weights_of(empty))


def test_search_takes_the_rate_with_the_least_error(train, validation):
    predictor = regression(learning_rate="search", n_steps=3)
    predictor.fit(train, validation, COMPUTE)
    np.testing.assert_allclose(predictor.search["learning_rate"], [10 ** (-5 + i / 3) for i in range(10)])
    errors = predictor.search["validation_mse"]
    best = predictor.search["learning_rate"][int(np.argmin(errors))]
    assert len(set(errors)) == 10
    again = regression(learning_rate=best, n_steps=3)
    again.fit(train, validation, COMPUTE)
    assert_same(weights_of(predictor), weights_of(again))
    assert predictor.fit_report.best_error == min(errors)
    with pytest.raises(ValueError, match="there are none: give a split with a validation library, or a number"):
        regression(learning_rate="search").fit(train, None, COMPUTE)


def interrupted_at(monkeypatch, kind, step):
    """Make the fit break off in the loss of some step; the list of losses taken is given back."""
    taken, loss = [], kind.loss

    def interrupted(self, *args):
        taken.append(1)
        if len(taken) == step:
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(kind, "loss", interrupted)
    return taken


@pytest.mark.parametrize("make", [*MODELS.values(), lambda **params: regression(optimizer="sgd", **params)])
@pytest.mark.parametrize("validated", [True, False])
def test_a_fit_that_broke_off_resumes_to_the_same_result(make, validated, train, validation, tmp_path, monkeypatch):
    validation = validation if validated else None
    expected = make(n_steps=12)
    expected.fit(train, validation, COMPUTE)
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    monkeypatch.setattr(SectionPredictor, "_check_memory", lambda *args: None)  # it takes losses too
    how = replace(COMPUTE, checkpoint=tmp_path / "state")
    kind = type(expected)
    with monkeypatch.context() as patched:
        interrupted_at(patched, kind, 2)
        with pytest.raises(KeyboardInterrupt):  # nothing to keep yet
            make(n_steps=12).fit(train, validation, how)
    with monkeypatch.context() as patched:
        interrupted_at(patched, kind, 8)
        broken = make(n_steps=12)
        with pytest.warns(UserWarning, match="training interrupted after step 6: the best model so far"):
            broken.fit(train, validation, how)
    assert broken.fit_report.stopped == "interrupted"
    assert np.isfinite(broken.predict(train, COMPUTE)).all()
    taken = interrupted_at(monkeypatch, kind, 0)
    resumed = make(n_steps=12)
    resumed.fit(train, validation, how)
    assert len(taken) == 6
    assert_same(weights_of(resumed), weights_of(expected))
    assert resumed.fit_report == expected.fit_report
    other = replace(train, target=train.target + 1)
    for data, params in ((other, {}), (train, {"schedule": "cosine", "final_rate": 0.1})):
        with pytest.raises(ValueError, match="belongs to another fit"):
            make(n_steps=12, **params).fit(data, validation, how)


@every_model
def test_training_that_diverges(make, train, validation):
    train = replace(train, target=train.target * np.float32(1e30))
    with pytest.raises(FloatingPointError, match="loss is not finite after 2 steps: lower the learning rate"):
        make(learning_rate=1e30).fit(train, validation, COMPUTE)


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (regression, {"n_steps": 0}, "n_steps=0 cannot be used: give a whole number"),
        (regression, {"patience": 1.5}, "patience=1.5 cannot be used: give a whole number"),
        (regression, {"optimizer": "lion"}, "optimizer='lion' is unknown: choose 'adam', 'adamw', 'sgd'"),
        (regression, {"schedule": "linear"}, "schedule='linear' is unknown: choose 'none', 'cosine'"),
        (regression, {"final_rate": 1.1}, "final_rate=1.1"),
        (regression, {"warmup_steps": 5}, "warmup_steps=5: no effect with schedule='none'"),
        (guided, {"schedule": "none"}, "final_rate=0.2 and warmup_steps=1: no effect with schedule='none'"),
        (regression, {"learning_rate": -1}, "learning_rate=-1 cannot be used: give .*'search'"),
        (regression, {"learning_rate": "best"}, "learning_rate='best' cannot be used: give .*'search'"),
        (contrastive, {"retrieval": "mean"}, "retrieval='mean' is unknown: choose 'average', 'simple', 'weighted'"),
        (contrastive, {"n_neighbours": 0}, "n_neighbours=0 cannot be used"),
        (contrastive, {"loss_chunk": 0}, "loss_chunk=0 cannot be used"),
        (contrastive, {"temperature": 0}, "temperature=0 cannot be used"),
        (guided, {"n_exemplars": 0}, "n_exemplars=0 cannot be used"),
        (guided, {"image_size": 30}, "image_size=30: expected a multiple of token_size=16"),
    ],
)
def test_parameters_out_of_range(make, params, message):
    with pytest.raises(ValueError, match=message):
        make(**params)


@every_model
def test_deviations_from_the_mean_are_learned_and_the_mean_added(make, train, validation):
    train = some_known(train)
    mean = (train.target * train.known).sum(axis=0) / train.known.sum(axis=0)
    predictor, plain = make(delta=True), make()
    predictor.fit(train, validation, COMPUTE)
    plain.fit(replace(train, target=train.target - mean), replace(validation, target=validation.target - mean), COMPUTE)
    expected = plain.predict(validation, COMPUTE) + mean
    np.testing.assert_allclose(predictor.predict(validation, COMPUTE), expected, rtol=1e-3, atol=1e-3)


def test_one_spot_is_too_few(train):
    with pytest.raises(ValueError, match="too few spots to train on \\(1\\)"):
        regression().fit(train.take(np.array([0])), None, COMPUTE)


@pytest.mark.parametrize("model", [ShuffleNet, STNet, STNetHe])
def test_networks_of_the_benchmark_run(model, train):
    predictor = model(weights="random", n_steps=1, train_batch_size=2)
    predictor.fit(train, None, COMPUTE)
    some = train.take(np.arange(2))
    again = model.from_state(*predictor.state())
    np.testing.assert_array_equal(again.predict(some, COMPUTE), predictor.predict(some, COMPUTE))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_model
def test_on_a_gpu(make, train, validation, tmp_path):
    how = replace(COMPUTE, device="cuda", checkpoint=tmp_path / "state")
    predictor = make(n_steps=6)
    predictor.fit(train, validation, how)
    on_cpu = type(predictor).from_state(*predictor.state()).predict(validation, COMPUTE)
    np.testing.assert_allclose(predictor.predict(validation, how), on_cpu, rtol=0.1, atol=0.1)
