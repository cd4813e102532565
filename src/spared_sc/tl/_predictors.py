"""The predictors and their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments

if TYPE_CHECKING:
    import pandas as pd


@checks_arguments
def predictors(name: str | None = None) -> pd.DataFrame:
    """List the predictors of :func:`spared_sc.tl.predict_expression`, or the parameters of one.

    Parameters
    ----------
    name
        Name of a predictor.

    Returns
    -------
    One row per predictor: `needs` (the parts of a spot that it reads; tokens are patches, or the embedding that `use_rep`
    names), `paper`, `pretrained` (weights that training starts
    from, and their licence) and `summary`. With `name`, one row per parameter of that predictor, as `model_params` takes
    it: `default`, `range` and `meaning`.

    Raises
    ------
    KeyError
        If there is no such predictor.

    Examples
    --------
    >>> import spared_sc as sp
    >>> sp.tl.predictors().loc["ridge", "needs"]
    'embedding'
    >>> sp.tl.predictors("ridge").loc["n_components", "default"]
    '256'
    """
    from spared_sc._models.prediction.registry import PREDICTORS

    if name is not None:
        return PREDICTORS.params_table(name)[["default", "range", "meaning"]]
    return PREDICTORS.table("needs", "paper", "pretrained", "summary")
