"""What the explorer shows of an AnnData: its sections, what a map can show of a gene, numbers of genes and of spots."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core.columns import name_of, numbers_of
from spared_sc._core.completions import completed_layers, denoised_layers, describe_layer, measured_layers
from spared_sc._core.keys import Key
from spared_sc._core.lineage import unit_of
from spared_sc._core.predictions import prediction_keys, predicts_zeros
from spared_sc._core.record import by_library, records_of
from spared_sc._core.slides import entry_of
from spared_sc._core.validate import check_adata, dense, gene_mask, get_counts, get_detected, get_layer, listing

if TYPE_CHECKING:
    import pandas as pd
    import scipy.sparse as sps
    from anndata import AnnData

MEASURED, GIVEN, DENOISED, SD, PREDICTED, OTHER = (
    *("measured", "given detection", "denoised", "sd", "predicted"),
    "layer",
)
MOST_CATEGORIES = 60
# The part of a section in the fit of a predictor -> the warning beside its map.
_KNOWN = {
    "train": "the model was fitted to this section",
    "val": "the fit was chosen on this section",
    "seen": "the target was made with this section",
}
# Metrics of predictions, of which the first one in the table is shown -> its label.
_SCORES = {"pcc_given_depth": "correlation given depth", "skill": "skill", "pcc": "correlation"}
_MOST_COLUMNS = 40
_PLACES = (Key.obs.array_row, Key.obs.array_col)  # of no interest as a map


@dataclass(frozen=True)
class Panel:
    """What a map can show of a gene."""

    name: str  # of the layer or of the table in `obsm`
    kind: str
    title: str  # short
    about: str  # with the model that made it
    unit: str  # label of the colour bar
    scale: str  # panels with the same one share a colour scale
    zeros: bool  # whether values of spots that did not detect the gene are expression, too


@dataclass(frozen=True)
class Section:
    """One library, in pixels of its image."""

    name: str
    rows: np.ndarray  # (n_spots,) rows of the AnnData
    xy: np.ndarray  # (n_spots, 2)
    size: float  # diameter of a spot, or side of a bin
    square: bool
    window: tuple[float, float, float, float]  # left, right, top, bottom
    image: np.ndarray | None


@dataclass(frozen=True)
class Column:
    """A column of `obs`, with a value or the number of a category for every spot."""

    name: str
    values: np.ndarray  # (n_spots,) float, NaN where there is none
    categories: list[str] | None = None
    colours: list[str] | None = None


@dataclass(frozen=True)
class Collection:
    """All that pages are made of."""

    adata: AnnData
    sections: list[Section]
    panels: list[Panel]
    genes: list[str]
    columns: list[Column]
    gene_numbers: dict[str, np.ndarray]  # label -> (n_genes,), NaN where there is none
    verdicts: list[str] | None  # of every gene
    differences: list[tuple[int, int]]  # panels to subtract: the first minus the second
    fitted: list[dict[int, str]]  # of every section: panels whose model knows it, and how

    @cached_property
    def rows(self) -> np.ndarray:
        """Rows of the AnnData in the order of the pages."""
        return np.concatenate([section.rows for section in self.sections])

    @cached_property
    def _at(self) -> dict[str, int]:
        """Gene -> its column in the matrices below."""
        return {gene: i for i, gene in enumerate(name for name in self.genes if name in self.adata.var_names)}

    def _of_genes(self, matrix: np.ndarray | sps.csr_matrix) -> np.ndarray | sps.csc_matrix:
        """The genes that are shown, in a form that gives columns quickly."""
        chosen = matrix[:, self.adata.var_names.get_indexer(list(self._at))]
        return chosen if isinstance(chosen, np.ndarray) else chosen.tocsc()

    @cached_property
    def _detected(self) -> np.ndarray | sps.csc_matrix | None:
        matrix = detected_or_none(self.adata)
        return None if matrix is None else self._of_genes(matrix)

    @cached_property
    def _layers(self) -> dict[str, np.ndarray | sps.csc_matrix]:
        names = [panel.name for panel in self.panels if panel.kind != PREDICTED]
        return {name: self._of_genes(get_layer(self.adata, name)) for name in names}

    def values(self, panel: Panel, gene: str) -> np.ndarray | None:
        """A gene's values in all spots of the pages; `None` where the slot does not hold the gene."""
        if panel.kind == PREDICTED:
            table = self.adata.obsm[panel.name]
            return table[gene].to_numpy(dtype=float)[self.rows] if gene in table else None
        if gene not in self._at:
            return None
        return dense(self._layers[panel.name][:, [self._at[gene]]]).ravel()[self.rows].astype(float)

    def detected(self, gene: str) -> np.ndarray | None:
        """Whether each spot detected a gene; `None` without counts of it."""
        if self._detected is None or gene not in self._at:
            return None
        return dense(self._detected[:, [self._at[gene]]]).ravel()[self.rows]


