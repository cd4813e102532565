"""Scores of predictions on measured expression."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from spared_sc._core import validate
from spared_sc._core.keys import Key
from spared_sc._core.predictions import by_library, prediction_key, prediction_keys, scored_libraries
from spared_sc._core.report import warn
from spared_sc._kernels.bootstrap import unit_weights
from spared_sc.tl import _prediction as of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData

COLUMNS = ("prediction", "library", "subject", "role", "gene", "metric", "value", "lower", "upper")
_ALL = "all"
_LEAST_DONORS = 3  # to draw from


def score_prediction(
    adata: AnnData,
    keys: str | Sequence[str] | None = None,
    *,
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    spatial_key: str = Key.obsm.spatial,
    n_bootstrap: int = 2000,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predictions on detected entries, within libraries, beside anchors and what noise allows.

    The anchors `gene_mean`, `depth_only` and `position_only` are fitted to detected entries of the libraries that the
    models were fitted to. Whatever layer a model was fitted to, the truth is the measured, uncorrected one, on entries with a count. Only
    libraries that had no part in fitting are scored: those of the test split, or held out. Where there are none, the
    validation libraries are, and the column `role` says so: the best step was chosen on them.

    Parameters
    ----------
    adata
        Spots x genes with tables from :func:`spared_sc.tl.predict_expression`.
    keys
        Names of the tables in `obsm`; all of them by default.
    layer
        Measured expression.
    library_key
        Column of `obs` that names the library of each spot; needed with several libraries.
    subject_key
        Column of `obs` with the donor: the sections of one are no independent observations, so intervals then come from
        drawing donors. With fewer than three donors sections are drawn: the interval then says nothing about others.
    spatial_key
        Name in `obsm` of the spots' positions.
    n_bootstrap
        Resamples of the libraries.
    random_state
        Seed of the resampling and of the thinning behind the noise floor.

    Returns
    -------
    A table with the columns `prediction`, `library`, `subject`, `role`, `gene`, `metric`, `value`, `lower`, `upper`.
    `library="all"` is the mean over the libraries in which the score is defined, with the ends of its 95 % interval (NaN
    for one library). The metrics:

    - `mse`, `mae`, `r2` (of the deviations from each gene's mean in the library)
    - `skill`: 1 - mse / mse of `gene_mean`; above zero, the image says something
    - `pcc`: of a gene over the spots of a library; with `gene="all"`, the mean over genes. A prediction that does not
      vary where the gene does counts as zero.
    - `pcc_spot`: of a spot over genes, mean over spots
    - `pcc_pooled`: of a gene over the spots of all libraries together, as SpaRED computes it (`library="all"` only);
      differences between sections inflate it

    With `gene` there are `mse`, `mae`, `r2`, `skill` and `pcc` of every gene. `prediction="floor_low"` and `"floor_high"`
    are the range of what a prediction without any error would score, from the sampling noise of counts: a floor of the
    `mse` and a ceiling of the `pcc`. Genes without a detected entry in training are not scored.

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
    import pandas as pd

    adata = validate.check_adata(adata)
    libraries = validate.get_libraries(adata, library_key)
    subjects = validate.get_subjects(adata, subject_key, libraries)
    validate.check_number("n_bootstrap", n_bootstrap, 1, whole=True)
    validate.check_number("random_state", random_state, 0, whole=True)
    tables, roles, groups = _tables(adata, keys, libraries)
    names = next(iter(tables.values())).columns
    genes = adata.var_names.get_indexer(names)
    if (genes < 0).any():
        raise ValueError(
            f"adata has no genes {validate.listing(names[genes < 0], 5)}, which were predicted: they cannot be scored."
        )
    truth, known = validate.get_block(adata, layer, genes)
    scored, _ = scored_libraries(roles, libraries.names)
    _warn_of_units(adata, layer, list(tables))
    rows = np.flatnonzero(scored[libraries.codes])
    mean = adata.uns[Key.uns.records][next(iter(tables))].get("gene_mean")  # of saved models
    parts = [] if mean is not None else _parts(libraries, roles, groups)
    predictions = {key: table.to_numpy(dtype=np.float32) for key, table in tables.items()}
    if mean is None:
        predictions |= _anchors(adata, libraries, truth, known, parts, spatial_key)
        known = known & _seen(libraries, known, parts)
    else:  # the train libraries are not at hand, or not all of them
        mean = np.asarray(mean, dtype=np.float32)
        predictions["gene_mean"] = np.broadcast_to(mean, truth.shape)
        known = known & np.isfinite(mean)
    place = np.cumsum(scored) - 1  # number of a scored library among those
    library = place[libraries.codes[rows]]
    measured = _Measured(truth[rows], known[rows], library, int(scored.sum()))
    found = {key: measured.score(values[rows]) for key, values in predictions.items()}
    of_mean = found["gene_mean"]
    for scores in found.values():
        scores["skill"] = 1 - scores["mse"] / of_mean["mse"]
    found |= _floors(adata, layer, genes, libraries, spatial_key, library_key, rows, measured, random_state)
    kept = [(libraries.names[i], subjects[i], roles[libraries.names[i]]) for i in np.flatnonzero(scored)]
    donors = [one[1] for one in kept]
    units = donors if len(set(donors)) >= _LEAST_DONORS else [one[0] for one in kept]
    weights = unit_weights(units, n_bootstrap, np.random.default_rng(random_state))
    lines = [line for key, scores in found.items() for line in _lines(key, scores, kept, names, weights)]
    return pd.DataFrame(lines, columns=list(COLUMNS))


class _Measured:
    """What predictions are compared with."""

    def __init__(self, truth: np.ndarray, known: np.ndarray, library: np.ndarray, n_libraries: int):
        self.given = truth, known
        self.library, self.n_libraries = library, n_libraries

    def score(self, prediction: np.ndarray) -> dict[str, np.ndarray]:
        """Per library: the column 0 is over all genes, the others are the genes; (n_libraries,) where there are none."""
        from spared_sc._kernels import prediction_scores as agreement

        by_gene = agreement.by_gene(*self.given, prediction, self.library, self.n_libraries)
        total = agreement.by_library(*self.given, prediction, self.library, self.n_libraries)
        total["pcc"] = _mean(by_gene["pcc"])
        scores = {name: np.column_stack([total[name], by_gene[name]]) for name in ("mse", "mae", "r2", "pcc")}
        scores["pcc_spot"] = total["pcc_spot"][:, None]
        together = agreement.by_gene(*self.given, prediction, np.zeros_like(self.library), 1)["pcc"]
        scores["pcc_pooled"] = _mean(together)
        return scores


def _tables(
    adata: AnnData, keys: str | Sequence[str] | None, libraries: validate.Libraries
) -> tuple[dict[str, pd.DataFrame], dict[str, str], dict[str, str]]:
    """Predictions, the part that every library had in fitting, and what was held out together."""
    records = adata.uns.get(Key.uns.records, {})
    keys = prediction_keys(adata) or [None] if keys is None else [keys] if isinstance(keys, str) else list(keys)
    keys = [prediction_key(adata, key) for key in keys]
    tables = {key: adata.obsm[key] for key in keys}
    roles, groups = ({key: by_library(records[key][what]) for key in keys} for what in ("roles", "groups"))
    first = keys[0]
    for key in keys:
        if set(roles[key]) != set(libraries.names):
            remedy = "pass the same `library_key`"
            if set(libraries.names) < set(roles[key]):
                remedy = "score the whole AnnData, anchors need its train libraries, and choose rows of the result"
            raise ValueError(
                f"{key!r} was made with the libraries {validate.listing(roles[key])}, here are "
                f"{validate.listing(libraries.names)}: {remedy}."
            )
        if not tables[key].columns.equals(tables[first].columns):
            raise ValueError(f"{key!r} and {first!r} predict different genes: score them one by one.")
        if (roles[key], groups[key]) != (roles[first], groups[first]):
            raise ValueError(f"{key!r} and {first!r} were fitted to different libraries: score them one by one.")
        means = [records[one].get("gene_mean", np.nan) for one in (key, first)]  # of saved models
        if not np.allclose(*means, rtol=1e-4, equal_nan=True):
            raise ValueError(f"{key!r} and {first!r} were fitted to different data: score them one by one.")
    return tables, roles[first], groups[first]


def _warn_of_units(adata: AnnData, layer: str, keys: Sequence[str]) -> None:
    """Say which predictions are in another unit than the truth."""
    records, unit = adata.uns[Key.uns.records], of.unit_of(adata, layer)
    for key in keys:
        of_target = str(records[key]["card"]["unit"])
        if of_target != unit:
            warn(
                f"{key!r} predicts in the unit of {of_target!r}, and the truth is in that of {unit!r}: of its scores only the "
                f"correlations of genes mean something. Pass layer={of_target!r}, or predict {unit!r}.",
            )


def _parts(libraries: validate.Libraries, roles: dict[str, str], groups: dict[str, str]) -> list[of.Part]:
    """The fits behind the predictions; validation libraries are not told apart where all were held out in turn."""
    role = np.array([roles[name] for name in libraries.names])
    split = None if (role == "held out").all() else role
    return of.plan(split, np.array([groups[name] for name in libraries.names]))[0]


def _seen(libraries: validate.Libraries, known: np.ndarray, parts: Sequence[of.Part]) -> np.ndarray:
    """Entries of genes that were detected in the libraries that their prediction was learned from, (n_spots, n_genes)."""
    seen = np.empty(known.shape, dtype=bool)
    for part in parts:
        seen[part.predicted[libraries.codes]] = known[part.train[libraries.codes]].any(axis=0)
    return seen


def _anchors(
    adata: AnnData,
    libraries: validate.Libraries,
    truth: np.ndarray,
    known: np.ndarray,
    parts: Sequence[of.Part],
    spatial_key: str,
) -> dict[str, np.ndarray]:
    """Predictions of the anchors, fitted to the detected entries of the libraries that the models were fitted to."""
    from spared_sc._models.prediction.registry import ANCHORS, PREDICTORS, make_predictor

    how = of.make_how(0, "cpu", None, None, show_progress_bar=False)
    result = {}
    for name in ANCHORS:
        try:
            spots = of.get_spots(adata, libraries, PREDICTORS[name].needs, spatial_key=spatial_key)
        except (KeyError, TypeError, ValueError) as error:
            warn(f"the anchor {name!r} is left out: {error}")
            continue
        spots = replace(spots, target=truth, known=known)
        result[name] = np.empty(truth.shape, dtype=np.float32)
        for part in parts:
            predictor = make_predictor(name, {})
            predictor.fit(spots.rows(np.flatnonzero(part.train[libraries.codes])), None, how)
            rows = np.flatnonzero(part.predicted[libraries.codes])
            result[name][rows] = predictor.predict(spots.rows(rows), how)
    return result


def _floors(
    adata: AnnData,
    layer: str,
    genes: np.ndarray,
    libraries: validate.Libraries,
    spatial_key: str,
    library_key: str | None,
    rows: np.ndarray,
    measured: _Measured,
    random_state: int,
) -> dict[str, dict[str, np.ndarray]]:
    """Scores of a prediction without error, at two estimates of the sampling noise."""
    from spared_sc._kernels import prediction_scores as agreement
    from spared_sc._kernels.floor import noise_variances
    from spared_sc._kernels.metrics import FLOORS
    from spared_sc.tl._sections import resolve, warn_of_no_floor

    options = {"mask_var": None, "library_key": library_key, "spatial_key": spatial_key}
    try:
        resolved = resolve(adata, layer=layer, genes=genes, **options)
    except (KeyError, TypeError, ValueError) as error:
        warn(f"there is no noise floor: {error.args[0]}")
        return {}
    if resolved.sections.total is None:
        warn_of_no_floor(layer)
        return {}
    truth, known = measured.given
    variances = noise_variances(resolved.sections, np.random.default_rng([random_state, 1]))
    result = []
    for variance in (resolved.to_rows(one)[rows] for one in variances):
        entries = [known & (measured.library == i)[:, None] for i in range(measured.n_libraries)]
        mse = [variance[one].mean() if one.any() else np.nan for one in entries]
        highest = agreement.ceiling(truth, known, variance, measured.library, measured.n_libraries)
        result.append({"mse": np.array(mse)[:, None], "pcc": np.column_stack([_mean(highest), highest])})
    result.sort(key=lambda scores: np.nansum(scores["mse"]))
    return dict(zip(FLOORS, result, strict=True))


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over genes of what is defined, (n_libraries,)."""
    found = np.isfinite(values)
    n = found.sum(axis=1).astype(float)
    n[n == 0] = np.nan
    return np.where(found, values, 0).sum(axis=1) / n


