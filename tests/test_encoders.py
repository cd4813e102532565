"""Image encoders: the same features as by their authors' own pipelines, and errors that say what to do."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import errors
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

import spared_sc as sp
from spared_sc._core.settings import settings
from spared_sc._models import encoder_weights, encoders
from spared_sc._models.encoder_cards import CARDS, EncoderCard, list_encoders
from spared_sc._models.encoders import check_resolution, embed_all, get_card, load_encoder

if TYPE_CHECKING:
    from pathlib import Path

CPU = torch.device("cpu")
FOUNDATION = [card.name for card in CARDS.values() if card.foundation]
# Millions of parameters, as LazySlide's registry states them (Midnight's with a larger table of positions than is used).
PUBLISHED = {
    "uni": 303.4,
    "uni2-h": 681.4,
    "virchow": 631.2,
    "virchow2": 631.2,
    "h-optimus-0": 1130,
    "h-optimus-1": 1130,
    "prov-gigapath": 1130,
    "phikon": 85.8,
    "phikon-v2": 303.4,
    "midnight-12k": 1140,
}
TINY = EncoderCard(
    name="tiny",
    source="hub",
    dim=32,
    input_size=32,
    hub="somebody/tiny",
    architecture="vit_tiny_patch16_224",
    options={"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "init_values": 0.1},
    licence="none",
    citation="none",
)


pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def patches() -> np.ndarray:
    """Smooth colours with some noise, unlike each other."""
    return smooth(7, 48)


def smooth(n: int, side: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    fine = [np.asarray(Image.fromarray(patch).resize((side, side), Image.Resampling.BICUBIC)) for patch in coarse]
    return np.stack(fine)


def small(name: str = "vit_tiny_patch16_224") -> encoders.Encoder:
    return load_encoder(name, weights="random", device="cpu")


def tiny(card: EncoderCard = TINY, seed: int = 0) -> encoders.Encoder:
    torch.manual_seed(seed)
    return encoders._Network(card, encoder_weights.build(card), dim=card.dim, device=CPU, weights="")


# The table


def test_every_entry_says_what_one_has_to_know():
    rows = {row["name"]: row for row in list_encoders()}
    assert {"classical", "shufflenet_v2_x0_5", "uni", "uni2-h", "virchow2", "midnight-12k"} <= set(rows)
    for name, row in rows.items():
        assert row["licence"], name
        assert row["citation"], name
        assert get_card(name.upper()) is CARDS[name]
    for name in FOUNDATION:
        assert CARDS[name].verified, name
        assert rows[name]["hub"].count("/") == 1
        assert rows[name]["input_size"] == 224


@pytest.mark.parametrize("name", FOUNDATION)
def test_foundation_encoders_have_the_architecture_that_they_say(name):
    card = CARDS[name]
    with torch.device("meta"):
        network = encoder_weights.build(card)
        encoder = encoders._Network(card, network, dim=card.dim, device=torch.device("meta"), weights="")
        features = encoder._pooled(torch.empty(2, 3, card.input_size, card.input_size))
    assert features.shape == (2, card.dim)
    if name in PUBLISHED:
        assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PUBLISHED[name], rel=6e-3)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no encoder 'resnet19'.*'classical'.*timm.list_models"):
        load_encoder("resnet19", weights="random")
    with pytest.raises(ValueError, match="no encoder 'resnet18.foo'"):  # there is a resnet18
        get_card("resnet18.foo")
    with pytest.raises(ValueError, match="encoder=3 cannot be used"):
        load_encoder(3)
    with pytest.raises(ValueError, match="timm has no weights for 'botnet50ts_256'"):
        load_encoder("botnet50ts_256", device="cpu")


def test_without_timm_the_error_says_what_there_is(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm.*'classical', 'shufflenet_v2_x0_5'"):
        load_encoder("resnet18", weights="random")
    assert load_encoder("shufflenet_v2_x0_5", weights="random", device="cpu").dim == 1024


# Features


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_050", "test_convnext"])
@pytest.mark.parametrize("side", ["equal", "smaller", "larger"])
def test_timm_models_see_what_timms_own_transform_shows_them(name, side):
    encoder = small(name)
    config = timm.data.resolve_model_data_config(encoder.network) | {"crop_pct": 1.0}
    size = config["input_size"][1]
    assert encoder.input_size == size
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
    assert encoder.input_size is None
    assert np.array_equal(embed_all(encoder, Reader(patches), batch_size=2), means(patches))
    assert encoder.identity()["name"] == "classical"
    with pytest.raises(ValueError, match="'classical' has no weights: leave out weights='random'"):
        load_encoder("classical", weights="random")


# Memory, streaming, interrupts


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


# Files


def full_resnet(**options) -> dict[str, torch.Tensor]:
    """With the classifier that published files have."""
    return timm.create_model("test_resnet", **options).state_dict()


@pytest.mark.parametrize("kind", ["safetensors", "pth", "bin", "wrapped"])
def test_local_files_are_loaded(tmp_path, patches, kind):
    torch.manual_seed(5)
    state = full_resnet()
    assert "fc.weight" in state
    path = tmp_path / f"weights.{'pth' if kind == 'wrapped' else kind}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 3} if kind == "wrapped" else state, path)
    encoder = load_encoder("test_resnet", weights=path, device="cpu")
    network = timm.create_model("test_resnet", num_classes=0).eval()
    network.load_state_dict({name: value for name, value in state.items() if not name.startswith("fc.")})
    with torch.inference_mode():
        expected = network(encoder._prepared(torch.from_numpy(patches))).numpy()
    assert np.array_equal(encoder.embed(patches), expected)
    identity = encoder.identity()
    assert identity["weights"] == path.name
    assert (
        identity["parameters"] == load_encoder("test_resnet", weights=str(path), device="cpu").identity()["parameters"]
    )
    assert identity["parameters"] != small("test_resnet").identity()["parameters"]


class Code:
    """What a file may do when everything in it is believed."""

    def __reduce__(self):
        return (print, ("code of the file runs",))


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_damaged_files_are_refused(tmp_path, kind, damage):
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save(full_resnet(), path)
    else:
        save_file(full_resnet(), path)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "other": b"an image, perhaps"}[damage])
    with pytest.raises(ValueError, match=r"weights\..* is damaged, cut short, or no file of tensors .*again"):
        load_encoder("test_resnet", weights=path, device="cpu")


def test_code_in_a_file_is_not_run(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({**full_resnet(), "fc.weight": Code()}, path)
    with pytest.raises(ValueError, match="more than tensors.*could run code.*safetensors"):
        load_encoder("test_resnet", weights=path, device="cpu")
    assert not capsys.readouterr().out


def test_files_of_another_network_say_what_differs(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = full_resnet()
    kernel = state["conv1.0.weight"]
    save_file({name: value for name, value in state.items() if name != "conv1.0.weight"}, path)
    with pytest.raises(ValueError, match=r"'test_resnet'.*1 are missing \('conv1.0.weight'\)\. Give"):
        load_encoder("test_resnet", weights=path, device="cpu")
    save_file({**state, "extra": torch.zeros(2), "conv1.0.weight": kernel[:-1].contiguous()}, path)
    with pytest.raises(ValueError, match=r"1 are unknown \('extra'\); 1 have another shape \('conv1.0.weight \("):
        load_encoder("test_resnet", weights=path, device="cpu")
    with pytest.raises(ValueError, match=r"'uni', vit_large_patch16_224 \(.* are missing .* are unknown"):
        load_encoder("uni", weights=path, device="cpu")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="no table of tensors by name"):
        load_encoder("test_resnet", weights=tmp_path / "list.pth", device="cpu")
    with pytest.raises(FileNotFoundError, match="nowhere.pth is no file: weights is 'pretrained', 'random' or a file"):
        load_encoder("test_resnet", weights=tmp_path / "nowhere.pth", device="cpu")


# The hub


def hub(monkeypatch, tmp_path: Path | None = None, state=None, file="model.safetensors", error=None) -> list[str]:
    """A stand-in for the hub: one repository with one file, or an error; the files that were asked for."""
    asked = []

    def download(repository, name):
        asked.append(name)
        if error is not None:
            raise error
        if name != file:
            raise errors.EntryNotFoundError(f"no {name} in {repository}")
        folder = tmp_path / "snapshots" / "0123abcd"
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state, folder / name) if name.endswith("safetensors") else torch.save(state, folder / name)
        return str(folder / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def refusal(kind: type, status: int) -> Exception:
    """An error of the hub's, without the answer of a server that it comes with."""
    error = kind.__new__(kind, "refused")
    error.response = SimpleNamespace(status_code=status)
    return error


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_weights_from_the_hub(monkeypatch, tmp_path, patches, file):
    expected = tiny(seed=3)
    asked = hub(monkeypatch, tmp_path, expected.network.state_dict(), file)
    monkeypatch.setattr(encoders, "CARDS", {"tiny": TINY})
    encoder = load_encoder("tiny", device="cpu")
    assert asked[-1] == file
    assert encoder.weights == "somebody/tiny@0123abcd"
    assert np.array_equal(encoder.embed(patches), expected.embed(patches))
    assert encoder.identity()["parameters"] == expected.identity()["parameters"]


