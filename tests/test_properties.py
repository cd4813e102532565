"""Random small collections, whole and spoiled, through every function: the right result or a clear error, nothing else.

What is right is read off the definitions in plain Python, below. `SPARED_SC_EXAMPLES=20` takes twenty times as many
examples, and other ones at every run.
"""

from __future__ import annotations

import ast
import functools
import os
import re
import statistics
import traceback
import warnings
from collections import Counter
from fractions import Fraction
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sps
from anndata import AnnData, read_h5ad
from hypothesis import HealthCheck, given, settings

import spared_sc as sp

SOURCE = Path(sp.__file__).parent
FACTOR = int(os.environ.get("SPARED_SC_EXAMPLES", "1"))
EXAMPLES = {"counts": 240, "space": 200, "learning": 180, "whole way": 60, "spackle": 50, "residual": 40}
RAN: Counter[str] = Counter()
SEEN: Counter[str | None] = Counter()  # faults


def examples(name: str) -> settings:
    return settings(
        max_examples=EXAMPLES[name] * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


@pytest.fixture(scope="module", autouse=True)
def _one_torch_thread():
    """Networks this small lose time to threads."""
    import numba

    numba.get_num_threads()  # starts numba's threads, which sets the number of OpenMP threads for torch as well
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# --- collections -----------------------------------------------------------------------------------------------------

GENE_NAMES = [
    "ACTB",
    "α-synuclein",
    "gene with spaces",
    "a.b.c",
    "1",
    "007",
    "ENSG00000141510.17",
    "ENSG00000141510",  # the same gene
    "ENSMUSG00000059552.14",
    "ENSG00000002586_PAR_Y",
    "GRCh38_TP53",
    "TP53",
    "mm10___Gapdh",
    "MT-CO1",
    "HLA-A",
    "HLA-A-1",
    "nan",
    "None",
    "基因",
    "a/b",
    "True",
    "-",
]
LIBRARY_NAMES = ["10", "9", "Größe 1", "a b", "V1.2", "nan", "b", "A", "train"]
CONTAINERS = {
    "csr": sps.csr_matrix,
    "dense": np.ascontiguousarray,
    "fortran": np.asfortranarray,
    "csc": sps.csc_matrix,
    "csr_array": sps.csr_array,
    "csc_array": sps.csc_array,
}
COUNT_TYPES = ["float32", "int64", "bool", "uint8", "int16", "float64", ">f4", ">i4", "float16"]
MASKS = ("spared_keep", "spared_selected")
FAULTS = {
    "counts": ["nan", "inf", "negative", "fraction", "text", "no counts"],
    "names": ["spot twice", "gene twice"],
    "library": ["library nan", "unknown key", "no key"],
    "places": ["place twice", "place nan", "place fraction", "no places"],
    "split": ["split typo", "split crossing", "no train", "split nan"],
    "layer": ["layer nan", "layer text", "no layer"],
}


class Case:
    """A collection and what the test knows of it."""

    def __init__(
        self, adata: AnnData, library: str | None, fault: str | None, description: dict, lengths: tuple
    ) -> None:
        self.adata = adata
        self.column = library  # that tells the libraries apart, if there is one
        self.fault = fault
        self.description = description
        self.lengths = lengths  # what is passed as `gene_lengths`, and how the reading sees it
        self.key = {"unknown key": "section", "no key": None}.get(fault, library)

    def __repr__(self) -> str:
        return f"Case({self.description})"


def contained(draw, values: np.ndarray, kind: str) -> object:
    """The values in a container, sparse ones with all that a sparse matrix may have."""
    made = CONTAINERS[kind](values)
    if not sps.issparse(made):
        return made
    if draw(st.booleans()):  # explicit zeros
        made = type(made)(sps.coo_matrix((np.ones(values.size), np.indices(values.shape).reshape(2, -1))))
        made = made.astype(values.dtype)
        made.sort_indices()
        made.data[:] = values.ravel(order="C" if made.format == "csr" else "F")
    if draw(st.booleans()):  # unsorted indices
        for start, end in zip(made.indptr[:-1], made.indptr[1:], strict=True):
            made.indices[start:end] = made.indices[start:end][::-1].copy()
            made.data[start:end] = made.data[start:end][::-1].copy()
        made.has_sorted_indices = False
    return made


def places_of(rng: np.random.Generator, sizes: list[int], kind: str, offset: int) -> np.ndarray:
    """Places on an array with holes; on a hexagonal one, row + column has one parity in a library."""
    result = []
    for size in sizes:
        side = int(np.ceil(np.sqrt(size * rng.choice([1.0, 1.5, 3.0]))))
        row, col = np.divmod(rng.permutation(side**2)[:size], side)
        if kind == "hex":
            col = 2 * col + (row + rng.integers(2)) % 2 if size == 1 else 2 * col + row % 2
        result.append(np.column_stack([row, col]) + offset)
    return np.vstack(result)


def draw_lengths(draw, adata: AnnData) -> tuple[object, object]:
    """What is passed as `gene_lengths`, and how the reading sees it."""
    kind = draw(st.sampled_from(["cpm", "series", "dict", "column", "foreign", "wrong"]))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    lengths = {str(name): float(rng.integers(100, 9000)) for name in adata.var_names.unique() if rng.random() < 0.8}
    if kind == "cpm":
        return None, None
    if kind == "column":
        adata.var["gene_length"] = [lengths.get(name, np.nan) for name in adata.var_names]
        return "auto", "column"
    if kind == "foreign":
        lengths = {"nobody's gene": 1000.0}
    if kind == "wrong" and lengths:
        lengths[next(iter(lengths))] = draw(st.sampled_from([0.0, -5.0, np.inf]))
    return (lengths if kind == "dict" else pd.Series(lengths, dtype=float)), tuple(lengths.items())


@st.composite
def collections(
    draw, *, faults: tuple[str, ...], layer: bool = False, masks: tuple[str, ...] = (), most_spots: int = 10
) -> Case:
    sizes = draw(st.lists(st.integers(1, most_spots), min_size=1, max_size=4))
    n_genes = draw(st.integers(1, 12))
    # Seeded by the sizes, too: hypothesis likes to take a number of one example again in the next ones.
    rng = np.random.default_rng([draw(st.integers(0, 2**32)), n_genes, *sizes])
    possible = sum((FAULTS[kind] for kind in faults), [])
    fault = [None, None, possible[rng.integers(len(possible))]][rng.integers(3)]
    if fault in (*FAULTS["library"], *FAULTS["split"]) and len(sizes) == 1:
        sizes.append(2)
    n_libraries = len(sizes)
    sizes[0] = max(sizes[0], 2)
    n = sum(sizes)

    # counts
    dtype = draw(st.sampled_from(COUNT_TYPES))
    kind = draw(st.sampled_from(list(CONTAINERS))) if dtype not in (">f4", ">i4", "float16") else "dense"
    if fault in ("nan", "inf", "fraction"):
        dtype = "float32"
    if fault == "negative":
        dtype = "int16"
    mean = draw(st.sampled_from([3.0, 0.4, 30.0]))
    abundance = rng.gamma(1.0, size=n_genes) * rng.lognormal(0, 0.5, (n, 1))
    counts = rng.poisson(mean * abundance)
    if draw(st.booleans()):
        counts[rng.integers(n)] = 0
        counts[:, rng.integers(n_genes)] = 0
    if draw(st.integers(0, 4)) == 0:
        counts = np.where(counts > mean, counts * 10**9, counts)  # as nobody has, but a file may
    most = {"bool": 1, "uint8": 255, "int16": 32767, "float16": 2048, ">i4": 2**31 - 1, ">f4": 2**24, "float32": 2**24}
    values = np.minimum(counts, most.get(dtype, 2**45)).astype(dtype)
    if fault in ("nan", "inf", "negative", "fraction"):
        at = rng.integers(n), rng.integers(n_genes)
        values[at] = {"nan": np.nan, "inf": np.inf, "negative": -1, "fraction": 0.5}[fault]
    matrix = contained(draw, values, kind)
    if fault == "text":
        matrix = values.astype(int).astype(str).astype(object)

    # spots
    library = np.repeat(rng.permutation(LIBRARY_NAMES)[:n_libraries], sizes)
    column = draw(st.sampled_from(["library_id", "sample"] + ["who", "a/b"] * (fault != "no key")))
    lattice = draw(st.sampled_from(["hex", "grid"]))
    places = places_of(rng, sizes, lattice, draw(st.sampled_from([0, -50, 10**6])))
    pixels = places * ([86.6, 50.0] if lattice == "hex" else [100.0, 100.0]) + rng.normal(0, 1, places.shape)
    if fault == "place twice":
        places[1], pixels[1] = places[0], pixels[0]
    order = rng.permutation(n)
    obs = pd.DataFrame(index=[f"{'spot'}{i:03d}·{name}" for i, name in enumerate(library)])
    on_array = draw(st.sampled_from(["array", "pixels", "both"]))
    place_type = draw(st.sampled_from(["int64", "int32", "float64", "str", "category", "Int64"]))
    if fault in ("place nan", "place fraction"):
        place_type = "float64"
    if on_array != "pixels":
        for name, values_of in zip(("array_row", "array_col"), places.T, strict=True):
            made = pd.Series(values_of, index=obs.index)
            obs[name] = made.astype(str).astype("category") if place_type == "category" else made.astype(place_type)
    if fault in ("place nan", "place fraction"):
        wrong = np.nan if fault == "place nan" or on_array == "pixels" else 0.5
        if on_array == "pixels":
            pixels[rng.integers(n), rng.integers(2)] = wrong
        else:
            obs.iloc[rng.integers(n), obs.columns.get_loc("array_row")] = wrong
    obs[column] = library_column(draw, library)
    if fault == "library nan":
        obs[column] = obs[column].astype(object).where(np.arange(n) != n // 2, np.nan)
    obs["depth"] = rng.random(n)
    subject = {name: f"donor {rng.integers(3)}" for name in np.unique(library)}
    obs["donor"] = (
        pd.Series(library, index=obs.index).map(subject).astype(draw(st.sampled_from(["object", "category"])))
    )
    if draw(st.booleans()) or fault in FAULTS["split"]:
        names = rng.permutation(np.unique(library))
        of_library = {name: rng.choice(["train", "val", "test"]) for name in names} | {names[0]: "train"}
        split = pd.Series(library).map(of_library).to_numpy(dtype=object)
        if fault == "split typo":
            split[rng.integers(n)] = "training"
        if fault == "split crossing":  # library[0] has two spots or more
            split[:2] = ["train", "test"]
        if fault == "no train":
            split[:] = "val"
        if fault == "split nan":
            split[rng.integers(n)] = np.nan
        obs["split"] = pd.Series(split, index=obs.index, dtype=draw(st.sampled_from(["object", "category"])))

    # genes
    names = rng.permutation(GENE_NAMES)[:n_genes] if draw(st.booleans()) else [f"G{i}" for i in range(n_genes)]
    var = pd.DataFrame({"note": "mine"}, index=np.asarray(names, dtype=object))

    adata = AnnData(obs=obs, var=var, shape=(n, n_genes)) if fault == "no counts" else AnnData(matrix, obs=obs, var=var)
    if fault not in ("no counts", "text") and draw(st.integers(0, 3)) == 0:
        adata.layers["counts"], adata.X = adata.X, np.full((n, n_genes), 0.5)
    if on_array != "array":
        adata.obsm["spatial"] = pixels[:, ::-1]
    if fault == "no places":
        adata.obs = adata.obs.drop(columns=["array_row", "array_col"], errors="ignore")
        adata.obsm.pop("spatial", None)
    if layer:
        expression = np.log2(1 + np.nan_to_num(counts) * rng.choice([1.0, 50.0])).astype(
            draw(st.sampled_from(["float32", "float64", "int64"]))
        )
        # In a layer such as deltas, what is not detected need not be zero, and values may be negative.
        if draw(st.booleans()):
            expression = (expression - rng.integers(0, 3, n_genes)).astype(expression.dtype)
        if fault == "layer nan":
            expression = expression.astype(float)
            expression[rng.integers(n), rng.integers(n_genes)] = np.nan
        adata.layers["log2tpm"] = contained(draw, expression, draw(st.sampled_from(list(CONTAINERS))))
        if draw(st.booleans()):  # a layer of ours, which may be renewed, but not by a function that reads it
            adata.uns["spared_sc"] = {"log2tpm": {"slots": np.array(['layers["log2tpm"]'], dtype=object)}}
        if fault == "layer text":
            adata.layers["log2tpm"] = np.full((n, n_genes), "high", dtype=object)
        if fault == "no layer":
            del adata.layers["log2tpm"]
    if draw(st.booleans()):
        adata.obsm["mine"], adata.varm["mine"] = rng.random((n, 2)), rng.random((n_genes, 1))
        adata.obsp["mine"] = sps.random(n, n, 0.3, format="csr", random_state=1)
        adata.uns["mine"] = {"colour": "red", "size": np.arange(3)}
        adata.layers["mine"] = rng.integers(0, 9, (n, n_genes))
    # rows of one library need not follow each other
    adata = adata[order].copy()
    if fault == "spot twice":
        adata.obs_names = [adata.obs_names[1], *adata.obs_names[1:]]
    if fault == "gene twice" and n_genes > 1:
        adata.var_names = [adata.var_names[1], *adata.var_names[1:]]
    elif fault == "gene twice":
        fault = None
    if fault == "no key" and len(set(library)) < 2:
        fault = None
    if n_libraries == 1 and fault is None and draw(st.booleans()):
        del adata.obs[column]
        column = None
    for mask in masks:
        if draw(st.booleans()):
            adata.var[mask] = rng.random(n_genes) < 0.7
    lengths = draw_lengths(draw, adata)
    if fault is None and draw(st.integers(0, 4)) == 0:
        adata = adata[:, ::-1]  # a view
    described = {
        "fault": fault,
        "sizes": sizes,
        "n_genes": n_genes,
        "counts": f"{kind} {dtype}, mean {mean}",
        "places": f"{lattice} {on_array} {place_type}",
        "column": column,
        "view": adata.is_view,
        "layers": {name: f"{type(m).__name__} {m.dtype}" for name, m in adata.layers.items()},
        "obs": {name: str(t) for name, t in adata.obs.dtypes.items()},
    }
    return Case(adata, column, fault, described, lengths)


def library_column(draw, library: np.ndarray) -> object:
    kind = draw(st.sampled_from(["category", "object", "string", "unused", "integers", "integer categories"]))
    if kind == "unused":
        return pd.Categorical(library, categories=[*np.unique(library)[::-1], "of nobody"])
    codes = 7 + np.unique(library, return_inverse=True)[1]
    if kind == "integers":
        return codes
    if kind == "integer categories":
        return pd.Categorical(codes)
    return (
        pd.array(library.astype(object), dtype=kind) if kind == "string" else pd.Series(library).astype(kind).to_numpy()
    )


# --- what must hold of every call ------------------------------------------------------------------------------------

REFUSALS = (ValueError, KeyError, TypeError, FileNotFoundError, FloatingPointError)
# Every refusal says what to do.
REMEDY = re.compile(
    r"\b(pass|give|drop|call|run|put|use|choose|lower|widen|name|change|check|repair|rename|remove|leave|convert|load|"
    r"set|keep|needed|must|expected)\b|columns: |`sp\.",
    re.IGNORECASE,
)
WARNINGS = re.compile(
    "genes have no length and get no value|spots have no count in the genes|no spot is left of|genes have a score|"
    "genes do not vary within the batches|batches have one spot|look like copies of each other|"
    "are detected in no spot to learn from|training diverged"
)


class Refused(Exception):
    """A reading finds that there is no right result."""


def dense(matrix) -> np.ndarray:
    return matrix.toarray() if sps.issparse(matrix) else np.asarray(matrix)


def frozen(value):
    """A copy of whatever an AnnData may hold, down to the buffers of a sparse matrix."""
    if sps.issparse(value):
        parts = (value.data, value.indices, value.indptr)
        return value.format, sps.issparse(value), value.shape, *((part.dtype, part.tobytes()) for part in parts)
    if isinstance(value, pd.DataFrame):
        return value.index.tolist(), {name: (str(value[name].dtype), repr(value[name].tolist())) for name in value}
    if isinstance(value, np.ndarray):
        return value.dtype, value.shape, repr(value.tolist()) if value.dtype.kind == "O" else value.tobytes()
    if hasattr(value, "items"):
        return {key: frozen(part) for key, part in value.items()}
    return repr(value)


SLOTS = ("X", "obs", "var", "uns", "layers", "obsm", "varm", "obsp", "varp")


def snapshot(adata: AnnData) -> dict[str, object]:
    return {name: frozen(getattr(adata, name)) for name in SLOTS}


@functools.cache
def raise_lines(path: str) -> set[int]:
    tree = ast.parse(Path(path).read_text())
    raises = [node for node in ast.walk(tree) if isinstance(node, ast.Raise)]
    return {line for node in raises for line in range(node.lineno, node.end_lineno + 1)}


def check_refusal(error: Exception) -> None:
    """An error that the package raises on purpose, and that helps."""
    assert type(error) in REFUSALS
    text = str(error.args[0])
    assert len(text) > 20, text
    assert REMEDY.search(text), text
    where = traceback.extract_tb(error.__traceback__)[-1]
    assert SOURCE in Path(where.filename).parents, f"from {where.filename}: {text}"
    assert where.lineno in raise_lines(where.filename), f"stray, from {where.line}: {text}"


def call(function, adata: AnnData, **options):
    """Result or refusal of a call, and the warnings of the package; any other warning is a failure."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(adata, **options)
        except Exception as error:  # noqa: BLE001
            result = error
    for warning in caught:
        assert warning.category is UserWarning, f"{warning.category.__name__}: {warning.message}"
        assert WARNINGS.search(str(warning.message)), warning.message
        inner = Path(warning.filename)
        assert inner == Path(__file__) or inner.name == "recipe.py", f"{warning.message} points to {inner}"
    if isinstance(result, Exception):
        if type(result) not in REFUSALS:
            raise result
        try:
            check_refusal(result)
        except AssertionError as error:
            raise error from result
    return result, [str(warning.message) for warning in caught]


def copied_if_whole(adata: AnnData) -> AnnData | None:
    """A copy; none of a collection in which a name occurs twice, which no function takes, and AnnData warns of."""
    return adata.copy() if adata.obs_names.is_unique and adata.var_names.is_unique else None


def attempt(function, adata: AnnData, expected, writes: list[str], *, again: bool = True, **options):
    """Call a function that writes, as a copy, in place and once more; compare with what is expected.

    `expected` is a reading: it gives the arrays that must come out (slot -> array), or raises `Refused`. The return
    value tells whether there is a result.
    """
    before = snapshot(adata)
    original = copied_if_whole(adata)
    parent = adata._adata_ref if adata.is_view else None
    parent_before = snapshot(parent) if adata.is_view else None
    wanted, reason = reading(expected)
    copied, said = call(function, adata, copy=True, **options)
    assert snapshot(adata) == before
    result, said_again = call(function, adata, **options)
    assert said_again == said
    if parent is not None:
        assert snapshot(parent) == parent_before
    if isinstance(result, Exception):
        assert snapshot(adata) == before
        assert (type(copied), str(copied)) == (type(result), str(result))
        assert reason is not None, f"refused without a reason: {result!r}"
        return False
    assert reason is None, f"{function.__name__} gives a result although: {reason}"
    assert result is None
    assert not adata.is_view
    after = snapshot(adata)
    assert after == snapshot(copied)
    check_untouched(original, adata, writes)
    check_record(adata.uns["spared_sc"])
    for slot, value in wanted.items():
        attr, name = slot.split(":")
        assert name in getattr(adata, attr), slot
        compare(getattr(adata, attr)[name], value, slot)
    if again:
        call(function, adata, **options)
        assert snapshot(adata) == after
    return True


def reading(read) -> tuple[object, str | None]:
    """What a reading gives, or why there is nothing to give."""
    try:
        return read(), None
    except Refused as reason:
        return None, str(reason)


def compare(found, wanted, slot: str) -> None:
    found = dense(found) if not isinstance(found, pd.Series) else found.to_numpy()
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    if wanted.dtype.kind in "bOU":
        assert found.tolist() == wanted.tolist(), slot
    else:
        atol = 3e-7 * max(1, np.abs(wanted[np.isfinite(wanted)]).max(initial=0))  # float32
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=2e-6, atol=atol, err_msg=slot)


def check_untouched(before: AnnData, after: AnnData, writes: list[str]) -> None:
    """Only the slots in `writes` are new or other than before; rows and genes may be fewer."""
    if after.shape != before.shape:
        before = before[after.obs_names, after.var_names].copy()
    assert list(after.obs_names) == list(before.obs_names)
    assert list(after.var_names) == list(before.var_names)
    assert (before.X is None) == (after.X is None)
    if before.X is not None:
        assert type(after.X) is type(before.X)
        assert after.X.dtype == before.X.dtype
        assert dense(after.X).tobytes() == dense(before.X).tobytes()
    for attr in SLOTS[1:]:
        old, new = getattr(before, attr), getattr(after, attr)
        written = {slot.partition(":")[2] for slot in writes if slot.startswith(f"{attr}:")} | {"spared_sc"}
        assert set(new) - set(old) <= written, attr
        assert not set(old) - set(new), attr
        for name in set(old) - written:
            if sps.issparse(old[name]):
                assert type(new[name]) is type(old[name])
                assert new[name].dtype == old[name].dtype
                assert dense(new[name]).tobytes() == dense(old[name]).tobytes()
            else:
                assert frozen(new[[name]] if attr in ("obs", "var") else new[name]) == frozen(
                    old[[name]] if attr in ("obs", "var") else old[name]
                ), f"{attr}[{name!r}]"


def check_record(value) -> None:
    """Only what h5ad and zarr files hold."""
    if isinstance(value, dict):
        assert all(isinstance(key, str) and key and "/" not in key for key in value)
        for part in value.values():
            check_record(part)
    elif isinstance(value, np.ndarray) and value.dtype.kind == "O":
        assert all(isinstance(part, str) for part in value.ravel())
    else:
        assert isinstance(value, str | bool | int | float | np.generic | np.ndarray)


# --- readings: what the definitions say, in plain Python -------------------------------------------------------------


def need(case: Case, *what: str) -> None:
    for kind in ("names", *what):
        if case.fault in FAULTS[kind]:
            raise Refused(case.fault)


def counts_of(adata: AnnData) -> list[list[int]]:
    matrix = adata.layers["counts"] if "counts" in adata.layers else adata.X
    return [[int(value) for value in row] for row in dense(matrix)]


def libraries_of(case: Case, adata: AnnData) -> list[str]:
    return ["library"] * adata.n_obs if case.column is None else [str(name) for name in adata.obs[case.column]]


def rows_by_library(case: Case, adata: AnnData) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(libraries_of(case, adata)):
        rows.setdefault(name, []).append(row)
    return {name: rows[name] for name in sorted(rows)}


def split_of(case: Case, adata: AnnData, split_key: str | None = "split") -> dict[str, str]:
    if split_key is None or "split" not in adata.obs:
        return dict.fromkeys(rows_by_library(case, adata), "train")
    return {name: str(adata.obs["split"].iloc[rows[0]]) for name, rows in rows_by_library(case, adata).items()}


def read_filter(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "counts", "library", *(["split"] if options.get("split_key", "split") else []))
    low, high = options.get("spot_counts", (10, 1e6))
    gene_low, gene_high = options.get("gene_counts", (10, 1e6))
    share = options.get("real_data_share", 0.7)
    if not (low < high and gene_low < gene_high and 0 <= share <= 1):
        raise Refused("bounds")
    if set(options.get("genes", [])) - set(adata.var_names):
        raise Refused("unknown genes")
    counts, rows = counts_of(adata), rows_by_library(case, adata)
    genes = range(adata.n_vars)
    keep_spot = [low < sum(row) < high for row in counts]
    split = split_of(case, adata, options.get("split_key", "split"))
    judged = {name: [i for i in rows[name] if keep_spot[i]] for name in rows if split[name] == "train"}
    judged = {name: part for name, part in judged.items() if part}
    if not judged:
        raise Refused("no spot")
    everyone = sum(judged.values(), [])

    def detected_in(gene: int, part: list[int]) -> Fraction:
        return Fraction(sum(counts[i][gene] > 0 for i in part), len(part))

    expressed = [detected_in(gene, everyone) for gene in genes]
    least = [min(detected_in(gene, part) for part in judged.values()) for gene in genes]
    if "genes" in options:
        keep_gene = [name in options["genes"] for name in adata.var_names]
    else:
        ranked = [
            gene
            for gene in sorted(genes, key=lambda g: (-least[g], -expressed[g], adata.var_names[g]))
            if gene_low < sum(counts[i][gene] for i in everyone) < gene_high
            and float(expressed[gene]) >= options.get("min_expressed_fraction", 0)
            and float(least[gene]) >= options.get("min_library_expressed_fraction", 0)
        ]
        enough = [k for k in range(1, len(ranked) + 1) if float(sum(expressed[g] for g in ranked[:k]) / k) >= share]
        keep_gene = [gene in ranked[: max(enough, default=0)] for gene in genes]
    if not any(keep_gene):
        raise Refused("no gene")
    keep_spot = [
        keep and any(c > 0 for c, k in zip(row, keep_gene, strict=True) if k)
        for keep, row in zip(keep_spot, counts, strict=True)
    ]
    if not any(keep_spot):
        raise Refused("no spot with a kept gene")
    spots = np.flatnonzero(keep_spot) if options.get("subset_spots", True) else np.arange(adata.n_obs)
    left = np.flatnonzero(keep_gene) if options.get("subset_genes", False) else np.arange(adata.n_vars)
    return {
        "obs:spared_keep": np.asarray(keep_spot)[spots],
        "var:spared_keep": np.asarray(keep_gene)[left],
        "var:expressed_fraction": np.asarray(expressed, dtype=float)[left],
        "var:min_expressed_fraction": np.asarray(least, dtype=float)[left],
        "layers:detected": (np.asarray(counts, dtype=float) > 0)[np.ix_(spots, left)],
    }


def bare(name: str) -> tuple[str, str]:
    """What a gene is looked up by: its Ensembl id without version, or its symbol."""
    name = re.sub(r"^(GRCh|GRCm|hg|mm)\d+_+", "", name)
    found = re.fullmatch(r"(ENS[A-Z]*G\d{6,})(\.\d+)?(_PAR_Y)?", name)
    return ("id", found[1] + (found[3] or "")) if found else ("symbol", name)


def read_lengths(names: list[str], lengths: dict[str, float]) -> list[float]:
    known = [bare(name) for name in lengths]
    if len(set(known)) < len(known):
        raise Refused("two lengths of one gene")
    if any(length <= 0 or np.isinf(length) for length in lengths.values()):
        raise Refused("wrong lengths")
    table = dict(zip(known, lengths.values(), strict=True))
    result = []
    for name in names:
        kind, text = bare(name)
        result.append(table.get((kind, text), table.get(("symbol", re.sub(r"-\d+$", "", text)), np.nan)))
    return result


def read_normalised(case: Case, adata: AnnData, lengths: str | None, options: dict) -> dict[str, object]:
    need(case, "counts")
    target = options.get("target_sum", 1e6)
    if not 0 < target < np.inf:
        raise Refused("target_sum")
    counts = np.array(counts_of(adata), dtype=float)
    if lengths is None:
        length = np.ones(adata.n_vars)
    elif lengths == "column":
        length = adata.var["gene_length"].to_numpy(dtype=float)
        if (length <= 0).any() or np.isinf(length).any():
            raise Refused("wrong lengths")
    else:
        length = np.array(read_lengths(list(adata.var_names), dict(lengths)))
    scaled = np.ones(adata.n_vars, dtype=bool)
    if "spared_keep" in adata.var and options.get("mask_var", "spared_keep"):
        scaled = adata.var["spared_keep"].to_numpy()
    if not (np.isfinite(length) & scaled).any():
        raise Refused("no lengths")
    per_length = np.where(np.isfinite(length), counts / length, 0)
    values = np.zeros(counts.shape)
    for row, total in enumerate(per_length[:, scaled].sum(axis=1)):
        if total > 0:
            values[row] = np.log1p(per_length[row] / total * target) / np.log(2)
    written = {f"layers:{options.get('key_added', 'log2tpm')}": values}
    return written if lengths is None else {**written, "var:gene_length": length}


def neighbours(case: Case, adata: AnnData, kind: str = "auto") -> list[set[int]]:
    """The spots that touch each spot."""
    need(case, "library", "places")
    if kind not in ("auto", "hex", "grid", "grid4"):
        raise Refused("kind")
    groups = rows_by_library(case, adata).values()
    touching: list[set[int]] = [set() for _ in range(adata.n_obs)]
    if "array_row" in adata.obs:
        place = [
            (int(float(r)), int(float(c))) for r, c in zip(adata.obs["array_row"], adata.obs["array_col"], strict=True)
        ]
        if kind == "auto":
            even = all(len({sum(place[i]) % 2 for i in rows}) == 1 for rows in groups)
            kind = "hex" if even else "grid"
        for rows in groups:
            for i in rows:
                for j in rows:
                    dr, dc = abs(place[i][0] - place[j][0]), abs(place[i][1] - place[j][1])
                    near = {"hex": (dr, dc) in ((0, 2), (1, 1)), "grid": max(dr, dc) == 1, "grid4": dr + dc == 1}
                    if near[kind]:
                        touching[i].add(j)
        return touching
    at = adata.obsm["spatial"]
    for rows in groups:
        apart = {(i, j): np.hypot(*(at[i] - at[j])) for i in rows for j in rows if i != j}
        nearest = [min(apart[i, j] for j in rows if j != i) for i in rows if len(rows) > 1]
        for (i, j), distance in apart.items():
            if distance <= 1.2 * np.quantile(nearest, 0.25):
                touching[i].add(j)
    return touching


def hops_between(touching: list[set[int]], n_rings: int) -> np.ndarray:
    hops = np.zeros((len(touching),) * 2)
    for start in range(len(touching)):
        seen, edge = {start}, {start}
        for ring in range(1, n_rings + 1):
            edge = set().union(*(touching[i] for i in edge)) - seen if edge else edge
            seen |= edge
            hops[start, list(edge)] = ring
    return hops


def read_graph(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    if options.get("n_rings", 1) < 1:
        raise Refused("n_rings")
    hops = hops_between(neighbours(case, adata, options.get("kind", "auto")), options.get("n_rings", 1))
    return {"obsp:spatial_distances": hops, "obsp:spatial_connectivities": (hops > 0).astype(float)}


def layer_of(case: Case, adata: AnnData, layer: str = "log2tpm") -> np.ndarray:
    need(case, "layer")
    return dense(adata.layers[layer])


def mask_of(adata: AnnData, mask_var: str | None, default: str) -> np.ndarray:
    """Which genes: the column's, where it is there."""
    if mask_var is None or (mask_var == default and default not in adata.var):
        return np.ones(adata.n_vars, dtype=bool)
    mask = adata.var[mask_var].to_numpy()
    if not mask.any():
        raise Refused("no gene")
    return mask


def detected_of(case: Case, adata: AnnData) -> np.ndarray:
    if "detected" in adata.layers:
        return dense(adata.layers["detected"]).astype(bool)
    need(case, "counts")
    return np.array(counts_of(adata), dtype=float) > 0


def filled_by_median(case: Case, adata: AnnData, mask: np.ndarray, n_rings: int = 4) -> np.ndarray:
    values, detected = layer_of(case, adata), detected_of(case, adata)
    result, seen = values.astype(float), np.where(detected, values, 0).astype(float)
    hops = hops_between(neighbours(case, adata), n_rings)
    for rows in rows_by_library(case, adata).values():
        for gene in np.flatnonzero(mask):
            expressed = [seen[i, gene] for i in rows if seen[i, gene] != 0]
            for i in rows:
                if detected[i, gene]:
                    continue
                tries = [
                    statistics.median([0.0, *(seen[j, gene] for j in rows if 0 < hops[i, j] <= ring)])
                    for ring in range(1, n_rings + 1)
                ]
                first = next((value for value in tries if value != 0), None)
                result[i, gene] = first if first is not None else statistics.median(expressed or [0.0])
    return result


def read_median(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", "library", "places")
    detected_of(case, adata)
    if options.get("n_rings", 4) < 1:
        raise Refused("n_rings")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    return {"layers:median": filled_by_median(case, adata, mask, options.get("n_rings", 4))}


def read_moran(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", "library", *(["split"] if options.get("split_key", "split") else []))
    mask = mask_of(adata, options.get("mask_var", "spared_keep"), "spared_keep")
    completed = options.get("median_completed", False)
    if "connectivity_key" in options and options["connectivity_key"] not in adata.obsp:
        raise Refused("no graph")
    if completed:
        detected_of(case, adata)
        values = filled_by_median(case, adata, mask)
    else:
        values = layer_of(case, adata).astype(float)
    if "connectivity_key" in options:
        weights = dense(adata.obsp[options["connectivity_key"]])
    else:
        weights = hops_between(neighbours(case, adata), 1)
    split = split_of(case, adata, options.get("split_key", "split"))
    scores = []
    for name, rows in rows_by_library(case, adata).items():
        if split[name] != "train":
            continue
        w = weights[np.ix_(rows, rows)]
        w = np.array([row / row.sum() if row.sum() > 0 else row for row in w])
        for_library = np.full(adata.n_vars, np.nan)
        for gene in np.flatnonzero(mask):
            x = values[rows, gene]
            z = x - x.mean()
            if np.any(x != x[0]) and w.sum() > 0:
                for_library[gene] = len(rows) / w.sum() * (z @ w @ z) / (z @ z)
        scores.append(for_library)
    n = np.isfinite(scores).sum(axis=0)
    return {"var:moran_i": np.where(n > 0, np.nansum(scores, axis=0) / np.maximum(n, 1), np.nan)}


def read_selected(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case)
    score = options.get("score", "moran_i")
    if score not in adata.var or options.get("n_genes", 1) < 1 or adata.var[score].dtype == object:
        raise Refused("score or n_genes")
    mask = mask_of(adata, "spared_keep", "spared_keep")
    scores = dict(zip(adata.var_names, adata.var[score], strict=True))
    candidates = [name for name, take in zip(adata.var_names, mask, strict=True) if take and np.isfinite(scores[name])]
    if not candidates:
        raise Refused("no scores")
    n_genes = options.get("n_genes", 32)  # 128 of more than 320
    best = sorted(candidates, key=lambda name: (-scores[name], name))[:n_genes]
    selected = np.array([name in best for name in adata.var_names])
    return {"var:spared_selected": selected[selected] if options.get("subset_genes") else selected}


def train_rows(case: Case, adata: AnnData, options: dict) -> list[int]:
    split = split_of(case, adata, options.get("split_key", "split"))
    return sorted(sum((rows for name, rows in rows_by_library(case, adata).items() if split[name] == "train"), []))


def read_centered(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    need(case, "layer", *(["library", "split"] if options.get("split_key", "split") and "split" in adata.obs else []))
    values = layer_of(case, adata).astype(float)
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    key_added = options.get("key_added", "log2tpm_delta")
    if key_added == "log2tpm":
        raise Refused("the layer itself")
    mean = np.where(mask, values[train_rows(case, adata, options)].mean(axis=0), 0)
    return {f"layers:{key_added}": values - mean, "var:log2tpm_mean": mean}


def pairs_alike(case: Case, adata: AnnData) -> dict[tuple[str, str], float]:
    """Correlation of the totals of two libraries, where it means something."""
    need(case, "library")
    if "array_row" not in adata.obs:
        return {}
    need(case, "counts", "places")
    counts, rows = counts_of(adata), rows_by_library(case, adata)
    place = list(zip(adata.obs["array_row"].astype(float), adata.obs["array_col"].astype(float), strict=True))
    total = {name: {place[i]: np.log1p(float(sum(counts[i]))) for i in part} for name, part in rows.items()}
    found = {}
    for one in total:
        for other in total:
            shared = sorted(set(total[one]) & set(total[other]))
            if one < other and len(shared) >= max(3, min(20, len(rows[one]), len(rows[other]))):
                a, b = ([total[name][at] for at in shared] for name in (one, other))
                constant = len(set(a)) == 1 or len(set(b)) == 1
                found[one, other] = float(a == b) if constant else float(np.corrcoef(a, b)[0, 1])
    return found


def read_split(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    if options.get("random_state", 0) < 0:
        raise Refused("random_state")
    alike = pairs_alike(case, adata)
    names = list(rows_by_library(case, adata))
    subject_key = options.get("subject_key")
    if subject_key is None and not options.get("intra_subject"):
        raise Refused("no subjects")
    subject = dict(zip(libraries_of(case, adata), adata.obs["donor"].astype(str), strict=True))
    groups: list[set[str]] = [{name} for name in names]
    together = [pair for pair, correlation in alike.items() if correlation > 0.95]
    if not options.get("intra_subject"):
        together += [(one, other) for one in names for other in names if subject[one] == subject[other]]
    if "assignment" in options:
        given_to = {str(name): split for name, split in options["assignment"].items()}
        if set(names) - set(given_to) or "train" not in given_to.values():
            raise Refused("assignment")
        crossing = [
            one
            for one in names
            for other in names
            if subject[one] == subject[other] and given_to[one] != given_to[other]
        ]
        if crossing and not options.get("intra_subject"):
            raise Refused("subject in several splits")
        return {"obs:split": np.array([given_to[name] for name in libraries_of(case, adata)], dtype=object)}
    for one, other in together:
        joined = [group for group in groups if group & {one, other}]
        groups = [group for group in groups if group not in joined] + [set().union(*joined)]
    fractions = options.get("fractions", (0.7, 0.15, 0.15))
    if len(groups) < sum(share > 0 for share in fractions):
        raise Refused("too few subjects")
    case.groups = groups
    return {}


def read_combat(case: Case, adata: AnnData, options: dict) -> dict[str, object]:
    """ComBat's equations, iterated far; empty where they have no solution of their own."""
    need(case, "layer", "library", *(["split"] if options.get("split_key", "split") else []))
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    column = libraries_of(case, adata) if "batch_key" not in options else adata.obs[options["batch_key"]].astype(str)
    batch, train = np.asarray(column, dtype=object), train_rows(case, adata, options)
    sizes = Counter(batch[train])
    learned = sorted(name for name in sizes if sizes[name] > 1)
    if len(learned) < 2:
        raise Refused("too few batches")
    if options.get("key_added") == "log2tpm":
        raise Refused("the layer itself")
    values = layer_of(case, adata).astype(float)
    rows = {name: [i for i in train if batch[i] == name] for name in learned}
    return {} if not set(batch) == set(learned) or len(train) < adata.n_obs else read_combat_of_all(values, rows, mask)


def read_combat_of_all(values: np.ndarray, rows: dict[str, list[int]], mask: np.ndarray) -> dict[str, object]:
    residual = sum(((values[part] - values[part].mean(axis=0)) ** 2).sum(axis=0) for part in rows.values())
    genes = np.flatnonzero(mask & (residual > 1e-9 * np.maximum((values**2).sum(axis=0), 1e-300)))
    result = values.copy()
    if len(genes) < 2:
        return {"layers:log2tpm_combat": result}
    x = values[:, genes]
    sigma, mean = np.sqrt(residual[genes] / len(x)), x.mean(axis=0)
    z = (x - mean) / sigma
    for part in rows.values():
        n, gamma, delta = len(part), z[part].mean(axis=0), z[part].var(axis=0, ddof=1)
        s2, tau2 = delta.var(ddof=1), gamma.var(ddof=1)
        if s2 < 1e-9 or tau2 < 1e-9 or (delta < 1e-9).any() or (np.abs(gamma) < 1e-6).any():
            return {}
        shape, rate = 2 + delta.mean() ** 2 / s2, delta.mean() + delta.mean() ** 3 / s2
        g, d = gamma, delta
        for _ in range(2000):
            g = (n * tau2 * gamma + d * gamma.mean()) / (n * tau2 + d)
            d = (rate + 0.5 * ((z[part] - g) ** 2).sum(axis=0)) / (n / 2 + shape - 1)
        result[np.ix_(part, genes)] = (z[part] - g) / np.sqrt(d) * sigma + mean
    return {"combat": result}


# --- the tests -------------------------------------------------------------------------------------------------------

FILTER = st.fixed_dictionaries(
    {},
    optional={
        "spot_counts": st.sampled_from([(0, 1e12), (-1, np.inf), (-1, 3), (5, 60), (1e15, 1e16), (10, 5)]),
        "gene_counts": st.sampled_from([(0, 1e12), (-1, np.inf), (5, 60), (1e15, 1e16), (5, 5)]),
        "min_expressed_fraction": st.sampled_from([0.2, 0.9]),
        "min_library_expressed_fraction": st.sampled_from([0.2, 0.9]),
        "real_data_share": st.sampled_from([0, 0.3, 0.5, 1.0, 1.5, float("nan")]),
        "subset_spots": st.just(False),
        "subset_genes": st.just(True),
        "split_key": st.none(),
    },
)
FILTER_WRITES = [
    "obs:spared_keep",
    "var:spared_keep",
    "var:expressed_fraction",
    "var:min_expressed_fraction",
    "layers:detected",
]


def draw_genes(draw, adata: AnnData) -> dict[str, list[str]]:
    """A list of the user's own genes, now and then with one that is not there."""
    choice = draw(st.sampled_from(["no list"] * 4 + ["some", "unknown"]))
    names = list(adata.var_names[: draw(st.integers(1, adata.n_vars))])
    return {"no list": {}, "some": {"genes": names}, "unknown": {"genes": [*names, "nobody's gene"]}}[choice]


@examples("counts")
@given(case=collections(faults=("counts", "names", "library", "split")), data=st.data())
def test_counts(case: Case, data):
    SEEN[case.fault] += 1
    RAN["counts"] += 1
    adata, library = case.adata, {"library_key": case.key}
    options = {**data.draw(FILTER), **draw_genes(data.draw, adata)}
    again = not options.get("subset_spots", True) and not options.get("subset_genes", False)
    attempt(
        sp.pp.spared_filter,
        adata,
        lambda: read_filter(case, adata, options),
        FILTER_WRITES,
        again=again,
        **library,
        **options,
    )
    gene_lengths, lengths = case.lengths
    options = data.draw(
        st.fixed_dictionaries(
            {}, optional={"target_sum": st.sampled_from([1.0, 1e4, 0, np.inf, np.nan]), "mask_var": st.none()}
        )
    )
    attempt(
        sp.pp.normalize_tpm,
        adata,
        lambda: read_normalised(case, adata, lengths, options),
        ["layers:log2tpm", "var:gene_length"],
        gene_lengths=gene_lengths,
        **options,
    )
    if "log2tpm" in adata.layers:
        assert adata.layers["log2tpm"].dtype == np.float32
        assert sps.issparse(adata.layers["log2tpm"]) == sps.issparse(adata.layers.get("counts", adata.X))
    check_missing_share(case, adata)


def check_missing_share(case: Case, adata: AnnData) -> None:
    before = snapshot(adata)
    found, _ = call(sp.get.missing_share, adata, library_key=case.key)
    assert snapshot(adata) == before

    def read():
        need(case, "library")
        return mask_of(adata, "spared_selected", "spared_selected"), detected_of(case, adata)

    wanted, reason = reading(read)
    assert isinstance(found, Exception) == (reason is not None), reason or found
    if reason is not None:
        return
    mask, detected = wanted
    rows = rows_by_library(case, adata)
    assert list(found.columns) == list(rows)
    assert list(found.index) == list(adata.var_names[mask])
    for name, part in rows.items():
        np.testing.assert_allclose(found[name], 1 - detected[part][:, mask].mean(axis=0), atol=1e-12)


@examples("space")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS), data=st.data()
)
def test_space(case: Case, data):
    SEEN[case.fault] += 1
    RAN["space"] += 1
    adata, library = case.adata, {"library_key": case.key}
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["hex", "grid", "grid4", "hexagon"]),
                "n_rings": st.sampled_from([2, 3, 10**12, 0]),
            },
        )
    )
    rings = min(options.get("n_rings", 1), adata.n_obs)
    attempt(
        sp.pp.lattice_neighbors,
        adata,
        lambda: read_graph(case, adata, {**options, "n_rings": rings}),
        ["obsp:spatial_distances", "obsp:spatial_connectivities", "uns:spatial_neighbors"],
        **library,
        **options,
    )
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "median_completed": st.booleans(),
                "connectivity_key": st.sampled_from(["mine", "mine", "knn"]),
                "mask_var": st.none(),
                "split_key": st.none(),
            },
        )
    )
    attempt(sp.pp.moran, adata, lambda: read_moran(case, adata, options), ["var:moran_i"], **library, **options)
    options = data.draw(
        st.fixed_dictionaries({}, optional={"n_rings": st.sampled_from([1, 2, 10**12, 0]), "mask_var": st.none()})
    )
    rings = min(options.get("n_rings", 4), adata.n_obs)
    done = attempt(
        sp.tl.median_complete,
        adata,
        lambda: read_median(case, adata, {**options, "n_rings": rings}),
        ["layers:median"],
        **library,
        **options,
    )
    if done:
        check_completed(case, adata, "median")
    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "n_genes": st.integers(0, 12),
                "score": st.sampled_from(["moran_i", "note", "geary"]),
                "subset_genes": st.just(True),
            },
        )
    )
    attempt(
        sp.pp.select_genes,
        adata,
        lambda: read_selected(case, adata, options),
        ["var:spared_selected"],
        again=not options.get("subset_genes"),
        **options,
    )