def _lines(
    key: str,
    scores: dict[str, np.ndarray],
    kept: Sequence[tuple[str, str, str]],
    names: pd.Index,
    weights: np.ndarray,
) -> list[tuple[Any, ...]]:
    """Rows of the table."""
    lines: list[tuple[Any, ...]] = []
    for metric, values in scores.items():
        if metric == "pcc_pooled":
            lines.append((key, _ALL, _ALL, _ALL, _ALL, metric, float(values[0]), np.nan, np.nan))
            continue
        columns = [_ALL, *names][: values.shape[1]]
        for at, library in enumerate(kept):
            lines += [
                (key, *library, gene, metric, float(value), np.nan, np.nan)
                for gene, value in zip(columns, values[at], strict=True)
            ]
        defined = np.isfinite(values)
        n = defined.sum(axis=0).astype(float)
        n[n == 0] = np.nan
        means = np.where(defined, values, 0).sum(axis=0) / n
        # Libraries where a score is not defined do not count in a resample.
        resampled = weights @ np.where(defined, values, 0)
        share = weights @ defined.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled = resampled / share
        low, high = _interval(resampled, defined.sum(axis=0) > 1)
        lines += [
            (key, _ALL, _ALL, _ALL, gene, metric, float(mean), float(a), float(b))
            for gene, mean, a, b in zip(columns, means, low, high, strict=True)
        ]
    return lines


def _interval(resampled: np.ndarray, several: np.ndarray) -> np.ndarray:
    """Ends of the 95 % interval of every column that is defined in several libraries, over the defined resamples."""
    ends = np.full((2, len(several)), np.nan)
    if several.any():
        ends[:, several] = np.nanquantile(resampled[:, several], (0.025, 0.975), axis=0)
    return ends
