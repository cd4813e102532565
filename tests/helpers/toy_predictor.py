"""A predictor as somebody else would add one: a file, and a line in the registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from spared_sc._core.params import parameter
from spared_sc._models.prediction.linear import PlainPredictor, learned
from spared_sc._models.prediction.registry import PREDICTORS
from spared_sc._models.prediction.spots import present

if TYPE_CHECKING:
    from spared_sc._core.compute import Compute
    from spared_sc._core.registry import About
    from spared_sc._models.prediction.spots import Spots


@dataclass(kw_only=True, eq=False)
class Halfway(PlainPredictor):
    """The gene's mean, and more of it where the first feature of the embedding is above its median.

    Parameters
    ----------
    step
        How much more.
    """

    about: ClassVar[About] = PREDICTORS["halfway"]
    step: float = parameter(0.5, least=0, most=1)
    mean: np.ndarray = learned()
    median: float = learned()

    def fit(self, train: Spots, validation: Spots | None, compute: Compute) -> None:
        """Mean of the genes and median of the feature."""
        self.mean = train.gene_means()
        self.median = float(np.median(present(train.embedding, "embedding")[:, 0]))

    def predict(self, spots: Spots, compute: Compute, *, own_library: np.ndarray | None = None) -> np.ndarray:
        """Float32 (n, g)."""
        above = present(spots.embedding, "embedding")[:, 0] > self.median
        return (self.mean + self.step * above[:, None]).astype(np.float32)