def check_completed(case: Case, adata: AnnData, key: str) -> None:
    """Detected values are the input's to the bit, in its container; all values are finite."""
    completed, layer = adata.layers[key], adata.layers["log2tpm"]
    detected = detected_of(case, adata)
    assert sps.issparse(completed) == sps.issparse(layer)
    if layer.dtype.kind == "f":
        assert completed.dtype == layer.dtype
    np.testing.assert_array_equal(dense(completed)[detected], dense(layer)[detected])
    assert np.isfinite(dense(completed)).all()


@examples("learning")
@given(
    case=collections(faults=("counts", "names", "library", "places", "layer", "split"), layer=True, masks=MASKS),
    data=st.data(),
)
def test_learning(case: Case, data):
    SEEN[case.fault] += 1
    RAN["learning"] += 1
    adata, library = case.adata, {"library_key": case.key}
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    common = {"mask_var": st.none(), "split_key": st.none(), "key_added": st.sampled_from(["new", "log2tpm"])}

    options = data.draw(st.fixed_dictionaries({}, optional=common))
    centered = attempt(
        sp.pp.center,
        adata,
        lambda: read_centered(case, adata, options),
        ["layers:log2tpm_delta", "layers:new", "var:log2tpm_mean"],
        **library,
        **options,
    )
    if centered:
        layer = options.get("key_added", "log2tpm_delta")
        values = dense(adata.layers["log2tpm"]).astype(float)
        attempt(
            sp.pp.uncenter,
            adata,
            lambda: {"layers:back": values},
            ["layers:back"],
            layer=layer,
            key_added="back",
            **({"mask_var": None} if "mask_var" in options else {}),
        )
        # of any layer, whatever its type
        shifted = values + adata.var["log2tpm_mean"].to_numpy()
        attempt(
            sp.pp.uncenter,
            adata,
            lambda: {"layers:shifted": shifted},
            ["layers:shifted"],
            layer="log2tpm",
            mean="log2tpm_mean",
            mask_var=None,
            key_added="shifted",
        )

    options = data.draw(st.fixed_dictionaries({}, optional={**common, "batch_key": st.just("donor")}))
    wanted = {}

    def read():
        wanted.update(read_combat(case, adata, options))
        return {slot: value for slot, value in wanted.items() if slot != "combat" and "key_added" not in options}

    if attempt(sp.pp.combat, adata, read, ["layers:log2tpm_combat", "layers:new"], **library, **options):
        corrected = dense(adata.layers[options.get("key_added", "log2tpm_combat")]).astype(float)
        assert np.isfinite(corrected).all()
        mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
        np.testing.assert_array_equal(corrected[:, ~mask], dense(adata.layers["log2tpm"])[:, ~mask])
        if "combat" in wanted:
            np.testing.assert_allclose(corrected, wanted["combat"], rtol=0.01, atol=0.01)

    found, _ = call(sp.pp.find_duplicate_libraries, adata, **library)
    alike, reason = reading(lambda: pairs_alike(case, adata))
    assert isinstance(found, Exception) == (reason is not None), reason or found
    if reason is None:
        pairs = {(row.library, row.other): row.correlation for row in found.itertuples()}
        assert set(pairs) <= set(alike)
        for pair, correlation in alike.items():
            if abs(correlation - 0.95) > 1e-9:
                assert (pair in pairs) == (correlation > 0.95), pair
                assert abs(pairs.get(pair, correlation) - correlation) < 1e-9

    options = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "subject_key": st.just("donor"),
                "intra_subject": st.just(True),
                "fractions": st.sampled_from([(0.5, 0.5, 0), (1, 0, 0), (0.4, 0.2, 0.4)]),
                "random_state": st.sampled_from([1, 2, -1]),
            },
        )
    )
    if case.column and data.draw(st.integers(0, 4)) == 0:
        names = adata.obs[case.column].dropna().unique().tolist()
        options["assignment"] = dict(zip(names, rng.choice(["train", "val", "test"], len(names)), strict=True))
    if attempt(
        sp.pp.split_libraries, adata, lambda: read_split(case, adata, options), ["obs:split"], **library, **options
    ):
        split = adata.obs["split"]
        of_library = {name: set(split.iloc[rows]) for name, rows in rows_by_library(case, adata).items()}
        assert all(len(splits) == 1 for splits in of_library.values())
        if "assignment" not in options:
            wanted = [
                n
                for n, share in zip(("train", "val", "test"), options.get("fractions", (1, 1, 1)), strict=True)
                if share
            ]
            assert set(split) == set(wanted)
            for group in case.groups:
                assert len(set().union(*(of_library[name] for name in group))) == 1


