"""_models/prediction/backbones."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING
from urllib.error import URLError

import pytest
import torch
from safetensors.torch import save_file

from helpers.networks import COMPUTE, SHORT, make_spots
from spared_sc._models.prediction import backbones
from spared_sc._models.prediction.bleep import Bleep
from spared_sc._models.prediction.image_regression import ShuffleNet

if TYPE_CHECKING:
    from spared_sc._models.prediction.spots import Spots


@pytest.fixture
def train() -> Spots:
    return make_spots()


def test_weights_that_cannot_be_had(train, tmp_path, monkeypatch):
    import timm
    import torchvision

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    message = r"shufflenetv2_x0.5-\w+.pth from https://.*into .*checkpoints.*weights='random'"
    with pytest.raises(FileNotFoundError, match=message):
        ShuffleNet(**SHORT).fit(train, None, COMPUTE)
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *args, pretrained, **kw: offline() if pretrained else create(*args)
    )
    with pytest.raises(
        FileNotFoundError, match=r"model.safetensors of timm/resnet50.a1_in1k from the Hugging Face hub"
    ):
        Bleep(**SHORT).fit(train, None, COMPUTE)


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


def test_pretrained_weights_of_a_package():
    from spared_sc._models.encoders import load_encoder

    body = backbones.Backbone("timm:tf_efficientnet_lite0", "pretrained").eval()
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    features = body(images.float())
    expected = load_encoder("efficientnet-lite0", device="cpu").embed(images.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(features.detach(), torch.from_numpy(expected), rtol=1e-4, atol=1e-4)
    features.sum().backward()  # the network can be trained
    assert all(value.grad.isfinite().all() for value in body.parameters())


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
