from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from spared_sc._core import docs, validate
from spared_sc._core.arguments import checks_arguments
from spared_sc._core.files import as_path
from spared_sc._core.keys import Key
from spared_sc._core.record import library_table, record
from spared_sc._core.report import announce, warn
from spared_sc.benchmark import _units
from spared_sc.benchmark._matching import match

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

Protocol = Literal["expression", "spared", "hest"]
_READABLE = (".h5ad", ".zarr", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class Scored:
    """Scores of somebody else's predictions, and the sections they were scored on."""

    scores: pd.DataFrame
    adata: AnnData  # measured, with the predictions in `obsm`
    key: str
    unit: str
    words: str  # what was matched


@checks_arguments
@docs.fill()
def score(
    predictions: AnnData | pd.DataFrame | str | Path,
    truth: AnnData | str | Path,
    *,
    name: str = "external",
    unit: str | None = None,
    values: str | None = None,
    protocol: Literal["expression", "spared", "hest"] = "expression",
    layer: str = Key.layers.log2tpm,
    library_key: str | None = None,
    subject_key: str | None = None,
    split_key: str | None = Key.obs.split,
    random_state: int = 0,
) -> pd.DataFrame:
    """Score predictions of another tool on measured sections, as :func:`spared_sc.tl.score_prediction` scores our own.

    Genes are matched by Ensembl id or name, spots by their names, or by library and barcode or place in the array. How many
    matched is said; fewer than half of the smaller side is an error.

    Parameters
    ----------
    predictions
        Spots x genes: an AnnData, a DataFrame with the spots as index, or a file (.h5ad, .zarr, .csv, .tsv, .parquet). A
        library of each spot is taken from a column of `obs` that holds the names of the libraries of `truth`, or from the
        spots' names.
    truth
        Measured sections with raw counts, as an AnnData or a file.
    name
        Name of the tool; the scores are those of `"predicted_<name>"`.
    unit
        Unit of the predictions: `"log2tpm"` (that of `layer`), `"log1p_cp10k"`, `"counts"` or `"zscore"`. `None`
        recognises it by the levels of the measured genes, and is an error where it cannot be told.
    values
        Layer, or DataFrame in `obsm`, of the predictions; `X` by default.
    protocol
        As of :func:`spared_sc.tl.score_prediction`.
    layer
        Measured layer; `"log2tpm"` is made from the counts where it does not exist.
    {library_key}
    subject_key
        Column of `obs` of `truth` with the donor of each spot. Donors are the units of intervals.
    split_key
        Column of `obs` of `truth` that says which libraries the tool has learned from (`"train"`): the anchors learn from the
        same, and only others are scored. Without it, libraries that have no prediction count as train. If all have one, each
        library (with `subject_key`: donor) is scored as if the tool had learned from the others.
    random_state
        Seed of the thinning behind the limits.

    Returns
    -------
    A table as of :func:`spared_sc.tl.score_prediction`, with the same anchors, ceiling and intervals.
    :func:`spared_sc.get.prediction_summary` condenses it and :func:`spared_sc.pl.gene_scores` draws it.

    Raises
    ------
    ValueError
        If too few spots or genes match, entries are missing, names are repeated, the unit is not clear, or no library can
        be scored.
    KeyError
        If a layer or column does not exist.
    FileNotFoundError
        If there is no such file.

    Notes
    -----
    `d2` and `d2_own` need a unit that stands for counts: z-scores have correlations only. Whether the tool has seen the
    sections in training, no function can tell: state it with `split_key`.

    Examples
    --------
    >>> import spared_sc as sp
    >>> truth = sp.datasets.synthetic(n_libraries=3, image=False)
    >>> sp.pp.normalize_tpm(truth, gene_lengths=None)
    >>> predictions = truth.to_df("log2tpm").iloc[::-1, :20] + 0.1  # too good to be true
    >>> scores = sp.benchmark.score(predictions, truth, unit="log2tpm", library_key="library_id")
    20 of 20 predicted genes and ... predicted spots matched (names); ...
    >>> scores["prediction"].unique().tolist()
    ['predicted_external', 'gene_mean', 'depth_only', 'position_only', 'ceiling']
    """
    return scored(
        predictions,
        truth,
        name=name,
        unit=unit,
        values=values,
        protocol=protocol,
        layer=layer,
        library_key=library_key,
        subject_key=subject_key,
        split_key=split_key,
        random_state=random_state,
    ).scores


def scored(
    predictions: AnnData | pd.DataFrame | str | Path,
    truth: AnnData | str | Path,
    *,
    name: str,
    unit: str | None,
    values: str | None,
    protocol: Protocol,
    layer: str,
    library_key: str | None,
    subject_key: str | None,
    split_key: str | None,
    random_state: int,
) -> Scored:
    """Scores, and the sections with the matched predictions."""
    import spared_sc as sp

    if unit is not None and unit not in _units.UNITS:
        raise ValueError(f"unit={unit!r} is unknown: choose {validate.listing(_units.UNITS)}.")
    adata = _measured(truth, layer)
    libraries = validate.get_libraries(adata, library_key)
    donors = dict(zip(libraries.names, validate.get_subjects(adata, subject_key, libraries), strict=True))
    found = match(*_table(predictions, values), adata, libraries)
    kept, roles = _roles(adata, libraries, found.rows, split_key)
    adata, table = adata[kept].copy(), found.values[kept]
    unit, table = _in_unit_of_layer(table, unit, adata, layer, library_key)
    key = Key.predicted(name)
    _record(adata, key, table, roles, donors, unit if unit == _units.ZSCORE else layer, protocol)
    with warnings.catch_warnings():
        if unit == _units.ZSCORE:
            warn(
                "z-scores stand for no counts and no level: of these scores only the correlations of genes mean something."
            )
            warnings.filterwarnings("ignore", message=".* predicts in the unit of 'zscore'")
        scores = sp.tl.score_prediction(
            adata,
            key,
            protocol=protocol,
            layer=layer,
            library_key=library_key,
            subject_key=subject_key,
            random_state=random_state,
        )
    return Scored(scores, adata, key, unit, found.words)


# --- reading ----------------------------------------------------------------------------------------------------------


def _measured(truth: AnnData | str | Path, layer: str) -> AnnData:
    """The measured sections with the layer to compare with."""
    import spared_sc as sp

    adata = _read(truth, "truth") if isinstance(truth, str | Path) else truth
    adata = validate.check_adata(adata)
    if layer != Key.layers.log2tpm or layer in adata.layers:
        return adata
    announce("the sections have no layer 'log2tpm': it is made from their counts by sp.pp.normalize_tpm")
    return sp.pp.normalize_tpm(adata, copy=True)


def _read(path: str | Path, what: str) -> Any:
    """An AnnData or a table from a file."""
    import anndata as ad
    import pandas as pd

    file = as_path(path, what)
    if file.suffix not in _READABLE:
        raise ValueError(f"{what} is {file.name!r}: expected a file that ends in one of {validate.listing(_READABLE)}.")
    if not file.exists():
        raise FileNotFoundError(f"there is no file {file}: give another path as {what}.")
    if file.suffix in (".h5ad", ".zarr"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file formats' versions
            return ad.read_h5ad(file) if file.suffix == ".h5ad" else ad.read_zarr(file)
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    return pd.read_csv(file, sep="," if file.suffix == ".csv" else "\t", index_col=0)


def _table(
    predictions: AnnData | pd.DataFrame | str | Path, values: str | None
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series | None]:
    """Predicted values, spots x genes; what is known of the spots; and Ensembl ids of the genes."""
    import pandas as pd

    found = _read(predictions, "predictions") if isinstance(predictions, str | Path) else predictions
    if isinstance(found, pd.DataFrame):
        columns, ids = pd.DataFrame(index=found.index), None
    else:
        columns, ids = found.obs, found.var.get(Key.var.gene_ids)
        found, ids = _values(found, values, ids)
    if found.empty or not all(pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes):
        raise ValueError(
            f"the predictions are a table of {found.shape[0]} x {found.shape[1]}"
            + (" with columns that are no numbers" if not found.empty else "")
            + ": give numbers, spots x genes, with the names of the spots as the index."
        )
    return found, columns, ids


def _values(adata: AnnData, values: str | None, ids: pd.Series | None) -> tuple[pd.DataFrame, pd.Series | None]:
    """The values of an AnnData as a table."""
    import pandas as pd

    if values is None or values in adata.layers:
        matrix = adata.X if values is None else adata.layers[values]
        if matrix is None:
            raise ValueError("the predictions have no X: name their layer, or their table in `obsm`, as `values=`.")
        return pd.DataFrame(validate.dense(matrix), index=adata.obs_names, columns=adata.var_names), ids
    if isinstance(adata.obsm.get(values), pd.DataFrame):
        return adata.obsm[values], None
    raise KeyError(
        f"the predictions have no layer or table {values!r}: pass one of {validate.listing([*adata.layers, *adata.obsm])} "
        "as `values=`; a table in `obsm` is a DataFrame, whose columns name the genes."
    )


# --- matched values ---------------------------------------------------------------------------------------------------


def _roles(
    adata: AnnData, libraries: validate.Libraries, has: np.ndarray, split_key: str | None
) -> tuple[np.ndarray, dict[str, str]]:
    """The spots to keep, and the part of every library: only spots with a prediction are scored."""
    split = validate.get_split(adata, split_key, libraries)
    covered = np.array([has[rows].any() for rows in libraries.rows()])
    if split is None:
        split = np.full(len(covered), "held out") if covered.all() else np.where(covered, "test", "train")
    if not (covered & (split != "train")).any():
        raise ValueError(
            f"all libraries with a prediction ({validate.listing(np.array(libraries.names)[covered])}) are of the train "
            f"split ({split_key!r}): predict others, or pass split_key=None if the tool has not learned from them."
        )
    role = split[libraries.codes]
    kept = (role == "train") | has
    return kept, {
        name: str(split[i]) for i, name in enumerate(libraries.names) if (kept & (libraries.codes == i)).any()
    }


def _in_unit_of_layer(
    table: pd.DataFrame, unit: str | None, adata: AnnData, layer: str, library_key: str | None
) -> tuple[str, pd.DataFrame]:
    """The unit, and the values in that of the layer; rows without a prediction stay without."""
    from spared_sc.tl._resolve import resolve

    genes = adata.var_names.get_indexer(table.columns)
    rows = table.notna().all(axis=1).to_numpy()
    counts, _ = validate.get_counts(adata)
    measured = _units.Measured(
        layer=validate.get_block(adata, layer, genes)[0][rows],
        counts=validate.dense(counts[:, genes])[rows],
        depth=np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()[rows],
    )
    values = table.to_numpy(dtype=np.float32)[rows]
    if unit is None:
        unit = _units.recognise(values, measured)
        announce(f"the predictions are taken as {unit!r}: {_units.UNITS[unit]}")
    if unit in (_units.CP10K, _units.COUNTS):
        resolved = resolve(
            adata, layer=layer, mask_var=None, library_key=library_key, spatial_key=Key.obsm.spatial, genes=genes
        )
        exposure = resolved.to_rows(resolved.sections.exposure())[rows]
        table = table.copy()
        table.loc[rows] = _units.convert(values, unit, measured, exposure)
    return unit, table


def _record(
    adata: AnnData,
    key: str,
    table: pd.DataFrame,
    roles: Mapping[str, str],
    donors: Mapping[str, str],
    unit: str,
    protocol: str,
) -> None:
    """Put the predictions where those of this package are, with all that scores need to know of them."""
    groups = {name: donors[name] for name in roles}
    details: dict[str, Any] = {"card": {"unit": unit, "target": "expression", "loss": "all"}}
    if "train" not in roles.values() and len(set(groups.values())) == 1:
        if protocol == "spared":
            raise ValueError(
                "the scores of this protocol stand beside means of train libraries, and there are none: add the sections "
                "that the tool has learned from, or pass protocol='expression'."
            )
        warn(
            "there is one library (or donor) only, so that no anchor can learn from others: there are no anchors and no d2. "
            "Add the sections that the tool has learned from, as the split 'train'."
        )
        details["card"]["target"] = "given_detection"  # no baseline follows from the means below
        details["gene_mean"] = np.zeros(table.shape[1], dtype=np.float32)
    record(
        adata,
        key=key,
        function="tl.predict_expression",
        params={"model": key, "library_key": ""},
        slots={"obsm": {key: table}},
        roles=library_table(roles, values=roles.values()),
        groups=library_table(groups, values=groups.values()),
        **details,
    )
