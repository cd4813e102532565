"""Protocols by which predictions are scored: which entries count, and what is compared within which libraries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import validate
from spared_sc._core.compute import Compute
from spared_sc._core.lineage import unit_of
from spared_sc._core.report import warn
from spared_sc._kernels.counts import row_sums
from spared_sc._kernels.expression_scores import Counted
from spared_sc._kernels.folds import Fold, detected_in_training, plan, shares_in_training
from spared_sc._kernels.intervals import independent_unit
from spared_sc._kernels.metrics import CEILING
from spared_sc._kernels.prediction_scores import Measured
from spared_sc._kernels.prediction_shrinkage import expected_counts
from spared_sc.tl._resolve import resolve, warn_of_no_floor
from spared_sc.tl._task import get_spots

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._core.predictions import Predictions
    from spared_sc._core.validate import Libraries
    from spared_sc.tl._resolve import Resolved

ByMetric = dict[str, np.ndarray]  # (n_units, 1 + n_genes), over all genes and of each, or with the first column only
_GENE_MEAN = "gene_mean"
_NO_SHARE = "a saved model of a layer does not tell the gene's share in its training"


@dataclass(frozen=True)
class Unit:
    """A library, or several that are scored together."""

    library: str
    subject: str
    role: str


@dataclass(frozen=True)
class Scores:
    """Scores of every prediction in every unit."""

    values: dict[str, ByMetric]
    units: list[Unit]
    kind: str  # of the independent units
    notes: dict[tuple[str, str], str] = field(default_factory=dict)  # why a metric of a prediction has no value


def _kind(units: list[Unit]) -> str:
    """Of the independent units."""
    return independent_unit([unit.subject for unit in units], [unit.library for unit in units])


@dataclass(frozen=True)
class Scoring:
    """Predictions and the data to score them on; rows are those of the AnnData."""

    adata: AnnData
    libraries: Libraries
    subjects: list[str]
    predictions: Predictions
    genes: np.ndarray  # (n_genes,) columns of the AnnData
    scored: np.ndarray  # (n_libraries,) booleans
    layer: str
    library_key: str | None
    spatial_key: str
    random_state: int

    @cached_property
    def folds(self) -> list[Fold]:
        """The fits behind the predictions; validation libraries are not told apart if all were held out in turn."""
        role = np.array([self.predictions.roles[name] for name in self.libraries.names])
        split = None if (role == "held out").all() else role
        return plan(split, np.array([self.predictions.groups[name] for name in self.libraries.names]))[0]

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        """Predictions by their name, (n_spots, n_genes)."""
        return {key: table.to_numpy(dtype=np.float32) for key, table in self.predictions.tables.items()}

    def anchors(self, names: tuple[str, ...], truth: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
        """Predictions of anchors, fitted to the known entries of the libraries that the models were fitted to."""
        from spared_sc._models.prediction.linear import predict_anchor
        from spared_sc._models.prediction.registry import PREDICTORS

        result = {}
        for name in names:
            try:
                spots = get_spots(self.adata, self.libraries, PREDICTORS[name].needs, spatial_key=self.spatial_key)
            except (KeyError, TypeError, ValueError) as error:
                warn(f"the anchor {name!r} is left out: {error}")
                continue
            spots = replace(spots, target=truth, known=known)
            result[name] = predict_anchor(name, spots, self.folds, Compute(show_progress_bar=False))
        return result

    def by_library(self, scores: dict[str, ByMetric], notes: dict[tuple[str, str], str] | None = None) -> Scores:
        """Scores of the libraries one by one."""
        names, roles = self.libraries.names, self.predictions.roles
        units = [Unit(names[i], self.subjects[i], roles[names[i]]) for i in np.flatnonzero(self.scored)]
        return Scores(scores, units, _kind(units), notes or {})

    def rng(self) -> np.random.Generator:
        """Draws of the thinning."""
        return np.random.default_rng([self.random_state, 1])


# --- detected entries -------------------------------------------------------------------------------------------------


def score_spared(scoring: Scoring) -> Scores:
    """Detected entries of the measured layer, within libraries."""
    from spared_sc._models.prediction.registry import ANCHORS

    predictions, codes = scoring.predictions, scoring.libraries.codes
    truth, known = validate.get_block(scoring.adata, scoring.layer, scoring.genes)
    if predictions.gene_mean is None:
        values = scoring.values | scoring.anchors(ANCHORS, truth, known)
        known = known & detected_in_training(scoring.folds, codes, known)
    else:  # of saved models, whose train libraries may not be at hand
        values = scoring.values | {_GENE_MEAN: np.broadcast_to(predictions.gene_mean, truth.shape)}
        known = known & np.isfinite(predictions.gene_mean)
    rows = np.flatnonzero(scoring.scored[codes])
    number = np.cumsum(scoring.scored) - 1  # of a scored library among those
    measured = Measured(truth[rows], known[rows], number[codes[rows]], int(scoring.scored.sum()))
    scores = {key: measured.scores(prediction[rows]) for key, prediction in values.items()}
    reference = scores[_GENE_MEAN]["mse"]
    for of_table in scores.values():
        of_table["skill"] = 1 - of_table["mse"] / reference
    variances = _noise_variances(scoring)
    if variances is not None:
        scores |= measured.limits([variance[rows] for variance in variances])
    return scoring.by_library(scores)


def _noise_variances(scoring: Scoring) -> tuple[np.ndarray, np.ndarray] | None:
    """Two estimates of the sampling variance of every entry, (n_spots, n_genes); `None` if they need what is missing."""
    from spared_sc._kernels.floor import noise_variances

    try:
        resolved = _resolved(scoring)
    except (KeyError, TypeError, ValueError) as error:
        warn(f"there is no noise floor: {error.args[0]}")
        return None
    if resolved.sections.total is None:
        warn_of_no_floor(scoring.layer)
        return None
    first, second = noise_variances(resolved.sections, scoring.rng())
    return resolved.to_rows(first), resolved.to_rows(second)


def _resolved(scoring: Scoring) -> Resolved:
    return resolve(
        scoring.adata,
        layer=scoring.layer,
        mask_var=None,
        library_key=scoring.library_key,
        spatial_key=scoring.spatial_key,
        genes=scoring.genes,
    )


# --- all spots --------------------------------------------------------------------------------------------------------


def score_expression(scoring: Scoring) -> Scores:
    """Raw counts of all spots, within libraries."""
    counts, depth = _raw_counts(scoring)
    exposure, reason = _exposure(scoring)
    baseline, learned = _baseline(scoring, counts, depth, exposure)
    rows, number = _scored_rows(scoring), np.cumsum(scoring.scored) - 1
    counted = Counted(
        counts[rows],
        depth[rows],
        number[scoring.libraries.codes[rows]],
        learned[scoring.scored],
        None if baseline is None else baseline[rows],
    )
    unit = unit_of(scoring.adata, scoring.layer)
    scores: dict[str, ByMetric] = {}
    notes: dict[tuple[str, str], str] = {}
    for key, values in (scoring.values | _anchors_of_all_entries(scoring)).items():
        why = reason or _why_not_in_unit(scoring.predictions.units.get(key, unit), unit)
        expected = None if exposure is None or why else expected_counts(values[rows], exposure[rows])
        scores[key] = counted.deviance_explained(expected) | counted.correlations(values[rows])
        notes |= {(key, metric): why for metric in ("d2", "d2_own") if why}
    flat = np.zeros(counted.counts.shape, dtype=np.float32)
    scores[_GENE_MEAN] = counted.deviance_explained(counted.baseline) | counted.correlations(flat)
    scores[CEILING] = counted.ceilings(scoring.rng())
    if baseline is None and not reason:
        notes = {(key, "d2"): _NO_SHARE for key in scores} | notes
    return scoring.by_library(_in_order(scores), notes)


def score_hest(scoring: Scoring) -> Scores:
    """Correlation of all spots of the libraries that were held out together, as in HEST-bench."""
    counts, depth = _raw_counts(scoring)
    _, learned = _baseline(scoring, counts, depth, None)
    units, group = _test_splits(scoring)
    rows = _scored_rows(scoring)
    codes = scoring.libraries.codes[rows]
    first = np.array([np.flatnonzero(group == code)[0] for code in range(len(units))])
    counted = Counted(counts[rows], depth[rows], group[codes], learned[first])
    values = scoring.values | _anchors_of_all_entries(scoring)
    values[_GENE_MEAN] = np.zeros(counts.shape, dtype=np.float32)
    scores = {key: {"pcc": counted.correlations(of_key[rows])["pcc"]} for key, of_key in values.items()}
    scores[CEILING] = {"pcc": counted.ceilings(scoring.rng())["pcc"]}
    kind = _kind(units)
    return Scores(_in_order(scores), units, "fold" if kind == "library" else kind)


def _raw_counts(scoring: Scoring) -> tuple[np.ndarray, np.ndarray]:
    """Counts of the genes, (n_spots, n_genes), and depth, (n_spots,)."""
    counts, _ = validate.get_counts(scoring.adata)
    return validate.dense(counts[:, scoring.genes]).astype(np.float32), row_sums(counts)


def _exposure(scoring: Scoring) -> tuple[np.ndarray | None, str]:
    """Count that a scaled expression of one gives, (n_spots, n_genes); or `None`, and why it is not known."""
    try:
        resolved = _resolved(scoring)
        reason = f"layers[{scoring.layer!r}] is not log2(1 + scaled count)" if resolved.sections.total is None else ""
    except (KeyError, TypeError, ValueError) as error:
        resolved, reason = None, str(error.args[0])
    if resolved is None or reason:
        warn(f"there are no d2 and d2_own, which need the counts that a prediction stands for: {reason}")
        return None, reason
    return resolved.to_rows(resolved.sections.exposure()), ""


def _baseline(
    scoring: Scoring, counts: np.ndarray, depth: np.ndarray, exposure: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray]:
    """Counts at the share of training, (n_spots, n_genes), and whether training saw the genes, (n_libraries, n_genes)."""
    codes, mean = scoring.libraries.codes, scoring.predictions.gene_mean
    if mean is None:
        share = shares_in_training(scoring.folds, codes, counts, depth)
        return share[codes] * depth[:, None], share > 0
    learned = np.broadcast_to(np.isfinite(mean), (len(scoring.scored), len(mean)))
    if exposure is None or not scoring.predictions.at_share:
        return None, learned
    return expected_counts(np.nan_to_num(mean), exposure), learned


def _anchors_of_all_entries(scoring: Scoring) -> dict[str, np.ndarray]:
    """Anchors that learn the measured layer with its zeros; none of saved models, whose train libraries may be absent."""
    from spared_sc._models.prediction.registry import ANCHORS

    if scoring.predictions.gene_mean is not None:
        return {}
    truth, _ = validate.get_block(scoring.adata, scoring.layer, scoring.genes)
    others = tuple(name for name in ANCHORS if name != _GENE_MEAN)
    return scoring.anchors(others, truth, np.ones(truth.shape, dtype=bool))


def _why_not_in_unit(predicted: str, unit: str) -> str:
    """Why the counts that a prediction stands for are not known; empty if they are."""
    return "" if predicted == unit else f"predicted in the unit of {predicted!r}, not of {unit!r}"


def _scored_rows(scoring: Scoring) -> np.ndarray:
    """Spots of the scored libraries, in an order that does not depend on the user's."""
    order = validate.canonical_order(scoring.adata, scoring.libraries, scoring.spatial_key)
    return order[scoring.scored[scoring.libraries.codes[order]]]


