"""Random small collections, whole and spoiled."""

from __future__ import annotations

import os

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import scipy.sparse as sps
from anndata import AnnData
from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("SPARED_SC_EXAMPLES", "1"))


EXAMPLES = {
    "collections": 400,
    "counts": 240,
    "space": 200,
    "learning": 180,
    "whole way": 60,
    "spackle": 50,
    "counts model": 40,
    "simple methods": 120,
}


def examples(name: str) -> settings:
    return settings(
        max_examples=EXAMPLES[name] * FACTOR,
        derandomize=FACTOR == 1,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )


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
        if kind == "hex" or (kind == "mixed" and rng.random() < 0.5):
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
    lattice = draw(st.sampled_from(["hex", "grid", "mixed"]))
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
            made = {
                "function": "pp.normalize_tpm",
                "params": {},
                "slots": np.array(['layers["log2tpm"]'], dtype=object),
            }
            adata.uns["spared_sc"] = {"log2tpm": made}
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
            kept = rng.random(n_genes) < 0.7
            adata.var[mask] = pd.Series(kept, index=adata.var_names).astype(
                draw(st.sampled_from(["bool", "boolean", "int64", "float64", "str", "category"]))
            )
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
    kind = draw(
        st.sampled_from(["category", "object", "string", "unused", "integers", "integer categories", "floats", "Int64"])
    )
    if kind == "unused":
        return pd.Categorical(library, categories=[*np.unique(library)[::-1], "of nobody"])
    codes = 7 + np.unique(library, return_inverse=True)[1]
    if kind in ("integers", "floats", "Int64"):
        return pd.array(codes, dtype={"integers": "int64", "floats": "float64"}.get(kind, kind))
    if kind == "integer categories":
        return pd.Categorical(codes)
    return (
        pd.array(library.astype(object), dtype=kind) if kind == "string" else pd.Series(library).astype(kind).to_numpy()
    )


def draw_genes(draw, adata: AnnData) -> dict[str, list[str]]:
    """A list of the user's own genes, now and then with one that is not there."""
    choice = draw(st.sampled_from(["no list"] * 4 + ["some", "unknown"]))
    names = list(adata.var_names[: draw(st.integers(1, adata.n_vars))])
    return {"no list": {}, "some": {"genes": names}, "unknown": {"genes": [*names, "nobody's gene"]}}[choice]