def test_weights_in_half_precision_compute_in_single(monkeypatch, tmp_path, patches):
    state = {name: value.half() for name, value in tiny(seed=3).network.state_dict().items()}
    hub(monkeypatch, tmp_path, state)
    monkeypatch.setattr(encoders, "CARDS", {"tiny": TINY})
    encoder = load_encoder("tiny", device="cpu")
    assert {p.dtype for p in encoder.network.parameters()} == {torch.float32}
    assert np.allclose(encoder.embed(patches), tiny(seed=3).embed(patches), atol=0.02)


@pytest.mark.parametrize(
    "error",
    [
        errors.LocalEntryNotFoundError("offline"),
        errors.OfflineModeIsEnabled("offline"),
        refusal(errors.RepositoryNotFoundError, 404),
    ],
)
def test_offline_the_error_names_file_page_and_cache(monkeypatch, error):
    hub(monkeypatch, error=error)
    with pytest.raises(ConnectionError, match="'phikon' are not on this machine") as caught:
        load_encoder("phikon", device="cpu")
    for part in ("model.safetensors", "pytorch_model.bin", "https://huggingface.co/owkin/phikon", "weights='path"):
        assert part in str(caught.value)
    assert str(huggingface_hub.constants.HF_HUB_CACHE) in str(caught.value)