def _test_splits(scoring: Scoring) -> tuple[list[Unit], np.ndarray]:
    """The libraries that were held out together as one unit each, and the unit of every library, (n_libraries,)."""
    names, predictions = np.array(scoring.libraries.names), scoring.predictions
    subjects, roles = np.array(scoring.subjects), np.array([predictions.roles[name] for name in names])
    groups = np.array([predictions.groups[name] if roles[i] == "held out" else "" for i, name in enumerate(names)])
    group = np.full(len(names), -1)
    units: list[Unit] = []
    for name in np.unique(groups[scoring.scored]):
        here = scoring.scored & (groups == name)
        group[here] = len(units)
        units.append(Unit(", ".join(names[here]), ", ".join(np.unique(subjects[here])), roles[here][0]))
    return units, group


def _in_order(scores: dict[str, ByMetric]) -> dict[str, ByMetric]:
    """Predictions, then anchors, then the ceiling."""
    from spared_sc._models.prediction.registry import ANCHORS

    last = [name for name in (*ANCHORS, CEILING) if name in scores]
    return {name: scores[name] for name in [*(name for name in scores if name not in last), *last]}


PROTOCOLS: dict[str, Callable[[Scoring], Scores]] = {
    "expression": score_expression,
    "spared": score_spared,
    "hest": score_hest,
}
