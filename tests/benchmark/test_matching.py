"""Spots and genes of somebody else's predictions, under many naming schemes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from spared_sc._core.validate import get_libraries
from spared_sc.benchmark._matching import match

GENES = [f"GENE{i}" for i in range(8)]
BASES = "ACGT"


def barcode(i: int) -> str:
    return "".join(BASES[(i >> (2 * k)) & 3] for k in range(16)) + "-1"


@pytest.fixture
def truth() -> AnnData:
    """Two sections that share their barcodes, as slides do; a spot is known by a number that its values hold."""
    n = 12
    obs = pd.DataFrame({
        "library_id": ["sec_A"] * n + ["sec_B"] * n,
        "array_row": [i // 4 for i in range(n)] * 2,
        "array_col": [i % 4 for i in range(n)] * 2,
    })  # fmt: skip
    obs.index = [f"{barcode(i)}_{name}" for name in ("sec_A", "sec_B") for i in range(n)]
    values = np.arange(2 * n)[:, None] + np.arange(len(GENES)) / 10
    return AnnData(values.astype(np.float32), obs=obs, var=pd.DataFrame(index=GENES))


def found(predicted, truth, columns=None, ids=None):
    columns = pd.DataFrame(index=predicted.index) if columns is None else columns
    return match(predicted, columns, ids, truth, get_libraries(truth, "library_id"))


def table(truth: AnnData, names: list[str] | None = None) -> pd.DataFrame:
    """Predictions that equal what was measured, so that every row tells where it belongs."""
    made = truth.to_df().copy()
    return made if names is None else made.set_axis(names, axis=0)


def assert_right(result, truth, rows=slice(None)):
    expected = truth.to_df()[result.values.columns].to_numpy()[rows]
    np.testing.assert_allclose(result.values.to_numpy()[rows], expected)


def named(truth: AnnData, scheme: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predictions with spots named in a scheme, and what is known of the spots."""
    library, codes = truth.obs["library_id"].tolist(), [name.partition("_")[0] for name in truth.obs_names]
    names = {
        "same": list(truth.obs_names),
        "prefix": [f"{one}_{code}" for one, code in zip(library, codes, strict=True)],
        "prefix with colon": [f"{one}:{code}" for one, code in zip(library, codes, strict=True)],
        "suffix in capitals": [f"{code}-{one.upper()}" for one, code in zip(library, codes, strict=True)],
        "no gem group": [f"{one}#{code.removesuffix('-1')}" for one, code in zip(library, codes, strict=True)],
        "library in a column": codes,
        "places": [
            f"{one}_{row}x{col}"
            for one, row, col in zip(library, truth.obs["array_row"], truth.obs["array_col"], strict=True)
        ],
        "places in columns": [f"tile_{i}" for i in range(truth.n_obs)],
    }[scheme]
    predicted = table(truth, names)
    columns = pd.DataFrame(index=predicted.index)
    if "column" in scheme:
        columns["slide"] = [one.replace("_", "-") for one in library]
    if scheme == "places in columns":
        columns[["array_row", "array_col"]] = truth.obs[["array_row", "array_col"]].to_numpy()
    return predicted, columns


SCHEMES = [
    "same",
    "prefix",
    "prefix with colon",
    "suffix in capitals",
    "no gem group",
    "library in a column",
    "places",
    "places in columns",
]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_spots_are_found_in_any_order_under_any_name(truth, scheme):
    predicted, columns = named(truth, scheme)
    order = np.random.default_rng(0).permutation(truth.n_obs)
    result = found(predicted.iloc[order], truth, columns.iloc[order])
    assert result.rows.all()
    assert_right(result, truth)
    assert "24 of 24 predicted spots" in result.words


def test_a_spot_without_a_library_is_not_given_one(truth):
    predicted, columns = named(truth, "library in a column")
    columns.iloc[:4, 0] = np.nan
    result = found(predicted, truth, columns)
    assert result.rows.tolist() == [False] * 4 + [True] * 20