@pytest.mark.parametrize("error", [refusal(errors.GatedRepoError, 403), refusal(errors.HfHubHTTPError, 401)])
def test_gated_weights_say_how_to_get_access(monkeypatch, error):
    hub(monkeypatch, error=error)
    with pytest.raises(PermissionError, match="ask for it on that page") as caught:
        load_encoder("UNI2-h", device="cpu")
    for part in ("https://huggingface.co/MahmoodLab/UNI2-h", "huggingface-cli login", "HF_TOKEN", "CC-BY-NC-ND-4.0"):
        assert part in str(caught.value)


def test_timm_models_offline(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise errors.LocalEntryNotFoundError("offline")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ConnectionError, match=r"'resnet18'.*https://huggingface.co/timm/resnet18.a1_in1k"):
        load_encoder("resnet18", device="cpu")


def test_torchvision_offline_and_online(monkeypatch, patches):
    state = shufflenet_v2_x0_5(weights=None).state_dict()
    answer: list = [OSError("no route to host")]

    def download(url, **options):
        assert options["weights_only"]
        assert options["check_hash"]
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    url = "https://download.pytorch.org/models/shufflenetv2_x0.5-f707e7126e.pth"
    with pytest.raises(ConnectionError, match=f"no route to host.*{url}.*{torch.hub.get_dir()}"):
        load_encoder("shufflenet_v2_x0_5", device="cpu")
    answer[0] = state
    encoder = load_encoder("shufflenet_v2_x0_5", device="cpu")
    assert encoder.weights == url
    for name, value in encoder.network.state_dict().items():
        assert torch.equal(value, state[name])


