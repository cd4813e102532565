"""Image networks without their last layer, and their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from spared_sc._models.encoder_cards import CARDS
from spared_sc._models.encoder_weights import HEADS, load, read_weights
from spared_sc._models.encoder_weights import pretrained as pretrained_network

PRETRAINED = "pretrained"
RANDOM = "random"
_MEAN, _SD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, red green blue


class Normalise(nn.Module):
    """Images of values 0 to 255 to channels of about mean 0 and standard deviation 1."""

    mean: torch.Tensor
    sd: torch.Tensor

    def __init__(self, mean: tuple[float, ...] = _MEAN, sd: tuple[float, ...] = _SD) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("sd", 255 * torch.tensor(sd)[:, None, None], persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self.mean) / self.sd


class Backbone(nn.Module):
    """Features (n, n_features) of images (n, 3, side, side) of values 0 to 255.

    `name` is `"torchvision:<model>"` or `"timm:<model>"`; `weights` is `"pretrained"`, `"random"`, or a file
    (.safetensors, or .pth of tensors only). `normalise` replaces the normalisation that belongs to the weights.
    """

    def __init__(self, name: str, weights: str | Path, normalise: Normalise | None = None) -> None:
        super().__init__()
        library, _, model = name.partition(":")
        make = {"torchvision": _torchvision, "timm": _timm}.get(library)
        if make is None or not model:
            raise ValueError(f"there is no backbone {name!r}: give 'torchvision:<model>' or 'timm:<model>'.")
        self.network, self.n_features, usual = make(model, str(weights) == PRETRAINED)
        self.normalise = normalise or usual
        if str(weights) not in (PRETRAINED, RANDOM):
            path = Path(weights).expanduser()
            load(self.network, read_weights(path), name, str(path))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(self.normalise(images))


def _torchvision(name: str, pretrained: bool) -> tuple[nn.Module, int, Normalise]:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise ValueError(
            f"torchvision has no image classifier {name!r}; choose one that `torchvision.models.list_models()` lists."
        )
    chosen = models.get_model_weights(name)["IMAGENET1K_V1"] if pretrained else None
    try:
        if chosen is not None:
            # Torchvision reads the file in a way that could run code; here it is refused if it holds any.
            chosen.get_state_dict(progress=False, check_hash=True, weights_only=True)
        network = models.get_model(name, weights=chosen, progress=False)
    except (OSError, RuntimeError) as error:
        if chosen is None:
            raise
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"the ImageNet weights of {name} are not on this machine and cannot be downloaded ({error}): put "
            f"{chosen.url.rpartition('/')[2]} from {chosen.url} into {folder}, or give `weights=` the path of that file. "
            f"weights={RANDOM!r} starts from untrained weights."
        ) from error
    last = next(head for head in HEADS if hasattr(network, head))
    n_features = next(part.in_features for part in getattr(network, last).modules() if isinstance(part, nn.Linear))
    setattr(network, last, nn.Identity())
    return network, n_features, Normalise()


def _timm(name: str, pretrained: bool) -> tuple[nn.Module, int, Normalise]:
    import timm

    if not timm.is_model(name):
        raise ValueError(f"timm has no model {name!r}; choose one that `timm.list_models()` lists.")
    packaged = next((card for card in CARDS.values() if card.package and card.architecture == name), None)
    try:
        if pretrained and packaged is not None:
            network, _ = pretrained_network(packaged)
        else:
            network = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        hub = getattr(timm.models.get_pretrained_cfg(name), "hf_hub_id", None) or "timm"
        raise FileNotFoundError(
            f"the pretrained weights of {name} are not on this machine and cannot be downloaded ({error}): fetch "
            f"model.safetensors of {hub} from the Hugging Face hub (into its cache, or anywhere and give `weights=` "
            f"its path). weights={RANDOM!r} starts from untrained weights."
        ) from error
    made: Any = network  # timm's attributes are not typed
    return network, made.head_hidden_size, Normalise(made.pretrained_cfg["mean"], made.pretrained_cfg["std"])
