"""Tables of the completion methods and of their parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spared_sc._core.arguments import checks_arguments

if TYPE_CHECKING:
    import pandas as pd


@checks_arguments
def completers(method: str | None = None) -> pd.DataFrame:
    """Completion methods that :func:`spared_sc.tl.complete` knows, or the parameters of one of them.

    Parameters
    ----------
    method
        Name of a method, for the table of its parameters.

    Returns
    -------
    Without `method`, a table with one row per method: `summary`, `needs` (what it takes besides the layer) and `paper`.
    With `method`, one row per parameter: `default`, `range`, `tuned over` (values that are tried where it is `None`) and
    `meaning`.

    Raises
    ------
    KeyError
        If there is no such method.

    Examples
    --------
    >>> import spared_sc as sp
    >>> sp.tl.completers().loc["magic", "needs"]
    'counts'
    >>> sp.tl.completers("kernel").loc["bandwidth", "tuned over"]
    '0.7, 1.0, 1.5, 2.0, 2.7'
    """
    from spared_sc._models.completion.registry import COMPLETERS

    return COMPLETERS.table("summary", "needs", "paper") if method is None else COMPLETERS.params_table(method)
