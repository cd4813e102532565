"""Networks that see patches: symmetries, losses, retrieval, exemplars, and what every one of them promises."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from spared_sc._models import checkpoint, training
from spared_sc._models.prediction import augment, backbones, bleep, networks, retrieval
from spared_sc._models.prediction.base import How, Spots
from spared_sc._models.prediction.bleep import Bleep, contrastive_loss
from spared_sc._models.prediction.egn import Attention, Egn, mean_correlation
from spared_sc._models.prediction.networks import Targets
from spared_sc._models.prediction.regression import ImageRegression, ShuffleNet, STNet, ViT, ViTDelta

CPU = torch.device("cpu")
HOW = How(CPU, seed=0, batch_size=16, show_progress_bar=False)
SIDE, N_GENES = 32, 5
TINY = {"backbone": "timm:test_resnet", "weights": "random"}
SHORT = {"n_steps": 4, "train_batch_size": 8, "validate_every": 2}
GUIDED = {"encoder": "timm:test_resnet", "weights": "random", "image_size": SIDE, "token_size": 16, "width": 32}
GUIDED |= {"depth": 2, "n_heads": 1, "feedforward": 32, "n_exemplars": 3, "warmup_steps": 1}


def regression(**params) -> ImageRegression:
    return ImageRegression(**{**TINY, **SHORT, **params})


def contrastive(**params) -> Bleep:
    return Bleep(**{**TINY, **SHORT, "loss_chunk": 5, "n_neighbours": 4, **params})


def guided(**params) -> Egn:
    return Egn(**{**SHORT, **GUIDED, **params})


MODELS = {"regression": regression, "bleep": contrastive, "egn": guided}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Patches:
    """Patches in memory that keep a list of what was read."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels = pixels
        self.pixels.flags.writeable = False  # as those of a memory map
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.reads.append(len(rows))
        return self.pixels[rows]