# transformers' files


def transformers_state(dinov2: bool, gated: bool, side: int, rng: np.random.Generator) -> dict[str, torch.Tensor]:
    """Random weights, named and shaped as in transformers' files of a ViT or a DINOv2: 2 layers, width 32."""

    def draw(*shape):
        return torch.from_numpy(rng.normal(size=shape, scale=0.3).astype(np.float32))

    def linear(name, rows, columns):
        return {f"{name}.weight": draw(rows, columns), f"{name}.bias": draw(rows)}

    def norm(name):
        return {f"{name}.weight": 1 + draw(32), f"{name}.bias": draw(32)}

    state = {"embeddings.cls_token": draw(1, 1, 32), "embeddings.position_embeddings": draw(1, side * side + 1, 32)}
    state |= {"embeddings.patch_embeddings.projection.weight": draw(32, 3, 16, 16)}
    state |= {"embeddings.patch_embeddings.projection.bias": draw(32), **norm("layernorm")}
    state |= {"embeddings.mask_token": draw(1, 32)} if dinov2 else linear("pooler.dense", 32, 32)
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        for part in ("query", "key", "value"):
            state |= linear(f"{layer}.attention.attention.{part}", 32, 32)
        state |= linear(f"{layer}.attention.output.dense", 32, 32)
        names = ("norm1", "norm2") if dinov2 else ("layernorm_before", "layernorm_after")
        state |= norm(f"{layer}.{names[0]}") | norm(f"{layer}.{names[1]}")
        if dinov2:
            state |= {f"{layer}.layer_scale1.lambda1": draw(32), f"{layer}.layer_scale2.lambda1": draw(32)}
        if gated:
            state |= linear(f"{layer}.mlp.weights_in", 96, 32) | linear(f"{layer}.mlp.weights_out", 32, 48)
        elif dinov2:
            state |= linear(f"{layer}.mlp.fc1", 128, 32) | linear(f"{layer}.mlp.fc2", 32, 128)
        else:
            state |= linear(f"{layer}.intermediate.dense", 128, 32) | linear(f"{layer}.output.dense", 32, 128)
    return state


def transformers_forward(state: dict[str, torch.Tensor], values: torch.Tensor) -> torch.Tensor:
    """Tokens (n, 1 + patches, 32) of the network that such a file describes, written out; two heads."""
    functional = torch.nn.functional
    dinov2 = "encoder.layer.0.norm1.weight" in state

    def linear(name, x):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name, x):
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    n, patches = len(values), values.unfold(2, 16, 16).unfold(3, 16, 16)  # n, 3, rows, columns, 16, 16
    kernel = state["embeddings.patch_embeddings.projection.weight"]
    x = torch.einsum("ncijhw,dchw->nijd", patches, kernel) + state["embeddings.patch_embeddings.projection.bias"]
    x = torch.cat([state["embeddings.cls_token"].expand(n, 1, 32), x.flatten(1, 2)], dim=1)
    x = x + state["embeddings.position_embeddings"]
    for layer in ("encoder.layer.0", "encoder.layer.1"):
        y = norm(f"{layer}.{'norm1' if dinov2 else 'layernorm_before'}", x)
        query, key, value = (
            linear(f"{layer}.attention.attention.{part}", y).unflatten(2, (2, 16)).transpose(1, 2)
            for part in ("query", "key", "value")
        )
        weights = (query @ key.transpose(2, 3) / 4).softmax(-1)
        y = linear(f"{layer}.attention.output.dense", (weights @ value).transpose(1, 2).flatten(2))
        x = x + y * state.get(f"{layer}.layer_scale1.lambda1", 1)
        y = norm(f"{layer}.{'norm2' if dinov2 else 'layernorm_after'}", x)
        if f"{layer}.mlp.weights_in.weight" in state:
            gate, up = linear(f"{layer}.mlp.weights_in", y).chunk(2, dim=-1)
            y = linear(f"{layer}.mlp.weights_out", functional.silu(gate) * up)
        else:
            first, second = ("mlp.fc1", "mlp.fc2") if dinov2 else ("intermediate.dense", "output.dense")
            y = linear(f"{layer}.{second}", functional.gelu(linear(f"{layer}.{first}", y)))
        x = x + y * state.get(f"{layer}.layer_scale2.lambda1", 1)
    return norm("layernorm", x)