def detected_or_none(adata: AnnData) -> sps.csr_matrix | None:
    """Which entries were detected; `None` for a slide without counts."""
    if Key.layers.detected not in adata.layers:
        try:
            get_counts(adata)
        except (TypeError, ValueError):
            return None
    return get_detected(adata)


def collect(
    adata: AnnData,
    *,
    genes: Sequence[str] | None,
    layers: Sequence[str] | None,
    obs: Sequence[str] | None,
    scores: pd.DataFrame | None,
    library_key: str | None,
    libraries: Sequence[str] | None,
    spatial_key: str,
    img: bool,
) -> Collection:
    """All that is asked for, checked."""
    check_adata(adata, genes=False)
    panels = find_panels(adata, layers)
    names = find_genes(adata, genes, panels)
    sections = _sections(adata, library_key, libraries, spatial_key, img=img)
    return Collection(
        adata=adata,
        sections=sections,
        panels=panels,
        genes=names,
        columns=_columns(adata, obs, library_key),
        gene_numbers=_gene_numbers(adata, names, panels, scores),
        verdicts=_verdicts(adata, names, panels),
        differences=_differences(panels),
        fitted=_fitted(adata, panels, sections),
    )


def find_panels(adata: AnnData, layers: Sequence[str] | None) -> list[Panel]:
    """The layers and predictions that are asked for, or all that this package wrote."""
    completed, denoised = completed_layers(adata), denoised_layers(adata)
    spreads = {Key.denoised_sd(name.removesuffix("_denoised")): name for name in denoised}
    spreads |= {Key.sd(name): name for name in completed}
    spreads = {name: of for name, of in spreads.items() if name in adata.layers}
    usual = [*measured_layers(adata), *completed, *denoised, *(n for n, of in spreads.items() if of in denoised)]
    predicted = prediction_keys(adata)
    chosen = [*usual, *predicted] if layers is None else list(layers)
    for name in chosen:
        if name not in adata.layers and name not in predicted:
            raise KeyError(
                f"there is no layer or prediction {name!r} (layers: {listing(adata.layers)}; predictions: "
                f"{listing(predicted)}): pass some of those as `layers=`."
            )
    if not chosen:
        raise ValueError(
            "there is nothing to show: no normalised, completed or predicted expression. Run "
            "`sp.pp.recipe_spared(adata)`, or name layers with `layers=`."
        )
    kinds = dict.fromkeys(measured_layers(adata), MEASURED) | dict.fromkeys(completed, GIVEN)
    kinds |= dict.fromkeys(denoised, DENOISED) | dict.fromkeys(spreads, SD)
    made = [
        _predicted_panel(adata, name)
        if name in predicted
        else _layer_panel(adata, name, kinds.get(name, OTHER), spreads)
        for name in dict.fromkeys(chosen)
    ]
    return _told_apart(made)


def _layer_panel(adata: AnnData, name: str, kind: str, spreads: dict[str, str]) -> Panel:
    of = spreads.get(name, name)
    unit = unit_of(adata, of)
    label = _label(adata, unit)
    is_denoised = of in denoised_layers(adata)
    model = describe_layer(adata, of.removesuffix("_denoised") if is_denoised else of)
    about = {MEASURED: f"{MEASURED} ({name})", OTHER: name}.get(kind, f"{kind} ({model})")
    if kind == SD:
        title = f"sd of {'denoised' if is_denoised else 'filled-in'} values"
        return Panel(name, kind, title, f"{title} ({model})", f"sd of {label}", f"sd {unit}", zeros=True)
    title = name if kind == OTHER else kind
    return Panel(name, kind, title, about, label, unit, zeros=kind in (DENOISED, OTHER))