def make_spots(n=24, n_libraries=3, seed=0, side=SIDE) -> Spots:
    """Spots whose expression is the colour of their patch."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(40, 215, size=(n, 1, 1, 3))
    pixels = np.clip(colour + rng.integers(-40, 40, size=(n, side, side, 3)), 0, 255).astype(np.uint8)
    target = colour[:, 0, 0] / 50 @ np.random.default_rng(9).normal(size=(3, N_GENES)) + 3
    return Spots(np.arange(n) % n_libraries, patches=Patches(pixels), target=target.astype(np.float32))


@pytest.fixture
def train() -> Spots:
    return make_spots()


@pytest.fixture
def validation() -> Spots:
    return replace(make_spots(10, seed=1), library=np.full(10, 3))


def some_known(spots: Spots, seed=0) -> Spots:
    return replace(spots, known=np.random.default_rng(seed).random(spots.target.shape) < 0.6)


def weights_of(predictor) -> dict[str, np.ndarray]:
    return predictor.state()[0]


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


def eight(image: np.ndarray) -> list[np.ndarray]:
    """The symmetries of an image (side, side, channels), by numpy."""
    return [np.rot90(one, turns) for one in (image, np.fliplr(image)) for turns in range(4)]


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "millions"),
    [
        (ShuffleNet, ("0.37", "0.47", "1.15")),
        (ViT, ("85.8", "85.9", "86.4")),
        (ViTDelta, ("85.8", "85.9", "86.4")),
        (STNet, ("6.99", "7.09", "7.76")),
        (Bleep, ("24.2", "24.2", "24.4")),
        (Egn, ("132.5", "132.9", "135.5")),
    ],
)
def test_numbers_of_parameters_are_the_published(model, millions):
    for n_genes, expected in zip((32, 128, 785), millions, strict=True):
        digits = len(expected.partition(".")[2])
        assert f"{model().count_parameters(n_genes) / 1e6:.{digits}f}" == expected


@every_model
def test_the_count_is_that_of_the_fitted_network(make, train):
    predictor = make()
    predictor.fit(train, None, HOW)
    assert predictor.n_parameters() == predictor.report()["n_parameters"] == make().count_parameters(N_GENES)


# --- symmetries and augmentation --------------------------------------------------------------------------------------


def test_symmetries_are_the_eight_of_a_square():
    image = np.random.default_rng(0).integers(0, 255, size=(7, 7, 3))
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None]
    ours = {augment.symmetry(tensor, code)[0].permute(1, 2, 0).numpy().tobytes() for code in range(8)}
    assert ours == {np.ascontiguousarray(one).tobytes() for one in eight(image)}
    assert len(ours) == 8


def test_every_image_gets_its_own_symmetry():
    images = torch.rand(20, 3, 6, 6)
    codes = torch.arange(20) % 8
    for image, code, result in zip(images, codes, augment.transformed(images, codes), strict=True):
        torch.testing.assert_close(result, augment.symmetry(image, int(code)), rtol=0, atol=0)


@pytest.mark.parametrize("augmented", [True, False])
def test_training_patches_are_turned_one_by_one(train, augmented, monkeypatch):
    batches, loss = [], ImageRegression._loss

    def recorded(self, network, images, rows, targets):
        batches.append((images.clone(), rows.clone()))
        return loss(self, network, images, rows, targets)

    monkeypatch.setattr(ImageRegression, "_loss", recorded)
    regression(augment=augmented, n_steps=6).fit(train, None, HOW)
    assert len(batches) == 6
    drawn = []
    for images, rows in batches:
        assert len(set(rows.tolist())) == 8  # no spot twice in a batch
        kinds = []
        for image, row in zip(images.permute(0, 2, 3, 1).numpy(), rows, strict=True):
            alike = [np.array_equal(image, one) for one in eight(train.patches.pixels[row])]
            assert sum(alike) == 1
            kinds.append(alike.index(True))
        drawn.append(kinds)
    if augmented:
        assert all(len(set(kinds)) > 1 for kinds in drawn)
        assert set(sum(drawn, [])) == set(range(8))
    else:
        assert set(sum(drawn, [])) == {0}


def test_predictions_average_the_symmetries(train):
    predictor = regression(symmetries=True)
    predictor.fit(train, None, HOW)
    plain = ImageRegression.from_state(weights_of(predictor), {"params": regression()._params(), "n_genes": N_GENES})
    turned = [
        replace(train, patches=Patches(np.stack([eight(patch)[code] for patch in train.patches.pixels])))
        for code in range(8)
    ]
    each = [plain.predict(spots, HOW) for spots in turned]
    assert np.ptp(each, axis=0).max() > 1e-4
    for spots in turned[:3]:
        np.testing.assert_allclose(predictor.predict(spots, HOW), np.mean(each, axis=0), rtol=1e-4, atol=1e-5)


# --- losses and starts ------------------------------------------------------------------------------------------------


def test_error_and_means_are_of_known_entries(train):
    spots = some_known(train)
    spots.known[:, 2] = False
    estimate = np.random.default_rng(3).normal(size=spots.target.shape).astype(np.float32)
    squared = [
        (estimate[i, g] - spots.target[i, g]) ** 2 for i in range(24) for g in range(N_GENES) if spots.known[i, g]
    ]
    assert Targets.of(spots, CPU).mse(torch.from_numpy(estimate)).item() == pytest.approx(np.mean(squared), rel=1e-5)
    everything = ((estimate - train.target) ** 2).mean()
    assert Targets.of(train, CPU).mse(torch.from_numpy(estimate)).item() == pytest.approx(everything, rel=1e-5)
    mean = [spots.target[spots.known[:, g], g].mean() if g != 2 else spots.target[:, g].mean() for g in range(N_GENES)]
    np.testing.assert_allclose(spots.gene_means(), mean, rtol=1e-5)
    np.testing.assert_allclose(train.gene_means(), train.target.mean(axis=0), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "params"),
    [*((make, {}) for make in MODELS.values()), (regression, {"delta": True, "start_at_mean": True})],
)
def test_unknown_entries_leave_no_trace(make, params, train, validation):
    train, validation = some_known(train), some_known(validation, 1)
    predictor = make(**params)
    predictor.fit(train, validation, HOW)

    def changed(spots):
        return replace(spots, target=np.where(spots.known, spots.target, np.float32(1e3)))

    again = make(**params)
    again.fit(changed(train), changed(validation), HOW)
    assert_same(weights_of(again), weights_of(predictor))
    assert again.fit_report == predictor.fit_report


def test_delta_learns_deviations_and_adds_the_mean(train, validation):
    mean = train.target.mean(axis=0)
    predictor, centred = regression(delta=True), regression()
    predictor.fit(train, validation, HOW)
    centred.fit(replace(train, target=train.target - mean), replace(validation, target=validation.target - mean), HOW)
    np.testing.assert_allclose(
        predictor.predict(validation, HOW), centred.predict(validation, HOW) + mean, rtol=1e-4, atol=1e-4
    )
    assert np.abs(mean).max() > 1


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("partly", [False, True])
def test_stnet_starts_as_the_mean_expression(train, validation, delta, partly):
    train = some_known(train) if partly else train
    predictor = STNet(**TINY, delta=delta, n_steps=1, train_batch_size=8, learning_rate=1e-12)
    predictor.fit(train, None, HOW)
    mean = train.gene_means()
    np.testing.assert_allclose(predictor.predict(validation, HOW), np.tile(mean, (10, 1)), rtol=1e-5)
    assert predictor.symmetries


def test_images_are_brought_to_the_size_of_the_network(train):
    seen = []
    predictor = regression(image_size=20, augment=False)
    predictor.fit(train, None, HOW)
    predictor.network.body.normalise.register_forward_hook(lambda module, inputs, output: seen.append((inputs, output)))
    predictor.predict(train, replace(HOW, batch_size=64))
    (images,), normalised = seen[0]
    pixels = torch.from_numpy(train.patches.pixels.copy()).permute(0, 3, 1, 2).float()
    expected = nn.functional.interpolate(pixels, (20, 20), mode="bilinear", antialias=True)
    torch.testing.assert_close(images, expected)
    torch.testing.assert_close(normalised, (expected / 255 - 0.5) / 0.5)  # timm's card of this network says 0.5
    body = backbones.Backbone("torchvision:shufflenet_v2_x0_5", "random")
    channels = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]
    torch.testing.assert_close(body.normalise(pixels), (pixels / 255 - channels[0]) / channels[1])


def test_regression_learns_colours(train):
    predictor = regression(n_steps=60, train_batch_size=24, learning_rate=1e-3, start_at_mean=True)
    predictor.fit(train, None, HOW)
    new = make_spots(20, seed=5)
    error = ((predictor.predict(new, HOW) - new.target) ** 2).mean()
    assert error < 0.5 * ((train.target.mean(axis=0) - new.target) ** 2).mean()


# --- BLEEP ------------------------------------------------------------------------------------------------------------


def softmax(values: np.ndarray) -> np.ndarray:
    return np.exp(values) / np.exp(values).sum()


def bleep_loss(spots: np.ndarray, images: np.ndarray, temperature: float) -> float:
    """Equations 1 to 4 of the paper, one spot at a time."""
    n = len(spots)
    target = [softmax((images[i] @ images.T + spots[i] @ spots.T) / 2 / temperature) for i in range(n)]
    total = 0.0
    for i in range(n):
        by_spot = np.log(softmax(spots[i] @ images.T / temperature))
        by_image = np.log(softmax(images[i] @ spots.T / temperature))
        for j in range(n):
            total -= target[i][j] * by_spot[j] + target[j][i] * by_image[j]
    return total / 2 / n


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_contrastive_loss_is_the_papers(temperature):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 7, 4))
    ours = contrastive_loss(torch.from_numpy(one), torch.from_numpy(other), temperature).item()
    assert ours == pytest.approx(bleep_loss(one, other, temperature), rel=1e-10)


def test_spots_are_compared_within_chunks(train):
    predictor = contrastive()
    predictor.fit(train, None, HOW)
    network = predictor.network.double()
    rows = torch.tensor([5, 3, 11, 2, 9, 20, 1, 14])
    images = predictor._images(train.patches.pixels[rows], CPU).double()
    predictor.reference["expression"] = predictor.reference["expression"].double()
    with torch.no_grad():
        spots = network.expression(torch.from_numpy(train.target[rows]).double()).numpy()
        patches = network.image_head(network.body(images)).numpy()
        network.image = lambda images: network.image_head(network.body(images))  # stays in double precision
        ours = predictor._loss(network, images, rows, None).item()
    expected = (5 * bleep_loss(spots[:5], patches[:5], 1.0) + 3 * bleep_loss(spots[5:], patches[5:], 1.0)) / 8
    assert ours == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("how", bleep.RETRIEVALS)
@pytest.mark.parametrize("partly", [False, True])
@pytest.mark.parametrize("own", [False, True])
def test_retrieval_takes_the_expression_of_the_nearest(train, validation, how, partly, own):
    train = some_known(train) if partly else train
    if partly:
        train.known[:, 1] = False
    predictor = contrastive(retrieval=how)
    predictor.fit(train, None, HOW)
    own_library = np.array([0, 1, 2, -1, 0, 1, 2, -1, 0, 1]) if own else None
    ours = predictor.predict(validation, HOW, own_library=own_library)
    known = np.ones(train.target.shape, dtype=bool) if train.known is None else train.known
    mean = train.gene_means()
    filled = np.where(known, train.target, mean).astype(np.float32)
    with torch.no_grad():
        patches = predictor.network.image(predictor._images(validation.patches.pixels, CPU)).numpy()
        spots = predictor.network.expression(torch.from_numpy(filled)).numpy()
    for i, patch in enumerate(patches):
        cosine = spots @ patch / np.linalg.norm(spots, axis=1) / np.linalg.norm(patch)
        if own:
            cosine[train.library == own_library[i]] = -np.inf
        nearest = np.argsort(-cosine)[: 1 if how == "simple" else 4]
        distance = ((spots[nearest] - patch) ** 2).sum(axis=1)
        weight = np.exp(-(distance - distance.min() + 1)) if how == "weighted" else np.ones(len(nearest))
        for g in range(N_GENES):
            usable = known[nearest, g]
            expected = np.average(filled[nearest, g][usable], weights=weight[usable]) if usable.any() else mean[g]
            assert ours[i, g] == pytest.approx(expected, rel=1e-3)


# --- nearest spots and EGN --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("entries", [1 << 24, 40])
def test_nearest_spots_by_brute_force(entries, monkeypatch):
    monkeypatch.setattr(retrieval, "_ENTRIES", entries)
    rng = np.random.default_rng(0)
    query, reference = rng.normal(size=(9, 6)), rng.normal(size=(17, 6))
    library, own = rng.integers(3, size=17), rng.integers(-1, 4, size=9)
    tensors = torch.from_numpy(query), torch.from_numpy(reference)
    anywhere = retrieval.nearest(*tensors, 4).numpy()
    elsewhere = retrieval.nearest(*tensors, 4, torch.from_numpy(own), torch.from_numpy(library)).numpy()
    for i in range(9):
        distance = [np.linalg.norm(query[i] - one) for one in reference]
        order = np.argsort(distance)
        assert anywhere[i].tolist() == order[:4].tolist()
        assert elsewhere[i].tolist() == [j for j in order if library[j] != own[i]][:4]


def test_fewer_spots_than_asked_for():
    reference = torch.arange(5.0)[:, None]
    library = torch.tensor([0, 0, 0, 1, 1])
    assert retrieval.nearest(reference, reference, 50).shape == (5, 5)
    found = retrieval.nearest(reference, reference, 3, library, library)
    assert found.tolist() == [[3, 4], [3, 4], [3, 4], [2, 1], [2, 1]]
    with pytest.raises(ValueError, match="all training spots are of one library"):
        retrieval.nearest(reference, reference, 3, library, torch.zeros(5, dtype=torch.int64))


def recorded_exemplars(monkeypatch) -> list[tuple[np.ndarray, np.ndarray]]:
    calls, run = [], Egn._guided

    def guided_and_recorded(self, network, images, feature, exemplars):
        calls.append((feature.numpy(), exemplars.numpy()))
        return run(self, network, images, feature, exemplars)

    monkeypatch.setattr(Egn, "_guided", guided_and_recorded)
    return calls


def expected_exemplars(feature, own, reference, library) -> list[list[int]]:
    order = [np.argsort([np.linalg.norm(one - other) for other in reference]) for one in feature]
    return [[j for j in row if library[j] != code][:3] for row, code in zip(order, own, strict=True)]


@pytest.mark.parametrize("embedded", [False, True])
def test_exemplars_are_the_nearest_of_other_libraries(train, validation, embedded, monkeypatch):
    if embedded:
        rng = np.random.default_rng(0)
        train = replace(train, embedding=rng.normal(size=(24, 4)))
        validation = replace(validation, embedding=rng.normal(size=(10, 4)))
    calls = recorded_exemplars(monkeypatch)
    predictor = guided(n_steps=1, train_batch_size=24)
    validation = replace(validation, library=np.arange(10) % 4)  # some are of libraries that are trained on
    predictor.fit(train, validation, HOW)
    (feature, found), (validation_feature, validation_found) = calls
    reference = predictor.reference["feature"].numpy()
    if embedded:
        np.testing.assert_allclose(reference, train.embedding, rtol=1e-6)
        assert predictor.frozen is None
    rows = [int(np.argmin(((reference - one) ** 2).sum(axis=1))) for one in feature]  # of the only batch
    assert sorted(rows) == list(range(24))
    for row, exemplars in zip(rows, found, strict=True):
        assert train.library[row] not in train.library[exemplars]
    assert found.tolist() == expected_exemplars(feature, train.library[rows], reference, train.library)
    expected = expected_exemplars(validation_feature, validation.library, reference, train.library)
    assert validation_found.tolist() == expected
    calls.clear()
    predictor.predict(validation, HOW)
    assert calls[0][1].tolist() == expected_exemplars(validation_feature, [-1] * 10, reference, train.library)
    calls.clear()
    predictor.predict(validation, HOW, own_library=validation.library)
    assert calls[0][1].tolist() == expected


def test_exemplars_need_two_libraries_and_the_same_embedding(train, validation):
    with pytest.raises(ValueError, match="all training spots are of one library.*train EGN on two or more"):
        guided().fit(replace(train, library=np.zeros(24, dtype=int)), None, HOW)
    predictor = guided()
    predictor.fit(replace(train, embedding=np.random.default_rng(0).normal(size=(24, 4))), None, HOW)
    with pytest.raises(ValueError, match="give the same embedding here"):
        predictor.predict(validation, HOW)


@pytest.mark.parametrize("partly", [False, True])
def test_mean_correlation_is_over_genes_that_vary(train, partly):
    train = some_known(train) if partly else train
    train.target[:, 3] = 2
    estimate = np.random.default_rng(0).normal(size=train.target.shape).astype(np.float32) + train.target
    known = np.ones(train.target.shape, dtype=bool) if train.known is None else train.known
    expected = [np.corrcoef(train.target[known[:, g], g], estimate[known[:, g], g])[0, 1] for g in (0, 1, 2, 4)]
    ours = mean_correlation(torch.from_numpy(estimate), Targets.of(train, CPU)).item()
    assert ours == pytest.approx(np.mean(expected), rel=1e-4)
    constant = Targets(torch.ones(4, 2), None)
    assert mean_correlation(torch.rand(4, 2), constant).item() == 0


def test_loss_of_egn_is_on_the_unit_scale(train):
    predictor = guided(correlation_weight=0.7)
    predictor.fit(train, None, HOW)
    rows = torch.arange(12)
    images = predictor._images(train.patches.pixels[:12], CPU)
    with torch.no_grad():
        loss = predictor._loss(predictor.network, images, rows, Targets.of(train, CPU).rows(rows)).item()
    prediction = predictor.predict(train.rows(rows.numpy()), HOW, own_library=train.library[:12])
    low, high = train.target.min(axis=0), train.target.max(axis=0)
    estimate, target = (prediction - low) / (high - low), (train.target[:12] - low) / (high - low)
    correlation = np.mean([np.corrcoef(estimate[:, g], target[:, g])[0, 1] for g in range(N_GENES)])
    assert loss == pytest.approx(((estimate - target) ** 2).mean() + 0.7 * (1 - correlation), rel=1e-3)


def test_egn_heeds_its_exemplars_and_not_their_order(train):
    predictor = guided()
    predictor.fit(train, None, HOW)
    images, feature = predictor._images(train.patches.pixels[:4], CPU), predictor.reference["feature"][:4]
    alike, expression = torch.rand(4, 3, feature.shape[1]), torch.rand(4, 3, N_GENES)
    with torch.no_grad():
        result = predictor.network(images, feature, alike, expression)
        order = [2, 0, 1]
        torch.testing.assert_close(predictor.network(images, feature, alike[:, order], expression[:, order]), result)
        expression[1, 2] += 1
        other = predictor.network(images, feature, alike, expression)
    assert (other[1] - result[1]).abs().max() > 1e-4
    torch.testing.assert_close(other[[0, 2, 3]], result[[0, 2, 3]])


def test_attention_is_torchs():
    torch.manual_seed(0)
    ours, theirs = Attention(128, 2), nn.MultiheadAttention(128, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.qkv.weight)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
        tokens = torch.rand(3, 5, 128)
        normed = nn.functional.layer_norm(tokens, (128,))
        torch.testing.assert_close(ours(tokens), theirs(normed, normed, normed)[0], rtol=1e-4, atol=1e-5)


# --- what holds for all -----------------------------------------------------------------------------------------------


@every_model
def test_saved_and_loaded_it_predicts_the_same(make, train, validation, tmp_path):
    predictor = make()
    predictor.fit(some_known(train), validation, HOW)
    arrays, values = predictor.state()
    checkpoint.save(tmp_path / "model", "predictor", arrays, values)
    arrays, values = checkpoint.load(tmp_path / "model", "predictor")
    before = torch.get_rng_state()
    again = type(predictor).from_state(arrays, values)
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(again.predict(validation, HOW), predictor.predict(validation, HOW))
    assert again.n_parameters() == predictor.n_parameters()
    assert again._params() == predictor._params()
    json.dumps(predictor.state()[1], allow_nan=False)
    for damage in (
        lambda arrays, values: arrays.pop(min(name for name in arrays if name.startswith("network."))),
        lambda arrays, values: values.update(n_genes=9),
        lambda arrays, values: values["params"].update(nothing=1),
    ):
        broken = dict(arrays), {**values, "params": dict(values["params"])}
        damage(*broken)
        with pytest.raises(ValueError, match="the model is damaged"):
            type(predictor).from_state(*broken)


@every_model
def test_one_seed_gives_one_result(make, train, validation):
    fits = []
    before = torch.get_rng_state()
    for seed, batch_size in ((0, 16), (0, 16), (1, 16)):
        predictor = make()
        predictor.fit(train, validation, replace(HOW, seed=seed, batch_size=batch_size))
        fits.append(predictor)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(weights_of(fits[0]), weights_of(fits[1]))
    assert fits[0].fit_report == fits[1].fit_report
    assert not np.array_equal(fits[0].predict(validation, HOW), fits[2].predict(validation, HOW))


@every_model
def test_batches_and_order_of_reading_do_not_matter(make, train, validation):
    predictor, other = make(), make()
    predictor.fit(train, validation, HOW)
    other.fit(train, validation, replace(HOW, batch_size=5))
    np.testing.assert_allclose(other.predict(validation, HOW), predictor.predict(validation, HOW), rtol=1e-4)
    expected = predictor.predict(train, replace(HOW, batch_size=24))
    assert expected.shape == (24, N_GENES)
    assert expected.dtype == np.float32
    for size in (1, 7):
        ours = predictor.predict(train, replace(HOW, batch_size=size))
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4)
    order = np.random.default_rng(0).permutation(24)
    np.testing.assert_allclose(predictor.predict(train.rows(order), HOW), expected[order], rtol=1e-4, atol=1e-4)
    assert predictor.predict(train.rows(np.arange(0)), HOW).shape == (0, N_GENES)


def test_patches_are_read_batch_by_batch(train, validation):
    predictor = regression(n_steps=6)
    predictor.fit(train, None, HOW)
    assert train.patches.reads[0] <= 16  # a sample, to tell the data by
    assert set(train.patches.reads[1:]) == {8}
    assert len(train.patches.reads[1:]) in (6, 7)  # one batch ahead
    train.patches.reads.clear()
    predictor.predict(train, replace(HOW, batch_size=10))
    assert train.patches.reads == [10, 10, 4]


@every_model
def test_pieces_are_halved_until_they_fit(make, train, monkeypatch):
    predictor = make()
    predictor.fit(train, None, HOW)
    expected = predictor.predict(train, HOW)
    tried, run = [], type(predictor)._output

    def limited(limit):
        def output(self, network, images, spots, own):
            tried.append(len(images))
            if len(images) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return run(self, network, images, spots, own)

        monkeypatch.setattr(type(predictor), "_output", output)

    limited(5)
    np.testing.assert_allclose(predictor.predict(train, HOW), expected, rtol=1e-4, atol=1e-4)
    assert tried == [16, 8, 4, 4, 4, 4, 4, 4]
    limited(0)
    with pytest.raises(torch.OutOfMemoryError):
        predictor.predict(train, HOW)


def test_a_batch_that_does_not_fit_in_training(train, monkeypatch):
    def loss(self, network, images, rows, targets):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(ImageRegression, "_loss", loss)
    with pytest.raises(MemoryError, match="8 patches at a time are too many.*lower `train_batch_size`"):
        regression().fit(train, None, HOW)


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_best_step_is_kept(train, validation, monkeypatch):
    validation = some_known(validation)
    predictor = regression(n_steps=12, learning_rate=3e-3)
    predictor.fit(train, validation, HOW)
    report = predictor.fit_report
    assert report.step == [2, 4, 6, 8, 10, 12]
    assert report.best_error == min(report.validation_mse)
    error = (predictor.predict(validation, HOW) - validation.target)[validation.known]
    assert report.best_error == pytest.approx((error**2).mean(), rel=1e-4)
    errors = iter([3.0, 2.0, 2.5, 2.5, 1.0, 1.0])
    monkeypatch.setattr(networks, "masked_mse", lambda *args: next(errors))
    predictor = regression(n_steps=12, patience=4)
    predictor.fit(train, validation, HOW)
    assert (predictor.fit_report.stopped, predictor.fit_report.best_step) == ("patience", 4)
    assert predictor.fit_report.step == [2, 4, 6, 8]
    assert predictor.report()["training"]["validation_mse"].tolist() == [3.0, 2.0, 2.5, 2.5]


def test_validation_takes_a_sample_of_many_spots(train, validation, monkeypatch):
    monkeypatch.setattr(networks, "_VALIDATION_SPOTS", 4)
    predictor = regression()
    predictor.fit(train, validation, HOW)
    assert sum(validation.patches.reads) == 10 + 4  # all ten to tell the data by
    errors = ((predictor.predict(validation, HOW) - validation.target) ** 2).mean(axis=1)
    chosen = np.random.default_rng(0).permutation(10)[:4]
    assert predictor.fit_report.best_error == pytest.approx(errors[chosen].mean(), rel=1e-4)


@every_model
def test_without_validation_the_last_weights_are_used(make, train, validation):
    predictor, once = make(n_steps=5, patience=1), make(n_steps=5, validate_every=5)
    predictor.fit(train, None, HOW)
    report = predictor.fit_report
    assert (report.step, report.best_step, report.stopped) == ([2, 4, 5], 5, "finished")
    assert report.validation_mse == []
    once.fit(train, validation, HOW)  # validated at the last step alone
    assert_same(weights_of(predictor), weights_of(once))
    empty = make(n_steps=5)
    empty.fit(train, validation.rows(np.arange(0)), HOW)
    assert_same(weights_of(predictor), weights_of(empty))


def test_rates_of_the_schedule():
    rates = [training.warm_cosine(step, 110, 0.3, 10) for step in range(1, 111)]
    np.testing.assert_allclose(rates[:10], 0.03 * np.arange(1, 11))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    np.testing.assert_allclose(rates[10:], expected, rtol=1e-6)
    assert training.warm_cosine(1, 1, 0.3, 0) == 0.3


@pytest.mark.parametrize("optimizer", training.OPTIMIZERS)
def test_steps_are_those_of_torchs_optimizers(optimizer):
    def network():
        torch.manual_seed(0)
        return nn.Linear(3, 1)

    ours, theirs = network(), network()
    inputs = torch.rand(8, 3)
    training.fit(
        ours,
        training_loss=lambda: (ours(inputs) ** 2).mean(),
        validation_error=None,
        generator=torch.Generator(),
        n_steps=9,
        learning_rate=0.1,
        validate_every=4,
        patience=None,
        show_progress_bar=False,
        desc="",
        optimizer=optimizer,
        weight_decay=0.5,
        warmup_steps=3,
    )
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[optimizer]
    reference = kind(theirs.parameters(), lr=0.1, **({"weight_decay": 0.5} if optimizer == "adamw" else {}))
    for step in range(1, 10):
        if optimizer == "adamw":
            reference.param_groups[0]["lr"] = training.warm_cosine(step, 9, 0.1, 3)
        reference.zero_grad()
        (theirs(inputs) ** 2).mean().backward()
        reference.step()
    torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=0)


def test_search_takes_the_rate_with_the_least_error(train, validation):
    predictor = regression(learning_rate="search", n_steps=3)
    predictor.fit(train, validation, HOW)
    np.testing.assert_allclose(predictor.search["learning_rate"], [10 ** (-5 + i / 3) for i in range(10)])
    errors = predictor.search["validation_mse"]
    best = predictor.search["learning_rate"][int(np.argmin(errors))]
    assert len(set(errors)) == 10
    again = regression(learning_rate=best, n_steps=3)
    again.fit(train, validation, HOW)
    assert_same(weights_of(predictor), weights_of(again))
    assert predictor.fit_report.best_error == min(errors)
    with pytest.raises(ValueError, match="there are none: give a split with a validation library, or a number"):
        regression(learning_rate="search").fit(train, None, HOW)


def interrupted_at(monkeypatch, kind, step):
    """Make the fit break off in the loss of some step; the list of losses taken is given back."""
    taken, loss = [], kind._loss

    def interrupted(self, *args):
        taken.append(1)
        if len(taken) == step:
            raise KeyboardInterrupt
        return loss(self, *args)

    monkeypatch.setattr(kind, "_loss", interrupted)
    return taken


@pytest.mark.parametrize("make", [*MODELS.values(), lambda **params: regression(optimizer="adamw", **params)])
@pytest.mark.parametrize("validated", [True, False])
def test_a_fit_that_broke_off_resumes_to_the_same_result(make, validated, train, validation, tmp_path, monkeypatch):
    validation = validation if validated else None
    expected = make(n_steps=12)
    expected.fit(train, validation, HOW)
    monkeypatch.setattr(training, "_SAVE_EVERY", 0.0)
    how = replace(HOW, checkpoint=tmp_path / "state")
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
    assert np.isfinite(broken.predict(train, HOW)).all()
    taken = interrupted_at(monkeypatch, kind, 0)
    resumed = make(n_steps=12)
    resumed.fit(train, validation, how)
    assert len(taken) == 6
    assert_same(weights_of(resumed), weights_of(expected))
    assert resumed.fit_report == expected.fit_report
    other = replace(train, target=train.target + 1)
    for data, params in ((other, {}), (train, {"weight_decay": 0.3})):
        with pytest.raises(ValueError, match="belongs to another fit"):
            make(n_steps=12, **params).fit(data, validation, how)


@every_model
def test_training_that_diverges(make, train, validation):
    train = replace(train, target=train.target * np.float32(1e30))
    with pytest.raises(FloatingPointError, match="loss is not finite after 2 steps: lower the learning rate"):
        make(learning_rate=1e30).fit(train, validation, HOW)


@pytest.mark.parametrize(
    ("make", "params", "message"),
    [
        (regression, {"n_steps": 0}, "n_steps=0 cannot be used: give a whole number"),
        (regression, {"patience": 1.5}, "patience=1.5 cannot be used: give a whole number"),
        (regression, {"optimizer": "sgd"}, "optimizer='sgd': expected one of adam, adamw"),
        (regression, {"learning_rate": -1}, "learning_rate=-1: expected a positive number, or 'search'"),
        (regression, {"learning_rate": "best"}, "learning_rate='best': expected a positive number, or 'search'"),
        (contrastive, {"retrieval": "mean"}, "retrieval='mean': expected one of average, simple, weighted"),
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
    predictor.fit(train, validation, HOW)
    plain.fit(replace(train, target=train.target - mean), replace(validation, target=validation.target - mean), HOW)
    expected = plain.predict(validation, HOW) + mean
    np.testing.assert_allclose(predictor.predict(validation, HOW), expected, rtol=1e-3, atol=1e-3)


def test_new_slides_are_looked_up_everywhere(train, validation):
    """The most neighbours that leave something outside of a section do not limit what is found for a new one."""
    train = replace(train, library=np.repeat([0, 1], [20, 4]))
    predictor = contrastive(n_neighbours=24)
    predictor.fit(train, None, HOW)
    expected = predictor.predict(validation, HOW)
    np.testing.assert_allclose(expected, np.broadcast_to(train.target.mean(axis=0), expected.shape), rtol=1e-4)
    found = predictor.predict(validation, HOW, own_library=np.full(len(validation), -1))
    np.testing.assert_array_equal(found, expected)


def test_one_spot_is_too_few(train):
    with pytest.raises(ValueError, match="too few spots to train on \\(1\\)"):
        regression().fit(train.rows(np.array([0])), None, HOW)


# --- weights ----------------------------------------------------------------------------------------------------------


def test_weights_that_cannot_be_had(train, tmp_path, monkeypatch):
    import timm
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    message = r"shufflenetv2_x0.5-\w+.pth from https://.*into .*checkpoints.*weights='random'"
    with pytest.raises(FileNotFoundError, match=message):
        ShuffleNet(**SHORT).fit(train, None, HOW)
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, pretrained, **kw: offline() if pretrained else create(*args)
    )
    with pytest.raises(
        FileNotFoundError, match=r"model.safetensors of timm/resnet50.a1_in1k from the Hugging Face hub"
    ):
        Bleep(**SHORT).fit(train, None, HOW)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", "wrapped.pth"])
def test_weights_of_a_file(suffix, tmp_path):
    import timm

    source = timm.create_model("test_resnet")  # with its last layer
    path = tmp_path / f"weights{suffix}"
    if suffix == ".safetensors":
        save_file(source.state_dict(), path)
    else:
        torch.save({"state_dict": source.state_dict()} if "wrapped" in suffix else source.state_dict(), path)
    body = backbones.Backbone("timm:test_resnet", path)
    expected = source.state_dict()
    loaded = body.network.state_dict()
    assert len(loaded) > 50
    for name, value in loaded.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="does not hold the weights of timm:test_vit.*Give the file of that model"):
        backbones.Backbone("timm:test_vit", path)


def test_torchvisions_weights_are_downloaded_without_code(monkeypatch, tmp_path):
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    assert weights.url.startswith("https://")
    file = tmp_path / "published.pth"
    load = torch.hub.load_state_dict_from_url

    def from_file(url, **options):
        assert url == weights.url
        assert options.pop("check_hash")
        return load(file.as_uri(), **options)

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", from_file)
    state = torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict()
    torch.save(state, file)
    body = backbones.Backbone("torchvision:shufflenet_v2_x0_5", "pretrained")
    for name, value in body.network.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=0)
    (tmp_path / "hub" / "checkpoints" / "published.pth").unlink()
    torch.save({**state, "conv1.0.weight": Harmful()}, file)
    with pytest.raises(pickle.UnpicklingError, match="Weights only load failed"):
        backbones.Backbone("torchvision:shufflenet_v2_x0_5", "pretrained")


def test_torchvisions_old_file_of_densenet(tmp_path):
    import torchvision

    source = torchvision.models.densenet121(weights=None)
    old = {
        name.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in name
        else name: value
        for name, value in source.state_dict().items()
        if not name.endswith("num_batches_tracked")  # later than the file, too
    }
    torch.save(old, tmp_path / "densenet121.pth")
    loaded = backbones.Backbone("torchvision:densenet121", tmp_path / "densenet121.pth").network.state_dict()
    for name, value in loaded.items():
        torch.testing.assert_close(value, source.state_dict()[name], rtol=0, atol=0)


class Harmful:
    def __reduce__(self):
        raise_error = AssertionError
        return raise_error, ("code of a file was run",)


def test_files_that_hold_no_weights(tmp_path):
    def load(name):
        return backbones.Backbone("timm:test_resnet", tmp_path / name)

    with pytest.raises(FileNotFoundError, match="is no file: weights is 'pretrained', 'random' or a file"):
        load("absent.pth")
    (tmp_path / "pickled.pth").write_bytes(pickle.dumps({"conv1.weight": Harmful()}))
    torch.save({"conv1.weight": Harmful()}, tmp_path / "harmful.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    save_file(backbones.Backbone("timm:test_resnet", "random").network.state_dict(), tmp_path / "cut.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "cut.safetensors").read_bytes()[:-99])
    for name in ("pickled.pth", "harmful.pth", "list.pth", "cut.safetensors"):
        with pytest.raises(ValueError, match=name):
            load(name)


@pytest.mark.parametrize("name", ["resnet10t", "keras:resnet50", "timm:", "timm:no_such", "torchvision:resnet50x"])
def test_backbones_that_do_not_exist(name):
    with pytest.raises(ValueError, match="there is no backbone|has no model|no image classifier"):
        backbones.Backbone(name, "random")


@pytest.mark.parametrize("name", ["shufflenet_v2_x0_5", "resnet18", "mobilenet_v3_small"])
def test_features_of_torchvision_are_what_the_last_layers_take(name):
    import torchvision

    body = backbones.Backbone(f"torchvision:{name}", "random").eval()
    whole = torchvision.models.get_model(name, weights=None).eval()
    head = next(head for head in ("fc", "classifier") if hasattr(whole, head))
    whole.load_state_dict({**whole.state_dict(), **body.network.state_dict()})
    images = 255 * torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = body(images)
        torch.testing.assert_close(getattr(whole, head)(features), whole(body.normalise(images)))
    assert features.shape == (2, body.n_features)


@pytest.mark.parametrize("model", [ShuffleNet, STNet])
def test_networks_of_the_benchmark_run(model, train):
    predictor = model(weights="random", n_steps=1, train_batch_size=2)
    predictor.fit(train, None, HOW)
    some = train.rows(np.arange(2))
    again = model.from_state(*predictor.state())
    np.testing.assert_array_equal(again.predict(some, HOW), predictor.predict(some, HOW))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@every_model
def test_on_a_gpu(make, train, validation, tmp_path):
    how = replace(HOW, device=torch.device("cuda"), checkpoint=tmp_path / "state")
    predictor = make(n_steps=6)
    predictor.fit(train, validation, how)
    on_cpu = type(predictor).from_state(*predictor.state()).predict(validation, HOW)
    np.testing.assert_allclose(predictor.predict(validation, how), on_cpu, rtol=0.1, atol=0.1)
