"""Image networks whose last layer gives expression: ShuffleNet, ViT-B and STNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from spared_sc._models.prediction.augment import N_SYMMETRIES, symmetry
from spared_sc._models.prediction.backbones import Backbone
from spared_sc._models.prediction.networks import NetworkPredictor, Targets
from spared_sc._models.training import mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._models.prediction.base import Spots

_SPARED = "as in SpaRED (Ruiz et al. 2025)"


class RegressionNet(nn.Module):
    """Backbone and linear layer."""

    def __init__(self, backbone: str, weights: str | Path, n_genes: int) -> None:
        super().__init__()
        self.n_genes = n_genes
        self.body = Backbone(backbone, weights)
        self.head = nn.Linear(self.body.n_features, n_genes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with mixed_precision(images.device):
            features = self.body(images)
        return self.head(features.float())


@dataclass(kw_only=True, eq=False)
class ImageRegression(NetworkPredictor):
    """Any image network with a linear layer, trained by the mean squared error; other parameters as `NetworkPredictor`.

    Parameters
    ----------
    backbone
        `"torchvision:<model>"` or `"timm:<model>"`.
    start_at_mean
        Whether the network starts as that mean: last weights zero, bias the mean.
    symmetries
        Whether a prediction is the mean over the eight symmetries of the patch.
    """

    name: ClassVar[str] = "image_regression"
    paper: ClassVar[str] = _SPARED
    backbone: str = "torchvision:shufflenet_v2_x0_5"
    start_at_mean: bool = False
    symmetries: bool = False

    def make_network(self, n_genes: int, weights: str | Path) -> RegressionNet:
        """The network before training."""
        return RegressionNet(self.backbone, weights, n_genes)

    def _start(self, network: RegressionNet, train: Spots) -> None:
        if self.start_at_mean:
            with torch.no_grad():
                network.head.weight.zero_()
                network.head.bias.copy_(torch.as_tensor(train.gene_means()))

    def _loss(self, network: RegressionNet, images: torch.Tensor, rows: torch.Tensor, targets: Targets) -> torch.Tensor:
        return targets.mse(network(images))

    def _output(
        self, network: RegressionNet, images: torch.Tensor, spots: Spots, own: torch.Tensor | None
    ) -> torch.Tensor:
        if not self.symmetries:
            return network(images)
        return sum(network(symmetry(images, code)) for code in range(N_SYMMETRIES)) / N_SYMMETRIES


@dataclass(kw_only=True, eq=False)
class ShuffleNet(ImageRegression):
    """ShuffleNetV2 of half width; parameters as `ImageRegression`."""

    name: ClassVar[str] = "shufflenet"
    paper: ClassVar[str] = f"Ma et al. (2018), {_SPARED}"
    pretrained: ClassVar[str] = "torchvision shufflenet_v2_x0_5 IMAGENET1K_V1 (BSD-3-Clause)"
    learning_rate: float | str = 1e-3


@dataclass(kw_only=True, eq=False)
class ViT(ImageRegression):
    """ViT-B/16; parameters as `ImageRegression`."""

    name: ClassVar[str] = "vit_b"
    paper: ClassVar[str] = f"Dosovitskiy et al. (2021), {_SPARED}"
    pretrained: ClassVar[str] = "torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)"
    backbone: str = "torchvision:vit_b_16"
    image_size: int | None = 224


@dataclass(kw_only=True, eq=False)
class ViTDelta(ViT):
    """ViT-B/16 that learns deviations from the training mean; parameters as `ImageRegression`."""

    name: ClassVar[str] = "vit_b_delta"
    delta: bool = True


@dataclass(kw_only=True, eq=False)
class STNet(ImageRegression):
    """DenseNet-121 that starts as the mean expression and averages eight symmetries; parameters as `ImageRegression`."""

    name: ClassVar[str] = "stnet"
    paper: ClassVar[str] = f"He et al. (2020), trained {_SPARED}"
    pretrained: ClassVar[str] = "torchvision densenet121 IMAGENET1K_V1 (BSD-3-Clause)"
    backbone: str = "torchvision:densenet121"
    start_at_mean: bool = True
    symmetries: bool = True
