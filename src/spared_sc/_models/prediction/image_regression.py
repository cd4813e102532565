"""Image networks whose last layer gives expression: ShuffleNet, ViT-B and STNet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from spared_sc._core.params import parameter
from spared_sc._core.registry import About
from spared_sc._models.prediction.augment import N_SYMMETRIES, symmetry
from spared_sc._models.prediction.backbones import Backbone
from spared_sc._models.prediction.networks import GeneNetwork, SpotPredictor, rate
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.training import OPTIMIZERS, mixed_precision

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._models.prediction.batch import Batch
    from spared_sc._models.prediction.networks import Shape
    from spared_sc._models.prediction.spots import Spots


class RegressionNet(GeneNetwork):
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
class ImageRegression(SpotPredictor[RegressionNet]):
    """Any image network with a linear layer, trained by the mean squared error.

    Parameters
    ----------
    backbone
        `"torchvision:<model>"` or `"timm:<model>"`.
    start_at_mean
        Whether the network starts as the mean expression: last weights zero, bias the mean.
    symmetries
        Whether a prediction is the mean over the eight symmetries of the patch.
    """

    about: ClassVar[About] = About(
        "image_regression", f"{__name__}:ImageRegression", "image network with a linear layer", needs=("patches",)
    )
    backbone: str = "torchvision:shufflenet_v2_x0_5"
    start_at_mean: bool = parameter(False, choices=(False, True))
    symmetries: bool = parameter(False, choices=(False, True))

    def make_network(self, shape: Shape, weights: str | Path) -> RegressionNet:
        """The network before training."""
        return RegressionNet(self.backbone, weights, shape.n_genes)

    def prepare(self, network: RegressionNet, train: Spots) -> None:
        """Start at the mean, if that is wanted."""
        if self.start_at_mean:
            with torch.no_grad():
                network.head.weight.zero_()
                network.head.bias.copy_(torch.as_tensor(self.mean_output(train)))

    def output(self, network: RegressionNet, batch: Batch) -> torch.Tensor:
        """Expression of the spots; in prediction over the symmetries of the patches, if that is wanted."""
        images = batch.tokens
        total = network(images)
        if network.training or not self.symmetries:
            return total
        for code in range(1, N_SYMMETRIES):
            total = total + network(symmetry(images, code))
        return total / N_SYMMETRIES


@dataclass(kw_only=True, eq=False)
class ShuffleNet(ImageRegression):
    """ShuffleNetV2 of half width."""

    about: ClassVar[About] = PREDICTORS["shufflenet"]
    learning_rate: float | str = rate(1e-3)


@dataclass(kw_only=True, eq=False)
class ViT(ImageRegression):
    """ViT-B/16."""

    about: ClassVar[About] = PREDICTORS["vit_b"]
    backbone: str = "torchvision:vit_b_16"
    image_size: int | None = parameter(224, least=1, whole=True)


@dataclass(kw_only=True, eq=False)
class ViTDelta(ViT):
    """ViT-B/16 that learns deviations from the training mean."""

    about: ClassVar[About] = PREDICTORS["vit_b_delta"]
    delta: bool = parameter(True, choices=(False, True))


@dataclass(kw_only=True, eq=False)
class STNet(ImageRegression):
    """DenseNet-121 that averages eight symmetries of the patch, trained as SpaRED's library does."""

    about: ClassVar[About] = PREDICTORS["stnet"]
    backbone: str = "torchvision:densenet121"
    symmetries: bool = parameter(True, choices=(False, True))


@dataclass(kw_only=True, eq=False)
class STNetHe(STNet):
    """DenseNet-121 that starts as the mean expression and averages eight symmetries, trained as by He et al. (2020).

    Notes
    -----
    He et al. sum the squared error over the 32 patches of a batch, at a rate of 1e-6; here it is a mean, at 32 times that
    rate, which gives the same steps. 8,000 steps of 32 patches see as many patches as the 1,000 steps of the other models.
    """

    about: ClassVar[About] = PREDICTORS["stnet_he"]
    start_at_mean: bool = parameter(True, choices=(False, True))
    n_steps: int = parameter(8000, least=1, whole=True)
    train_batch_size: int = parameter(32, least=1, whole=True)
    learning_rate: float | str = rate(3.2e-5)
    optimizer: str = parameter("sgd", choices=OPTIMIZERS)
    validate_every: int = parameter(80, least=1, whole=True)