def recipe_in_steps(adata: AnnData, case: Case, options: dict) -> AnnData:
    """The recipe by its four steps."""
    own = {name: options[name] for name in ("spot_counts", "gene_counts", "real_data_share") if name in options}
    adata = adata.copy()
    completed = options.get("moran_layer", "median") == "median"
    for step in (
        lambda a: sp.pp.spared_filter(a, library_key=case.key, **own),
        lambda a: sp.pp.normalize_tpm(a, gene_lengths=None),
        lambda a: sp.pp.moran(a, library_key=case.key, median_completed=completed),
        lambda a: sp.pp.select_genes(a, n_genes=options.get("n_genes")),
    ):
        result, _ = call(step, adata)
        if isinstance(result, Exception):
            raise Refused(str(result))
    return adata


@examples("whole way")
@given(case=collections(faults=("counts", "names", "library", "places", "split")), data=st.data())
def test_whole_way(case: Case, data, tmp_path_factory):
    SEEN[case.fault] += 1
    RAN["whole way"] += 1
    adata = case.adata
    options = data.draw(
        st.fixed_dictionaries(
            {"spot_counts": st.just((0, 1e12)), "gene_counts": st.just((0, 1e12))},
            optional={
                "real_data_share": st.sampled_from([0.2, 0.5, 0.9]),
                "n_genes": st.integers(1, 12),
                "moran_layer": st.sampled_from(["log2tpm", "median"]),
            },
        )
    )
    original = copied_if_whole(adata)

    def expected():
        need(case)
        done = recipe_in_steps(adata, case, options)
        slots = {"var": ["spared_keep", "moran_i", "spared_selected"], "layers": ["log2tpm", "detected"]}
        return {f"{attr}:{name}": dense(getattr(done, attr)[name]) for attr in slots for name in slots[attr]}

    done = attempt(
        sp.pp.recipe_spared,
        adata,
        expected,
        [*FILTER_WRITES, "layers:log2tpm", "var:moran_i", "var:spared_selected"],
        again=False,
        library_key=case.key,
        gene_lengths=None,
        **options,
    )
    if not done:
        return

    def way(one: AnnData) -> AnnData | None:
        steps = (
            lambda a: sp.pp.recipe_spared(a, library_key=case.key, gene_lengths=None, **options),
            lambda a: sp.pp.lattice_neighbors(a, library_key=case.key),
            lambda a: sp.tl.median_complete(a, library_key=case.key),
            lambda a: sp.pp.center(a, library_key=case.key),
            lambda a: sp.pp.combat(a, layer="median", library_key=case.key),
        )
        for step in steps:
            result, _ = call(step, one)
            if isinstance(result, Exception):
                assert "ComBat compares batches" in str(result)
        return one

    # Neither the order of the spots nor the names of the libraries matter.
    rng = np.random.default_rng(0)
    first = way(original.copy())
    other = original[rng.permutation(original.n_obs)].copy()
    if case.column:
        names = sorted({str(name) for name in other.obs[case.column]})
        renamed = dict(zip(names, [f"L{i}" for i in rng.permutation(len(names))], strict=True))
        other.obs[case.column] = [renamed[str(name)] for name in other.obs[case.column]]
    other = way(other)
    assert set(other.obs_names) == set(first.obs_names)
    other = other[first.obs_names]
    np.testing.assert_allclose(other.var["moran_i"], first.var["moran_i"], atol=1e-9)
    assert set(other.layers) == set(first.layers)
    scores = first.var["moran_i"].dropna().sort_values().to_numpy()
    if np.diff(scores).min(initial=1) > 1e-9:  # else the last bits of equal scores decide
        assert other.var["spared_selected"].tolist() == first.var["spared_selected"].tolist()
        for layer in first.layers:
            tolerance = 1e-2 if "combat" in layer else 1e-5
            np.testing.assert_allclose(
                dense(other.layers[layer]).astype(float),
                dense(first.layers[layer]).astype(float),
                atol=tolerance,
                rtol=tolerance,
            )
        for graph in ("spatial_distances", "spatial_connectivities"):
            np.testing.assert_array_equal(dense(other.obsp[graph]), dense(first.obsp[graph]))

    if not any("/" in name for name in first.obs):  # files cannot hold the user's own column
        path = tmp_path_factory.mktemp("h5ad") / "a.h5ad"
        first.write_h5ad(path)
        back = read_h5ad(path)
        for layer in first.layers:
            np.testing.assert_array_equal(dense(back.layers[layer]), dense(first.layers[layer]))
        assert back.uns["spared_sc"].keys() == first.uns["spared_sc"].keys()


