"""Agreement of predictions with measurements, per gene, spot and library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._kernels.metrics import FLOORS, grouped_pearson

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Measured:
    """Measurements of the scored libraries."""

    truth: np.ndarray  # (n_spots, n_genes)
    known: np.ndarray  # (n_spots, n_genes) booleans, entries to score
    library: np.ndarray  # (n_spots,) library as 0, 1, ...
    n_libraries: int

    def scores(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Scores per library, (n_libraries, 1 + n_genes): over all genes, then of each gene.

        `pcc_spot` has the first column only, and `pcc_pooled` is one value over all libraries.
        """
        genes = by_gene(self.truth, self.known, prediction, self.library, self.n_libraries)
        total = by_library(self.truth, self.known, prediction, self.library, self.n_libraries)
        total["pcc"] = _mean_over_genes(genes["pcc"])
        scores = {name: np.column_stack([total[name], genes[name]]) for name in ("mse", "mae", "r2", "pcc")}
        scores["pcc_spot"] = total["pcc_spot"][:, None]
        pooled = by_gene(self.truth, self.known, prediction, np.zeros_like(self.library), 1)["pcc"]
        scores["pcc_pooled"] = _mean_over_genes(pooled)
        return scores

    def limits(self, variances: Sequence[np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Scores of a prediction without error, at two estimates of the sampling variance, (n_spots, n_genes)."""
        low, high = sorted(map(self._limit, variances), key=lambda scores: np.nansum(scores["mse"]))
        return dict(zip(FLOORS, (low, high), strict=True))

    def _limit(self, variance: np.ndarray) -> dict[str, np.ndarray]:
        entries = [self.known & (self.library == code)[:, None] for code in range(self.n_libraries)]
        mse = [variance[here].mean() if here.any() else np.nan for here in entries]
        highest = ceiling(self.truth, self.known, variance, self.library, self.n_libraries)
        return {"mse": np.array(mse)[:, None], "pcc": np.column_stack([_mean_over_genes(highest), highest])}


def _mean_over_genes(values: np.ndarray) -> np.ndarray:
    """Mean over the genes that have a value, (n_libraries,)."""
    return _mean(values.T)


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over the rows that have a value, NaN where none has."""
    defined = np.isfinite(values)
    n = defined.sum(axis=0).astype(float)
    n[n == 0] = np.nan
    return np.where(defined, values, 0).sum(axis=0) / n


def summarise(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean over the libraries, and both ends of its 95 % interval.

    Parameters
    ----------
    values
        (n_libraries, n_columns); libraries without a value do not count, nor in a resample.
    weights
        (n_bootstrap, n_libraries) of the libraries in every resample.

    Returns
    -------
    Three arrays (n_columns,). The ends are NaN where fewer than two libraries have a value.
    """
    defined = np.isfinite(values)
    resampled = weights @ np.where(defined, values, 0)
    share = weights @ defined.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = resampled / share
    ends = np.full((2, values.shape[1]), np.nan)
    several = defined.sum(axis=0) > 1
    if several.any():
        ends[:, several] = np.nanquantile(resampled[:, several], (0.025, 0.975), axis=0)
    return _mean(values), ends[0], ends[1]


def by_gene(
    truth: np.ndarray, known: np.ndarray, prediction: np.ndarray, library: np.ndarray, n_libraries: int
) -> dict[str, np.ndarray]:
    """Scores of every gene in every library on its known entries, (n_libraries, n_genes), NaN where there are none.

    `mse`, `mae`; `r2` = 1 - squared error / squared deviation from the gene's mean in the library; `pcc` over the spots
    of the library, NaN for fewer than ten entries or a constant truth, zero for a constant prediction.
    """
    n_genes = truth.shape[1]
    spot, gene = np.nonzero(known)
    group = library[spot] * n_genes + gene
    size = n_libraries * n_genes
    one, other = truth[spot, gene].astype(np.float64), prediction[spot, gene].astype(np.float64)
    n = np.bincount(group, minlength=size).astype(float)
    n[n == 0] = np.nan
    squared = np.bincount(group, (one - other) ** 2, size)
    mean = np.bincount(group, one, size) / n
    total = np.bincount(group, (one - mean[group]) ** 2, size)
    varies = total > 1e-12 * n
    scores = {
        "mse": squared / n,
        "mae": np.bincount(group, np.abs(one - other), size) / n,
        "r2": np.where(varies, 1 - squared / np.where(varies, total, 1), np.nan),
        "pcc": _pearson(one, other, group, size),
    }
    return {name: value.reshape(n_libraries, n_genes) for name, value in scores.items()}


def _pearson(truth: np.ndarray, prediction: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Correlation within groups, zero for a prediction that does not vary where the truth does.

    Leaving such genes out would raise the mean over genes.
    """
    correlation = grouped_pearson(truth, prediction, group, n_groups)
    varies = np.isfinite(grouped_pearson(truth, truth, group, n_groups))
    return np.where(varies & np.isnan(correlation), 0.0, correlation)


def by_library(
    truth: np.ndarray, known: np.ndarray, prediction: np.ndarray, library: np.ndarray, n_libraries: int
) -> dict[str, np.ndarray]:
    """Scores over all known entries of a library, (n_libraries,).

    `mse` and `mae` over entries; `r2` with the squared deviations from each gene's mean in the library; `pcc_spot`, the
    mean over spots of the correlation over genes.
    """
    spot, gene = np.nonzero(known)
    where = library[spot]
    one, other = truth[spot, gene].astype(np.float64), prediction[spot, gene].astype(np.float64)
    n = np.bincount(where, minlength=n_libraries).astype(float)
    n[n == 0] = np.nan
    squared = np.bincount(where, (one - other) ** 2, n_libraries)
    cell = where * truth.shape[1] + gene
    size = n_libraries * truth.shape[1]
    mean = np.bincount(cell, one, size) / np.maximum(np.bincount(cell, minlength=size), 1)
    total = np.bincount(where, (one - mean[cell]) ** 2, n_libraries)
    per_spot = _pearson(one, other, spot, len(truth))
    defined = np.isfinite(per_spot)
    n_spots = np.bincount(library[defined], minlength=n_libraries).astype(float)
    n_spots[n_spots == 0] = np.nan
    return {
        "mse": squared / n,
        "mae": np.bincount(where, np.abs(one - other), n_libraries) / n,
        "r2": np.where(total > 1e-12 * n, 1 - squared / np.where(total > 0, total, 1), np.nan),
        "pcc_spot": np.bincount(library[defined], per_spot[defined], n_libraries) / n_spots,
    }


def ceiling(
    truth: np.ndarray, known: np.ndarray, variance: np.ndarray, library: np.ndarray, n_libraries: int
) -> np.ndarray:
    """The correlation of a gene with its expectation, if the rest of its variance is sampling noise.

    sqrt(1 - mean noise variance / variance) over the known entries, (n_libraries, n_genes); zero where noise explains all.
    """
    n_genes = truth.shape[1]
    spot, gene = np.nonzero(known)
    group, size = library[spot] * n_genes + gene, n_libraries * n_genes
    n = np.bincount(group, minlength=size).astype(float)
    n[n < 10] = np.nan
    values = truth[spot, gene].astype(np.float64)
    mean = np.bincount(group, values, size) / n
    total = np.bincount(group, (values - np.nan_to_num(mean)[group]) ** 2, size)
    noise = np.bincount(group, variance[spot, gene], size)
    varies = total > 1e-12 * n
    share = np.where(varies, noise / np.where(varies, total, 1), np.nan)
    return np.sqrt(np.clip(1 - share, 0, None)).reshape(n_libraries, n_genes)