@pytest.mark.parametrize(("dinov2", "gated"), [(False, False), (True, False), (True, True)])
def test_transformers_files_are_the_same_network(tmp_path, monkeypatch, patches, dinov2, gated):
    state = transformers_state(dinov2, gated, side=2, rng=np.random.default_rng(1))
    options = {**TINY.options, "init_values": 1.0 if dinov2 else None}
    if gated:
        options |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 3}
    card = replace(TINY, layout="transformers", options=options, pooling="cls+mean", dim=64)
    monkeypatch.setattr(encoders, "CARDS", {"tiny": card})
    path = tmp_path / "model.safetensors"
    save_file(state, path)
    encoder = load_encoder("tiny", weights=path, device="cpu")
    tokens = transformers_forward(state, encoder._prepared(torch.from_numpy(patches)))
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(dim=1)], dim=1).numpy()
    assert np.allclose(encoder.embed(patches), expected, atol=1e-4)
    del state["encoder.layer.0.attention.attention.key.weight"]
    save_file(state, path)
    with pytest.raises(ValueError, match=r"1 are missing \('blocks.0.attn.qkv.weight'\)"):
        load_encoder("tiny", weights=path, device="cpu")


def test_a_larger_table_of_positions_is_brought_to_the_grid():
    """A table that is linear in row and column stays so, at the centres of the new cells."""
    network = encoder_weights.build(TINY)
    place = (np.arange(10) + 0.5) / 10
    rows, columns = np.meshgrid(place, place, indexing="ij")
    table = np.zeros((1, 101, 32), np.float32)
    table[0, 1:, 0], table[0, 1:, 1], table[0, 0] = rows.ravel(), columns.ravel(), 7
    found = encoder_weights._from_transformers({"embeddings.position_embeddings": torch.from_numpy(table)}, network)
    positions = found["pos_embed"].numpy()
    assert positions.shape == (1, 5, 32)
    assert (positions[0, 0] == 7).all()
    assert np.allclose(positions[0, 1:, 0], [0.25, 0.25, 0.75, 0.75], atol=1e-3)
    assert np.allclose(positions[0, 1:, 1], [0.25, 0.75, 0.25, 0.75], atol=1e-3)


# Resolution


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
        check_resolution(tiny(replace(TINY, source="timm", mpp=(0.5,))), 7)


def test_enough_pixels_pass_in_silence():  # warnings are errors here
    check_resolution(CARDS["uni"], 56, 1.0)
    check_resolution(CARDS["uni"], 110, float("nan"))
    check_resolution(CARDS["virchow2"], 224, 4.0)
    check_resolution(CARDS["shufflenet_v2_x0_5"], 224, 30.0)
    check_resolution(CARDS["classical"], 5, 30.0)
    check_resolution(tiny(), 8, 0.5)


def test_encoders_are_listed():
    table = sp.tl.encoders()
    assert {"classical", "shufflenet_v2_x0_5", "uni", "midnight-12k"} <= set(table.index)
    assert (table["licence"] != "").all()
    assert table.loc["uni", "gated"]
    assert not table.loc["classical", "gated"]
