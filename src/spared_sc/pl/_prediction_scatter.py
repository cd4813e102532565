from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.keys import Key
from spared_sc._core.predictions import fitted_libraries, prediction_key, predicts_zeros, scored_libraries
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata, check_number, get_block, get_libraries, listing
from spared_sc._kernels.metrics import finite_mean
from spared_sc._kernels.prediction_scores import Measured
from spared_sc.pl._marks import PANEL_WIDTH, check_genes, check_panels, finish, make_grid, unit
from spared_sc.pl._pairs import agreement, bin_edges, draw_pairs

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_N_BINS = 40
_N_COLUMNS = 4


@accepts_spatialdata
@docs.fill()
def prediction_scatter(
    adata: AnnData,
    *,
    key: str | None = None,
    genes: str | Sequence[str] | None = None,
    n_genes: int = 4,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Plot predicted against measured expression of a few genes.

    A two-dimensional histogram for every gene, with the line of equality, over the libraries that took no part in
    fitting; if there are none, over those on which the fit was chosen. Predictions of expression (or of a layer with its
    zeros) are compared in all spots, predictions given detection where the gene was detected. Titles give the mean squared
    error and Pearson's correlation, averaged over libraries (for detected entries those of
    :func:`spared_sc.tl.score_prediction` with `protocol="spared"`), and the number of entries. Without `genes`, those with
    the highest correlation are drawn: the best ones, not a sample of all.

    Parameters
    ----------
    adata
        Spots x genes, with a table from :func:`spared_sc.tl.predict_expression`.
    key
        Name of the table in `obsm`. Needed when there are several.
    genes
        Genes to draw. `None` draws the best ones.
    n_genes
        Number of best genes to draw.
    layer
        Measured expression.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given.

    Raises
    ------
    KeyError
        If the table, a gene or the layer does not exist.
    ValueError
        If all libraries took part in fitting, if a gene was detected nowhere else, if `ax` is given for several genes, or
        if there are several tables and no `key`, or several libraries and no `library_key`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> fig = sp.pl.prediction_scatter(adata, library_key="library_id")
    """
    check_adata(adata)
    check_number("n_genes", n_genes, 1, whole=True)
    key = prediction_key(adata, key)
    known = list(adata.obsm[key].columns)
    names = known if genes is None else check_genes(genes, known, f"adata.obsm[{key!r}]", "genes")
    if not names:
        raise ValueError(f"`genes` is empty: pass some of {listing(known)}, or None for the best ones.")
    n_panels = min(n_genes, len(names)) if genes is None else len(names)
    check_panels(ax, n_panels, f"{n_panels} genes", "one with `genes=`, or n_genes=1")
    compared = _compare(adata, key, names, layer, library_key)
    shown = compared.shown(n_panels if genes is None else None)

    pairs = [compared.pair(i) for i in shown.tolist()]
    n_columns = min(len(shown), _N_COLUMNS)
    n_rows = -(-len(shown) // n_columns)
    size = figsize or (PANEL_WIDTH * n_columns + 1.3, (PANEL_WIDTH + 0.3) * n_rows + 0.5)
    panels = make_grid(ax, len(shown), n_columns, size)
    edges = [bin_edges([pair], _N_BINS) for pair in pairs]
    counted = "spots" if predicts_zeros(adata, key) else "detected entries"
    draw_pairs(panels, pairs, edges, "predicted = measured", counted, shrink=0.8 / n_rows)
    for i, panel, pair in zip(shown, panels.axes, pairs, strict=True):
        title = agreement(compared.mse[i], compared.pcc[i], len(pair[0]))
        panel.set_title(f"{names[i]}\n{title}", fontsize="medium")
    for panel in panels.axes[-n_columns:]:  # the lowest of each column
        panel.set_xlabel(f"measured, {unit(adata, layer)}")
    for panel in panels.axes[::n_columns]:
        panel.set_ylabel(f"predicted, {unit(adata, layer)}")
    if panels.is_new:
        best = f", best {len(shown)} of {len(names)} genes" if genes is None else ""
        plural = "s" if compared.n_libraries > 1 else ""
        panels.figure.suptitle(f"{key}: {compared.n_libraries} {compared.role} section{plural}{best}")
    return finish(panels.result, show)


@dataclass(frozen=True)
class _Compared:
    """Measured and predicted values of the libraries that are scored."""

    names: list[str]  # of the genes
    measured: np.ndarray  # (n_spots, n_genes), as are the next two
    compared: np.ndarray  # entries
    predicted: np.ndarray
    mse: np.ndarray  # (n_genes,) mean over libraries, as is the next
    pcc: np.ndarray
    role: str  # of the libraries
    n_libraries: int

    def pair(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Measured and predicted values of a gene where they are compared."""
        compared = self.compared[:, i]
        return self.measured[compared, i], self.predicted[compared, i]

    def shown(self, n_best: int | None) -> np.ndarray:
        """The genes with the highest correlation (those without one last), or all; they must be detected somewhere."""
        is_measured = np.any(self.measured, axis=0, where=self.compared)
        order = np.argsort(-np.nan_to_num(self.pcc, nan=-np.inf), kind="stable")
        shown = np.arange(len(self.names)) if n_best is None else order[is_measured[order]][:n_best]
        if shown.size and is_measured[shown].all():
            return shown
        lost = [name for name, is_known in zip(self.names, is_measured, strict=True) if not is_known]
        raise ValueError(
            f"no spot of the {self.role} sections has a count of {listing(lost, 3)}: there is nothing to compare with; "
            "pass other genes as `genes=`."
        )


def _compare(adata: AnnData, key: str, names: list[str], layer: str, library_key: str | None) -> _Compared:
    """Measured and predicted values of the libraries to score, and their agreement."""
    fitted, roles = fitted_libraries(adata, key)
    is_scored, role = scored_libraries(roles, fitted.names)
    rows = np.flatnonzero(is_scored[fitted.codes])
    genes = adata.var_names.get_indexer(names)
    if (genes < 0).any():
        lost = [name for name, at in zip(names, genes, strict=True) if at < 0]
        raise KeyError(f"adata has no genes {listing(lost, 5)}, which were predicted: name others with `genes=`.")
    measured, detected = (values[rows] for values in get_block(adata, layer, genes))
    predicted = adata.obsm[key][names].to_numpy(dtype=np.float32)[rows]
    compared = np.ones_like(detected) if predicts_zeros(adata, key) else detected
    codes, library = np.unique(get_libraries(adata, library_key).codes[rows], return_inverse=True)
    scores = Measured(measured, compared, library, len(codes)).by_gene(predicted)
    mse, pcc = (finite_mean(scores[metric], axis=0) for metric in ("mse", "pcc"))
    return _Compared(names, measured, compared, predicted, mse, pcc, role, len(codes))
