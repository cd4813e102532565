"""Scores of predictions on measured expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.compute import Compute
from spared_sc._core.keys import Key
from spared_sc._core.lineage import unit_of
from spared_sc._core.predictions import Predictions, get_predictions, scored_libraries
from spared_sc._core.report import warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.folds import Fold, detected_in_training, plan
from spared_sc._kernels.intervals import independent_unit, reason, t_interval, unit_means
from spared_sc._kernels.prediction_scores import Measured
from spared_sc.tl._resolve import resolve, warn_of_no_floor
from spared_sc.tl._task import get_spots

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spared_sc._core.validate import Libraries

COLUMNS = (
    "prediction",
    "library",
    "subject",
    "role",
    "gene",
    "metric",
    "value",
    "lower",
    "upper",
    "n_units",
    "unit",
    "note",
)
_ALL = "all"


@accepts_spatialdata
@docs.fill()
def score_prediction(
    adata: AnnData,
    keys: str | Sequence[str] | None = None,
    *,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predictions on detected entries, within libraries, beside anchors and the limits that noise sets.

    The anchors `gene_mean`, `depth_only` and `position_only` are fitted to detected entries of the libraries that the
    models were fitted to. Whichever layer a model was fitted to, the truth is the measured, uncorrected layer, on entries
    with a count. Only libraries that had no part in fitting are scored: those of the test split, or held out. If there
    are none, the validation libraries are scored, and the column `role` says so: the best step was chosen on them.

    Parameters
    ----------
    adata
        Spots x genes with tables from :func:`spared_sc.tl.predict_expression`.
    keys
        Names of the tables in `obsm`; all of them by default.
    layer
        Measured expression.
    {library_key}
    subject_key
        Column of `obs` with the donor of each spot. Sections of one donor are not independent: they are averaged, and
        donors are the units of means and intervals. Without it, the libraries are.
    {spatial_key}
    random_state
        Seed of the thinning behind the noise floor.

    Returns
    -------
    A table with the columns `prediction`, `library`, `subject`, `role`, `gene`, `metric`, `value`, `lower`, `upper`,
    `n_units`, `unit` and `note`. `library="all"` is the mean over the units in which the score is defined, with the ends
    of its 95 % t interval. The units are donors (`unit="subject"`) with `subject_key`, else libraries; below three of
    them the ends are NaN, and `note` says why. The interval generalises to other donors like these, and without
    `subject_key` to other sections of the donors at hand. The metrics:

    - `mse`, `mae`, `r2` (of the deviations from each gene's mean in the library)
    - `skill`: 1 - mse / mse of `gene_mean`; above zero, the image carries information
    - `pcc`: of a gene over the spots of a library; with `gene="all"`, the mean over genes. A prediction that does not
      vary where the gene does counts as zero.
    - `pcc_spot`: of a spot over genes, mean over spots
    - `pcc_pooled`: of a gene over the spots of all libraries together, as SpaRED computes it (`library="all"` only);
      differences between sections inflate it

    With `gene` there are `mse`, `mae`, `r2`, `skill` and `pcc` of every gene. `prediction="floor_low"` and `"floor_high"`
    are the range of scores of a prediction without any error, from the sampling noise of counts: a floor of the `mse` and
    a ceiling of the `pcc`. Genes without a detected entry in training are not scored.

    Raises
    ------
    KeyError
        If a table, layer or column does not exist.
    ValueError
        If no library can be scored, or if the tables differ in genes or in the libraries that were held out.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> sp.tl.predict_expression(adata, model="ridge", library_key="library_id")
    >>> scores = sp.tl.score_prediction(adata, library_key="library_id")
    >>> summary = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "pcc")]
    >>> summary["prediction"].tolist()
    ['predicted_ridge', 'gene_mean', 'depth_only', 'position_only', 'floor_low', 'floor_high']
    """
    adata = validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    subjects = validate.get_subjects(adata, subject_key, libraries)
    validate.check_number("random_state", random_state, 0, whole=True)
    predictions = get_predictions(adata, keys, libraries.names)
    genes = _columns_of(adata, predictions.genes)
    truth, known = validate.get_block(adata, layer, genes)
    scored, _ = scored_libraries(predictions.roles, libraries.names)
    _warn_of_units(adata, layer, predictions)
    values = {key: table.to_numpy(dtype=np.float32) for key, table in predictions.tables.items()}
    if predictions.gene_mean is None:
        folds = _folds(libraries, predictions)
        values |= _anchors(adata, libraries, folds, truth, known, spatial_key)
        known = known & detected_in_training(folds, libraries.codes, known)
    else:  # of saved models, whose train libraries may not be at hand
        values["gene_mean"] = np.broadcast_to(predictions.gene_mean, truth.shape)
        known = known & np.isfinite(predictions.gene_mean)
    rows = np.flatnonzero(scored[libraries.codes])
    number = np.cumsum(scored) - 1  # of a scored library among those
    measured = Measured(truth[rows], known[rows], number[libraries.codes[rows]], int(scored.sum()))
    scores = {key: measured.scores(prediction[rows]) for key, prediction in values.items()}
    reference = scores["gene_mean"]["mse"]
    for of_table in scores.values():
        of_table["skill"] = 1 - of_table["mse"] / reference
    variances = _noise_variances(adata, layer, genes, library_key, spatial_key, random_state)
    if variances is not None:
        scores |= measured.limits([variance[rows] for variance in variances])
    kept = [(libraries.names[i], subjects[i], predictions.roles[libraries.names[i]]) for i in np.flatnonzero(scored)]
    return _table(scores, kept, predictions.genes)


