"""Scores of predictions on measured expression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.keys import Key
from spared_sc._core.lineage import unit_of
from spared_sc._core.predictions import Predictions, get_predictions, scored_libraries
from spared_sc._core.report import warn
from spared_sc._core.sdata import accepts_spatialdata
from spared_sc._kernels.intervals import reason, t_interval, unit_means
from spared_sc.tl._protocols import PROTOCOLS, Scores, Scoring

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

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
    protocol: Literal["expression", "spared", "hest"] = "expression",
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predictions on raw measurements of held-out libraries, beside anchors and the limits that noise sets.

    The anchors `gene_mean`, `depth_only` and `position_only` use no image. They learn from the libraries that the models
    were fitted to, and `depth_only` knows the measured depth of the spots that it predicts. Only libraries that had no
    part in fitting are scored: those of the test split, or held out. If there are none, the validation libraries are
    scored, and the column `role` says so: the best step was chosen on them.

    Parameters
    ----------
    adata
        Spots x genes with tables from :func:`spared_sc.tl.predict_expression`.
    keys
        Names of the tables in `obsm`; all of them by default.
    protocol
        What is compared.

        `"expression"`: raw counts of all spots, zeros included, within libraries. Predictions are log2(1 + scaled count)
        in the unit of `layer`.

        `"hest"`: as HEST-bench does, the correlation with log1p(CP10K), zeros included, over all spots of the libraries
        that were held out together, and its mean over folds. Differences between sections and depth raise it.

        `"spared"`: detected entries of `layer`, within libraries. For predictions given detection; depth raises these
        scores, too.
    layer
        Measured, uncorrected expression.
    {library_key}
    subject_key
        Column of `obs` with the donor of each spot. Sections of one donor are not independent: they are averaged, and
        donors are the units of means and intervals. Without it, the libraries are.
    {spatial_key}
    random_state
        Seed of the thinning behind the limits.

    Returns
    -------
    A table with the columns `prediction`, `library`, `subject`, `role`, `gene`, `metric`, `value`, `lower`, `upper`,
    `n_units`, `unit` and `note`; :func:`spared_sc.get.prediction_summary` condenses it. `library="all"` is the mean over
    the units in which the score is defined, with the ends of its 95 % t interval. The units are donors
    (`unit="subject"`) with `subject_key`, else libraries, or folds with `protocol="hest"`; below three of them the ends
    are NaN, and `note` says why. The interval generalises to other donors like these, and without `subject_key` to other
    sections of the donors at hand. Genes that no train library detected are not scored. A prediction that does not vary
    where the gene does has a correlation of zero.

    With `protocol="expression"`, the metrics of every gene, and with `gene="all"` of all genes, are

    - `d2`: share of the Poisson deviance of the counts that the prediction explains beyond depth times the gene's share
      in the train libraries (a saved model of a layer does not tell it: NaN). At or below zero, it is no better than that
      share. With `gene="all"`, deviances are summed over the genes before they are divided.
    - `d2_own`: the same beyond the library's own share, with expected counts scaled to the observed total of the gene:
      the pattern alone
    - `pcc`: correlation with log1p(CP10K) over the spots; with `gene="all"`, the mean over genes, as of the next
    - `pcc_given_depth`: correlation of what a smooth curve in the log of depth leaves of both sides (see Notes)

    and, with `gene="all"` only, `constant`, `negative` and `positive`: shares of the genes whose prediction does not vary
    in the library, has a `pcc` below zero, and above. `prediction="ceiling"` are the scores that a prediction without
    any error would reach, as estimated from split molecules and from the Poisson noise at the gene's mean.

    With `protocol="hest"` there is `pcc`. With `protocol="spared"` there are

    - `mse`, `mae`, `r2` (of the deviations from each gene's mean in the library)
    - `skill`: 1 - mse / mse of `gene_mean`
    - `pcc`: of a gene over the spots of a library; with `gene="all"`, the mean over genes
    - `pcc_spot`: of a spot over genes, mean over spots
    - `pcc_pooled`: of a gene over the spots of all libraries together, as SpaRED computes it (`library="all"` only);
      differences between sections inflate it

    the first four of every gene, and `prediction="floor_low"` and `"floor_high"`, the range of scores of a prediction
    without any error: a floor of the `mse` and a ceiling of the `pcc`.

    Raises
    ------
    KeyError
        If a table, layer or column does not exist.
    ValueError
        If the protocol is unknown, if no library can be scored, if there are no raw counts, or if the tables differ in
        genes or in the libraries that were held out.

    Notes
    -----
    `pcc_given_depth` is computed twice, with the depth of all molecules and with that of all other genes, and the value
    nearer to zero is returned (zero if the signs differ). Given the molecules of the other genes, a prediction that
    follows the whole depth knows the gene's own count; given all molecules it scores zero, but an abundant gene is part
    of the depth and loses signal.

    The ceiling of `d2` takes the noise at the mean rate. Noise is lower where the rate varies, so genes with a strong
    pattern can be predicted better than that.

    Examples
    --------
    >>> import spared_sc as sp
    >>> adata = sp.datasets.synthetic(n_libraries=3)
    >>> sp.pp.recipe_spared(adata, library_key="library_id", n_genes=16)
    >>> sp.tl.embed_patches(adata, encoder="classical", library_key="library_id")
    >>> sp.tl.predict_expression(adata, model="ridge", library_key="library_id")
    >>> scores = sp.tl.score_prediction(adata, library_key="library_id")
    >>> summary = scores[(scores["library"] == "all") & (scores["gene"] == "all") & (scores["metric"] == "d2")]
    >>> summary["prediction"].tolist()
    ['predicted_ridge', 'gene_mean', 'depth_only', 'position_only', 'ceiling']
    """
    adata = validate.check_adata(adata)
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol={protocol!r} is unknown: choose {validate.listing(PROTOCOLS)}.")
    libraries = validate.get_libraries(adata, library_key)
    subjects = validate.get_subjects(adata, subject_key, libraries)
    validate.check_seed(random_state)
    predictions = get_predictions(adata, keys, libraries.names)
    validate.get_layer(adata, layer)
    scoring = Scoring(
        adata=adata,
        libraries=libraries,
        subjects=subjects,
        predictions=predictions,
        genes=_columns_of(adata, predictions.genes),
        scored=scored_libraries(predictions.roles, libraries.names)[0],
        layer=layer,
        library_key=library_key,
        spatial_key=spatial_key,
        random_state=random_state,
    )
    _warn_of_units(adata, layer, predictions)
    return _table(PROTOCOLS[protocol](scoring), predictions.genes)


