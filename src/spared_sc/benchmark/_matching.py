"""Spots and genes of somebody else's predictions, found among those of measured sections by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from spared_sc._core.genes import match_genes
from spared_sc._core.keys import Key
from spared_sc._core.report import announce, warn
from spared_sc._core.validate import Libraries, listing

if TYPE_CHECKING:
    from anndata import AnnData

    Names = pd.Series  # of text; NaN where a spot has no name of that kind

_LEAST = 0.5  # share of the smaller side that must be matched
_BARCODE = re.compile(r"[ACGTN]{12,24}(?:-\d+)?")  # of 10x
_PLACE = re.compile(r"(?<![\d.])(\d+)x(\d+)(?![\d.])")  # row and column of an array, as in ST
_MOST_PER_LIBRARY = 100  # different values of a column that may name libraries, for each that there is
_SEPARATORS = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Match:
    """Predictions in the rows of the measured spots."""

    values: pd.DataFrame  # spots x genes, both named as measured; NaN in rows without a prediction
    rows: np.ndarray  # (n_spots,) booleans: spots with a prediction
    words: str  # how many were matched, and by what


def match(
    predicted: pd.DataFrame, columns: pd.DataFrame, ids: pd.Series | None, truth: AnnData, libraries: Libraries
) -> Match:
    """Find the spots and genes of `predicted` (spots x genes) among those of `truth`.

    `columns` are what is known of the predicted spots, as of `obs`, and `ids` the Ensembl ids of the genes.

    Raises
    ------
    ValueError
        If fewer than half of the spots or genes match, if names cannot be told apart, or if single entries are missing.
    """
    predicted, columns, ids = _upright(predicted, columns, ids, truth)
    genes = _match_genes(predicted.columns, ids, truth)
    known = np.flatnonzero(genes >= 0)
    known = known[
        np.argsort(genes[known])
    ]  # in the order of the sections, so that no score depends on that of the table
    predicted = predicted.iloc[:, known].set_axis(truth.var_names[genes[known]], axis=1)
    predicted, columns, n_empty = _without_empty(predicted, columns)
    found, how = _match_spots(predicted.index, columns, truth, libraries)
    values = np.full((truth.n_obs, predicted.shape[1]), np.nan, dtype=np.float32)
    values[found[found >= 0]] = predicted.to_numpy(dtype=np.float32)[found >= 0]
    rows = np.zeros(truth.n_obs, dtype=bool)
    rows[found[found >= 0]] = True
    words = (
        f"{predicted.shape[1]} of {len(genes)} predicted genes and {rows.sum()} of {len(found)} predicted spots matched "
        f"({how}); the sections have {truth.n_obs} spots"
    )
    words += f"; {n_empty} predicted spots without a value are left out" if n_empty else ""
    announce(words)
    return Match(pd.DataFrame(values, index=truth.obs_names, columns=predicted.columns), rows, words)


def _upright(
    predicted: pd.DataFrame, columns: pd.DataFrame, ids: pd.Series | None, truth: AnnData
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series | None]:
    """The table with spots as rows; turned where its rows are named like genes."""
    genes = set(truth.var_names) | set(truth.var.get(Key.var.gene_ids, ()))
    in_rows, in_columns = (sum(str(name) in genes for name in axis) for axis in (predicted.index, predicted.columns))
    if in_rows <= in_columns or in_columns:
        return predicted, columns, ids
    warn(
        f"{in_rows} rows of the predictions are named like genes, and no column is: the table is taken as genes x spots."
    )
    turned = predicted.T
    return turned, pd.DataFrame(index=turned.index), None


def _match_genes(names: pd.Index, ids: pd.Series | None, truth: AnnData) -> np.ndarray:
    """Column of the truth for every predicted gene, -1 for none."""
    _refuse_repeated(names, "genes", "keep one of each")
    found = match_genes(names, ids, truth.var_names, truth.var.get(Key.var.gene_ids))
    n, smaller = int((found >= 0).sum()), min(len(names), truth.n_vars)
    if n < max(_LEAST * smaller, 1):
        raise ValueError(
            f"{n} of {len(names)} predicted genes are among the {truth.n_vars} measured ones: predicted names look like "
            f"{listing(names[:3])}, measured ones like {listing(truth.var_names[:3])}. Name the genes by the same symbols, or "
            f'keep Ensembl ids in `var["{Key.var.gene_ids}"]`.'
        )
    _refuse_repeated(
        truth.var_names[found[found >= 0]], "predicted genes stand for one measured gene", "keep one of each"
    )
    return found


def _refuse_repeated(names: pd.Index, what: str, remedy: str) -> None:
    repeated = pd.Index(names)[pd.Index(names).duplicated()].unique()
    if len(repeated):
        raise ValueError(f"{len(repeated)} names of {what} are repeated, such as {listing(repeated, 3)}: {remedy}.")


def _without_empty(predicted: pd.DataFrame, columns: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """The spots with a prediction; single entries must not be missing."""
    values = predicted.to_numpy(dtype=np.float64)
    lost = ~np.isfinite(values)
    empty = lost.all(axis=1)
    n_lost = int(lost[~empty].sum())
    if n_lost or empty.all():
        worst = predicted.columns[lost[~empty].sum(axis=0).argmax()] if n_lost else ""
        raise ValueError(
            f"{n_lost or lost.sum()} predicted entries of {values.size} are missing or infinite"
            + (f", most of them of the gene {str(worst)!r}" if n_lost else "")
            + ": leave out these genes or spots; a score of the others would not be that of the model."
        )
    return predicted[~empty], columns[~empty], int(empty.sum())


# --- spots ------------------------------------------------------------------------------------------------------------


def _match_spots(
    names: pd.Index, columns: pd.DataFrame, truth: AnnData, libraries: Libraries
) -> tuple[np.ndarray, str]:
    """Row of the truth for every predicted spot, -1 for none, and by what they were matched."""
    of_truth = pd.Series(libraries.names, dtype=object).iloc[libraries.codes].to_numpy()
    predicted = _Spots(names, columns, _libraries_of(names, columns, libraries.names))
    measured = _Spots(truth.obs_names, truth.obs, of_truth)
    tried = {
        how: _of_own_library(_by(name(predicted), name(measured)), predicted, measured)
        for how, name in _SCHEMES.items()
    }
    how = max(tried, key=lambda one: int((tried[one] >= 0).sum()))
    found = tried[how]
    n_repeated = int(pd.Series(found[found >= 0]).duplicated(keep=False).sum())
    n = int((found >= 0).sum())
    if n < max(_LEAST * min(len(names), truth.n_obs), 1):
        counts = ", ".join(f"{(rows >= 0).sum()} by {one}" for one, rows in tried.items())
        raise ValueError(
            f"{n} of {len(names)} predicted spots are among the {truth.n_obs} measured ones ({counts}): predicted spots are "
            f"called {listing(names[:3])}, measured ones {listing(truth.obs_names[:3])} of the libraries "
            f"{listing(libraries.names, 5)}. Give the spots the same names, or a column of `obs` with the library."
        )
    if n_repeated:
        raise ValueError(
            f"{n_repeated} predicted spots cannot be told apart by {how}, such as {listing(names[names.duplicated()][:3])}: "
            "give them a column of `obs` with the library, or keep one of each."
        )
    return found, how


@dataclass(frozen=True)
class _Spots:
    """Names of spots, what is known of them, and their library (NaN or `None` where it is not known)."""

    names: pd.Index
    columns: pd.DataFrame
    library: np.ndarray

    def of_kind(self, pattern: re.Pattern[str]) -> pd.Series:
        """Library and the last part of the name that is of a kind."""
        parts = [[found.group(0) for found in pattern.finditer(str(name))] for name in self.names]
        return self.with_library([found[-1] if found else None for found in parts])

    def with_library(self, keys: Sequence[str | None]) -> pd.Series:
        """Names that are unique over libraries."""
        pairs = zip(self.library, keys, strict=True)
        return pd.Series(
            [f"{one}\t{key}" if one is not None and key is not None else None for one, key in pairs], dtype=object
        )


def _whole(spots: _Spots) -> pd.Series:
    return pd.Series(spots.names.astype(str), dtype=object)


def _whole_of_library(spots: _Spots) -> pd.Series:
    return spots.with_library([str(name) for name in spots.names])


def _barcode(spots: _Spots) -> pd.Series:
    return spots.of_kind(_BARCODE)


def _bare_barcode(spots: _Spots) -> pd.Series:
    return _barcode(spots).str.replace(r"-\d+$", "", regex=True)


def _place(spots: _Spots) -> pd.Series:
    """Row and column of the array, from columns or else from names such as 10x13."""
    if {Key.obs.array_row, Key.obs.array_col} <= set(spots.columns):
        places = spots.columns[[Key.obs.array_row, Key.obs.array_col]].astype(float).round()
        known = places.notna().all(axis=1).to_numpy()
        pairs = zip(places.fillna(0).to_numpy().astype(int), known, strict=True)
        return spots.with_library([f"{row}x{col}" if is_known else None for (row, col), is_known in pairs])
    return spots.of_kind(_PLACE)


_SCHEMES: dict[str, Callable[[_Spots], pd.Series]] = {
    "names": _whole,
    "library and name": _whole_of_library,
    "library and barcode": _barcode,
    "library and barcode without its suffix": _bare_barcode,
    "library and place in the array": _place,
}


def _by(predicted: pd.Series, measured: pd.Series) -> np.ndarray:
    """Row of the measured spot for every predicted one, -1 for none."""
    known = measured.dropna()
    known = known[~known.duplicated(keep=False)]  # what is repeated tells nothing
    if known.empty:
        return np.full(len(predicted), -1)
    place = pd.Index(known.to_numpy()).get_indexer(pd.Index(predicted.to_numpy(dtype=object)))
    return np.where((place >= 0) & predicted.notna().to_numpy(), known.index.to_numpy()[place], -1)


def _of_own_library(rows: np.ndarray, predicted: _Spots, measured: _Spots) -> np.ndarray:
    """Without spots of another library than that of the prediction: slides share their barcodes."""
    other = pd.notna(predicted.library) & (predicted.library != measured.library[rows])
    return np.where(other, -1, rows)


def _libraries_of(names: pd.Index, columns: pd.DataFrame, libraries: Sequence[str]) -> np.ndarray:
    """Library of every predicted spot: from a column, else from its name, else the only one; `None` where none fits."""
    known = {_plain(name): name for name in libraries}
    best = np.full(len(names), None, dtype=object)
    for column in columns.columns:
        codes, values = pd.factorize(
            columns[column].astype(object).map(lambda value: "" if pd.isna(value) else str(value))
        )
        if len(values) > _MOST_PER_LIBRARY * len(libraries):  # such as counts, which no library is called after
            continue
        found = np.array([known.get(_plain(value)) for value in values], dtype=object)[codes]
        if pd.notna(found).sum() > pd.notna(best).sum():
            best = found
    if pd.notna(best).any():
        return best
    if len(libraries) == 1:
        return np.full(len(names), libraries[0], dtype=object)
    # What is left of a name without its barcode or place, such as section_1_AAAC-1 or 10x13_section_1
    rest = [_plain(_PLACE.sub("", _BARCODE.sub("", str(name)))) for name in names]
    return np.array([known.get(text) for text in rest], dtype=object)


def _plain(name: str) -> str:
    """A name without case and separators."""
    return _SEPARATORS.sub("", str(name)).lower()