def _predicted_panel(adata: AnnData, name: str) -> Panel:
    unit = str(records_of(adata)[name]["card"]["unit"])
    title = f"{PREDICTED} ({name.removeprefix(Key.predicted(''))})"
    zeros = predicts_zeros(adata, name)
    return Panel(name, PREDICTED, title, title, _label(adata, unit), unit, zeros=zeros)


def _told_apart(panels: list[Panel]) -> list[Panel]:
    """Panels whose titles name the model only where another one has the same title."""
    count = Counter(panel.title for panel in panels)
    return [replace(panel, title=panel.about) if count[panel.title] > 1 else panel for panel in panels]


def _label(adata: AnnData, unit: str) -> str:
    from spared_sc.pl._marks import unit as label_of

    return label_of(adata, unit)


def _differences(panels: list[Panel]) -> list[tuple[int, int]]:
    """Pairs on one scale: predictions beside denoised or measured values, denoised beside measured ones."""

    def first(kind: str, scale: str) -> int | None:
        return next((i for i, panel in enumerate(panels) if (panel.kind, panel.scale) == (kind, scale)), None)

    pairs = []
    for i, panel in enumerate(panels):
        if panel.kind not in (PREDICTED, DENOISED):
            continue
        beside = [first(MEASURED, panel.scale)]
        if panel.kind == PREDICTED and panel.zeros:
            beside.insert(0, first(DENOISED, panel.scale))
        pairs += [(i, other) for other in beside if other is not None]
    return pairs


def _fitted(adata: AnnData, panels: list[Panel], sections: list[Section]) -> list[dict[int, str]]:
    """What a predictor knew of each section, where it was not held out: its map says nothing about the predictor."""
    predicted = {i: panel.name for i, panel in enumerate(panels) if panel.kind == PREDICTED}
    roles = {i: by_library(records_of(adata)[name]["roles"]) for i, name in predicted.items()}
    words = [{i: _KNOWN.get(of.get(section.name, ""), "") for i, of in roles.items()} for section in sections]
    return [{i: word for i, word in known.items() if word} for known in words]


def find_genes(adata: AnnData, genes: Sequence[str] | None, panels: list[Panel]) -> list[str]:
    """Names of the genes asked for, or of the selected and predicted ones."""
    tables = [adata.obsm[panel.name] for panel in panels if panel.kind == PREDICTED]
    in_tables = [str(name) for table in tables for name in table.columns]
    if genes is None:
        selected = adata.var_names[gene_mask(adata, Key.var.selected, optional=Key.var.selected)]
        return list(dict.fromkeys([*(selected if len(panels) > len(tables) else []), *in_tables]))
    known = {*adata.var_names, *in_tables}
    unknown = [name for name in genes if name not in known]
    if unknown:
        raise KeyError(f"there is no gene {unknown[0]!r} ({len(known):,} genes: {listing(sorted(known), 5)}).")
    if not len(genes):
        raise ValueError("`genes=` is empty: name some genes, or leave it out.")
    return list(dict.fromkeys(genes))


def _sections(
    adata: AnnData, library_key: str | None, libraries: Sequence[str] | None, spatial_key: str, *, img: bool
) -> list[Section]:
    from spared_sc.pl._tissue import get_sections

    found = get_sections(adata, library_key, libraries, spatial_key, img=img, img_key=None, crop=True)
    squares = {s.name: "bin_size_um" in entry_of(adata, s.name)["scalefactors"] for s in found}
    return [Section(s.name, s.rows, s.xy, s.diameter, squares[s.name], s.window, s.image) for s in found]


def _columns(adata: AnnData, names: Sequence[str] | None, library_key: str | None) -> list[Column]:
    """The columns of `obs` that are asked for, or the depth of the spots and all columns that make a map."""
    if names is None:
        found = [_column(adata, name) for name in adata.obs if name not in (*_PLACES, library_key)]
        return [*_depth(adata), *(one for one in found if one and len(np.unique(one.values)) > 1)][:_MOST_COLUMNS]
    columns = []
    for name in dict.fromkeys(names):
        if name not in adata.obs:
            raise KeyError(f"there is no column {name!r} in adata.obs (columns: {listing(adata.obs)}).")
        column = _column(adata, name)
        if column is None:
            raise ValueError(
                f"adata.obs[{name!r}] makes no map: it has no values, or more than {MOST_CATEGORIES} different ones that are "
                "no numbers."
            )
        columns.append(column)
    return columns


