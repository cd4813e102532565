"""Every predictor by its name."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from spared_sc._models.prediction import bleep, egn, linear, regression

if TYPE_CHECKING:
    from collections.abc import Mapping

    from spared_sc._models.prediction.base import Predictor

_CLASSES: tuple[type[Predictor], ...] = (
    linear.GeneMean,
    linear.DepthOnly,
    linear.PositionOnly,
    linear.Ridge,
    linear.Knn,
    regression.ShuffleNet,
    regression.ViT,
    regression.ViTDelta,
    regression.STNet,
    bleep.Bleep,
    egn.Egn,
)
PREDICTORS: dict[str, type[Predictor]] = {one.name: one for one in _CLASSES}
ANCHORS = ("gene_mean", "depth_only", "position_only")  # what every score is shown beside


def make_predictor(name: str, params: Mapping[str, Any]) -> Predictor:
    """An unfitted predictor.

    Raises
    ------
    KeyError
        If there is none of that name.
    TypeError
        If it does not have one of the parameters.
    ValueError
        If a parameter is out of range.
    """
    if name not in PREDICTORS:
        raise KeyError(f"there is no predictor {name!r}: choose among {', '.join(map(repr, PREDICTORS))}.")
    known = default_params(name)
    foreign = sorted(set(params) - set(known))
    if foreign:
        has = ", ".join(map(repr, known)) or "none"
        raise TypeError(f"{name!r} has no parameter {', '.join(map(repr, foreign))}; its parameters: {has}.")
    return PREDICTORS[name](**params)


def default_params(name: str) -> dict[str, Any]:
    """Parameters of a predictor and their defaults."""
    signature = inspect.signature(PREDICTORS[name].__init__)
    keywords = [p for p in signature.parameters.values() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return {p.name: p.default for p in keywords}