@examples("spackle")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS, most_spots=12),
    data=st.data(),
)
def test_spackle(case: Case, data):
    SEEN[case.fault] += 1
    RAN["spackle"] += 1
    adata = case.adata
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    options = data.draw(
        st.fixed_dictionaries(
            {"n_steps": st.integers(1, 2)},
            optional={
                "n_rings": st.sampled_from([0, 1, 3, 4]),
                "mask_share": st.sampled_from([0.1, 0.9, 1.0]),
                "precomplete": st.just(False),
                "loss": st.sampled_from(["hidden", "some"]),
                "mask_var": st.none(),
                "split_key": st.none(),
                "random_state": st.sampled_from([3, -1]),
                "batch_size": st.sampled_from([1, 7, 0]),
            },
        )
    )
    tiny = {
        "model": "paper",
        "n_layers": 1,
        "n_heads": 1,
        "feedforward": 8,
        "train_batch_size": 4,
        "device": "cpu",
    }
    refused = []

    def expected():
        try:
            need(case, "layer", "library", "places", *(["split"] if options.get("split_key", "split") else []))
            mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
            detected = detected_of(case, adata) & mask
            train = train_rows(case, adata, options)
            wrong = {"n_rings": 4, "mask_share": 1.0, "loss": "some", "random_state": -1, "batch_size": 0}
            if any(options.get(name) == value for name, value in wrong.items()):
                raise Refused("parameters")
            if not detected[train].any():
                raise Refused("nothing to learn from")
        except Refused as reason:
            refused.append(reason)
            raise
        # Which entries are held out is drawn, so that few of them may be none.
        result, _ = call(sp.tl.spackle_complete, adata, library_key=case.key, copy=True, **options, **tiny)
        if isinstance(result, ValueError) and "too few detected entries" in str(result) and detected.sum() < 150:
            raise Refused("too few detected entries")
        return {}

    original = copied_if_whole(adata)
    if not attempt(
        sp.tl.spackle_complete,
        adata,
        expected,
        ["layers:spackle"],
        library_key=case.key,
        **options,
        **tiny,
    ):
        return
    check_completed(case, adata, "spackle")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    np.testing.assert_array_equal(
        dense(adata.layers["spackle"])[:, ~mask], dense(adata.layers["log2tpm"]).astype(float)[:, ~mask]
    )
    # The order of the spots does not matter.
    other = original[rng.permutation(adata.n_obs)].copy()
    call(sp.tl.spackle_complete, other, library_key=case.key, **options, **tiny)
    np.testing.assert_array_equal(dense(other[adata.obs_names].layers["spackle"]), dense(adata.layers["spackle"]))


