"""A fitted predictor with all that is needed to apply it to another slide, and its files."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._models import checkpoint as files
from spared_sc._models.prediction.novelty import Novelty
from spared_sc._models.prediction.registry import PREDICTORS

if TYPE_CHECKING:
    from pathlib import Path

    from spared_sc._models.prediction.base import Predictor

KIND = "predictor"


@dataclass(frozen=True)
class FittedPredictor:
    """What :func:`spared_sc.tl.fit_predictor` returns and :func:`spared_sc.tl.predict_expression` applies.

    Attributes
    ----------
    name
        Name of the predictor.
    genes
        What it predicts.
    card
        How it was fitted: the layer and its scale, the loss, the patches and the encoder it needs, the libraries it has
        seen, a hash of the data.
    """

    predictor: Predictor
    genes: list[str]
    card: dict[str, Any]
    gene_mean: np.ndarray  # (g,) of the target in training, over the detected entries; NaN where there are none
    novelty: Novelty | None = None

    @property
    def name(self) -> str:
        """Name of the predictor."""
        return self.predictor.name

    def __repr__(self) -> str:
        libraries = self.card["libraries"]
        return (
            f"{self.name}: {len(self.genes)} genes of layer {self.card['layer']!r}, fitted on "
            f"{len(libraries['train'])} libraries ({self.card['n_spots']:,} spots)"
        )

    def save(self, folder: str | Path) -> None:
        """Write the model to a folder: safetensors and a JSON card.

        Raises
        ------
        ValueError
            If the folder holds something else.
        OSError
            If it cannot be written.
        """
        arrays, values = self.predictor.state()
        arrays = {f"model.{name}": array for name, array in arrays.items()} | {"gene_mean": self.gene_mean}
        if self.novelty is not None:
            arrays |= {f"novelty.{name}": np.asarray(value) for name, value in asdict(self.novelty).items()}
        files.save(folder, KIND, arrays, {"model": self.name, "values": values, "genes": self.genes, **self.card})


def load_fitted(folder: str | Path) -> FittedPredictor:
    """What `save` wrote.

    Raises
    ------
    FileNotFoundError
        If there is no model.
    ValueError
        If the files are damaged, or hold something else.
    """
    arrays, card = files.load(folder, KIND)
    try:
        gene_mean = arrays.pop("gene_mean")
        groups: dict[str, dict[str, np.ndarray]] = {"model": {}, "novelty": {}}
        for name, array in arrays.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = array
        predictor = PREDICTORS[card.pop("model")].from_state(groups["model"], card.pop("values"))
        novelty = None
        if groups["novelty"]:
            kept = groups["novelty"]
            novelty = Novelty(
                **{f.name: kept[f.name] if kept[f.name].ndim else float(kept[f.name]) for f in fields(Novelty)}
            )
        return FittedPredictor(predictor, card.pop("genes"), card, gene_mean, novelty)
    except (KeyError, TypeError, RuntimeError, ValueError, AttributeError) as error:
        raise ValueError(f"the model in {folder} is damaged: weights and card do not fit ({error}).") from error
