"""How often genes are detected, and the genes that SpaRED's filter keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sps

from spared_sc._kernels.counts import column_statistics


@dataclass(frozen=True)
class Detection:
    """Counts and detections of every gene, library by library."""

    n_spots: np.ndarray  # (n_libraries,)
    total: np.ndarray  # (n_genes,) counts in all libraries
    n_detected: np.ndarray  # (n_libraries, n_genes) spots with a count

    @property
    def fraction(self) -> np.ndarray:
        """Share of all spots in which each gene is detected."""
        return self.n_detected.sum(axis=0) / self.n_spots.sum()

    @property
    def min_fraction(self) -> np.ndarray:
        """The smallest such share over the libraries that have spots."""
        present = self.n_spots > 0
        return (self.n_detected[present] / self.n_spots[present, None]).min(axis=0)


def count_detections(counts: sps.csr_matrix, library: np.ndarray, n_libraries: int) -> Detection:
    """Detections of every gene in the spots with a library >= 0."""
    total, n_detected = column_statistics(
        counts.indptr, counts.indices, counts.data, library, n_libraries, counts.shape[1]
    )
    return Detection(np.bincount(library[library >= 0], minlength=n_libraries), total, n_detected)


def well_detected(
    detection: Detection,
    names: np.ndarray,
    *,
    counts: tuple[float, float],
    min_fraction: float,
    min_library_fraction: float,
    real_data_share: float,
) -> np.ndarray:
    """Mask of the genes that SpaRED's filter keeps.

    Genes are ranked by `min_fraction`, then `fraction`, then name. They are kept up to the last rank at which the share
    of detected entries of all genes so far reaches `real_data_share`.
    """
    fraction, smallest = detection.fraction, detection.min_fraction
    candidate = (detection.total > counts[0]) & (detection.total < counts[1])
    candidate &= (fraction >= min_fraction) & (smallest >= min_library_fraction)
    ranked = np.lexsort((names, -fraction, -smallest))
    ranked = ranked[candidate[ranked]]
    # Sums of counts, not of shares: these are exact, so that a share just reached is seen as reached.
    running = np.cumsum(detection.n_detected.sum(axis=0)[ranked])
    enough = np.flatnonzero(running / (detection.n_spots.sum() * np.arange(1, ranked.size + 1)) >= real_data_share)
    keep = np.zeros(names.size, dtype=bool)
    keep[ranked[: enough[-1] + 1] if enough.size else []] = True
    return keep
