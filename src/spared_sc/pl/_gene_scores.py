from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from spared_sc._core import docs
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.validate import check_number
from spared_sc.pl._marks import finish
from spared_sc.pl._score_scatter import draw_scatter
from spared_sc.pl._score_strips import draw_strips
from spared_sc.pl._score_tables import ALL, check_scores

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@checks_arguments
@docs.fill()
def gene_scores(
    scores: pd.DataFrame,
    *,
    metric: str | None = None,
    predictions: str | Sequence[str] | None = None,
    library: str = ALL,
    n_names: int = 3,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot the scores of predictions gene by gene, beside the anchors and the limit set by noise.

    Without `metric`, scores of the protocol `"expression"` are drawn as a scatter: a panel for each prediction, best
    first, with a point for every gene: its correlation given depth on the horizontal axis, its correlation on the vertical
    one. Above the diagonal, part of the correlation is due to depth. The genes of the anchor `depth_only`, which knows the
    measured depth and nothing else, are grey marks. A diamond is the mean of the ceiling.

    With `metric`, or scores of another protocol, each prediction is a row, best first, with a point for every gene: the
    worst gene at the lower edge of the row, the best at the upper. The bar is the score of all genes, with its interval
    where the table has one. Below stand the anchors, which use no image, and the score of a prediction without any error,
    where the table has it.

    Parameters
    ----------
    scores
        Table from :func:`spared_sc.tl.score_prediction`.
    metric
        `"pcc_given_depth"`, `"pcc"`, `"d2"`, `"d2_own"`, `"mse"`, `"mae"`, `"r2"` or `"skill"`, whichever the table has.
        `None` draws the scatter if the table has what it needs, and rows of `"pcc"` otherwise.
    predictions
        Predictions to draw. `None` draws the best four in a scatter (the best one into `ax`), and the best twelve in rows.
    library
        Library to draw, or `"all"` for the mean over libraries or donors.
    n_names
        Number of best genes to ring and name for each prediction.
    {others}

    Returns
    -------
    The axes of the rows, with the range of the score without any error over all genes as a shaded band, or the ceiling as
    a dashed line; if a few genes lie far from all others, the axis ends before them and arrows stand for them. Of a
    scatter, the figure, or `ax` if it was given.

    Raises
    ------
    KeyError, TypeError
        If `scores` is no such table.
    ValueError
        If the table has no rows for the request, or several for one gene and prediction, or if `ax` is given for
        several named predictions of a scatter.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> scores = sp.tl.score_prediction(adata, library_key="library_id")
    >>> fig = sp.pl.gene_scores(scores)
    >>> ax = sp.pl.gene_scores(scores, metric="d2")
    """
    check_number("n_names", n_names, 0, whole=True)
    check_scores(scores)
    drawn: Figure | Axes
    if metric is None and {"pcc", "pcc_given_depth"} <= set(scores["metric"]):
        drawn = draw_scatter(scores, predictions=predictions, library=library, n_names=n_names, ax=ax, figsize=figsize)
    else:
        drawn = draw_strips(
            scores,
            metric or "pcc",
            predictions=predictions,
            library=library,
            n_names=n_names,
            ax=ax,
            figsize=figsize,
        )
    return finish(drawn, show)