def _columns_of(adata: AnnData, names: pd.Index) -> np.ndarray:
    """Columns of the AnnData with the predicted genes."""
    genes = adata.var_names.get_indexer(names)
    if (genes < 0).any():
        raise ValueError(
            f"adata has no genes {validate.listing(names[genes < 0], 5)}, which were predicted: keep them in adata to score them."
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


def _table(scores: Scores, genes: pd.Index) -> pd.DataFrame:
    """One row for each score."""
    import pandas as pd

    units, unit = scores.units, scores.kind
    of_one = "fold" if unit == "fold" else "library"
    donors = [one.subject for one in units]
    together = (_ALL,) * 3
    rows: list[tuple[str | float, ...]] = []
    for key, of_table in scores.values.items():
        for metric, values in of_table.items():
            if metric == "pcc_pooled":
                pooled = float(values[0]), np.nan, np.nan, 1, "collection", "one value of all libraries"
                rows.append((key, *together, _ALL, metric, *pooled))
                continue
            columns, note = [_ALL, *genes][: values.shape[1]], scores.notes.get((key, metric), "")
            alone = np.nan, np.nan, 1, of_one, note or f"one {of_one}"
            rows += [
                (key, one.library, one.subject, one.role, gene, metric, float(value), *alone)
                for one, of_unit in zip(units, values, strict=True)
                for gene, value in zip(columns, of_unit, strict=True)
            ]
            rows += [
                (key, *together, gene, metric, *map(float, ends), int(n), unit, note or reason(n, unit))
                for gene, *ends, n in zip(columns, *t_interval(unit_means(values, donors)), strict=True)
            ]
    return pd.DataFrame(rows, columns=list(COLUMNS))
