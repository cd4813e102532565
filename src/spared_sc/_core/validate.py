"""Find what a public function needs in an AnnData, or say what is missing and which call repairs it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import scipy.sparse as sps

from spared_sc._core.columns import flags_of, name_of, names_of, numbers_of
from spared_sc._core.keys import Key
from spared_sc._core.record import library_table, records_of
from spared_sc._core.report import logger, warn
from spared_sc._core.settings import settings

if TYPE_CHECKING:
    from anndata import AnnData

    from spared_sc._kernels.lattice import Lattice


_LARGEST_COUNT = 1e15  # beyond which floats no longer hold every whole number
_FAR = 1.6  # times the usual distance of neighbours; a square's diagonal is 1.41, the second ring of hexagons 1.73
_MOST_FAR = 0.1  # share of the neighbours, beyond which the places are doubted
_ENOUGH_EDGES = 40


def listing(names: Iterable[Any], most: int = 10) -> str:
    """Names for an error message, cut short when there are many."""
    names = [str(name) for name in names]
    text = ", ".join(repr(name) for name in names[:most]) or "nothing"
    return text + (f" and {len(names) - most} more" if len(names) > most else "")


def check_adata(adata: Any, *, genes: bool = True) -> AnnData:
    """The object itself; refused unless it is an AnnData in memory with unique names and spots (and `genes`)."""
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        raise TypeError(
            f"expected an AnnData or a SpatialData object, found {type(adata).__name__}: read the section with "
            "`sp.datasets.read_visium(path)`."
        )
    records_of(adata)  # refuses an entry of that name which is something else
    if adata.isbacked:
        raise ValueError("the AnnData is backed by a file: load it with `adata = adata.to_memory()` first.")
    if 0 in (adata.shape if genes else adata.shape[:1]):
        raise ValueError(
            f"the AnnData is empty: {adata.n_obs} spots x {adata.n_vars} genes; check how it was filtered."
        )
    for names, kind, remedy in (
        (adata.obs_names, "spot", "adata.obs_names_make_unique()"),
        (adata.var_names, "gene", "adata.var_names_make_unique()"),
    ):
        if not names.is_unique:
            twice = names[names.duplicated()].unique()
            raise ValueError(f"{len(twice)} {kind} names occur twice ({listing(twice, 5)}): call `{remedy}` first.")
    return adata


def _matrix(matrix: Any, where: str) -> np.ndarray | sps.csr_matrix:
    """A numpy array or a CSR matrix with each entry stored once, copied only where needed.

    Half-precision floats become float32, and numbers of foreign byte order or of more than eight bytes the nearest
    common type, since scipy and numba do not work on them.
    """
    if (sps.issparse(matrix) or isinstance(matrix, np.ndarray)) and matrix.dtype.kind in "iuf":
        common = np.dtype(np.float64) if matrix.dtype.itemsize > 8 else matrix.dtype.newbyteorder("=")
        matrix = matrix.astype(np.float32 if common == np.float16 else common, copy=False)
    if sps.issparse(matrix):
        rows = matrix.tocsr()
        if not rows.has_canonical_format:
            rows = rows.copy() if rows is matrix else rows
            rows.sum_duplicates()
        return rows
    if isinstance(matrix, np.ndarray) and not np.ma.isMaskedArray(matrix):  # of which only the data would be read
        return np.asarray(matrix)
    raise TypeError(
        f"{where} is a {type(matrix).__module__.partition('.')[0]} {type(matrix).__name__}: only numpy arrays and scipy sparse "
        "matrices are read. Load it with `adata = adata.to_memory()`, which computes dask arrays."
    )


def _stored(matrix: np.ndarray | sps.csr_matrix) -> np.ndarray:
    return matrix if isinstance(matrix, np.ndarray) else matrix.data


def get_layer(adata: AnnData, layer: str) -> np.ndarray | sps.csr_matrix:
    """`adata.layers[layer]` as an array or a CSR matrix, all finite."""
    if layer not in adata.layers:
        remedy = (
            "run `sp.pp.normalize_tpm(adata)` or `sp.pp.recipe_spared(adata)` first"
            if layer == Key.layers.log2tpm
            else "pass the name of one that is there as `layer=`"
        )
        raise KeyError(f"there is no layer {layer!r} (layers: {listing(adata.layers)}): {remedy}.")
    matrix = _matrix(adata.layers[layer], f"layers[{layer!r}]")
    if matrix.dtype.kind not in "buif":
        raise TypeError(f"layers[{layer!r}] has the type {matrix.dtype}: numbers are needed.")
    if not np.isfinite(_stored(matrix)).all():
        raise ValueError(f"layers[{layer!r}] holds NaN or infinite values: repair or recompute the layer first.")
    return matrix


def get_counts(adata: AnnData, *, layer: str | None = None) -> tuple[np.ndarray | sps.csr_matrix, str]:
    """Raw counts of the genes of `adata`, and the slot that holds them.

    That is `layer`, else a layer that an earlier call named, else `layers["counts"]`, else `X`, else `adata.raw`.
    """
    remedy = f'raw counts are needed: put them into adata.X or adata.layers["{Key.layers.counts}"].'
    names = [name for name in (*_named_count_layers(adata), Key.layers.counts) if name in adata.layers]
    if layer is not None or names:
        name = layer or names[0]
        matrix = get_layer(adata, name)
        fault = _count_fault(matrix)
        if fault:
            raise ValueError(f"layers[{name!r}] {fault}; {remedy}")
        return matrix, f'layers["{name}"]'
    faults = {}
    for slot, read in (("X", _x), ("raw.X", _raw_x)):
        try:
            matrix = read(adata)
        except (TypeError, ValueError) as error:
            faults[slot] = str(error)
            continue
        fault = _count_fault(matrix)
        if not fault:
            return matrix, slot
        faults[slot] = f"{slot} {fault}"
    raise ValueError(f'there is no layers["{Key.layers.counts}"], {faults["raw.X"]}, and {faults["X"]}; {remedy}')


def warn_of_doubtful_counts(counts: np.ndarray | sps.csr_matrix, slot: str) -> None:
    """Say that whole numbers are probably no raw counts."""
    from spared_sc._kernels.counts import doubt

    reason = doubt(counts)
    if reason:
        warn(f'{slot} is probably no raw counts: {reason}. Put raw counts into adata.layers["{Key.layers.counts}"].')


def find_counts(adata: AnnData, *, without: str) -> np.ndarray | sps.csr_matrix | None:
    """Raw counts where there are some; otherwise `None`, and a warning that begins with what is done `without` them."""
    try:
        return get_counts(adata)[0]
    except (TypeError, ValueError) as error:
        warn(f"{without}: {error}")
        return None


def _named_count_layers(adata: AnnData) -> list[str]:
    """Layers of raw counts that earlier calls were told or found, that of the filter first."""
    records = records_of(adata)
    slots = [
        str(records[key].get("params", {}).get("counts"))
        for key in sorted(records, key=lambda key: (key != "spared_filter", key))
    ]
    return [slot[8:-2] for slot in slots if slot.startswith('layers["')]


def _x(adata: AnnData) -> np.ndarray | sps.csr_matrix:
    if adata.X is None:
        raise ValueError("X is None")
    return _matrix(adata.X, "X")


def _raw_x(adata: AnnData) -> np.ndarray | sps.csr_matrix:
    """The columns of `adata.raw` that are genes of `adata`."""
    if adata.raw is None:
        raise ValueError("adata.raw is None")
    if not adata.raw.var_names.is_unique:
        raise ValueError("gene names of adata.raw occur twice")
    columns = adata.raw.var_names.get_indexer(adata.var_names)
    if (columns < 0).any():
        raise ValueError(f"adata.raw lacks {int((columns < 0).sum())} of {columns.size} genes")
    return _matrix(adata.raw.X, "raw.X")[:, columns]


def _count_fault(matrix: np.ndarray | sps.csr_matrix) -> str | None:
    """Why these are no raw counts, if they are none."""
    from spared_sc._kernels.counts import inspect

    values = _stored(matrix)
    if values.dtype.kind not in "buif":
        return f"has the type {values.dtype}"
    if values.dtype.kind in "bu" or not values.size:
        return None
    finite, smallest, largest, broken = inspect(values.ravel())
    if not finite:
        return "holds NaN or infinite values"
    if smallest < 0:
        return "holds negative values"
    if largest > _LARGEST_COUNT:
        return f"holds values that no count reaches (such as {largest:.4g})"
    return None if np.isnan(broken) else f"holds values that are no integers (such as {broken:.4g})"


def get_detected(adata: AnnData) -> sps.csr_matrix:
    """Sparse boolean matrix, spots x genes: count above zero."""
    if Key.layers.detected in adata.layers:
        return sps.csr_matrix(get_layer(adata, Key.layers.detected), dtype=bool)
    counts, _ = get_counts(adata)
    return detected_from_counts(counts)


def detected_from_counts(counts: np.ndarray | sps.csr_matrix) -> sps.csr_matrix:
    """Counts above zero as a sparse boolean matrix."""
    return sps.csr_matrix(counts > 0)


def dense(matrix: np.ndarray | sps.spmatrix) -> np.ndarray:
    """A block of a layer as an array."""
    return np.asarray(matrix) if isinstance(matrix, np.ndarray) else matrix.toarray()


def get_block(adata: AnnData, layer: str, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of some genes, (n_spots, n_genes) float32, and whether each entry was detected."""
    values = dense(get_layer(adata, layer)[:, genes]).astype(np.float32)
    return values, dense(get_detected(adata)[:, genes])


