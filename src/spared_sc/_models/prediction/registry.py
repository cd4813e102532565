"""Predictors by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.registry import About, Registry

if TYPE_CHECKING:
    from spared_sc._models.prediction.base import Predictor

_SPARED = "as in SpaRED (Ruiz et al. 2025)"

PREDICTORS: Registry[Predictor] = Registry(
    "predictor",
    __package__,
    About(name="gene_mean", where=".linear:GeneMean", summary="mean of the gene over the train spots"),
    About(
        name="depth_only",
        where=".linear:DepthOnly",
        needs=("log_depth",),
        summary="parabola in the log of the spot's measured total count",
    ),
    About(
        name="position_only",
        where=".linear:PositionOnly",
        needs=("position",),
        summary="polynomial of degree four in the position on the section",
    ),
    About(
        name="ridge",
        where=".linear:Ridge",
        needs=("embedding",),
        paper="Hoerl and Kennard (1970)",
        summary="ridge regression on an embedding",
    ),
    About(
        name="knn",
        where=".linear:Knn",
        needs=("embedding",),
        paper="Cover and Hart (1967)",
        summary="mean of the train spots with the nearest embeddings",
    ),
    About(
        name="shufflenet",
        where=".image_regression:ShuffleNet",
        needs=("patches",),
        paper=f"Ma et al. (2018), {_SPARED}",
        summary="ShuffleNetV2 of half width with a linear layer",
        pretrained="torchvision shufflenet_v2_x0_5 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
    About(
        name="vit_b",
        where=".image_regression:ViT",
        needs=("patches",),
        paper=f"Dosovitskiy et al. (2021), {_SPARED}",
        summary="ViT-B/16 with a linear layer",
        pretrained="torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
    About(
        name="vit_b_delta",
        where=".image_regression:ViTDelta",
        needs=("patches",),
        paper=f"Dosovitskiy et al. (2021), {_SPARED}",
        summary="ViT-B/16 that learns deviations from the training mean",
        pretrained="torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
    About(
        name="stnet",
        where=".image_regression:STNet",
        needs=("patches",),
        paper=f"He et al. (2020), trained {_SPARED}",
        summary="DenseNet-121 that starts as the mean expression and averages eight symmetries of the patch",
        pretrained="torchvision densenet121 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
    About(
        name="bleep",
        where=".bleep:Bleep",
        needs=("patches",),
        paper="Xie et al. (2023)",
        summary="contrastive embedding of patches and expression, and retrieval from the train spots",
        pretrained="timm resnet50.a1_in1k (Apache-2.0)",
    ),
    About(
        name="egn",
        where=".egn:Egn",
        needs=("patches",),
        paper="Yang et al. (2023)",
        summary="transformer over the patch, guided by similar spots of other libraries",
        pretrained="of the frozen encoder: torchvision resnet50 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
)
ANCHORS = ("gene_mean", "depth_only", "position_only")  # shown beside every score
