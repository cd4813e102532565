"""Predictors by name.

They need parts of `Spots`: "patches", "embedding", "position", "place", "lattice", "log_depth", "counts" (of training
spots), or "tokens", an embedding where one is named and patches otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.registry import About, Registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spared_sc._models.prediction.base import Predictor

_SPARED = "as in SpaRED (Ruiz et al. 2025)"

PREDICTORS: Registry[Predictor] = Registry(
    "predictor",
    __package__,
    About("gene_mean", ".linear:GeneMean", "mean of the gene over the train spots"),
    About(
        "depth_only",
        ".linear:DepthOnly",
        "parabola in the log of the spot's measured total count",
        needs=("log_depth",),
    ),
    About(
        "position_only",
        ".linear:PositionOnly",
        "polynomial of degree four in the position on the section",
        needs=("position",),
    ),
    About(
        "ridge",
        ".linear:Ridge",
        "ridge regression on an embedding",
        needs=("embedding",),
        paper="Hoerl and Kennard (1970)",
    ),
    About(
        "knn",
        ".linear:Knn",
        "mean of the train spots with the nearest embeddings",
        needs=("embedding",),
        paper="Cover and Hart (1967)",
    ),
    About(
        "head",
        ".head:Head",
        "linear layer, or a hidden and a linear one, on an embedding",
        needs=("embedding",),
        takes_counts=True,
    ),
    About(
        "shufflenet",
        ".image_regression:ShuffleNet",
        "ShuffleNetV2 of half width with a linear layer",
        needs=("patches",),
        paper=f"Ma et al. (2018), {_SPARED}",
        pretrained="torchvision shufflenet_v2_x0_5 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "vit_b",
        ".image_regression:ViT",
        "ViT-B/16 with a linear layer",
        needs=("patches",),
        paper=f"Dosovitskiy et al. (2021), {_SPARED}",
        pretrained="torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "vit_b_delta",
        ".image_regression:ViTDelta",
        "ViT-B/16 that learns deviations from the training mean",
        needs=("patches",),
        paper=f"Dosovitskiy et al. (2021), {_SPARED}",
        pretrained="torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "stnet",
        ".image_regression:STNet",
        "DenseNet-121 with a linear layer, averaged over eight symmetries of the patch",
        needs=("patches",),
        paper=f"He et al. (2020), {_SPARED}",
        pretrained="torchvision densenet121 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "stnet_he",
        ".image_regression:STNetHe",
        "DenseNet-121 that starts as the mean expression, averaged over eight symmetries of the patch",
        needs=("patches",),
        paper="He et al. (2020)",
        pretrained="torchvision densenet121 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "bleep",
        ".bleep:Bleep",
        "contrastive embedding of patches and expression, and retrieval from the train spots",
        needs=("tokens",),
        paper="Xie et al. (2023)",
        pretrained="timm resnet50.a1_in1k (Apache-2.0)",
    ),
    About(
        "egn",
        ".egn:Egn",
        "transformer over the patch, guided by similar spots of other libraries",
        needs=("tokens",),
        paper="Yang et al. (2023)",
        pretrained="of the frozen encoder: torchvision resnet50 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
    About(
        "histogene",
        ".histogene:HisToGene",
        "transformer over the spots of a section",
        needs=("tokens", "place", "lattice"),
        paper="Pang et al. (2021)",
        takes_counts=True,
    ),
    About(
        "hist2st",
        ".hist2st:Hist2ST",
        "convolutions in the patch, transformer and graph over the section; learns counts too",
        needs=("tokens", "place", "lattice", "counts"),
        paper="Zeng et al. (2022)",
        takes_counts=True,
    ),
    About(
        "hggep",
        ".hggep:Hggep",
        "ShuffleNet, transformers over the section at three stages, hypergraph; learns counts too",
        needs=("tokens", "place", "lattice", "counts"),
        paper="Li et al. (2024)",
        pretrained="torchvision shufflenet_v2_x0_5 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "sepal",
        ".sepal:Sepal",
        "fine-tuned encoder of patches, corrected by a graph network over the surroundings of the spot",
        needs=("tokens", "place", "lattice"),
        paper="Mejia et al. (2023)",
        pretrained="torchvision vit_b_16 IMAGENET1K_V1 (BSD-3-Clause)",
        takes_counts=True,
    ),
    About(
        "eggn",
        ".eggn:Eggn",
        "graph network over a section and the similar spots of other libraries",
        needs=("tokens", "place", "lattice"),
        paper="Yang et al. (2024)",
        pretrained="of the frozen encoder: torchvision resnet18 IMAGENET1K_V1 (BSD-3-Clause)",
    ),
)
ANCHORS = ("gene_mean", "depth_only", "position_only")  # shown beside every score


def needs_of(model: str, use_rep: str | Sequence[str] | None) -> tuple[str, ...]:
    """What a predictor takes of the data; tokens are an embedding where one is named, else patches."""
    tokens = "patches" if use_rep is None else "embedding"
    return tuple(tokens if need == "tokens" else need for need in PREDICTORS[model].needs)