def get_embedding(adata: AnnData, use_rep: str) -> np.ndarray:
    """`adata.obsm[use_rep]` as float32, all finite."""
    if use_rep not in adata.obsm:
        encoder = use_rep.removeprefix("X_")
        remedy = f"run `sp.tl.embed_patches(adata, encoder={encoder!r})` first, or " if use_rep.startswith("X_") else ""
        raise KeyError(
            f"there is no obsm[{use_rep!r}] (obsm: {listing(adata.obsm)}): {remedy}pass the name of an embedding that "
            "is there as `use_rep=`."
        )
    embedding = np.asarray(adata.obsm[use_rep], dtype=np.float32)
    if embedding.ndim != 2 or not np.isfinite(embedding).all():
        raise ValueError(f"obsm[{use_rep!r}] must be a table of finite numbers, spots x features.")
    return embedding


def get_positions(adata: AnnData, spatial_key: str) -> np.ndarray:
    """Place of every spot, x and y, (n_spots, 2), all finite."""
    if spatial_key not in adata.obsm:
        raise KeyError(
            f"the spots have no positions: there is no adata.obsm[{spatial_key!r}] (obsm: {listing(adata.obsm)}). "
            "Name the slot with `spatial_key=`; `sp.datasets.read_visium` reads positions."
        )
    try:
        positions = np.asarray(adata.obsm[spatial_key], dtype=float)
    except (TypeError, ValueError) as error:
        raise TypeError(f"adata.obsm[{spatial_key!r}] must hold numbers, x and y of every spot ({error}).") from error
    if positions.ndim != 2 or positions.shape[1] < 2:
        raise ValueError(
            f"adata.obsm[{spatial_key!r}] has the shape {positions.shape}: expected x and y of every spot."
        )
    positions = positions[:, :2]
    if not np.isfinite(positions).all():
        raise ValueError(f"adata.obsm[{spatial_key!r}] holds NaN or infinite positions: drop those spots first.")
    return positions


