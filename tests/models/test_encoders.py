"""_models/encoders."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

from helpers.encoders import TINY, small, smooth, tiny
from spared_sc._core.settings import settings
from spared_sc._models.encoder_base import Encoder
from spared_sc._models.encoder_cards import CARDS
from spared_sc._models.encoders import check_resolution, embed_all, load_encoder

if TYPE_CHECKING:
    from spared_sc._models import encoders


@pytest.fixture
def patches() -> np.ndarray:
    """Smooth colours with some noise, unlike each other."""
    return smooth(7, 48)


def test_without_timm_the_error_says_what_there_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm.*'classical', 'shufflenet_v2_x0_5'"):
        load_encoder("resnet18", weights="random")
    assert load_encoder("shufflenet_v2_x0_5", weights="random", device="cpu").dim == 1024


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "test_convnext"])
@pytest.mark.parametrize("side", ["equal", "smaller", "larger"])
def test_timm_models_see_what_timms_own_transform_shows_them(name, side):
    encoder = small(name)
    config = timm.data.resolve_model_data_config(encoder.network) | {"crop_pct": 1.0}
    size = config["input_size"][1]
    assert encoder.card.input_size == size
    images = smooth(3, {"equal": size, "smaller": size // 3, "larger": size * 2 + 5}[side])
    transform = timm.data.create_transform(**config, is_training=False)
    expected = torch.stack([transform(Image.fromarray(image)) for image in images])
    pixels = encoder._prepared(torch.from_numpy(images))
    # Pillow rounds to whole grey levels, and cuts off what overshoots, after each of its two passes.
    levels = (pixels - expected).abs() * torch.tensor(config["std"])[:, None, None] * 255
    assert levels.max() < (1e-3 if side == "equal" else 2)
    assert levels.mean() < 0.5
    with torch.inference_mode():
        reference = encoder.network(expected).numpy()
    features = encoder.embed(images)
    assert features.dtype == np.float32
    assert features.shape == reference.shape == (3, encoder.dim)
    assert np.abs(features - reference).max() < (1e-5 if side == "equal" else 0.05) * np.abs(reference).max()


@pytest.mark.parametrize("side", [224, 100])
def test_shufflenet_is_torchvisions(side):
    encoder = load_encoder("shufflenet_v2_x0_5", weights="random", device="cpu")
    network = shufflenet_v2_x0_5(weights=None).eval()
    network.fc = torch.nn.Identity()
    network.load_state_dict(encoder.network.state_dict())
    transform = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.transforms(crop_size=224, resize_size=224)
    images = smooth(3, side)
    values = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        expected = network(values).numpy()
    assert encoder.dim == expected.shape[1] == 1024
    assert np.abs(encoder.embed(images) - expected).max() < (1e-5 if side == 224 else 0.02) * np.abs(expected).max()


def test_class_token_and_mean_of_the_patch_tokens(patches):
    options = {**TINY.options, "reg_tokens": 3, "global_pool": ""}
    encoder = tiny(replace(TINY, pooling="cls+mean", dim=64, options=options))
    seen = []
    encoder.network.norm.register_forward_hook(lambda module, inputs, output: seen.append(output.numpy()))
    features = encoder.embed(patches)
    tokens = np.concatenate(seen)
    assert tokens.shape == (7, 1 + 3 + 4, 32)
    assert np.allclose(features, np.hstack([tokens[:, 0], tokens[:, 4:].sum(axis=1) / 4]), atol=1e-6)


def test_results_do_not_depend_on_the_batch(patches):
    encoder = small()
    whole = encoder.embed(patches)
    single = np.concatenate([encoder.embed(patch[None]) for patch in patches])
    assert np.abs(whole - single).max() < 1e-6 * np.abs(whole).max() + 1e-6
    assert np.array_equal(encoder.embed(patches), whole)
    assert encoder.embed(patches[:0]).shape == (0, encoder.dim)


def test_patches_may_be_read_only_and_strided(patches):
    encoder = tiny()
    expected = encoder.embed(patches[::2])
    frozen = np.flip(np.flip(patches, axis=2).copy(), axis=2)
    frozen.flags.writeable = False
    assert np.array_equal(encoder.embed(frozen[::2]), expected)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 8, 8, 3)),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((2, 0, 8, 3), "u1"),
    ],
)
def test_what_is_no_patch_is_refused(wrong):
    with pytest.raises(ValueError, match="uint8 pixels of shape"):
        tiny().embed(wrong)


def test_mixed_precision_is_asked_for(patches):
    encoder = tiny()
    exact = encoder.embed(patches)
    with settings.override(mixed_precision=True):
        rounded = encoder.embed(patches)
    error = np.abs(rounded - exact).max()
    assert rounded.dtype == np.float32
    assert 0 < error < 0.05 * np.abs(exact).max()


def test_random_weights_follow_their_seed_and_leave_the_global_state(patches):
    state = torch.get_rng_state()
    first, again, other = (
        load_encoder("test_vit", weights="random", device="cpu", random_state=seed) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(first.embed(patches), again.embed(patches))
    assert not np.allclose(first.embed(patches), other.embed(patches))
    assert first.identity() == again.identity()
    assert first.identity()["parameters"] != other.identity()["parameters"]
    assert first.identity()["weights"] == "random, seed 0"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(patches):
    expected = small("resnet18").embed(patches)
    encoder = load_encoder("resnet18", weights="random", device="cuda")
    assert next(encoder.network.parameters()).is_contiguous(memory_format=torch.channels_last)
    with settings.override(mixed_precision=False):
        assert np.abs(encoder.embed(patches) - expected).max() < 1e-3 * np.abs(expected).max()
    assert np.abs(encoder.embed(patches) - expected).max() < 0.05 * np.abs(expected).max()


def test_the_classical_encoder_is_its_function(monkeypatch, patches):
    def means(batch: np.ndarray) -> np.ndarray:
        return batch.reshape(len(batch), -1, 3).mean(axis=1, dtype=np.float32)

    monkeypatch.setitem(sys.modules, "spared_sc._images.features", SimpleNamespace(classical=means))
    encoder = load_encoder("classical")
    assert encoder.dim == 3
    assert encoder.card.input_size is None
    assert np.array_equal(embed_all(encoder, Reader(patches), batch_size=2), means(patches))
    assert encoder.identity()["name"] == "classical"
    with pytest.raises(ValueError, match="'classical' has no weights: leave out weights='random'"):
        load_encoder("classical", weights="random")


def limited(encoder: encoders.Encoder, most: int) -> list[int]:
    """Let an encoder run out of memory above some batch size; the sizes that were tried."""
    forward, tried = encoder._forward, []

    def stand_in(batch):
        tried.append(len(batch))
        if len(batch) > most:
            raise torch.cuda.OutOfMemoryError("stand-in")
        return forward(batch)

    encoder._forward = stand_in
    return tried


def test_batches_are_halved_when_memory_runs_out(patches):
    encoder = tiny()
    expected = encoder.embed(patches)
    tried = limited(encoder, 2)
    assert np.allclose(encoder.embed(patches), expected, atol=1e-6)
    assert tried == [7, 3, 1, *[1] * 6]
    del tried[:]
    encoder.embed(patches[:3])
    assert tried == [1, 1, 1]  # what does not fit is not tried again


def test_one_patch_that_does_not_fit_is_an_error(patches):
    encoder = tiny()
    limited(encoder, 0)
    with pytest.raises(MemoryError, match="not even one patch.*'tiny'.*device='cpu'"):
        encoder.embed(patches)


@dataclass
class Reader:
    """Patches in memory that remembers who read them, and fails on demand."""

    pixels: np.ndarray
    fail_at: int = -1
    threads: set[str] = field(default_factory=set)
    n_read: int = 0

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, rows: np.ndarray) -> np.ndarray:
        self.threads.add(threading.current_thread().name)
        if self.fail_at in rows:
            raise OSError("the image is gone")
        self.n_read += len(rows)
        return self.pixels[rows]


def reading() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("patches")]


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100, None])
def test_patches_are_streamed(patches, batch_size):
    encoder = tiny()
    reader = Reader(patches)
    features = embed_all(encoder, reader, batch_size=batch_size)
    assert np.allclose(features, encoder.embed(patches), atol=1e-6)
    assert reader.n_read == len(patches)
    assert threading.current_thread().name not in reader.threads
    assert len(reader.threads) == 1
    assert not reading()


@pytest.mark.parametrize("make", [tiny, lambda: load_encoder("classical")], ids=["network", "classical"])
def test_features_do_not_depend_on_threads(make, patches, monkeypatch):
    encoder, many = make(), np.concatenate([patches, patches[::-1]])
    one, two, three = (embed_all(encoder, Reader(many), n_threads=n) for n in (1, 2, 3))
    assert np.array_equal(one, two)
    assert np.array_equal(one, three)


def test_threads_embed_side_by_side(patches):
    both = threading.Barrier(2, timeout=60)

    class Waiting(Encoder):
        chunk = 1

        def _embed(self, batch):
            both.wait()
            assert torch.get_num_threads() == 1
            return np.zeros((len(batch), self.dim), np.float32)

    embed_all(Waiting(tiny().card, dim=2, weights=""), Reader(patches[:2]), n_threads=2)


def test_no_patches_no_features():
    assert embed_all(tiny(), Reader(smooth(1, 8)[:0])).shape == (0, 32)


def test_no_more_than_one_batch_is_read_ahead(patches):
    encoder, reader, ahead = tiny(), Reader(patches), []
    embed = encoder.embed

    def slow(batch):
        time.sleep(0.02)  # whoever reads without end gets far ahead
        ahead.append(reader.n_read - len(batch) - sum(done))
        done.append(len(batch))
        return embed(batch)

    done: list[int] = []
    encoder.embed = slow
    embed_all(encoder, reader, batch_size=1)
    assert len(ahead) == 7
    assert max(ahead) == 1


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ValueError])
def test_an_interrupt_ends_the_reading_too(patches, kind):
    encoder, reader = tiny(), Reader(patches)
    calls = []

    def interrupted(batch):
        calls.append(len(batch))
        if len(calls) == 2:
            raise kind
        return np.zeros((len(batch), 32), np.float32)

    encoder.embed = interrupted
    with pytest.raises(kind):
        embed_all(encoder, reader, batch_size=2)
    assert not reading()
    assert reader.n_read < len(patches)


def test_an_error_of_the_reader_is_the_callers(patches):
    with pytest.raises(OSError, match="the image is gone"):
        embed_all(tiny(), Reader(patches, fail_at=5), batch_size=2)
    assert not reading()


def test_foundation_encoders_refuse_what_holds_no_cells():
    with pytest.raises(ValueError, match=r"17 pixels a side .*3.2 um wide.*'uni' expects 224 .*0.5 um.*force=True"):
        check_resolution(CARDS["uni"], 17, 3.2)
    with pytest.raises(ValueError, match="3.2 um wide"):
        check_resolution(CARDS["uni"], 224, 3.2)  # large patches of a hires image
    with pytest.raises(ValueError, match="55.9 pixels a side"):
        check_resolution(CARDS["kaiko-vits16"], 55.9, 0.25)  # no scale is known of it
    with pytest.warns(UserWarning, match="17 pixels a side in the image.*full-resolution image"):
        check_resolution(CARDS["uni"], 17, 3.2, force=True)


def test_other_encoders_warn():
    with pytest.warns(UserWarning, match="17 pixels a side"):
        check_resolution(CARDS["shufflenet_v2_x0_5"], 17)
    with pytest.warns(UserWarning, match="expects 32 pixels a side of 0.5 um each"):
        check_resolution(replace(TINY, source="timm", mpp=(0.5,)), 7)


def test_enough_pixels_pass_in_silence():  # warnings are errors here
    check_resolution(CARDS["uni"], 56, 1.0)
    check_resolution(CARDS["uni"], 110, float("nan"))
    check_resolution(CARDS["virchow2"], 224, 4.0)
    check_resolution(CARDS["shufflenet_v2_x0_5"], 224, 30.0)
    check_resolution(CARDS["classical"], 5, 30.0)
    check_resolution(TINY, 8, 0.5)
