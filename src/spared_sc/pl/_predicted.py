from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs
from spared_sc._core.completions import describe_layer
from spared_sc._core.keys import Key
from spared_sc._core.predictions import fitted_libraries, prediction_key, predicts_zeros
from spared_sc._core.record import records_of
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._core.validate import check_adata
from spared_sc._kernels.prediction_scores import Measured
from spared_sc.pl import _tissue
from spared_sc.pl._marks import VERMILION, check_genes, check_names, check_panels, finish, pcc_text, unit
from spared_sc.pl._tissue import Colours, Section

if TYPE_CHECKING:
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

_PANELS = ("measured", "predicted", "difference")
_DIVERGING = "RdBu_r"
# The part of a section in the fit -> the warning beside it.
_FITTED = {"train": "fitted to {}", "val": "fit chosen on {}", "seen": "target layer made with {}"}


@accepts_spatialdata
@docs.fill()
def predicted(
    adata: AnnData,
    gene: str,
    *,
    key: str | None = None,
    layer: str = Key.layers.log2tpm,
    panels: str | Sequence[str] | None = None,
    library_key: str | None = None,
    libraries: str | Sequence[str] | None = None,
    spatial_key: str = Key.obsm.spatial,
    img: bool = True,
    img_key: str | None = None,
    size: float = 1.0,
    cmap: str | Colormap = "viridis",
    vmin: float | None = None,
    vmax: float | None = None,
    alpha: float = 1.0,
    crop: bool = True,
    ax: Axes | None = None,
    figsize: tuple[float, float] | None = None,
    show: bool | None = None,
) -> Figure | Axes:
    """Show one gene as measured, as predicted, and the difference on the tissue; sections are rows.

    Spots in which the gene was not detected are grey in the measured panel. Beside each section stand the share of spots
    in which it was detected and the Pearson correlation. Correlation and difference, predicted - measured, are those of
    all spots for predictions of expression (or of a layer with its zeros), and of the spots that detected the gene for
    predictions given detection. A section that took part in fitting is marked: its correlation says nothing about the
    predictor. A slide without measured expression gets the prediction only.

    Parameters
    ----------
    adata
        Spots x genes, with positions and a table from :func:`spared_sc.tl.predict_expression`.
    gene
        One of the predicted genes.
    key
        Name of the table in `obsm`. Needed when there are several.
    layer
        Measured expression.
    panels
        Panels to draw, out of `"measured"`, `"predicted"` and `"difference"`. `None` draws all that can be drawn.
    {others}

    Returns
    -------
    The figure, or `ax` if it was given. Measured and predicted expression share one colour scale; that of the
    differences is centred at zero and ends at the 99th percentile of their absolute values.

    Raises
    ------
    KeyError
        If the table, the gene, the layer, a library, the positions or the image does not exist.
    ValueError
        If `ax` is given for several panels, if a panel needs measured expression and there is none, or if there are
        several tables and no `key`, or several libraries and no `library_key`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.predict_expression(adata, model="position_only", library_key="library_id")
    >>> gene = adata.var_names[adata.var["spared_selected"]][0]
    >>> fig = sp.pl.predicted(adata, gene, library_key="library_id")
    """
    check_adata(adata, genes=False)
    key = prediction_key(adata, key)
    spots = _read_spots(adata, gene, key, layer)
    names = _chosen_panels(panels, gene, spots.is_measured)
    sections = _tissue.get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=img_key, crop=crop)
    asked = f"{len(sections)} libraries x {len(names)} panels"
    check_panels(ax, len(sections) * len(names), asked, "one with `libraries=` and one with `panels=`")
    shown = np.concatenate([section.rows for section in sections])
    _tissue.check_style(size, alpha)
    colours = _tissue.colour_scale(spots.columns[shown], spots.detected[shown], cmap, vmin, vmax)
    around_zero = _difference_colours(spots.difference[shown])

    model = key.removeprefix(Key.predicted(""))
    titles = [f"predicted ({model})" if name == "predicted" else name for name in names]
    grid = _tissue.section_panels(ax, sections, titles, figsize, gene, margins=(1.6, 1.1))
    drawn: set[str] = set()
    for section, row in zip(sections, grid.axes, strict=True):
        for panel, name in zip(row, names, strict=True):
            if name == "difference":
                _draw_difference(panel, section, spots, around_zero, size, alpha)
            else:
                values, detected = spots.of(name, section)
                drawn |= _tissue.draw_spots(panel, section, values, detected, colours, size, alpha)
        _label_section(row[0], section, spots)
    label = unit(adata, layer) if spots.is_measured else _target_scale(adata, key)
    is_difference = np.array([name == "difference" for name in names])
    bars = ((~is_difference, colours, label), (is_difference, around_zero, f"predicted - measured, {label}"))
    for columns, scale, text in bars:  # beside their columns
        if columns.any():
            _tissue.add_colour_bar(grid, grid.axes[:, columns], scale, text)
    _tissue.add_spot_legend(grid, drawn, colours)
    return finish(grid.result, show)