def gene_mask(adata: AnnData, mask_var: str | None, *, optional: str) -> np.ndarray:
    """Boolean mask of the genes to model; all genes where the `optional` column is asked for and absent."""
    if mask_var is None or (mask_var == optional and mask_var not in adata.var):
        return np.ones(adata.n_vars, dtype=bool)
    mask = flags_of(get_column(adata, "var", mask_var), f"adata.var[{mask_var!r}]")
    if not mask.any():
        raise ValueError(f"adata.var[{mask_var!r}] selects no gene: pass another `mask_var`, or None for all genes.")
    return mask


def get_column(
    adata: AnnData, attr: Literal["obs", "var"], name: str, *, remedy: str = "pass the name of one that is there"
) -> pd.Series:
    """A column of `adata.obs` or `adata.var`."""
    table = getattr(adata, attr)
    if name not in table:
        raise KeyError(f"there is no column {name!r} in adata.{attr} (columns: {listing(table.columns)}): {remedy}.")
    return table[name]


def get_numbers(adata: AnnData, column: str, *, remedy: str = "pass the name of one that is there") -> np.ndarray:
    """A column of `adata.var` as floats, NaN where a value is missing."""
    values = get_column(adata, "var", column, remedy=remedy)
    numbers = numbers_of(values)
    odd = values[np.isnan(numbers) & values.notna().to_numpy()]
    if len(odd):
        raise TypeError(
            f"adata.var[{column!r}] holds {odd.iloc[0]!r} ({values.dtype}): numbers are needed, pass another column."
        )
    return numbers