def _depth(adata: AnnData) -> list[Column]:
    """The total count of every spot, where there are counts of genes."""
    try:
        counts, _ = get_counts(adata)
    except (TypeError, ValueError):
        return []
    depth = np.asarray(counts.sum(axis=1), dtype=float).ravel()
    return [Column("depth (total count)", depth)] if np.ptp(depth) > 0 else []


def _column(adata: AnnData, name: str) -> Column | None:
    import pandas as pd

    of_spot = adata.obs[name]
    if pd.api.types.is_numeric_dtype(of_spot) and not pd.api.types.is_bool_dtype(of_spot):
        values = numbers_of(of_spot)
        return Column(str(name), values) if np.isfinite(values).any() else None
    codes, found = pd.factorize(of_spot.astype(object), use_na_sentinel=True)
    if not 0 < len(found) <= MOST_CATEGORIES:
        return None
    listed = of_spot.cat.categories if isinstance(of_spot.dtype, pd.CategoricalDtype) else sorted(found, key=name_of)
    order = [list(found).index(value) for value in listed if value in set(found)]
    place = np.full(len(found) + 1, np.nan)
    place[order] = np.arange(len(order))
    colours = _colours(adata, name, listed, set(found))
    return Column(str(name), place[codes], [name_of(found[i]) for i in order], colours)


def _colours(adata: AnnData, name: str, categories: Sequence, used: set) -> list[str] | None:
    """Colours of the used categories, where scanpy has left some."""
    from matplotlib.colors import is_color_like, to_hex

    left = list(np.atleast_1d(adata.uns.get(f"{name}_colors", [])))
    if len(left) < len(categories) or not all(map(is_color_like, left)):
        return None
    return [to_hex(colour) for colour, category in zip(left, categories, strict=False) if category in used]


def _gene_numbers(
    adata: AnnData, genes: list[str], panels: list[Panel], scores: pd.DataFrame | None
) -> dict[str, np.ndarray]:
    """Columns to sort genes by, each (n_genes,)."""
    at = adata.var_names.get_indexer(genes)
    inside = at >= 0

    def of(column: np.ndarray) -> np.ndarray:
        return np.where(inside, np.asarray(column, dtype=float)[at], np.nan)

    numbers = {}
    audit = _audit(adata)
    for label, column in [
        *((f"skill ({panel.name})", Key.skill(panel.name)) for panel in panels if panel.kind == GIVEN),
        *([(f"{what} ({audit})", f"{audit}_{what}") for what in ("skill", "gain")] if audit else []),
        ("Moran's I", Key.var.moran_i),
    ]:
        if column in adata.var:
            numbers[label] = of(numbers_of(adata.var[column]))
    detected = detected_or_none(adata)
    if detected is not None:
        numbers["missing share"] = of(1 - np.asarray(detected.mean(axis=0)).ravel())
    for panel in panels:
        if scores is not None and panel.kind == PREDICTED:
            ours = scores[(scores["prediction"] == panel.name) & (scores["library"] == "all")]
            for metric, label in _SCORES.items():
                values = ours[ours["metric"] == metric].set_index("gene")["value"]
                if len(values):
                    numbers[f"{label} ({panel.name.removeprefix('predicted_')})"] = values.reindex(genes).to_numpy()
                    break
    return {label: column for label, column in numbers.items() if np.isfinite(column).any()}


def _audit(adata: AnnData) -> str | None:
    """The first audit of a completion, by its prefix."""
    records = records_of(adata).items()
    return next((name for name, record in records if record.get("function") == "tl.audit_completion"), None)


def _verdicts(adata: AnnData, genes: list[str], panels: list[Panel]) -> list[str] | None:
    """What the audit says of every gene, or else the completion itself; empty where it says nothing."""
    audit = _audit(adata)
    sources = [f"{audit}_verdict"] if audit else [Key.verdict(panel.name) for panel in panels if panel.kind == GIVEN]
    column = next((name for name in sources if name in adata.var), None)
    if column is None:
        return None
    said = adata.var[column].astype(object).reindex(genes)
    return [str(one) if isinstance(one, str) else "" for one in said]
