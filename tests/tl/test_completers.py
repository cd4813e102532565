"""tl.completers."""

from __future__ import annotations

import subprocess
import sys

import pytest

import spared_sc as sp
from spared_sc._models.completion.registry import COMPLETERS


def test_every_method_has_a_row():
    table = sp.tl.completers()
    assert list(table.index) == list(COMPLETERS)
    assert list(table.columns) == ["summary", "needs", "paper"]
    assert (table["summary"].str.len() > 10).all()
    assert table["needs"].value_counts().to_dict() == {"nothing": 14, "counts": 4, "embedding": 1}
    assert table.loc["paper", "paper"] == "Ruiz et al. (2025), SpaCKLE"


@pytest.mark.parametrize("method", COMPLETERS)
def test_every_method_has_a_table_of_its_parameters(method):
    table = sp.tl.completers(method)
    assert list(table.columns) == ["default", "range", "tuned over", "meaning"]
    assert list(table.index) == list(COMPLETERS.load(method)().params())


def test_ranges_and_grids_are_those_of_the_method():
    table = sp.tl.completers("soft_impute_kernel")
    assert table["default"].to_dict() == {
        "shrinkage": "None", "rank": "24", "bandwidth": "None", "kernel_shrinkage": "None",
    }  # fmt: skip
    assert table.loc["rank", "range"] == "whole number from 1"
    assert table.loc["bandwidth", "tuned over"] == "0.7, 1.0, 1.5, 2.0, 2.7"
    assert sp.tl.completers("paper").loc["learning_rate", "range"] == "'search' or number from 1e-08 to 1"
    assert sp.tl.completers("gene_mean").empty


def test_an_unknown_method_is_named():
    with pytest.raises(KeyError, match="no completion method 'kernl': choose among .*'kernel'"):
        sp.tl.completers("kernl")


def test_neither_the_table_nor_a_simple_method_loads_torch():
    code = """
import sys
import spared_sc as sp

sp.tl.completers()
sp.tl.completers("ridge")
adata = sp.datasets.synthetic(n_libraries=2, n_genes=20, shape=(6, 6), depth=200, image=False)
sp.pp.normalize_tpm(adata)
sp.tl.complete(adata, method="ridge", library_key="library_id")
sp.tl.median_complete(adata, library_key="library_id")
assert {"ridge", "median"} <= set(adata.layers)
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