@examples("residual")
@given(
    case=collections(faults=("names", "library", "places", "layer", "split"), layer=True, masks=MASKS, most_spots=40),
    data=st.data(),
)
def test_residual(case: Case, data):
    SEEN[case.fault] += 1
    RAN["residual"] += 1
    adata = case.adata
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    options = data.draw(
        st.fixed_dictionaries(
            {"n_steps": st.integers(1, 2)},
            optional={
                "dropout": st.sampled_from([0, 0.5, 1.0]),
                "mask_var": st.none(),
                "split_key": st.none(),
                "random_state": st.sampled_from([3, -1]),
            },
        )
    )

    def expected():
        need(case, "layer", "library", "places", *(["split"] if options.get("split_key", "split") else []))
        if options.get("dropout") == 1.0 or options.get("random_state") == -1:
            raise Refused("parameters")
        mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
        n_detected = (detected_of(case, adata) & mask)[train_rows(case, adata, options)].sum()
        if n_detected < 50:  # ten for each of five folds
            raise Refused("too few detected entries")
        return {}

    original = copied_if_whole(adata)
    slots = ["layers:spackle", "layers:spackle_rate", "layers:spackle_sd"]
    if not attempt(
        sp.tl.spackle_complete, adata, expected, slots, library_key=case.key, device="cpu", again=False, **options
    ):
        return
    check_completed(case, adata, "spackle")
    mask = mask_of(adata, options.get("mask_var", "spared_selected"), "spared_selected")
    detected = detected_of(case, adata)
    rate, sd = (dense(adata.layers[slot.partition(":")[2]]) for slot in slots[1:])
    np.testing.assert_array_equal(rate[:, ~mask], np.asarray(counts_of(adata), dtype=float)[:, ~mask])
    for values in (rate, sd):
        assert np.isfinite(values).all()
        assert (values >= 0).all()
    assert not sd[:, ~mask].any()
    assert not sd[detected].any()
    # The order of the spots does not matter.
    other = original[rng.permutation(adata.n_obs)].copy()
    call(sp.tl.spackle_complete, other, library_key=case.key, device="cpu", **options)
    for slot in slots:
        name = slot.partition(":")[2]
        np.testing.assert_array_equal(dense(other[adata.obs_names].layers[name]), dense(adata.layers[name]))


def test_enough_examples():
    if set(RAN) != set(EXAMPLES):
        pytest.skip("counts the examples of all the tests above, and some of them did not run")
    assert sum(RAN.values()) >= 500
    assert len(SEEN) > 0.8 * len(sum(FAULTS.values(), []))
    assert SEEN[None] > 250
