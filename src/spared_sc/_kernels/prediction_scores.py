"""Agreement of predictions with measurements, per gene, spot and library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from spared_sc._kernels.metrics import FLOORS, finite_mean, grouped_pearson


@dataclass(frozen=True)
class Measured:
    """Measurements of the scored libraries; predictions and variances are (n_spots, n_genes), too."""

    truth: np.ndarray  # (n_spots, n_genes)
    known: np.ndarray  # (n_spots, n_genes) booleans, entries to score
    library: np.ndarray  # (n_spots,) library as 0, 1, ...
    n_libraries: int

    def scores(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Scores per library, (n_libraries, 1 + n_genes): over all genes, then of each gene.

        `pcc_spot` has the first column only, and `pcc_pooled` is one value over all libraries.
        """
        genes, total = self.by_gene(prediction), self.by_library(prediction)
        total["pcc"] = finite_mean(genes["pcc"], axis=1)
        scores = {name: np.column_stack([total[name], genes[name]]) for name in ("mse", "mae", "r2", "pcc")}
        scores["pcc_spot"] = total["pcc_spot"][:, None]
        together = replace(self, library=np.zeros_like(self.library), n_libraries=1)
        scores["pcc_pooled"] = finite_mean(together.by_gene(prediction)["pcc"], axis=1)
        return scores

    def by_gene(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of every gene in every library, (n_libraries, n_genes), NaN where it has no known entries.

        `mse`, `mae`; `r2` = 1 - squared error / squared deviation from the gene's mean in the library; `pcc` over the
        spots of the library, NaN for fewer than ten entries or a constant truth, zero for a constant prediction.
        """
        _, cell, truth, predicted = self._entries(prediction)
        scores = _errors(truth, predicted, cell, cell, self._n_cells)
        scores["pcc"] = _pearson(truth, predicted, cell, self._n_cells)
        return {name: value.reshape(self.n_libraries, -1) for name, value in scores.items()}

    def by_library(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Scores over all known entries of a library, (n_libraries,).

        `mse` and `mae` over entries; `r2` with the squared deviations from each gene's mean in the library; `pcc_spot`,
        the mean over spots of the correlation over genes.
        """
        spot, cell, truth, predicted = self._entries(prediction)
        scores = _errors(truth, predicted, cell, self.library[spot], self.n_libraries)
        per_spot = _pearson(truth, predicted, spot, len(self.truth))
        defined = np.isfinite(per_spot)
        n_spots = _positive(np.bincount(self.library[defined], minlength=self.n_libraries))
        scores["pcc_spot"] = np.bincount(self.library[defined], per_spot[defined], self.n_libraries) / n_spots
        return scores

    def ceiling(self, variance: np.ndarray) -> np.ndarray:
        """Correlation of a gene with its expectation, if the rest of its variance is sampling noise of this variance.

        sqrt(1 - mean noise variance / variance) over known entries, (n_libraries, n_genes); zero where noise explains all.
        """
        _, cell, truth, noise = self._entries(variance)
        n = np.bincount(cell, minlength=self._n_cells)
        total = np.bincount(cell, _squared_deviations(truth, cell), self._n_cells)
        varies = (n >= 10) & (total > 1e-12 * n)
        share = np.where(varies, np.bincount(cell, noise, self._n_cells) / np.where(varies, total, 1), np.nan)
        return np.sqrt(np.clip(1 - share, 0, None)).reshape(self.n_libraries, -1)

    def limits(self, variances: Sequence[np.ndarray]) -> dict[str, dict[str, np.ndarray]]:
        """Scores of a prediction without error, at two estimates of the sampling variance."""
        low, high = sorted(map(self._limit, variances), key=lambda scores: np.nansum(scores["mse"]))
        return dict(zip(FLOORS, (low, high), strict=True))

    def _limit(self, variance: np.ndarray) -> dict[str, np.ndarray]:
        entries = [self.known & (self.library == code)[:, None] for code in range(self.n_libraries)]
        mse = [variance[here].mean() if here.any() else np.nan for here in entries]
        highest = self.ceiling(variance)
        return {"mse": np.array(mse)[:, None], "pcc": np.column_stack([finite_mean(highest, axis=1), highest])}

    @property
    def _n_cells(self) -> int:
        return self.n_libraries * self.truth.shape[1]

    def _entries(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Of the known entries: spot, number of the gene in its library, truth and values."""
        spot, gene = np.nonzero(self.known)
        cell = self.library[spot] * self.truth.shape[1] + gene
        return spot, cell, self.truth[spot, gene].astype(np.float64), values[spot, gene].astype(np.float64)


def _positive(n: np.ndarray) -> np.ndarray:
    """Numbers to divide by, NaN instead of zero."""
    return np.where(n > 0, n, np.nan)


def _squared_deviations(values: np.ndarray, cell: np.ndarray) -> np.ndarray:
    """From the mean of the entry's gene in its library."""
    mean = np.bincount(cell, values) / np.maximum(np.bincount(cell), 1)
    return (values - mean[cell]) ** 2


def _errors(
    truth: np.ndarray, prediction: np.ndarray, cell: np.ndarray, group: np.ndarray, n_groups: int
) -> dict[str, np.ndarray]:
    """`mse`, `mae` and `r2` of every group of entries, NaN for one without entries."""
    n = _positive(np.bincount(group, minlength=n_groups))
    squared = np.bincount(group, (truth - prediction) ** 2, n_groups)
    total = np.bincount(group, _squared_deviations(truth, cell), n_groups)
    varies = total > 1e-12 * n
    return {
        "mse": squared / n,
        "mae": np.bincount(group, np.abs(truth - prediction), n_groups) / n,
        "r2": np.where(varies, 1 - squared / np.where(varies, total, 1), np.nan),
    }


def _pearson(truth: np.ndarray, prediction: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Correlation within groups, zero for a prediction that does not vary where the truth does.

    Leaving such genes out would raise the mean over genes.
    """
    correlation = grouped_pearson(truth, prediction, group, n_groups)
    varies = np.isfinite(grouped_pearson(truth, truth, group, n_groups))
    return np.where(varies & np.isnan(correlation), 0.0, correlation)