@dataclass(frozen=True)
class _Spots:
    """One gene in all spots, (n_spots,) each."""

    predicted: np.ndarray
    measured: np.ndarray  # zero on a slide without measurements, as is `detected`
    detected: np.ndarray
    compared: np.ndarray  # spots whose measured value is what was predicted
    is_measured: bool
    role: np.ndarray  # of the spot's library in the fit

    @property
    def columns(self) -> np.ndarray:
        """The values that share a colour scale, (n_spots, 1 or 2)."""
        return np.column_stack([self.measured, self.predicted] if self.is_measured else [self.predicted])

    @property
    def difference(self) -> np.ndarray:
        return np.where(self.compared, self.predicted - self.measured, 0)

    def of(self, panel: str, section: Section) -> tuple[np.ndarray, np.ndarray]:
        """Values of a section, and which spots have one."""
        if panel == "measured":
            return self.measured[section.rows], self.detected[section.rows]
        return self.predicted[section.rows], np.ones(len(section.rows), dtype=bool)


def _read_spots(adata: AnnData, gene: str, key: str, layer: str) -> _Spots:
    """The gene as predicted and, where the slide has expression, as measured."""
    table = adata.obsm[key]
    check_genes(gene, table.columns, f"adata.obsm[{key!r}]")
    libraries, roles = fitted_libraries(adata, key)
    role = np.array([roles.get(name, "") for name in libraries.names])[libraries.codes]
    predicted = table[gene].to_numpy(dtype=float)
    measured, detected = np.zeros((2, len(predicted)))
    is_measured = gene in adata.var_names and (layer != Key.layers.log2tpm or layer in adata.layers)
    if is_measured:
        values, detected = _tissue.read_gene(adata, gene, [layer])
        measured = values[:, 0].astype(float)
    detected = detected.astype(bool)
    compared = np.ones_like(detected) if predicts_zeros(adata, key) else detected
    return _Spots(predicted, measured, detected, compared, is_measured, role)


def _chosen_panels(panels: str | Sequence[str] | None, gene: str, is_measured: bool) -> list[str]:
    """The panels asked for, in their fixed order."""
    possible = _PANELS if is_measured else ("predicted",)
    wanted = possible if panels is None else check_names(panels, _PANELS, "panel", "panels", error=ValueError)
    lacking = [name for name in wanted if name not in possible]
    if lacking:
        raise ValueError(
            f"the panel {lacking[0]!r} needs measured expression of {gene!r}: run `sp.pp.normalize_tpm(adata)` where there "
            "are counts, or pass panels='predicted'."
        )
    return [name for name in _PANELS if name in wanted]


def _difference_colours(difference: np.ndarray) -> Colours:
    """Colours centred at zero."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import Normalize

    size = np.abs(difference[difference != 0])
    end = np.percentile(size, 99) if size.size else 1.0
    return Colours(Normalize(-end, end), plt.get_cmap(_DIVERGING), "both" if (size > end).any() else "neither")


def _draw_difference(ax: Axes, section: Section, spots: _Spots, colours: Colours, size: float, alpha: float) -> None:
    """The spots that are compared, with an edge: around zero, the colours are as pale as the slide."""
    compared, diameter = spots.compared[section.rows], size * section.diameter
    edge = {"edgecolors": "0.5", "linewidths": 0.06 * _tissue.in_points(ax, section, diameter)}
    style = {"label": "difference", "alpha": alpha, **edge, **colours.of(spots.difference[section.rows[compared]])}
    _tissue.add_circles(ax, section.xy[compared], diameter, **style)


def _label_section(ax: Axes, section: Section, spots: _Spots) -> None:
    """Name of the section, how often the gene was detected, the agreement, and its part in the fit."""
    lines, rows = [section.name], section.rows
    if spots.is_measured:
        truth, compared, values = (array[rows, None] for array in (spots.measured, spots.compared, spots.predicted))
        scores = Measured(truth, compared, np.zeros(len(rows), dtype=int), 1).by_gene(values)
        lines.append(f"{100 * spots.detected[rows].mean():.0f} % detected, PCC {pcc_text(scores['pcc'][0, 0])}")
    roles = set(spots.role[rows])
    which = "this section" if len(roles) == 1 else "part of this section"
    warnings = [words.format(which) for role, words in _FITTED.items() if role in roles]
    ax.set_ylabel("\n".join([*lines, *warnings]))
    if warnings:
        ax.yaxis.label.set_color(VERMILION)


def _target_scale(adata: AnnData, key: str) -> str:
    """The scale of a prediction without a measurement to compare it with."""
    layer = records_of(adata)[key].get("card", {}).get("unit", "the target")
    return f"predicted, scale of layer {describe_layer(adata, layer)!r} in training"