@dataclass(frozen=True)
class Libraries:
    """Which library every spot belongs to."""

    codes: np.ndarray  # (n_spots,) index into names
    names: list[str]  # sorted, so that nothing depends on the order of the rows
    key: str | None = None  # column of obs that names them, for the record

    def rows(self) -> list[np.ndarray]:
        """The spots of every library."""
        return [np.flatnonzero(self.codes == code) for code in range(len(self.names))]


def region_attrs(adata: AnnData) -> Mapping[str, Any]:
    """How a table of a SpatialData object names its regions; empty where it is none."""
    attrs = adata.uns.get(Key.uns.regions)
    if attrs is not None and not isinstance(attrs, Mapping):
        raise TypeError(
            f'adata.uns["{Key.uns.regions}"] is a {type(attrs).__name__}: expected the dictionary that '
            "`spatialdata.models.TableModel.parse` writes. Call it again, or remove the entry."
        )
    return attrs or {}


def get_libraries(adata: AnnData, library_key: str | None) -> Libraries:
    """Libraries from `adata.obs[library_key]`; without a key there must be one library only.

    `None` asks the settings, then the table of a SpatialData object, which names the column of its regions.
    """
    key, source = library_key, "`library_key=`"
    if key is None:
        key, source = settings.library_key, "`sp.settings.library_key`"
    if key is None:
        key, source = region_attrs(adata).get("region_key"), "`library_key=`"
    if key is not None:
        if key not in adata.obs:
            raise KeyError(
                f"there is no column {key!r} in adata.obs; columns that may tell libraries apart: "
                f"{listing(_library_columns(adata) or adata.obs.columns)}. Pass the right one as {source}."
            )
        of_spot = names_of(adata.obs[key], f"adata.obs[{key!r}]").astype(str)
        names, codes = np.unique(of_spot, return_inverse=True)
        return Libraries(codes=codes, names=names.tolist(), key=key)
    reason = _several_libraries(adata)
    if reason:
        raise ValueError(
            f"{reason}: name the column of adata.obs that tells the libraries apart with `library_key=`; "
            f"plausible columns: {listing(_library_columns(adata))}."
        )
    return Libraries(codes=np.zeros(adata.n_obs, dtype=int), names=[_only_image(adata) or "library"])


def get_subjects(adata: AnnData, subject_key: str | None, libraries: Libraries) -> list[str]:
    """The donor of every library; the library itself without a column."""
    if subject_key is None:
        return list(libraries.names)
    return _one_of_each(
        names_of(get_column(adata, "obs", subject_key), f"adata.obs[{subject_key!r}]"),
        libraries,
        fault=f"belongs to several values of adata.obs[{subject_key!r}]",
        remedy="a section comes from one donor.",
    )


def _one_of_each(names: np.ndarray, libraries: Libraries, *, fault: str, remedy: str) -> list[str]:
    """The value that all spots of a library have, for each of them."""
    result = []
    for name, rows in zip(libraries.names, libraries.rows(), strict=True):
        values = sorted(set(names[rows]))
        if len(values) > 1:
            raise ValueError(f"library {name!r} {fault} ({listing(values)}): {remedy}")
        result.append(values[0])
    return result


