"""The unit of predictions, recognised from their values, and their conversion to that of the measured layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LOG2, CP10K, COUNTS, ZSCORE = "log2tpm", "log1p_cp10k", "counts", "zscore"
UNITS = {
    LOG2: "log2(TPM + 1), or log2(CPM + 1) where the layer is that",
    CP10K: "log(1 + counts per 10,000)",
    COUNTS: "counts",
    ZSCORE: "deviations from the gene's mean over its standard deviation",
}
_FAR = np.log(3)  # of the logarithm of mean levels: in another unit they are further apart
_CLEAR = np.log(1.25)  # by which the second nearest unit must be further


@dataclass(frozen=True)
class Measured:
    """What was measured in the spots and genes of predictions."""

    layer: np.ndarray  # (n_spots, n_genes) in the unit of the layer
    counts: np.ndarray  # (n_spots, n_genes)
    depth: np.ndarray  # (n_spots,) counts of all genes


def recognise(values: np.ndarray, measured: Measured) -> str:
    """The unit whose mean levels are those of the predictions.

    Raises
    ------
    ValueError
        If no unit fits, or if several do.
    """
    if _is_standardised(values):
        return ZSCORE
    if (values >= 0).all() and (values == np.round(values)).all():
        return COUNTS
    distances = {name: _distance(values, level) for name, level in _levels(measured).items()}
    first, second = sorted(distances, key=lambda name: distances[name])[:2]
    if distances[first] < _FAR and distances[second] - distances[first] > _CLEAR:
        return first
    found = ", ".join(f"{np.exp(distance):.3g} times off as {name!r}" for name, distance in distances.items())
    raise ValueError(
        f"the unit of the predictions cannot be told from their levels (the typical gene is {found}): pass one of "
        f"{', '.join(map(repr, UNITS))} as `unit=`."
    )


def _is_standardised(values: np.ndarray) -> bool:
    """Whether values of the typical gene lie around zero, which those of no other unit do."""
    spread = values.std(axis=0)
    if not (spread > 0).any():
        return False
    offset = np.abs(values.mean(axis=0))[spread > 0] / spread[spread > 0]
    return bool(np.median(offset) < 0.3 and 0.2 < (values < 0).mean() < 0.8)


def _levels(measured: Measured) -> dict[str, np.ndarray]:
    """Mean level of every gene in every unit that has one."""
    share = measured.counts / np.maximum(measured.depth, 1)[:, None]
    return {
        LOG2: measured.layer.mean(axis=0),
        CP10K: np.log1p(1e4 * share).mean(axis=0),
        COUNTS: measured.counts.mean(axis=0),
    }


def _distance(values: np.ndarray, level: np.ndarray) -> float:
    """How far mean predictions are from the measured level: root mean square over the genes of the logarithm of their ratio."""
    mean = values.mean(axis=0)
    known = (mean > 0) & (level > 0)
    return float(np.sqrt(np.mean(np.log(mean[known] / level[known]) ** 2))) if known.any() else np.inf


def convert(values: np.ndarray, unit: str, measured: Measured, exposure: np.ndarray) -> np.ndarray:
    """Counts, or log(1 + counts per 10,000), in the unit of the layer; `exposure` is the count at a scaled value of one."""
    counts = np.maximum(values, 0)
    if unit == CP10K:
        counts = np.expm1(counts) / 1e4 * measured.depth[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = counts / exposure
    return np.log2(1 + np.where(np.isfinite(scaled), scaled, 0)).astype(np.float32)
