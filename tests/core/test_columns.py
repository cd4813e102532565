"""_core/columns: one reading of every type of column."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import spared_sc as sp
from helpers import dense
from spared_sc._core.columns import flags_of, names_of, numbers_of

WHOLE = {
    "int64": lambda numbers: pd.Series(numbers, dtype="int64"),
    "uint8": lambda numbers: pd.Series(numbers, dtype="uint8"),
    "float64": lambda numbers: pd.Series(numbers, dtype="float64"),
    "float32": lambda numbers: pd.Series(numbers, dtype="float32"),
    "Int64": lambda numbers: pd.Series(numbers, dtype="Int64"),
    "Float64": lambda numbers: pd.Series(numbers, dtype="Float64"),
    "text": lambda numbers: pd.Series([str(number) for number in numbers], dtype=object),
    "string": lambda numbers: pd.Series([str(number) for number in numbers], dtype="string"),
    "bytes": lambda numbers: pd.Series([str(number).encode() for number in numbers], dtype=object),
    "categories of integers": lambda numbers: pd.Series(pd.Categorical(numbers)),
    "categories of floats": lambda numbers: pd.Series(pd.Categorical([float(number) for number in numbers])),
    "categories of text": lambda numbers: pd.Series(pd.Categorical([str(number) for number in numbers])),
    "text and numbers": lambda numbers: pd.Series(
        [number if i % 2 else str(number) for i, number in enumerate(numbers)], dtype=object
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_whole_numbers_are_read_alike_whatever_holds_them(kind):
    numbers = [10, 2, 2, 33, 10]
    column = WHOLE[kind](numbers)
    assert names_of(column, "obs['x']").tolist() == ["10", "2", "2", "33", "10"]
    np.testing.assert_array_equal(numbers_of(column), np.array(numbers, dtype=float))


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([True, False, True]),
        pd.Series([True, False, True], dtype="boolean"),
        pd.Series([True, False, True], dtype=object),
        pd.Series([1, 0, 1]),
        pd.Series([1.0, 0.0, 1.0]),
        pd.Series([1, 0, 1], dtype="Int64"),
        pd.Series(["True", "False", "True"]),
        pd.Series(["TRUE", "false", "True"], dtype="string"),
        pd.Series(["1", "0", "1"]),
        pd.Series(pd.Categorical([True, False, True])),
        pd.Series(pd.Categorical(["True", "False", "True"])),
    ],
    ids=lambda column: f"{column.dtype} {column.iloc[0]!r}",
)
def test_flags_are_read_alike_whatever_holds_them(column):
    assert flags_of(column, "var['x']").tolist() == [True, False, True]


@pytest.mark.parametrize("column", [[2, 0, 1], [0.5, 0, 1], ["yes", "no", "no"], ["", "True", "False"]])
def test_what_is_no_flag_is_refused(column):
    with pytest.raises(TypeError, match=r"adata.var\['x'\] must hold booleans, found .*astype\(bool\)"):
        flags_of(pd.Series(column), "adata.var['x']")


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_values_are_refused(missing):
    column = pd.Series([True, missing, False], dtype=object)
    with pytest.raises(ValueError, match=r"1 of 3 rows have no value in var\['x'\]: fill them"):
        flags_of(column, "var['x']")
    with pytest.raises(ValueError, match=r"1 of 3 spots have no value in obs\['x'\]: give every spot its value"):
        names_of(column, "obs['x']")


def test_what_is_no_number_is_nan():
    found = numbers_of(pd.Series(["1e2", "-3.5", "x", None, np.nan, "nan", 7], dtype=object))
    np.testing.assert_array_equal(found, [100, -3.5, np.nan, np.nan, np.nan, np.nan, 7])


@pytest.fixture(scope="module")
def plain():
    adata = sp.datasets.synthetic(n_libraries=3, n_genes=12, shape=(4, 5), depth=200, image=False)
    adata.obs["library_id"] = pd.Categorical(adata.obs["library_id"]).codes.astype(int)
    adata.obs["donor"] = adata.obs["library_id"] // 2
    adata.var["spared_selected"] = np.arange(12) % 4 > 0
    sp.pp.normalize_tpm(adata, gene_lengths=None)
    return adata


def results(adata):
    key = {"library_key": "library_id", "copy": True}
    quick = {"n_jobs": 1, "show_progress_bar": False}
    completed = sp.tl.complete(adata, method="factor", **quick, **key)
    paper = sp.tl.complete(
        adata,
        method="paper",
        method_params={"n_steps": 3, "n_layers": 1, "train_batch_size": 8},
        device="cpu",
        **quick,
        **key,
    )
    return {
        "graph": dense(sp.pp.lattice_neighbors(adata, **key).obsp["spatial_connectivities"]),
        "moran": sp.pp.moran(adata, **key).var["moran_i"].to_numpy(),
        "median": dense(sp.tl.median_complete(adata, **key).layers["median"]),
        "factor": dense(completed.layers["factor"]),
        "denoised": dense(completed.layers["factor_denoised"]),
        "paper": dense(paper.layers["paper"]),
        "combat": dense(sp.pp.combat(adata, batch_key="donor", **key).layers["log2tpm_combat"]),
        "split": sp.pp.split_libraries(adata, subject_key="donor", fractions=(0.5, 0, 0.5), **key).obs["split"].to_numpy(),
    }  # fmt: skip


@pytest.fixture(scope="module")
def of_integers(plain):
    return results(plain)


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if kind != "int64"])
def test_every_function_gives_the_same_whatever_holds_the_columns(plain, of_integers, kind):
    changed = plain.copy()
    for name in ("library_id", "donor", "array_row", "array_col"):
        changed.obs[name] = WHOLE[kind](plain.obs[name].tolist()).to_numpy()
        if kind in ("Int64", "Float64", "string"):
            changed.obs[name] = WHOLE[kind](plain.obs[name].tolist()).array
    flags = plain.var["spared_selected"].astype(int).tolist()
    changed.var["spared_selected"] = WHOLE[kind](flags).array
    for name, value in results(changed).items():
        np.testing.assert_array_equal(value, of_integers[name], err_msg=name)