def _library_columns(adata: AnnData) -> list[str]:
    named = [c for c in Key.library_columns if c in adata.obs and adata.obs[c].nunique() > 1]
    known = _images(adata)
    by_image = [
        c for c in adata.obs if c not in named and len(known) > 1 and set(map(name_of, adata.obs[c].unique())) <= known
    ]
    return named + by_image


def _images(adata: AnnData) -> set[str]:
    images = adata.uns.get(Key.uns.spatial, {})
    return {str(name) for name in images} if isinstance(images, dict) else set()


def _only_image(adata: AnnData) -> str | None:
    """The image that all spots belong to: there is no other, or a column names this one for every spot."""
    known = _images(adata)
    if len(known) == 1:
        return next(iter(known))
    named = (set(map(name_of, adata.obs[c].unique())) for c in adata.obs if adata.obs[c].nunique() == 1)
    return next((min(names) for names in named if names <= known), None)


def _several_libraries(adata: AnnData) -> str | None:
    """Why the object seems to hold several libraries, if it does."""
    n_images = len(_images(adata))
    if n_images > 1 and not _only_image(adata):
        return f'uns["spatial"] holds {n_images} libraries'
    columns = [c for c in _library_columns(adata) if adata.obs[c].nunique() > 1]
    if columns:
        return f"adata.obs[{columns[0]!r}] has {adata.obs[columns[0]].nunique()} values"
    if {Key.obs.array_row, Key.obs.array_col} <= set(adata.obs):
        if adata.obs.duplicated([Key.obs.array_row, Key.obs.array_col]).any():
            return "several spots share one place on the array"
    return None


def get_split(adata: AnnData, split_key: str | None, libraries: Libraries) -> np.ndarray | None:
    """`train`, `val` or `test` for every library, or `None` where there is no split.

    The default column name is used when it is there; any other name must exist.
    """
    if split_key is None or (split_key == Key.obs.split and split_key not in adata.obs):
        return None
    column = names_of(get_column(adata, "obs", split_key), f"adata.obs[{split_key!r}]")
    unknown = sorted(set(column) - set(Key.splits))
    if unknown:
        raise ValueError(
            f"adata.obs[{split_key!r}] holds {listing(unknown)}; expected only {listing(Key.splits)}. "
            "Rename the values, or pass split_key=None to use every library."
        )
    remedy = "a library is in one only. Give all of its spots the same value, or pass split_key=None."
    result = _one_of_each(column, libraries, fault="is in several splits", remedy=remedy)
    if "train" not in result:
        raise ValueError(
            f"adata.obs[{split_key!r}] puts no library into 'train': give one that value, or pass split_key=None."
        )
    return np.asarray(result)


def recorded_split(libraries: Libraries, split: np.ndarray | None) -> dict[str, Any] | None:
    """A split as records hold it."""
    return None if split is None else library_table(libraries.names, parts=split)


def train_libraries(adata: AnnData, split_key: str | None, libraries: Libraries) -> np.ndarray:
    """Boolean mask of the libraries that statistics may be learned from."""
    split = get_split(adata, split_key, libraries)
    return np.ones(len(libraries.names), dtype=bool) if split is None else split == "train"


def array_places(adata: AnnData, libraries: Libraries) -> np.ndarray | None:
    """Row and column on the array, `(n_spots, 2)` integers; `None` without `array_row` and `array_col`."""
    row_col = [Key.obs.array_row, Key.obs.array_col]
    if not set(row_col) <= set(adata.obs):
        return None
    position = np.column_stack([numbers_of(adata.obs[name]) for name in row_col])
    # Beyond the limit, places times libraries would not fit into one number.
    if not (
        np.isfinite(position).all() and (position == np.rint(position)).all() and np.ptp(position, axis=0).max() < 1e8
    ):
        raise ValueError(
            "adata.obs['array_row'] and adata.obs['array_col'] must hold a whole number for every spot, and span fewer "
            "than 1e8: give each its place on the array, or remove both columns to use pixel positions."
        )
    position = position.astype(np.int64)
    _check_places(position, adata, libraries, "place on the array (array_row, array_col)")
    return position


