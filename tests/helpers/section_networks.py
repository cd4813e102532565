"""Small predictors that see neighbours or whole sections."""

from __future__ import annotations

from helpers.networks import SHORT, SIDE
from spared_sc._models.prediction.eggn import Eggn
from spared_sc._models.prediction.hggep import Hggep
from spared_sc._models.prediction.hist2st import Hist2ST
from spared_sc._models.prediction.histogene import HisToGene
from spared_sc._models.prediction.sepal import Sepal

SMALL = {"width": 16, "depth": 1, "n_heads": 1, "feedforward": 8, "n_places": 8, "image_size": SIDE}
SMALL |= {"n_steps": 4, "validate_every": 2, "learning_rate": 1e-3}


def histogene(**params) -> HisToGene:
    return HisToGene(**{**SMALL, **params})


def hist2st(**params) -> Hist2ST:
    small = {"channels": 4, "token_size": 8, "kernel_size": 3, "mixer_depth": 1, "graph_depth": 3, "n_copies": 2}
    return Hist2ST(**{**SMALL, **small, **params})


def hggep(**params) -> Hggep:
    return Hggep(**{**SMALL, "n_copies": 2, "weights": "random", **params})


def sepal(**params) -> Sepal:
    first = {"backbone": "timm:test_resnet", "weights": "random", "first_steps": 4, "first_width": 12}
    return Sepal(**{**SHORT, **first, "width": 16, "image_size": SIDE, "learning_rate": 1e-3, **params})


def eggn(**params) -> Eggn:
    small = {"encoder": "timm:test_resnet", "weights": "random", "n_exemplars": 3, "n_alike": 2, "n_layers": 2}
    return Eggn(**{**small, "width": 16, "image_size": SIDE, "n_steps": 4, "validate_every": 2, **params})