def _columns_of(adata: AnnData, names: pd.Index) -> np.ndarray:
    """Columns of the AnnData with the predicted genes."""
    genes = adata.var_names.get_indexer(names)
    if (genes < 0).any():
        raise ValueError(
            f"adata has no genes {validate.listing(names[genes < 0], 5)}, which were predicted: they cannot be scored."
        )
    return genes


def _warn_of_units(adata: AnnData, layer: str, predictions: Predictions) -> None:
    """Name the predictions in another unit than the truth."""
    unit = unit_of(adata, layer)
    for key, predicted in predictions.units.items():
        if predicted != unit:
            warn(
                f"{key!r} predicts in the unit of {predicted!r}, and the truth is in that of {unit!r}: of its scores only "
                f"the correlations of genes mean something. Pass layer={predicted!r}, or predict {unit!r}.",
            )


def _folds(libraries: Libraries, predictions: Predictions) -> list[Fold]:
    """The fits behind the predictions; validation libraries are not told apart if all were held out in turn."""
    role = np.array([predictions.roles[name] for name in libraries.names])
    split = None if (role == "held out").all() else role
    return plan(split, np.array([predictions.groups[name] for name in libraries.names]))[0]


def _anchors(
    adata: AnnData, libraries: Libraries, folds: list[Fold], truth: np.ndarray, known: np.ndarray, spatial_key: str
) -> dict[str, np.ndarray]:
    """Predictions of the anchors, fitted to the detected entries of the libraries that the models were fitted to."""
    from spared_sc._models.prediction.linear import predict_anchor
    from spared_sc._models.prediction.registry import ANCHORS, PREDICTORS

    result = {}
    for name in ANCHORS:
        try:
            spots = get_spots(adata, libraries, PREDICTORS[name].needs, spatial_key=spatial_key)
        except (KeyError, TypeError, ValueError) as error:
            warn(f"the anchor {name!r} is left out: {error}")
            continue
        spots = replace(spots, target=truth, known=known)
        result[name] = predict_anchor(name, spots, folds, Compute(show_progress_bar=False))
    return result


def _noise_variances(
    adata: AnnData, layer: str, genes: np.ndarray, library_key: str | None, spatial_key: str, random_state: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Two estimates of the sampling variance of every entry, (n_spots, n_genes); `None` if they need what is missing."""
    from spared_sc._kernels.floor import noise_variances

    try:
        resolved = resolve(
            adata, layer=layer, mask_var=None, library_key=library_key, spatial_key=spatial_key, genes=genes
        )
    except (KeyError, TypeError, ValueError) as error:
        warn(f"there is no noise floor: {error.args[0]}")
        return None
    if resolved.sections.total is None:
        warn_of_no_floor(layer)
        return None
    first, second = noise_variances(resolved.sections, np.random.default_rng([random_state, 1]))
    return resolved.to_rows(first), resolved.to_rows(second)


def _table(scores: dict[str, dict[str, np.ndarray]], kept: list[tuple[str, str, str]], genes: pd.Index) -> pd.DataFrame:
    """One row for each score; `kept` holds library, subject and role of the scored libraries."""
    import pandas as pd

    names, donors, _ = zip(*kept, strict=True)
    unit = independent_unit(donors, names)
    together = (_ALL,) * 3
    rows: list[tuple[str | float, ...]] = []
    for key, of_table in scores.items():
        for metric, values in of_table.items():
            if metric == "pcc_pooled":
                pooled = float(values[0]), np.nan, np.nan, 1, "collection", "one value of all libraries"
                rows.append((key, *together, _ALL, metric, *pooled))
                continue
            columns = [_ALL, *genes][: values.shape[1]]
            rows += [
                (key, *library, gene, metric, float(value), np.nan, np.nan, 1, "library", "one library")
                for library, of_library in zip(kept, values, strict=True)
                for gene, value in zip(columns, of_library, strict=True)
            ]
            rows += [
                (key, *together, gene, metric, *map(float, ends), int(n), unit, reason(n, unit))
                for gene, *ends, n in zip(columns, *t_interval(unit_means(values, donors)), strict=True)
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