def get_lattice(
    adata: AnnData, libraries: Libraries, spatial_key: str, *, kind: str | Mapping[str, str] = "auto"
) -> Lattice:
    """The lattice of the spots, from `array_row` and `array_col` where they exist, else from pixel positions.

    `kind` is that of all libraries, or of some by name.
    """
    from spared_sc._kernels import lattice

    kinds = [kind] * len(libraries.names) if isinstance(kind, str) else _by_name(kind, libraries, "kind", "auto")
    unknown = [one for one in kinds if one not in lattice.KINDS]
    if unknown:
        raise ValueError(f"lattice kind {unknown[0]!r} is unknown; choose {listing(lattice.KINDS)}.")
    position = array_places(adata, libraries)
    if position is not None:
        graph = lattice.from_array(position, libraries.codes, kind=kinds)
        if spatial_key in adata.obsm:
            _warn_of_far_neighbours(graph, libraries, get_positions(adata, spatial_key), spatial_key)
    elif spatial_key in adata.obsm:
        position = get_positions(adata, spatial_key)
        _check_places(position, adata, libraries, f"position in obsm[{spatial_key!r}]")
        graph = lattice.from_pixels(position, libraries.codes)
        logger.info("no array_row/array_col in adata.obs: neighbours come from the distances in obsm[%r]", spatial_key)
    else:
        raise KeyError(
            "the spots have no positions: neither array_row and array_col in adata.obs, "
            f"nor adata.obsm[{spatial_key!r}]. `sp.datasets.read_visium` reads both."
        )
    return graph


def _warn_of_far_neighbours(graph: Lattice, libraries: Libraries, positions: np.ndarray, spatial_key: str) -> None:
    """Say which libraries have neighbours on the array that do not lie beside each other."""
    from spared_sc._kernels.lattice import nearest_distance

    of_edge = np.repeat(np.arange(graph.n_spots), np.diff(graph.indptr))
    length = np.linalg.norm(positions[of_edge] - positions[graph.indices], axis=1)
    library = libraries.codes[of_edge]
    for code, (name, rows) in enumerate(zip(libraries.names, libraries.rows(), strict=True)):
        here = length[library == code]
        if here.size < _ENOUGH_EDGES:
            continue
        usual, nearest = np.median(here), nearest_distance(positions[rows])
        if usual > _FAR * nearest:  # as of places that belong to other spots
            usual = nearest
        far = float(np.mean(here > _FAR * usual))
        if far > _MOST_FAR:
            warn(
                f"library {name!r}: {far:.0%} of the neighbours by array_row and array_col lie far apart in "
                f"obsm[{spatial_key!r}]. Either the columns belong to other spots, or they count places in another way than "
                "Space Ranger, where row + column is always even: correct them, or remove both to use the positions.",
            )


def _by_name(values: Mapping[str, Any], libraries: Libraries, argument: str, default: Any) -> list[Any]:
    """The value of every library, from an argument that names some of them."""
    unknown = [name for name in values if name not in libraries.names]
    if unknown:
        raise KeyError(f"{argument}= names {listing(unknown)}: choose among the libraries {listing(libraries.names)}.")
    return [values.get(name, default) for name in libraries.names]


def recorded_kinds(lattice: Lattice, libraries: Libraries) -> str | dict[str, Any]:
    """Kind of the lattice as records hold it: one word, or a kind for every library where they differ."""
    kinds = [str(lattice.kinds[rows[0]]) for rows in libraries.rows()]
    if len(set(kinds)) == 1:
        return kinds[0]
    return library_table(libraries.names, kinds=kinds)


def canonical_order(adata: AnnData, libraries: Libraries, spatial_key: str) -> np.ndarray:
    """Spots by library and place, or by name without places: an order independent of that of rows and libraries."""
    places = array_places(adata, libraries)
    if places is not None:
        first, second = places.T
    elif spatial_key in adata.obsm:
        second, first = get_positions(adata, spatial_key).T
    else:
        return np.lexsort((adata.obs_names.to_numpy(dtype=str), libraries.codes))
    return np.lexsort((second, first, libraries.codes))