def test_a_shared_barcode_of_another_library_is_no_match(truth):
    truth.obs_names = [name.partition("_")[0] for name in truth.obs_names[:12]] + list(truth.obs_names[12:])
    predicted, columns = named(truth, "library in a column")
    result = found(predicted.iloc[12:], truth, columns.iloc[12:])  # the bare barcodes of the second section
    assert result.rows.tolist() == [False] * 12 + [True] * 12
    assert_right(result, truth, slice(12, None))


def test_subset_of_genes_and_spots_and_further_ones(truth):
    predicted = table(truth).iloc[:20, [5, 2, 7]].assign(OTHER=1.0)
    extra = pd.DataFrame(1.0, index=[f"{barcode(100 + i)}_sec_A" for i in range(5)], columns=predicted.columns)
    result = found(pd.concat([extra, predicted]), truth)
    assert list(result.values.columns) == ["GENE2", "GENE5", "GENE7"]
    assert result.rows.tolist() == [True] * 20 + [False] * 4
    assert_right(result, truth, slice(20))
    assert "3 of 4 predicted genes and 20 of 25 predicted spots" in result.words


def test_a_table_of_genes_by_spots_is_turned_with_a_warning(truth):
    with pytest.warns(UserWarning, match="8 rows of the predictions are named like genes"):
        result = found(table(truth).T, truth)
    assert_right(result, truth)


def test_genes_are_found_by_id(truth):
    truth.var["gene_ids"] = [f"ENSG{i:011d}" for i in range(8)]
    by_id = table(truth).set_axis([f"ENSG{i:011d}.7" for i in range(8)], axis=1)
    assert_right(found(by_id, truth), truth)
    renamed = table(truth).set_axis([f"OLD{i}" for i in range(8)], axis=1)
    ids = pd.Series(truth.var["gene_ids"].to_numpy(), index=renamed.columns)
    assert_right(found(renamed, truth, ids=ids), truth)


def test_spots_without_any_value_are_left_out_and_single_ones_are_an_error(truth):
    predicted = table(truth)
    predicted.iloc[:3] = np.nan
    result = found(predicted, truth)
    assert result.rows.tolist() == [False] * 3 + [True] * 21
    assert "3 predicted spots without a value" in result.words
    predicted.iloc[4, 2] = np.inf
    with pytest.raises(ValueError, match=r"1 predicted entries of 192 are missing or infinite.*'GENE2'"):
        found(predicted, truth)
    with pytest.raises(ValueError, match="192 predicted entries"):
        found(predicted * np.nan, truth)


def test_repeated_names_are_refused(truth):
    twice = pd.concat([table(truth), table(truth).iloc[:2]])
    with pytest.raises(ValueError, match=r"4 predicted spots cannot be told apart by names.*column of `obs`"):
        found(twice, truth)
    genes = table(truth).set_axis([*GENES[:-1], "GENE0"], axis=1)
    with pytest.raises(ValueError, match=r"1 names of genes are repeated, such as 'GENE0'"):
        found(genes, truth)


def test_what_does_not_match_is_refused_with_numbers(truth):
    strange = table(truth, [f"cell_{i}" for i in range(24)])
    with pytest.raises(
        ValueError, match=r"0 of 24 predicted spots.*24 measured.*0 by library and barcode.*'cell_0'.*'sec_A'"
    ):
        found(strange, truth)
    few = table(truth, [*truth.obs_names[:11], *(f"cell_{i}" for i in range(13))])
    with pytest.raises(ValueError, match=r"11 of 24 predicted spots"):
        found(few, truth)
    mouse = table(truth).set_axis([f"Gene{i}" for i in range(8)], axis=1)
    with pytest.raises(ValueError, match=r"0 of 8 predicted genes are among the 8 measured.*'Gene0'.*'GENE0'"):
        found(mouse, truth)