def _check_places(position: np.ndarray, adata: AnnData, libraries: Libraries, kind: str) -> None:
    place = np.column_stack([libraries.codes, position])
    _, first, count = np.unique(place, axis=0, return_index=True, return_counts=True)
    if (count > 1).any():
        spot = first[count > 1][0]
        raise ValueError(
            f"{int((count - 1).sum())} spots share their {kind} with another spot of library "
            f"{libraries.names[libraries.codes[spot]]!r} (such as {adata.obs_names[spot]!r}): "
            "drop the repeated spots, or check `library_key`."
        )


def check_number(name: str, value: Any, least: float, most: float | None = None, *, whole: bool = False) -> None:
    """Refuse a parameter that is not a number, not a whole one where that is needed, or out of range."""
    kind = int | np.integer if whole else int | float | np.integer | np.floating
    fits = isinstance(value, kind) and not isinstance(value, bool) and value >= least
    if not fits or (most is not None and not value <= most):
        number = "a whole number" if whole else "a number"
        bounds = f"from {least:g}" + (" upwards" if most is None else f" to {most:g}")
        raise ValueError(f"{name}={value!r} cannot be used: give {number} {bounds}.")


def check_seed(random_state: Any) -> int:
    """The seed, refused unless every generator takes it."""
    check_number("random_state", random_state, 0, 2**32 - 1, whole=True)
    return int(random_state)


_OF_NUMBERS = ("value", "lower", "upper", "share", "mask")  # columns of tables of scores
_NUMBERS = ("floating", "integer", "mixed-integer-float", "empty")  # kinds of values, in pandas' words
_NAMES = (*_NUMBERS, "string", "categorical", "boolean", "mixed-integer")


def check_table(table: Any, columns: Iterable[str], source: str) -> None:
    """Refuse what is no table with these columns, as `source` returns one."""
    if not isinstance(table, pd.DataFrame):
        raise TypeError(f"expected the table of `{source}`, found {type(table).__name__}: pass that table.")
    missing = [column for column in columns if column not in table]
    if missing:
        raise KeyError(
            f"the table has no column {missing[0]!r} (columns: {listing(table.columns)}): pass the table that `{source}` "
            "returns."
        )
    repeated = table.columns[table.columns.duplicated()]
    if len(repeated):
        raise ValueError(f"the table has {repeated[0]!r} as several columns: pass the table that `{source}` returns.")
    for column in columns:
        kind = pd.api.types.infer_dtype(table[column], skipna=True)
        if len(table) and kind not in (_NUMBERS if column in _OF_NUMBERS else _NAMES):
            raise TypeError(
                f"the column {column!r} of the table holds {kind} values ({table[column].dtype}): pass the table that "
                f"`{source}` returns."
            )


def check_numbers(table: pd.DataFrame, columns: Iterable[str], source: str) -> None:
    """Refuse a checked table in which one of the columns holds no numbers; missing numbers are allowed."""
    for column in columns:
        if not pd.api.types.is_numeric_dtype(table[column]):
            raise TypeError(
                f"the column {column!r} of the table holds {table[column].dtype} values and no numbers: pass the table that "
                f"`{source}` returns."
            )


def choose_key(key: str | None, keys: Sequence[str], kind: str, remedy: str) -> str:
    """The result that is asked for, or the only one of its kind."""
    if not keys or (key is not None and key not in keys):
        asked = "" if key is None else f" {key!r}"
        raise KeyError(
            f"there is no {kind}{asked} ({kind}s: {listing(keys)}): pass one of those as `key=`, or {remedy}."
        )
    if key is None and len(keys) > 1:
        raise ValueError(f"there are several {kind}s ({listing(keys)}): pass one of them as `key=`.")
    return keys[0] if key is None else key


def n_threads(n_jobs: int | None) -> int:
    """Threads to use: the argument, else the setting, else all cores of this process."""
    import numba

    n_jobs = settings.n_jobs if n_jobs is None else n_jobs
    most = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]  # set when numba is imported
    if n_jobs is None:
        return most
    check_number("n_jobs", n_jobs, 1, whole=True)
    return min(n_jobs, most)
